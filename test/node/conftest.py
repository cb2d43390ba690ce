"""A node under test as a real process, and a peer that talks to it over real DDS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from prepared import Prepared

# Seconds until a thing that should happen is taken for lost: on a machine that is busy with more than this.
TIMEOUT = 240.0
END_TIMEOUT = 20.0  # seconds that a process gets to end by itself after the test


@pytest.fixture(scope="session")
def ros_env() -> dict[str, str]:
    """The environment of processes and peer: a domain of this session, on this machine only."""
    pytest.importorskip("rclpy", reason="rclpy is absent")
    pytest.importorskip("m2f_ros.msg", reason="the messages of m2f_ros are not built")
    from m2f_ros import signals
    from m2f_ros.processes.children import environment

    env = environment()
    os.environ.update(env)
    # A node that outlives a killed pytest talks into the tests of the next one with this domain.
    return env | {signals.PARENT: str(os.getpid())}


class Process:
    """An executable of the package, with its log."""

    def __init__(self, name: str, arguments: list[str], env: dict[str, str], log: Path, prepared=None) -> None:
        """prepared: starts the executable with its imports made; None: the executable itself is started."""
        from m2f_ros.processes.children import executable

        self.log = log
        log.touch()  # a test reads it before the process may have opened it
        if prepared:
            self.process = prepared.start(name, arguments, env, str(log))
            return
        with log.open("wb") as stream:
            self.process = subprocess.Popen([str(executable(name)), *arguments], env=env, stdout=stream, stderr=stream)

    def says(self, text: str) -> bool:
        """True if it is in the log. A line of a running node gets there a moment after the event: ask with `until`."""
        return text in self.log.read_text()

    def until(self, happened, seconds: float = TIMEOUT) -> None:
        """Wait, idle, until `happened()`; fails when the process ends before."""
        deadline = time.monotonic() + seconds
        while not happened():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def ends(self) -> int:
        """Wait until the process ends by itself; its exit code."""
        return self.process.wait(TIMEOUT)

    def end(self, number: int = signal.SIGINT) -> int:
        """Ask the process to end; its exit code."""
        self.process.send_signal(number)
        return self.ends()


@pytest.fixture(scope="session")
def prepared():
    """A module whose processes are to make their imports themselves has a fixture of this name that returns None."""
    prepared = Prepared() if sys.platform.startswith("linux") else None
    yield prepared
    if prepared:
        prepared.close()


@pytest.fixture
def start(ros_env, tmp_path, prepared):
    """start(name, *arguments) -> Process; all are gone after the test. imports: whether it makes its imports itself."""
    started: list[Process] = []

    def start(name: str, *arguments: str, imports: bool = False) -> Process:
        log = tmp_path / f"{name}_{len(started)}.log"
        started.append(Process(name, list(arguments), ros_env, log, None if imports else prepared))
        return started[-1]

    yield start
    # Killed at once, each would leave its shared memory behind, 70 MB that stay until the machine is restarted.
    for process in started:
        process.process.terminate()
    for process in started:
        with suppress(subprocess.TimeoutExpired):
            process.process.wait(END_TIMEOUT)
        process.process.kill()
        process.process.wait()
        print(f"{process.log}:\n{process.log.read_text()[-5000:]}")  # pytest shows it where the test failed


class Stream:
    """A camera of the peer, which publishes while the peer spins."""

    def __init__(self, node, kind: type, topic: str, make, rate: float) -> None:
        self._node, self._make = node, make
        self._publisher = node.create_publisher(kind, topic, 10)
        self._timer = node.create_timer(1 / rate, self._publish)
        self.sent = 0
        self._sent_before: int | None = None  # what was sent before there was a subscription

    def _publish(self) -> None:
        self._publisher.publish(self._make(self._node.get_clock().now().nanoseconds))
        self.sent += 1
        if self._sent_before is None and self._publisher.get_subscription_count():
            self._sent_before = self.sent

    @property
    def sent_to_somebody(self) -> int:
        """How many messages were sent since the first subscription was there."""
        return 0 if self._sent_before is None else self.sent - self._sent_before

    def end(self) -> None:
        self._node.destroy_timer(self._timer)
        self._node.destroy_publisher(self._publisher)


class Received(list):
    """The messages of a topic, oldest first. An index waits, while there is nothing, for the first message."""

    def __init__(self, wait) -> None:
        super().__init__()
        self._wait = wait

    def __getitem__(self, index):
        if not self and not isinstance(index, slice):
            self._wait(self)
        return super().__getitem__(index)


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
        self._clients: dict = {}

    def listen(self, kind: type, topic: str, latched: bool = False, depth: int = 50) -> Received:
        """Subscribe; the list grows by what comes, while the peer spins. depth: of messages that wait for that."""
        from rclpy.qos import DurabilityPolicy, QoSProfile

        received = Received(lambda some: self.until(lambda: len(some) > 0, f"something comes on {topic}"))
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        self.node.create_subscription(kind, topic, received.append, QoSProfile(depth=depth, durability=durability))
        return received

    def mute(self, topic: str) -> None:
        """End the subscriptions to a topic."""
        for subscription in list(self.node.subscriptions):
            if subscription.topic_name == topic:
                self.node.destroy_subscription(subscription)

    def stream(self, kind: type, topic: str, make, rate: float = 20.0) -> Stream:
        """A camera: `make(stamp_ns)` gives its next message."""
        return Stream(self.node, kind, topic, make, rate)

    def settled(self, topic: str, what: str) -> None:
        """Spin until the node reads the images of a reliable camera as such.

        It subscribes best effort, and anew once it has seen the camera: images between the two are lost.
        """
        from rclpy.qos import ReliabilityPolicy

        def is_settled() -> bool:
            infos = self.node.get_subscriptions_info_by_topic(topic)
            return [info.qos_profile.reliability for info in infos] == [ReliabilityPolicy.RELIABLE]

        self.until(is_settled, f"the node reads {topic} reliably: {what}")

    def call(self, kind: type, service: str, request, wait: bool = True):
        """The answer of a service; a future of it where that is not waited for."""
        if service not in self._clients:
            self._clients[service] = self.node.create_client(kind, service)
            self.until(self._clients[service].service_is_ready, f"{service} is there")
            self._wait_for_an_answer(service)
        client = self._clients[service]
        self.until(client.service_is_ready, f"{service} is there")
        future = client.call_async(request)
        if not wait:
            return future
        self.until(future.done, f"{service} answers")
        return future.result()

    def forget(self) -> None:
        """Call services by new clients: the node that answered has ended, and another one has its name."""
        for client in self._clients.values():
            self.node.destroy_client(client)
        self._clients.clear()

    def _wait_for_an_answer(self, service: str) -> None:
        """Spin until the node of a service has answered a later client.

        A node that does not know the reader of its answer yet drops it, and the request cannot be repeated: it may have
        been a transition. Clients become known to it in their order.
        """
        from rcl_interfaces.srv import GetParameterTypes

        client = self.node.create_client(GetParameterTypes, f"{service.rpartition('/')[0]}/get_parameter_types")
        futures: list = []

        def is_answered() -> bool:
            # Asked again: this is what may be dropped.
            if client.service_is_ready() and time.monotonic() >= due + len(futures):
                futures.append(client.call_async(GetParameterTypes.Request()))
            return any(future.done() for future in futures)

        due = time.monotonic()
        self.until(is_answered, f"the node of {service} answers")
        self.node.destroy_client(client)

    def set(self, node: str, together: bool = False, **values):
        """Set parameters (dots as two underscores): a result for each, or one of all `together`."""
        from rcl_interfaces.srv import SetParameters, SetParametersAtomically
        from rclpy.parameter import Parameter

        parameters = [
            Parameter(name.replace("__", "."), value=value).to_parameter_msg() for name, value in values.items()
        ]
        if together:
            request = SetParametersAtomically.Request(parameters=parameters)
            return self.call(SetParametersAtomically, f"{node}/set_parameters_atomically", request).result
        return self.call(SetParameters, f"{node}/set_parameters", SetParameters.Request(parameters=parameters)).results

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
def segment(start, small_model):
    """segment(**parameters) -> Process: segmentation_node with a small model on the CPU, on one core."""
    from m2f_ros.processes.children import ros_arguments

    def segment(remaps: dict[str, str] | None = None, **parameters) -> Process:
        # Another backend converts the network for each size of image.
        chosen = {"model": str(small_model), "device": "cpu", "threads": 1, "backend": "eager", **parameters}
        chosen = {name.replace("__", "."): value for name, value in chosen.items()}
        return start("segmentation_node", *ros_arguments(chosen, remaps or {"~/image": "/camera/image"}))

    return segment


@pytest.fixture
def peer(ros_env):
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture(scope="module")
def lasting_peer(ros_env):
    """A peer for all tests of a module."""
    peer = Peer()
    yield peer
    peer.close()
