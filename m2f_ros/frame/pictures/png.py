"""PNG: checks of the chunks that make the pixels, and the decoder, Pillow.

Numbers and names are those of the PNG specification, third edition, chapters 5 and 11.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL.PngImagePlugin import PngImageFile

from m2f_ros.frame.pictures.bounds import check_bytes, check_pixels
from m2f_ros.frame.pictures.pillow import deep_colours, pixels_of

PNG = b"\x89PNG\r\n\x1a\n"
END = b"\0\0\0\0IEND\xaeB`\x82"

# More chunks than that, and one for each _SHORT_CHUNK of the file, are too many: most encoders fill 4 KiB and more.
_CHUNKS, _SHORT_CHUNK = 1024, 256
_EXIF = 1 << 16
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEFLATE = 1032  # bytes, at most, of one of a zlib stream
# First column and row of each pass of an interlaced PNG, and the steps between them.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


@dataclass(frozen=True)
class Header:
    """The IHDR chunk.

    Attributes:
        depth: bits of a channel.
        colour: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha.
    """

    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool

    @property
    def grey(self) -> bool:
        return self.colour in (0, 4)

    @property
    def size(self) -> int:
        """Bytes of all rows, each with the byte of its filter."""
        bits, size = self.depth * _CHANNELS[self.colour], 0
        for x, y, right, down in _ADAM7 if self.interlaced else ((0, 0, 1, 1),):
            if x < self.width and y < self.height:
                columns, rows = -((x - self.width) // right), -((y - self.height) // down)
                size += rows * (1 + (columns * bits + 7) // 8)
        return size


@dataclass(frozen=True)
class Chunks:
    """The content of a PNG, its checksums compared.

    Attributes:
        exif: content of the eXIf chunk; empty without.
        rows: parts of the zlib stream.
        critical: a PNG of the critical chunks alone.
    """

    exif: bytes
    rows: list[memoryview]
    critical: bytes


def read_header(data: bytes | memoryview) -> Header:
    """Read IHDR. Raises ValueError if it is damaged or the file is too small for it, FrameError if it is too large."""
    if len(data) < 33 or data[8:16] != b"\0\0\0\rIHDR":
        raise ValueError("it does not begin with its size")
    width, height, depth, colour, compression, filtering, interlaced, checksum = struct.unpack_from(
        ">IIBBBBBI", data, 16
    )
    if zlib.crc32(data[12:29]) != checksum:
        raise ValueError("a wrong checksum in IHDR")
    if depth not in _DEPTHS.get(colour, ()) or compression or filtering or interlaced > 1:
        raise ValueError("its header has values that no PNG has")
    check_pixels(width, height)
    header = Header(width, height, depth, colour, bool(interlaced))
    check_bytes(width * height * depth * _CHANNELS[colour] // 8)
    if header.size > _DEFLATE * len(data):
        raise ValueError(f"{len(data)} bytes are too few for {width}x{height} pixels")
    return header


def read_chunks(data: bytes) -> Chunks:
    """Read all chunks. Raises ValueError for a wrong checksum, chunks in disorder, or too many of them."""
    kept: list[bytes | memoryview] = [data[:8]]
    rows: list[memoryview] = []
    exif = before = b""
    for kind, whole in _chunks(data):
        if kind == b"eXIf" and len(whole) <= _EXIF:
            exif = bytes(whole[8:-4])
        if kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            first, late = kind == b"IHDR", (kind == b"PLTE" and rows) or (kind == b"IDAT" and rows and before != kind)
            if first == bool(before) or late:
                raise ValueError(f"its {kind.decode()} chunk is in the wrong place")
            kept.append(whole)
            if kind == b"IDAT":
                rows.append(whole[8:-4])
        elif not kind[0] & 0x20:
            raise ValueError(f"an unknown chunk {kind!r}")
        before = kind
    return Chunks(exif, rows, b"".join(kept))


def check_rows(rows: list[memoryview], header: Header) -> None:
    """Raise ValueError if the zlib stream is too short for the rows of the header."""
    stream, missing = zlib.decompressobj(), header.size
    for part in rows:
        for at in range(0, len(part), 1 << 16):  # the rest that is not consumed is copied each time
            rest: bytes | memoryview = part[at : at + (1 << 16)]
            while rest and not stream.eof and missing > 0:
                missing -= len(stream.decompress(rest, 1 << 20))
                rest = stream.unconsumed_tail
    if missing > 0:
        raise ValueError("it has too few rows")


def decode(data: bytes) -> np.ndarray:
    """Decode to (H, W) grey or (H, W, 3) BGR, uint8 or uint16, without alpha. Raises as Pillow and `read_chunks`."""
    image, header, chunks = _load(data)
    if header.depth == 16 and header.colour != 0:
        return deep_colours(image, _open(chunks))
    return pixels_of(image)


def decode_ids(data: bytes) -> np.ndarray | None:
    """Decode grey values as they are, or indices: (H, W) uint8 or uint16; None for colours and alpha. As `decode`."""
    image, header, _ = _load(data)
    if header.colour not in (0, 3):
        return None
    values = np.asarray(image)
    if header.depth == 16:
        return values.astype(np.uint16, copy=False)
    values = values.astype(np.uint8, copy=False)
    # Pillow stretches grey of 2 and 4 bits.
    return values // (255 // (2**header.depth - 1)) if header.colour == 0 and header.depth in (2, 4) else values


def palette(data: bytes) -> np.ndarray | None:
    """Return (N, 3) uint8 RGB, the colour of each index; None without a palette. Raises as `read_chunks`."""
    colours = _open(read_chunks(data)).getpalette()
    return None if colours is None else np.array(colours, np.uint8).reshape(-1, 3)


def exif(data: bytes) -> bytes:
    """Return the EXIF data, empty without. Raises as `read_chunks`."""
    return read_chunks(data).exif if b"eXIf" in data else b""


def _load(data: bytes) -> tuple[PngImageFile, Header, Chunks]:
    header, chunks = read_header(data), read_chunks(data)
    image = _open(chunks)
    image.load()
    # Pillow says nothing of a stream that ends in good order before the last row, and leaves 0 there.
    if header.interlaced or not np.asarray(image.crop((0, header.height - 1, header.width, header.height))).any():
        check_rows(chunks.rows, header)
    return image, header, chunks


def _open(chunks: Chunks) -> PngImageFile:
    return PngImageFile(io.BytesIO(chunks.critical))


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield (kind, bytes from length to checksum) of each chunk up to IEND."""
    view, at = memoryview(data), len(PNG)
    for _ in range(_CHUNKS + len(data) // _SHORT_CHUNK):
        if at + 12 > len(data):
            raise ValueError("it is cut off")
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data) or not kind.isalpha():
            raise ValueError(f"no chunk at byte {at}")
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise ValueError(f"a wrong checksum in {kind.decode()}")
        yield kind, view[at:end]
        if kind == b"IEND":
            return
        at = end
    raise ValueError("it has too many short chunks")
