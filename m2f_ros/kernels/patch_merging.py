"""The layer norm of 2x2 tokens of a map, which Swin's patch merging joins, in one Triton kernel.

It replaces a copy of the map; of Swin-L's three at 1024x2048 the first takes 50 MB in half precision. The kernel is
bound by memory.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from m2f_ros.kernels import ceil_div, device_of, next_power_of_2


def merge(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Join each 2x2 tokens, zeros below and on the right of the map, and normalise them in float32.

    Args:
        x: (B, H, W, C) float32, float16 or bfloat16.
        weight, bias: (4C,), any float type.
    Returns:
        (B, ceil(H/2), ceil(W/2), 4C): the upper left, lower left, upper right and lower right token.
    """
    batch, height, width, channels = x.shape
    if weight.shape != (4 * channels,):
        raise ValueError(f"map {tuple(x.shape)} and weight {tuple(weight.shape)} do not fit together")
    rows, columns, block = ceil_div(height, 2), ceil_div(width, 2), next_power_of_2(4 * channels)
    out = x.new_empty(batch, rows, columns, 4 * channels)
    with device_of(x):
        _merge[(columns, rows, batch)](
            *(x.contiguous(), weight, bias, out, height, width, eps),
            CHANNELS=channels,
            BLOCK=block,
            num_warps=min(8, max(1, block // 2048)),  # limited by registers
        )
    return out


# Not specialised: one compilation serves all sizes.
@triton.jit(do_not_specialize=["height", "width"])
def _merge(x, weight, bias, out, height, width, eps, CHANNELS: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.arange(0, BLOCK)
    part = place // CHANNELS
    row = 2 * tl.program_id(1) + part % 2
    column = 2 * tl.program_id(0) + part // 2
    image = tl.program_id(2).to(tl.int64)
    x += ((image * height + row) * width + column) * CHANNELS
    in_row = part < 4
    inside = (row < height) & (column < width) & in_row
    value = tl.load(x + place % CHANNELS, mask=inside, other=0.0).to(tl.float32)
    centred = tl.where(in_row, value - tl.sum(value, 0) / (4 * CHANNELS), 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, 0) / (4 * CHANNELS) + eps)
    factor = tl.load(weight + place, mask=in_row, other=0.0).to(tl.float32)
    term = tl.load(bias + place, mask=in_row, other=0.0).to(tl.float32)
    out += ((image * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(0) + tl.program_id(0)) * (4 * CHANNELS)
    tl.store(out + place, (centred * scale * factor + term).to(out.dtype.element_ty), mask=in_row)
