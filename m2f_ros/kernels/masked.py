"""Masked cross-attention of Mask2Former's decoder (Cheng et al. 2022, section 3.2.1) in Triton kernels.

A hundred queries attend to 32,768 tokens at 1024x2048, in eight heads of 32 channels. Programs share the work by blocks
of keys, since queries and heads are too few for a GPU; a second kernel combines the blocks. Each program predicts the
masks of its keys itself: as much work as the products of queries and keys, but mask logits never go through memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from m2f_ros.kernels import ceil_div, device_of, next_power_of_2

QUERIES = 128  # most queries of a program
KEYS = 64  # its keys: with 128 the logits leave registers for one program a multiprocessor only
PIXELS = 256  # of a program of `predict`
CHUNK = 64  # channels that one step of the mask product takes
PROGRAMS = 256  # about as many run at once on a large GPU: with fewer the heads go to programs of their own
TILE = 8  # side of the tile that a program of `middles` downsamples


def attend(
    query: Tensor,
    embedding: Tensor,
    offset: Tensor,
    features: Tensor,
    keys: Tensor,
    values: Tensor,
    rows: Tensor,
    columns: Tensor,
    heads: int,
) -> Tensor:
    """Attend from each query to the keys inside its mask or, if that is empty, to all keys.

    Mask logits, key terms, softmax and sums are float32.

    Args:
        query: (B, Q, C) projected queries, float32, float16 or bfloat16, as all but `offset`.
        embedding: (B, Q, C) mask embeddings; a key is inside the mask if embedding . features + offset >= 0.
        offset: (B, Q) offsets of the masks, any float type.
        features: (B, h * w, C) mask features at the keys.
        keys: (B, h * w, C) projected keys without the term below, maybe some columns of a larger tensor.
        values: (B, h * w, C) projected values, with the strides of `keys`.
        rows: (h, C) term of the keys in each row of the map, maybe some columns of a larger tensor.
        columns: (w, C) term of the keys in each column, with the strides of `rows`.
    Returns:
        (B, Q, C)
    """
    batch, count, channels = query.shape
    length, width = keys.shape[1], len(columns)
    if channels % heads or length != len(rows) * width or features.shape != keys.shape:
        raise ValueError(f"{heads} heads, queries {tuple(query.shape)}, keys {tuple(keys.shape)} do not fit together")
    key_stride, row_stride = (length * keys.stride(1), keys.stride(1), 1), (rows.stride(0), 1)
    if keys.stride()[batch == 1 :] != key_stride[batch == 1 :] or keys.stride() != values.stride():
        raise ValueError(f"keys and values with strides {keys.stride()} and {values.stride()}")
    if rows.stride() != row_stride or columns.stride() != row_stride:
        raise ValueError(f"rows and columns with strides {rows.stride()} and {columns.stride()}")
    if length * keys.stride(1) >= 2**31:
        raise ValueError(f"keys {tuple(keys.shape)} of strides {keys.stride()}: above 2^31 numbers an image")
    dim = channels // heads
    block = min(QUERIES, max(16, next_power_of_2(count)))
    splits, blocks = ceil_div(length, KEYS), ceil_div(count, block)
    group = heads
    while group % 2 == 0 and splits * blocks * batch * (heads // group) < PROGRAMS:
        group //= 2
    parts = query.new_empty(batch, count, heads, splits, dim)
    weights = query.new_empty(2, batch, count, heads, splits, dtype=torch.float32)
    out = query.new_empty(batch, count, channels)
    sizes = {"HEADS": heads, "DIM": dim, "BLOCK_DIM": max(16, next_power_of_2(dim))}
    with device_of(query):
        _attend_parts[(splits * (heads // group), blocks, batch)](
            query.contiguous(),
            embedding.contiguous(),
            offset.contiguous(),
            features.contiguous(),
            keys,
            values,
            rows,
            columns,
            parts,
            weights,
            count,
            length,
            width,
            group,
            **sizes,
            KEY_STRIDE=keys.stride(1),
            ROW_STRIDE=rows.stride(0),
            QUERIES=block,
            KEYS=KEYS,
            CHUNK=CHUNK,
            num_warps=8,
            num_stages=2,
        )
        _combine[(count * heads, batch)](parts, weights, out, splits, **sizes, SPLITS=64, num_warps=4)
    return out


# Not specialised: one compilation serves all sizes.
@triton.jit(do_not_specialize=["count", "length", "width", "group"])
def _attend_parts(
    query,
    embedding,
    offset,
    features,
    keys,
    values,
    rows,
    columns,
    parts,
    weights,
    count,
    length,
    width,
    group,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    KEY_STRIDE: tl.constexpr,
    ROW_STRIDE: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    CHANNELS: tl.constexpr = HEADS * DIM
    LOG2_E: tl.constexpr = 1.4426950408889634
    SCALE: tl.constexpr = DIM**-0.5 * LOG2_E
    # tf32x3: three tensor core products with the accuracy of float32.
    PRECISION: tl.constexpr = "tf32x3" if query.dtype.element_ty == tl.float32 else "tf32"
    splits = tl.cdiv(length, KEYS)
    split = tl.program_id(0) % splits
    first = tl.program_id(0) // splits * group
    image = tl.program_id(2).to(tl.int64)
    row = tl.program_id(1) * QUERIES + tl.arange(0, QUERIES)
    real = row < count
    place = split * KEYS + tl.arange(0, KEYS)
    in_map = place < length
    # Clamped, not masked: it takes fewer registers. Results of rows beyond the last are not stored.
    of_row = tl.minimum(row, count - 1)[:, None] * CHANNELS
    place = tl.minimum(place, length - 1)[:, None]
    query += image * count * CHANNELS
    embedding += image * count * CHANNELS
    features += image * length * CHANNELS

    of_place = place * CHANNELS
    mask = _mask_logits(embedding + of_row, offset + image * count, features + of_place, row, count, CHANNELS, CHUNK)
    mask = tl.where(in_map[None, :], mask, float("-inf"))
    # A query that sees nothing here attends everywhere: `_combine` takes such blocks only if all are.
    seen = tl.max(mask, 1) >= 0
    least = tl.where(seen, 0.0, -3e38)
    # Half precision keeps it in half the registers while the heads pass.
    hidden = tl.where(mask >= least[:, None], 0.0, float("-inf")).to(tl.float16)

    channel = tl.arange(0, BLOCK_DIM)[None, :]
    in_head = channel < DIM
    keys += image * length * KEY_STRIDE
    values += image * length * KEY_STRIDE
    of_key = place * KEY_STRIDE
    of_map_row = place // width * ROW_STRIDE
    of_column = place % width * ROW_STRIDE
    of_part = (image * count + row) * (HEADS * splits) + split
    total = tl.num_programs(2).to(tl.int64) * count * (HEADS * splits)
    for head in tl.range(first, first + group):
        at = head * DIM + channel
        mine = tl.load(query + of_row + at, mask=in_head, other=0.0)
        # Three products take fewer instructions than the sum of key and terms.
        logits = hidden.to(tl.float32)
        key = tl.load(keys + of_key + at, mask=in_head, other=0.0)
        logits = tl.dot(mine, tl.trans(key), logits, input_precision=PRECISION)
        key = tl.load(rows + of_map_row + at, mask=in_head, other=0.0)
        logits = tl.dot(mine, tl.trans(key), logits, input_precision=PRECISION)
        key = tl.load(columns + of_column + at, mask=in_head, other=0.0)
        logits = tl.dot(mine, tl.trans(key), logits, input_precision=PRECISION)
        value = tl.load(values + of_key + at, mask=in_head, other=0.0)
        largest = tl.max(logits, 1) * SCALE
        # exp2 with a fused multiply-add takes fewer instructions than exp.
        shares = tl.exp2(logits * SCALE - largest[:, None])
        weight = tl.sum(shares, 1)
        acc = tl.dot(shares.to(value.dtype), value, input_precision=PRECISION) * (1 / weight)[:, None]
        part = of_part + head * splits
        tl.store(parts + part[:, None] * DIM + channel, acc.to(parts.dtype.element_ty), mask=real[:, None] & in_head)
        weight = largest + tl.log2(weight)
        tl.store(weights + part, tl.where(seen, weight, float("-inf")), mask=real)
        tl.store(weights + total + part, tl.where(seen, float("-inf"), weight), mask=real)


@triton.jit(do_not_specialize=["splits"])
def _combine(
    parts,
    weights,
    out,
    splits,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    SPLITS: tl.constexpr,
):
    row = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)  # of (B, Q, heads)
    weights += row * splits
    blind = weights + tl.num_programs(1).to(tl.int64) * tl.num_programs(0) * splits
    parts += row * splits * DIM

    largest = tl.full([SPLITS], float("-inf"), tl.float32)
    others = tl.full([SPLITS], float("-inf"), tl.float32)
    for start in tl.range(0, splits, SPLITS):
        split = start + tl.arange(0, SPLITS)
        largest = tl.maximum(largest, tl.load(weights + split, mask=split < splits, other=float("-inf")))
        others = tl.maximum(others, tl.load(blind + split, mask=split < splits, other=float("-inf")))
    top = tl.max(largest, 0)
    if top == float("-inf"):  # the mask is empty
        top = tl.max(others, 0)
        weights = blind

    channel = tl.arange(0, BLOCK_DIM)[None, :]
    total = tl.zeros([SPLITS], tl.float32)
    acc = tl.zeros([SPLITS, BLOCK_DIM], tl.float32)
    for start in tl.range(0, splits, SPLITS):
        split = start + tl.arange(0, SPLITS)
        share = tl.exp2(tl.load(weights + split, mask=split < splits, other=float("-inf")) - top)
        at = parts + split[:, None] * DIM + channel
        part = tl.load(at, mask=(split < splits)[:, None] & (channel < DIM), other=0.0)
        acc += share[:, None] * part.to(tl.float32)
        total += share
    result = tl.sum(acc, 0) / tl.sum(total, 0)
    channel = tl.arange(0, BLOCK_DIM)
    tl.store(out + row * DIM + channel, result.to(out.dtype.element_ty), mask=channel < DIM)


@triton.jit
def _mask_logits(embedding, offset, features, row, count, CHANNELS: tl.constexpr, CHUNK: tl.constexpr):
    """Return float32 products of the rows at `embedding` (Q, 1) and `features` (K, 1), plus offsets: (Q, K)."""
    PRECISION: tl.constexpr = "tf32x3" if embedding.dtype.element_ty == tl.float32 else "tf32"
    logits = tl.zeros([embedding.shape[0], features.shape[0]], tl.float32)
    for start in tl.range(0, CHANNELS, CHUNK):
        channel = start + tl.arange(0, CHUNK)[None, :]
        left = tl.load(embedding + channel, mask=channel < CHANNELS, other=0.0)
        right = tl.load(features + channel, mask=channel < CHANNELS, other=0.0)
        logits = tl.dot(left, tl.trans(right), logits, input_precision=PRECISION)
    return logits + tl.load(offset + row, mask=row < count, other=0.0).to(tl.float32)[:, None]


def predict(embedding: Tensor, offset: Tensor, maps: Tensor) -> Tensor:
    """Predict mask logits: embedding (B, Q, C), offset (B, Q, 1) and features (B, h, w, C) -> (B, Q, h, w)."""
    batch, height, width, channels = maps.shape
    count, length = embedding.shape[1], height * width
    unit = 8 if length % 8 == 0 else 1
    if embedding.shape[::2] != (batch, channels) or offset.shape != (batch, count, 1) or maps[0].numel() >= 2**31:
        raise ValueError(f"embeddings {tuple(embedding.shape)} and features {tuple(maps.shape)} do not fit together")
    out = embedding.new_empty(batch, count, height, width)
    block = min(QUERIES, max(16, next_power_of_2(count)))
    with device_of(maps):
        _predict[(ceil_div(count, block), ceil_div(length, PIXELS), batch)](
            embedding.contiguous(),
            offset.contiguous(),
            maps.contiguous(),
            out,
            count,
            length // unit,
            CHANNELS=channels,
            UNIT=unit,
            QUERIES=block,
            PIXELS=PIXELS,
            CHUNK=CHUNK,
            num_warps=8,
            num_stages=2,
        )
    return out


@triton.jit(do_not_specialize=["count", "units"])
def _predict(
    embedding, offset, maps, out, count, units,
    CHANNELS: tl.constexpr, UNIT: tl.constexpr, QUERIES: tl.constexpr, PIXELS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    length = units * UNIT  # a multiple of 8 allows stores of 16 bytes
    image = tl.program_id(2).to(tl.int64)
    row = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    place = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    embedding += image * count * CHANNELS + tl.minimum(row, count - 1)[:, None] * CHANNELS
    maps += image * length * CHANNELS + tl.minimum(place, length - 1)[:, None] * CHANNELS
    logits = _mask_logits(embedding, offset + image * count, maps, row, count, CHANNELS, CHUNK)
    at = out + (image * count + row)[:, None] * length + place[None, :]
    tl.store(at, logits.to(out.dtype.element_ty), mask=(row < count)[:, None] & (place < length)[None, :])


def middles(maps: Tensor) -> Sequence[Tensor]:
    """Downsample by 8, 4 and 2, each by the mean of the central four pixels: (B, h, w, C) -> three (B, h * w / f², C).

    Height and width are multiples of 8.
    """
    batch, height, width, channels = maps.shape
    if height % TILE or width % TILE:
        raise ValueError(f"maps of {height}x{width}: height and width must be multiples of {TILE}")
    out = [maps.new_empty(batch, height * width // factor**2, channels) for factor in (8, 4, 2)]
    with device_of(maps):
        _middles[(height * width // TILE**2, batch)](
            maps.contiguous(),
            *out,
            height,
            width,
            CHANNELS=channels,
            BLOCK=next_power_of_2(channels),
            TILE=TILE,
            num_warps=4,
        )
    return out


@triton.jit(do_not_specialize=["height", "width"])
def _middles(
    maps, eighth, quarter, half, height, width, CHANNELS: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr
):
    # A program makes all results of its tile: its lines are in a cache when it reads them again.
    _middle(maps, half, height, width, 2, CHANNELS, BLOCK, TILE)
    _middle(maps, quarter, height, width, 4, CHANNELS, BLOCK, TILE)
    _middle(maps, eighth, height, width, 8, CHANNELS, BLOCK, TILE)


@triton.jit
def _middle(
    maps, out, height, width,
    FACTOR: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    SIDE: tl.constexpr = TILE // FACTOR
    image = tl.program_id(1).to(tl.int64) * height * width * CHANNELS
    place = tl.arange(0, SIDE * SIDE)
    row = tl.program_id(0) // (width // TILE) * SIDE + place // SIDE
    column = tl.program_id(0) % (width // TILE) * SIDE + place % SIDE
    first = (row * FACTOR + FACTOR // 2 - 1) * width + column * FACTOR + FACTOR // 2 - 1
    channel = tl.arange(0, BLOCK)[None, :]
    total = tl.zeros([SIDE * SIDE, BLOCK], tl.float32)
    for down in tl.static_range(2):
        for right in tl.static_range(2):
            at = maps + image + (first + down * width + right)[:, None] * CHANNELS + channel
            total += tl.load(at, mask=channel < CHANNELS, other=0.0).to(tl.float32)
    token = row * (width // FACTOR) + column
    at = out + image // (FACTOR * FACTOR) + token[:, None] * CHANNELS + channel
    tl.store(at, (total / 4).to(out.dtype.element_ty), mask=channel < CHANNELS)
