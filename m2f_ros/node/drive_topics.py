"""The topics of a recorded drive, with the names of `m2f bag`."""

from __future__ import annotations

from collections.abc import Collection

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header

from m2f_ros.bags import topics
from m2f_ros.frame.bgr import to_bgr
from m2f_ros.frame.calibration import Calibration, trouble
from m2f_ros.frame.frame import Frame
from m2f_ros.msg import Legend, Segments
from m2f_ros.node.legend import LATCHED, legend_of
from m2f_ros.node.messages import (
    cloud_message,
    encode,
    encode_compressed,
    encode_depth,
    segment_message,
    transforms_message,
)
from m2f_ros.node.process import say
from m2f_ros.node.segmentation.camera_info import message_of
from m2f_ros.sources.ground_truth import panoptic_truth
from m2f_ros.sources.sample import Sample
from m2f_ros.taxonomy import Taxonomy

try:
    from tf2_msgs.msg import TFMessage
except ImportError:  # distributions have it, PyPI has not
    TFMessage = None

# Deep enough for a recorder that misses a fragment or is briefly busy.
QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)


class DriveTopics:
    """`image`, or `image/compressed`, `camera_info`, and `ground_truth` with its latched legend, panoptic and segments.

    Also, where they are asked for, `depth/image_raw`, /lidar/points, and /tf and /tf_static, as far as the samples have
    them and tf2_msgs is installed.

    Args:
        taxonomy: taxonomy of the ground truth; None without ground truth.
        compressed: True to send images as JPEG.
        space: some of "depth", "transforms" and "clouds", see SpaceOptions.

    Attributes:
        image: publisher of the images.
        truth: publisher of the label images of the ground truth.
        space: publishers of depth images and clouds.
    """

    def __init__(self, node: Node, taxonomy: Taxonomy | None, compressed: bool, space: Collection[str] = ()) -> None:
        self._taxonomy, self._compressed, self._warned = taxonomy, compressed, False
        self.image = node.create_publisher(
            CompressedImage if compressed else Image, topics.COMPRESSED if compressed else topics.IMAGE, QOS
        )
        truth = topics.GROUND_TRUTH
        self._info = node.create_publisher(CameraInfo, topics.CAMERA_INFO, QOS)
        self.truth = node.create_publisher(Image, truth, QOS)
        self._panoptic = node.create_publisher(Image, f"{truth}/{topics.PANOPTIC}", QOS)
        self._segments = node.create_publisher(Segments, f"{truth}/{topics.SEGMENTS}", QOS)
        self._depth = node.create_publisher(Image, topics.DEPTH, QOS) if "depth" in space else None
        lidar = f"{topics.LIDAR}/{topics.POINTS}"
        self._clouds = node.create_publisher(PointCloud2, lidar, QOS) if "clouds" in space else None
        self.space = [publisher for publisher in (self._depth, self._clouds) if publisher is not None]
        self._tf = self._static = None
        if "transforms" in space and TFMessage is not None:
            self._tf = node.create_publisher(TFMessage, topics.TF, QOS)
            self._static = node.create_publisher(TFMessage, topics.TF_STATIC, LATCHED)
        self._told = False  # the transforms that do not change
        if taxonomy is not None:
            self._legend = node.create_publisher(Legend, f"{truth}/{topics.LEGEND}", LATCHED)
            self._legend.publish(legend_of("", taxonomy))

    def publish(self, sample: Sample, header: Header) -> None:
        """Publish all messages of a frame, the image last."""
        if sample.label is not None:
            encoding = "mono8" if sample.label.itemsize == 1 else "mono16"
            self.truth.publish(encode(sample.label, encoding, header))
            if sample.instances is not None and self._panoptic.get_subscription_count():
                self._publish_panoptic(sample, header)
        if self.space or self._tf is not None:
            self._publish_space(sample, header)
        if sample.calibration is not None:
            self._publish_info(sample.calibration, sample.image.shape[:2], header)
        if self._compressed:
            picture = to_bgr(Frame(sample.image, sample.encoding))
            self.image.publish(encode_compressed(picture, "bgr8", header, "jpeg"))
        else:
            self.image.publish(encode(sample.image, sample.encoding, header))

    def wait_for_all_acked(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for acknowledgement of the last messages."""
        if hasattr(self.image, "wait_for_all_acked"):  # not on Humble
            for publisher in (self.image, self._info, self.truth, self._panoptic, self._segments, *self.space):
                publisher.wait_for_all_acked(Duration(seconds=timeout))

    def _publish_space(self, sample: Sample, header: Header) -> None:
        """Publish what the sample has of space; a cloud is as much older than the image as it was recorded."""
        published = header.stamp.sec * 1_000_000_000 + header.stamp.nanosec
        if self._tf is not None and self._static is not None and sample.tf:
            self._tf.publish(transforms_message([one[:3] for one in sample.tf if not one[3]], header.stamp))
            if not self._told:
                self._static.publish(transforms_message([one[:3] for one in sample.tf if one[3]], header.stamp))
                self._told = True
        if self._depth is not None and sample.depth is not None:
            self._depth.publish(encode_depth(sample.depth, header))
        if self._clouds is not None and sample.header is not None:
            taken = sample.header.sec * 1_000_000_000 + sample.header.nanosec
            for cloud in sample.clouds:
                own = Header(frame_id=cloud.frame_id)
                own.stamp.sec, own.stamp.nanosec = divmod(cloud.stamp_ns + published - taken, 1_000_000_000)
                self._clouds.publish(cloud_message(cloud, own))

    def _publish_panoptic(self, sample: Sample, header: Header) -> None:
        assert sample.label is not None and sample.instances is not None and self._taxonomy is not None
        ids, segments = panoptic_truth(sample.label, sample.instances, self._taxonomy)
        self._panoptic.publish(encode(ids, "mono16", header))
        self._segments.publish(Segments(header=header, segments=[segment_message(s) for s in segments]))

    def _publish_info(self, calibration: Calibration, size: tuple[int, int], header: Header) -> None:
        self._info.publish(message_of(calibration, header))
        if not self._warned and (wrong := trouble(calibration, size[::-1])):
            self._warned = True
            say(f"warning: {self._info.topic_name} {wrong}; it is passed on as it is")
