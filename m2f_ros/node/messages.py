"""Image messages of this ROS made of arrays; what the arrays hold is the business of m2f_ros.replay's codec."""

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
    """An image message of an array, with the header untouched and no row padding.

    image: (H, W) or (H, W, C), uint8, or uint16, as the encoding (a key of LAYOUTS) asks; contiguous or not.
    Raises FrameError when encoding, shape and dtype do not agree, or the array is empty.
    """
    # Here, so that the codec can be tested where ROS is absent.
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
    """A compressed image message of an array, with the header untouched.

    image: (H, W) uint8 for "mono8", (H, W) uint16 for "mono16", (H, W, 3) uint8 for "bgr8".
    format: "png", which keeps every value, or "jpeg", which does not: never for labels.
    quality: 1..100, of a JPEG. png_level: 0..9, of a PNG; but for 0, it changes nothing for grey images.
    Raises FrameError when encoding, shape and dtype do not agree or the format cannot hold them, ConfigError for
    another format.
    """
    from sensor_msgs.msg import CompressedImage

    return fill_compressed(CompressedImage(), image, encoding, header, format, quality, png_level)


def segment_message(segment: PipelineSegment) -> Segment:
    """The message of a segment of a panoptic image."""
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
