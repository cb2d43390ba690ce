"""Portable bitmaps, graymaps and pixmaps (PBM, PGM, PPM), as text and as bytes, by Netpbm's manual."""

from __future__ import annotations

import re

import numpy as np

from m2f_ros.errors import FrameError
from m2f_ros.frame.pictures.bounds import check_pixels

MAGIC = re.compile(rb"P[1-6][\s#]")
_HEADER = 1 << 12  # bytes
_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"
_NUMBER = _GAP + rb"(\d{1,9})"


def decode(data: bytes) -> np.ndarray:
    """Decode to (H, W) grey or (H, W, 3) BGR; uint8, or uint16 where values may exceed 255.

    The largest value that the file names becomes 255 or 65535. Raises FrameError for damage.
    """
    kind = data[1] - ord("0")
    head = re.match(rb"P[1-6]" + _NUMBER * (2 if kind in (1, 4) else 3), data[:_HEADER])
    if head is None or not data[head.end() : head.end() + 1].isspace():
        raise FrameError("it is damaged: its header cannot be read")
    width, height, *last = (int(number) for number in head.groups())
    largest = last[0] if last else 1
    check_pixels(width, height)
    if not 0 < largest < 1 << 16:
        raise FrameError(f"it is damaged: its largest value is {largest}")
    shape = (height, width, 3) if kind in (3, 6) else (height, width)
    values = _values(data, head.end() + 1, kind, shape, largest)
    if values.size != np.prod(shape):
        raise FrameError("it is damaged: it has too few values")
    values = values.reshape(shape)
    if kind in (1, 4):
        return (1 - values) * np.uint8(255)
    if values.max() > largest:
        raise FrameError(f"it is damaged: a value exceeds {largest}")
    full, dtype = (255, np.uint8) if largest < 256 else (65535, np.uint16)
    if largest != full:
        values = (values.astype(np.uint32) * full + largest // 2) // largest
    values = values.astype(dtype)
    return np.ascontiguousarray(values[..., ::-1]) if values.ndim == 3 else values


def _values(data: bytes, at: int, kind: int, shape: tuple[int, ...], largest: int) -> np.ndarray:
    count = int(np.prod(shape))
    if kind == 4:
        row = (shape[1] + 7) // 8
        if len(data) - at < row * shape[0]:
            raise FrameError("it is damaged: it has too few values")
        packed = np.frombuffer(data, np.uint8, row * shape[0], at).reshape(shape[0], row)
        return np.unpackbits(packed, axis=1, count=shape[1])
    if kind in (5, 6):
        dtype = np.dtype(np.uint8 if largest < 256 else ">u2")
        if len(data) - at < count * dtype.itemsize:
            raise FrameError("it is damaged: it has too few values")
        return np.frombuffer(data, dtype, count, at)
    if len(data) - at < count:
        raise FrameError("it is damaged: it has too few values")
    text = re.sub(rb"#[^\r\n]*", b"", data[at:])
    if kind == 1:
        bits = np.frombuffer(text.translate(None, b" \t\r\n\v\f"), np.uint8)[:count]
        if not np.isin(bits, (48, 49)).all():
            raise FrameError("it is damaged: it has something else than 0 and 1")
        return bits - np.uint8(48)
    if text.translate(None, b"0123456789 \t\r\n\v\f"):
        raise FrameError("it is damaged: it has something else than numbers")
    return np.fromstring(text, np.int64, count, sep=" ")
