"""JPEG and PNG, as messages and files hold them."""

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

    kind: "JPEG" or "PNG". grey: without colours, that is, of one channel but for alpha, and no palette.
    data: the file, as it was given; what is no bytes is copied when it is decoded.
    """

    kind: str
    width: int
    height: int
    grey: bool
    data: bytes | memoryview

    def pixels(self) -> np.ndarray:
        """(H, W) grey or (H, W, 3) BGR, uint8, or uint16 of a PNG of 16 bits; alpha is left out.

        As the pixels lie in the file, whatever EXIF says of their orientation. Grey of 1, 2 and 4 bits is stretched to
        0..255. Raises FrameError for any damage.
        """
        try:
            if self.kind == "JPEG":
                return jpeg.decode(bytes(self.data), self.grey)
            return png.decode(bytes(self.data))
        except Exception as error:  # Pillow raises what comes, SyntaxError and struct.error among it
            raise self._damaged(error) from None

    def ids(self) -> np.ndarray | None:
        """(H, W) uint8 or uint16: the values of a grey PNG as they are, or the indices of its palette.

        None for colours, alpha and a JPEG. Raises FrameError for any damage.
        """
        if self.kind != "PNG":
            return None
        try:
            return png.decode_ids(bytes(self.data))
        except Exception as error:  # as above
            raise self._damaged(error) from None

    def palette(self) -> np.ndarray | None:
        """(N, 3) uint8 RGB, the colour of each index; None where there is none. Damage is found by `ids`."""
        return png.palette(bytes(self.data)) if self.kind == "PNG" else None

    def orientation(self) -> int:
        """EXIF's orientation, 1..8; 1 where there is none."""
        return orientation_of((jpeg if self.kind == "JPEG" else png).exif(bytes(self.data)))

    def _damaged(self, error: Exception) -> FrameError:
        what = f"{self.kind} of {self.width}x{self.height} pixels, {len(self.data)} bytes"
        return FrameError(f"{what}, is damaged: {words_of(error, 80)}")


def open_picture(data: bytes | memoryview) -> Picture:
    """Read the header of a JPEG or PNG, before any memory is taken for its pixels.

    data: bytes, or a view of them that stays as it is. Takes time by the number of segments before the size of the
    picture, which is bounded, and looks at the end. Raises FrameError, in one line, where the data is neither, is cut
    off, or its header is damaged, or the picture has more than MAX_PIXELS or MAX_BYTES, or more pixels than the data
    can hold.
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
    """Return False if a file is cut off; the decoder finds out for one longer than _LONG."""
    return len(data) > _LONG or any(bytes(data[-size:]).rfind(end) >= 0 for size in (_TAIL, len(data)))
