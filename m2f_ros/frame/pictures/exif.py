"""The orientation of a camera, by EXIF 2.3."""

from __future__ import annotations

import struct

import numpy as np

_ORIENTATION, _SHORT = 0x112, 3


def orientation_of(exif: bytes) -> int:
    """Return the orientation in EXIF data, which begins with "II" or "MM": 1..8, 1 where there is none."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 8:
        return 1
    (at,) = struct.unpack_from(f"{order}I", exif, 4)
    count = int.from_bytes(exif[at : at + 2], "little" if order == "<" else "big")
    entries = exif[at + 2 : at + 2 + 12 * count]
    entry = f"{order}HHIHH"
    for tag, kind, _, value, _ in struct.iter_unpack(entry, entries[: len(entries) // 12 * 12]):
        if tag == _ORIENTATION:
            return value if kind == _SHORT and value in range(1, 9) else 1
    return 1


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and flip a picture as its orientation (tag 274) says."""
    if orientation not in range(2, 9):
        return image
    if orientation > 4:
        image = image.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(image[::rows, ::columns])
