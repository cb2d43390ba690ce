"""Instances of one image, in upstream's order of operations.

(mask2former/maskformer_model.py upstream: instance_inference.)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from m2f_ros.model.heads.semantic import resize


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
