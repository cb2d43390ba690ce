"""Instances, by upstream's algorithm. (mask2former/maskformer_model.py upstream: instance_inference.)"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from m2f_ros.model.heads.upsampling import masks_in_chunks


class Instances(NamedTuple):
    """Instances of a batch of images; their masks may overlap, and instances of two classes may share one.

    Attributes:
        masks: (B, Q, height, width) bool, of each query.
        table: (B, N, 4) float64, for `instance_list`: query, train id, score and area, the best score first; a score
            of -1 means that the row is of no thing.
    """

    masks: Tensor
    table: Tensor


class Instance(NamedTuple):
    """One instance of one image.

    Attributes:
        query: whose mask it has.
        train_id: its class.
        score: class probability times mean mask probability inside the mask, 0..1.
        area: pixels of the mask.
    """

    query: int
    train_id: int
    score: float
    area: int


def instance_list(table: Tensor | np.ndarray) -> list[Instance]:
    """Instances of one image, the best first, from its table (N, 4) on the host."""
    return [Instance(int(row[0]), int(row[1]), row[2], int(row[3])) for row in table.tolist() if row[2] >= 0]


def instances(
    class_logits: Tensor,
    mask_logits: Tensor,
    network_size: tuple[int, int],
    frame_size: tuple[int, int],
    things: Tensor | None = None,
    *,
    most: int = 100,
    content: tuple[int, int] | None = None,
) -> Instances:
    """The best `most` pairs of query and class of each image, and of these only things where `things` is given.

    No shape depends on the pixels, and the host reads nothing back.

    Args:
        class_logits: (B, Q, classes + 1).
        mask_logits: (B, Q, h, w).
        network_size: (height, width) of the network's input.
        frame_size: (height, width) of the masks.
        things: (classes,) bool, on the same device.
        content: (height, width) of the top left part of the network's input that shows the frame, where the rest is
            padding; None if all of it does.
    """
    scores = class_logits.float().softmax(-1)[..., :-1]
    number = scores.shape[2]
    scores = scores.flatten(1)
    scores, index = scores.topk(min(most, scores.shape[1]))
    query, classes = index // number, index % number

    masks = torch.empty((*mask_logits.shape[:2], *frame_size), dtype=torch.bool, device=mask_logits.device)
    area, inside = [], []
    for which, logits in masks_in_chunks(mask_logits, network_size, frame_size, content):
        mask = masks[:, which] = logits > 0
        area.append(mask.sum((2, 3)))
        inside.append((logits.sigmoid() * mask).sum((2, 3)))
    area, inside = torch.cat(area, 1), torch.cat(inside, 1)
    scores = scores * (inside / (area + 1e-6)).gather(1, query)
    if things is not None:
        scores = torch.where(things[classes], scores, -1)
    table = torch.stack([query.double(), classes.double(), scores.double(), area.gather(1, query).double()], -1)
    order = scores.argsort(dim=1, descending=True, stable=True)
    return Instances(masks, table.gather(1, order[..., None].expand_as(table)))
