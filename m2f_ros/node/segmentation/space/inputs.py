"""Depth images, clouds and transforms, for the outputs in space; subscribed to only while an output needs them.

Their messages are taken as bytes, like images (see wire.py): the executor's thread only keeps them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image, PointCloud2

from m2f_ros.errors import FrameError, M2fError, SpaceError
from m2f_ros.node.declare import Settings
from m2f_ros.node.entities import NO_EVENTS
from m2f_ros.node.segmentation.frame_job import stamp_of
from m2f_ros.node.segmentation.source import DEPTH_CODEC, RAW, Offer, Source, choose
from m2f_ros.node.segmentation.space.stamped import Stamped
from m2f_ros.node.segmentation.wire import (
    WireCloud,
    WireCompressedImage,
    WireImage,
    read_cloud,
    read_compressed,
    read_image,
    read_transforms,
)
from m2f_ros.space.transforms import Transforms, from_quaternion

try:
    from tf2_msgs.msg import TFMessage
except ImportError:  # distributions have it, PyPI has not
    TFMessage = None

if TYPE_CHECKING:
    DepthImage: TypeAlias = WireImage | WireCompressedImage | Image | CompressedImage
    PointsMessage: TypeAlias = WireCloud | PointCloud2


@dataclass(frozen=True, eq=False)
class Arrived:
    """A cloud, and the time at which it came, time.monotonic()."""

    message: PointsMessage
    came: float


NEW = 2.0  # seconds until a subscription should have found its publishers, and got a message
TF, TF_STATIC = "/tf", "/tf_static"
CLOUD = "~/cloud"
# Outputs that take depth images where they come.
WITH_DEPTH = frozenset({"points", "detections", "grid", "obstacles", "lidar"})
WITH_TRANSFORMS = frozenset({"grid", "obstacles", "lidar"})
# Sensors publish best effort or reliably; such a subscription takes both.
_SENSOR = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
# As tf2_ros' own listeners.
_TF = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
_TF_STATIC = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_OVERRIDDEN = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY)


class SpaceInputs:
    """The messages that arrived lately.

    `look` and `close` belong to the executor's thread; the attributes may be used in any thread.

    Args:
        settings: parameters of the node and the cameras.
        wake: function that is called after each message that was kept.
        fail: function that takes the name of an input, the error of a bad message, and the camera, or "".
    Attributes:
        depth: camera -> its depth images.
        clouds: clouds of the lidar.
        transforms: the tree of tf.
    """

    def __init__(
        self, node: Node, settings: Settings, wake: Callable[[], None], fail: Callable[[str, Exception, str], None]
    ) -> None:
        self._node, self._settings, self._wake, self._fail = node, settings, wake, fail
        self.depth: dict[str, Stamped[DepthImage]] = {name: Stamped() for name in settings.cameras}
        self.clouds: Stamped[Arrived] = Stamped()
        self.transforms = Transforms()
        self._subscriptions: dict[str, Subscription] = {}  # by the name before remapping
        self._sources: dict[str, Source] = {}  # camera -> that of its depth images
        self._newest = -NEW  # time of the newest subscription, time.monotonic()

    @property
    def topics(self) -> list[str]:
        """Topics of clouds and depth images, after remapping."""
        return [self._node.resolve_topic_name(name) for name in (CLOUD, *map(depth_input, self.depth))]

    @property
    def are_new(self) -> bool:
        """True if a topic was subscribed to so lately that its messages may not have come yet."""
        return time.monotonic() < self._newest + NEW

    def lack(self, camera: str, outputs: Collection[str]) -> bool:
        """Return True if an output of a camera needs a topic that is not subscribed to yet."""
        return bool(self._needed(camera, outputs) - self._subscriptions.keys())

    def _needed(self, camera: str, outputs: Collection[str]) -> set[str]:
        """Return the topics that outputs of a camera need, by their names before remapping."""
        names = {depth_input(camera)} if WITH_DEPTH & set(outputs) else set()
        if "lidar" in outputs:
            names.add(CLOUD)
        if WITH_TRANSFORMS & set(outputs) and TFMessage is not None:
            names |= {TF, TF_STATIC}
        return names

    def look(self, wanted: Mapping[str, Collection[str]]) -> None:
        """Subscribe to what is needed, and to nothing else. wanted: camera -> outputs that have listeners."""
        needed = set().union(*(self._needed(camera, outputs) for camera, outputs in wanted.items()))
        for camera in self.depth:
            if depth_input(camera) in needed:
                self._look_for_depth(camera)
            else:
                self._sources.pop(camera, None)
        if CLOUD in needed:
            self._subscribe(CLOUD, PointCloud2, CLOUD, self._take_cloud, _SENSOR, _OVERRIDDEN)
        if TF in needed:
            self._subscribe(TF, TFMessage, TF, lambda data: self._take_transforms(data, False), _TF)
            self._subscribe(TF_STATIC, TFMessage, TF_STATIC, lambda data: self._take_transforms(data, True), _TF_STATIC)
        for name in self._subscriptions.keys() - needed:
            self._node.destroy_subscription(self._subscriptions.pop(name))
            if name == CLOUD:
                self.clouds.clear()
        for camera, images in self.depth.items():
            if depth_input(camera) not in needed:
                images.clear()

    def unpaired(self) -> SpaceError:
        """Return the error of a cloud without a frame of its time."""
        slop = self._settings.node.lidar_slop
        return SpaceError(f"no frame within lidar.slop ({slop} s) of a cloud of {self.topics[0]}")

    def close(self) -> None:
        """Destroy the subscriptions."""
        for subscription in self._subscriptions.values():
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()

    def _look_for_depth(self, camera: str) -> None:
        name = depth_input(camera)
        images, before = self._node.resolve_topic_name(name), self._sources.get(camera)

        def unresolved(topic: str) -> str:
            return name if topic == images else topic  # rclpy must not apply the rules twice

        def offers(topic: str) -> list[Offer]:
            infos = self._node.get_publishers_info_by_topic(unresolved(topic))
            return [Offer(info.topic_type, False) for info in infos]

        transport = self._settings.cameras[camera].depth_transport
        source, _ = choose(images, transport, "best_effort", offers, before, DEPTH_CODEC)
        if source != before and name in self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop(name))
        self._sources[camera] = source
        raw = source.type == RAW

        def take(data: bytes) -> None:
            self._take_depth(camera, data, raw)

        self._subscribe(name, Image if raw else CompressedImage, unresolved(source.topic), take, _SENSOR, _OVERRIDDEN)

    def _subscribe(
        self,
        name: str,
        kind: Any,
        topic: str,
        take: Callable[[bytes], None],
        qos: QoSProfile,
        overridden: Collection[QoSPolicyKind] = (),
    ) -> None:
        if name not in self._subscriptions:
            self._newest = time.monotonic()
            options = QoSOverridingOptions(list(overridden)) if overridden else None
            self._subscriptions[name] = self._node.create_subscription(
                kind, topic, take, qos, event_callbacks=NO_EVENTS, qos_overriding_options=options, raw=True
            )

    def _take_depth(self, camera: str, data: bytes, raw: bool) -> None:
        try:
            message = read_image(data) if raw else read_compressed(data)
        except FrameError as error:
            self._fail("depth images", error, camera)
            return
        self.depth[camera].put(stamp_of(message.header), message)
        self._wake()

    def _take_cloud(self, data: bytes) -> None:
        try:
            cloud = read_cloud(data)
        except FrameError as error:
            self._fail("clouds", error, "")
            return
        for _ in range(self.clouds.put(stamp_of(cloud.header), Arrived(cloud, time.monotonic()))):
            self._fail("lidar", self.unpaired(), "")
        self._wake()

    def _take_transforms(self, data: bytes, static: bool) -> None:
        try:
            transforms = read_transforms(data)
        except FrameError as error:
            self._fail("transforms", error, "")
            return
        for one in transforms:
            try:
                matrix = from_quaternion(one.translation, one.rotation)
                self.transforms.put(one.parent, one.child, matrix, one.stamp_ns, static)
            except M2fError as error:  # the others hold
                self._fail("transforms", error, "")
        self._wake()


def depth_input(camera: str) -> str:
    """Return the name of the topic of a camera's depth images, before remapping."""
    return f"~/{camera}/depth" if camera else "~/depth"
