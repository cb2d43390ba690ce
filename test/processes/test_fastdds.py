"""Which Fast DDS profile processes get, by what is set and by the free shared memory."""

import fcntl
import os
import re
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from m2f_ros.processes import fastdds
from m2f_ros.processes.fastdds import choose

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


@pytest.mark.process
@pytest.mark.skipif(not (ROOT / ".venv").exists(), reason="this checkout has no .venv")
def test_the_shell_environment_keeps_a_profile_that_is_set():
    env = {name: value for name, value in os.environ.items() if not name.endswith("_DEFAULT_PROFILES_FILE")}
    done = shell(env | {NEW: __file__})
    assert done.stdout == __file__ and done.stderr.count("\n") == 1 and "profile as set" in done.stderr
    done = shell(env)
    assert done.stdout in {str(CONFIG / file) for *_, file in fastdds.PROFILES}
    assert shell(env | {NEW: str(CONFIG / "fastdds.xml")}).stderr == ""


@pytest.mark.process
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


def objects(name: str, *ends: str) -> list[Path]:
    """Files of shared memory that an object of Fast DDS has."""
    files = [Path("/dev/shm", name + end) for end in ("", *ends)]
    for file in files:
        file.write_bytes(b"x")
    return files


@pytest.fixture
def name():
    """A name that no segment has; what is left of it is gone after the test."""
    name = f"fastdds_{secrets.token_hex(8)}"
    yield name
    for file in Path("/dev/shm").glob(f"*{name}*"):
        file.unlink()


@pytest.mark.parametrize("kind", ["fastdds", "fastrtps"])
def test_segments_that_nobody_has_locked_are_removed(name, kind):
    dead, live, begun = (f"{kind}_{secrets.token_hex(8)}" for _ in range(3))
    files = {which: objects(which, "_el") for which in (dead, live, begun)}
    try:
        # The owner of the last is about to lock it.
        with files[live][1].open() as lock, files[begun][1].open():
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert fastdds.remove_orphans({}) >= 4096
            assert [[file.exists() for file in files[which]] for which in (dead, live, begun)] == [
                *([False, False], [True, True], [True, True])
            ]
        assert fastdds.remove_orphans({}) >= 8192
        assert not any(file.exists() for which in files.values() for file in which)
    finally:
        for file in (file for which in files.values() for file in which):
            file.unlink(missing_ok=True)


def test_what_is_not_a_dead_segment_stays(name, monkeypatch):
    other = [
        *objects(f"{name}0", "_el"),  # names of something else
        *objects(f"my_{name}", "_el"),
        *objects(f"{name}.txt", "_el"),
    ]
    alone = objects(name)  # without a lock it is not known whose it is
    assert fastdds.remove_orphans({}) >= 0
    assert all(file.exists() for file in [*other, *alone])
    lock = Path(f"/dev/shm/{name}_el")
    for make in (lambda: lock.symlink_to(__file__), lambda: os.mkfifo(lock), lock.mkdir):
        make()
        fastdds.remove_orphans({})
        assert alone[0].exists() and os.path.lexists(lock)
        lock.rmdir() if lock.is_dir() and not lock.is_symlink() else lock.unlink()
    files = objects(name, "_el")
    fastdds.remove_orphans({"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"})
    assert all(file.exists() for file in files)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)  # they are another user's
    fastdds.remove_orphans({})
    assert all(file.exists() for file in files)


def test_ports_stay():
    files = objects(f"fastdds_port{secrets.randbelow(4000) + 60000}", "_el", "_sl")  # of no domain
    try:
        fastdds.remove_orphans({})
        assert all(file.exists() for file in files)
    finally:
        for file in files:
            file.unlink(missing_ok=True)


def test_shared_memory_that_is_short_or_missing_is_a_line(tmp_path, monkeypatch):
    profile = {NEW: str(CONFIG / "fastdds.xml")}
    monkeypatch.setattr(fastdds, "_free", lambda: 67 * MIB)
    line = fastdds.shortage(KILTED | profile, tmp_path)
    assert line.startswith("/dev/shm has 67 MiB free and Fast DDS needs 68 MiB for this process, so that")
    assert "ls -lS /dev/shm" in line and "--shm-size=1g" in line
    monkeypatch.setattr(fastdds, "_free", lambda: 68 * MIB)
    assert fastdds.shortage(KILTED | profile, tmp_path) == ""
    monkeypatch.setattr(fastdds, "_free", lambda: 4 * MIB)
    # Without a profile, and where the one that is named is not there, Fast DDS takes half a MiB.
    for env in (KILTED, KILTED | {NEW: "/no/such"}, JAZZY | {OLD: "/no/such"}):
        assert "needs 5 MiB" in fastdds.shortage(env, tmp_path)
    (tmp_path / "DEFAULT_FASTDDS_PROFILES.xml").write_text("<segment_size> 10485760 </segment_size>")
    assert "needs 14 MiB" in fastdds.shortage(KILTED, tmp_path)
    for env in ({"RMW_IMPLEMENTATION": "rmw_zenoh_cpp"}, KILTED | {"FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"}):
        assert fastdds.shortage(env, tmp_path) == ""
    monkeypatch.setattr(fastdds, "SHARED_MEMORY", tmp_path / "none")
    assert fastdds.shortage(KILTED, tmp_path).startswith(f"there is no {tmp_path / 'none'}, so that images go by UDP")
    assert fastdds.remove_orphans(KILTED) == 0
    monkeypatch.setattr(fastdds, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert fastdds.shortage(KILTED, tmp_path).startswith(f"{tmp_path} cannot be written, so that")
