"""A node under test as a real process, and a peer that talks to it over real DDS."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

TIMEOUT = 60.0  # seconds until a thing that should happen is taken for lost


@pytest.fixture(scope="session")
def ros_env() -> dict[str, str]:
    """The environment of processes and peer: a domain of this session, on this machine only."""
    pytest.importorskip("rclpy", reason="rclpy is absent")
    pytest.importorskip("m2f_ros.msg", reason="the messages of m2f_ros are not built")
    from m2f_ros.replay.processes import environment

    env = environment()
    os.environ.update(env)
    return env


class Process:
    """An executable of the package, with its log."""

    def __init__(self, name: str, arguments: list[str], env: dict[str, str], log: Path) -> None:
        from m2f_ros.replay.processes import executable

        self.log = log
        with log.open("wb") as stream:
            self.process = subprocess.Popen([str(executable(name)), *arguments], env=env, stdout=stream, stderr=stream)

    def says(self, text: str) -> bool:
        return text in self.log.read_text()

    def end(self, number: int = signal.SIGINT) -> int:
        """Ask the process to end; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT)


@pytest.fixture
def start(ros_env, tmp_path):
    """start(name, *arguments) -> Process; all are gone after the test."""
    started: list[Process] = []

    def start(name: str, *arguments: str) -> Process:
        started.append(Process(name, list(arguments), ros_env, tmp_path / f"{name}_{len(started)}.log"))
        return started[-1]

    yield start
    for process in started:
        process.process.kill()
        process.process.wait()


class Peer:
    """A ROS node inside the test."""

    def __init__(self) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("peer", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def listen(self, kind: type, topic: str, latched: bool = False) -> list:
        """Subscribe; the list grows by what comes."""
        from rclpy.qos import DurabilityPolicy, QoSProfile

        received: list = []
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        self.node.create_subscription(kind, topic, received.append, QoSProfile(depth=50, durability=durability))
        return received

    def until(self, happened, what: str) -> None:
        """Spin until `happened()`; fails with `what` when it does not."""
        deadline = time.monotonic() + TIMEOUT
        while not happened():
            assert time.monotonic() < deadline, f"did not happen: {what}"
            self.executor.spin_once(timeout_sec=0.05)

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.shutdown()


@pytest.fixture
def peer(ros_env):
    peer = Peer()
    yield peer
    peer.close()
