"""One camera: its images in, its outputs, its counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import SubscriptionEventCallbacks
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from m2f_ros.errors import FrameError
from m2f_ros.node.counts import Counts, RateLimit
from m2f_ros.node.inbox import Inbox
from m2f_ros.node.legend import LATCHED
from m2f_ros.node.outputs import Outputs
from m2f_ros.node.stamps import DROP, RESET, StampWatch
from m2f_ros.replay.bit_depth import BitDepth
from m2f_ros.replay.calibration import trouble
from m2f_ros.replay.compressed import check_compressed
from m2f_ros.replay.images import decode, has_16_bits
from m2f_ros.replay.topics import can_be_grey, encoding_of, is_picture

if TYPE_CHECKING:
    from m2f_ros.pipeline import Frame, Segmentation

LOG_PERIOD = 5.0  # seconds between two lines about the same
SEARCH_PERIOD = 10.0  # seconds without a camera until it is said, again and again
# One that asks for a latched camera_info gets no other, and the other way round none of before it was there.
INFO_QOS = (qos_profile_sensor_data, LATCHED)
NO_EVENTS = SubscriptionEventCallbacks(use_default_callbacks=False)  # that a publisher offers only one of both


@dataclass(frozen=True)
class Arrival:
    """A frame on its way.

    Attributes:
        decode: its pixels; raises FrameError.
        came: when, time.monotonic() seconds.
        epoch: of its camera; another than that of the frame before where time jumped.
    """

    camera: Camera
    header: Header
    decode: Callable[[], Frame]
    came: float
    epoch: int

    @property
    def stamp(self) -> int:
        """Of the header, nanoseconds."""
        return stamp_of(self.header)


class Camera:
    """Receives the images of one camera into the inbox and publishes what comes of them.

    Args:
        name: "" for the only camera, whose topics lie directly under the node's name.
        shared: gives the node's parameters as they are now.
        settings: gives the camera's.
    """

    def __init__(
        self,
        node: Node,
        name: str,
        shared: Callable[[], SimpleNamespace],
        settings: Callable[[], SimpleNamespace],
        inbox: Inbox[Arrival],
    ) -> None:
        self.name = name
        self.counts = Counts()
        self.active = False
        self._node, self._settings, self._inbox = node, settings, inbox
        self._limit, self._watch, self._epoch = RateLimit(), StampWatch(), 0
        self._info: CameraInfo | None = None
        self._warned = False
        start = settings()
        images_of = f"the images of {name}" if name else "the images"
        # By the pipeline's thread alone, of the frames that it takes.
        self._bits = BitDepth(start.bit_depth, lambda line: node.get_logger().warning(f"{images_of}: {line}"))
        base = f"~/{name}/" if name else "~/"
        self.outputs = Outputs(node, base, shared, lambda: settings().outputs)
        images = node.resolve_topic_name(f"{base}image")
        compressed = start.transport == "compressed"
        self._images = node.create_subscription(
            CompressedImage if compressed else Image,
            f"{images}/compressed" if compressed else images,
            self._receive_compressed if compressed else self._receive,
            QoSProfile(depth=start.depth, reliability=ReliabilityPolicy[start.reliability.upper()]),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        # image_transport's convention, too.
        info = node.resolve_topic_name(start.camera_info or f"{images.rpartition('/')[0]}/camera_info")
        # Where the images were not remapped, the camera's own is there already.
        self._infos = [
            node.create_subscription(CameraInfo, info, self._keep_info, qos, event_callbacks=NO_EVENTS)
            for qos in (INFO_QOS if info != self.outputs.info_topic else ())
        ]
        self._search = node.create_timer(
            SEARCH_PERIOD, self._look_for_camera, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    @property
    def topic(self) -> str:
        """Where the images come from."""
        return self._images.topic_name

    def close(self) -> None:
        """Take the topics away."""
        self._node.destroy_timer(self._search)
        self._node.destroy_subscription(self._images)
        for subscription in self._infos:
            self._node.destroy_subscription(subscription)
        self.outputs.close()

    # The executor's thread

    def _receive(self, message: Image) -> None:
        # No copy: rclpy made `message.data` when it took the message, the frame is a view of it, and the pipeline
        # reads the view once, into its own memory.
        def view() -> Callable[[], Frame]:
            self._check_picture(message)
            frame = decode(message)
            return (lambda: decode(message, self._bits)) if has_16_bits(message.encoding) else lambda: frame

        self._enter(message.header, view)

    def _receive_compressed(self, message: CompressedImage) -> None:
        # Decoded by the pipeline's thread, and only if no newer frame comes first. But a file that is cut off must not
        # take the place of a good one that waits.
        def check() -> Callable[[], Frame]:
            self._check_picture(message)
            return check_compressed(message, self._bits)

        self._enter(message.header, check)

    def _check_picture(self, message: Image | CompressedImage) -> None:
        encoding = encoding_of(message)
        if not is_picture(self.topic, encoding) and not (self._settings().segment_depth and can_be_grey(encoding)):
            ask = ", or set segment_depth to take them as grey pictures" if can_be_grey(encoding) else ""
            raise FrameError(
                f"{self.topic} sends depth or other values ({encoding[:40]}), no pictures: name the camera's topic{ask}"
            )

    def _enter(self, header: Header, check: Callable[[], Callable[[], Frame]]) -> None:
        """Leave a frame in the inbox, if it is wanted and good. check: gives what decodes it; raises FrameError."""
        self.counts.arrive()
        if not self.active:
            self._node.get_logger().info(
                f"not active: the images of {self.topic} are not segmented", throttle_duration_sec=SEARCH_PERIOD
            )
            return
        if not self.outputs.wanted():
            return
        self.counts.receive()
        now = time.monotonic()
        if not self._limit.passes(now, self._settings().max_rate):
            self.counts.drop("rate")
            return
        try:
            decoder = check()
        except Exception as error:  # whatever a camera sends
            self.fail(error)
            return
        if self._in_order(header):
            self.counts.expect()
            if self._inbox.put(self.name, Arrival(self, header, decoder, now, self._epoch)):
                self.counts.drop("newer")

    def _in_order(self, header: Header) -> bool:
        note = self._watch.note(stamp_of(header), self._node.get_clock().now().nanoseconds)
        if note.line:
            self._node.get_logger().warning(f"{self.topic}: {note.line}")
        if note.action == DROP:
            self.counts.drop(note.kind)
        elif note.action == RESET:
            self._epoch += 1
        return note.action != DROP

    def _keep_info(self, message: CameraInfo) -> None:
        self._info = message

    def _look_for_camera(self) -> None:
        if self.active and not self._node.count_publishers(self.topic):
            self._node.get_logger().warning(
                f"no camera publishes {self.topic}: start one, or name its topic: --ros-args -r "
                f"'~/{f'{self.name}/' if self.name else ''}image:=TOPIC'"
            )

    # Any thread

    def publish(
        self, arrival: Arrival, result: Segmentation, wanted: frozenset[str], size: tuple[int, int], wait: float
    ) -> None:
        """Publish what was wanted of a frame, and how it went.

        size: (width, height) of the frame. wait: seconds it waited for the pipeline.
        """
        info = self._info
        if info is not None and not self._warned and (wrong := trouble(info, size)):
            self._warned = True
            self._node.get_logger().warning(f"{self._infos[0].topic_name} {wrong}; the labels do not depend on it")
        self.outputs.publish(result, arrival.header, wanted, info, size, arrival.epoch)
        now = self._node.get_clock().now().nanoseconds
        # Without a stamp, or before /clock, there is no age.
        self.counts.segment((now - arrival.stamp) / 1e6 if now and arrival.stamp else 0.0)
        self.outputs.publish_stats(result, arrival.header, self.counts.tally, wait)

    def fail(self, error: Exception) -> None:
        """Count a frame of which nothing comes, and say so."""
        kind = "" if isinstance(error, FrameError) else f"{type(error).__name__}: "
        line = f"{kind}{' '.join(str(error).split())}"
        bad = self.counts.fail(line)
        where = f" of {self.name}" if self.name else ""
        self._node.get_logger().warning(
            f"skipped a bad frame{where}: {line} ({bad} so far)", throttle_duration_sec=LOG_PERIOD
        )


def stamp_of(header: Header) -> int:
    """Nanoseconds."""
    return header.stamp.sec * 10**9 + header.stamp.nanosec
