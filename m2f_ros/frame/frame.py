"""A frame as a camera sends it: raw bytes in a known encoding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from m2f_ros.errors import FrameError
from m2f_ros.frame.encodings import ENCODINGS, SIXTEEN

LARGEST_SIDE = 16384


@dataclass(frozen=True, eq=False)
class Ignored:
    """Pixels of a camera that get no label, such as those of its own vehicle. The frames of a camera share one object.

    Attributes:
        mask: (height, width) bool, True where a pixel is ignored; of any size of the images' shape.
    """

    mask: np.ndarray


@dataclass(frozen=True)
class Frame:
    """An image and how to read it.

    Attributes:
        data: uint8, or uint16 in either byte order, (height, width) for one channel, else (height, width, channels).
            Any strides, as of padded rows. It is not copied and must not change until the frame's result is there.
            (On a CPU, negative strides take a copy.)
        encoding: a key of ENCODINGS, or of SIXTEEN for uint16.
        bits: number of bits that uint16 data uses, counted from the low end, 9..16. The pipeline takes the highest 8 of
            them; larger values are white.
        ignored: pixels that get no label; None for none.
    Raises:
        FrameError: the encoding is unknown, the array does not fit it, or bits is out of range.
    """

    data: np.ndarray
    encoding: str
    bits: int = 16
    ignored: Ignored | None = None

    def __post_init__(self) -> None:
        name = SIXTEEN.get(self.encoding, self.encoding)
        if name not in ENCODINGS:
            known = ", ".join([*ENCODINGS, *SIXTEEN])
            raise FrameError(f"encoding {self.encoding!r} is not supported; send one of {known}")
        depth = ENCODINGS[name].channels
        kind = np.dtype(np.uint8 if name == self.encoding else np.uint16)
        if not isinstance(self.data, np.ndarray):
            raise FrameError(f"a frame's data must be a NumPy array, not {type(self.data).__name__}")
        shape = self.data.shape
        right = self.data.dtype.newbyteorder("=") == kind
        if not right or len(shape) != (2 if depth == 1 else 3) or shape[2:] not in ((), (depth,)):
            raise FrameError(
                f"an array {shape} of {self.data.dtype} is no {self.encoding} image; "
                f"it must be {kind} (height, width{f', {depth}' if depth > 1 else ''})"
            )
        height, width = shape[:2]
        if not (0 < height <= LARGEST_SIDE and 0 < width <= LARGEST_SIDE):
            raise FrameError(f"image size {width}x{height} is impossible; sides must be 1 to {LARGEST_SIDE}")
        if depth == 2 and width % 2:
            raise FrameError(f"{self.encoding} needs an even width, not {width}; two pixels share their colour")
        if self.encoding.startswith("bayer") and min(height, width) < 2:
            raise FrameError(f"{self.encoding} needs at least 2x2 pixels, not {width}x{height}")
        if not 9 <= self.bits <= 16:
            raise FrameError(f"bits is {self.bits}; of 16 bits 9 to 16 are used")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.data.shape[:2]

    @property
    def raw(self) -> tuple[np.ndarray, str]:
        """The data for the device: a uint8 view, and a key of ENCODINGS or FEWER.

        With a key of FEWER each value is two bytes, the low one first.
        """
        if self.encoding in ENCODINGS:
            return self.data, self.encoding
        if self.bits == 16:
            return high_byte(self.data), SIXTEEN[self.encoding]
        pairs = _bytes(self.data)
        return pairs if _little(self.data) else pairs[..., ::-1], self.encoding.replace("16", str(self.bits))


def high_byte(image: np.ndarray) -> np.ndarray:
    """Return a uint8 view of the high byte of uint16 values in either byte order."""
    return _bytes(image)[..., int(_little(image))]


def _bytes(image: np.ndarray) -> np.ndarray:
    """Return a (..., 2) uint8 view of uint16 values with any strides."""
    return image[..., None].view(np.uint8)


def _little(image: np.ndarray) -> bool:
    return image.dtype.newbyteorder("<") == image.dtype
