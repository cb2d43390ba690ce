"""JPEG and PNG between sensor_msgs/msg/CompressedImage and arrays, by image_transport's convention.

A message is anything with the fields of CompressedImage: rclpy's class or that of rosbags.
`format` is what compressed_image_transport writes: "ENCODING; jpeg compressed TARGET". The picture itself says what it
is, so on the way in the format matters in one case only: a grey PNG may be the mosaic of a Bayer encoding.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from m2f_ros.errors import ConfigError, FrameError
from m2f_ros.frame.encodings import LAYOUTS, eight_bit
from m2f_ros.frame.frame import Frame
from m2f_ros.frame.pictures import open_picture
from m2f_ros.frame.raw import Bits, check_array, check_size, of_16_bits, set_bytes

FORMATS = ("png", "jpeg")
# Names that drivers and encoders give to a frame of a video in this message.
_VIDEO = re.compile(r"h\.?26[45]|hevc|av1|vp[89]|mpeg-?[24]", re.IGNORECASE)
_LONGEST_FORMAT = 200  # characters of a format that are read
QUALITY = 95  # compressed_image_transport's
PNG_LEVEL = 3
# For labels, which are areas of one value, this is quicker and smaller than OpenCV's defaults at any level.
_LABELS = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # OpenCV 4.10 has none
    _LABELS += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]


def decode_compressed(message: Any, bits: Bits | None = None) -> Frame:
    """Decode a camera's compressed image: "bgr8", "mono8" for a grey picture, or the Bayer encoding of a mosaic.

    A PNG of 16 bits keeps as many of them as `bits` says; see `raw.decode`. Alpha is left out. The picture is not
    turned as EXIF says: camera_info and labels refer to the pixels as they lie in the file.

    Raises FrameError, in one line, for data that is no JPEG or PNG, is empty, cut off or damaged anywhere, or claims a
    size that no camera has. The size is checked before memory is taken.
    """
    return check_compressed(message, bits)()


def check_compressed(message: Any, bits: Bits | None = None) -> Callable[[], Frame]:
    """Check the header and the end of a camera's compressed image; return the function that decodes it.

    Takes well under a millisecond for any data. `message.data` must not change until the frame is decoded. Both
    functions raise FrameError as `decode_compressed`.
    """
    format = message.format[:_LONGEST_FORMAT]
    try:
        picture = open_picture(memoryview(message.data))
    except FrameError as error:
        advice = ", video, which is not read: decode it into sensor_msgs/msg/Image" if _VIDEO.search(format) else ""
        raise FrameError(f"{error}; its format is {format[:40]!r}{advice}") from None
    check_size(picture.width, picture.height)

    def decoded() -> Frame:
        image, encoding = picture.pixels(), "bgr8"
        if picture.grey:
            source = format.partition(";")[0].strip()
            mosaic = picture.kind == "PNG" and source in LAYOUTS and source.startswith("bayer_")
            encoding = eight_bit(source) if mosaic else "mono8"
        return Frame(image, encoding) if image.itemsize == 1 else of_16_bits(image, encoding.replace("8", "16"), bits)

    return decoded


def fill_compressed(
    message: Any,
    image: np.ndarray,
    encoding: str,
    header: Any,
    format: str = "png",
    quality: int = QUALITY,
    png_level: int = PNG_LEVEL,
) -> Any:
    """Write an array into a compressed image message, whose data is an array.array; return the message.

    Args:
        image: (H, W) uint8 for "mono8", (H, W) uint16 for "mono16", (H, W, 3) uint8 for "bgr8".
        header: used as it is.
        format: "png", which keeps every value, or "jpeg", which does not: never for labels.
        quality: of a JPEG, 1..100.
        png_level: of a PNG, 0..9; grey images are the same at all levels above 0.
    Raises:
        FrameError: encoding, shape and dtype do not agree, or the format cannot hold them.
        ConfigError: another format.
    """
    if format not in FORMATS:
        raise ConfigError(f"there is no compressed format {format!r}; take {' or '.join(FORMATS)}")
    if encoding not in ("mono8", "bgr8") and (encoding, format) != ("mono16", "png"):
        raise FrameError(f"'{encoding}' images are not written as {format}; take mono8, bgr8, or mono16 as png")
    check_array(image, encoding)
    if format == "jpeg":
        extension, target = ".jpg", encoding
        parameters = [cv2.IMWRITE_JPEG_QUALITY, quality]
    else:
        extension, target = ".png", encoding if encoding == "bgr8" else ""
        parameters = [cv2.IMWRITE_PNG_COMPRESSION, png_level, *([] if encoding == "bgr8" else _LABELS)]
    try:
        done, data = cv2.imencode(extension, np.ascontiguousarray(image), parameters)
    except cv2.error:
        done = False
    if not done:
        raise FrameError(f"a {format} cannot hold an image of {image.shape[1]}x{image.shape[0]} pixels")
    message.header = header
    message.format = f"{encoding}; {format} compressed {target}"
    set_bytes(message, data)
    return message
