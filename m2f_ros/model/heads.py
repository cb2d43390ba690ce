"""From the network's logits to labels, segments and instances, in upstream's order of operations.

(mask2former/maskformer_model.py upstream: semantic_inference, panoptic_inference, instance_inference.)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


def semantic_scores(class_logits: Tensor, mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Score of each class at each pixel.

    Args:
        class_logits: (B, Q, classes + 1).
        mask_logits: (B, Q, h, w); upsampled to `size` before the sigmoid.
        size: (height, width) of the network's input.
    Returns:
        (B, classes, height, width): sum over the queries of class probability times mask probability. Not
        normalised over the classes.
    """
    classes = class_logits.softmax(-1)[..., :-1]
    masks = resize(mask_logits, size).sigmoid()
    return torch.einsum("bqc,bqhw->bchw", classes, masks)


def semantic_labels(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, classes, h, w) scores, interpolated to `size`, -> (B, height, width) int64 train ids."""
    # Not argmax: on a CPU that takes longer. Both give the first of equal scores.
    return resize(scores, size).max(1).indices


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, h, w) -> (B, C, *size), bilinear; the same tensor if it has that size already."""
    if maps.shape[-2:] == torch.Size(size):
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


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


class Instances(NamedTuple):
    """Instances of one image, the best first; masks may overlap.

    Attributes:
        masks: (N, height, width) bool.
        classes: (N,) int64 train ids.
        scores: (N,) class probability times mean mask probability inside the mask.
    """

    masks: Tensor
    classes: Tensor
    scores: Tensor


def instances(
    class_logits: Tensor,
    mask_logits: Tensor,
    size: tuple[int, int],
    things: Tensor | None = None,
    *,
    most: int = 100,
) -> Instances:
    """The best `most` pairs of query and class of one image, of things only where `things` (classes,) is given."""
    scores = class_logits.softmax(-1)[:, :-1]
    number = scores.shape[1]
    scores, index = scores.flatten().topk(min(most, scores.numel()), sorted=False)
    query, classes = index // number, index % number
    if things is not None:
        kept = things.to(classes.device)[classes]
        scores, query, classes = scores[kept], query[kept], classes[kept]
    logits = resize(mask_logits[query][None], size)[0]
    masks = logits > 0
    inside = (logits.sigmoid() * masks).flatten(1).sum(1) / (masks.flatten(1).sum(1) + 1e-6)
    scores = scores * inside
    order = scores.argsort(descending=True)
    return Instances(masks[order], classes[order], scores[order])
