"""Multi-scale deformable attention (Zhu et al. 2021, https://arxiv.org/abs/2010.04159) in one Triton kernel.

Swin-L at 1024x2048 has 43,008 tokens of 8 heads of 32 channels. A layer in half precision reads 46.8 MB of `projected`
and writes 22.0 MB; each token's head gathers 12 x 4 neighbours of 64 bytes, 1.06 GB in all. The gathers have to hit the
L1 cache: a program computes one head for a tile of adjacent tokens, whose samples overlap.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from m2f_ros.kernels import ceil_div, device_of, next_power_of_2

LEVELS = 3
POINTS = 4
TILE = 8  # side of a program's tile of tokens


def attend(projected: Tensor, heads: int, shapes: list[tuple[int, int]]) -> Tensor:
    """Attend from every token to every level; coordinates, softmax and sums in float32.

    Args:
        projected: (B, S, 3 * heads * LEVELS * POINTS + C) float32, float16 or bfloat16: for each token the x offsets
            (heads, LEVELS, POINTS), the y offsets, the attention logits, and the values (heads, C / heads). Offsets are
            in pixels of the level, from the token's own position.
        shapes: (height, width) of each of the LEVELS maps, which are flattened row by row and concatenated.
    Returns:
        (B, S, C); samples outside a map are zero.
    """
    batch, tokens, columns = projected.shape
    channels = columns - 3 * heads * LEVELS * POINTS
    if len(shapes) != LEVELS or sum(h * w for h, w in shapes) != tokens or channels <= 0 or channels % heads:
        raise ValueError(f"{heads} heads, maps {shapes} and projected {tuple(projected.shape)} do not fit together")
    if tokens * columns >= 2**31:
        raise ValueError(f"projected {tuple(projected.shape)}: above 2^31 numbers an image")
    out = projected.new_empty(batch, tokens, channels)
    tiles = sum(ceil_div(h, TILE) * ceil_div(w, TILE) for h, w in shapes)
    (h0, w0), (h1, w1), (h2, w2) = shapes
    dim = channels // heads
    with device_of(projected):
        _deformable_attention[(tiles * heads, batch)](
            projected.contiguous(),
            out,
            *(h0, w0, h1, w1, h2, w2),
            HEADS=heads,
            DIM=dim,
            BLOCK_DIM=next_power_of_2(dim),
            POINTS=POINTS,
            TILE=TILE,
            num_warps=8,
        )
    return out


# Not specialised: one compilation serves all sizes.
@triton.jit(do_not_specialize=["h0", "w0", "h1", "w1", "h2", "w2"])
def _deformable_attention(
    projected,
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
    TILE: tl.constexpr,
):
    SAMPLES: tl.constexpr = 3 * POINTS
    COLUMNS: tl.constexpr = 3 * HEADS * SAMPLES + HEADS * DIM
    start1 = h0 * w0
    start2 = start1 + h1 * w1
    projected += tl.program_id(1).to(tl.int64) * (start2 + h2 * w2) * COLUMNS
    out += tl.program_id(1).to(tl.int64) * (start2 + h2 * w2) * (HEADS * DIM)

    # The heads of a tile run one after the other: they share the cache lines of offsets and logits.
    head = tl.program_id(0) % HEADS
    tile = tl.program_id(0) // HEADS
    height, width, start = h0, w0, 0
    tiles = tl.cdiv(h0, TILE) * tl.cdiv(w0, TILE)
    if tile >= tiles:
        tile -= tiles
        height, width, start = h1, w1, start1
        tiles = tl.cdiv(h1, TILE) * tl.cdiv(w1, TILE)
        if tile >= tiles:
            tile -= tiles
            height, width, start = h2, w2, start2
    across = tl.cdiv(width, TILE)
    place = tl.arange(0, TILE * TILE)
    row = tile // across * TILE + place // TILE
    column = tile % across * TILE + place % TILE
    inside = (row < height) & (column < width)
    token = start + tl.minimum(row, height - 1) * width + tl.minimum(column, width - 1)
    own_height, own_width = height.to(tl.float32), width.to(tl.float32)
    by_height, by_width = 1 / own_height, 1 / own_width

    x_offset = projected + token * COLUMNS + head * SAMPLES
    y_offset = x_offset + HEADS * SAMPLES
    logit = y_offset + HEADS * SAMPLES
    channel = tl.arange(0, BLOCK_DIM)
    value = projected + 3 * HEADS * SAMPLES + head * DIM + channel[None, :]
    in_head = channel[None, :] < DIM

    largest = tl.load(logit).to(tl.float32)
    for i in tl.static_range(1, SAMPLES):
        largest = tl.maximum(largest, tl.load(logit + i).to(tl.float32))
    total = tl.zeros([TILE * TILE], tl.float32)
    acc = tl.zeros([TILE * TILE, BLOCK_DIM], tl.float32)
    for level in tl.static_range(3):
        if level == 0:
            height, width, start = h0, w0, 0
        elif level == 1:
            height, width, start = h1, w1, start1
        else:
            height, width, start = h2, w2, start2
        centre_x = (column + 0.5) * _ratio(width.to(tl.float32), own_width, by_width) - 0.5
        centre_y = (row + 0.5) * _ratio(height.to(tl.float32), own_height, by_height) - 0.5
        for i in tl.static_range(level * POINTS, (level + 1) * POINTS):
            weight = tl.exp(tl.load(logit + i).to(tl.float32) - largest)
            total += weight
            # Clamped: all points more than a pixel outside the map are equivalent.
            x = tl.minimum(tl.maximum(centre_x + tl.load(x_offset + i).to(tl.float32), -1.0), width.to(tl.float32))
            y = tl.minimum(tl.maximum(centre_y + tl.load(y_offset + i).to(tl.float32), -1.0), height.to(tl.float32))
            left = tl.floor(x)
            top = tl.floor(y)
            right_part = x - left
            lower_part = y - top
            left = left.to(tl.int32)
            top = top.to(tl.int32)
            first = (start + top * width + left) * COLUMNS
            for down in tl.static_range(2):
                for right in tl.static_range(2):
                    in_map = (left + right >= 0) & (left + right < width) & (top + down >= 0) & (top + down < height)
                    part = weight * (lower_part if down else 1 - lower_part) * (right_part if right else 1 - right_part)
                    at = value + (first + (down * width + right) * COLUMNS)[:, None]
                    pixel = tl.load(at, mask=in_map[:, None] & in_head, other=0.0)
                    acc += part[:, None] * pixel.to(tl.float32)
    acc /= total[:, None]
    at = out + token[:, None] * (HEADS * DIM) + head * DIM + channel[None, :]
    tl.store(at, acc.to(out.dtype.element_ty), mask=inside[:, None] & in_head)


@triton.jit
def _ratio(a, b, inverse):
    """Return a / b from an approximate 1 / b by a Newton step: 3 / 3 must be 1. (tl.div_rn takes more registers.)"""
    quotient = a * inverse
    return tl.fma(tl.fma(-quotient, b, a), inverse, quotient)
