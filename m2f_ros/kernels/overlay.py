"""The colour overlay in one Triton kernel.

At 1920x1080 the kernel reads 6.2 MB of image and 2.1 MB of labels, and writes 6.2 MB. It is bound by its instructions:
each number needs an access to the image, one to the palette and one to the result.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from m2f_ros.kernels import ceil_div, device_of

BLOCK = 512  # pixels of a program


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
        _blend[(ceil_div(label.numel(), BLOCK),)](
            picture.contiguous(),
            label.contiguous(),
            palette.contiguous(),
            weight.contiguous(),
            out,
            label.numel(),
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
    pixel = tl.arange(0, BLOCK)
    inside = pixel < size - start
    category = tl.load(label + start + pixel, mask=inside, other=0).to(tl.int32)
    known = (category >= 0) & (category < colours)
    part = tl.load(weight + category, mask=known, other=0).to(tl.int32)
    at = start * 3 + pixel * 3
    for channel in tl.static_range(3):  # of the result, which is BGR; colours are RGB
        value = tl.load(picture + at + (channel if BGR else 2 - channel), mask=inside, other=0).to(tl.int32)
        colour = tl.load(palette + category * 3 + 2 - channel, mask=known, other=0).to(tl.int32)
        mixed = (value * (256 - part) + colour * part + 128) >> 8
        tl.store(out + at + channel, mixed.to(tl.uint8), mask=inside)
