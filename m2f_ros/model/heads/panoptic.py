"""Panoptic segments of one image, in upstream's order of operations.

(mask2former/maskformer_model.py upstream: panoptic_inference.)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from m2f_ros.model.heads.semantic import resize


class Segments(NamedTuple):
    """Segments of one image.

    Attributes:
        ids: (height, width) int64; 0 = no segment, else the position in the lists below plus one.
        classes: (N,) int64 train ids.
        scores: (N,) class probability; of fused stuff, the first query's.
        areas: (N,) int64 pixels.
    """

    ids: Tensor
    classes: Tensor
    scores: Tensor
    areas: Tensor


def panoptic(
    class_logits: Tensor,
    mask_logits: Tensor,
    size: tuple[int, int],
    things: Tensor,
    *,
    score_threshold: float = 0.8,
    overlap_threshold: float = 0.8,
) -> Segments:
    """Non-overlapping segments of one image: things one by one, stuff of a class as one.

    A query competes for pixels with class probability times mask probability. It is dropped if what it wins is less
    than `overlap_threshold` of its own mask.

    Args:
        class_logits: (Q, classes + 1).
        mask_logits: (Q, h, w).
        size: (height, width) of the output.
        things: (classes,) bool.
        score_threshold: least class probability of a query; upstream's 0.8.
    """
    scores, classes = class_logits.softmax(-1).max(-1)
    kept = (classes != class_logits.shape[-1] - 1) & (scores > score_threshold)
    scores, classes = scores[kept], classes[kept]
    empty = torch.zeros(size, dtype=torch.int64, device=mask_logits.device)
    if not len(scores):
        return Segments(empty, classes, scores, classes)
    masks = resize(mask_logits[kept][None], size)[0].sigmoid()
    winner = (scores[:, None, None] * masks).argmax(0)
    own = masks >= 0.5
    inside = own.gather(0, winner[None])[0]

    count = len(scores)
    won = torch.bincount(winner.flatten(), minlength=count)
    own_area = own.flatten(1).sum(1)
    area = torch.bincount(winner[inside], minlength=count)
    valid = (won > 0) & (own_area > 0) & (area > 0) & (won >= overlap_threshold * own_area)

    # A table of at most Q rows: segment of each query, where stuff of a class shares the first one's.
    segment = torch.zeros(count, dtype=torch.int64)
    first: dict[int, int] = {}
    members: list[int] = []
    is_thing = things.tolist()
    for query, (ok, label) in enumerate(zip(valid.tolist(), classes.tolist(), strict=True)):
        if not ok:
            continue
        if label in first and not is_thing[label]:
            segment[query] = first[label]
            continue
        members.append(query)
        segment[query] = first[label] = len(members)
    ids = torch.where(inside, segment.to(winner.device)[winner], 0)
    areas = torch.bincount(ids.flatten(), minlength=len(members) + 1)[1:]
    return Segments(ids, classes[members], scores[members], areas)
