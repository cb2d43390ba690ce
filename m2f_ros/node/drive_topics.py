"""The topics of a recorded drive, with the names of `m2f bag`."""

from __future__ import annotations

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from m2f_ros.bags import topics
from m2f_ros.frame.bgr import to_bgr
from m2f_ros.frame.calibration import Calibration, trouble
from m2f_ros.frame.frame import Frame
from m2f_ros.msg import Legend, Segments
from m2f_ros.node.legend import LATCHED, legend_of
from m2f_ros.node.messages import encode, encode_compressed, segment_message
from m2f_ros.node.process import say
from m2f_ros.node.segmentation.camera_info import message_of
from m2f_ros.sources.ground_truth import panoptic_truth
from m2f_ros.sources.sample import Sample
from m2f_ros.taxonomy import Taxonomy

# Deep enough for a recorder that misses a fragment or is briefly busy.
QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)


class DriveTopics:
    """`image`, or `image/compressed`, `camera_info`, and `ground_truth` with its latched legend, panoptic and segments.

    Args:
        taxonomy: taxonomy of the ground truth; None without ground truth.
        compressed: True to send images as JPEG.

    Attributes:
        image: publisher of the images.
        truth: publisher of the label images of the ground truth.
    """

    def __init__(self, node: Node, taxonomy: Taxonomy | None, compressed: bool) -> None:
        self._taxonomy, self._compressed, self._warned = taxonomy, compressed, False
        self.image = node.create_publisher(
            CompressedImage if compressed else Image, topics.COMPRESSED if compressed else topics.IMAGE, QOS
        )
        truth = topics.GROUND_TRUTH
        self._info = node.create_publisher(CameraInfo, topics.CAMERA_INFO, QOS)
        self.truth = node.create_publisher(Image, truth, QOS)
        self._panoptic = node.create_publisher(Image, f"{truth}/{topics.PANOPTIC}", QOS)
        self._segments = node.create_publisher(Segments, f"{truth}/{topics.SEGMENTS}", QOS)
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
            for publisher in (self.image, self._info, self.truth, self._panoptic, self._segments):
                publisher.wait_for_all_acked(Duration(seconds=timeout))

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
