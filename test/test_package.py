"""The files that describe the package agree with each other."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from importlib import metadata
from pathlib import Path

import pytest

import m2f_ros

ROOT = Path(__file__).resolve().parent.parent


def test_versions_agree() -> None:
    manifest = ElementTree.parse(ROOT / "package.xml").getroot()
    project = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert manifest.findtext("version") == project.group(1) == m2f_ros.__version__


def test_torchvision_is_no_dependency() -> None:
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    # The extra zoo alone has it: it ties the version of torch.
    quoted = [text for line in lines if not line.startswith("zoo = ") for text in re.findall(r'"([^"]+)"', line)]
    assert any(requirement.startswith("torch>=") for requirement in quoted)
    assert not any(requirement.startswith("torchvision") for requirement in quoted)


def test_every_dependency_has_a_rosdep_key_or_is_named_in_the_readme() -> None:
    keys = {element.text for element in ElementTree.parse(ROOT / "package.xml").getroot().iter("exec_depend")}
    renamed = {"opencv-python-headless": "opencv", "pillow": "pil", "pyyaml": "yaml"}
    project = (ROOT / "pyproject.toml").read_text()
    listed = project[project.index("\ndependencies = [") : project.index("[project.optional-dependencies]")]
    names = {
        re.split(r"[<>=]", text)[0].replace("_", "-") for text in re.findall(r'^ {4}"(.+)",$', listed, re.MULTILINE)
    }
    keyed = {name for name in names if {f"python3-{renamed.get(name, name)}{end}" for end in ("", "-pip")} & keys}
    line = re.search(r"come from\s+pip: `([^`]+)`", (ROOT / "README.md").read_text())
    assert len(names) > 10 and names - keyed == set(line[1].split())


def test_every_message_is_generated() -> None:
    listed = re.findall(r"^\s*(msg/\w+\.msg)$", (ROOT / "CMakeLists.txt").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("msg/*.msg"))


def test_a_wheel_has_every_file_that_is_read(tmp_path: Path) -> None:
    """The copy that a wheel is made from."""
    pytest.importorskip(
        "setuptools", minversion="77.0.3", reason="an older setuptools does not know all of the metadata"
    )
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)]
    # Its own place for the egg-info, which it makes on the way.
    subprocess.run([*command[:3], "egg_info", "--egg-base", str(tmp_path), *command[3:]], cwd=ROOT, check=True)
    built = {path.relative_to(tmp_path).as_posix() for path in (tmp_path / "m2f_ros").rglob("*") if path.is_file()}
    kept = {path.relative_to(ROOT).as_posix() for path in (ROOT / "m2f_ros").rglob("*") if path.is_file()}
    definitions = {f"m2f_ros/definitions/{path.name}" for path in ROOT.glob("msg/*.msg")}
    assert len(definitions) == 5
    assert built == {name for name in kept if not name.endswith(".pyc")} | definitions


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.timeout(1800)
def test_what_pip_installs() -> None:
    """Also `make wheel-test`; takes two minutes, and more where pip has not cached PyTorch."""
    version = metadata.version("torch").partition("+")[0]
    python = getattr(sys, "_base_executable", sys.executable)
    done = subprocess.run([python, "scripts/wheel_test.py", f"torch=={version}"], cwd=ROOT, text=True, stderr=-1)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "message, fields",
    [
        ("ClassInfo", {"id": "uint16", "name": "string", "color": "uint8[3]", "thing": "boolean"}),
        (
            "Legend",
            {
                "model": "string",
                "taxonomy": "string",
                "unlabelled": "uint16",
                "classes": "sequence<m2f_ros/ClassInfo>",
            },
        ),
        (
            "Segment",
            {
                "id": "uint16",
                "class_id": "uint16",
                "score": "float",
                "area": "uint32",
                "x": "uint32",
                "y": "uint32",
                "width": "uint32",
                "height": "uint32",
            },
        ),
        ("Segments", {"header": "std_msgs/Header", "segments": "sequence<m2f_ros/Segment>"}),
        (
            "Stats",
            {
                "header": "std_msgs/Header",
                "number": "uint64",
                "received": "uint64",
                "segmented": "uint64",
                "dropped": "uint64",
                "bad": "uint64",
                "drop_reasons": "sequence<string>",
                "drops": "sequence<uint64>",
                "age_ms": "float",
                "wait_ms": "float",
                "stages": "sequence<string>",
                "stage_ms": "sequence<float>",
                "class_shares": "sequence<float>",
            },
        ),
    ],
)
def test_message_fields(message: str, fields: dict[str, str]) -> None:
    messages = pytest.importorskip("m2f_ros.msg", reason="the package was not built by colcon")
    assert getattr(messages, message).get_fields_and_field_types() == fields


def test_fastdds_profile_holds_a_full_hd_image() -> None:
    profile = ElementTree.parse(ROOT / "config" / "fastdds.xml").getroot()
    name = {"dds": "http://www.eprosima.com"}
    largest = int(profile.findtext(".//dds:maxMessageSize", namespaces=name))
    segment = int(profile.findtext(".//dds:segment_size", namespaces=name))
    assert 1920 * 1080 * 3 < largest <= segment
    assert profile.findtext(".//dds:useBuiltinTransports", namespaces=name) == "false"
