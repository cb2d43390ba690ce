"""The outputs of one camera, each published only while somebody listens."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from m2f_ros.frame.outputs import OUTPUTS, needed
from m2f_ros.msg import Segments, Stats
from m2f_ros.node.declare import Settings
from m2f_ros.node.entities import publisher
from m2f_ros.node.messages import encode, encode_compressed, segment_message
from m2f_ros.node.segmentation.camera_info import fit_camera_info
from m2f_ros.node.segmentation.counts import Tally
from m2f_ros.node.segmentation.space.outputs import GROUND, SpaceOutputs
from m2f_ros.pipeline import Tracker

if TYPE_CHECKING:
    from m2f_ros.model.heads import Segment as PipelineSegment
    from m2f_ros.node.segmentation.frame_job import FrameJob
    from m2f_ros.pipeline import Segmentation


class Outputs:
    """The publishers of one camera.

    Attributes:
        topics: names of all topics.
        info_topic: name of the CameraInfo topic.

    Args:
        base: prefix of the topics, "~/" or "~/NAME/".
        settings: parameters of the node and the camera.
        camera: name of the camera.
        space: the outputs in space of all cameras.
    """

    def __init__(self, node: Node, base: str, settings: Settings, camera: str, space: SpaceOutputs) -> None:
        self._node, self._settings, self._camera, self._space = node, settings, camera, space
        qos = QoSProfile(depth=settings.node.output_depth, reliability=ReliabilityPolicy.RELIABLE)

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
        """Return the names of the outputs that have listeners."""
        return frozenset(self._wanted())

    def needed(self, wanted: frozenset[str]) -> frozenset[str]:
        """Return the names of the outputs that the pipeline computes for these."""
        names = needed(wanted)
        if wanted & GROUND and self._settings.node.grid_min_confidence > 0:
            names |= {"confidence"}
        return names

    def any_wanted(self) -> bool:
        """Return True if an output has listeners."""
        return next(self._wanted(), None) is not None

    def _wanted(self) -> Iterator[str]:
        # Polled, since Humble has no events for matched subscriptions.
        yield from filter(self._heard, self._settings.cameras[self._camera].outputs)
        if _has_listeners(self._stats):
            yield "shares"

    def publish(
        self, job: FrameJob, result: Segmentation, info: CameraInfo | None
    ) -> tuple[np.ndarray, list[PipelineSegment]] | None:
        """Publish copies of the wanted outputs of one frame, but for those in space.

        info: CameraInfo of the camera, None if unknown.

        Returns the ids and segments of the frame, as they are published; None if they were not computed.
        """
        header, settings, array = job.header, self._settings.node, None
        panoptic = None
        for output in OUTPUTS:
            if output.name not in job.wanted:
                continue
            if output.name == "panoptic":
                if result.ids is None:  # of a model without segments
                    continue
                array, segments = panoptic = self._follow(result, job.epoch)
                if _has_listeners(self._segments):
                    self._segments.publish(Segments(header=header, segments=[segment_message(s) for s in segments]))
            elif output.name not in result.images:  # confidence, of a model that gives labels alone
                continue
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
            fitted = copy.copy(self._fit(info, job.frame.size[::-1], (width, height)))
            fitted.header = header
            self._info.publish(fitted)
        # Last, since it takes time: other outputs need it, such as points.
        return self._follow(result, job.epoch) if panoptic is None and result.ids is not None else panoptic

    def publish_stats(self, job: FrameJob, result: Segmentation, count: Callable[[], Tally]) -> None:
        """Publish the times of a frame. count: Function that returns the counts of the camera's frames."""
        if not _has_listeners(self._stats):
            return
        tally = count()
        self._stats.publish(
            Stats(
                header=job.header,
                number=job.number,
                received=tally.received,
                segmented=tally.segmented,
                dropped=sum(tally.dropped.values()),
                bad=tally.bad,
                drop_reasons=list(tally.dropped),
                drops=list(tally.dropped.values()),
                age_ms=tally.ages[-1],
                wait_ms=(job.began - job.came) * 1e3,
                stages=list(result.stages),
                stage_ms=list(result.stages.values()),
                class_shares=[] if result.shares is None else result.shares.tolist(),
            )
        )

    def close(self) -> None:
        """Destroy the topics."""
        for topic in self._publishers():
            self._node.destroy_publisher(topic)

    def _publishers(self) -> tuple[Publisher, ...]:
        return (*self._images.values(), *self._compressed.values(), self._segments, self._info, self._stats)

    def _heard(self, name: str) -> bool:
        if name not in self._images:
            return self._space.is_heard(name, self._camera)
        return (
            _has_listeners(self._images[name])
            or _has_listeners(self._compressed[name])
            or (name == "panoptic" and _has_listeners(self._segments))
        )

    def _fit(self, info: CameraInfo, image: tuple[int, int], output: tuple[int, int]) -> CameraInfo:
        """Call `fit_camera_info`, and cache the last result for frames with the same `info`."""
        # Compared by identity, since comparing the contents costs as much as fitting them.
        of, sizes, fitted = self._fitted
        if of is not info or sizes != (image, output):
            fitted = fit_camera_info(info, image, output)
            self._fitted = info, (image, output), fitted
        return fitted

    def _follow(self, result: Segmentation, epoch: int) -> tuple[np.ndarray, list[PipelineSegment]]:
        """Return (height, width) uint16 ids and their segments, with the ids of earlier frames if tracking is on."""
        if epoch != self._epoch:
            self._tracker.reset()
            self._epoch = epoch
        ids, segments = result.ids, result.segments
        assert ids is not None and segments is not None
        if not self._settings.node.track:
            self._tracker.reset()
            return ids.astype(np.uint16), segments
        return self._tracker.update(ids, segments, result.slots, result.embeddings)


def _has_listeners(topic: Publisher) -> bool:
    return topic.get_subscription_count() > 0
