"""The semantic head in one Triton kernel: from the network's logits to the class of each pixel of the frame.

(mask2former/maskformer_model.py upstream: semantic_inference, sem_seg_postprocess.)

At 1024x2048 with 100 queries the mask logits take 26 MB in half precision and the labels 2 MB; the masks at full size,
0.8 GB in float32, are never stored. The kernel is bound by its 210 million sigmoids, an exponential and a reciprocal
square root each, not by memory.

Masks usually have a quarter of the network's size: `_labels_of_cells` computes a cell a thread, the 4x4 pixels between
the same 2x2 numbers of the map, which it loads once. For a frame that is resized it stores the scores, 100 MB for 19
classes at 1024x2048 in half precision, and `_labels_of_scores` interpolates them. `_labels` takes any sizes, and any
number of classes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from m2f_ros.kernels import ceil_div, device_of, next_power_of_2

WARPS = 4  # of a program of `_labels_of_cells`; each has 8 cells
SCORES = 256 << 20  # bytes of stored scores at most
# Probabilities are multiplied as float16 numbers up to UNIT = 2^EXPONENT, near its largest: far from all masks they are
# below its smallest. Scores are times UNIT².
EXPONENT = tl.constexpr(15)
UNIT = tl.constexpr(2.0**15)


def labels(
    class_logits: Tensor,
    mask_logits: Tensor,
    network_size: tuple[int, int],
    frame_size: tuple[int, int],
    confidence: bool = False,
    content: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Compute the class of each pixel: mask logits upsampled to the network's size, sigmoid, sum over the queries of
    class probability times mask probability, scores interpolated to the frame's size, argmax.

    Args:
        class_logits: (B, Q, classes + 1), the last class is "no object".
        mask_logits: (B, Q, h, w) float32, float16 or bfloat16. Probabilities are multiplied in float16, with
            its full precision down to 2e-9, or with three TF32 products for float32 logits; sums are float32.
        network_size: (height, width) of the network's input.
        frame_size: (height, width) of the result.
        content: (height, width) of the frame in the top left corner of the network's input; None without padding.
            Fastest if it equals the frame's size, and the masks have a quarter of the network's: one sigmoid a pixel,
            not 2 or 4, and one interpolation for 16 pixels.
    Returns:
        label: (B, height, width) train ids, uint8, or int32 above 255 classes; ties go to the lowest id.
        confidence: (B, height, width) uint8, score of that class over the sum of all classes' scores, times 255,
            rounded; None if not wanted.
    """
    batch, queries, height, width = mask_logits.shape
    classes = class_logits.shape[2] - 1
    rows, columns = content = content or network_size
    label = mask_logits.new_empty(batch, *frame_size, dtype=torch.uint8 if classes <= 255 else torch.int32)
    sure = mask_logits.new_empty(batch, *frame_size, dtype=torch.uint8) if confidence else None
    # Computed once: a few thousand numbers, which every program needs.
    probability = class_logits.softmax(-1, dtype=torch.float32)
    block = max(16, next_power_of_2(classes))
    single = mask_logits.dtype == torch.float32
    stored = ceil_div(classes, 8) * 8  # for loads of 16 bytes
    fits = content == frame_size or batch * rows * columns * stored * (4 if single else 2) <= SCORES
    if network_size == (4 * height, 4 * width) and block <= 128 and fits:
        across, down = (columns + 1) // 4 + 1, (rows + 1) // 4 + 1
        scores = None
        if content != frame_size:
            scores = mask_logits.new_empty(batch, *content, stored, dtype=torch.float32 if single else torch.float16)
        # Limited by registers: a thread holds the scores of its pixels, a row or more of a cell, for a quarter of the
        # classes. Products of float32 take more of them.
        part = min(2 if single else 4, 128 // block)
        with device_of(mask_logits):
            _labels_of_cells[(ceil_div(across * down, 8 * WARPS), 4 // part, batch)](
                probability.contiguous(),
                mask_logits.contiguous(),
                label,
                sure,
                scores,
                *(queries, height, width, rows, columns, across),
                2.0 ** (-15 - queries.bit_length()),  # stored scores, probabilities' sums over queries, stay below 2^15
                CLASSES=classes,
                BLOCK_CLASSES=block,
                ROWS=part,
                WARPS=WARPS,
                num_warps=WARPS,
                num_stages=1,
            )
            if scores is not None:
                pixels = 2048 // block
                _labels_of_scores[(ceil_div(frame_size[1], pixels), frame_size[0], batch)](
                    scores,
                    label,
                    sure,
                    *(rows, columns, *frame_size, rows / frame_size[0], columns / frame_size[1]),
                    CLASSES=classes,
                    BLOCK_CLASSES=block,
                    PIXELS=pixels,
                    num_warps=4,
                    num_stages=1,
                )
        return label, sure
    rows_mix, columns_mix = (content[i] != frame_size[i] for i in range(2))
    # Limited by registers, which hold the scores of all classes and 4, 8 or 16 logits for each mask.
    pixels = max(16, min(64 if rows_mix and columns_mix else 128, 16384 // block))
    with device_of(mask_logits):
        _labels[(ceil_div(frame_size[1], pixels), frame_size[0], batch)](
            probability.contiguous(),
            mask_logits.contiguous(),
            label,
            sure,
            queries,
            *(height, width, rows, columns, *frame_size),
            *(height / network_size[0], width / network_size[1], rows / frame_size[0], columns / frame_size[1]),
            CLASSES=classes,
            BLOCK_CLASSES=block,
            BLOCK_QUERIES=16,
            PIXELS=pixels,
            ROWS=1 + rows_mix,
            COLUMNS=1 + columns_mix,
            num_warps=4 if block * pixels <= 8192 else 8,
            num_stages=1,
        )
    return label, sure


SIZES = ["queries", "height", "width", "rows", "columns", "across", "frame_height", "frame_width"]


# Not specialised: one compilation serves all sizes.
@triton.jit(do_not_specialize=SIZES)
def _labels_of_cells(
    probability,
    logits,
    label,
    sure,
    stored,
    queries,
    height,
    width,
    rows,
    columns,
    across,
    factor,
    CLASSES: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    ROWS: tl.constexpr,
    WARPS: tl.constexpr,
):
    CELLS: tl.constexpr = 8 * WARPS
    image = tl.program_id(2).to(tl.int64)
    probability += image * queries * (CLASSES + 1)
    logits += image * queries * height * width
    operand = tl.float32 if logits.dtype.element_ty == tl.float32 else tl.float16

    # Cells and queries in an order by which each thread computes those operands of the tensor cores that it needs: 8
    # cells and 4 pairs of queries a warp, and in a thread both queries of a pair, and those 8 after them. Any order
    # would do.
    index = tl.arange(0, 16 * CELLS)
    query = index % 4 * 2 + index // (4 * CELLS) % 2 + index // (8 * CELLS) * 8
    cell = tl.program_id(0) * CELLS + index // 4 % CELLS
    # Cell (i, j) has the pixels from (4 i - 2, 4 j - 2) on; at the border of the map, both numbers are the same.
    lower = cell // across
    right = cell % across
    top = tl.minimum(tl.maximum(lower - 1, 0), height - 1) * width
    bottom = tl.minimum(lower, height - 1) * width
    left = tl.minimum(tl.maximum(right - 1, 0), width - 1)
    right = tl.minimum(right, width - 1)
    top_left = top + left
    top_right = top + right
    bottom_left = bottom + left
    bottom_right = bottom + right
    row = tl.program_id(1) * ROWS
    # Pixels of a cell: (..., rows, pairs of columns, columns).
    down_cell = (row + tl.arange(0, ROWS)).to(tl.float32).reshape(1, 1, 1, 1, 1, ROWS, 1, 1) * 0.25 + 0.125
    along_cell = tl.arange(0, 4).to(tl.float32).reshape(1, 1, 1, 1, 1, 1, 2, 2) * 0.25 + 0.125

    category = tl.arange(0, BLOCK_CLASSES)[None, :]
    scores = tl.zeros([4 * ROWS * CELLS, BLOCK_CLASSES], tl.float32)
    start = 0
    while start < queries:
        maps = logits + tl.minimum(start + query, queries - 1).to(tl.int64) * (height * width)
        upper = _number(maps + top_left, WARPS)
        upper += (_number(maps + top_right, WARPS) - upper) * along_cell
        under = _number(maps + bottom_left, WARPS)
        under += (_number(maps + bottom_right, WARPS) - under) * along_cell
        mask = _probability(upper + (under - upper) * down_cell).to(operand)
        # Pixels: (rows, pairs of columns, warps, columns, cells of a warp); queries: (halves, pairs, both of a pair).
        mask = tl.permute(mask, (5, 6, 2, 7, 3, 0, 4, 1)).reshape(4 * ROWS * CELLS, 16)
        number = start + tl.arange(0, 16)[:, None]
        weights = tl.load(
            probability + number * (CLASSES + 1) + category,
            mask=(number < queries) & (category < CLASSES),
            other=0.0,
        )
        scores = tl.dot(mask, (weights * UNIT).to(operand), scores, input_precision="tf32x3")
        start += 16

    pixel = tl.arange(0, 4 * ROWS * CELLS)
    cell = tl.program_id(0) * CELLS + pixel // 16 % WARPS * 8 + pixel % 8
    y = cell // across * 4 - 2 + row + pixel // (4 * CELLS)
    x = cell % across * 4 - 2 + pixel // (2 * CELLS) % 2 * 2 + pixel // 8 % 2
    inside = (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
    at = (image * rows + y) * columns + x
    if stored is None:
        _store(scores, 1, CLASSES, label, sure, at, inside)
    else:
        STORED: tl.constexpr = (CLASSES + 7) // 8 * 8
        mask = inside[:, None] & (category < STORED)
        tl.store(stored + at[:, None] * STORED + category, (scores * factor).to(stored.dtype.element_ty), mask=mask)


@triton.jit
def _number(pointer, WARPS: tl.constexpr):
    """Return float32 logits of a map, scaled for `_probability`; see `_labels_of_cells` for their order."""
    return _scaled(tl.load(pointer).to(tl.float32)).reshape(2, 2, WARPS, 8, 4, 1, 1, 1)


@triton.jit(do_not_specialize=SIZES)
def _labels_of_scores(
    scores,
    label,
    sure,
    rows,
    columns,
    frame_height,
    frame_width,
    scale_y,
    scale_x,
    CLASSES: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    PIXELS: tl.constexpr,
):
    frame_x = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    frame_y = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    top, bottom, lower = neighbours(frame_y, scale_y, rows)
    left, right, righter = neighbours(tl.minimum(frame_x, frame_width - 1), scale_x, columns)
    upper = _scores(scores, (image * rows + top) * columns, left, right, righter, CLASSES, BLOCK_CLASSES)
    under = _scores(scores, (image * rows + bottom) * columns, left, right, righter, CLASSES, BLOCK_CLASSES)
    upper += (under - upper) * lower
    _store(
        upper, 1, CLASSES, label, sure, (image * frame_height + frame_y) * frame_width + frame_x, frame_x < frame_width
    )


@triton.jit
def _scores(scores, start, left, right, righter, CLASSES: tl.constexpr, BLOCK_CLASSES: tl.constexpr):
    """Return float32 scores (pixels, classes) between the pixels `left` and `right` of a row."""
    STORED: tl.constexpr = (CLASSES + 7) // 8 * 8
    category = tl.arange(0, BLOCK_CLASSES)[None, :]
    scores += start * STORED + category
    before = tl.load(scores + left[:, None] * STORED, mask=category < STORED, other=0.0).to(tl.float32)
    after = tl.load(scores + right[:, None] * STORED, mask=category < STORED, other=0.0).to(tl.float32)
    return before + (after - before) * righter[:, None]


@triton.jit(do_not_specialize=SIZES)
def _labels(
    probability,
    logits,
    label,
    sure,
    queries,
    height,
    width,
    rows,
    columns,
    frame_height,
    frame_width,
    map_scale_y,
    map_scale_x,
    scale_y,
    scale_x,
    CLASSES: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    PIXELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    # A program computes a piece of one row of the frame: all that depends on y is a scalar.
    frame_x = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    frame_y = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    probability += image * queries * (CLASSES + 1)
    logits += image * queries * height * width
    top, bottom, lower = neighbours(frame_y, scale_y, rows)
    left, right, righter = neighbours(tl.minimum(frame_x, frame_width - 1), scale_x, columns)
    operand = tl.float32 if logits.dtype.element_ty == tl.float32 else tl.float16

    category = tl.arange(0, BLOCK_CLASSES)[:, None]
    scores = tl.zeros([BLOCK_CLASSES, PIXELS], tl.float32)
    start = 0
    while start < queries:
        query = start + tl.arange(0, BLOCK_QUERIES)
        maps = logits + tl.minimum(query, queries - 1)[:, None].to(tl.int64) * height * width
        # Scores are linear in the masks: interpolating the masks to the frame's size gives the same result.
        mask = _mask(maps, top, left, map_scale_y, map_scale_x, height, width)
        if COLUMNS == 2:
            mask += (_mask(maps, top, right, map_scale_y, map_scale_x, height, width) - mask) * righter
        if ROWS == 2:
            below = _mask(maps, bottom, left, map_scale_y, map_scale_x, height, width)
            if COLUMNS == 2:
                below += (_mask(maps, bottom, right, map_scale_y, map_scale_x, height, width) - below) * righter
            mask += (below - mask) * lower
        weights = tl.load(
            probability + query[None, :] * (CLASSES + 1) + category,
            mask=(query < queries)[None, :] & (category < CLASSES),
            other=0.0,
        )
        scores = tl.dot((weights * UNIT).to(operand), mask.to(operand), scores, input_precision="tf32x3")
        start += BLOCK_QUERIES

    _store(
        scores, 0, CLASSES, label, sure, (image * frame_height + frame_y) * frame_width + frame_x, frame_x < frame_width
    )


@triton.jit
def _store(scores, AXIS: tl.constexpr, CLASSES: tl.constexpr, label, sure, at, inside):
    """Store the best class of each pixel at `at`, where `inside`, and its share; AXIS of the scores has the classes."""
    best, winner = tl.max(scores, AXIS, return_indices=True, return_indices_tie_break_left=True)
    # Where scores are NaN it may be none of the classes. torch gives the first.
    winner = tl.where((best == best) & (winner < CLASSES), winner, 0)
    tl.store(label + at, winner.to(label.dtype.element_ty), mask=inside)
    if sure is not None:
        # The sum is zero outside all masks.
        share = best / tl.maximum(tl.sum(scores, AXIS), 1e-37)
        tl.store(sure + at, (share * 255 + 0.5).to(tl.uint8), mask=inside)


@triton.jit
def _scaled(x):
    return x * -1.4426950408889634 - EXPONENT


@triton.jit
def _probability(scaled):
    """Return UNIT times the sigmoid of x from `_scaled(x)`, -log2(e) x - EXPONENT.

    The relative errors of the GPU's exp2 and rsqrt, both below 2^-22, and the squaring of the latter come to less than
    2^-20: a 500th of a rounding to float16. A reciprocal takes more instructions, since it must not overflow.
    """
    root = tl.rsqrt(tl.exp2(scaled) + 1 / UNIT)
    return root * root


@triton.jit
def neighbours(place, scale, size):
    """Return, for pixels of a resized image, both neighbours in the image of `size` and the weight of the second.

    Matches torch's bilinear interpolation with align_corners=False.
    """
    source = tl.maximum((place + 0.5) * scale - 0.5, 0.0)
    before = tl.minimum(source.to(tl.int32), size - 1)
    return before, tl.minimum(before + 1, size - 1), source - before


@triton.jit
def _mask(maps, y, x, scale_y, scale_x, height, width):
    """Return (queries, pixels) mask probabilities at pixels of the network's input."""
    top, bottom, lower = neighbours(y, scale_y, height)
    left, right, righter = neighbours(x, scale_x, width)
    upper = maps + top * width
    under = maps + bottom * width
    before = tl.load(upper + left[None, :]).to(tl.float32)
    before += (tl.load(upper + right[None, :]).to(tl.float32) - before) * righter[None, :]
    after = tl.load(under + left[None, :]).to(tl.float32)
    after += (tl.load(under + right[None, :]).to(tl.float32) - after) * righter[None, :]
    return _probability(_scaled(before + (after - before) * lower))
