"""What a picture may take: bounds that hold for every format."""

from __future__ import annotations

from m2f_ros.errors import FrameError

# No camera is larger, and one larger than this would not fit into the memory of most devices.
MAX_PIXELS = 1 << 26
# Of a file, and of its pixels as they lie in it: 8 bits of four channels in MAX_PIXELS.
MAX_BYTES = 1 << 28


def check_pixels(width: int, height: int) -> None:
    """FrameError for an empty picture, or one of more than MAX_PIXELS."""
    if width < 1 or height < 1:
        raise FrameError(f"the image is empty: width {width}, height {height}")
    if width * height > MAX_PIXELS:
        raise FrameError(f"width {width} x height {height} is too large: at most {MAX_PIXELS} pixels")


def check_bytes(size: int) -> None:
    """FrameError for a file of more than MAX_BYTES."""
    if size > MAX_BYTES:
        raise FrameError(f"{size} bytes are too many: a picture has at most {MAX_BYTES}")


def words(error: Exception) -> str:
    """What a library says, for the end of a line."""
    return " ".join(str(error).split())[:80] or type(error).__name__
