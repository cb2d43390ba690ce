"""Fast DDS' shared memory: a profile for large images, segments of dead processes, and a check for space.

A profile is chosen by the space there is, and only where none is set.

Only the standard library in here: scripts/env.sh runs the file, `fastdds.py CONFIG_FOLDER`, to get shell commands.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import re
import shlex
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
MIB = 1 << 20
# Each process takes a segment at once: (free bytes, for four or two of them; bytes of one; file).
PROFILES = ((4 * 68 * MIB, 64 * MIB, "fastdds.xml"), (2 * 12 * MIB, 12 * MIB, "fastdds_small.xml"))
NAMES = {2: "FASTRTPS_DEFAULT_PROFILES_FILE", 3: "FASTDDS_DEFAULT_PROFILES_FILE"}
FOUND = {2: "DEFAULT_FASTRTPS_PROFILES.xml", 3: "DEFAULT_FASTDDS_PROFILES.xml"}
TRANSPORTS = "FASTDDS_BUILTIN_TRANSPORTS"
DEFAULT_SEGMENT = MIB // 2  # Fast DDS' own, without a profile
BESIDE = 4 * MIB  # what Fast DDS takes beside a segment: its administration, ports
# The lock of a segment, of Fast DDS 3 or 2.
_LOCK = re.compile(r"(fast(?:dds|rtps)_[0-9a-f]{16})_el")


@dataclass(frozen=True)
class Profile:
    """The environment for Fast DDS in child processes.

    Attributes:
        variables: to set in their environment; none where the user has chosen.
        line: what was chosen and why, for the user.
        usual: whether the line holds on any machine.
    """

    variables: Mapping[str, str]
    line: str
    usual: bool = False


def choose(config: Path, env: Mapping[str, str], folder: Path, free: int | None = None) -> Profile:
    """The profile for processes that are started with this environment in this working directory.

    config: folder of the package's profiles. free: bytes of shared memory that are free; None asks the system.
    """
    if not is_used(env):
        return Profile({}, f"no Fast DDS profile: RMW_IMPLEMENTATION is {env['RMW_IMPLEMENTATION']}", usual=True)
    version = _version(env)
    # rmw_fastrtps hands the older name on to Fast DDS 3; Fast DDS 2 knows no other.
    for name in [NAMES[3], NAMES[2]] if version == 3 else [NAMES[2]]:
        if path := env.get(name):
            ours = Path(path).name in {file for *_, file in PROFILES}
            gone = "" if Path(folder, path).is_file() else ", where there is no file"
            return Profile({}, f"Fast DDS profile as set: {name}={path}{gone}", usual=ours and not gone)
    if transports := env.get(TRANSPORTS):
        return Profile({}, f"no Fast DDS profile: {TRANSPORTS} is set to {transports}")
    found = folder / FOUND[version]
    if found.is_file() and env.get("SKIP_DEFAULT_XML_FILE") != "1":
        return Profile({}, f"Fast DDS profile as found: {found}")
    unread = f"; {NAMES[3]} is set, which Fast DDS 2 does not read" if version == 2 and env.get(NAMES[3]) else ""
    if free is None:
        free = _free()
    for needed, segment, file in PROFILES:
        if free >= needed:
            line = f"Fast DDS profile {config / file}: {segment // MIB} MiB of shared memory for each process"
            small = "" if file == PROFILES[0][2] else f", as {SHARED_MEMORY} has {free // MIB} MiB free"
            return Profile({NAMES[version]: str(config / file)}, line + small + unread, usual=not (small or unread))
    return Profile(
        {},
        f"no Fast DDS profile: {SHARED_MEMORY} has {free // MIB} MiB free, so that large images of best-effort "
        f"publishers are lost; give a container more: docker run --shm-size=1g{unread}",
    )


def in_force(env: Mapping[str, str], folder: Path) -> str:
    """In one line, the profile that a process of this environment in this working directory has."""
    found = choose(Path(), env, folder, free=1 << 40)
    return "no Fast DDS profile is set" if found.variables else found.line


def _version(env: Mapping[str, str]) -> int:
    """The version of Fast DDS, 2 or 3: of its library where it is found, else of the distribution."""
    for prefix in env.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        for number, library in ((3, "libfastdds.so"), (2, "libfastrtps.so")):
            if prefix and Path(prefix, "lib", library).exists():
                return number
    return 2 if env.get("ROS_DISTRO") in ("humble", "jazzy") else 3


def _free() -> int:
    try:
        system = os.statvfs(SHARED_MEMORY)
    except OSError:
        return 0
    return system.f_bavail * system.f_frsize


def is_used(env: Mapping[str, str]) -> bool:
    """Return True if ROS talks through Fast DDS, as it does where nothing else is chosen."""
    rmw = env.get("RMW_IMPLEMENTATION", "")
    return not rmw or rmw.startswith("rmw_fastrtps")


def shortage(env: Mapping[str, str], folder: Path) -> str:
    """In one line, why Fast DDS cannot have its shared memory in a process of this environment; empty: it can."""
    if not is_used(env) or "UDP" in env.get(TRANSPORTS, ""):
        return ""
    lost = "so that images go by UDP, by which few of full HD arrive"
    mount = "as docker run --shm-size=1g does"
    if not SHARED_MEMORY.is_dir():
        return f"there is no {SHARED_MEMORY}, {lost}: mount a tmpfs there, {mount}"
    if not os.access(SHARED_MEMORY, os.W_OK | os.X_OK):
        return f"{SHARED_MEMORY} cannot be written, {lost}: let this user write there, or mount a tmpfs, {mount}"
    needed, free = _segment(env, folder) + BESIDE, _free()
    if free >= needed:
        return ""
    return (
        f"{SHARED_MEMORY} has {free // MIB} MiB free and Fast DDS needs {-(-needed // MIB)} MiB for this process, "
        f"{lost}: remove what fills it (ls -lS {SHARED_MEMORY}), or make it larger, {mount}"
    )


def _segment(env: Mapping[str, str], folder: Path) -> int:
    """Bytes of the segments that the profile in force asks for."""
    version = _version(env)
    names = [env[name] for name in ([NAMES[3], NAMES[2]] if version == 3 else [NAMES[2]]) if env.get(name)]
    for name in names or [FOUND[version]]:
        with contextlib.suppress(OSError):
            sizes = re.findall(r"<segment_size>\s*(\d+)\s*<", Path(folder, name).read_text(errors="replace"))
            return max([DEFAULT_SEGMENT, *map(int, sizes)])
    return DEFAULT_SEGMENT


def remove_orphans(env: Mapping[str, str]) -> int:
    """Remove the segments of Fast DDS processes that were killed; how many bytes that freed.

    A segment belongs to the process that holds the lock (flock) on the file of its name and _el. This removes segments
    that nobody has locked, as `fastdds shm clean` does; but none of another user, and none whose lock a process has
    open, as Fast DDS makes that file before it locks it. Processes of other containers that share the memory are seen
    by their locks alone.

    Ports stay. They are small, Fast DDS takes those of dead processes itself, and what others send to a port that was
    removed under them is lost for seconds.
    """
    freed = 0
    try:
        names = os.listdir(SHARED_MEMORY) if is_used(env) else []
    except OSError:
        return 0
    if locks := [found for found in map(_LOCK.fullmatch, sorted(names)) if found]:
        opened = _open_files()
        for lock in locks:
            if f"{SHARED_MEMORY / lock[0]}" not in opened:
                with contextlib.suppress(OSError):
                    freed += _remove_unlocked(SHARED_MEMORY / lock[1], SHARED_MEMORY / lock[0])
    return freed


def _open_files() -> set[str]:
    """Paths of the files that processes have open, as far as this one may see them."""
    found = set()
    for link in glob.iglob("/proc/[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            found.add(os.readlink(link))
    return found


def _remove_unlocked(segment: Path, lock: Path) -> int:
    """Remove a segment and its lock unless somebody holds that."""
    with _locked(lock) as mine:
        if not mine:
            return 0
        size = 0
        # The lock last: a half of this is done by the next process.
        for file in (segment, lock):
            with contextlib.suppress(FileNotFoundError):
                state = os.lstat(file)
                if not _ours(state):
                    return size
                os.unlink(file)
                size += 512 * state.st_blocks
        return size


@contextlib.contextmanager
def _locked(lock: Path) -> Iterator[bool]:
    """Hold a lock in the block. Gives False if another process holds it; a lock without a file is free."""
    try:
        file = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        yield True
        return
    try:
        state = os.fstat(file)
        if not _ours(state) or not state.st_nlink:
            yield False
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(file)


def _ours(state: os.stat_result) -> bool:
    return stat.S_ISREG(state.st_mode) and state.st_uid == os.geteuid()


def main() -> None:
    """Print commands for the shell."""
    remove_orphans(os.environ)
    profile = choose(Path(sys.argv[1]), os.environ, Path.cwd())
    for name, value in profile.variables.items():
        print(f"export {name}={shlex.quote(value)}")
    if not profile.usual:
        print(f"echo {shlex.quote(f'm2f_ros: {profile.line}')} >&2")


if __name__ == "__main__":
    main()
