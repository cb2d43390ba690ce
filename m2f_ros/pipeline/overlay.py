"""Colour overlay: the picture with each class in its colour."""

from __future__ import annotations

from torch import Tensor


def blend(rgb: Tensor, label: Tensor, palette: Tensor, alpha: float) -> Tensor:
    """Mix image and class colours.

    Args:
        rgb: (H, W, 3) uint8 RGB.
        label: (H, W) integer train ids, each below the palette's length.
        palette: (N, 3) uint8 RGB.
        alpha: weight of the class colour, 0..1, in steps of 1/256.
    Returns:
        (H, W, 3) uint8 BGR.
    """
    weight = round(alpha * 256)
    # Colours are weighted in the table of a few rows, not in the picture; int16 holds 255 * 256 shifted by one bit.
    colours = (palette.int() * weight + 128).flip(-1)
    mixed = rgb.flip(-1).int() * (256 - weight) + colours[label.int()]
    return (mixed >> 8).to(rgb.dtype)
