"""JPEG, PNG and other image files, decoded whole or not at all.

OpenCV and libjpeg fill in what a file lacks and say nothing: here simplejpeg, on libjpeg-turbo, raises on its warnings,
and Pillow, whose limits hold against files that are made to exhaust memory, compares the checksums of a PNG. A
decoder sees the data of its own format alone.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from m2f_ros.errors import FrameError

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"
# Suffixes of files. Formats by Pillow's names; JPEG and PNG are decoded like those of messages.
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pnm")
_FORMATS = ("BMP", "TIFF", "WEBP", "PPM")

_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_JPEG_END = b"\xff\xd9"
# First column and row of each pass of an interlaced PNG, and the steps between them.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_HOLE = 512  # bytes; so many zeros in a scan, or more, are at least a third as many flat blocks, or a hole
_ORIENTATION, _BITS = 0x112, 0x102  # tags of EXIF and TIFF
_DEEP = ("I;16", "I")  # grey of 16 bits; the latter before Pillow 11
_GREY = ("1", "L", "LA", *_DEEP)
_SHORTEST_DEPTH = 10


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
        if self.kind == "PNG":
            return _pixels(*self._decoded_png())
        try:
            image = simplejpeg.decode_jpeg(self.data, "GRAY" if self.grey else "BGR")
        except (ValueError, RuntimeError) as error:
            raise self._damaged(error) from None
        if _has_hole(self.data, image):
            raise self._damaged(ValueError("a hole of zeros in its scan"))
        return image[..., 0] if self.grey else image

    def ids(self) -> np.ndarray | None:
        """(H, W) uint8 or uint16: the values of a grey PNG as they are, or the indices of its palette.

        None for colours, alpha and a JPEG. Raises FrameError for any damage.
        """
        if self.kind != "PNG":
            return None
        image, mode = self._decoded_png()
        if isinstance(image, np.ndarray) or image.mode not in ("1", "L", "P", *_DEEP):
            return None
        values = np.asarray(image)
        if image.mode == "1" or image.mode in _DEEP:
            return values.astype(np.uint8 if image.mode == "1" else np.uint16)
        return values // {"L;2": 85, "L;4": 17}[mode] if mode in ("L;2", "L;4") else values

    def palette(self) -> np.ndarray | None:
        """(N, 3) uint8 RGB, the colour of each index; None where there is none. Damage is found by `ids`."""
        image = PngImageFile(io.BytesIO(self.data)) if self.kind == "PNG" else None
        colours = image.getpalette() if image is not None else None
        return None if colours is None else np.array(colours, np.uint8).reshape(-1, 3)

    def orientation(self) -> int:
        """EXIF's orientation, 1..8; 1 where there is none."""
        try:
            image = (JpegImageFile if self.kind == "JPEG" else PngImageFile)(io.BytesIO(self.data))
            return image.getexif().get(_ORIENTATION, 1)
        except Exception:  # the pixels are whole all the same
            return 1

    def _decoded_png(self) -> tuple[Image.Image | np.ndarray, str]:
        """The image and how its pixels lie in the file, in Pillow's words; of colours in 16 bits the array."""
        try:
            PngImageFile(io.BytesIO(self.data)).verify()  # the checksums of all chunks
            image = PngImageFile(io.BytesIO(self.data))
            mode = str(image.tile[0][3])
            image.load()
            # Pillow says nothing of a stream that ends in good order before the last row, and leaves 0 there.
            if image.info.get("interlace") or not np.asarray(image)[-1].any():
                _check_rows(self.data)
            if mode.endswith("16B") and image.mode not in _DEEP:
                # Pillow keeps the high bytes alone. FFmpeg, which does not hold against every attack, may see the file
                # once Pillow has found it good.
                return _sixteen_bit_colours(self.data), mode
        except Exception as error:  # Pillow raises what comes, SyntaxError and struct.error among it
            raise self._damaged(error) from None
        return image, mode

    def _damaged(self, error: Exception) -> FrameError:
        return FrameError(
            f"{self.kind} of {self.width}x{self.height} pixels, {len(self.data)} bytes, is damaged: {_words(error)}"
        )


def open_picture(data: bytes) -> Picture:
    """Read the header of a JPEG or PNG, before any memory is taken for its pixels.

    Raises FrameError, in one line, where the data is neither, is cut off, or its header is damaged.
    """
    if data.startswith(JPEG):
        kind, end = "JPEG", _JPEG_END
    elif data.startswith(PNG):
        kind, end = "PNG", _PNG_END
    else:
        raise FrameError(
            f"data begins with {data[:4].hex(' ')}: neither JPEG nor PNG" if data else "the picture is empty"
        )
    # The decoders see it, too, but later.
    if data.rfind(end) < 0:
        raise FrameError(f"{kind} is cut off after {len(data)} bytes")
    try:
        if kind == "JPEG":
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
            return Picture(kind, width, height, colours == "Gray", data)
        image = PngImageFile(io.BytesIO(data))
        return Picture(kind, *image.size, image.mode in _GREY or image.tile[0][3] == "LA;16B", data)
    except Exception as error:  # Pillow raises what comes
        raise FrameError(f"{kind} of {len(data)} bytes is damaged: {_words(error)}") from None


def read_picture(path: Path) -> np.ndarray:
    """The picture in a file of one of SUFFIXES, told by its content: (H, W) grey or (H, W, 3) BGR, uint8 or uint16.

    Turned upright as EXIF says. Raises FrameError, without the path, where it cannot be read, is damaged, holds more
    than one picture, or no values of 8 or 16 bits.
    """
    try:
        data = path.read_bytes()
        if data.startswith((JPEG, PNG)):
            picture = open_picture(data)
            return _upright(picture.pixels(), picture.orientation())
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise FrameError(f"it holds {image.n_frames} pictures; write each into a file of its own")
            deep = image.mode in ("RGB", "RGBA") and (
                16 in image.tag_v2.get(_BITS, ())
                if image.format == "TIFF"
                else image.format == "PPM" and image.tile[0][3] == ("RGB", 65535)
            )
            image.load()
            pixels = _pixels(image, image.mode)
            if deep:  # Pillow keeps the high bytes alone
                pixels = _low_bytes_too(pixels, data)
            # Pillow turns a TIFF by itself, as OpenCV does.
            return _upright(pixels, image.getexif().get(_ORIENTATION, 1))
    except FrameError:
        raise
    except UnidentifiedImageError:
        raise FrameError(f"it is none of {', '.join(suffix[1:] for suffix in SUFFIXES)}") from None
    except Exception as error:  # Pillow raises what comes
        raise FrameError(f"it is damaged: {_words(error)}") from None


def read_colours(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 BGR of a file; as `read_picture`, and of 16 bits as `eight_bits` by what is in this file."""
    image = read_picture(path)
    if image.dtype != np.uint8:
        image = eight_bits(image, bits_of(used(image)))
    return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image


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


def _has_hole(data: bytes, image: np.ndarray) -> bool:
    """True where a JPEG that libjpeg took for whole has a run of zeros that no encoder wrote.

    The decoder notices a hole only where another number of blocks comes of it. By ITU-T T.81, annex F, zeros are codes:
    either "nothing more in this block", and then all blocks of the run are flat and equal, or one pattern, repeated
    through all blocks, that no camera sees. image: (H, W, channels) uint8.
    """
    scan = data.rfind(b"\xff\xda")
    # Later scans of a progressive JPEG may well be zeros.
    at = data.find(bytes(_HOLE), scan, data.rfind(_JPEG_END))
    if at < 0 or b"\xff\xc2" in data[:scan]:
        return False
    zeros = len(data) - at - len(data[at:].lstrip(b"\0"))
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


def _pixels(image: Image.Image | np.ndarray, mode: str) -> np.ndarray:
    if isinstance(image, np.ndarray):
        return image
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8) * 255
    if image.mode in ("L", "I;16"):
        return np.asarray(image)
    if image.mode == "LA":
        return np.ascontiguousarray(np.asarray(image)[..., 0])
    if image.mode in ("I;16B", "I"):  # TIFF and PGM of 16 bits
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise FrameError(f"has values of 32 bits, {values.min()} to {values.max()}; a picture has 8 or 16")
        return values.astype(np.uint16)
    if image.mode == "F":
        raise FrameError("has values with a fraction; a picture has whole numbers of 8 or 16 bits")
    return cv2.cvtColor(np.asarray(image.convert("RGB")), cv2.COLOR_RGB2BGR)


def _sixteen_bit_colours(data: bytes) -> np.ndarray:
    """(H, W) or (H, W, 3) BGR uint16 of a whole PNG with 16 bits a channel, without its alpha."""
    import av  # takes long, and few pictures have so many bits

    decoder = av.CodecContext.create("png", "r")
    decoder.thread_count = 1
    (frame,) = decoder.decode(av.Packet(data))
    channels = len(frame.format.components)
    plane = frame.planes[0]
    rows = np.frombuffer(plane, ">u2").reshape(frame.height, plane.line_size // 2)
    values = rows[:, : frame.width * channels].reshape(frame.height, frame.width, channels).astype(np.uint16)
    return np.ascontiguousarray(values[..., 0] if channels < 3 else values[..., 2::-1])


def _low_bytes_too(high: np.ndarray, data: bytes) -> np.ndarray:
    """The values of a TIFF or PPM whose high bytes are known, (H, W, 3) BGR: uint8 -> uint16.

    FrameError where OpenCV makes something else of the file, as of colours in separate planes.
    """
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)
    # Pillow rounds those of a PPM.
    if image is None or image.shape != high.shape or cv2.norm(eight_bits(image, 16), high, cv2.NORM_INF) > 1:
        raise FrameError("its colours of 16 bits cannot be read; write it as PNG")
    return image


def _check_rows(data: bytes) -> None:
    """ValueError where a PNG, whose checksums are right, has fewer rows than its header says."""
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    missing = 0
    for x, y, right, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        if x < width and y < height:
            columns, rows = -((x - width) // right), -((y - height) // down)
            missing += rows * (1 + (columns * bits + 7) // 8)
    stream, at = zlib.decompressobj(), len(PNG)
    while at < len(data) and missing > 0:
        length, kind = struct.unpack_from(">I4s", data, at)
        part = data[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        while part and not stream.eof:
            missing -= len(stream.decompress(part, 1 << 20))
            part = stream.unconsumed_tail
        at += 12 + length
    if missing > 0:
        raise ValueError("it has too few rows")


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """By EXIF 2.3, tag 274: whether rows are columns, and which of both run backwards."""
    if orientation not in range(2, 9):
        return image
    if orientation > 4:
        image = image.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(image[::rows, ::columns])


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:80] or type(error).__name__
