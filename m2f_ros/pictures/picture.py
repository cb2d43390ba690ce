"""JPEG and PNG, as messages and files hold them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from m2f_ros.errors import FrameError
from m2f_ros.pictures import jpeg, png
from m2f_ros.pictures.bounds import check_bytes, words
from m2f_ros.pictures.exif import orientation_of

_TAIL = 1 << 20  # bytes at the end of a file, among which its end is looked for before it is decoded


@dataclass(frozen=True)
class Picture:
    """A JPEG or PNG whose header was read.

    kind: "JPEG" or "PNG". grey: without colours, that is, of one channel but for alpha, and no palette.
    """

    kind: str
    width: int
    height: int
    grey: bool
    data: bytes

    def pixels(self) -> np.ndarray:
        """(H, W) grey or (H, W, 3) BGR, uint8, or uint16 of a PNG of 16 bits; alpha is left out.

        As the pixels lie in the file, whatever EXIF says of their orientation. Grey of 1, 2 and 4 bits is stretched to
        0..255. Raises FrameError for any damage.
        """
        try:
            if self.kind == "JPEG":
                return jpeg.decode(self.data, self.grey)
            return png.decode(self.data)
        except Exception as error:  # Pillow raises what comes, SyntaxError and struct.error among it
            raise self._damaged(error) from None

    def ids(self) -> np.ndarray | None:
        """(H, W) uint8 or uint16: the values of a grey PNG as they are, or the indices of its palette.

        None for colours, alpha and a JPEG. Raises FrameError for any damage.
        """
        if self.kind != "PNG":
            return None
        try:
            return png.decode_ids(self.data)
        except Exception as error:  # as above
            raise self._damaged(error) from None

    def palette(self) -> np.ndarray | None:
        """(N, 3) uint8 RGB, the colour of each index; None where there is none. Damage is found by `ids`."""
        return png.palette(self.data) if self.kind == "PNG" else None

    def orientation(self) -> int:
        """EXIF's orientation, 1..8; 1 where there is none."""
        return orientation_of((jpeg if self.kind == "JPEG" else png).exif(self.data))

    def _damaged(self, error: Exception) -> FrameError:
        return FrameError(
            f"{self.kind} of {self.width}x{self.height} pixels, {len(self.data)} bytes, is damaged: {words(error)}"
        )


def open_picture(data: bytes) -> Picture:
    """Read the header of a JPEG or PNG, before any memory is taken for its pixels.

    Takes time by the number of bytes before the size of the picture and the segments that they hold, which is bounded.
    Raises FrameError, in one line, where the data is neither, is cut off, or its header is damaged, or the picture has
    more than MAX_PIXELS or MAX_BYTES, or more pixels than the data can hold.
    """
    if data.startswith(jpeg.JPEG):
        kind, end = "JPEG", jpeg.END
    elif data.startswith(png.PNG):
        kind, end = "PNG", png.END
    else:
        raise FrameError(
            f"data begins with {data[:4].hex(' ')}: neither JPEG nor PNG" if data else "the picture is empty"
        )
    check_bytes(len(data))
    # The decoders see it, too, but later, and in what is longer they alone.
    if len(data) <= _TAIL and data.rfind(end) < 0:
        raise FrameError(f"{kind} is cut off after {len(data)} bytes")
    try:
        header = jpeg.read_layout(data, whole=False) if kind == "JPEG" else png.read_header(data)
    except FrameError:
        raise
    except ValueError as error:
        raise FrameError(f"{kind} of {len(data)} bytes is damaged: {words(error)}") from None
    return Picture(kind, header.width, header.height, header.grey, data)
