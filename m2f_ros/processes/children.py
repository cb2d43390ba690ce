"""Starts the package's executables as child processes, takes their events and stops them."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import threading
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from queue import SimpleQueue

from m2f_ros import signals
from m2f_ros.errors import M2fError
from m2f_ros.processes import fastdds

_log = logging.getLogger("m2f_ros.processes")
# Exit code of camera_player after playing a source with missing frames.
PARTIAL = 3
STOP_TIMEOUT = 30.0  # seconds from SIGTERM to SIGKILL; a busy machine needs more than ten


class ProcessError(M2fError, RuntimeError):
    """A child process ended by itself, or does not respond."""


def executable(name: str) -> Path:
    """Return the path of an executable of the built package in the ROS environment.

    Raises ProcessError if it does not exist.
    """
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        path = Path(prefix) / "lib" / "m2f_ros" / name
        if prefix and path.is_file():
            return path
    raise ProcessError(
        f"the ROS executable {name} is not in the environment: run `make build` and `. scripts/env.sh`, "
        "or source the setup file of the workspace that has m2f_ros"
    )


def config_folder() -> Path:
    """Return the folder of the built package's configuration files. Raises ProcessError if it is not built."""
    return executable("segmentation_node").parents[2] / "share" / "m2f_ros" / "config"


def environment() -> dict[str, str]:
    """Return the environment for processes that communicate on this machine only; variables that are set stay.

    It has a Fast DDS profile, which large images need, discovery on this machine, and a domain by the id of this
    process, apart from other processes here.
    """
    env = dict(os.environ)
    config = config_folder()
    fastdds.remove_orphans(env)
    profile = fastdds.choose(config, env, Path.cwd())
    env |= profile.variables
    if not profile.usual:
        _log.warning(profile.line)
    keep_apart(env)
    return env


def keep_apart(env: MutableMapping[str, str]) -> None:
    """Set discovery on this machine, and a domain by the id of this process; variables that are set stay."""
    if env.get("ROS_DISTRO") == "humble":
        env.setdefault("ROS_LOCALHOST_ONLY", "1")
    else:
        env.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    # Above 101 the ports of a domain overlap Linux' ephemeral ports. (docs.ros.org, About Domain ID)
    env.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 101))


def ros_arguments(parameters: Mapping[str, object], remaps: Mapping[str, str]) -> list[str]:
    """Return the arguments for a node's parameters and remappings."""
    arguments = ["--ros-args"]
    for name, value in parameters.items():
        # JSON is YAML, and its quotes keep the text "123" or "on" a text.
        text = json.dumps(value, ensure_ascii=False)  # YAML does not know JSON's surrogate pairs
        text = re.sub("[\x7f-\x9f]", lambda sign: f"\\u{ord(sign[0]):04x}", text)
        arguments += ["-p", f"{name}:={text}"]
    for name, target in remaps.items():
        arguments += ["-r", f"{name}:={target}"]
    return arguments


class Child:
    """A child process; lines of JSON on its standard output go to a queue, all other output to a log file.

    The queue gets (name, event), with a dict as event, and (name, None) at the end of the process.
    """

    def __init__(
        self, name: str, command: Sequence[str], env: Mapping[str, str], log: Path, events: SimpleQueue
    ) -> None:
        self.name = name
        self.log = log
        self._events = events
        with log.open("wb") as stderr:
            # In a separate session: Ctrl-C reaches only the parent, which stops its children in order.
            self.process = subprocess.Popen(
                command,
                env={**env, signals.PARENT: str(os.getpid())},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, name=f"{name} events", daemon=True)
        self._reader.start()

    def tell(self, line: str) -> None:
        """Write a line to the child's standard input. Does nothing after its end."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass

    def interrupt(self) -> None:
        """Ask the child to end."""
        # SIGTERM, since the child ignores SIGINT if this process does. Does nothing after its end.
        self.process.terminate()

    def wait(self) -> int:
        """Wait for an interrupted child, kill it after STOP_TIMEOUT, and return its exit code."""
        try:
            return self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def complaint(self) -> str:
        """Return the last line of the child's log, without ROS' prefix."""
        lines = self.log.read_text(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "its log is empty")
        return re.sub(r"^(\[[^\]]*\] ?)+: |^\w+: error: ", "", last.strip())

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.log.open("a") as log:
            for line in self.process.stdout:
                try:
                    event = json.loads(line)
                except ValueError:
                    event = None
                if isinstance(event, dict):
                    self._events.put((self.name, event))
                else:
                    log.write(line)
        self.process.wait()
        self._events.put((self.name, None))
