"""Images between ROS messages and arrays: a view on the way in, one copy on the way out.

Encodings and the meaning of `step` and `is_bigendian` are those of sensor_msgs/msg/Image and
sensor_msgs/include/sensor_msgs/image_encodings.hpp.
"""

from __future__ import annotations

import sys
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from m2f_ros.errors import FrameError
from m2f_ros.pipeline.frame import ENCODINGS, LARGEST_SIDE, Frame

if TYPE_CHECKING:
    from sensor_msgs.msg import Image
    from std_msgs.msg import Header

# No camera is larger, and one larger than this would not fit into the memory of most devices.
MAX_PIXELS = 1 << 26


@dataclass(frozen=True)
class Layout:
    """How one pixel of an encoding lies in memory."""

    channels: int
    bytes_per_channel: int = 1

    @property
    def pixel_bytes(self) -> int:
        return self.channels * self.bytes_per_channel


# What the pipeline takes.
FRAME_LAYOUTS = {encoding: Layout(channels) for encoding, channels in ENCODINGS.items()}

# Label images above 255 classes.
LAYOUTS: dict[str, Layout] = {**FRAME_LAYOUTS, "mono16": Layout(1, 2)}


def decode(message: Image) -> Frame:
    """The frame of a camera's image message: a view of `message.data`, no copy.

    The view has shape (H, W) or (H, W, C), uint8; its rows are `message.step` bytes apart, which honours the
    padding of rows. It keeps the data alive.

    Raises FrameError, in one line with the field and its value, for an unknown encoding, an impossible size
    or step, too little data, or a size that the encoding cannot have.
    """
    return Frame(_view(message, FRAME_LAYOUTS), message.encoding)


def image_view(message: Image) -> np.ndarray:
    """The pixels of an image message, label images of 16 bit included: a view of `message.data`, no copy.

    Shape (H, W) or (H, W, C), uint8; for mono16 uint16 in the byte order of the message. Errors as `decode`.
    """
    return _view(message, LAYOUTS)


def encode(image: np.ndarray, encoding: str, header: Header) -> Image:
    """An image message of an array, with the header untouched and no row padding.

    image: (H, W) or (H, W, C), uint8, or uint16 for mono16, as the encoding asks; contiguous or not.
    Raises FrameError when encoding, shape and dtype do not agree.
    """
    # Here, so that `decode` can be used and tested where ROS is absent.
    from sensor_msgs.msg import Image

    return fill(Image(), image, encoding, header)


def fill(message: Any, image: np.ndarray, encoding: str, header: Any) -> Any:
    """Write an array into an image message; arguments and errors as `encode`. Returns the message."""
    layout = _layout(encoding, LAYOUTS)
    shape = image.shape[:2] if layout.channels == 1 else (*image.shape[:2], layout.channels)
    if image.ndim < 2 or image.shape != shape or image.dtype != f"u{layout.bytes_per_channel}":
        raise FrameError(f"an array of shape {image.shape} and type {image.dtype} is no '{encoding}' image")
    message.header = header
    message.height, message.width = image.shape[:2]
    message.encoding = encoding
    message.is_bigendian = int(layout.bytes_per_channel > 1 and sys.byteorder == "big")
    message.step = message.width * layout.pixel_bytes
    # The one copy. `frombytes` of a memoryview takes 0.2 ms for 6 MB; an ndarray or bytes assigned to `data`
    # is checked by rclpy element by element, which takes a second.
    data = array("B")
    data.frombytes(memoryview(np.ascontiguousarray(image)).cast("B"))
    message.data = data
    return message


def _layout(encoding: str, layouts: dict[str, Layout]) -> Layout:
    layout = layouts.get(encoding)
    if layout is None:
        # A camera may send anything, also a line break or a megabyte, and this goes to a log.
        raise FrameError(f"encoding {encoding[:40]!r} is not supported; supported: {', '.join(layouts)}")
    return layout


def _view(message: Any, layouts: dict[str, Layout]) -> np.ndarray:
    layout = _layout(message.encoding, layouts)
    height, width, step, size = message.height, message.width, message.step, len(message.data)
    if height == 0 or width == 0:
        raise FrameError(f"the image is empty: width {width}, height {height}")
    if max(height, width) > LARGEST_SIDE or height * width > MAX_PIXELS:
        raise FrameError(
            f"width {width} x height {height} is too large: at most {LARGEST_SIDE} a side and {MAX_PIXELS} pixels"
        )
    row = width * layout.pixel_bytes
    if step < row:
        raise FrameError(f"step {step} is too small: {width} pixels of '{message.encoding}' take {row} bytes")
    needed = step * (height - 1) + row
    if size < needed:
        raise FrameError(f"data has {size} bytes: {height} rows with step {step} take {needed}")
    shape, strides = (height, width), (step, layout.pixel_bytes)
    if layout.channels > 1:
        shape, strides = (*shape, layout.channels), (*strides, layout.bytes_per_channel)
    kind = f"{'>' if message.is_bigendian else '<'}u{layout.bytes_per_channel}"
    return np.ndarray(shape, np.dtype(kind), buffer=message.data, strides=strides)
