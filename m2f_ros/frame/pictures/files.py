"""Files that hold pictures, in the formats of data sets."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from m2f_ros.errors import FrameError, words_of
from m2f_ros.frame.pictures import pnm
from m2f_ros.frame.pictures.bits import bits_of, eight_bits, used
from m2f_ros.frame.pictures.bounds import MAX_BYTES, MAX_PIXELS, check_bytes, check_pixels
from m2f_ros.frame.pictures.exif import orientation_of, upright
from m2f_ros.frame.pictures.jpeg import JPEG
from m2f_ros.frame.pictures.picture import open_picture
from m2f_ros.frame.pictures.pillow import deep_colours, pixels_of
from m2f_ros.frame.pictures.png import PNG

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pnm")

_TIFF = {b"II*\0": "<", b"MM\0*": ">"}
# Bytes of a value of each of TIFF's types, from 1 on.
_TIFF_SIZES = (1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4)
_TIFF_COMPRESSIONS = ("raw", "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate")
# Tags of TIFF: bits of a channel, where strips and tiles lie and how long they are, sides of a tile.
_BITS, _TIFF_PARTS, _TIFF_TILE = 0x102, (273, 279, 324, 325), (322, 323)
_MOST_PARTS = 1 << 16

# Pillow warns of a damaged file; this module raises an error for it instead.
warnings.filterwarnings("ignore", module=r"PIL\.")


def read_bytes(path: Path) -> bytes:
    """Read a file. Raises FrameError if it is no regular file or has more than MAX_BYTES, and OSError."""
    if path.exists() and not path.is_file():
        raise FrameError("it is no regular file")
    with open(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    check_bytes(len(data))
    return data


def read_picture(path: Path) -> np.ndarray:
    """Read the picture in a file: (H, W) grey or (H, W, 3) BGR, uint8 or uint16, turned upright as EXIF says.

    The content decides on the format, one of SUFFIXES. Raises FrameError, without the path, if it cannot be read, is
    damaged, or holds several pictures, values of neither 8 nor 16 bits, or more than MAX_PIXELS.
    """
    try:
        return picture_of(read_bytes(path))
    except OSError as error:
        raise FrameError(f"it cannot be read: {words_of(error, 80)}") from None


def picture_of(data: bytes) -> np.ndarray:
    """Decode the picture in the content of a file; as `read_picture`."""
    try:
        if data.startswith((JPEG, PNG)):
            picture = open_picture(data)
            return upright(picture.pixels(), picture.orientation())
        if pnm.MAGIC.match(data):
            return pnm.decode(data)
        if data[:4] in _TIFF:
            return _tiff(data)
        if data.startswith(b"BM"):
            return _bmp(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp(data)
    except FrameError:
        raise
    except UnidentifiedImageError:
        raise FrameError("it is damaged: its header cannot be read") from None
    except Exception as error:  # Pillow raises what comes
        raise FrameError(f"it is damaged: {words_of(error, 80)}") from None
    raise FrameError(f"it is none of {', '.join(suffix[1:] for suffix in SUFFIXES)}")


def read_colours(path: Path) -> np.ndarray:
    """Read (H, W, 3) uint8 BGR from a file; as `read_picture`. The values decide how many of 16 bits are used."""
    image = read_picture(path)
    if image.dtype != np.uint8:
        image = eight_bits(image, bits_of(used(image)))
    return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image


def _tiff(data: bytes) -> np.ndarray:
    _check_directory(data)

    def opened() -> TiffImageFile:
        image = Image.open(io.BytesIO(data), formats=("TIFF",))
        assert isinstance(image, TiffImageFile)
        return image

    image = opened()
    check_pixels(*image.size)
    compression = image.info.get("compression")
    if compression not in _TIFF_COMPRESSIONS:
        raise FrameError(f"its compression {str(compression)[:40]} is not read; write it as PNG")
    # Pillow turns it by itself, as OpenCV does.
    if image.mode in ("RGB", "RGBA") and 16 in image.tag_v2.get(_BITS, ()):
        return deep_colours(image, opened())
    image.load()
    return pixels_of(image)


def _check_directory(data: bytes) -> None:
    """Raise FrameError for a TIFF of several pictures, or with tags larger than the file: Pillow reads all of them."""
    order = _TIFF[data[:4]]
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, at)
    entries = data[at + 2 : at + 2 + 12 * count]
    taken, tile = 0, 1
    for place in range(0, len(entries) // 12 * 12, 12):
        tag, kind, number = struct.unpack_from(f"{order}HHI", entries, place)
        taken += number * (_TIFF_SIZES[kind - 1] if 0 < kind <= len(_TIFF_SIZES) else 1)
        if tag in _TIFF_PARTS and number > _MOST_PARTS:
            raise FrameError(f"it has {number} strips or tiles; at most {_MOST_PARTS} are read")
        if tag in _TIFF_TILE:
            tile *= struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", entries, place + 8)[0]
    if taken > len(data):
        raise FrameError("it is damaged: its tags are larger than the file")
    if tile > MAX_PIXELS:
        raise FrameError(f"its tiles of {tile} pixels are too large: at most {MAX_PIXELS}")
    if data[at + 2 + 12 * count : at + 6 + 12 * count] not in (b"", bytes(4)):
        raise FrameError("it holds more than one picture; write each into a file of its own")


def _bmp(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data), formats=("BMP",))
    check_pixels(*image.size)
    if image.tile[0][0] != "raw":
        raise FrameError("it is a compressed BMP, which is not read; write it as PNG")
    image.load()
    return pixels_of(image)


def _webp(data: bytes) -> np.ndarray:
    # The decoder takes the memory of the pixels when it is opened.
    kind, head = data[12:16], int.from_bytes(data[20:30].ljust(10, b"\0"), "little")
    if kind == b"VP8X":
        size = (head >> 32 & 0xFFFFFF) + 1, (head >> 56 & 0xFFFFFF) + 1
    elif kind == b"VP8L":
        size = (head >> 8 & 0x3FFF) + 1, (head >> 22 & 0x3FFF) + 1
    else:
        size = head >> 48 & 0x3FFF, head >> 64 & 0x3FFF
    check_pixels(*size)
    image = Image.open(io.BytesIO(data), formats=("WEBP",))
    check_pixels(*image.size)
    pictures = getattr(image, "n_frames", 1)
    if pictures > 1:
        raise FrameError(f"it holds {pictures} pictures; write each into a file of its own")
    image.load()
    exif = image.info.get("exif", b"")
    return upright(pixels_of(image), orientation_of(exif.removeprefix(b"Exif\0\0")))
