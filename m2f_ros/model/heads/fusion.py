"""From instances and the classes of pixels to one panoptic image.

(Kirillov et al., Panoptic Feature Pyramid Networks, https://arxiv.org/abs/1901.02446, section 3.1)
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from m2f_ros.model.heads.counting import boxes, count
from m2f_ros.model.heads.instances import instance_segments
from m2f_ros.model.heads.panoptic import Panoptic
from m2f_ros.model.heads.pixels import pixel_labels
from m2f_ros.model.heads.upsampling import Size, label_dtype
from m2f_ros.model.network import BoxedInstances, FusedInstances


def fused_segments(
    fused: FusedInstances,
    network_size: Size,
    frame_size: Size,
    *,
    score_threshold: float | Tensor = 0.5,
    overlap_threshold: float | Tensor = 0.5,
    content: Size | None = None,
    ignored: Tensor | None = None,
) -> Panoptic:
    """Compute disjoint segments: the instances of `instance_segments`, then one of each class of stuff.

    Stuff takes the pixels that are left, where it scores best and not "a thing". Its score is the mean of its softmax
    probability. There is no least area.

    For the arguments see `instance_segments`.
    """
    things = fused.scores.shape[2]
    instances = _instances(fused, network_size, frame_size, score_threshold, overlap_threshold, content)
    stuff, level = _stuff(fused, network_size, frame_size, content)
    number = fused.stuff_logits.shape[1] - 1
    stuff = torch.where(instances.ids == 0, stuff, number)
    ids, table = instances
    if ignored is not None:
        # Counted anew: an instance may lose all its pixels.
        ids, table = _instances(fused, network_size, frame_size, score_threshold, overlap_threshold, content, ignored)
        stuff = stuff.masked_fill(ignored, number)
    area = count(stuff, number + 1)[:, :-1]
    sums = torch.zeros(len(stuff), number + 1, dtype=torch.float64, device=stuff.device)
    sums.scatter_add_(1, stuff.flatten(1).long(), level.flatten(1).double())
    present = area > 0
    numbers = (table[:, :, :1].amax(1).long() + present.cumsum(1)) * present
    classes = torch.arange(things, things + number, device=stuff.device).expand_as(numbers)
    rows = torch.stack(
        [numbers.double(), classes.double(), sums[:, :-1] / (255 * area.clamp(min=1)), area.double()], -1
    )
    rows = torch.cat([rows, boxes(stuff, number + 1)[:, :-1].double()], -1)
    found = F.pad(numbers, (0, 1)).gather(1, stuff.flatten(1).long()).view_as(stuff)
    ids = torch.where(ids == 0, found, ids.long()).to(label_dtype(fused.scores.shape[1] + number + 1))
    return Panoptic(ids, torch.cat([table, rows], 1))


def fused_labels(
    fused: FusedInstances,
    network_size: Size,
    frame_size: Size,
    confidence: bool = False,
    content: Size | None = None,
    *,
    unlabelled: int,
    score_threshold: float | Tensor = 0.5,
    overlap_threshold: float | Tensor = 0.5,
) -> tuple[Tensor, Tensor | None]:
    """Compute the class of each pixel's segment, and its confidence: the score of its instance, or the probability of
    its stuff. For arguments and results see `instance_labels` and `fused_segments`."""
    things, number = fused.scores.shape[2], fused.stuff_logits.shape[1] - 1
    ids, table = _instances(fused, network_size, frame_size, score_threshold, overlap_threshold, content)
    stuff, level = _stuff(fused, network_size, frame_size, content)
    where, free = ids.flatten(1).long(), ids == 0
    of_id = torch.zeros(len(ids), table.shape[1] + 1, dtype=torch.float64, device=ids.device)
    rows = table[..., 0].long()

    def looked_up(values: Tensor) -> Tensor:
        return of_id.scatter(1, rows, values).gather(1, where).view_as(ids)

    label = torch.where(stuff < number, stuff.long() + things, unlabelled)
    label = torch.where(free, label, looked_up(table[..., 1]).long()).to(label_dtype(things + number))
    if not confidence:
        return label, None
    level = level.masked_fill(stuff == number, 0)
    return label, torch.where(free, level, (looked_up(table[..., 2]) * 255).round().to(torch.uint8))


def _instances(
    fused: FusedInstances,
    network_size: Size,
    frame_size: Size,
    score_threshold: float | Tensor,
    overlap_threshold: float | Tensor,
    content: Size | None,
    ignored: Tensor | None = None,
) -> Panoptic:
    return instance_segments(
        BoxedInstances(*fused[:3]),
        network_size,
        frame_size,
        score_threshold=score_threshold,
        overlap_threshold=overlap_threshold,
        content=content,
        ignored=ignored,
    )


def _stuff(fused: FusedInstances, network_size: Size, frame_size: Size, content: Size | None) -> tuple[Tensor, Tensor]:
    """Return the best class of stuff at each pixel, the last for "a thing", and its probability times 255."""
    stuff, level = pixel_labels(fused.stuff_logits, network_size, frame_size, True, content)
    assert level is not None
    return stuff, level
