"""Records the camera and what the node makes of it into a rosbag2 (MCAP), message by message as it came.

Subscribes to `image`, `camera_info`, `ground_truth`, `label`, `overlay`, `stats` and `legend`. Log times are
those of reception: log time minus header stamp of a label is its latency. Progress goes to standard output as
lines of JSON: ready {} once the legend came, label {n}. A line on standard input, the stamp in nanoseconds of
the last image, makes it end with the outputs for that image, or `patience` seconds after the last message.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Sequence

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image

from m2f_ros.bags.writer import BagWriter
from m2f_ros.msg import Legend, Stats
from m2f_ros.node.declare import declare
from m2f_ros.node.parameters import Parameter
from m2f_ros.node.process import Ending, emit, join, read_line, run, say

PARAMETERS = (
    Parameter("bag", "bag", "Folder of the rosbag2 to write; it must not exist."),
    Parameter("patience", 30.0, "Seconds without a message until it gives up.", range=(0.0, 86400.0)),
)
QOS = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
LATCHED_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
# Others learn of the subscriptions in the order of their creation: a camera that knows of the one to its image
# knows of those before, and a node that sends its legend knows of all.
TOPICS = {
    "camera_info": CameraInfo,
    "ground_truth": Image,
    "image": Image,
    "label": Image,
    "overlay": Image,
    "stats": Stats,
    "legend": Legend,
}
OUTPUTS = ("label", "overlay", "stats")


class DemoRecorder(Node):
    """Writes every message as it was serialised, without decoding it."""

    def __init__(self, ending: Ending) -> None:
        super().__init__("demo_recorder")
        self._ending = ending
        self._settings = declare(self, PARAMETERS)
        self._bag = BagWriter(self._settings.bag)
        self._stamps = dict.fromkeys(OUTPUTS, -1)  # of the newest message, nanoseconds
        self._labels = 0
        self._awaited: int | None = None
        self._heard = time.monotonic()
        for name, kind in TOPICS.items():
            self._record(name, kind)
        self.create_timer(0.1, self._look_for_the_end)
        self._thread = threading.Thread(target=self._read_stamp, name="stdin", daemon=True)
        self._thread.start()

    def close(self, timeout: float) -> bool:
        """Complete the bag."""
        self._bag.close()
        if failures := self.executor.failures:
            say(f"error: {failures} messages are missing in the bag, or were not followed: see the log")
            self._ending.code = self._ending.code or 1
        return join([self._thread], timeout)

    def _record(self, name: str, kind: type) -> None:
        topic = self.resolve_topic_name(name)
        type_name = f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"

        if name == "legend":
            self._bag.add_topic(topic, type_name, latched=True)

        def write(message: bytes) -> None:
            now = time.time_ns()
            self._heard = time.monotonic()
            self._bag.write(topic, type_name, message, now)
            self._follow(name, message)

        qos = LATCHED_QOS if name == "legend" else QOS
        self.create_subscription(kind, topic, write, qos, raw=True)

    def _follow(self, name: str, message: bytes) -> None:
        if name in self._stamps:
            self._stamps[name] = stamp_of(message)
        if name == "label":
            self._labels += 1
            emit("label", n=self._labels)
        elif name == "legend":
            emit("ready")

    def _read_stamp(self) -> None:
        line = read_line(self._ending)
        if line:
            self._heard = time.monotonic()
            self._awaited = int(line)

    def _look_for_the_end(self) -> None:
        if self._awaited is None:
            return
        if min(self._stamps.values()) >= self._awaited:
            self._ending.ask(0)
        elif time.monotonic() - self._heard > self._settings.patience:
            say(f"warning: nothing for the last image within {self._settings.patience:g} s")
            self._ending.ask(0)


def stamp_of(message: bytes) -> int:
    """Header stamp, in nanoseconds, of a serialised message that begins with its header.

    CDR: four bytes of encapsulation, whose second is odd for little-endian; then int32 seconds and uint32
    nanoseconds. (OMG DDSI-RTPS 2.5, 10.2)
    """
    order = "<" if message[1] & 1 else ">"
    seconds, nanoseconds = struct.unpack_from(f"{order}iI", message, 4)
    return seconds * 10**9 + nanoseconds


def main(args: Sequence[str] | None = None) -> int:
    return run(DemoRecorder, args)
