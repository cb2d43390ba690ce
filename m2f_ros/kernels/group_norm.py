"""Group norm (Wu and He 2018, https://arxiv.org/abs/1803.08494) of channels-last maps in two Triton kernels.

The first computes mean and variance of each group over chunks of the map, the second merges those of all chunks,
normalises and does what follows the norm. At 1024x2048 in half precision the largest map takes 67 MB, which are read
twice and written once: both kernels are bound by memory, and as much by instructions where a coarse map is added. The
merge has a fixed order, so that results are reproducible.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from m2f_ros.kernels import ceil_div, device_of, next_power_of_2
from m2f_ros.kernels.semantic import neighbours

CHUNKS = 128  # at most, of an image; a power of 2
PROGRAMS = 512  # at most, that normalise an image


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    relu: bool = False,
    coarse: Tensor | None = None,
    out: Tensor | None = None,
    start: int = 0,
) -> Tensor:
    """Normalise maps; statistics, sums and interpolation in float32.

    Args:
        x: (B, H, W, C) float32, float16 or bfloat16.
        groups: number of groups of C / groups adjacent channels, a power of 2.
        weight, bias: (C,), any float type.
        relu: whether negative results become 0.
        coarse: (B, h, w, C), added after bilinear interpolation to (H, W), with align_corners=False.
        out: (B, S, C) contiguous, whose tokens from `start` on become the result; None for new memory.
    Returns:
        `out`, or (B, H * W, C).
    """
    batch, height, width, channels = x.shape
    tokens, size = height * width, channels // groups
    if channels % groups or groups & (groups - 1) or weight.shape != (channels,):
        raise ValueError(f"maps {tuple(x.shape)}, {groups} groups and weight {tuple(weight.shape)} do not fit together")
    if out is None:
        out = x.new_empty(batch, tokens, channels)
    if out.shape[0] != batch or start + tokens > out.shape[1] or out.shape[2] != channels or not out.is_contiguous():
        raise ValueError(f"maps {tuple(x.shape)} do not fit into {tuple(out.shape)} from {start} on")
    x = x.contiguous()
    rows, columns, coarse_tokens = 1, 1, 0
    if coarse is not None:
        if coarse.shape[0] != batch or coarse.shape[3] != channels:
            raise ValueError(f"maps {tuple(x.shape)} and {tuple(coarse.shape)} do not fit together")
        if not coarse[0].is_contiguous() or coarse.stride(0) % channels:
            coarse = coarse.contiguous()
        rows, columns, coarse_tokens = coarse.shape[1], coarse.shape[2], coarse.stride(0) // channels
    # Numbers of a program's tile are limited by registers.
    block = next_power_of_2(size)
    tile = max(1, 32768 // (groups * block))
    span = ceil_div(ceil_div(tokens, CHUNKS), tile) * tile
    chunks = ceil_div(tokens, span)
    moments = x.new_empty(batch, chunks, 2, groups, dtype=torch.float32)
    constants = {"GROUPS": groups, "SIZE": size, "BLOCK": block}
    with device_of(x):
        _group_moments[(chunks, batch)](x, moments, tokens, span, **constants, TILE=tile, num_warps=16)
        tile = max(1, (4096 if coarse is not None else 8192) // (groups * block))
        span_out = ceil_div(ceil_div(tokens, PROGRAMS), tile) * tile
        _group_norm[(ceil_div(tokens, span_out), batch)](
            *(x, moments, weight, bias, coarse, out),
            *(tokens, width, span, chunks, span_out, out.shape[1], start, rows, columns, coarse_tokens),
            *(rows / height, columns / width, eps),
            **constants,
            CHUNKS=CHUNKS,
            RELU=relu,
            TILE=tile,
            num_warps=8,
        )
    return out


@triton.jit(do_not_specialize=["tokens", "span"])
def _group_moments(
    x,
    moments,
    tokens,
    span,
    GROUPS: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
):
    """Store the mean of each group over `span` tokens, and the sum of squared differences from it."""
    chunk = tl.program_id(0)
    image = tl.program_id(1).to(tl.int64)
    number = tl.minimum(span, tokens - chunk * span)
    x += (image * tokens + chunk * span) * (GROUPS * SIZE)
    token = tl.arange(0, TILE)[:, None, None]
    group = tl.arange(0, GROUPS)[None, :, None]
    member = tl.arange(0, BLOCK)[None, None, :]
    place = token * (GROUPS * SIZE) + group * SIZE + member

    # Differences from the mean of a part are small, and so is the error of their squares' sum.
    inside = (token < number) & (member < SIZE)
    part = tl.sum(tl.sum(tl.load(x + place, mask=inside, other=0.0).to(tl.float32), 2), 0)
    middle = part / (tl.minimum(number, TILE) * SIZE)
    total = tl.zeros([TILE, GROUPS], tl.float32)
    squares = tl.zeros([TILE, GROUPS], tl.float32)
    first = 0
    while first < number:
        inside = (token < number - first) & (member < SIZE)
        value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        value = tl.where(inside, value - middle[None, :, None], 0.0)
        total += tl.sum(value, 2)
        squares += tl.sum(value * value, 2)
        x += TILE * GROUPS * SIZE
        first += TILE
    count = number * SIZE
    difference = tl.sum(total, 0) / count
    moments += ((image * tl.num_programs(0) + chunk) * 2) * GROUPS + tl.arange(0, GROUPS)
    tl.store(moments, middle + difference)
    tl.store(moments + GROUPS, tl.sum(squares, 0) - difference * difference * count)


SIZES = ["tokens", "width", "span", "chunks", "span_out", "tokens_out", "start", "rows", "columns", "coarse_tokens"]


@triton.jit(do_not_specialize=SIZES)
def _group_norm(
    x,
    moments,
    weight,
    bias,
    coarse,
    out,
    tokens,
    width,
    span,
    chunks,
    span_out,
    tokens_out,
    start,
    rows,
    columns,
    coarse_tokens,
    scale_y,
    scale_x,
    eps,
    GROUPS: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNKS: tl.constexpr,
    RELU: tl.constexpr,
    TILE: tl.constexpr,
):
    CHANNELS: tl.constexpr = GROUPS * SIZE
    image = tl.program_id(1).to(tl.int64)
    begin = tl.program_id(0) * span_out
    end = tl.minimum(begin + span_out, tokens)

    # Chan's formula for the variance of all chunks.
    chunk = tl.arange(0, CHUNKS)[:, None]
    at = moments + (image * chunks + chunk) * (2 * GROUPS) + tl.arange(0, GROUPS)[None, :]
    count = (tl.minimum(span, tokens - chunk * span) * SIZE).to(tl.float32)
    count = tl.where(chunk < chunks, count, 0.0)
    means = tl.load(at, mask=chunk < chunks, other=0.0)
    total = tokens * (SIZE * 1.0)  # torch.compile analyses kernels with numbers in place of tensors
    mean = tl.sum(means * count, 0) / total
    apart = means - mean[None, :]
    squares = tl.sum(tl.load(at + GROUPS, mask=chunk < chunks, other=0.0) + apart * apart * count, 0)
    scale = 1 / tl.sqrt(squares / total + eps)

    token = tl.arange(0, TILE)[:, None, None]
    group = tl.arange(0, GROUPS)[None, :, None]
    member = tl.arange(0, BLOCK)[None, None, :]
    channel = group * SIZE + member
    in_group = member < SIZE
    factor = tl.load(weight + channel, mask=in_group, other=0.0).to(tl.float32) * scale[None, :, None]
    term = tl.load(bias + channel, mask=in_group, other=0.0).to(tl.float32) - mean[None, :, None] * factor
    place = token * CHANNELS + channel
    x += (image * tokens + begin) * CHANNELS
    out += (image * tokens_out + start + begin) * CHANNELS
    if coarse is not None:
        coarse += image * coarse_tokens * CHANNELS + channel
    first = begin
    while first < end:
        inside = (token < end - first) & in_group
        value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32) * factor + term
        if coarse is not None:
            index = tl.minimum(first + token, tokens - 1)
            top, bottom, lower = neighbours(index // width, scale_y, rows)
            left, right, righter = neighbours(index % width, scale_x, columns)
            upper_row = coarse + top * columns * CHANNELS
            lower_row = coarse + bottom * columns * CHANNELS
            value += _mix(upper_row + left * CHANNELS, upper_row + right * CHANNELS, righter, inside) * (1 - lower)
            value += _mix(lower_row + left * CHANNELS, lower_row + right * CHANNELS, righter, inside) * lower
        if RELU:
            value = tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL)
        tl.store(out + place, value.to(out.dtype.element_ty), mask=inside)
        x += TILE * CHANNELS
        out += TILE * CHANNELS
        first += TILE


@triton.jit
def _mix(one, other, part, inside):
    """Return (1 - part) * the numbers at `one` + part * those at `other`."""
    one = tl.load(one, mask=inside, other=0.0).to(tl.float32)
    return one * (1 - part) + tl.load(other, mask=inside, other=0.0).to(tl.float32) * part
