"""The overlay and the colour image: class colours with and without the picture."""

from __future__ import annotations

import torch
from torch import Tensor

from m2f_ros import kernels
from m2f_ros.pipeline.colour import swap

OPAQUE = 256  # weight of a class's colour that hides the picture


def blend(picture: Tensor, label: Tensor, palette: Tensor, weight: Tensor, bgr: bool = False) -> Tensor:
    """Mix picture and class colours: (picture * (256 - weight) + colour * weight + 128) / 256, rounded down.

    Args:
        picture: (H, W, 3) uint8 RGB, or BGR where `bgr`.
        label: (H, W) integer train ids, each below the palette's length.
        palette: (N, 3) uint8 RGB.
        weight: (N,) int32, weight of each class's colour, 0..OPAQUE, on the same device.
    Returns:
        (H, W, 3) uint8 BGR.
    """
    if kernels.use("overlay", picture):
        from m2f_ros.kernels import overlay

        return overlay.blend(picture, label, palette, weight, bgr)
    # Weighting the few rows of the palette is cheaper than weighting the picture. Sums stay below 2**16: int16
    # overflows into the sign only, and the eight bits kept below are right.
    index = label.flatten().int()
    colours = (palette.int() * weight[:, None] + 128).flip(-1).to(torch.int16)
    mixed = (picture if bgr else swap(picture)).to(torch.int16)
    mixed *= _rest(weight, index, mixed)
    mixed += colours.index_select(0, index).view_as(mixed)
    return mixed.bitwise_right_shift_(8).to(torch.uint8)


def _rest(weight: Tensor, index: Tensor, picture: Tensor) -> Tensor:
    """Return the weight of the picture at each pixel; a single one if all classes have the same weight."""
    rest = (OPAQUE - weight).to(torch.int16)
    # On a CPU reading the values is free, and the lookup of weights would double the time of `blend`.
    if rest.device.type == "cpu" and bool((rest == rest[0]).all()):
        return rest[0]
    return rest[:, None].expand(-1, 3).contiguous().index_select(0, index).view_as(picture)


def colour(label: Tensor, palette: Tensor) -> Tensor:
    """Look up (H, W) integer train ids, each below N, in a palette (N, 3) uint8 RGB: (H, W, 3) uint8 BGR."""
    return palette.flip(-1).index_select(0, label.flatten().int()).view(*label.shape, 3)
