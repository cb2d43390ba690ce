"""JPEG and PNG between sensor_msgs/msg/CompressedImage and arrays, by image_transport's convention.

A message is anything with the fields of CompressedImage: rclpy's class or that of rosbags.
`format` is what compressed_image_transport writes: "ENCODING; jpeg compressed TARGET". The picture itself says what it
is, so on the way in the format matters in one case only: a grey PNG may be the mosaic of a Bayer encoding.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np

from m2f_ros.errors import ConfigError, FrameError
from m2f_ros.pipeline.frame import Frame
from m2f_ros.replay.images import LAYOUTS, check_array, check_size, eight_bit, set_bytes

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"
FORMATS = ("png", "jpeg")
QUALITY = 95  # compressed_image_transport's
PNG_LEVEL = 3
# Labels are areas of one value: quicker and smaller so than by OpenCV's own choice, at any level.
_LABELS = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # OpenCV 4.10 has none
    _LABELS += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]


class Picture(NamedTuple):
    """What a file says of itself before it is decoded."""

    kind: str
    width: int
    height: int
    grey: bool


def decode_compressed(message: Any) -> Frame:
    """The frame of a camera's compressed image: "bgr8", "mono8" for a grey picture, or the Bayer encoding of a mosaic.

    Of 16 bits it has the high byte; alpha is left out. The picture stays as it lies in the file, whatever EXIF says of
    its orientation: camera_info and labels speak of those pixels.

    Raises FrameError, in one line, for what is no JPEG or PNG, is empty, cut off or damaged, or claims a size that no
    camera has, the latter before any memory is taken.
    """
    return check_compressed(message)()


def check_compressed(message: Any) -> Callable[[], Frame]:
    """What decodes a camera's compressed image, once the file is found to be whole.

    The file is copied and read through here, so that the message may go; what is returned decodes it. Both raise
    FrameError as `decode_compressed`: this for whatever the file shows without being decoded.
    """
    data, format = memoryview(message.data).tobytes(), message.format
    picture = _read_header(data, format)
    return lambda: _decode(data, picture, format)


def _decode(data: bytes, picture: Picture, format: str) -> Frame:
    flags = cv2.IMREAD_IGNORE_ORIENTATION | (cv2.IMREAD_GRAYSCALE if picture.grey else cv2.IMREAD_COLOR)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        image = None
    if image is None or image.shape[:2] != (picture.height, picture.width):
        raise FrameError(f"{picture.kind} of {picture.width}x{picture.height} pixels, {len(data)} bytes, is damaged")
    encoding = "bgr8"
    if picture.grey:
        source = format.partition(";")[0].strip()
        mosaic = picture.kind == "PNG" and source in LAYOUTS and source.startswith("bayer_")
        encoding = eight_bit(source) if mosaic else "mono8"
    return Frame(image, encoding)


def fill_compressed(
    message: Any,
    image: np.ndarray,
    encoding: str,
    header: Any,
    format: str = "png",
    quality: int = QUALITY,
    png_level: int = PNG_LEVEL,
) -> Any:
    """Write an array into a compressed image message, whose data is an array.array; the header untouched.

    image: (H, W) uint8 for "mono8", (H, W) uint16 for "mono16", (H, W, 3) uint8 for "bgr8".
    format: "png", which keeps every value, or "jpeg", which does not: never for labels.
    quality: 1..100, of a JPEG. png_level: 0..9, of a PNG; but for 0, it changes nothing for grey images.
    Returns the message. Raises FrameError when encoding, shape and dtype do not agree or the format cannot hold them,
    ConfigError for another format.
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


def _read_header(data: bytes, format: str) -> Picture:
    """Kind, size and colour of a JPEG or PNG, once the file is found to be whole.

    format: of the message, for the error. Raises FrameError as `decode_compressed`.
    """
    if data.startswith(JPEG):
        return _read_jpeg(data)
    if data.startswith(PNG):
        return _read_png(data)
    if not data:
        raise FrameError(f"the compressed image is empty: format {format[:40]!r}, no data")
    raise FrameError(f"data begins with {data[:4].hex(' ')}: neither JPEG nor PNG; format {format[:40]!r}")


def _read_jpeg(data: bytes) -> Picture:
    """By the markers of ITU-T T.81, annex B, found as libjpeg finds them."""
    picture, at = None, 2
    while True:
        at = data.find(b"\xff", at)
        while 0 <= at < len(data) and data[at] == 0xFF:
            at += 1
        if at < 0 or at + 3 > len(data):
            raise _cut_off("JPEG", data)
        marker = data[at]
        at += 1
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD7:  # no marker, or one without a segment
            continue
        (length,) = struct.unpack_from(">H", data, at)
        if marker in (0xD8, 0xD9) or length < 2:
            raise FrameError(f"JPEG of {len(data)} bytes is damaged: marker {marker:#04x} where none may be")
        if at + length > len(data):
            raise _cut_off("JPEG", data)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            if length < 8:
                raise FrameError(f"JPEG of {len(data)} bytes is damaged: its frame header has {length} bytes")
            height, width, components = struct.unpack_from(">HHB", data, at + 3)
            check_size(width, height)
            picture = Picture("JPEG", width, height, components == 1)
        if marker == 0xDA:  # start of scan
            break
        at += length
    # libjpeg paints what is missing grey and says nothing. Data of a scan cannot contain the marker of the end.
    if data.rfind(b"\xff\xd9", at) < 0:
        raise _cut_off("JPEG", data)
    if picture is None:
        raise FrameError(f"JPEG of {len(data)} bytes is damaged: it has no frame header")
    return picture


def _read_png(data: bytes) -> Picture:
    """By the chunks of the PNG specification (W3C, third edition, 5.3)."""
    if len(data) < 33:
        raise _cut_off("PNG", data)
    length, kind, width, height, _, colour = struct.unpack_from(">I4sIIBB", data, 8)
    if kind != b"IHDR" or length != 13:
        raise FrameError(f"PNG of {len(data)} bytes is damaged: its header is missing")
    check_size(width, height)
    at = 8
    while kind != b"IEND":
        if at + 12 > len(data):
            raise _cut_off("PNG", data)
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            raise _cut_off("PNG", data)
        (checksum,) = struct.unpack_from(">I", data, at + 8 + length)
        # A decoder may do without chunks whose name begins with a small letter.
        if not kind[0] & 0x20 and checksum != zlib.crc32(memoryview(data)[at + 4 : at + 8 + length]):
            raise FrameError(f"PNG of {len(data)} bytes is damaged: wrong checksum at byte {at}")
        at += 12 + length
    return Picture("PNG", width, height, colour in (0, 4))


def _cut_off(kind: str, data: bytes) -> FrameError:
    return FrameError(f"{kind} is cut off after {len(data)} bytes")
