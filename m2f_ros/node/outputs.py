"""What the node publishes of one camera, each only while somebody listens."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
from rclpy.node import Node
from rclpy.publisher import Publisher, PublisherEventCallbacks
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from m2f_ros.frame.outputs import OUTPUTS
from m2f_ros.msg import Segments, Stats
from m2f_ros.node.camera_info import fit_camera_info
from m2f_ros.node.counts import Tally
from m2f_ros.node.messages import encode, encode_compressed, segment_message
from m2f_ros.pipeline import Tracker

if TYPE_CHECKING:
    from m2f_ros.model.heads import Segment as PipelineSegment
    from m2f_ros.pipeline import Segmentation


def publisher(node: Node, kind: type, topic: str, qos: QoSProfile) -> Publisher:
    """A publisher whose QoS can be set under `qos_overrides`.

    That a subscription asks for other QoS is said on the subscriber's side alone: with each image that comes, rclpy's
    executor would look at two such events of every topic.
    """
    return node.create_publisher(
        kind,
        topic,
        qos,
        event_callbacks=PublisherEventCallbacks(use_default_callbacks=False),
        qos_overriding_options=QoSOverridingOptions.with_default_policies(),
    )


class Outputs:
    """The publishers of one camera.

    Attributes:
        topics: names of all that is published.
        info_topic: that of the CameraInfo.

    Args:
        base: "~/" or "~/NAME/".
        settings: gives the node's parameters as they are now.
        allowed: gives the names of the outputs that may be computed now.
    """

    def __init__(
        self,
        node: Node,
        base: str,
        settings: Callable[[], SimpleNamespace],
        allowed: Callable[[], tuple[str, ...]],
    ) -> None:
        self._node, self._settings, self._allowed = node, settings, allowed
        qos = QoSProfile(depth=settings().output_depth, reliability=ReliabilityPolicy.RELIABLE)

        def make(kind: type, name: str) -> Publisher:
            return publisher(node, kind, base + name, qos)

        self._images = {output.name: make(Image, output.name) for output in OUTPUTS}
        # image_transport's names, by which its subscribers and RViz find them.
        self._compressed = {o.name: make(CompressedImage, f"{o.name}/compressed") for o in OUTPUTS}
        self._segments = make(Segments, "segments")
        self._info = make(CameraInfo, "camera_info")
        self._stats = make(Stats, "stats")
        self.topics = [made.topic_name for made in self._publishers()]
        self.info_topic = self._info.topic_name
        self._tracker, self._epoch = Tracker(), 0
        self._fitted: tuple[CameraInfo | None, tuple, CameraInfo | None] = (None, (), None)

    def wanted(self) -> frozenset[str]:
        """What to ask of the pipeline now."""
        # Events of matching exist from Jazzy on; Humble has to ask.
        wanted = {name for name in self._allowed() if self._heard(name)}
        if _has_listeners(self._stats):
            wanted.add("shares")
        return frozenset(wanted)

    def publish(
        self,
        result: Segmentation,
        header: Header,
        wanted: frozenset[str],
        info: CameraInfo | None,
        size: tuple[int, int],
        epoch: int,
    ) -> None:
        """Publish what was wanted of one frame; copies it.

        info: of the camera, if known. size: (width, height) of the frame. epoch: changes where time jumped, and tracks
        end there.
        """
        settings, array = self._settings(), None
        for output in OUTPUTS:
            if output.name not in wanted:
                continue
            if output.name == "panoptic":
                array, segments = self._follow(result, epoch)
                if _has_listeners(self._segments):
                    self._segments.publish(Segments(header=header, segments=[segment_message(s) for s in segments]))
            else:
                array = result.images[output.name]
            encoding = output.encoding_of(array)
            if _has_listeners(self._images[output.name]):
                self._images[output.name].publish(encode(array, encoding, header))
            if _has_listeners(self._compressed[output.name]):
                format = "jpeg" if output.lossy else "png"
                self._compressed[output.name].publish(
                    encode_compressed(array, encoding, header, format, settings.jpeg_quality, settings.png_level)
                )
        if info is not None and array is not None and _has_listeners(self._info):
            height, width = array.shape[:2]
            fitted = copy.copy(self._fit(info, size, (width, height)))
            fitted.header = header
            self._info.publish(fitted)

    def publish_stats(self, result: Segmentation, header: Header, count: Callable[[], Tally], wait: float) -> None:
        """count: gives what became of the camera's frames. wait: seconds that the frame waited for the pipeline."""
        if not _has_listeners(self._stats):
            return
        tally = count()
        self._stats.publish(
            Stats(
                header=header,
                received=tally.received,
                segmented=tally.segmented,
                dropped=sum(tally.dropped.values()),
                bad=tally.bad,
                drop_reasons=list(tally.dropped),
                drops=list(tally.dropped.values()),
                age_ms=tally.ages[-1],
                wait_ms=wait * 1e3,
                stages=list(result.stages),
                stage_ms=list(result.stages.values()),
                class_shares=[] if result.shares is None else result.shares.tolist(),
            )
        )

    def close(self) -> None:
        """Take the topics away."""
        for topic in self._publishers():
            self._node.destroy_publisher(topic)

    def _publishers(self) -> tuple[Publisher, ...]:
        return (*self._images.values(), *self._compressed.values(), self._segments, self._info, self._stats)

    def _heard(self, name: str) -> bool:
        return (
            _has_listeners(self._images[name])
            or _has_listeners(self._compressed[name])
            or (name == "panoptic" and _has_listeners(self._segments))
        )

    def _fit(self, info: CameraInfo, image: tuple[int, int], output: tuple[int, int]) -> CameraInfo:
        """As `fit_camera_info`; the last result stays for frames to which `info` belongs as well."""
        # By identity: to compare what is in it costs as much as to fit it.
        of, sizes, fitted = self._fitted
        if of is not info or sizes != (image, output):
            fitted = fit_camera_info(info, image, output)
            self._fitted = info, (image, output), fitted
        return fitted

    def _follow(self, result: Segmentation, epoch: int) -> tuple[np.ndarray, list[PipelineSegment]]:
        """(height, width) uint16 ids and their segments, the ids of the frames before where they are tracked."""
        if epoch != self._epoch:
            self._tracker.reset()
            self._epoch = epoch
        if not self._settings().track:
            self._tracker.reset()
            return result.ids.astype(np.uint16), result.segments
        return self._tracker.update(result.ids, result.segments)


def _has_listeners(topic: Publisher) -> bool:
    return topic.get_subscription_count() > 0
