"""A residual connection and the layer norm after it in one Triton kernel.

Swin-L at 1024x2048 in half precision has 48 of them in the backbone. The kernel is bound by memory: it reads two
operands and writes sum and norm, 50 MB each in the first stage.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from m2f_ros.kernels import ceil_div, device_of, next_power_of_2


def add_norm(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Compute x + y, rounded to their dtype, and its layer norm over the last axis, in float32.

    Args:
        x, y: (..., C) float32, float16 or bfloat16.
        weight, bias: (C,), any float type.
    Returns:
        sum, normed: (..., C) each, dtype of `x`.
    """
    total = x.new_empty(x.shape)
    return total, _launch(x, y, weight, bias, eps, total)


def norm_of_sum(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Compute the second result of `add_norm` alone."""
    return _launch(x, y, weight, bias, eps, None)


def _launch(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float, total: Tensor | None) -> Tensor:
    channels = x.shape[-1]
    if x.shape != y.shape or weight.shape != (channels,):
        raise ValueError(f"{tuple(x.shape)}, {tuple(y.shape)} and weight {tuple(weight.shape)} do not fit together")
    normed = x.new_empty(x.shape)
    rows, block = x.numel() // channels, next_power_of_2(channels)
    rows_of_program = max(1, 1024 // block)
    with device_of(x):
        _add_norm[(ceil_div(rows, rows_of_program),)](
            x.contiguous(),
            y.contiguous(),
            weight,
            bias,
            total,
            normed,
            rows,
            eps,
            CHANNELS=channels,
            BLOCK=block,
            ROWS=rows_of_program,
            num_warps=1,  # a row's sums need no other warp
        )
    return normed


# Not specialised: one compilation serves all sizes.
@triton.jit(do_not_specialize=["rows"])
def _add_norm(
    x,
    y,
    weight,
    bias,
    total,
    normed,
    rows,
    eps,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * ROWS
    row = tl.arange(0, ROWS)[:, None]
    channel = tl.arange(0, BLOCK)[None, :]
    place = row * CHANNELS + channel
    in_row = channel < CHANNELS
    inside = (row < rows - first) & in_row
    x += first * CHANNELS
    y += first * CHANNELS
    normed += first * CHANNELS

    left = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    rounded = (left + tl.load(y + place, mask=inside, other=0.0).to(tl.float32)).to(normed.dtype.element_ty)
    if total is not None:
        tl.store(total + first * CHANNELS + place, rounded, mask=inside)
    value = rounded.to(tl.float32)
    centred = tl.where(in_row, value - tl.sum(value, 1, keep_dims=True) / CHANNELS, 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, 1, keep_dims=True) / CHANNELS + eps)
    factor = tl.load(weight + channel, mask=in_row, other=0.0).to(tl.float32)
    term = tl.load(bias + channel, mask=in_row, other=0.0).to(tl.float32)
    result = centred * scale * factor + term
    tl.store(normed + place, result.to(normed.dtype.element_ty), mask=inside)
