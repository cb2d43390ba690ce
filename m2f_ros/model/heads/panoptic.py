"""Panoptic segments, by upstream's algorithm without its loop over queries.

Upstream (mask2former/maskformer_model.py, panoptic_inference) reads pixel counts back for each query. Here every step
works on all queries at once, with shapes that do not depend on the pixels: nothing synchronises the device, and CUDA
graphs can capture the work.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from m2f_ros.frame.segment import Segment
from m2f_ros.model.heads.counting import boxes, count
from m2f_ros.model.heads.upsampling import label_dtype, masks_in_chunks, on_host, strips


class Panoptic(NamedTuple):
    """Disjoint segments of a batch of images.

    Attributes:
        ids: (B, height, width) uint8, or int32 from 255 queries: segment id, from 1 up; 0 for none.
        table: (B, rows, 8) float64, for `segments`: id, train id, score, area, and x, y, width, height of the bounding
            box. Row q is of the segment that query q found first; rows with id 0 are unused.
    """

    ids: Tensor
    table: Tensor


def segments(table: Tensor | np.ndarray) -> list[Segment]:
    """Return the segments of one image, sorted by id, from its table (rows, 8) on the host."""
    return [
        Segment(int(number), int(train_id), score, int(area), (int(x), int(y), int(width), int(height)))
        for number, train_id, score, area, x, y, width, height in table.tolist()
        if number
    ]


def panoptic(
    class_logits: Tensor,
    mask_logits: Tensor,
    network_size: tuple[int, int],
    frame_size: tuple[int, int],
    things: Tensor,
    *,
    score_threshold: float | Tensor = 0.8,
    overlap_threshold: float | Tensor = 0.8,
    mask_threshold: float | Tensor = 0.5,
    content: tuple[int, int] | None = None,
    ignored: Tensor | None = None,
) -> Panoptic:
    """Compute panoptic segments: one for each thing, and one for all stuff of a class.

    Queries compete for pixels by class probability times mask probability. A query is dropped if it wins fewer pixels
    than `overlap_threshold` times those of its own mask.

    Args:
        class_logits: (B, Q, classes + 1).
        mask_logits: (B, Q, h, w).
        network_size: (height, width) of the network's input.
        frame_size: (height, width) of the result.
        things: (classes,) bool, on the same device.
        score_threshold: class probability that a query must exceed; upstream's is 0.8. The thresholds may be float64
            tensors () on the device, which captured graphs read.
        overlap_threshold: least share of its own mask that a query must win, 0..1; upstream's is 0.8.
        mask_threshold: mask probability from which on a pixel is in a query's mask, 0..1; upstream's is 0.5.
        content: (height, width) of the frame in the top left corner of the network's input; None without padding.
        ignored: (B, height, width) bool, pixels that belong to no segment; None for none.
    """
    queries, void = mask_logits.shape[1], class_logits.shape[2] - 1
    scores, classes = class_logits.float().softmax(-1).max(-1)
    kept = (classes != void) & (scores > score_threshold)
    some = None
    if on_host(mask_logits):
        # Most queries are dropped. One stays, since max needs at least one.
        some = kept.any(0)
        some[0] = True
        scores, classes, kept, mask_logits = scores[:, some], classes[:, some], kept[:, some], mask_logits[:, some]

    winner, inside, own = _compete(scores, kept, mask_logits, mask_threshold, network_size, frame_size, content)
    if ignored is not None:
        inside &= ~ignored
    rows = kept.shape[1]
    won = count(winner, rows)
    area = count(torch.where(inside, winner, rows), rows + 1)[:, :-1]
    # float64, as in Python's division.
    valid = kept & (area > 0) & (won.double() / own.double() >= overlap_threshold)

    # Query whose segment each query joins: its own, or for stuff that of the first valid query of the class.
    order = torch.arange(rows, device=kept.device).expand_as(kept)
    first = order.new_full((len(kept), void + 1), rows)
    first = first.scatter_reduce(1, classes, torch.where(valid, order, rows), "amin").gather(1, classes)
    thing = torch.nn.functional.pad(things, (0, 1))[classes]
    joined = torch.where(valid & ~thing, first, order)
    founder = valid & (joined == order)
    number = founder.cumsum(1) * founder
    segment = number.gather(1, joined) * valid
    areas = torch.zeros_like(area).scatter_add(1, joined, area * valid) * founder

    dtype = label_dtype(queries + 1)
    ids = torch.empty(winner.shape, dtype=dtype, device=winner.device)
    for rows_of_frame in strips(*frame_size):
        which = winner[:, rows_of_frame]
        found = segment.gather(1, which.flatten(1).long()).view_as(which)
        ids[:, rows_of_frame] = torch.where(inside[:, rows_of_frame], found, 0)
    box = boxes(ids, rows + 1).gather(1, number[..., None].expand(-1, -1, 4))
    table = torch.stack([number.double(), classes.double(), scores.double(), areas.double()], -1)
    table = torch.cat([table, box.double()], -1)
    if some is not None:
        table = table.new_zeros(len(table), queries, table.shape[2]).index_copy_(1, some.nonzero()[:, 0], table)
    return Panoptic(ids, table)


def _compete(
    scores: Tensor,
    kept: Tensor,
    mask_logits: Tensor,
    mask_threshold: float | Tensor,
    network_size: tuple[int, int],
    frame_size: tuple[int, int],
    content: tuple[int, int] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the winning query of each pixel (B, H, W), True if the pixel is in its mask, and each mask's area (B, Q).

    The first of equal queries wins. A dropped query wins only if all are dropped, and then no pixel is in a mask.
    """
    factor = (scores * kept)[..., None, None]
    penalty = (kept.float() - 1)[..., None, None]
    # The smallest dtype for the queries and "none": for a large frame int64 would dominate the memory.
    dtype = label_dtype(kept.shape[1] + 1)
    parts = []
    for rows in strips(*frame_size):
        best = scores.new_full((len(scores), rows.stop - rows.start, frame_size[1]), -1)
        winner = torch.zeros_like(best, dtype=torch.int64)
        inside = torch.zeros_like(best, dtype=torch.bool)
        own = []
        for which, logits in masks_in_chunks(mask_logits, network_size, frame_size, content, rows):
            masks = logits.sigmoid()
            own.append((masks >= mask_threshold).sum((2, 3)))
            value, index = torch.addcmul(penalty[:, which], factor[:, which], masks).max(1)
            better = value > best
            best = torch.where(better, value, best)
            winner = torch.where(better, index + which.start, winner)
            inside = torch.where(better, masks.gather(1, index[:, None])[:, 0] >= mask_threshold, inside)
        parts.append((winner.to(dtype), inside, torch.cat(own, 1)))
    winners, insides, owns = zip(*parts, strict=True)
    return torch.cat(winners, 1), torch.cat(insides, 1), torch.stack(owns).sum(0)
