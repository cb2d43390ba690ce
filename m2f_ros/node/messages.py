"""Makes image messages of rclpy from arrays, by the codec in m2f_ros.frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from m2f_ros.frame.compressed import PNG_LEVEL, QUALITY, fill_compressed
from m2f_ros.frame.raw import fill

if TYPE_CHECKING:
    from sensor_msgs.msg import CompressedImage, Image
    from std_msgs.msg import Header

    from m2f_ros.model.heads import Segment as PipelineSegment
    from m2f_ros.msg import Segment


def encode(image: np.ndarray, encoding: str, header: Header) -> Image:
    """Make an image message from an array; see `frame.raw.fill`."""
    # Imported here, so that the codec can be tested without ROS.
    from sensor_msgs.msg import Image

    return fill(Image(), image, encoding, header)


def encode_compressed(
    image: np.ndarray,
    encoding: str,
    header: Header,
    format: str = "png",
    quality: int = QUALITY,
    png_level: int = PNG_LEVEL,
) -> CompressedImage:
    """Make a compressed image message from an array; see `frame.compressed.fill_compressed`."""
    from sensor_msgs.msg import CompressedImage

    return fill_compressed(CompressedImage(), image, encoding, header, format, quality, png_level)


def segment_message(segment: PipelineSegment) -> Segment:
    """Make the message of a segment of a panoptic image."""
    from m2f_ros.msg import Segment

    x, y, width, height = segment.box
    return Segment(
        id=segment.id,
        class_id=segment.train_id,
        score=segment.score,
        area=segment.area,
        x=x,
        y=y,
        width=width,
        height=height,
    )
