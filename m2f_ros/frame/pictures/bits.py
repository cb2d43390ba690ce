"""The number of bits that a picture of 16 bits uses."""

from __future__ import annotations

import numpy as np

_SHORTEST_DEPTH = 10


def used(image: np.ndarray) -> int:
    """Return the bitwise or of all values of a uint16 array, in either byte order."""
    found = int(np.bitwise_or.reduce(image.view(image.dtype.newbyteorder("=")), axis=None))
    return found if image.dtype.isnative else (found & 0xFF) << 8 | found >> 8


def bits_of(seen: int) -> int:
    """Return the number of bits that a camera uses, counted from the low end: 10, 12, 14 or 16.

    seen: bitwise or of the values.

    16 also for values that are shifted to the high end, as the 10 or 12 bits of a sensor often are: their low bits are
    never set. A picture of 8 bits that is shifted by two or four counts as one of 10 or 12.
    """
    if not seen:
        return 16
    bits = max(_SHORTEST_DEPTH, (seen.bit_length() + 1) // 2 * 2)
    unset = (seen & -seen).bit_length() - 1
    return bits if unset <= min(bits - 8, 4) else 16


def eight_bits(image: np.ndarray, bits: int) -> np.ndarray:
    """Convert uint16 to uint8: the highest 8 of `bits` (9..16); larger values become 255."""
    return np.minimum(image >> (bits - 8), 255).astype(np.uint8)
