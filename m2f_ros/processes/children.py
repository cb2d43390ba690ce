"""Starts the package's executables as child processes, takes their events and stops them."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue

from m2f_ros import signals
from m2f_ros.errors import M2fError
from m2f_ros.processes import fastdds

_log = logging.getLogger("m2f_ros.processes")
# Exit code of camera_player where it played all that can be read, and frames are missing.
PARTIAL = 3
STOP_TIMEOUT = 10.0  # seconds from SIGTERM to SIGKILL


class ProcessError(M2fError, RuntimeError):
    """A child process that ended by itself, or that does not respond."""


def executable(name: str) -> Path:
    """An executable of the built package, from the ROS environment.

    Raises ProcessError where there is none.
    """
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        path = Path(prefix) / "lib" / "m2f_ros" / name
        if prefix and path.is_file():
            return path
    raise ProcessError(
        f"the ROS executable {name} is not in the environment: run `make build` and `. scripts/env.sh`, "
        "or source the setup file of the workspace that has m2f_ros"
    )


def environment() -> dict[str, str]:
    """The environment for processes that talk to each other on this machine only; what is set already stays.

    A Fast DDS profile for large images, without which they do not arrive; discovery on this machine; and a
    domain by the number of this process, so that others here do not hear it.
    """
    env = dict(os.environ)
    share = executable("segmentation_node").parents[2] / "share" / "m2f_ros"
    fastdds.remove_orphans(env)
    profile = fastdds.choose(share / "config", env, Path.cwd())
    env |= profile.variables
    if not profile.usual:
        _log.warning(profile.line)
    if env.get("ROS_DISTRO") == "humble":
        env.setdefault("ROS_LOCALHOST_ONLY", "1")
    else:
        env.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    # Above 101 the ports of a domain overlap those that Linux hands out. (docs.ros.org, About Domain ID)
    env.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 101))
    return env


def ros_arguments(parameters: Mapping[str, object], remaps: Mapping[str, str]) -> list[str]:
    """Arguments that set a node's parameters and names."""
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
    """A process whose lines of JSON on standard output go to a queue, and all else it says to a log file.

    The queue gets (name, event), an event being a dict, and (name, None) when the process has ended.
    """

    def __init__(
        self, name: str, command: Sequence[str], env: Mapping[str, str], log: Path, events: SimpleQueue
    ) -> None:
        self.name = name
        self.log = log
        self._events = events
        with log.open("wb") as stderr:
            # A session of its own: Ctrl-C is for the parent, which stops its children in order.
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
        """Write a line to the child's standard input; nothing happens when it has ended."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass

    def interrupt(self) -> None:
        """Ask the child to end."""
        # Not SIGINT, which it ignores where this process does. Does nothing once it has ended.
        self.process.terminate()

    def wait(self) -> int:
        """The exit code of a child that was asked to end; after STOP_TIMEOUT it is killed."""
        try:
            return self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def complaint(self) -> str:
        """The last line of the child's log, without what ROS puts in front."""
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
