"""Listens to the topics of other nodes: their types, publishers and rates, and which of them the node segments."""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message

from m2f_ros.bags.topics import encoding_of, is_made, is_picture
from m2f_ros.errors import one_line
from m2f_ros.frame.encodings import LAYOUTS, PLANES
from m2f_ros.node.segmentation.source import COMPRESSED, RAW, short
from m2f_ros.tables import columns

NAME = "_m2f_topics"  # names that begin with _ are hidden from ros2 node list
LOOK = 0.2  # seconds between two looks at the graph
# Messages that wait at a topic. A large number would hold as many images.
DEPTH = 10
IMAGES = (RAW, COMPRESSED)
# Types that the node reads. Other topics are received only on request: a subscription takes bandwidth.
READ = (*IMAGES, "sensor_msgs/msg/CameraInfo", "sensor_msgs/msg/PointCloud2", "tf2_msgs/msg/TFMessage")
BURST = 0.1  # seconds; messages that all come within less have no rate
SILENCE = 1.0  # seconds without a message, at least, after which a topic is silent


@dataclass
class Topic:
    """A topic of other nodes.

    Attributes:
        name, type: as in `ros2 topic list -t`; the types, if there are several, separated by commas.
        publishers, subscriptions: number of those of other nodes.
        arrivals: times of the messages that came, in seconds of the monotonic clock.
        received: whether its messages were received here, had they come.
        latched: whether its publishers keep messages for late subscribers, which are not received here.
        end: time at which the listening ended; None while it goes on.
        encoding: of an image: that of the first message, as `encoding_of` gives it; None while none has come.
        size: (width, height) of the first raw image.
        made: whether the images are ground truth or an output of this package's node.
        unread: why its messages cannot be received here, or "".
    """

    name: str
    type: str
    publishers: int = 0
    subscriptions: int = 0
    arrivals: list[float] = field(default_factory=list)
    received: bool = False
    latched: bool = False
    end: float | None = None
    encoding: str | None = None
    size: tuple[int, int] | None = None
    made: bool = False
    unread: str = ""

    @property
    def rate(self) -> float | None:
        """Messages a second between the first and the last one; None for less than two, a burst and a silent topic."""
        if len(self.arrivals) < 2 or self.is_burst or self.silent:
            return None
        return (len(self.arrivals) - 1) / self.span

    @property
    def span(self) -> float:
        """Seconds between the first and the last message."""
        return self.arrivals[-1] - self.arrivals[0] if self.arrivals else 0.0

    @property
    def is_burst(self) -> bool:
        """True if several messages came at once, as those that waited somewhere do."""
        return len(self.arrivals) > 1 and self.span < BURST

    @property
    def silent(self) -> float:
        """Seconds at the end in which messages should have come by the rate before, and none did; else 0."""
        if len(self.arrivals) < 2 or self.end is None:
            return 0.0
        interval, silence = self.span / (len(self.arrivals) - 1), self.end - self.arrivals[-1]
        return silence if silence > max(3 * interval, SILENCE) else 0.0

    @property
    def content(self) -> str:
        """Size and encoding of an image, and why a topic has no rate; or ""."""
        size = "{}x{}".format(*self.size) if self.size else ""
        why = ""
        if self.is_burst:
            why = "(a burst)"
        elif silent := self.silent:
            why = f"(none in the last {silent:.1f} s)"
        elif self.latched and not self.arrivals:
            why = "(latched)"
        return " ".join(filter(None, [size, self.encoding, why]))

    @property
    def is_camera(self) -> bool:
        """True if images come that the node segments: of a known encoding, neither depth nor made by such a node."""
        if self.type not in IMAGES or self.encoding is None or self.made:
            return False
        readable = self.type == COMPRESSED or self.encoding in {*LAYOUTS, *PLANES}
        return readable and is_picture(self.name, self.encoding)


@dataclass(frozen=True)
class Heard:
    """The end of a listening.

    Attributes:
        topics: of other nodes, by name.
        seconds: how long it took.
        interrupted: whether Ctrl-C ended it early.
    """

    topics: list[Topic]
    seconds: float
    interrupted: bool


def listen(seconds: float, only_images: bool = False, every: bool = False) -> Heard:
    """Listen for so many seconds, or until KeyboardInterrupt, to the topics that other nodes publish or read.

    Hidden topics are left out. Topics of the types that the node reads are subscribed to, as their publishers offer
    them. The environment decides what is reached: ROS_DOMAIN_ID and the like.

    only_images: return those of Image and CompressedImage alone. every: subscribe to topics of all types.
    """
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    try:
        node = rclpy.create_node(NAME, context=context, enable_rosout=False, start_parameter_services=False)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        found: dict[str, Topic] = {}
        subscribed: set[str] = set()
        begun, look, interrupted = time.monotonic(), 0.0, False
        end = begun + seconds
        try:
            while (now := time.monotonic()) < end:
                if now >= look:
                    _look(node, found, subscribed, only_images, every)
                    look = now + LOOK
                executor.spin_once(timeout_sec=min(LOOK, end - now))
        except KeyboardInterrupt:
            interrupted = True
        for _ in range(DEPTH * len(subscribed)):  # messages that have come and wait
            executor.spin_once(timeout_sec=0)
        ended = time.monotonic()
        _look(node, found, subscribed, only_images, every)  # a publisher that has ended is there no more
        executor.shutdown()
        node.destroy_node()
    finally:
        context.try_shutdown()
    for topic in found.values():
        topic.end = ended
        topic.made = topic.type in IMAGES and is_made(topic.name, found)
    return Heard(sorted(found.values(), key=lambda topic: topic.name), ended - begun, interrupted)


def _look(node: Any, found: dict[str, Topic], subscribed: set[str], only_images: bool, every: bool) -> None:
    """Take up what is new in the graph, and remove what is gone."""
    there = set()
    for name, types in node.get_topic_names_and_types():
        if any(part.startswith("_") for part in name.split("/")) or (only_images and not {*types} & {*IMAGES}):
            continue
        offers = [info for info in node.get_publishers_info_by_topic(name) if info.node_name != NAME]
        readers = [info for info in node.get_subscriptions_info_by_topic(name) if info.node_name != NAME]
        if not offers and not readers:
            continue
        there.add(name)
        topic = found.setdefault(name, Topic(name, ", ".join(types)))
        topic.publishers, topic.subscriptions = len(offers), len(readers)
        topic.latched = bool(offers) and all(
            info.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for info in offers
        )
        if offers and name not in subscribed and (every or {*types} & {*READ}):
            subscribed.add(name)
            # A reliable subscription receives nothing from a best-effort publisher.
            reliable = all(info.qos_profile.reliability == ReliabilityPolicy.RELIABLE for info in offers)
            _subscribe(node, topic, types, reliable)
    for name in found.keys() - there:
        del found[name]


def _subscribe(node: Any, topic: Topic, types: Sequence[str], reliable: bool) -> None:
    """Count the messages of a topic as they come, without decoding them, but the first of an image."""
    try:
        (name,) = types
        package, _, kind = name.partition("/msg/")
        message = getattr(importlib.import_module(f"{package}.msg"), kind)
        policy = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT

        def take(data: bytes) -> None:
            topic.arrivals.append(time.monotonic())
            if topic.type in IMAGES and topic.encoding is None:
                first = deserialize_message(data, message)
                topic.encoding = one_line(encoding_of(first)[:40])
                topic.size = (first.width, first.height) if topic.type == RAW else None

        node.create_subscription(message, topic.name, take, QoSProfile(depth=DEPTH, reliability=policy), raw=True)
        topic.received = True
    except ValueError:
        topic.unread = "several types"
    except ImportError:
        topic.unread = f"{topic.type.partition('/')[0]} is not installed here"
    except Exception as error:
        topic.unread = one_line(" ".join(str(error).split()))[:80]


def describe(topics: Sequence[Topic], seconds: str) -> str:
    """Return a table of the topics, and the commands that segment those of cameras.

    seconds: of listening, for the table's head.
    """
    head = ("topic", "type", "publishers", "subscriptions", f"messages in {seconds} s", "Hz", "")
    rows = [
        (
            topic.name,
            short(topic.type),
            str(topic.publishers),
            str(topic.subscriptions),
            "?" if topic.unread else str(len(topic.arrivals)) if topic.received else "-",
            "" if topic.rate is None else f"{topic.rate:.1f}",
            topic.unread or topic.content,
        )
        for topic in topics
    ]
    cameras = {topic.name for topic in topics if topic.is_camera}
    # The raw topic of a camera goes before its compressed one.
    taken = [name for name in sorted(cameras) if name.removesuffix("/compressed") not in cameras - {name}]
    lines = [f"m2f node image:={name}" for name in taken] or ["no images that the node takes have come"]
    return "\n".join([columns([head, *rows], left=(0, 1, 6)), "", *lines])
