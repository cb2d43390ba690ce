"""Which Fast DDS profile processes get, by what is set and by the free shared memory."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from m2f_ros.replay import fastdds
from m2f_ros.replay.fastdds import choose

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "config"
MIB = 1 << 20
KILTED, JAZZY = {"ROS_DISTRO": "kilted"}, {"ROS_DISTRO": "jazzy"}
NEW, OLD = "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"


@pytest.mark.parametrize(("env", "name"), [({}, NEW), (KILTED, NEW), (JAZZY, OLD), ({"ROS_DISTRO": "humble"}, OLD)])
@pytest.mark.parametrize(
    ("free", "file"), [(272, "fastdds.xml"), (271, "fastdds_small.xml"), (64, "fastdds_small.xml"), (23, None)]
)
def test_by_the_space_there_is(tmp_path, env, name, free, file):
    profile = choose(CONFIG, env, tmp_path, free * MIB)
    assert profile.variables == ({name: str(CONFIG / file)} if file else {})
    assert profile.usual == (free == 272)
    assert free == 272 or f"/dev/shm has {free} MiB free" in profile.line


@pytest.mark.parametrize(
    ("env", "line"),
    [
        (KILTED | {NEW: "/my/own.xml"}, "Fast DDS profile as set: FASTDDS_DEFAULT_PROFILES_FILE=/my/own.xml, where "
         "there is no file"),
        (KILTED | {OLD: __file__}, f"Fast DDS profile as set: FASTRTPS_DEFAULT_PROFILES_FILE={__file__}"),
        (JAZZY | {OLD: __file__}, f"Fast DDS profile as set: FASTRTPS_DEFAULT_PROFILES_FILE={__file__}"),
        (JAZZY | {"FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"}, "no Fast DDS profile: FASTDDS_BUILTIN_TRANSPORTS is set to "
         "UDPv4"),
        ({"RMW_IMPLEMENTATION": "rmw_zenoh_cpp"}, "no Fast DDS profile: RMW_IMPLEMENTATION is rmw_zenoh_cpp"),
    ],
)  # fmt: skip
def test_what_is_set_stays(tmp_path, env, line):
    profile = choose(CONFIG, env, tmp_path, 1 << 40)
    assert (profile.variables, profile.line) == ({}, line)


@pytest.mark.parametrize(
    ("env", "found", "left_alone"),
    [
        (KILTED, "DEFAULT_FASTDDS_PROFILES.xml", True),
        (KILTED, "DEFAULT_FASTRTPS_PROFILES.xml", False),
        (JAZZY, "DEFAULT_FASTRTPS_PROFILES.xml", True),
        (JAZZY, "DEFAULT_FASTDDS_PROFILES.xml", False),
        (KILTED | {"SKIP_DEFAULT_XML_FILE": "1"}, "DEFAULT_FASTDDS_PROFILES.xml", False),
    ],
)
def test_a_profile_in_the_working_directory_stays(tmp_path, env, found, left_alone):
    (tmp_path / found).touch()
    profile = choose(CONFIG, env, tmp_path, 1 << 40)
    assert bool(profile.variables) != left_alone
    assert (str(tmp_path / found) in profile.line) == left_alone


def test_a_variable_that_is_not_read_is_named(tmp_path):
    profile = choose(CONFIG, JAZZY | {NEW: "/my/own.xml"}, tmp_path, 1 << 40)
    assert profile.variables == {OLD: str(CONFIG / "fastdds.xml")} and not profile.usual
    assert profile.line.endswith("; FASTDDS_DEFAULT_PROFILES_FILE is set, which Fast DDS 2 does not read")


@pytest.mark.parametrize(("library", "name"), [("libfastrtps.so", OLD), ("libfastdds.so", NEW)])
def test_the_library_says_which_variable_is_read(tmp_path, library, name):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / library).touch()
    env = {"AMENT_PREFIX_PATH": f"/nowhere{os.pathsep}{tmp_path}", "ROS_DISTRO": "rolling"}
    assert list(choose(CONFIG, env, tmp_path, 1 << 40).variables) == [name]


def test_the_profiles_differ_in_their_sizes_only():
    def content(file: str) -> str:
        return re.sub(r"\s*<!--.*?-->", "", (CONFIG / file).read_text(), flags=re.DOTALL)

    sizes = re.findall(r">(\d{7,})<", content("fastdds.xml")), re.findall(r">(\d{7,})<", content("fastdds_small.xml"))
    assert sizes == (["67108864", "16777216"], ["12582912", "12582912"])
    assert re.sub(r">\d{7,}<", "><", content("fastdds.xml")) == re.sub(r">\d{7,}<", "><", content("fastdds_small.xml"))
    assert [segment for _, segment, _ in fastdds.PROFILES] == [int(large) for large, _ in sizes]


def shell(env: dict[str, str], command: str = "") -> subprocess.CompletedProcess:
    script = f'{command}\n. scripts/env.sh\nprintf %s "${{{NEW}-}}${{{OLD}-}}"'
    return subprocess.run(["bash", "-c", script], cwd=ROOT, env=env, capture_output=True, text=True, check=True)


@pytest.mark.skipif(not (ROOT / ".venv").exists(), reason="this checkout has no .venv")
def test_the_shell_environment_keeps_a_profile_that_is_set():
    env = {name: value for name, value in os.environ.items() if not name.endswith("_DEFAULT_PROFILES_FILE")}
    done = shell(env | {NEW: __file__})
    assert done.stdout == __file__ and done.stderr.count("\n") == 1 and "profile as set" in done.stderr
    done = shell(env)
    assert done.stdout in {str(CONFIG / file) for *_, file in fastdds.PROFILES}
    assert shell(env | {NEW: str(CONFIG / "fastdds.xml")}).stderr == ""


@pytest.mark.skipif(not (ROOT / ".venv").exists(), reason="this checkout has no .venv")
@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0,
    reason="this machine or user cannot make a mount namespace",
)
def test_a_container_with_64_mb_of_shared_memory_gets_the_small_segment():
    env = {name: value for name, value in os.environ.items() if not name.endswith("_DEFAULT_PROFILES_FILE")}
    script = f"mount -t tmpfs -o size=64m tmpfs /dev/shm && exec {sys.executable} -I -S {fastdds.__file__} /config"
    done = subprocess.run(["unshare", "-m", "bash", "-c", script], env=env, capture_output=True, text=True, check=True)
    assert "=/config/fastdds_small.xml\n" in done.stdout and "/dev/shm has 64 MiB free" in done.stdout
