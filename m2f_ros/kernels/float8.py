"""Quantisation of rows to float8 (e4m3) in one Triton kernel, after the activation of the layer before.

A second layer of the MLPs in Swin-L's third stage at 1024x2048 reads 50 MB in half precision and writes 25 MB; its
kernel is bound by the instructions of the GELU, the others by memory.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from m2f_ros.kernels import ceil_div, device_of, next_power_of_2
from m2f_ros.kernels.gelu import gelu_of

LARGEST = 448.0  # largest finite number of e4m3
NUMBERS = 4096  # that a program holds at most, unless a row has more


def quantise(x: Tensor, activation: str = "none") -> tuple[Tensor, Tensor]:
    """Quantise rows to float8, each with a scale of its own: activation(x) = values * scale.

    Args:
        x: (M, K) float32, float16 or bfloat16.
        activation: "none", "relu" or "gelu" (exact), in float32.
    Returns:
        values: (M, K) float8_e4m3fn.
        scale: (M, 1) float32, largest magnitude of the row over LARGEST; tiny for rows of zeros.
    """
    rows, columns = x.shape
    values = torch.empty(rows, columns, dtype=torch.float8_e4m3fn, device=x.device)
    scale = x.new_empty(rows, 1, dtype=torch.float32)
    # Block sizes are powers of two: 3072 numbers take blocks of 2048 and 1024.
    main = 1 << (columns.bit_length() - 1)
    at_once = max(1, NUMBERS // (2 * main))
    with device_of(x):
        _quantise[(ceil_div(rows, at_once),)](
            x.contiguous(),
            values,
            scale,
            rows,
            COLUMNS=columns,
            MAIN=main,
            REST=next_power_of_2(columns - main) if columns > main else 0,
            ROWS=at_once,
            ACTIVATION=activation,
            LARGEST=LARGEST,
            num_warps=4,
        )
    return values, scale


# Not specialised: one compilation serves all sizes.
@triton.jit(do_not_specialize=["rows"])
def _quantise(
    x,
    values,
    scale,
    rows,
    COLUMNS: tl.constexpr,
    MAIN: tl.constexpr,
    REST: tl.constexpr,
    ROWS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    LARGEST: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    real = (row < rows)[:, None]
    at = (row * COLUMNS)[:, None] + tl.arange(0, MAIN)[None, :]
    number = _activated(tl.load(x + at, mask=real, other=0.0), ACTIVATION)
    largest = tl.max(tl.abs(number), 1)
    if REST:
        rest = MAIN + tl.arange(0, REST)[None, :]
        rest_at = (row * COLUMNS)[:, None] + rest
        rest_number = _activated(tl.load(x + rest_at, mask=real & (rest < COLUMNS), other=0.0), ACTIVATION)
        largest = tl.maximum(largest, tl.max(tl.abs(rest_number), 1))
    largest = tl.maximum(largest, 1e-30)
    inverse = (LARGEST / largest)[:, None]
    tl.store(scale + row, largest * (1 / LARGEST), mask=row < rows)
    tl.store(values + at, (number * inverse).to(values.dtype.element_ty), mask=real)
    if REST:
        tl.store(values + rest_at, (rest_number * inverse).to(values.dtype.element_ty), mask=real & (rest < COLUMNS))


@triton.jit
def _activated(x, ACTIVATION: tl.constexpr):
    x = x.to(tl.float32)
    if ACTIVATION == "gelu":
        x = gelu_of(x)
    elif ACTIVATION == "relu":
        x = tl.maximum(x, 0.0)
    return x
