"""Records the serialised messages of a drive and of the segmentation node into a rosbag2 (MCAP).

The executable serves the demo: it subscribes to `image`, `camera_info`, `ground_truth`, `ground_truth/legend`, `label`,
`overlay`, `color`, `stats`, `legend` and /diagnostics, and to the outputs in space of the parameter `outputs` with the
depth images, clouds and transforms that they are made of. A line on standard input gives the stamp of the last image in
nanoseconds; the recorder ends after the outputs of that image, or `patience` seconds after the last message.

Log times are times of reception: a label's log time minus its header stamp is its latency. Progress goes to standard
output as lines of JSON: ready {} after the segmentation node's legend, label {n}.
"""

from __future__ import annotations

import importlib
import struct
import threading
import time
from array import array
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import SubscriptionEventCallbacks
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from m2f_ros.bags.topics import DEPTH, GROUND_TRUTH, LIDAR, POINTS, TF, TF_STATIC
from m2f_ros.bags.writer import BagWriter
from m2f_ros.errors import ConfigError
from m2f_ros.frame.outputs import SPATIAL, SPATIAL_NAMES
from m2f_ros.msg import Legend, Stats
from m2f_ros.node.declare import declare_settings
from m2f_ros.node.legend import LATCHED
from m2f_ros.node.parameters import at_start
from m2f_ros.node.process import Ending, emit, join, read_line, run, say

try:
    from tf2_msgs.msg import TFMessage
except ImportError:  # distributions have it, PyPI has not
    TFMessage = None

QOS = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
LABEL, LEGEND, STATS, TRUTH, TRUTH_LEGEND = "label", "legend", "stats", "truth", "truth_legend"
DIAGNOSTICS = "/diagnostics"  # comes whether or not the drive goes on
PERIOD = 0.1  # seconds between two checks for the end
QUIET = 0.5  # seconds without a message after which no message is in transit
JUMP = 10**9  # nanoseconds; a stamp older than the newest by more belongs to the next round of a looping bag


class Patient(Protocol):
    """Settings with `patience`, the seconds that the last outputs may take."""

    @property
    def patience(self) -> float: ...


S = TypeVar("S", bound=Patient)


@dataclass(frozen=True)
class RecorderSettings:
    """Values of the demo recorder's parameters."""

    bag: str = at_start("bag", "Folder of the rosbag2 to write; it must not exist.")
    outputs: tuple[str, ...] = at_start(("",), "Outputs in space to record.", choices=SPATIAL_NAMES)
    patience: float = at_start(30.0, "Seconds without a message until it gives up.", range=(0.0, 86400.0))


class Topic(NamedTuple):
    """A topic to record: its full name, and the class of its messages."""

    name: str
    kind: type
    qos: QoSProfile = QOS

    @property
    def type(self) -> str:
        """The name of the message type, as "sensor_msgs/msg/Image"."""
        return f"{self.kind.__module__.split('.')[0]}/msg/{self.kind.__name__}"


class Recorder(Node, Generic[S]):
    """Records topics until the drive has ended and the last outputs have come.

    The drive ends when one of its topics has no publisher left, when no message comes for `idle` seconds, or when the
    stamps of the ground truth jump back, as in a looping bag, whose next round is not recorded.

    Attributes:
        settings: values of the parameters.
        stamps: part of the frame -> header stamps of its recorded messages, nanoseconds.
        ended: True if the drive has ended.
        last: stamp of the last frame of the drive; None for the newest ground truth's.
        heard: time of the last message, time.monotonic().
        complete: True if the drive has ended and all its messages are recorded.
        failure: reason why the recording ended early, or "".
    """

    def __init__(self, name: str, kind: type[S], ending: Ending) -> None:
        super().__init__(name)
        self.settings = declare_settings(self, kind)
        self.ending = ending
        self.stamps: dict[str, array[int]] = {}
        self.newest: dict[str, int] = {}  # stamps
        self.ended = self.complete = False
        self.last: int | None = None
        self.failure = ""
        self._bag: BagWriter | None = None
        self._lock = threading.Lock()
        self._jumped = self._ready = self._quiet = False
        self._published: set[str] = set()  # topics of the drive
        self.heard = time.monotonic()
        self._simulated, self._clock_time = bool(self.get_parameter("use_sim_time").value), 0

    def record(
        self,
        bag: Path,
        topics: Mapping[str, Topic],
        awaited: Collection[str],
        drive: Collection[str] = (),
        idle: float = 0.0,
        compression: str = "none",
    ) -> None:
        """Open the bag and subscribe.

        bag: folder to create.
        topics: part of the frame -> topic, in the order of the subscriptions.
        awaited: parts to wait for, `patience` seconds, at the last frame of the drive.
        drive: topics whose last publisher ends the drive when it leaves.
        idle: seconds without a message after which the drive has ended; 0 for never.
        compression: see BagWriter.

        Raises SourceError if the bag cannot be created.
        """
        self._awaited, self._drive, self._idle = awaited, set(drive), idle
        self._bag = BagWriter(bag, compression=compression)
        self.stamps = {part: array("q") for part in topics}
        for part, topic in topics.items():
            self._subscribe(part, topic)
        self.create_timer(PERIOD, self.look_for_the_end, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def close(self, timeout: float) -> bool:
        """Complete the bag."""
        with self._lock:
            bag, self._bag = self._bag, None
        if bag is not None:
            try:
                bag.close()
            except OSError as error:
                bag.abort()  # the messages can be read without the index
                self.failure = self.failure or error.strerror or str(error)
        return True

    @property
    def problems(self) -> list[str]:
        """Reasons why messages are missing in the bag, a line each."""
        failures = self.executor.failures
        lines = [f"the recording ended early: {self.failure}"] if self.failure else []
        return lines + ([f"{failures} messages could not be recorded or read (see the log)"] if failures else [])

    @property
    def is_behind(self) -> bool:
        """True if an output of the last frame has not come."""
        last = self.newest.get(TRUTH, -1) if self.last is None else self.last
        return any(self.newest.get(part, -1) < last for part in self._awaited)

    # The executor's thread

    def received(self, part: str, message: bytes) -> None:
        """Handle a recorded message."""
        if part == LEGEND and not self._ready:
            self._ready = True
            emit("ready")
        elif part == LABEL:
            emit("label", n=len(self.stamps[LABEL]))

    def look_for_the_end(self) -> None:
        """Ask the process to end if the recording is complete. Called every PERIOD seconds."""
        now = time.monotonic()
        self.ended = self.ended or self.is_over() or (self._idle > 0 and now - self.heard > self._idle)
        if self.ended and self.is_quiet(self.settings.patience if self.is_behind else QUIET):
            self.complete = True
            self.ending.ask(0)

    def is_quiet(self, seconds: float) -> bool:
        """True where no message came for so many seconds, and the look before found the same.

        Between two looks the executor takes the messages that wait: a process that stood still has not heard them.
        """
        before, self._quiet = self._quiet, time.monotonic() - self.heard > seconds
        return before and self._quiet

    def is_over(self) -> bool:
        """Return True if the stamps have jumped back, or a topic of the drive has lost its last publisher."""
        clock = self.get_clock().now().nanoseconds if self._simulated else 0
        if clock != self._clock_time and not self.ended:
            self.heard, self._clock_time = time.monotonic(), clock
        published = {topic for topic in self._drive if self.count_publishers(topic)}
        gone = self._published - published
        self._published |= published
        return self._jumped or bool(gone)

    def _subscribe(self, part: str, topic: Topic) -> None:
        def take(message: bytes) -> None:
            self._take(part, topic, message)

        def match(_: object) -> None:
            self._published.add(topic.name)

        events = SubscriptionEventCallbacks()
        if topic.name in self._drive:
            events.matched = match  # a publisher may come and go between two looks; never called on Humble
        options = None if topic.qos is LATCHED else QoSOverridingOptions.with_default_policies()
        self.create_subscription(
            topic.kind, topic.name, take, topic.qos, event_callbacks=events, qos_overriding_options=options, raw=True
        )

    def _take(self, part: str, topic: Topic, message: bytes) -> None:
        received = time.time_ns()
        latched = topic.qos is LATCHED
        stamp = 0 if latched or topic.name == TF else stamp_of(message)  # messages of tf have no header
        with self._lock:
            if self._bag is None or self.failure or (not latched and self._is_of_next_round(part, stamp)):
                return
            try:
                if not self.stamps[part] and latched:
                    self._bag.add_topic(topic.name, topic.type, latched=True)
                self._bag.write(topic.name, topic.type, message, received)
            except OSError as error:
                self.failure = error.strerror or str(error)
                self.ending.ask(0)
                return
            self.stamps[part].append(stamp)
            self.newest[part] = max(stamp, self.newest.get(part, -1))
            if topic.name in self._drive:
                self._published.add(topic.name)
            if part != DIAGNOSTICS:
                self.heard = time.monotonic()
        self.received(part, message)

    def _is_of_next_round(self, part: str, stamp: int) -> bool:
        newest = self.newest.get(part, -1)
        if stamp < newest - JUMP:
            self._jumped = self._jumped or part == TRUTH
            return True
        return self._jumped and stamp <= newest


class DemoRecorder(Recorder[RecorderSettings]):
    """Records the camera and the node until the image that a line on standard input names."""

    def __init__(self, ending: Ending) -> None:
        super().__init__("recorder", RecorderSettings, ending)
        # Discovery keeps the order: a camera that has found the subscription to its image has found all earlier ones,
        # and the node's legend, the last one, shows that the node has found all.
        outputs = self.settings.outputs
        kinds = {
            **({DEPTH: Image, f"{LIDAR}/{POINTS}": PointCloud2} if outputs else {}),
            "camera_info": CameraInfo,
            GROUND_TRUTH: Image,
            "image": Image,
            LABEL: Image,
            "overlay": Image,
            "color": Image,
            STATS: Stats,
            DIAGNOSTICS: DiagnosticArray,
            **{name: _type_of(name) for name in outputs},
        }
        topics = {name: Topic(self.resolve_topic_name(name), kind) for name, kind in kinds.items()}
        truth_legend = self.resolve_topic_name(f"{GROUND_TRUTH}/{LEGEND}")
        topics[TRUTH_LEGEND] = Topic(truth_legend, Legend, LATCHED)
        if outputs and TFMessage is not None:
            topics[TF], topics[TF_STATIC] = Topic(TF, TFMessage), Topic(TF_STATIC, TFMessage, LATCHED)
        topics[LEGEND] = Topic(self.resolve_topic_name(LEGEND), Legend, LATCHED)
        self.record(Path(self.settings.bag), topics, awaited=(LABEL, "overlay", STATS, *outputs))
        self._thread = threading.Thread(target=self._read_stamp, name="stdin", daemon=True)
        self._thread.start()

    def close(self, timeout: float) -> bool:
        """Complete the bag, and print the missing messages."""
        super().close(timeout)
        if self.complete and self.is_behind:
            say(f"warning: nothing for the last image within {self.settings.patience:g} s")
        for line in self.problems:
            say(f"error: {line}")
            self.ending.code = self.ending.code or 1
        return join([self._thread], timeout)

    def _read_stamp(self) -> None:
        if line := read_line(self.ending):
            self.last, self.heard, self.ended = int(line), time.monotonic(), True


def _type_of(name: str) -> Any:
    """Return the class of the messages of an output in space. Raises ConfigError where it is not installed."""
    (output,) = (output for output in SPATIAL if output.name == name)
    package, _, kind = output.message.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), kind)
    except ImportError:
        raise ConfigError(f"outputs {name}: {package} is not installed, which has its messages") from None


def stamp_of(message: bytes) -> int:
    """Return the header stamp, in nanoseconds, of a serialised message that begins with its header.

    The CDR layout is four bytes of encapsulation, the second odd for little-endian, then int32 seconds and uint32
    nanoseconds. (OMG DDSI-RTPS 2.5, 10.2)
    """
    order = "<" if message[1] & 1 else ">"
    seconds, nanoseconds = struct.unpack_from(f"{order}iI", message, 4)
    return seconds * 10**9 + nanoseconds


def main(args: Sequence[str] | None = None) -> int:
    return run(DemoRecorder, args)
