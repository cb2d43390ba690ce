"""Bounds for pictures of every format."""

from __future__ import annotations

from m2f_ros.errors import FrameError

# Few cameras have more, and most devices lack the memory for such a picture.
MAX_PIXELS = 1 << 26
# Bytes of a file, and of its pixels as they lie in it: MAX_PIXELS of four channels in 8 bits.
MAX_BYTES = 1 << 28


class TooManyPixelsError(FrameError):
    """A picture has more than MAX_PIXELS."""


def check_pixels(width: int, height: int) -> None:
    """Raise FrameError for an empty picture, TooManyPixelsError for one of more than MAX_PIXELS."""
    if width < 1 or height < 1:
        raise FrameError(f"the image is empty: width {width}, height {height}")
    if width * height > MAX_PIXELS:
        raise TooManyPixelsError(f"width {width} x height {height} is too large: at most {MAX_PIXELS} pixels")


def check_bytes(size: int) -> None:
    """Raise FrameError for a file of more than MAX_BYTES."""
    if size > MAX_BYTES:
        raise FrameError(f"{size} bytes are too many: a picture has at most {MAX_BYTES}")
