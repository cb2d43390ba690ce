"""Window attention of the Swin Transformer (Liu et al. 2021, https://arxiv.org/abs/2103.14030) in one Triton kernel.

Swin-L at 1024x2048 in half precision reads 1.17 GB of `qkv` and writes 0.39 GB in its 24 blocks; with the padding to
whole windows the products are 126 GFLOP. The logits stay in registers. The kernel is bound by its instructions, of
which a warp issues five and a half for each of its logits but the products: bias to float32, maximum, difference,
exp2, sum, and half a conversion; the exponentials alone would take a third of the time. The bias of a head, 46 kB for a
window of 12, stays in the L1 cache, since consecutive programs compute the same head.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from m2f_ros.kernels import ceil_div, device_of, next_power_of_2

# Rows of logits in registers, 16 a warp. 144 queries take 5 blocks of 32, which wastes a tenth. Blocks of 64 would
# waste a quarter; blocks of 16 nothing, but each warp would need the shared memory of two.
QUERIES = 32


def attend(qkv: Tensor, pad: Tensor, bias: Tensor, heads: int, window: int, shift: int) -> Tensor:
    """Compute self-attention inside windows of the map, padded below and right to whole windows, rolled by -shift.

    Softmax and sums are float32.

    Args:
        qkv: (B, H, W, 3C) float32, float16 or bfloat16: query, key and value, each (heads, C / heads); less than 2³¹
            numbers an image.
        pad: (3C,) query, key and value of a padding token, dtype of `qkv`.
        bias: of `arrange`, with four kinds of window if `shift` is not 0, else one.
        shift: cyclic shift of the windows, 0..window - 1.
    Returns:
        (B, H, W, C)
    """
    batch, height, width, columns = qkv.shape
    channels, (rows, main, rest) = columns // 3, _blocks(window * window)
    if columns % (3 * heads) or bias.shape != (4 if shift else 1, heads, rows * (main + rest)):
        raise ValueError(f"{heads} heads, qkv {tuple(qkv.shape)} and bias {tuple(bias.shape)} do not fit together")
    if height * width * columns >= 1 << 31:
        raise ValueError(f"qkv {tuple(qkv.shape)} has 2^31 numbers an image, or more")
    out = qkv.new_empty(batch, height, width, channels)
    dim = channels // heads
    with device_of(qkv):
        _window_attention[(ceil_div(width, window), ceil_div(height, window), batch * heads)](
            qkv.contiguous(),
            pad,
            bias.contiguous(),
            out,
            *(heads, height, width, shift),
            DIM=dim,
            BLOCK_DIM=max(16, next_power_of_2(dim)),
            WINDOW=window,
            MAIN=main,
            REST=rest,
            QUERIES=QUERIES,
            num_warps=QUERIES // 16,
            num_stages=1,  # no prefetching: shared memory is better used for more programs
        )
    return out


def arrange(bias: Tensor, dim: int) -> Tensor:
    """Prepare a bias for `attend`: divided by the logits' scale, -inf for keys beyond the window, in a thread's order.

    In half precision the quotient is rounded again, by as much as it is large. The softmax of a query stays the same if
    all its biases are less by one number: a mean near those of the keys that count, which are then small. They are
    guessed by the softmax of half the biases, since the products of query and key have a say, too.

    Any order would do. In this one each thread loads, 8 at a time, the numbers of those logits that the tensor cores
    leave in its registers.

    Args:
        bias: (kinds, heads, window², window²) of each query and key, any float type. Four kinds of window: 1 at the
            bottom edge of the map, 2 at the right one, 3 at both, 0 elsewhere; or one for all.
        dim: channels of a head.
    Returns:
        (kinds, heads, queries * keys), both rounded up to whole blocks, dtype of `bias`.
    """
    tokens = bias.shape[-1]
    rows, main, rest = _blocks(tokens)
    bias, dtype = bias.float(), bias.dtype
    centred = bias - ((bias / 2).softmax(-1) * bias).sum(-1, keepdim=True)
    scaled = F.pad(centred * dim**0.5, (0, main + rest - tokens), value=float("-inf"))
    scaled = F.pad(scaled, (0, 0, 0, rows - tokens)).to(dtype)
    parts = scaled.unflatten(2, (-1, QUERIES // 16, 2, 8)).unflatten(6, (-1, 2, 4, 2))
    return parts.permute(0, 1, 2, 6, 3, 5, 8, 7, 4, 9).flatten(2)


def _blocks(tokens: int) -> tuple[int, int, int]:
    """Return the queries of all blocks, and the keys of both: block sizes are powers of two, as 144 = 128 + 16."""
    main = tokens if tokens <= 64 else 1 << (tokens.bit_length() - 1)
    rest = tokens - main
    rows = ceil_div(tokens, QUERIES) * QUERIES
    return rows, max(16, next_power_of_2(main)), max(16, next_power_of_2(rest)) if rest else 0


# Not specialised: one compilation serves all sizes, all stages of a network, and blocks with and without a shift.
@triton.jit(do_not_specialize=["heads", "height", "width", "shift"])
def _window_attention(
    qkv,
    pad,
    bias,
    out,
    heads,
    height,
    width,
    shift,
    DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    WINDOW: tl.constexpr,
    MAIN: tl.constexpr,
    REST: tl.constexpr,
    QUERIES: tl.constexpr,
):
    TOKENS: tl.constexpr = WINDOW * WINDOW
    BLOCKS: tl.constexpr = (TOKENS + QUERIES - 1) // QUERIES
    SCALE: tl.constexpr = 1.4426950408889634 * DIM**-0.5  # for exp2
    # tf32x3: three tensor core products with the accuracy of float32.
    PRECISION: tl.constexpr = "tf32x3" if qkv.dtype.element_ty == tl.float32 else "tf32"
    channels = heads * DIM
    row = tl.program_id(1)
    column = tl.program_id(0)
    head = tl.program_id(2) % heads
    down = tl.num_programs(1)
    across = tl.num_programs(0)
    # Only windows at the lower and right border of the rolled map mix tokens that the roll made neighbours.
    kind = tl.where(shift > 0, (row == down - 1).to(tl.int32) + 2 * (column == across - 1).to(tl.int32), 0)
    image = (tl.program_id(2) // heads).to(tl.int64) * height * width
    qkv += image * (3 * channels) + head * DIM
    out += image * channels + head * DIM
    pad += head * DIM
    bias += (kind * heads + head) * (BLOCKS * QUERIES * (MAIN + REST))

    top = row * WINDOW + shift
    left = column * WINDOW + shift
    bottom = down * WINDOW
    right = across * WINDOW
    key, value = _keys(
        qkv, pad, tl.arange(0, MAIN), top, left, bottom, right, height, width, channels, DIM, BLOCK_DIM, WINDOW
    )
    if REST:
        last = MAIN + tl.arange(0, REST)
        last_key, last_value = _keys(
            qkv, pad, last, top, left, bottom, right, height, width, channels, DIM, BLOCK_DIM, WINDOW
        )
    channel = tl.arange(0, BLOCK_DIM)[None, :]
    for start in tl.range(0, BLOCKS * QUERIES, QUERIES):
        place = start + tl.arange(0, QUERIES)
        token, real = _tokens(place, top, left, bottom, right, height, width, WINDOW)
        query = tl.load(_rows(qkv, pad, token, real, channels, BLOCK_DIM), mask=channel < DIM, other=0.0)
        # The products are added to the bias, which is divided by their scale; exp2's argument takes one fused
        # multiply-add. Maxima and sums over parts of 16 keys come first, so that threads exchange them only once.
        logits = tl.dot(query, tl.trans(key), _bias(bias, QUERIES, MAIN), input_precision=PRECISION)
        largest = tl.max(logits.reshape(QUERIES, MAIN // 16, 16), 1)
        if REST:
            bias_of_rest = _bias(bias + QUERIES * MAIN, QUERIES, REST)
            rest_logits = tl.dot(query, tl.trans(last_key), bias_of_rest, input_precision=PRECISION)
            largest = tl.maximum(largest, tl.max(rest_logits.reshape(QUERIES, REST // 16, 16), 1))
        largest = tl.max(largest, 1) * SCALE
        weights = tl.exp2(logits * SCALE - largest[:, None])
        total = tl.sum(weights.reshape(QUERIES, MAIN // 16, 16), 1)
        acc = tl.dot(weights.to(value.dtype), value, input_precision=PRECISION)
        if REST:
            rest_weights = tl.exp2(rest_logits * SCALE - largest[:, None])
            total += tl.sum(rest_weights.reshape(QUERIES, REST // 16, 16), 1)
            acc = tl.dot(rest_weights.to(value.dtype), last_value, acc, input_precision=PRECISION)
        # The total is between 1 and the number of keys: its reciprocal needs no care, which a division takes.
        root = tl.rsqrt(tl.sum(total, 1))
        acc *= (root * root)[:, None]
        written = (real & (place < TOKENS))[:, None] & (channel < DIM)
        tl.store(out + token[:, None] * channels + channel, acc.to(out.dtype.element_ty), mask=written)
        bias += QUERIES * (MAIN + REST)


@triton.jit
def _tokens(place, top, left, bottom, right, height, width, WINDOW: tl.constexpr):
    """Return the token at each place in a window, and where there is one, not padding.

    For places beyond the window: a token of a neighbouring one, or padding.
    """
    row = top + place // WINDOW
    column = left + place % WINDOW
    row = tl.where(row >= bottom, row - bottom, row)
    column = tl.where(column >= right, column - right, column)
    return row * width + column, row < tl.where(column < width, height, 0)


@triton.jit
def _rows(qkv, pad, token, real, channels, BLOCK_DIM: tl.constexpr):
    """Return pointers (places, BLOCK_DIM) to the rows of tokens; in the padding, to `pad`."""
    channel = tl.arange(0, BLOCK_DIM)[None, :]
    return tl.where(real[:, None], qkv + token[:, None] * (3 * channels) + channel, pad + channel)


@triton.jit
def _keys(
    qkv, pad, place, top, left, bottom, right, height, width, channels,
    DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """Return keys and values, each (places, BLOCK_DIM), at the places in a window."""
    token, real = _tokens(place, top, left, bottom, right, height, width, WINDOW)
    key = _rows(qkv + channels, pad + channels, token, real, channels, BLOCK_DIM)
    used = tl.arange(0, BLOCK_DIM)[None, :] < DIM
    return tl.load(key, mask=used, other=0.0), tl.load(key + channels, mask=used, other=0.0)


@triton.jit
def _bias(bias, QUERIES: tl.constexpr, KEYS: tl.constexpr):
    """Return (QUERIES, KEYS) float32 of a bias in the order of `arrange`."""
    parts = tl.load(bias + tl.arange(0, QUERIES * KEYS)).to(tl.float32)
    parts = parts.reshape(KEYS // 16, QUERIES // 16, 8, 4, 2, 2, 2)
    return tl.permute(parts, (1, 5, 2, 0, 4, 3, 6)).reshape(QUERIES, KEYS)
