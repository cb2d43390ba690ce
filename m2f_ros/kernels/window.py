"""Window attention of the Swin Transformer (Liu et al. 2021, https://arxiv.org/abs/2103.14030) in one Triton kernel.

Swin-L at 1024x2048 in half precision reads 1.17 GB of `qkv` and writes 0.39 GB in its 24 blocks; with the padding to
whole windows the products are 126 GFLOP. The kernel is bound by memory if all else stays on the chip: the logits in
registers, and the bias of a head, 41 kB for a window of 12, in the L1 cache, since consecutive programs compute the
same head.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from m2f_ros.kernels import ceil_div, device_of, next_power_of_2

# Rows of logits in registers, 16 a warp. 144 queries take 5 blocks of 32, which wastes a tenth; 64 would waste a
# quarter.
QUERIES = 32


def attend(qkv: Tensor, pad: Tensor, bias: Tensor, heads: int, window: int, shift: int) -> Tensor:
    """Compute self-attention inside windows of the map, padded below and right to whole windows, rolled by -shift.

    Logits of tokens that only the roll made neighbours get -100, as upstream. Softmax and sums are float32.

    Args:
        qkv: (B, H, W, 3C) float32, float16 or bfloat16: query, key and value, each (heads, C / heads).
        pad: (3C,) query, key and value of a padding token, dtype of `qkv`.
        bias: (heads, window², window²) bias of each query and key, any float type. Faster if its rows are padded to
            multiples of 8.
        shift: cyclic shift of the windows, 0..window - 1.
    Returns:
        (B, H, W, C)
    """
    batch, height, width, columns = qkv.shape
    channels, tokens = columns // 3, window * window
    if columns % (3 * heads) or bias.shape != (heads, tokens, tokens) or bias.stride(2) != 1:
        raise ValueError(f"{heads} heads, qkv {tuple(qkv.shape)} and bias {tuple(bias.shape)} do not fit together")
    out = qkv.new_empty(batch, height, width, channels)
    windows = ceil_div(height, window) * ceil_div(width, window)
    dim = channels // heads
    # Block sizes are powers of two: 144 keys take blocks of 128 and 16, 49 keys one of 64.
    main = tokens if tokens <= 64 else 1 << (tokens.bit_length() - 1)
    rest = tokens - main
    aligned = ceil_div(tokens, 8) * 8
    with device_of(qkv):
        _window_attention[(windows * heads, batch)](
            qkv.contiguous(),
            pad,
            bias,
            out,
            height,
            width,
            HEADS=heads,
            DIM=dim,
            BLOCK_DIM=max(16, next_power_of_2(dim)),
            WINDOW=window,
            SHIFT=shift,
            MAIN=max(16, next_power_of_2(main)),
            REST=max(16, next_power_of_2(rest)) if rest else 0,
            QUERIES=QUERIES,
            BIAS_HEAD=bias.stride(0),
            BIAS_ROW=bias.stride(1),
            BIAS_COLUMNS=aligned if bias.stride(1) >= aligned else tokens,
            num_warps=QUERIES // 16,
            num_stages=1,  # no prefetching: shared memory is better used for more programs
        )
    return out


# Not specialised: one compilation serves all sizes.
@triton.jit(do_not_specialize=["height", "width"])
def _window_attention(
    qkv,
    pad,
    bias,
    out,
    height,
    width,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    WINDOW: tl.constexpr,
    SHIFT: tl.constexpr,
    MAIN: tl.constexpr,
    REST: tl.constexpr,
    QUERIES: tl.constexpr,
    BIAS_HEAD: tl.constexpr,
    BIAS_ROW: tl.constexpr,
    BIAS_COLUMNS: tl.constexpr,
):
    CHANNELS: tl.constexpr = HEADS * DIM
    LOG2_E: tl.constexpr = 1.4426950408889634
    # tf32x3: three tensor core products with the accuracy of float32.
    PRECISION: tl.constexpr = "tf32x3" if qkv.dtype.element_ty == tl.float32 else "tf32"
    down = tl.cdiv(height, WINDOW)
    across = tl.cdiv(width, WINDOW)
    head = tl.program_id(0) // (down * across)
    window = tl.program_id(0) % (down * across)
    window_row = window // across
    window_column = window % across
    image = tl.program_id(1).to(tl.int64) * height * width
    qkv += image * (3 * CHANNELS) + head * DIM
    out += image * CHANNELS + head * DIM
    pad += head * DIM
    bias += head * BIAS_HEAD

    first = tl.arange(0, MAIN)
    key, value, region = _keys(
        qkv, pad, first, window_row, window_column, down, across, height, width,
        CHANNELS, DIM, BLOCK_DIM, WINDOW, SHIFT,
    )  # fmt: skip
    if REST:
        last = MAIN + tl.arange(0, REST)
        last_key, last_value, last_region = _keys(
            qkv, pad, last, window_row, window_column, down, across, height, width,
            CHANNELS, DIM, BLOCK_DIM, WINDOW, SHIFT,
        )  # fmt: skip

    # Only windows at the lower and right border of the rolled map mix tokens of different regions.
    mixed = (window_row == down - 1) | (window_column == across - 1)
    channel = tl.arange(0, BLOCK_DIM)[None, :]
    for start in tl.range(0, WINDOW * WINDOW, QUERIES):
        place = start + tl.arange(0, QUERIES)
        token, own = _places(place, window_row, window_column, down, across, height, width, WINDOW, SHIFT)
        query = _rows(qkv, pad, token, 3 * CHANNELS, DIM, BLOCK_DIM)
        row = bias + place[:, None] * BIAS_ROW
        logits = _logits(query, row, place, own, key, first, region, mixed, DIM, WINDOW, SHIFT, BIAS_COLUMNS, PRECISION)
        largest = tl.max(logits, 1)
        if REST:
            rest_logits = _logits(
                query, row, place, own, last_key, last, last_region, mixed, DIM, WINDOW, SHIFT, BIAS_COLUMNS, PRECISION
            )
            largest = tl.maximum(largest, tl.max(rest_logits, 1))
        # exp2 with a fused multiply-add takes fewer instructions than exp.
        weights = tl.exp2(logits * LOG2_E - (largest * LOG2_E)[:, None])
        total = tl.sum(weights, 1)
        acc = tl.dot(weights.to(value.dtype), value, input_precision=PRECISION)
        if REST:
            rest_weights = tl.exp2(rest_logits * LOG2_E - (largest * LOG2_E)[:, None])
            total += tl.sum(rest_weights, 1)
            acc = tl.dot(rest_weights.to(value.dtype), last_value, acc, input_precision=PRECISION)
        acc /= total[:, None]
        at = out + token[:, None].to(tl.int64) * CHANNELS + channel
        tl.store(at, acc.to(out.dtype.element_ty), mask=(token >= 0)[:, None] & (channel < DIM))


@triton.jit
def _places(place, window_row, window_column, down, across, height, width, WINDOW: tl.constexpr, SHIFT: tl.constexpr):
    """Return the token at each place in a window (-1 in the padding, -2 beyond the window), and its region."""
    row = window_row * WINDOW + place // WINDOW
    column = window_column * WINDOW + place % WINDOW
    region = 3 * _region(row, down, WINDOW, SHIFT) + _region(column, across, WINDOW, SHIFT)
    row += SHIFT
    column += SHIFT
    row -= tl.where(row >= down * WINDOW, down * WINDOW, 0)
    column -= tl.where(column >= across * WINDOW, across * WINDOW, 0)
    token = tl.where((row < height) & (column < width), row * width + column, -1)
    return tl.where(place < WINDOW * WINDOW, token, -2), region


@triton.jit
def _region(index, count, WINDOW: tl.constexpr, SHIFT: tl.constexpr):
    """Return the region, 0, 1 or 2, of rows or columns of the rolled map; the roll made different regions adjacent."""
    return (index >= (count - 1) * WINDOW).to(tl.int32) + (index >= count * WINDOW - SHIFT).to(tl.int32)


@triton.jit
def _keys(
    qkv, pad, place, window_row, window_column, down, across, height, width,
    CHANNELS: tl.constexpr, DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, WINDOW: tl.constexpr, SHIFT: tl.constexpr,
):  # fmt: skip
    """Return keys and values, each (places, BLOCK_DIM), and regions of the places in a window."""
    token, region = _places(place, window_row, window_column, down, across, height, width, WINDOW, SHIFT)
    key = _rows(qkv + CHANNELS, pad + CHANNELS, token, 3 * CHANNELS, DIM, BLOCK_DIM)
    value = _rows(qkv + 2 * CHANNELS, pad + 2 * CHANNELS, token, 3 * CHANNELS, DIM, BLOCK_DIM)
    return key, value, region


@triton.jit
def _rows(base, pad, token, stride: tl.constexpr, DIM: tl.constexpr, BLOCK_DIM: tl.constexpr):
    """Return the rows (places, BLOCK_DIM) of tokens: `pad` in the padding, zeros beyond the window."""
    channel = tl.arange(0, BLOCK_DIM)[None, :]
    real = tl.load(
        base + token[:, None].to(tl.int64) * stride + channel, mask=(token >= 0)[:, None] & (channel < DIM), other=0.0
    )
    padding = tl.load(pad + channel, mask=channel < DIM, other=0.0)
    return tl.where((token == -1)[:, None], padding, real)


@triton.jit
def _logits(
    query, row, place, region, key, key_place, key_region, mixed,
    DIM: tl.constexpr, WINDOW: tl.constexpr, SHIFT: tl.constexpr, BIAS_COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return (queries, keys) float32 logits: scaled products plus bias, -inf for keys beyond the window."""
    TOKENS: tl.constexpr = WINDOW * WINDOW
    logits = tl.dot(query, tl.trans(key), input_precision=PRECISION) * (DIM**-0.5)
    # With padded rows the mask ends at a multiple of 8, which allows loads of 16 bytes.
    in_bias = (place < TOKENS)[:, None] & (key_place < BIAS_COLUMNS)[None, :]
    logits += tl.load(row + key_place[None, :], mask=in_bias, other=0.0).to(tl.float32)
    if SHIFT:  # noqa: SIM102 (only SHIFT is known at compile time)
        if mixed:
            logits += tl.where(region[:, None] == key_region[None, :], 0.0, -100.0)
    return tl.where((key_place < TOKENS)[None, :], logits, float("-inf"))
