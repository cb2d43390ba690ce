"""Colour overlay: the picture with each class in its colour."""

from __future__ import annotations

import torch
from torch import Tensor

from m2f_ros import kernels
from m2f_ros.pipeline.colour import swap

OPAQUE = 256  # weight of the class colours that hides the picture


def blend(picture: Tensor, label: Tensor, palette: Tensor, weight: Tensor, bgr: bool = False) -> Tensor:
    """Mix picture and class colours: (picture * (256 - weight) + colour * weight + 128) / 256, rounded down.

    Args:
        picture: (H, W, 3) uint8 RGB, or BGR where `bgr`.
        label: (H, W) integer train ids, each below the palette's length.
        palette: (N, 3) uint8 RGB.
        weight: () int32, 0..OPAQUE, on the same device: a captured graph follows its value.
    Returns:
        (H, W, 3) uint8 BGR.
    """
    if kernels.use("overlay", picture):
        from m2f_ros.kernels import overlay

        return overlay.blend(picture, label, palette, weight, bgr)
    # Colours are weighted in the table of a few rows, not in the picture. Sums stay below 2**16: they are right in
    # int16 but for the sign, and the eight bits that are kept do not hold it.
    colours = (palette.int() * weight + 128).flip(-1).to(torch.int16)
    mixed = (picture if bgr else swap(picture)).to(torch.int16).mul_(OPAQUE - weight)
    mixed += colours.index_select(0, label.flatten().int()).view_as(mixed)
    return mixed.bitwise_right_shift_(8).to(torch.uint8)
