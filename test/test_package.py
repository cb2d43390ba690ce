"""The files that describe the package agree with each other."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import m2f_ros

ROOT = Path(__file__).resolve().parent.parent


def test_versions_agree() -> None:
    manifest = ElementTree.parse(ROOT / "package.xml").getroot()
    project = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert manifest.findtext("version") == project.group(1) == m2f_ros.__version__


def test_torchvision_is_no_dependency() -> None:
    quoted = re.findall(r'"([^"]+)"', (ROOT / "pyproject.toml").read_text())
    assert any(requirement.startswith("torch>=") for requirement in quoted)
    assert not any(requirement.startswith("torchvision") for requirement in quoted)


def test_every_message_is_generated() -> None:
    listed = re.findall(r"^\s*(msg/\w+\.msg)$", (ROOT / "CMakeLists.txt").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("msg/*.msg"))


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
