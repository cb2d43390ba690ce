"""From instances, each a mask with a score, to labels and segments: where masks overlap the best score wins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from m2f_ros.model.heads.counting import boxes, count
from m2f_ros.model.heads.panoptic import Panoptic
from m2f_ros.model.heads.upsampling import CHUNK, Size, label_dtype, masks_in_chunks, on_host, strips
from m2f_ros.model.network import BoxedInstances, Instances


def instance_labels(
    instances: Instances | BoxedInstances,
    network_size: Size,
    frame_size: Size,
    confidence: bool = False,
    content: Size | None = None,
    *,
    unlabelled: int,
    score_threshold: float | Tensor = 0.5,
) -> tuple[Tensor, Tensor | None]:
    """Compute the class of the best-scoring instance at each pixel of the frame.

    Args:
        network_size, frame_size, confidence, content: see `semantic`.
        unlabelled: label of pixels without an instance.
        score_threshold: score that an instance must exceed; may be a float64 tensor () on the device.
    Returns:
        label: (B, height, width) train ids, uint8, or int32 above 255 classes.
        confidence: (B, height, width) uint8, score of that instance, times 255, rounded, 0 without one; or None.
    """
    ranked = _ranked(instances, score_threshold)
    number = ranked.scores.shape[1]
    parts = []
    for rows in strips(*frame_size):
        shape = len(ranked.scores), rows.stop - rows.start, frame_size[1]
        winner = torch.full(shape, number, dtype=label_dtype(number + 1), device=ranked.scores.device)
        for which, masks in _masks(instances, ranked, network_size, frame_size, content, rows):
            place = torch.arange(which.start, which.stop, dtype=winner.dtype, device=winner.device)
            found = torch.where(masks & ranked.kept[:, which, None, None], place[:, None, None], number).amin(1)
            winner = torch.minimum(winner, found)
        parts.append(winner)
    winner = torch.cat(parts, 1)
    dtype = label_dtype(instances.scores.shape[2])
    label = _looked_up(F.pad(ranked.classes, (0, 1), value=unlabelled).to(dtype), winner)
    if not confidence:
        return label, None
    return label, _looked_up(F.pad(ranked.scores * 255, (0, 1)).round_().to(torch.uint8), winner)


def instance_segments(
    instances: Instances | BoxedInstances,
    network_size: Size,
    frame_size: Size,
    *,
    score_threshold: float | Tensor = 0.5,
    overlap_threshold: float | Tensor = 0.5,
    content: Size | None = None,
    ignored: Tensor | None = None,
) -> Panoptic:
    """Compute disjoint segments, one for each instance, numbered from the best score down.

    In the order of their scores instances take the free pixels of their masks. One that gets fewer than
    `overlap_threshold` times the pixels of its mask is dropped, and its pixels stay free. (Kirillov et al., Panoptic
    Segmentation, https://arxiv.org/abs/1801.00868, appendix)

    Args:
        score_threshold: score that an instance must exceed. Both thresholds may be float64 tensors () on the device,
            which captured graphs read.
        overlap_threshold: least share of its own mask that an instance must get, 0..1. 0 keeps each with a pixel.
        network_size, frame_size, content, ignored: see `panoptic`.
    """
    ranked = _ranked(instances, score_threshold)
    batch, number = ranked.scores.shape
    dtype = label_dtype(instances.scores.shape[1] + 1)
    winner = torch.full((batch, *frame_size), number, dtype=dtype, device=ranked.scores.device)
    accepted = []
    for which, masks in _masks(instances, ranked, network_size, frame_size, content, slice(0, frame_size[0])):
        for i, mask in enumerate(masks.unbind(1), which.start):
            free = mask & (winner == number)
            got, own = free.sum((1, 2)), mask.sum((1, 2))
            # float64, as in Python's division.
            fits = ranked.kept[:, i] & (got > 0) & (got.double() / own.double() >= overlap_threshold)
            winner = torch.where(free & fits[:, None, None], i, winner)
            accepted.append(fits)
    if ignored is not None:
        winner = winner.masked_fill(ignored, number)
    area = count(winner, number + 1)[:, :-1]
    valid = torch.stack(accepted, 1) & (area > 0)
    ids = valid.cumsum(1) * valid
    box = boxes(winner, number + 1)[:, :-1]
    table = torch.stack([ids.double(), ranked.classes.double(), ranked.scores.double(), area.double()], -1)
    return Panoptic(_looked_up(F.pad(ids, (0, 1)).to(dtype), winner), torch.cat([table, box.double()], -1))


class _Ranked(NamedTuple):
    """Instances from the best score down; on a host only as many as are kept, and at least one.

    Attributes:
        scores: (B, n) float32, of the best class.
        classes: (B, n) int64, best class.
        kept: (B, n), True if the score exceeds the threshold.
        order: (B, n) int64, place of each in the network's result.
    """

    scores: Tensor
    classes: Tensor
    kept: Tensor
    order: Tensor


def _ranked(instances: Instances | BoxedInstances, score_threshold: float | Tensor) -> _Ranked:
    scores, classes = instances.scores.float().max(-1)
    scores, order = scores.sort(stable=True, dim=1, descending=True)
    kept = scores > score_threshold
    number = max(1, int(kept.sum(1).max())) if on_host(scores) else scores.shape[1]
    return _Ranked(scores[:, :number], classes.gather(1, order)[:, :number], kept[:, :number], order[:, :number])


def _masks(
    instances: Instances | BoxedInstances,
    ranked: _Ranked,
    network_size: Size,
    frame_size: Size,
    content: Size | None,
    rows: slice,
) -> Iterator[tuple[slice, Tensor]]:
    """Yield slices of ranked instances, and their masks (B, instances, rows, width) bool at the frame's size."""
    if isinstance(instances, BoxedInstances):
        yield from _pasted(instances, ranked, content or network_size, frame_size, rows)
        return
    maps = instances.mask_logits.take_along_dim(ranked.order[..., None, None], 1)
    height, width = maps.shape[2:]
    # Without padding straight from the maps' size to the frame's, as transformers does.
    size = network_size if content else (height, width)
    for which, logits in masks_in_chunks(maps, size, frame_size, content, rows):
        yield slice(which.start, min(which.stop, maps.shape[1])), logits > 0


def _pasted(
    instances: BoxedInstances, ranked: _Ranked, content: Size, frame_size: Size, rows: slice
) -> Iterator[tuple[slice, Tensor]]:
    """Paste maps into their boxes, as torchvision does (models/detection/roi_heads.py, paste_masks_in_image).

    The boxes are read back from the device: the networks that give them synchronise it anyway.
    """
    maps = F.pad(instances.masks.float(), (1,) * 4)
    scale = maps.shape[-1] / instances.masks.shape[-1]
    factors = [frame / part for frame, part in zip(frame_size, content, strict=True)]
    where = instances.boxes.float() * instances.boxes.new_tensor(factors[::-1] * 2, dtype=torch.float32)
    centre, half = (where[..., 2:] + where[..., :2]) * 0.5, (where[..., 2:] - where[..., :2]) * 0.5 * scale
    corners = torch.cat([centre - half, centre + half], -1).long().take_along_dim(ranked.order[..., None], 1).tolist()
    order, kept = ranked.order.tolist(), ranked.kept.tolist()
    some = max(1, CHUNK // (len(maps) * (rows.stop - rows.start) * frame_size[1]))
    for start in range(0, ranked.order.shape[1], some):
        which = slice(start, min(start + some, ranked.order.shape[1]))
        masks = maps.new_zeros((len(maps), which.stop - start, rows.stop - rows.start, frame_size[1]), dtype=torch.bool)
        for image in range(len(maps)):
            for i in range(which.start, which.stop):
                if kept[image][i]:
                    _paste(masks[image, i - start], maps[image, order[image][i]], corners[image][i], rows.start)
        yield which, masks


def _paste(into: Tensor, values: Tensor, corners: list[int], top_row: int) -> None:
    """Set (H, W) bool where a map (m, m) of probabilities in a box is 0.5 or more.

    corners: left, top, right, bottom pixel, inclusive; they may lie outside. top_row: row of the frame at the top.
    """
    left, top, right, bottom = corners
    top, bottom = top - top_row, bottom - top_row
    height, width = max(bottom - top + 1, 1), max(right - left + 1, 1)
    first, last = (max(top, 0), max(left, 0)), (min(top + height, into.shape[0]), min(left + width, into.shape[1]))
    if first[0] < last[0] and first[1] < last[1]:
        inside = F.interpolate(values[None, None], (height, width), mode="bilinear", align_corners=False)[0, 0] >= 0.5
        into[first[0] : last[0], first[1] : last[1]] = inside[
            first[0] - top : last[0] - top, first[1] - left : last[1] - left
        ]


def _looked_up(table: Tensor, index: Tensor) -> Tensor:
    """Look up (B, H, W) indices in (B, n) values."""
    return table.gather(1, index.flatten(1).long()).view_as(index)
