"""Conversion of camera encodings to RGB, on the device of the data."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from m2f_ros.frame.encodings import ENCODINGS, FEWER


def to_rgb(data: Tensor, encoding: str) -> Tensor:
    """Convert the data of a `Frame.raw` to (H, W, 3) uint8 RGB; a view if the encoding allows it."""
    picture, bgr = to_colours(data, encoding)
    return swap(picture) if bgr else picture


def swap(picture: Tensor) -> Tensor:
    """Convert (H, W, 3) RGB to BGR, or back."""
    # Faster on a CPU than flip.
    return torch.stack([picture[..., 2], picture[..., 1], picture[..., 0]], -1)


def to_colours(data: Tensor, encoding: str) -> tuple[Tensor, bool]:
    """Convert as `to_rgb`, but keep the encoding's channel order, which saves a swap. Return also True for BGR."""
    if encoding in FEWER:
        encoding, bits = FEWER[encoding]
        data = narrow(data, bits)
    colours = ENCODINGS[encoding].colours
    if colours in ("rgb", "bgr"):
        return data[..., :3], colours == "bgr"
    if colours == "grey":
        return data[..., None].expand(-1, -1, 3), False
    if colours in ("yuyv", "uyvy"):
        return from_yuv422(data, luma=colours.index("y")), False
    return demosaic(data, *divmod(colours.index("r"), 2)), False


def narrow(data: Tensor, bits: int) -> Tensor:
    """Convert (..., 2) uint8, low and high bytes, to (...) uint8: the highest 8 of `bits`; larger values become 255."""
    low, high = data[..., 0], data[..., 1]
    return ((high << (16 - bits)) | (low >> (bits - 8))).masked_fill_((high >> (bits - 8)) > 0, 255)


def demosaic(data: Tensor, red_row: int, red_col: int) -> Tensor:
    """Convert a (H, W) uint8 Bayer mosaic to (H, W, 3) RGB, bilinear, rounded half up as OpenCV does."""
    wide = F.pad(data[None].float(), (1, 1, 1, 1), mode="reflect")[0].to(torch.int16)
    centre = wide[1:-1, 1:-1]
    vertical = wide[:-2, 1:-1] + wide[2:, 1:-1]
    horizontal = wide[1:-1, :-2] + wide[1:-1, 2:]
    diagonal = wide[:-2, :-2] + wide[:-2, 2:] + wide[2:, :-2] + wide[2:, 2:]
    cross = (vertical + horizontal + 2) >> 2
    vertical, horizontal, diagonal = (vertical + 1) >> 1, (horizontal + 1) >> 1, (diagonal + 2) >> 2

    rgb = torch.empty((*data.shape, 3), dtype=torch.uint8, device=data.device)
    blue_row, blue_col = 1 - red_row, 1 - red_col
    sites = {
        (red_row, red_col): (centre, cross, diagonal),
        (blue_row, blue_col): (diagonal, cross, centre),
        (red_row, blue_col): (horizontal, centre, vertical),
        (blue_row, red_col): (vertical, centre, horizontal),
    }
    for (row, col), channels in sites.items():
        for i, channel in enumerate(channels):
            rgb[row::2, col::2, i] = channel[row::2, col::2].to(torch.uint8)
    return rgb


def from_yuv422(data: Tensor, luma: int) -> Tensor:
    """Convert (H, W, 2) uint8, two pixels sharing U and V, to (H, W, 3) RGB; BT.601, limited range, as OpenCV.

    Args:
        luma: position of Y in each pair of bytes: 0 for YUYV, 1 for UYVY.
    """
    y = (data[..., luma].int() - 16).clamp(min=0) * 1220542
    chroma = data[..., 1 - luma].int() - 128
    u, v = chroma[:, 0::2].repeat_interleave(2, 1), chroma[:, 1::2].repeat_interleave(2, 1)
    half = 1 << 19
    red = y + half + 1673527 * v
    green = y + half - 852492 * v - 409993 * u
    blue = y + half + 2116026 * u
    return (torch.stack([red, green, blue], -1) >> 20).clamp(0, 255).to(torch.uint8)


def scaled(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (H, W, 3) uint8 to (*size, 3); return the same tensor if it has that size."""
    if picture.shape[:2] == size:
        return picture
    return resampled(picture.permute(2, 0, 1)[None], size)[0].to(torch.uint8).permute(1, 2, 0)


def resampled(planes: Tensor, size: tuple[int, int], averaged: bool = True) -> Tensor:
    """Resize (1, 3, H, W) uint8 to (1, 3, *size) float32 in 0..255, averaging when it shrinks.

    Values are rounded to integers, as PIL's are upstream; a few differ from PIL's by one. On a CPU uint8 is much faster
    than float32.

    averaged: False to interpolate between neighbours alone, without rounding.
    """
    if planes.shape[2:] == size:
        return planes.float()
    if not averaged:
        return F.interpolate(planes.float(), size, mode="bilinear", align_corners=False)
    if planes.device.type == "cpu":
        return F.interpolate(planes, size, mode="bilinear", antialias=True).float()
    return F.interpolate(planes.float(), size, mode="bilinear", antialias=True).round_()
