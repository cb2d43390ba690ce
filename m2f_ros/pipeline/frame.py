"""A frame as a camera sends it: raw bytes in a known encoding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from m2f_ros.errors import FrameError

# Bytes a pixel of each encoding that the pipeline converts on the device. Names: sensor_msgs/image_encodings.hpp.
ENCODINGS = {
    "rgb8": 3,
    "bgr8": 3,
    "rgba8": 4,
    "bgra8": 4,
    "mono8": 1,
    "8UC1": 1,
    "8UC3": 3,
    "8UC4": 4,
    "bayer_rggb8": 1,
    "bayer_bggr8": 1,
    "bayer_gbrg8": 1,
    "bayer_grbg8": 1,
    "yuv422": 2,
    "uyvy": 2,
    "yuv422_yuy2": 2,
    "yuyv": 2,
}
LARGEST_SIDE = 16384


@dataclass(frozen=True)
class Frame:
    """An image and how to read it.

    Attributes:
        data: uint8, (height, width) for one byte a pixel, else (height, width, bytes); may be a view with any strides,
            as of padded rows. Not copied, so it must not change before the frame's result is there.
        encoding: a key of ENCODINGS.
    Raises:
        FrameError: the encoding is not known, or the array is not one of it.
    """

    data: np.ndarray
    encoding: str

    def __post_init__(self) -> None:
        depth = ENCODINGS.get(self.encoding)
        if depth is None:
            raise FrameError(f"encoding {self.encoding!r} is not supported; send one of {', '.join(ENCODINGS)}")
        shape = self.data.shape
        if self.data.dtype != np.uint8 or len(shape) != (2 if depth == 1 else 3) or shape[2:] not in ((), (depth,)):
            raise FrameError(
                f"an array {shape} of {self.data.dtype} is no {self.encoding} image; "
                f"it must be uint8 (height, width{f', {depth}' if depth > 1 else ''})"
            )
        height, width = shape[:2]
        if not (0 < height <= LARGEST_SIDE and 0 < width <= LARGEST_SIDE):
            raise FrameError(f"image size {width}x{height} is impossible; sides must be 1 to {LARGEST_SIDE}")
        if depth == 2 and width % 2:
            raise FrameError(f"{self.encoding} needs an even width, not {width}; two pixels share their colour")
        if self.encoding.startswith("bayer") and min(height, width) < 2:
            raise FrameError(f"{self.encoding} needs at least 2x2 pixels, not {width}x{height}")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.data.shape[:2]
