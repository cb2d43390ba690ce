"""JPEG and PNG in messages and files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from m2f_ros.errors import FrameError, words_of
from m2f_ros.frame.pictures import jpeg, png
from m2f_ros.frame.pictures.bounds import check_bytes
from m2f_ros.frame.pictures.exif import orientation_of

_TAIL, _LONG = 1 << 10, 1 << 20  # bytes


@dataclass(frozen=True)
class Picture:
    """A JPEG or PNG whose header was read.

    Attributes:
        kind: "JPEG" or "PNG".
        width: in pixels.
        height: in pixels.
        grey: True if it has one channel beside alpha, and no palette.
        data: the content of the file; a view is copied when it is decoded.
    """

    kind: str
    width: int
    height: int
    grey: bool
    data: bytes | memoryview

    def pixels(self) -> np.ndarray:
        """Decode to (H, W) grey or (H, W, 3) BGR, uint8, or uint16 for a PNG of 16 bits; alpha is left out.

        The picture is not turned as EXIF says. Grey of 1, 2 and 4 bits is stretched to 0..255. Raises FrameError for
        any damage.
        """
        try:
            if self.kind == "JPEG":
                return jpeg.decode(bytes(self.data), self.grey)
            return png.decode(bytes(self.data))
        except Exception as error:  # Pillow raises what comes, SyntaxError and struct.error among it
            raise self._damaged(error) from None

    def ids(self) -> np.ndarray | None:
        """Decode the values of a grey PNG, or the indices of its palette: (H, W) uint8 or uint16.

        None for colours, alpha and a JPEG. Raises FrameError for any damage.
        """
        if self.kind != "PNG":
            return None
        try:
            return png.decode_ids(bytes(self.data))
        except Exception as error:  # as above
            raise self._damaged(error) from None

    def palette(self) -> np.ndarray | None:
        """Return (N, 3) uint8 RGB, the colour of each index; None without a palette. `ids` finds damage."""
        return png.palette(bytes(self.data)) if self.kind == "PNG" else None

    def orientation(self) -> int:
        """Return the orientation by EXIF, 1..8; 1 without."""
        return orientation_of((jpeg if self.kind == "JPEG" else png).exif(bytes(self.data)))

    def _damaged(self, error: Exception) -> FrameError:
        what = f"{self.kind} of {self.width}x{self.height} pixels, {len(self.data)} bytes"
        return FrameError(f"{what}, is damaged: {words_of(error, 80)}")


def open_picture(data: bytes | memoryview) -> Picture:
    """Read the header of a JPEG or PNG, before any memory is taken for its pixels.

    data: bytes, or a view of them that does not change.

    Reads the segments up to the size of the picture, whose number is bounded, and the end. Raises FrameError, in one
    line, if the data is neither, is cut off or has a damaged header, or if the picture has more than MAX_PIXELS or
    MAX_BYTES, or more pixels than the data can hold.
    """
    start = bytes(data[: len(png.PNG)])
    if start.startswith(jpeg.JPEG):
        kind, end = "JPEG", jpeg.END
    elif start == png.PNG:
        kind, end = "PNG", png.END
    else:
        raise FrameError(
            f"data begins with {start[:4].hex(' ')}: neither JPEG nor PNG" if start else "the picture is empty"
        )
    check_bytes(len(data))
    if not _has_end(data, end):
        raise FrameError(f"{kind} is cut off after {len(data)} bytes")
    try:
        header = jpeg.read_layout(data, whole=False) if kind == "JPEG" else png.read_header(data)
    except FrameError:
        raise
    except ValueError as error:
        raise FrameError(f"{kind} of {len(data)} bytes is damaged: {words_of(error, 80)}") from None
    return Picture(kind, header.width, header.height, header.grey, data)


def _has_end(data: bytes | memoryview, end: bytes) -> bool:
    """Return False if a file is cut off; if it is longer than _LONG, the decoder finds out."""
    return len(data) > _LONG or any(bytes(data[-size:]).rfind(end) >= 0 for size in (_TAIL, len(data)))
