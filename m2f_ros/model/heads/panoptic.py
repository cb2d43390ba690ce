"""Panoptic segments, by upstream's algorithm without its loop over queries.

Upstream (mask2former/maskformer_model.py, panoptic_inference) reads counts of pixels back for each query. Here every
step is an operation on all queries with shapes that do not depend on the pixels, so that a device never waits for the
host and a CUDA graph can hold it.
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
    """Segments of a batch of images; no pixel is in two of them.

    Attributes:
        ids: (B, height, width) uint8, or int32 from 255 queries: 0 = no segment, else its id, from 1 up.
        table: (B, rows, 8) float64, for `segments`: id, train id, score, area, and x, y, width, height of its box. At
            most as many rows as queries; rows with id 0 mean nothing.
    """

    ids: Tensor
    table: Tensor


def segments(table: Tensor | np.ndarray) -> list[Segment]:
    """Segments of one image, by id, from its table (rows, 8) on the host."""
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
    content: tuple[int, int] | None = None,
) -> Panoptic:
    """Things one by one, stuff of a class as one.

    A query competes for pixels with class probability times mask probability. It is dropped if it wins fewer pixels
    than `overlap_threshold` times those of its own mask.

    Args:
        class_logits: (B, Q, classes + 1).
        mask_logits: (B, Q, h, w).
        network_size: (height, width) of the network's input.
        frame_size: (height, width) of the result.
        things: (classes,) bool, on the same device.
        score_threshold: a query's class probability must be above it; upstream's 0.8. This and the next may be
            float64 tensors () on the device, so that a captured graph follows them.
        overlap_threshold: 0..1, upstream's 0.8.
        content: (height, width) of the top left part of the network's input that shows the frame, where the rest is
            padding; None if all of it does.
    """
    queries, void = mask_logits.shape[1], class_logits.shape[2] - 1
    scores, classes = class_logits.float().softmax(-1).max(-1)
    kept = (classes != void) & (scores > score_threshold)
    if on_host(mask_logits):
        # Most queries are not kept. One stays, for there is no maximum of none.
        some = kept.any(0)
        some[0] = True
        scores, classes, kept, mask_logits = scores[:, some], classes[:, some], kept[:, some], mask_logits[:, some]

    winner, inside, own = _compete(scores, kept, mask_logits, network_size, frame_size, content)
    rows = kept.shape[1]
    won = count(winner, rows)
    area = count(torch.where(inside, winner, rows), rows + 1)[:, :-1]
    # In float64, as Python divides.
    valid = kept & (area > 0) & (won.double() / own.double() >= overlap_threshold)

    # The query whose segment each one joins: its own, but for stuff the first valid one of the class.
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
    for some in strips(*frame_size):
        which = winner[:, some]
        ids[:, some] = torch.where(inside[:, some], segment.gather(1, which.flatten(1).long()).view_as(which), 0)
    box = boxes(ids, rows + 1).gather(1, number[..., None].expand(-1, -1, 4))
    table = torch.stack([number.double(), classes.double(), scores.double(), areas.double()], -1)
    table = torch.cat([table, box.double()], -1)
    return Panoptic(ids, table)


def _compete(
    scores: Tensor,
    kept: Tensor,
    mask_logits: Tensor,
    network_size: tuple[int, int],
    frame_size: tuple[int, int],
    content: tuple[int, int] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Winning query of each pixel (B, H, W), whether the pixel is in its mask, and each mask's own area (B, Q).

    Of equal ones the first wins, and none that is not kept unless none at all is: then no pixel is in a mask.
    """
    factor = (scores * kept)[..., None, None]
    penalty = (kept.float() - 1)[..., None, None]
    # The numbers of queries, and one more for "none": of a large frame int64 would take more than all else.
    dtype = label_dtype(kept.shape[1] + 1)
    parts = []
    for rows in strips(*frame_size):
        best = scores.new_full((len(scores), rows.stop - rows.start, frame_size[1]), -1)
        winner = torch.zeros_like(best, dtype=torch.int64)
        inside = torch.zeros_like(best, dtype=torch.bool)
        own = []
        for which, logits in masks_in_chunks(mask_logits, network_size, frame_size, content, rows):
            masks = logits.sigmoid()
            own.append((masks >= 0.5).sum((2, 3)))
            value, index = torch.addcmul(penalty[:, which], factor[:, which], masks).max(1)
            better = value > best
            best = torch.where(better, value, best)
            winner = torch.where(better, index + which.start, winner)
            inside = torch.where(better, masks.gather(1, index[:, None])[:, 0] >= 0.5, inside)
        parts.append((winner.to(dtype), inside, torch.cat(own, 1)))
    winners, insides, owns = zip(*parts, strict=True)
    return torch.cat(winners, 1), torch.cat(insides, 1), torch.stack(owns).sum(0)
