"""JPEG: checks of a file before it is decoded, and the decoder, simplejpeg on libjpeg-turbo.

The numbers of markers are those of ITU-T T.81, table B.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import simplejpeg

from m2f_ros.frame.pictures.bounds import MAX_PIXELS, check_pixels

JPEG = b"\xff\xd8\xff"
END = b"\xff\xd9"

# Segments, and bytes that fill the gaps between them: an ICC profile may take 255, a progressive file's tables 100.
MAX_SEGMENTS = 1024
# Encoders write about ten, of which each goes over all pixels.
MAX_SCANS = 64
MAX_SCANNED = 10 * MAX_PIXELS

_SEQUENTIAL, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2
_OTHER_FRAMES = {
    **dict.fromkeys((0xC3, 0xC7, 0xCB, 0xCF), "lossless"),
    **dict.fromkeys((0xC5, 0xC6, 0xCD, 0xCE), "hierarchical"),
    **dict.fromkeys((0xC9, 0xCA), "arithmetically coded"),
}
_START, _STOP, _SCAN, _TABLES, _APP1 = 0xD8, 0xD9, 0xDA, 0xDB, 0xE1
_WINDOW = 1 << 17  # bytes that are searched at once; they fit into the processor's cache
_HOLE = 512  # bytes; that many zeros in a scan are at least a third as many flat blocks, or a hole


@dataclass
class Layout:
    """The fields that the markers of a JPEG hold.

    Attributes:
        components: number of channels: 1, 3 or 4.
        exif: content of the first segment with EXIF; empty without.
        scans: number of scans found.
        begin: offset of the coded data of the last scan.
        end: offset behind it.
        size: bytes up to the end of the picture.
    """

    width: int = 0
    height: int = 0
    components: int = 0
    progressive: bool = False
    exif: bytes = b""
    scans: int = 0
    begin: int = 0
    end: int = 0
    size: int = 0

    @property
    def grey(self) -> bool:
        return self.components == 1

    @property
    def blocks(self) -> int:
        return -(-self.width // 8) * -(-self.height // 8)


def read_layout(data: bytes | memoryview, whole: bool) -> Layout:
    """Read the markers up to the size of the picture or, if `whole`, up to its end.

    The time grows with the number of segments, which is bounded, and if `whole` with the size of the coded data. Raises
    ValueError unless it is a baseline, extended or progressive JPEG of 8 bits with no more scans and segments than one
    needs, FrameError for more than MAX_PIXELS.
    """
    found = Layout()
    array = np.frombuffer(data, np.uint8)
    at = 2
    for _ in range(MAX_SEGMENTS):
        kind = data[at + 1] if at + 1 < len(data) and data[at] == 0xFF else 0
        if kind == 0xFF:  # fills a gap
            at += 1
            continue
        if kind == _STOP:
            if not found.scans:
                raise ValueError("it has no scan")
            found.size = at + 2
            return found
        if kind == 1 or 0xD0 <= kind <= 0xD7:  # without a length
            at += 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        begin, end = at + 4, at + 2 + length
        if kind in (0, _START) or length < 2 or end > len(data):
            raise ValueError(f"no segment at byte {at}")
        if kind in _OTHER_FRAMES:
            raise ValueError(f"it is {_OTHER_FRAMES[kind]}, which is not read")
        at = end
        if kind in (_SEQUENTIAL, _EXTENDED, _PROGRESSIVE):
            _read_frame(found, kind, data[begin:end], len(data))
            if not whole:
                return found
        elif kind == _APP1 and not found.exif and data[begin : min(begin + 6, end)] == b"Exif\0\0":
            found.exif = bytes(data[begin + 6 : end])
        elif kind == _TABLES and whole:
            _check_tables(data[begin:end])
        elif kind == _SCAN:
            if not found.width:
                raise ValueError("it has a scan before its size")
            found.scans += 1
            if found.scans > MAX_SCANS or found.scans * found.width * found.height > MAX_SCANNED:
                raise ValueError(f"more than {found.scans - 1} scans are too many for its size")
            found.begin = at
            at = found.end = _end_of_scan(array, at, found.blocks)
    raise ValueError(f"it has more than {MAX_SEGMENTS} segments")


def decode(data: bytes, grey: bool) -> np.ndarray:
    """Decode to (H, W) or (H, W, 3) BGR, uint8. Raises as the decoder and `read_layout` do, and ValueError."""
    layout = read_layout(data, whole=True)
    # The decoder gets the part that was checked, and nothing behind it.
    image = simplejpeg.decode_jpeg(memoryview(data)[: layout.size], "GRAY" if grey else "BGR")
    # Later scans of a progressive JPEG may well be zeros.
    if not layout.progressive and _has_hole(data, layout, image):
        raise ValueError("a hole of zeros in its scan")
    return image[..., 0] if grey else image


def exif(data: bytes) -> bytes:
    """Return the EXIF data of a JPEG whose header is good; empty without."""
    return read_layout(data, whole=False).exif


def _read_frame(found: Layout, kind: int, body: bytes | memoryview, size: int) -> None:
    if found.width:
        raise ValueError("it has two frames")
    if len(body) < 6 or len(body) != 6 + 3 * body[5]:
        raise ValueError("its frame is damaged")
    if body[0] != 8:
        raise ValueError(f"it has {body[0]} bits a channel; 8 are read")
    found.height, found.width = body[1] << 8 | body[2], body[3] << 8 | body[4]
    found.components, found.progressive = body[5], kind == _PROGRESSIVE
    if found.components not in (1, 3, 4):
        raise ValueError(f"it has {found.components} channels")
    check_pixels(found.width, found.height)
    # A block of 8x8 pixels takes a bit at least.
    if found.blocks > 8 * size:
        raise ValueError(f"{size} bytes are too few for {found.width}x{found.height} pixels")


def _check_tables(body: bytes | memoryview) -> None:
    """Raise ValueError for a quantisation table with a 0: the decoder would silently make a flat picture."""
    while body:
        wide = body[0] >> 4 > 0
        table, body = body[1 : 129 if wide else 65], body[129 if wide else 65 :]
        values = np.frombuffer(table[: len(table) & ~1], ">u2") if wide else np.frombuffer(table, np.uint8)
        if not values.all():
            raise ValueError("a quantisation table has a 0")


def _end_of_scan(array: np.ndarray, at: int, blocks: int) -> int:
    """Return the end of the coded data that begins at `at`: the first 0xFF without a 0 or a restart behind it.

    blocks: number of blocks of 8x8 pixels, and so the most restarts.
    """
    while at + 1 < len(array):
        part = array[at : at + _WINDOW]
        marks = (part[:-1] == 0xFF) & (part[1:] != 0)
        if marks.any():
            places = np.flatnonzero(marks)
            others = part[places + 1] & 0xF8 != 0xD0
            restarts = int(others.argmax()) if others.any() else len(others)
            blocks -= restarts
            if blocks < 0:
                raise ValueError("it has more restarts than blocks")
            if restarts < len(others):
                return at + int(places[restarts])
        at += len(part) - 1
    raise ValueError("its last scan does not end")


def _has_hole(data: bytes, layout: Layout, image: np.ndarray) -> bool:
    """Return True if a JPEG that libjpeg decoded without complaint has a run of zeros that no encoder wrote.

    image: (H, W, channels) uint8.

    The decoder notices a hole only if it changes the number of blocks. By ITU-T T.81, annex F, zeros are codes: either
    "nothing more in this block", and then all blocks of the run are flat and equal, or one pattern, repeated through
    all blocks, that no camera sees.
    """
    at = data.find(bytes(_HOLE), layout.begin, layout.end)
    if at < 0:
        return False
    rest = data[at : layout.end]
    zeros = len(rest) - len(rest.lstrip(b"\0"))
    height, width = (side // 8 * 8 for side in image.shape[:2])
    blocks = image[:height, :width, 0].reshape(height // 8, 8, width // 8, 8)
    value = blocks.min((1, 3)).flatten()
    alike = (value[1:] == value[:-1]) & (value == blocks.max((1, 3)).flatten())[1:]
    longest = int(np.diff(np.flatnonzero(~alike), prepend=-1, append=len(alike)).max(initial=0))
    # A flat block takes 6 bits at most. A colour unit has 3 blocks for 8x8 pixels, or 6 for 16x16 pixels, which fill
    # two rows of blocks at once: so many blocks follow each other in a row, or in rows that are flat from side to side.
    units, across = zeros * 8 // 36, -(-width // 16)
    expected = min(zeros * 8 // 18, max(min(units, across), 4 * (units - 2 * across)))
    return longest < expected // 2  # colours bleed into blocks at the edges
