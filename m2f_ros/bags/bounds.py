"""Bounds on the decompressed bytes of a bag, against decompression bombs.

zstd packs 32 GiB of zeros into 1 MiB. A megabyte of pictures, however plain, unpacks to less than a gigabyte.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import lz4.frame
from backports import zstd

from m2f_ros.errors import words_of

# Most bytes of a message or a decompressed piece: 64 megapixels of bgr8 are 192 MiB.
LARGEST = 200 << 20
EARLIEST = -(1 << 63)  # a log time before all others, nanoseconds
# A file may unpack to RATIO times its size on the disk, or to LEAST bytes if that is more.
RATIO, LEAST = 1000, 2 << 30
# Bounds on the records of a file: a message takes at least 36 bytes, and rarely packs to a tenth.
_RECORDS, _PER_RECORD = 1_000_000, 2
# Files above this size are refused as sparse if they have too few blocks on the disk.
_SPARSE = 1 << 28
_STEP = 4096  # bytes of damaged data decompressed at a time

_DECOMPRESSORS = {"zstd": zstd.ZstdDecompressor, "lz4": lz4.frame.LZ4FrameDecompressor}
COMPRESSIONS = ("", *_DECOMPRESSORS)


class TooMuchError(Exception):
    """The file unpacks to more than its size allows."""


def most_of(size: int) -> int:
    """Return the number of bytes to which a file of this size may unpack."""
    return max(LEAST, RATIO * size)


class Allowance:
    """Counts the bytes that may still be unpacked in one pass over a file."""

    def __init__(self, size: int) -> None:
        """size: size of the file on the disk, bytes."""
        self._bytes, self._records = most_of(size), _RECORDS + size // _PER_RECORD
        self._says = f"unpacks to more than {self._bytes >> 20} MiB, and the rest is left out"

    def take(self, size: int) -> None:
        """Count `size` more bytes. Raises TooMuchError."""
        self._bytes -= size
        if self._bytes < 0:
            raise TooMuchError(self._says)

    def count(self, number: int) -> None:
        """Count `number` more records. Raises TooMuchError."""
        self._records -= number
        if self._records < 0:
            raise TooMuchError("has more records than a file of its size can hold, and the rest is left out")


def unpack(data: bytes, compression: str, expected: int = 0) -> tuple[bytes, str]:
    """Decompress data. Return (content, description of the damage or ""); damaged data gives the content before it.

    The content has at most LARGEST bytes.

    compression: "zstd" or "lz4". expected: stated size of the content, an untrusted hint.
    """
    found: list[bytes] = []
    problem = _unpack(data, compression, expected, len(data), found)
    if problem and not found:  # a decompressor returns nothing of a damaged piece
        problem = _unpack(data, compression, expected, _STEP, found)
    return found[0] if len(found) == 1 else b"".join(found), problem


def _unpack(data: bytes, compression: str, expected: int, step: int, found: list[bytes]) -> str:
    make = _DECOMPRESSORS[compression]
    # LZ4 allocates all of `most` at once.
    most = min(max(expected, 1 << 20), LARGEST) + 1 if compression == "lz4" else LARGEST + 1
    decompressor, size, at, piece = make(), 0, step, data[:step]
    while True:
        try:
            block = decompressor.decompress(piece, max_length=min(most, LARGEST + 1 - size))
        except Exception as error:  # each library has its own type
            return words_of(error)
        size += len(block)
        if size > LARGEST:
            found.append(block[: LARGEST - size])
            return f"it unpacks to more than {LARGEST >> 20} MiB"
        if block:
            found.append(block)
        piece = b""
        if decompressor.eof:
            at -= len(decompressor.unused_data or b"")
            if at >= len(data):
                return ""
            # There may be several frames. Small steps keep each from copying all bytes behind it.
            decompressor, step = make(), _STEP
        if decompressor.needs_input:
            if at >= len(data):
                return "it is cut off"
            piece = data[at : at + step]
            at += len(piece)


def require_file(path: Path) -> None:
    """Raise OSError for a device or a pipe, which could be endless, and for a sparse file."""
    state = os.stat(path)
    if not stat.S_ISREG(state.st_mode):
        raise OSError(0, "it is no file")
    # Network file systems may report 0 blocks.
    if state.st_blocks and state.st_size > max(_SPARSE, RATIO * 512 * state.st_blocks):
        raise OSError(0, f"{state.st_size} bytes, of which nearly all are holes")
