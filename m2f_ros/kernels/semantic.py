"""The semantic head in one Triton kernel: from the network's logits to the class of each pixel of the frame.

(mask2former/maskformer_model.py upstream: semantic_inference, sem_seg_postprocess.)

At 1024x2048 with 100 queries the mask logits take 26 MB in half precision and the labels 2 MB; the masks at full size,
0.8 GB in float32, are never stored. The kernel is bound by its 210 million sigmoids, an exponential and a reciprocal
each, not by memory.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from m2f_ros.kernels import ceil_div, device_of, next_power_of_2


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
        mask_logits: (B, Q, h, w) float32, float16 or bfloat16. Probabilities are multiplied in float16, or with three
            TF32 products for float32 logits; sums are float32.
        network_size: (height, width) of the network's input.
        frame_size: (height, width) of the result.
        content: (height, width) of the frame in the top left corner of the network's input; None without padding.
            Fastest if it equals the frame's size: one sigmoid a pixel, not 2 or 4.
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
    rows_mix, columns_mix = (content[i] != frame_size[i] for i in range(2))
    block = max(16, next_power_of_2(classes))
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


SIZES = ["queries", "height", "width", "rows", "columns", "frame_height", "frame_width"]


# Not specialised: one compilation serves all sizes.
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
    top, bottom, lower = _neighbours(frame_y, scale_y, rows)
    left, right, righter = _neighbours(tl.minimum(frame_x, frame_width - 1), scale_x, columns)
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
        scores = tl.dot(weights.to(operand), mask.to(operand), scores, input_precision="tf32x3")
        start += BLOCK_QUERIES

    best, winner = tl.max(scores, 0, return_indices=True, return_indices_tie_break_left=True)
    at = (image * frame_height + frame_y) * frame_width + frame_x
    inside = frame_x < frame_width
    tl.store(label + at, winner.to(label.dtype.element_ty), mask=inside)
    if sure is not None:
        # The sum is zero outside all masks.
        share = best / tl.maximum(tl.sum(scores, 0), 1e-37)
        tl.store(sure + at, (share * 255 + 0.5).to(tl.uint8), mask=inside)


@triton.jit
def _neighbours(place, scale, size):
    """Return, for pixels of a resized image, both neighbours in the image of `size` and the weight of the second.

    Matches torch's bilinear interpolation with align_corners=False.
    """
    source = tl.maximum((place + 0.5) * scale - 0.5, 0.0)
    before = tl.minimum(source.to(tl.int32), size - 1)
    return before, tl.minimum(before + 1, size - 1), source - before


@triton.jit
def _mask(maps, y, x, scale_y, scale_x, height, width):
    """Return (queries, pixels) mask probabilities at pixels of the network's input."""
    top, bottom, lower = _neighbours(y, scale_y, height)
    left, right, righter = _neighbours(x, scale_x, width)
    upper = maps + top * width
    under = maps + bottom * width
    before = tl.load(upper + left[None, :]).to(tl.float32)
    before += (tl.load(upper + right[None, :]).to(tl.float32) - before) * righter[None, :]
    after = tl.load(under + left[None, :]).to(tl.float32)
    after += (tl.load(under + right[None, :]).to(tl.float32) - after) * righter[None, :]
    return tl.sigmoid(before + (after - before) * lower)
