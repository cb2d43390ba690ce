"""Depth images, from messages to metres.

A message is anything with the fields of sensor_msgs/Image or CompressedImage: rclpy's class or that of rosbags. Values
are those of REP 118: `16UC1` (also named `mono16`) in millimetres, 0 where unknown; `32FC1` in metres.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from m2f_ros.errors import FrameError, SpaceError, say_once
from m2f_ros.frame.pictures import open_picture
from m2f_ros.frame.raw import check_size, image_view

_MILLIMETRES, _METRES = ("16UC1", "mono16"), "32FC1"
_HEADER = struct.Struct("<iff")  # ConfigHeader of compressed_depth_image_transport: format, two parameters
_PNG = b"\x89PNG\r\n\x1a\n"
_LEAST, _FARTHEST = 1.0, 1000.0  # metres that a quantisation reaches
_RVL_HEADER = struct.Struct("<II")  # width, height
_LONGEST_NUMBER = 11  # nibbles of 3 bits: more than 32 bits


def decode_depth(message: Any) -> np.ndarray:
    """Return the depth of a sensor_msgs/Image: (H, W) float32, metres along the optical axis, NaN where unknown.

    Values that are not above 0 and finite are unknown. Rows may be padded, and values be in either byte order.

    Raises SpaceError, in one line, for another encoding, an impossible size or step, or too little data.
    """
    encoding = message.encoding
    try:
        if encoding in _MILLIMETRES:
            return _of_millimetres(image_view(message))
        if encoding == _METRES:
            return _known(_floats(message).astype(np.float32))
    except FrameError as error:
        raise SpaceError(f"the depth image cannot be read: {error}") from None
    raise SpaceError(
        f"the depth image has the encoding {encoding[:40]!r}: send 16UC1 (millimetres) or 32FC1 (metres), registered "
        "to the camera"
    )


def decode_compressed_depth(message: Any) -> np.ndarray:
    """Return the depth of a sensor_msgs/CompressedImage of image_transport's `compressedDepth`; as `decode_depth`.

    Its PNG and RVL of 16UC1, and of 32FC1 as quantised inverse depth. Without a format, a PNG is taken by the two
    parameters before it: 16UC1 where they are 0, 32FC1 where they are those of a quantisation, which is said.

    Raises SpaceError, in one line, for another format or encoding, and for damaged data.
    """
    encoding, _, transport = message.format[:200].partition(";")
    encoding = encoding.strip()
    if not message.format:
        encoding = _encoding_without_format(memoryview(message.data)[: _HEADER.size + len(_PNG)])
    if encoding not in (*_MILLIMETRES, _METRES) or (transport and "compressedDepth" not in transport):
        raise SpaceError(
            f"the depth image has the format {message.format[:40]!r}: send image_transport's compressedDepth of 16UC1 "
            "or 32FC1"
        )
    data = memoryview(message.data)
    if len(data) <= _HEADER.size:
        raise SpaceError(f"the compressed depth image has {len(data)} bytes, no more than its header")
    _, a, b = _HEADER.unpack_from(data)
    try:
        values = (_rvl if transport.split()[-1:] == ["rvl"] else _png)(data[_HEADER.size :])
    except FrameError as error:
        raise SpaceError(f"the compressed depth image cannot be read: {error}") from None
    if encoding != _METRES:
        return _of_millimetres(values)
    with np.errstate(divide="ignore"):
        depth = np.float32(a) / (values - np.float32(b))
    depth[values == 0] = np.nan
    return _known(depth)


def _encoding_without_format(begin: memoryview) -> str:
    """Return the encoding that the beginning of compressedDepth tells; "" for none.

    compressed_depth_image_transport quantises by a = z0 (z0 + 1), b = 1 - a / z_max, and leaves both out of 16UC1.
    """
    if begin[_HEADER.size :] != _PNG:
        return ""
    _, a, b = _HEADER.unpack_from(begin)
    found = ""
    if a == b == 0:
        found = _MILLIMETRES[0]
    elif a > 0 and b < 1 and _LEAST <= a / (1 - b) <= _FARTHEST:
        found = _METRES
    if found:
        say_once(f"compressed depth images without a format are taken as {found}, by the header before their PNG")
    return found


def _floats(message: Any) -> np.ndarray:
    """Return the values of a 32FC1 image: a view of `message.data`."""
    height, width, step, size = message.height, message.width, message.step, len(message.data)
    check_size(width, height)
    if step < 4 * width:
        raise FrameError(f"step {step} is too small: {width} pixels of '{_METRES}' take {4 * width} bytes")
    if size < (needed := step * (height - 1) + 4 * width):
        raise FrameError(f"data has {size} bytes: {height} rows of '{_METRES}' with step {step} take {needed}")
    kind = np.dtype(">f4" if message.is_bigendian else "<f4")
    return np.ndarray((height, width), kind, buffer=message.data, strides=(step, 4))


def _of_millimetres(values: np.ndarray) -> np.ndarray:
    depth = values.astype(np.float32)
    depth *= np.float32(0.001)
    depth[values == 0] = np.nan
    return depth


def _known(depth: np.ndarray) -> np.ndarray:
    depth[~((depth > 0) & (depth < np.inf))] = np.nan
    return depth


def _png(data: memoryview) -> np.ndarray:
    picture = open_picture(data)
    check_size(picture.width, picture.height)
    values = picture.pixels() if picture.kind == "PNG" and picture.grey else None
    if values is None or values.dtype != np.uint16:
        raise FrameError(f"its {picture.kind} holds no grey values of 16 bits")
    return values


def _rvl(data: memoryview) -> np.ndarray:
    """Decode RVL (Wilson, "Fast lossless depth image compression", ISS 2017) to (H, W) uint16.

    Words of 32 bits hold nibbles, the highest first; a nibble has 3 bits of a number, the lowest first, and a bit that
    says that more follow. The numbers are: how many zeros, how many other values, the zigzag differences of these; and
    so on.
    """
    if len(data) < _RVL_HEADER.size:
        raise FrameError("its RVL is cut off")
    width, height = _RVL_HEADER.unpack_from(data)
    check_size(width, height)
    pixels, data = width * height, data[_RVL_HEADER.size :]
    words = np.frombuffer(data[: len(data) // 4 * 4], "<u4").astype(">u4").view(np.uint8)
    nibbles = np.stack([words >> 4, words & 15], -1).ravel()
    ends = np.flatnonzero(nibbles < 8) + 1
    starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    lengths = ends - starts
    if len(ends) and lengths.max() > _LONGEST_NUMBER:
        raise FrameError("its RVL is damaged: a number is too long")
    place = np.arange(ends[-1] if len(ends) else 0) - np.repeat(starts, lengths)
    bits = (nibbles[: len(place)] & 7).astype(np.int64) << 3 * place
    numbers = np.add.reduceat(bits, starts) if len(starts) else bits
    differences = (numbers >> 1) ^ -(numbers & 1)

    values, at, done = np.zeros(pixels, np.int32), 0, 0
    found = np.zeros(pixels, bool)
    while done < pixels:
        if at + 2 > len(numbers):
            raise FrameError(f"its RVL ends after {done} of {pixels} pixels")
        zeros, others = int(numbers[at]), int(numbers[at + 1])
        at, done = at + 2, done + zeros
        if done + others > pixels or at + others > len(numbers):
            raise FrameError("its RVL is damaged: a run is longer than the image")
        values[done : done + others] = differences[at : at + others]
        found[done : done + others] = True
        at, done = at + others, done + others
    return np.where(found, np.cumsum(values, dtype=np.int32), 0).astype(np.uint16).reshape(height, width)
