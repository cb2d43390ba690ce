"""The Fast DDS profile with which large images arrive: by the space for shared memory, and only where none is set.

Only the standard library in here: scripts/env.sh runs the file, `fastdds.py CONFIG_FOLDER`, to get shell commands.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
MIB = 1 << 20
# Each process takes a segment at once: (free bytes, for four or two of them; bytes of one; file).
PROFILES = (
    (4 * 68 * MIB, 64 * MIB, "fastdds.xml"),
    (2 * 12 * MIB, 12 * MIB, "fastdds_small.xml"),
)
NAMES = {2: "FASTRTPS_DEFAULT_PROFILES_FILE", 3: "FASTDDS_DEFAULT_PROFILES_FILE"}
FOUND = {2: "DEFAULT_FASTRTPS_PROFILES.xml", 3: "DEFAULT_FASTDDS_PROFILES.xml"}
TRANSPORTS = "FASTDDS_BUILTIN_TRANSPORTS"


@dataclass(frozen=True)
class Profile:
    """The environment for Fast DDS in child processes.

    Attributes:
        variables: to set in their environment; none where the user has chosen.
        line: what was chosen and why, for the user.
        usual: whether the line says what is so on any machine.
    """

    variables: Mapping[str, str]
    line: str
    usual: bool = False


def choose(config: Path, env: Mapping[str, str], folder: Path, free: int | None = None) -> Profile:
    """The profile for processes that are started with this environment in this working directory.

    config: folder of the package's profiles. free: bytes of shared memory that are free; None asks the system.
    """
    rmw = env.get("RMW_IMPLEMENTATION", "")
    if rmw and not rmw.startswith("rmw_fastrtps"):
        return Profile({}, f"no Fast DDS profile: RMW_IMPLEMENTATION is {rmw}", usual=True)
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


def _version(env: Mapping[str, str]) -> int:
    """2 or 3: of Fast DDS where it is found, else of the distribution."""
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


def main() -> None:
    """Print commands for the shell."""
    profile = choose(Path(sys.argv[1]), os.environ, Path.cwd())
    for name, value in profile.variables.items():
        print(f"export {name}={shlex.quote(value)}")
    if not profile.usual:
        print(f"echo {shlex.quote(f'm2f_ros: {profile.line}')} >&2")


if __name__ == "__main__":
    main()
