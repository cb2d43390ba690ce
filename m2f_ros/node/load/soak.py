"""The node under good and hostile cameras for a long while, as a process, over DDS. See `soak`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from m2f_ros.node.load.benchmark import version
from m2f_ros.node.load.hostile import CAMERAS, NODE, topic
from m2f_ros.node.messages import encode, encode_compressed
from m2f_ros.node.recorder import stamp_of
from m2f_ros.processes.children import Child, ProcessError, environment, executable, ros_arguments
from m2f_ros.processes.use import process_use, shared_memory_mb
from m2f_ros.street import Street

GOOD = ("raw", "jpeg")  # cameras
ALONE = 30.0  # seconds without hostile cameras
NEW_HOSTILE = 60.0  # seconds until another process takes their part
SAMPLES = 400  # of a run, about
START_TIMEOUT = 300.0  # seconds until the first labels
END_TIMEOUT = 30.0  # seconds from SIGTERM to SIGKILL
PICTURES = 10  # different good images


@dataclass(frozen=True)
class Options:
    """minutes: with hostile cameras. image: (height, width) of the good ones, rate: theirs, Hz, each.

    kinds: of hostile.KINDS. flood: messages a second, of the small ones. seed: of the first hostile process; the later
    ones count on.
    """

    minutes: float
    model: str
    image: tuple[int, int]
    rate: float
    kinds: Sequence[str]
    flood: float
    seed: int
    log: Path


def soak(options: Options, say: Callable[[str], None]) -> dict[str, Any]:
    """Run it: the fields of a m2f_ros.benchmark.soak.Soak. say: takes a line on how far it is.

    The node's log is written to options.log. Raises ProcessError where the node gives no label to begin with, or the
    hostile process ends by itself.
    """
    os.environ.update(environment())
    options.log.parent.mkdir(parents=True, exist_ok=True)
    remaps = {f"~/{camera}/image": topic(camera) for camera in (*GOOD, *CAMERAS)}
    # Nothing goes through the network larger than the good images: the machine must keep up with all of them.
    height, width = options.image
    parameters = {"model": options.model, "cameras": [*GOOD, *CAMERAS], "max_pixels": height * width}
    command = [str(executable("segmentation_node")), *ros_arguments(parameters, remaps)]
    node = Child("the node", command, os.environ, options.log, SimpleQueue()).process
    try:
        run = _Run(options, node, say)
        try:
            run.play()
        finally:
            run.close()
        ended = None if node.poll() is None else run.now()
        node.send_signal(signal.SIGTERM)
        try:
            status = node.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            status = -signal.SIGKILL
    finally:
        node.kill()
        node.wait()
    return {
        "versions": {"rclpy": version(), "RMW": rclpy.get_rmw_implementation_identifier()},
        "minutes": options.minutes,
        "model": options.model,
        "image": options.image,
        "rate_hz": options.rate,
        "hostile": list(options.kinds),
        "seed": options.seed,
        "sent": dict(run.sent),
        "cameras": run.cameras,
        "ended_s": ended,
        "status": status,
        "samples": run.samples,
    }


class _Run:
    """The good cameras, who listens to them, and the samples."""

    def __init__(self, options: Options, node: subprocess.Popen, say: Callable[[str], None]) -> None:
        self._options, self._process, self._say = options, node, say
        self.samples: list[dict[str, Any]] = []
        self.sent: Counter[str] = Counter()
        self.cameras: dict[str, dict[str, str]] = {}
        self._start = float("inf")  # of the hostile cameras; time.monotonic()
        self._hostile: Child | None = None
        self._events: SimpleQueue = SimpleQueue()
        self._folder = tempfile.TemporaryDirectory(prefix="m2f_soak_")
        self._counts: dict[str, int] = {}  # of the present hostile process
        self._ages: list[list[float]] = [[] for _ in GOOD]
        self._last = self._cpu = 0.0

        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("soak", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        height, width = options.image
        street = Street(0, width, height)
        images = [street.frame(10 * number).image for number in range(PICTURES)]  # a second apart
        header = Header(frame_id="camera")
        raw = [encode(image, "rgb8", header) for image in images]
        jpeg = [encode_compressed(image[..., ::-1], "bgr8", header, "jpeg") for image in images]
        self._camera(raw, Image, topic("raw"))
        self._camera(jpeg, CompressedImage, topic("jpeg", compressed=True))
        for number, name in enumerate(GOOD):
            self._listen(number, name)
        for name in CAMERAS:  # or nothing of theirs is looked at
            self._node.create_subscription(Image, f"{NODE}/{name}/label", _ignore, QoSProfile(depth=1), raw=True)
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._note, QoSProfile(depth=10))

    def play(self) -> None:
        """All of it, or up to the end of the node."""
        options = self._options
        deadline = time.monotonic() + START_TIMEOUT
        while not all(self._ages):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ProcessError(f"no labels of the good cameras to begin with: see {options.log}")
            self._executor.spin_once(timeout_sec=0.1)
        self._say(f"the good cameras are alone for {ALONE:.0f} s")
        self._start = time.monotonic() + ALONE
        self._sample_until(self._start, ALONE / 6)
        self._say(f"hostile: {', '.join(options.kinds) or 'none'}; for {options.minutes:g} minutes")
        self._sample_until(self._start + 60 * options.minutes, max(2.0, 60 * options.minutes / SAMPLES))

    def now(self) -> float:
        """Seconds since the hostile cameras began."""
        return time.monotonic() - self._start

    def close(self) -> None:
        self._end_hostile()
        self._folder.cleanup()
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.shutdown()

    def _camera(self, messages: Sequence[Image | CompressedImage], kind: type, name: str) -> None:
        publisher = self._node.create_publisher(kind, name, QoSProfile(depth=1))
        count = 0

        def publish() -> None:
            nonlocal count
            message = messages[count % len(messages)]
            message.header.stamp = self._node.get_clock().now().to_msg()
            publisher.publish(message)
            count += 1

        self._node.create_timer(1 / self._options.rate, publish)

    def _listen(self, number: int, name: str) -> None:
        def label(message: bytes) -> None:
            self._ages[number].append((self._node.get_clock().now().nanoseconds - stamp_of(message)) / 1e6)

        self._node.create_subscription(Image, f"{NODE}/{name}/label", label, QoSProfile(depth=10), raw=True)

    def _note(self, message: DiagnosticArray) -> None:
        for status in message.status:
            node, _, name = status.name.partition(": ")
            if node == NODE[1:] and name in (*GOOD, *CAMERAS):
                values = {pair.key: pair.value for pair in status.values}
                kept = {key: value for key, value in values.items() if "(" not in key and key != "last error"}
                self.cameras[name] = {"state": status.message[:80], **kept}

    def _sample_until(self, end: float, period: float) -> None:
        begin, number = time.monotonic(), 0
        self._sample(keep=False)  # what was counted before is not of this period
        while self._process.poll() is None and (now := time.monotonic()) < end:
            if now >= self._start and self._options.kinds:
                self._keep_hostile()
            if now >= begin + (number + 1) * period:
                number += 1
                self._sample()
            self._executor.spin_once(timeout_sec=0.1)

    def _sample(self, keep: bool = True) -> None:
        now, use = time.monotonic(), process_use(self._process.pid)
        ages, self._ages = self._ages, [[] for _ in GOOD]
        if use is None:
            return
        seconds, cpu = now - self._last, use.cpu_s - self._cpu
        self._last, self._cpu = now, use.cpu_s
        if not keep:
            return
        self.samples.append(
            dict(
                time_s=round(now - self._start, 1),
                resident_mb=round(use.resident_mb, 2),
                anonymous_mb=round(use.anonymous_mb, 2),
                shared_mb=round(use.shared_mb, 2),
                files=use.files,
                threads=use.threads,
                cores=round(cpu / seconds, 3),
                shm_mb=round(shared_memory_mb(), 1),
                log_lines=self._options.log.read_bytes().count(b"\n"),
                rates_hz=[round(len(of) / seconds, 2) for of in ages],
                p50_ms=[round(float(np.percentile(of, 50)), 1) if of else -1.0 for of in ages],
                p99_ms=[round(float(np.percentile(of, 99)), 1) if of else -1.0 for of in ages],
            )
        )
        if len(self.samples) % 20 == 0:
            last = self.samples[-1]
            rates = " and ".join(f"{rate:.1f}" for rate in last["rates_hz"])
            self._say(
                f"{last['time_s'] / 60:.1f} min: {last['resident_mb']:.0f} MB, {last['files']} files, "
                f"{last['threads']} threads, {last['log_lines']} lines of log, {rates} labels/s"
            )

    # The hostile process

    def _keep_hostile(self) -> None:
        """Another one each NEW_HOSTILE seconds: its publishers and listeners go, and come again."""
        self._count_hostile()
        generation = int(self.now() / NEW_HOSTILE)
        if self._hostile is None or self._hostile.name != str(generation):
            self._end_hostile()
            parameters = {
                "seed": self._options.seed + generation,
                "kinds": list(self._options.kinds),
                "flood": float(self._options.flood),
            }
            command = [sys.executable, "-m", "m2f_ros.node.load.hostile", *ros_arguments(parameters, {})]
            self._hostile = Child(
                str(generation), command, os.environ, Path(self._folder.name, "hostile.log"), self._events
            )

    def _count_hostile(self) -> None:
        while not self._events.empty():
            event = self._events.get()[1]
            if event is None:
                complaint = self._hostile.complaint() if self._hostile else ""
                self._hostile = None
                raise ProcessError(f"the hostile process ended by itself: {complaint}")
            self._counts = event["counts"]

    def _end_hostile(self) -> None:
        if self._hostile is None:
            return
        self._hostile.interrupt()
        self._hostile.wait()
        while (event := self._events.get()[1]) is not None:
            self._counts = event["counts"]
        self.sent.update(self._counts)
        self._counts, self._hostile = {}, None


def _ignore(_message: bytes) -> None:
    pass
