"""Multi-scale deformable attention (Zhu et al. 2021, https://arxiv.org/abs/2010.04159) in one Triton kernel.

Swin-L at 1024x2048 has 43,008 tokens of 8 heads of 32 channels. A layer in half precision reads 46.8 MB of `projected`
and writes 22.0 MB; each token's head gathers 12 x 4 neighbours of 64 bytes, 1.06 GB in all. The gathers have to hit the
L1 cache: a program computes one head for a tile of adjacent tokens, whose samples overlap. The kernel is then bound by
its instructions. Four lanes hold a token, eight channels each: they repeat its coordinates and weights, but more
channels a lane would touch more cache lines an instruction. The position's part of offsets and logits, 25 MB a layer,
comes as the sum of two tables of 0.8 MB that stay in the L2 cache.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor, int64

from m2f_ros.kernels import ceil_div, device_of, next_power_of_2

LEVELS = 3
POINTS = 4
TILE = (8, 8)  # rows and columns of a program's tile of tokens
LOG2_E = tl.constexpr(1.4426950408889634)


def attend(projected: Tensor, rows: Tensor, columns: Tensor, heads: int, shapes: list[tuple[int, int]]) -> Tensor:
    """Attend from every token to every level; coordinates, softmax and sums over samples in float32.

    The four neighbours of a sample are blended in float16 if `projected` is float16, else in float32. The blend's root
    mean square error is about twice that of rounding the result to float16.

    Args:
        projected: (B, S, 3F + C) float32, float16 or bfloat16, F = heads * LEVELS * POINTS: for each token the x
            offsets (heads, LEVELS, POINTS), the y offsets, the attention logits, and the values (heads, C / heads). C
            is a multiple of 4. Offsets are in pixels of the level.
        rows: (sum of heights, 3F) float32, added to the first 3F numbers of each token of that row of its level.
        columns: (sum of widths, 3F) float32, the same for its column. Together they hold the token's own position in
            pixels of each point's level; 0 is the centre of the first pixel.
        shapes: (height, width) of each of the LEVELS maps, which are flattened row by row and concatenated.
    Returns:
        (B, S, C); samples outside a map are zero.
    """
    batch, tokens, width = projected.shape
    points = heads * LEVELS * POINTS
    channels = width - 3 * points
    sizes = [sum(h for h, _ in shapes), sum(w for _, w in shapes)]
    if (
        len(shapes) != LEVELS
        or sum(h * w for h, w in shapes) != tokens
        or channels <= 0
        or channels % heads
        or channels % 4
        or [tuple(rows.shape), tuple(columns.shape)] != [(size, 3 * points) for size in sizes]
    ):
        given = [tuple(x.shape) for x in (projected, rows, columns)]
        raise ValueError(f"{heads} heads, maps {shapes} and projected, rows, columns {given} do not fit together")
    if tokens * width >= 2**31:
        raise ValueError(f"projected {tuple(projected.shape)}: above 2^31 numbers an image")
    projected = projected.contiguous()
    out = projected.new_empty(batch, tokens, channels)
    down, across = TILE
    tiles = sum(ceil_div(h, down) * ceil_div(w, across) for h, w in shapes)
    (h0, w0), (h1, w1), (h2, w2) = shapes
    dim = channels // heads
    block_dim = next_power_of_2(dim)
    with device_of(projected):
        _deformable_attention[(tiles * heads, batch)](
            projected,
            projected.view(int64),  # loads of 8 bytes
            rows.contiguous().view(int64),
            columns.contiguous().view(int64),
            out,
            *(h0, w0, h1, w1, h2, w2),
            HEADS=heads,
            DIM=dim,
            BLOCK_DIM=block_dim,
            POINTS=POINTS,
            TILE_HEIGHT=down,
            TILE_WIDTH=across,
            NARROW=min(w0, w1, w2) == 1,
            num_warps=max(down * across * block_dim // (8 * 32), 1),  # eight channels a lane
        )
    return out


# Not specialised: one compilation serves all sizes.
@triton.jit(do_not_specialize=["h0", "w0", "h1", "w1", "h2", "w2"])
def _deformable_attention(
    projected,
    words,
    rows,
    columns,
    out,
    h0,
    w0,
    h1,
    w1,
    h2,
    w2,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    POINTS: tl.constexpr,
    TILE_HEIGHT: tl.constexpr,
    TILE_WIDTH: tl.constexpr,
    NARROW: tl.constexpr,
):
    SAMPLES: tl.constexpr = 3 * POINTS
    COLUMNS: tl.constexpr = 3 * HEADS * SAMPLES + HEADS * DIM
    dtype: tl.constexpr = projected.dtype.element_ty
    blend: tl.constexpr = tl.float16 if dtype == tl.float16 else tl.float32
    WORDS: tl.constexpr = 64 // dtype.primitive_bitwidth  # numbers in a word
    start1 = h0 * w0
    start2 = start1 + h1 * w1
    image = tl.program_id(1).to(tl.int64) * (start2 + h2 * w2)
    projected += image * COLUMNS
    words += image * (COLUMNS // WORDS)
    out += image * (HEADS * DIM)

    # The heads of a tile run one after the other: they share the cache lines of offsets and logits.
    head = tl.program_id(0) % HEADS
    tile = tl.program_id(0) // HEADS
    height, width, start, first_row, first_column = h0, w0, 0, 0, 0
    tiles = tl.cdiv(h0, TILE_HEIGHT) * tl.cdiv(w0, TILE_WIDTH)
    if tile >= tiles:
        tile -= tiles
        height, width, start, first_row, first_column = h1, w1, start1, h0, w0
        tiles = tl.cdiv(h1, TILE_HEIGHT) * tl.cdiv(w1, TILE_WIDTH)
        if tile >= tiles:
            tile -= tiles
            height, width, start, first_row, first_column = h2, w2, start2, h0 + h1, w0 + w1
    across = tl.cdiv(width, TILE_WIDTH)
    TOKENS: tl.constexpr = TILE_HEIGHT * TILE_WIDTH
    place = tl.arange(0, TOKENS)
    row = tile // across * TILE_HEIGHT + place // TILE_WIDTH
    column = tile % across * TILE_WIDTH + place % TILE_WIDTH
    inside = (row < height) & (column < width)
    row = tl.minimum(row, height - 1)
    column = tl.minimum(column, width - 1)
    token = start + row * width + column

    words += token * (COLUMNS // WORDS) + head * (SAMPLES // WORDS)
    rows += (first_row + row) * (3 * HEADS * SAMPLES // 2) + head * (SAMPLES // 2)
    columns += (first_column + column) * (3 * HEADS * SAMPLES // 2) + head * (SAMPLES // 2)
    channel = tl.arange(0, BLOCK_DIM)
    value = projected + 3 * HEADS * SAMPLES + head * DIM + channel[None, :]
    in_head = (channel < DIM)[None, :]

    largest = _term(words, rows, columns, 2 * HEADS * SAMPLES, dtype)
    for i in tl.static_range(1, SAMPLES):
        largest = tl.maximum(largest, _term(words, rows, columns, 2 * HEADS * SAMPLES + i, dtype))
    largest *= LOG2_E
    total = tl.zeros([TOKENS], tl.float32)
    acc = tl.zeros([TOKENS, BLOCK_DIM], tl.float32)
    for level in tl.static_range(3):
        if level == 0:
            height, width, start = h0, w0, 0
        elif level == 1:
            height, width, start = h1, w1, start1
        else:
            height, width, start = h2, w2, start2
        upper = value + start * COLUMNS
        # A map of one row has no second one, a map of one column neither: the first is read twice and counts once.
        lower = upper + tl.where(height > 1, width, 0) * COLUMNS
        reach_y = tl.where(height > 1, 1.0, float("-inf"))
        if NARROW:
            right = tl.where(width > 1, COLUMNS, 0)
            reach_x = tl.where(width > 1, 1.0, float("-inf"))
        else:
            right = COLUMNS
            reach_x = 1.0
        last_x = tl.maximum(width - 2, 0).to(tl.float32)
        last_y = tl.maximum(height - 2, 0).to(tl.float32)
        for i in tl.static_range(level * POINTS, (level + 1) * POINTS):
            weight = tl.exp2(_term(words, rows, columns, 2 * HEADS * SAMPLES + i, dtype) * LOG2_E - largest)
            total += weight
            x = _term(words, rows, columns, i, dtype)
            y = _term(words, rows, columns, HEADS * SAMPLES + i, dtype)
            # Both columns that are read, and both rows, are in the map. A pixel counts 1 less its distance from the
            # point, or nothing: no bound is checked.
            left = tl.minimum(tl.maximum(x, 0.0), last_x).to(tl.int32)
            top = tl.minimum(tl.maximum(y, 0.0), last_y).to(tl.int32)
            x -= left.to(tl.float32)
            y -= top.to(tl.float32)
            left_part = tl.clamp(1 - tl.abs(x), 0.0, 1.0)
            right_part = tl.clamp(reach_x - tl.abs(x - 1), 0.0, 1.0)
            upper_part = tl.clamp(1 - tl.abs(y), 0.0, 1.0)
            lower_part = tl.clamp(reach_y - tl.abs(y - 1), 0.0, 1.0)
            at = ((top * width + left).to(tl.int64) * COLUMNS)[:, None]
            # Written as one operation each, multiplication and addition are packed, two halves an instruction.
            pixel = (upper_part * left_part).to(blend)[:, None] * _pixels(upper + at, in_head, DIM, blend)
            part = (upper_part * right_part).to(blend)[:, None]
            pixel = tl.fma(part, _pixels(upper + at + right, in_head, DIM, blend), pixel)
            part = (lower_part * left_part).to(blend)[:, None]
            pixel = tl.fma(part, _pixels(lower + at, in_head, DIM, blend), pixel)
            part = (lower_part * right_part).to(blend)[:, None]
            pixel = tl.fma(part, _pixels(lower + at + right, in_head, DIM, blend), pixel)
            acc = tl.fma(weight[:, None], pixel.to(tl.float32), acc)
    acc *= (1 / total)[:, None]
    at = out + token[:, None] * (HEADS * DIM) + head * DIM + channel[None, :]
    tl.store(at, acc.to(out.dtype.element_ty), mask=inside[:, None] & in_head)


@triton.jit
def _term(words, rows, columns, index: tl.constexpr, dtype: tl.constexpr):
    """Return number `index` of the tokens' columns, with its terms of row and column. (The compiler merges loads.)"""
    return _number(words, index, dtype) + (_number(rows, index, tl.float32) + _number(columns, index, tl.float32))


@triton.jit
def _number(words, index: tl.constexpr, dtype: tl.constexpr):
    """Return number `index` of those that words of 64 bits hold, in float32."""
    BITS: tl.constexpr = dtype.primitive_bitwidth
    bits = tl.load(words + index * BITS // 64) >> (index * BITS % 64)
    bits = bits.to(tl.int16) if BITS == 16 else bits.to(tl.int32)
    return bits.to(dtype, bitcast=True).to(tl.float32)


@triton.jit
def _pixels(at, in_head, DIM: tl.constexpr, dtype: tl.constexpr):
    """Load the channels of a head."""
    if at.shape[1] == DIM:
        return tl.load(at).to(dtype)
    return tl.load(at, mask=in_head, other=0.0).to(dtype)
