"""Which of 16 bits a picture uses."""

from __future__ import annotations

import numpy as np

_SHORTEST_DEPTH = 10


def used(image: np.ndarray) -> int:
    """The bits that any value of a uint16 array has set, in either byte order."""
    found = int(np.bitwise_or.reduce(image.view(image.dtype.newbyteorder("=")), axis=None))
    return found if image.dtype.isnative else (found & 0xFF) << 8 | found >> 8


def bits_of(seen: int) -> int:
    """How many of 16 bits a camera uses, from the low end, by the bits that were seen set: 10, 12, 14, or 16.

    16 also where values were shifted to the high end, as the 10 or 12 bits of a sensor often are: their low bits are
    never set, and they do not reach far. A picture of 8 bits that was shifted by two or four is one of 10 or 12.
    """
    if not seen:
        return 16
    bits = max(_SHORTEST_DEPTH, (seen.bit_length() + 1) // 2 * 2)
    unset = (seen & -seen).bit_length() - 1
    return bits if unset <= min(bits - 8, 4) else 16


def eight_bits(image: np.ndarray, bits: int) -> np.ndarray:
    """uint16 -> uint8: the highest 8 of `bits` (9..16); what exceeds them is 255."""
    return np.minimum(image >> (bits - 8), 255).astype(np.uint8)
