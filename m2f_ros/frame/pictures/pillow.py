"""Pillow's images as arrays."""

from __future__ import annotations

import sys
from typing import Any

import cv2
import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from m2f_ros.errors import FrameError

_NATIVE, _SWAPPED = ("L", "B") if sys.byteorder == "little" else ("B", "L")
# Pillow keeps the high byte of colours in 16 bits. Told the other order, it keeps the low one.
_OTHER_BYTE = {
    f"{mode};16{order}": f"{mode};16{other}"
    for mode in ("RGB", "RGBA", "RGBX")
    for order, other in (("L", "B"), ("B", "L"), ("N", _SWAPPED))
}


def pixels_of(image: Image.Image) -> np.ndarray:
    """Convert a loaded image to (H, W) grey or (H, W, 3) BGR, uint8 or uint16; alpha is left out.

    Raises FrameError for values of neither 8 nor 16 bits.
    """
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8) * 255
    if image.mode in ("L", "I;16"):
        return np.asarray(image)
    if image.mode == "LA":
        return np.ascontiguousarray(np.asarray(image)[..., 0])
    if image.mode in ("I;16B", "I"):  # TIFF of 16 bits
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise FrameError(f"has values of 32 bits, {values.min()} to {values.max()}; a picture has 8 or 16")
        return values.astype(np.uint16)
    if image.mode == "F":
        raise FrameError("has values with a fraction; a picture has whole numbers of 8 or 16 bits")
    if image.mode != "RGB":
        image = image.convert("RGB")
    array = np.asarray(image)
    return cv2.cvtColor(array, cv2.COLOR_RGB2BGR)


def raw_mode(image: ImageFile) -> str:
    """Return the raw mode of an image that is not loaded: how its pixels lie in the file."""
    arguments = image.tile[0][3]
    return arguments[0] if isinstance(arguments, tuple) else str(arguments)


def deep_colours(image: ImageFile, again: ImageFile) -> np.ndarray:
    """Convert an image of 16 bits to (H, W, 3) BGR, or to (H, W) if it is grey with alpha; uint16.

    image: loaded or not. again: the same image, opened anew. Raises FrameError for an unknown byte order.
    """
    mode = raw_mode(again)
    if mode == "LA;16B":  # as four channels of 8 bits
        _load(again, "RGBA", "RGBA")
        return np.asarray(again).view(">u2")[..., 0].astype(np.uint16)
    if mode not in _OTHER_BYTE:
        raise FrameError("its colours of 16 bits cannot be read; write it as PNG")
    image.load()
    high = pixels_of(image)
    _load(again, again.mode, _OTHER_BYTE[mode])
    values = high.astype(np.uint16)
    values <<= 8
    values |= pixels_of(again)
    return values


def _load(image: ImageFile, mode: str, raw: str) -> None:
    image._mode = mode
    tiles: list[Any] = image.tile  # tuples, with names from Pillow 11 on
    for i, tile in enumerate(tiles):
        arguments = raw if isinstance(tile[3], str) else (raw, *tile[3][1:])
        tiles[i] = tile._replace(args=arguments) if hasattr(tile, "_replace") else (*tile[:3], arguments)
    image.load()
