"""Images between messages and arrays: a view on the way in, one copy on the way out. Knows no ROS.

A message is anything with the fields of sensor_msgs/msg/Image: rclpy's class or that of rosbags.

The meaning of `step` and `is_bigendian` is that of sensor_msgs/msg/Image; encodings are those of
m2f_ros.frame.encodings.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from m2f_ros.errors import FrameError
from m2f_ros.frame.encodings import LAYOUTS, PLANES, Encoding, eight_bit
from m2f_ros.frame.frame import LARGEST_SIDE, Frame, high_byte
from m2f_ros.frame.pictures import MAX_PIXELS

# Returns the number of bits that a uint16 image uses, 9..16.
Bits = Callable[[np.ndarray], int]


def decode(message: Any, bits: Bits | None = None) -> Frame:
    """Return the frame of a camera's image message: a view of `message.data`, no copy.

    The view has shape (H, W) or (H, W, C), dtype uint8, and the strides of the message; it keeps the data alive. Values
    of 16 bits become uint16 where `bits` says that fewer than 16 are used; otherwise the view has their high byte and
    the encoding of 8 bits. Two channels without a meaning (8UC2, 16UC2) give the first one, as grey. Only nv12, nv21
    and nv24 are copied, to bgr8 (BT.601, limited range, as OpenCV converts them).

    bits: see Bits; None: all 16 bits are used.

    Raises FrameError, in one line with the field and its value, for an unknown encoding, an impossible size or step,
    too little data, or a size that the encoding cannot have.
    """
    encoding = message.encoding
    if encoding in PLANES:
        return Frame(_from_planes(message), "bgr8")
    image = image_view(message)
    layout = LAYOUTS[encoding]
    if encoding.endswith("UC2"):
        image, encoding = image[..., 0], encoding[:-1] + "1"
    return Frame(image, encoding) if layout.bytes_per_channel == 1 else of_16_bits(image, encoding, bits)


def of_16_bits(image: np.ndarray, encoding: str, bits: Bits | None) -> Frame:
    """Return the frame of a uint16 image; see `decode`."""
    used = bits(image) if bits else 16
    return Frame(image, encoding, used) if used < 16 else Frame(high_byte(image), eight_bit(encoding))


def image_view(message: Any) -> np.ndarray:
    """Return the pixels of an image message: a view of `message.data`, no copy.

    Its shape is (H, W) or (H, W, C), its dtype uint8, or uint16 in the byte order of the message. Errors as `decode`.
    """
    layout = _layout(message.encoding)
    height, width, step, size = message.height, message.width, message.step, len(message.data)
    check_size(width, height)
    row = width * layout.pixel_bytes
    _check_data(message, row, step * (height - 1) + row, size)
    shape: tuple[int, ...] = (height, width)
    strides: tuple[int, ...] = (step, layout.pixel_bytes)
    if layout.channels > 1:
        shape, strides = (*shape, layout.channels), (*strides, layout.bytes_per_channel)
    kind = f"{'>' if message.is_bigendian else '<'}u{layout.bytes_per_channel}"
    return np.ndarray(shape, np.dtype(kind), buffer=message.data, strides=strides)


def fill(message: Any, image: np.ndarray, encoding: str, header: Any) -> Any:
    """Write an array into an image message, whose data is an array.array, without row padding; return the message.

    Args:
        image: (H, W) or (H, W, C), uint8 or uint16 as the encoding has it; contiguous or not.
        encoding: a key of LAYOUTS.
        header: used as it is.
    Raises:
        FrameError: encoding, shape and dtype do not agree, or the array is empty.
    """
    layout = check_array(image, encoding)
    message.header = header
    message.height, message.width = image.shape[:2]
    message.encoding = encoding
    message.is_bigendian = int(layout.bytes_per_channel > 1 and sys.byteorder == "big")
    message.step = message.width * layout.pixel_bytes
    set_bytes(message, image)
    return message


def set_bytes(message: Any, data: np.ndarray) -> None:
    """Put the bytes of an array into a message whose data is an array.array: one copy.

    Assignment to `data` is slower: rclpy checks an ndarray or bytes element by element, and copies an array.array.
    """
    del message.data[:]
    message.data.frombytes(np.ascontiguousarray(data).data.cast("B"))


def check_array(image: np.ndarray, encoding: str) -> Encoding:
    """Return the layout of an encoding. Raises FrameError unless the array is an image in it."""
    layout = _layout(encoding)
    shape = image.shape[:2] if layout.channels == 1 else (*image.shape[:2], layout.channels)
    if image.ndim < 2 or image.shape != shape or image.dtype != f"u{layout.bytes_per_channel}" or not image.size:
        raise FrameError(f"an array of shape {image.shape} and type {image.dtype} is no '{encoding}' image")
    return layout


def check_size(width: int, height: int) -> None:
    """Raise FrameError for a size that no camera has."""
    if height == 0 or width == 0:
        raise FrameError(f"the image is empty: width {width}, height {height}")
    if max(height, width) > LARGEST_SIDE or height * width > MAX_PIXELS:
        raise FrameError(
            f"width {width} x height {height} is too large: at most {LARGEST_SIDE} a side and {MAX_PIXELS} pixels"
        )


def _from_planes(message: Any) -> np.ndarray:
    """Return (H, W, 3) uint8 BGR of an image in two planes, the rows of both padded alike."""
    encoding, shared = message.encoding, PLANES[message.encoding].shared
    height, width, step = message.height, message.width, message.step
    check_size(width, height)
    if width % shared or height % shared:
        raise FrameError(f"{encoding} needs an even width and height, not {width}x{height}; 2x2 pixels share a colour")
    # A row of colours is as long as one of brightness where two pixels share one, else twice as long.
    rows, columns, pitch = height // shared, width // shared, step * 2 // shared
    colours = step * height
    _check_data(message, width, colours + pitch * (rows - 1) + 2 * columns, len(message.data))
    y = np.ndarray((height, width), np.uint8, message.data, strides=(step, 1))
    uv = np.ndarray((rows, columns, 2), np.uint8, message.data, colours, strides=(pitch, 2, 1))
    if encoding == "nv24":
        # OpenCV does not convert it: make YUYV with each pixel twice, convert that, and keep every other pixel.
        twice = np.stack([y, uv[..., 0], y, uv[..., 1]], -1).reshape(height, 2 * width, 2)
        return cv2.cvtColor(twice, cv2.COLOR_YUV2BGR_YUY2)[:, ::2]
    code = cv2.COLOR_YUV2BGR_NV12 if encoding == "nv12" else cv2.COLOR_YUV2BGR_NV21
    return cv2.cvtColorTwoPlane(y, uv, code)


def _layout(encoding: str) -> Encoding:
    layout = LAYOUTS.get(encoding)
    if layout is None:
        known = ", ".join((*LAYOUTS, *PLANES))
        # A camera may send anything, a line break or a megabyte, and this goes to a log.
        raise FrameError(f"encoding {encoding[:40]!r} is not supported; supported: {known}")
    return layout


def _check_data(message: Any, row: int, needed: int, size: int) -> None:
    """Raise FrameError unless `row` bytes fit into a step and the `needed` bytes are there."""
    if message.step < row:
        raise FrameError(
            f"step {message.step} is too small: {message.width} pixels of '{message.encoding}' take {row} bytes"
        )
    if size < needed:
        raise FrameError(
            f"data has {size} bytes: {message.height} rows of '{message.encoding}' "
            f"with step {message.step} take {needed}"
        )
