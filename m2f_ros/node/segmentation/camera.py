"""One camera: subscribes to its images, publishes its outputs and counts its frames."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from m2f_ros.bags.topics import can_be_grey, encoding_of, is_picture, is_rectified
from m2f_ros.errors import FrameError
from m2f_ros.frame.bit_depth import BitDepth
from m2f_ros.frame.calibration import trouble
from m2f_ros.frame.compressed import check_compressed
from m2f_ros.frame.encodings import has_16_bits
from m2f_ros.frame.frame import Ignored
from m2f_ros.frame.outputs import SPATIAL_NAMES
from m2f_ros.frame.raw import decode
from m2f_ros.node.declare import Settings, given_values
from m2f_ros.node.entities import NO_EVENTS
from m2f_ros.node.legend import LATCHED
from m2f_ros.node.parameters import CameraSettings
from m2f_ros.node.segmentation.counts import Counts, RateLimit
from m2f_ros.node.segmentation.frame_job import FrameJob, stamp_of
from m2f_ros.node.segmentation.inbox import Inbox
from m2f_ros.node.segmentation.outputs import Outputs
from m2f_ros.node.segmentation.source import RAW, Offer, Source, absence, choose, silence
from m2f_ros.node.segmentation.space.handed import Geometry
from m2f_ros.node.segmentation.stamps import DROP, RESET, StampWatch
from m2f_ros.node.segmentation.wire import WireCompressedImage, WireImage, read_compressed, read_image, read_info
from m2f_ros.node.throttle import LAST, Throttle, cut, kind_of
from m2f_ros.space.ignore import read_mask

if TYPE_CHECKING:
    from m2f_ros.frame.frame import Frame
    from m2f_ros.node.segmentation.space.worker import Space
    from m2f_ros.pipeline import Segmentation

    Message: TypeAlias = WireImage | WireCompressedImage | Image | CompressedImage

_SPATIAL = frozenset(SPATIAL_NAMES)
LOOK_PERIOD = 1.0  # seconds between two checks of the publishers of the images
ABSENT_LOOKS = 3  # checks in a row with the same result before it is logged: discovery takes a while
SILENT_LOOKS = 6  # the same for a publisher without messages: cameras start slowly


class Camera:
    """Puts the images of one camera into the inbox, and publishes their outputs.

    `publish`, `fail` and the readers may run in any thread; all other calls belong to the executor's thread.

    Args:
        name: name of the camera; "" for an only camera with its topics directly under the node's name.
        settings: parameters of the node and the camera.
        inbox: inbox for the frames of all cameras.
        space: what makes the outputs in space of all cameras.
    Raises:
        SpaceError: the ignore mask cannot be read.
    """

    def __init__(self, node: Node, name: str, settings: Settings, inbox: Inbox[FrameJob], space: Space) -> None:
        self.name = name
        self.counts = Counts()
        self.active = False
        self._node, self._settings, self._inbox, self._space = node, settings, inbox, space
        # Each camera has its own throttles, so that no camera silences another. Bad frames have a separate throttle,
        # since the camera controls their text.
        self._tell = Throttle(lambda line: node.get_logger().info(line), kinds=8, first=LAST)  # no news after a minute
        self._warn = Throttle(lambda line: node.get_logger().warning(line))
        self._complain = Throttle(lambda line: node.get_logger().warning(line))
        self._limit, self._watch, self._epoch = RateLimit(), StampWatch(), 0
        self._info: CameraInfo | None = None
        self._warned = False
        start = settings.cameras[name]
        images_of = f"the images of {name}" if name else "the images"
        # Only one frame of a camera is decoded at a time, so that this needs no lock.
        self._bits = BitDepth(start.bit_depth, lambda line: node.get_logger().warning(f"{images_of}: {line}"))
        base = f"~/{name}/" if name else "~/"
        self._ignored = Ignored(read_mask(start.ignore_mask)) if start.ignore_mask else None
        self.outputs = Outputs(node, base, settings, name, space.outputs)
        self._input = f"{base}image"
        self._name = node.resolve_topic_name(self._input)
        # image_transport, too, expects camera_info beside the images.
        beside = self._name.removesuffix("/compressed").rpartition("/")[0]
        self._info_input = start.camera_info or f"{beside}/camera_info"
        self._info_topic = node.resolve_topic_name(self._info_input)
        self._infos: list[Subscription] = []
        # If the images are not remapped, this topic is the node's own output.
        if self._info_topic != self.outputs.info_topic:
            self._subscribe_info(qos_profile_sensor_data)
        self.absence = ""  # last logged reason why no images come
        self._absent, self._looks = "", 0
        self._source: Source | None = None
        self._images: Subscription | None = None
        self._first = self._silent = True  # until the first image, and until the first message
        self._look()
        self._looking = node.create_timer(LOOK_PERIOD, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    @property
    def topic(self) -> str:
        """Topic of the images."""
        return self._topic

    @property
    def inputs(self) -> list[str]:
        """Topics from which the images may come."""
        return [self._name, self._node.resolve_topic_name(f"{self._name}/compressed")]

    @property
    def _own_settings(self) -> CameraSettings:
        return self._settings.cameras[self.name]

    def close(self) -> None:
        """Destroy the topics."""
        self._node.destroy_timer(self._looking)
        for subscription in (self._images, *self._infos):
            self._node.destroy_subscription(subscription)
        self.outputs.close()

    def _receive_image(self, data: bytes) -> None:
        self._receive(data, read_image, slow=False)

    def _receive_compressed(self, data: bytes) -> None:
        self._receive(data, read_compressed, slow=True)

    def _receive(self, data: bytes, read: Callable[[bytes], Message], slow: bool) -> None:
        """Put the frame of a message into the inbox, if it is wanted and valid. slow: see FrameJob."""
        # No copy: the frame is a view of `data`, which rclpy allocated for this message, and the pipeline copies it
        # once, into its own memory.
        self.counts.arrive()
        self._silent = False
        try:
            message = read(data)
        except FrameError as error:
            if self.active and self.outputs.any_wanted():
                self.counts.receive()
                self.fail(error)
            return
        header = message.header
        if self._first:
            self._first = False
            idle = self.active and not self.outputs.any_wanted()
            self._tell(
                f"first image on {self.topic}: {_description(message)}, frame {header.frame_id[:40]!r}"
                + ("; nobody listens to an output yet, so that none is made" if idle else ""),
                "first image",
            )
        if not self.active:
            self._tell(f"not active: the images of {self.topic} are not segmented", "not active")
            return
        if not self.outputs.any_wanted():
            return
        number = self.counts.receive(stamp_of(header))
        now = time.monotonic()
        if not self._limit.passes(now, self._own_settings.max_rate):
            self.counts.drop("rate")
            return
        try:
            decode = self._decoder(message)
        except Exception as error:  # whatever a camera sends
            self.fail(error)
            return
        if self._ignored is not None:
            decode = partial(_without, decode, self._ignored)
        if self._in_order(header):
            self.counts.expect()
            if self._inbox.put(self.name, FrameJob(self, header, decode, now, self._epoch, slow, number)):
                self.counts.drop("newer")

    def _decoder(self, message: Message) -> Callable[[], Frame]:
        """Check a message; return the function that decodes it. Raises FrameError."""
        encoding = encoding_of(message)
        if not is_picture(self.topic, encoding) and not (self._own_settings.segment_depth and can_be_grey(encoding)):
            ask = ", or set segment_depth to take them as grey pictures" if can_be_grey(encoding) else ""
            raise FrameError(
                f"{self.topic} sends depth or other values ({encoding[:40]!r}), no pictures: "
                f"name the camera's topic{ask}"
            )
        if not isinstance(message, WireImage | Image):
            # Another thread decodes it, unless a newer frame comes first. A truncated file is rejected here: it must
            # not replace a good frame in the inbox.
            return check_compressed(message, self._bits)
        frame = decode(message)
        return partial(decode, message, self._bits) if has_16_bits(message.encoding) else lambda: frame

    def _in_order(self, header: Header) -> bool:
        verdict = self._watch.judge(stamp_of(header), self._node.get_clock().now().nanoseconds)
        if verdict.line:
            self._node.get_logger().warning(f"{self.topic}: {verdict.line}")  # once for each kind
        if verdict.action == DROP:
            self.counts.drop(verdict.kind)
        elif verdict.action == RESET:
            self._epoch += 1
        return verdict.action != DROP

    def _receive_info(self, data: bytes) -> None:
        try:
            self._info = read_info(data)
        except FrameError as error:
            self._complain(f"{self._info_topic}: {error}", "camera_info")

    def _look(self) -> None:
        """Subscribe to the published images, or log once why there are none."""
        before, settings = self._source, self._own_settings
        source, found = choose(self._name, settings.transport, settings.reliability, self._offers, before)
        if source != before or self._images is None:
            self._subscribe(source, settings.depth)
            if before is not None:
                self._tell(f"the images come from {self._as_read()}")
        silent = self._silent or not found
        self._note_absence(self._why_absent(settings.transport, found) if self.active and silent else "", found)
        self._look_for_latched_info()

    def _look_for_latched_info(self) -> None:
        """Subscribe to latched camera_info where it is offered: publishers that are volatile warn of such subscribers.

        The volatile subscription gets no message from before it was there.
        """
        if len(self._infos) == 1:
            found = self._node.get_publishers_info_by_topic(self._info_input)
            if any(info.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for info in found):
                self._subscribe_info(LATCHED)

    def _subscribe_info(self, qos: QoSProfile) -> None:
        take, events = self._receive_info, NO_EVENTS
        self._infos.append(
            self._node.create_subscription(CameraInfo, self._info_input, take, qos, event_callbacks=events, raw=True)
        )

    def _note_absence(self, absent: str, found: bool) -> None:
        self._looks = self._looks + 1 if absent == self._absent else 1
        self._absent = absent
        if self._looks >= (SILENT_LOOKS if found and absent else ABSENT_LOOKS) and absent != self.absence:
            self.absence = absent
            if absent:
                self._first = self._silent = True  # the next image is worth a line
                self._warn(absent)

    def _offers(self, topic: str) -> list[Offer]:
        infos = self._node.get_publishers_info_by_topic(self._unresolved(topic))
        return [Offer(i.topic_type, i.qos_profile.reliability == ReliabilityPolicy.RELIABLE) for i in infos]

    def _unresolved(self, topic: str) -> str:
        """Return the name of a topic before remapping: rclpy must not apply the rules twice."""
        return self._input if topic == self._name else topic

    def _subscribe(self, source: Source, depth: int) -> None:
        node = self._node
        if self._images is not None:
            node.destroy_subscription(self._images)
            self._images = None  # if the creation below fails, the next check repeats it
        name = self._unresolved(source.topic)
        topic = node.resolve_topic_name(name)
        kinds = [QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH]
        # An override that is always declared would keep its first value when the publishers change theirs.
        if f"qos_overrides.{topic}.subscription.reliability" in given_values(node):
            kinds.append(QoSPolicyKind.RELIABILITY)
        raw = source.type == RAW
        reliability = ReliabilityPolicy.RELIABLE if source.reliable else ReliabilityPolicy.BEST_EFFORT
        now = self._source
        if now is None or (source.topic, source.type) != (now.topic, now.type):
            self._first = self._silent = True  # with another reliability they are the same images
        self._images = node.create_subscription(
            Image if raw else CompressedImage,
            name,
            self._receive_image if raw else self._receive_compressed,
            QoSProfile(depth=depth, reliability=reliability),
            qos_overriding_options=QoSOverridingOptions(kinds),
            event_callbacks=NO_EVENTS,
            raw=True,  # see m2f_ros.node.segmentation.wire
        )
        self._source, self._topic = source, topic

    def _as_read(self) -> Source:
        """Return the source with the subscription's reliability, which qos_overrides may have changed."""
        assert self._source is not None and self._images is not None
        return replace(self._source, reliable=self._images.qos_profile.reliability == ReliabilityPolicy.RELIABLE)

    def _why_absent(self, transport: str, found: bool) -> str:
        if found:
            return silence(self._name, self._as_read(), self._offers)
        own = f"{self._node.get_fully_qualified_name()}/"
        published = {
            topic: kinds
            for topic, kinds in self._node.get_topic_names_and_types()
            if not topic.startswith(own) and self._node.count_publishers(topic)
        }
        return f"{absence(self._name, transport, published)} (-r '{self._input}:=TOPIC')"

    # Any thread

    def publish(self, job: FrameJob, result: Segmentation) -> None:
        """Publish the wanted outputs of a frame, and count it."""
        info = self._info
        if info is not None and not self._warned and (wrong := trouble(info, job.frame.size[::-1])):
            self._warned = True
            self._node.get_logger().warning(f"{self._info_topic} {wrong}; the labels do not depend on it")
        panoptic = self.outputs.publish(job, result, info)
        now = self._node.get_clock().now().nanoseconds
        # The age is unknown without a stamp, and before the first message on /clock.
        first = self.counts.segment((now - job.stamp) / 1e6 if now and job.stamp else 0.0) == 1
        self.outputs.publish_stats(job, result, self.counts.tally)
        if first:
            self._tell(f"first result of {self.topic}, {time.monotonic() - job.came:.2f} s after its image came")
        if job.wanted & _SPATIAL:
            self._space.hand_over(job, result, panoptic, Geometry(info, self._info_topic, self._is_rectified()))

    def expect(self, job: FrameJob) -> None:
        """Keep the messages of a frame's time for its outputs in space."""
        if job.wanted & _SPATIAL:
            self._space.expect(job)

    def _is_rectified(self) -> bool:
        if self._own_settings.rectified:
            return True
        named = is_rectified(self.topic)
        if named:
            self._tell(f"the images of {self.topic} are taken as rectified, by that name", "rectified")
        return named

    def fail(self, error: Exception) -> None:
        """Count a bad frame, and log the reason."""
        text = str(error) if isinstance(error, FrameError) else f"{type(error).__name__}: {error}"
        line = cut(text)
        bad = self.counts.fail(line)
        where = f" of {self.name}" if self.name else ""
        # The kind is that of the whole text, since the length of quoted texts decides where the line is cut.
        self._complain(f"skipped a bad frame{where}: {line} ({bad} so far)", kind_of(text))


def _without(decode: Callable[[], Frame], ignored: Ignored) -> Frame:
    """Return the frame that `decode` returns, with these pixels ignored."""
    return replace(decode(), ignored=ignored)


def _description(message: Message) -> str:
    """Return a short description of a message's image for the log."""
    if isinstance(message, WireImage | Image):
        return f"{message.width}x{message.height} {message.encoding[:40]!r}"
    return f"{len(message.data)} bytes, format {message.format[:40]!r}"
