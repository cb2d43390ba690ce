"""The colour overlay in one Triton kernel.

The kernel is bound by memory: at 1920x1080 it reads 6.2 MB of image and 2.1 MB of labels, and writes 6.2 MB.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from m2f_ros.kernels import ceil_div, device_of

BLOCK = 2048  # bytes of the overlay that a program writes


def blend(picture: Tensor, label: Tensor, palette: Tensor, weight: Tensor, bgr: bool = False) -> Tensor:
    """Mix picture and class colours: (picture * (256 - weight) + colour * weight + 128) / 256, rounded down.

    Args:
        picture: (..., H, W, 3) uint8 RGB, or BGR where `bgr`.
        label: (..., H, W) integer train ids, each below the palette's length.
        palette: (N, 3) uint8 RGB.
        weight: (N,) integer, weight of each class's colour, 0..256, on the same device; captured graphs read it.
    Returns:
        (..., H, W, 3) uint8 BGR.
    """
    out = torch.empty_like(picture, memory_format=torch.contiguous_format)
    with device_of(picture):
        _blend[(ceil_div(picture.numel(), BLOCK),)](
            picture.contiguous(),
            label.contiguous(),
            palette.contiguous(),
            weight.contiguous(),
            out,
            picture.numel(),
            len(palette),
            BGR=bgr,
            BLOCK=BLOCK,
            num_warps=4,
        )
    return out


# Not specialised: one compilation serves all sizes.
@triton.jit(do_not_specialize=["size", "colours"])
def _blend(picture, label, palette, weight, out, size, colours, BGR: tl.constexpr, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    first = start // 3  # first pixel; the other indices are relative to it and fit in 32 bits
    byte = (start - first * 3).to(tl.int32) + tl.arange(0, BLOCK)
    inside = byte < size - first * 3
    pixel = byte // 3
    mirrored = 2 - (byte - pixel * 3)  # channel of the colours, which are RGB
    value = tl.load(picture + first * 3 + (byte if BGR else pixel * 3 + mirrored), mask=inside, other=0).to(tl.int32)
    category = tl.load(label + first + pixel, mask=inside, other=0).to(tl.int32)
    known = (category >= 0) & (category < colours)
    part = tl.load(weight + category, mask=known, other=0).to(tl.int32)
    colour = tl.load(palette + category * 3 + mirrored, mask=known, other=0).to(tl.int32)
    mixed = (value * (256 - part) + colour * part + 128) >> 8
    tl.store(out + first * 3 + byte, mixed.to(tl.uint8), mask=inside)
