"""The part of a layer of Mask2Former's decoder (Cheng et al. 2022, section 3.2) that knows only the queries.

A hundred queries of 256 channels are too few for a GPU: each of a layer's twenty operations takes less time than its
launch. Here they are three kernels. A program computes 16 queries; its time is that of reading the weights, from the L2
cache, so that programs share the columns of a product where the next operation does not need all of them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from m2f_ros.kernels import ceil_div, device_of, next_power_of_2

ROWS = 16  # queries of a program, the least that tensor cores take
STEP = 32  # rows or columns of a weight that are read at a time
PARTS = 8  # programs that share the hidden channels of the feed-forward net


def _sizes(x: Tensor) -> dict[str, int]:
    channels = x.shape[-1]
    sizes = {"CHANNELS": channels, "BLOCK": max(16, next_power_of_2(channels)), "ROWS": ROWS, "STEP": STEP}
    # As many reads in flight as the shared memory of an Orin holds.
    return {**sizes, "num_warps": 4, "num_stages": 3 if x.element_size() == 2 else 1}


def project_own(
    attended: Tensor, query: Tensor, output: nn.Linear, norm: nn.LayerNorm, weight: Tensor, term: Tensor
) -> tuple[Tensor, Tensor]:
    """Finish the cross-attention, and project the queries, keys and values of the self-attention.

    Args:
        attended: (B, Q, C) result of the cross-attention, float32, float16 or bfloat16, as all.
        query: (B, Q, C) the layer's queries.
        output: projects `attended`.
        norm: normalises the sum of both.
        weight: (3C, C) projection.
        term: (Q, 3C), added to it.
    Returns:
        normed sum (B, Q, C) and its projections (B, Q, 3C).
    """
    batch, count, channels = query.shape
    if attended.shape != query.shape or weight.shape != (3 * channels, channels) or term.shape != (count, 3 * channels):
        raise ValueError(f"queries {tuple(query.shape)} and weight {tuple(weight.shape)} do not fit together")
    x, own = query.new_empty(query.shape), query.new_empty(batch, count, 3 * channels)
    tensors = (attended.contiguous(), query.contiguous(), output.weight, output.bias, norm.weight, norm.bias)
    with device_of(query):
        _project_own[(ceil_div(count, ROWS), 3, batch)](
            *tensors, weight, term, x, own, count, norm.eps, **_sizes(query)
        )
    return x, own


def feed(
    own: Tensor, query: Tensor, heads: int, output: nn.Linear, norm: nn.LayerNorm, fc1: nn.Linear, fc2: nn.Linear
) -> tuple[Tensor, Tensor]:
    """Compute the self-attention, its norm, and the feed-forward net without its last bias.

    Args:
        own: (B, Q, 3C) projected queries, keys and values.
        query: (B, Q, C), added to the self-attention's result, which `output` projects and `norm` normalises.
        fc1, fc2: layers of the feed-forward net, with a ReLU in between.
    Returns:
        normed sum (B, Q, C) and float32 summands (PARTS, B, Q, C) of the net's result.
    """
    batch, count, channels = query.shape
    if own.shape != (batch, count, 3 * channels) or channels % heads:
        raise ValueError(f"{heads} heads, queries {tuple(query.shape)} and {tuple(own.shape)} do not fit together")
    x, summands = query.new_empty(query.shape), query.new_empty(PARTS, *query.shape, dtype=torch.float32)
    dim, hidden = channels // heads, len(fc1.weight)
    weights = (output.weight, output.bias, norm.weight, norm.bias, fc1.weight, fc1.bias, fc2.weight)
    with device_of(query):
        _feed[(ceil_div(count, ROWS), PARTS, batch)](
            *(own, query, *weights, x, summands, count, norm.eps),
            **_sizes(query),
            HEADS=heads,
            DIM=dim,
            BLOCK_DIM=max(16, next_power_of_2(dim)),
            KEYS=max(16, next_power_of_2(count)),
            HIDDEN=hidden,
            SHARE=ceil_div(hidden, PARTS * STEP) * STEP,
        )
    return x, summands


def ask(
    query: Tensor,
    summands: Tensor,
    bias: Tensor,
    norm: nn.LayerNorm,
    mask_norm: nn.LayerNorm,
    first: nn.Linear,
    second: nn.Linear,
    embed: tuple[Tensor, Tensor, Tensor, Tensor],
    weight: Tensor,
    term: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Finish a layer, embed the masks of its queries, and project the queries for the next layer or for the classes.

    Args:
        query, summands: as from `feed`.
        bias: (C,) last bias of the feed-forward net.
        norm: normalises the sum of the three above.
        mask_norm, first, second: norm, and two layers with ReLU, before the embedding.
        embed: weight (C, C) and bias (C,) of the embedding, weight (1, C) and bias (1,) of its offset.
        weight: (N, C) projection of the queries.
        term: (Q, N), added to it; or (N,) if the projection is one of the queries normalised by `mask_norm`.
    Returns:
        queries (B, Q, C), embeddings (B, Q, C), offsets (B, Q, 1), projections (B, Q, N).
    """
    batch, count, channels = query.shape
    if summands.shape[1:] != query.shape or weight.shape[1] != channels or term.shape[-1] != len(weight):
        raise ValueError(f"queries {tuple(query.shape)} and weight {tuple(weight.shape)} do not fit together")
    x, embedding = query.new_empty(query.shape), query.new_empty(query.shape)
    offset, projected = query.new_empty(batch, count, 1), query.new_empty(batch, count, len(weight))
    norms = (norm.weight, norm.bias, mask_norm.weight, mask_norm.bias)
    layers = (first.weight, first.bias, second.weight, second.bias, *embed)
    results = (x, embedding, offset, projected)
    with device_of(query):
        _ask[(ceil_div(count, ROWS), 2, batch)](
            *(query, summands, bias, *norms, *layers, weight, term, *results, count, norm.eps, mask_norm.eps),
            **_sizes(query),
            PARTS=len(summands),
            COLUMNS=len(weight),
            NORMED=term.dim() == 1,
        )
    return results


# Not specialised: one compilation serves any number of queries.
@triton.jit(do_not_specialize=["count", "eps"])
def _project_own(
    attended, query, output, output_bias, norm, norm_bias, weight, term, x, own, count, eps,
    CHANNELS: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(1)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    image = tl.program_id(2).to(tl.int64) * count
    attended += image * CHANNELS
    total = _rows(query + image * CHANNELS, row, count, CHANNELS, BLOCK) + _row(output_bias, CHANNELS, BLOCK)
    for start in tl.range(0, CHANNELS, STEP):
        channel = start + tl.arange(0, STEP)[None, :]
        at = attended + tl.minimum(row, count - 1)[:, None] * CHANNELS + channel
        left = tl.load(at, mask=channel < CHANNELS, other=0.0)
        total = _times_columns(left, output, start, CHANNELS, CHANNELS, total, CHANNELS, BLOCK, STEP)
    normed = _normalised(total, norm, norm_bias, eps, CHANNELS, BLOCK).to(x.dtype.element_ty)
    if part == 0:
        _store(x + image * CHANNELS, row, count, normed, CHANNELS, BLOCK)
    weight += part * CHANNELS * CHANNELS
    own += image * (3 * CHANNELS) + part * CHANNELS
    _project(
        normed, weight, term + part * CHANNELS, 3 * CHANNELS, own, 3 * CHANNELS, row, count,
        CHANNELS, CHANNELS, BLOCK, STEP,
    )  # fmt: skip


@triton.jit(do_not_specialize=["count", "eps"])
def _feed(
    own, query, output, output_bias, norm, norm_bias, fc1, fc1_bias, fc2, x, summands, count, eps,
    CHANNELS: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr,
    HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, KEYS: tl.constexpr,
    HIDDEN: tl.constexpr, SHARE: tl.constexpr,
):  # fmt: skip
    SCALE: tl.constexpr = DIM**-0.5 * 1.4426950408889634  # with log2(e)
    PRECISION: tl.constexpr = "tf32x3" if own.dtype.element_ty == tl.float32 else "tf32"
    part = tl.program_id(1)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    image = tl.program_id(2).to(tl.int64) * count
    own += image * (3 * CHANNELS)
    total = _rows(query + image * CHANNELS, row, count, CHANNELS, BLOCK) + _row(output_bias, CHANNELS, BLOCK)
    key = tl.arange(0, KEYS)
    channel = tl.arange(0, BLOCK_DIM)[None, :]
    in_head = channel < DIM
    of_query = tl.minimum(row, count - 1)[:, None] * (3 * CHANNELS) + channel
    of_key = tl.minimum(key, count - 1)[:, None] * (3 * CHANNELS) + CHANNELS + channel
    for head in tl.range(0, HEADS, num_stages=2 if KEYS * BLOCK_DIM <= 4096 else 1):
        mine = tl.load(own + of_query + head * DIM, mask=in_head, other=0.0)
        others = tl.load(own + of_key + head * DIM, mask=in_head, other=0.0)
        value = tl.load(own + of_key + CHANNELS + head * DIM, mask=in_head, other=0.0)
        logits = tl.dot(mine, tl.trans(others), input_precision=PRECISION) * SCALE
        logits = tl.where((key < count)[None, :], logits, float("-inf"))
        shares = tl.exp2(logits - tl.max(logits, 1)[:, None])
        result = tl.dot(shares.to(value.dtype), value, input_precision=PRECISION) / tl.sum(shares, 1)[:, None]
        result = result.to(value.dtype)
        total = _times_columns(
            result, output, head * DIM, head * DIM + DIM, CHANNELS, total, CHANNELS, BLOCK, BLOCK_DIM
        )
    normed = _normalised(total, norm, norm_bias, eps, CHANNELS, BLOCK).to(x.dtype.element_ty)
    if part == 0:
        _store(x + image * CHANNELS, row, count, normed, CHANNELS, BLOCK)
    first = part * SHARE
    total = _two_layers(normed, fc1, fc1_bias, fc2, first, first + SHARE, HIDDEN, ROWS, CHANNELS, BLOCK, STEP)
    summands += part.to(tl.int64) * tl.num_programs(2) * count * CHANNELS + image * CHANNELS
    _store(summands, row, count, total, CHANNELS, BLOCK)


@triton.jit(do_not_specialize=["count", "eps", "mask_eps"])
def _ask(
    query, summands, bias, norm, norm_bias, mask_norm, mask_norm_bias, first, first_bias, second, second_bias,
    embed, embed_bias, to_offset, offset_bias, weight, term, x, embedding, offset, projected, count, eps, mask_eps,
    CHANNELS: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr,
    PARTS: tl.constexpr, COLUMNS: tl.constexpr, NORMED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    image = tl.program_id(2).to(tl.int64) * count
    total = _rows(query + image * CHANNELS, row, count, CHANNELS, BLOCK) + _row(bias, CHANNELS, BLOCK)
    summands += image * CHANNELS
    for _ in tl.static_range(PARTS):
        total += _rows(summands, row, count, CHANNELS, BLOCK)
        summands += tl.num_programs(2).to(tl.int64) * count * CHANNELS
    result = _normalised(total, norm, norm_bias, eps, CHANNELS, BLOCK).to(x.dtype.element_ty)
    normed = _normalised(result.to(tl.float32), mask_norm, mask_norm_bias, mask_eps, CHANNELS, BLOCK)
    normed = normed.to(x.dtype.element_ty)
    if tl.program_id(1) == 0:
        hidden = _two_layers(normed, first, first_bias, second, 0, CHANNELS, CHANNELS, ROWS, CHANNELS, BLOCK, STEP)
        hidden = tl.maximum(hidden + _row(second_bias, CHANNELS, BLOCK), 0.0).to(x.dtype.element_ty)
        place = tl.sum(hidden.to(tl.float32) * _row(to_offset, CHANNELS, BLOCK), 1)
        place += tl.load(offset_bias).to(tl.float32)
        tl.store(offset + image + row, place.to(offset.dtype.element_ty), mask=row < count)
        embedding += image * CHANNELS
        _project(hidden, embed, embed_bias, 0, embedding, CHANNELS, row, count, CHANNELS, CHANNELS, BLOCK, STEP)
    else:
        _store(x + image * CHANNELS, row, count, result, CHANNELS, BLOCK)
        projected += image * COLUMNS
        if NORMED:
            _project(normed, weight, term, 0, projected, COLUMNS, row, count, COLUMNS, CHANNELS, BLOCK, STEP)
        else:
            _project(result, weight, term, COLUMNS, projected, COLUMNS, row, count, COLUMNS, CHANNELS, BLOCK, STEP)


@triton.jit
def _rows(base, row, count, CHANNELS: tl.constexpr, BLOCK: tl.constexpr):
    """Return float32 rows (ROWS, BLOCK) of (count, CHANNELS): the last again beyond them, zeros beyond the channels."""
    channel = tl.arange(0, BLOCK)[None, :]
    at = base + tl.minimum(row, count - 1)[:, None] * CHANNELS + channel
    return tl.load(at, mask=channel < CHANNELS, other=0.0).to(tl.float32)


@triton.jit
def _row(base, CHANNELS: tl.constexpr, BLOCK: tl.constexpr):
    """Return (1, BLOCK) of (CHANNELS,) as float32."""
    channel = tl.arange(0, BLOCK)[None, :]
    return tl.load(base + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)


@triton.jit
def _store(base, row, count, x, CHANNELS: tl.constexpr, BLOCK: tl.constexpr):
    channel = tl.arange(0, BLOCK)[None, :]
    at = base + row[:, None] * CHANNELS + channel
    tl.store(at, x.to(base.dtype.element_ty), mask=(row < count)[:, None] & (channel < CHANNELS))


@triton.jit
def _normalised(x, weight, bias, eps, CHANNELS: tl.constexpr, BLOCK: tl.constexpr):
    """Return the layer norm of float32 (ROWS, BLOCK), zero beyond the channels."""
    channel = tl.arange(0, BLOCK)[None, :]
    x = tl.where(channel < CHANNELS, x - tl.sum(x, 1)[:, None] / CHANNELS, 0.0)
    x *= tl.rsqrt(tl.sum(x * x, 1) / CHANNELS + eps)[:, None]
    return x * _row(weight, CHANNELS, BLOCK) + _row(bias, CHANNELS, BLOCK)


@triton.jit
def _times_columns(
    x, weight, first, end, width, total, CHANNELS: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr
):
    """Add to (ROWS, BLOCK) the product of x (ROWS, STEP) and columns from `first` of a weight (CHANNELS, width)."""
    PRECISION: tl.constexpr = "tf32x3" if x.dtype == tl.float32 else "tf32"
    channel = tl.arange(0, BLOCK)[:, None]
    column = first + tl.arange(0, STEP)[None, :]
    mask = (channel < CHANNELS) & (column < end)
    right = tl.load(weight + channel * width + column, mask=mask, other=0.0)
    return tl.dot(x, tl.trans(right), total, input_precision=PRECISION)


@triton.jit
def _columns(x, weight, first, end, CHANNELS: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr):
    """Return float32 (ROWS, STEP) columns of the product of x (ROWS, BLOCK) and a weight (..., CHANNELS)."""
    PRECISION: tl.constexpr = "tf32x3" if x.dtype == tl.float32 else "tf32"
    channel = tl.arange(0, BLOCK)[None, :]
    column = first + tl.arange(0, STEP)[:, None]
    mask = (column < end) & (channel < CHANNELS)
    right = tl.load(weight + column * CHANNELS + channel, mask=mask, other=0.0)
    return tl.dot(x, tl.trans(right), input_precision=PRECISION)


@triton.jit
def _two_layers(
    x, fc1, fc1_bias, fc2, first, end, HIDDEN: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Return float32 fc2(relu(fc1(x))) (ROWS, BLOCK) of the hidden channels first..end, without the bias of fc2."""
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in tl.range(first, end, STEP):
        hidden = _columns(x, fc1, start, HIDDEN, CHANNELS, BLOCK, STEP)
        column = start + tl.arange(0, STEP)
        hidden += tl.load(fc1_bias + column, mask=column < HIDDEN, other=0.0).to(tl.float32)[None, :]
        hidden = tl.maximum(hidden, 0.0).to(x.dtype)
        total = _times_columns(hidden, fc2, start, HIDDEN, HIDDEN, total, CHANNELS, BLOCK, STEP)
    return total


@triton.jit
def _project(
    x, weight, term, term_stride, out, out_stride, row, count,
    COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Store x (ROWS, BLOCK) times a weight (COLUMNS, CHANNELS) plus rows of a term, or one row if the stride is 0."""
    of_term = term + tl.minimum(row, count - 1)[:, None] * term_stride
    for start in tl.range(0, COLUMNS, STEP):
        column = start + tl.arange(0, STEP)[None, :]
        result = _columns(x, weight, start, COLUMNS, CHANNELS, BLOCK, STEP)
        result += tl.load(of_term + column, mask=column < COLUMNS, other=0.0).to(tl.float32)
        at = out + row[:, None] * out_stride + column
        tl.store(at, result.to(out.dtype.element_ty), mask=(row < count)[:, None] & (column < COLUMNS))
