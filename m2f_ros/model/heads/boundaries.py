"""Labels on a CPU: scores are computed only where the best class may change.

Most pixels lie well inside one mask. Between four neighbouring mask logits, interpolation stays between their least and
greatest, and so does its sigmoid. If one class's score at the least masks is above every other's at the greatest, it
is the best in the whole cell. In the same way a frame's pixel between four pixels of one label has that label. What
remains is computed as everywhere else. The scheme is exact but for ties within rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from m2f_ros.model.heads.upsampling import label_dtype, resize

MARGIN = 1.001  # of scores, beyond what rounding does to sums of positive numbers


def labels(
    class_logits: Tensor,
    mask_logits: Tensor,
    network_size: tuple[int, int],
    frame_size: tuple[int, int],
    content: tuple[int, int],
    with_scores: bool,
) -> tuple[Tensor, Tensor | None]:
    """Class of each pixel of the frame.

    Args:
        class_logits: (B, Q, classes + 1).
        mask_logits: (B, Q, h, w).
        network_size: at least (2 * h, 2 * w), so that three pixels in a row are in two cells at most.
        content: (height, width) of the top left part of the network's input that shows the frame.
        with_scores: whether to give them. This takes all of the network's pixels, and spares only the frame's.
    Returns:
        labels (B, *frame_size), uint8, or int32 above 255 classes; and (2, B, *frame_size) score of the label and sum
        of all classes' scores, or None.
    """
    images = zip(class_logits, mask_logits, strict=True)
    results = [_labels(*image, network_size, frame_size, content, with_scores) for image in images]
    label, maps = zip(*results, strict=True)
    return torch.stack(label), torch.stack(maps, 1) if with_scores else None


def _labels(
    class_logits: Tensor,
    mask_logits: Tensor,
    network_size: tuple[int, int],
    frame_size: tuple[int, int],
    content: tuple[int, int],
    with_scores: bool,
) -> tuple[Tensor, Tensor | None]:
    """One image's. What is open in a map of labels has all bits set."""
    probabilities = class_logits.softmax(-1)[:, :-1]
    dtype = label_dtype(probabilities.shape[1])
    rows, columns = (
        _Axis.between(logits, network).first(part)
        for logits, network, part in zip(mask_logits.shape[1:], network_size, content, strict=True)
    )
    if with_scores:
        label = torch.full(content, -1).to(dtype)
    else:
        # A pixel is settled if its neighbours are, too: those of an open one are then at hand for the interpolation.
        label = _agreed(_cells(probabilities, mask_logits, dtype), rows.around(), columns.around())
    where = _open(label)
    masks = _interpolate(mask_logits.flatten(1).T.contiguous(), where, rows, columns).sigmoid_()
    scores = masks @ probabilities
    best = _fill(label, where, scores)
    maps = torch.stack([best, scores.sum(1)]).view(2, *content) if with_scores else None
    if frame_size == content:
        return label, maps

    row_of_pixel = torch.empty(label.numel(), dtype=torch.int64)
    row_of_pixel[where] = torch.arange(len(where))
    rows, columns = (_Axis.between(*sizes) for sizes in zip(content, frame_size, strict=True))
    label = _agreed(label, rows, columns)
    where = _open(label)
    best = _fill(label, where, _interpolate(scores, where, rows, columns, row_of_pixel))
    if maps is not None:
        maps = resize(maps[None], frame_size)[0]
        maps[0].view(-1)[where] = best
    return label, maps


class _Axis(NamedTuple):
    """Where each pixel of an axis lies between two of another: their indices, and the weight of the higher."""

    low: Tensor
    high: Tensor
    weight: Tensor
    size: int

    @staticmethod
    def between(source: int, target: int) -> _Axis:
        """Of `target` pixels in `source` ones, as F.interpolate does it with align_corners=False."""
        where = ((torch.arange(target) + 0.5) * (source / target) - 0.5).clamp(min=0)
        low = where.long()
        return _Axis(low, (low + 1).clamp(max=source - 1), where - low, source)

    def first(self, number: int) -> _Axis:
        """Of the first pixels only."""
        return self._replace(low=self.low[:number], high=self.high[:number], weight=self.weight[:number])

    def around(self) -> _Axis:
        """`low` of the pixel before and of the one behind."""
        return self._replace(
            low=torch.cat([self.low[:1], self.low[:-1]]), high=torch.cat([self.low[1:], self.low[-1:]])
        )


def _cells(probabilities: Tensor, mask_logits: Tensor, dtype: torch.dtype) -> Tensor:
    """(h, w) label of the cell between each mask logit and the next ones right, below and both; or open."""
    masks = F.pad(mask_logits[None], (0, 1, 0, 1), mode="replicate")[0].sigmoid_()
    least, greatest = torch.minimum(masks[:, 1:], masks[:, :-1]), torch.maximum(masks[:, 1:], masks[:, :-1])
    least = torch.minimum(least[..., 1:], least[..., :-1])
    greatest = torch.maximum(greatest[..., 1:], greatest[..., :-1])
    score, label = (probabilities.T @ least.flatten(1)).max(0)
    others = (probabilities.T @ greatest.flatten(1)).scatter_(0, label[None], -1).amax(0)
    return torch.where(score > others * MARGIN, label, -1).to(dtype).view(least.shape[1:])


def _agreed(label: Tensor, rows: _Axis, columns: _Axis) -> Tensor:
    """The label that a pixel's four have in common; else open."""
    label, other = (label.gather(1, index.expand(len(label), -1)) for index in (columns.low, columns.high))
    label = label | -(label != other).to(label.dtype)  # all bits set; on a CPU quicker than torch.where
    label, other = (label.index_select(0, index) for index in (rows.low, rows.high))
    return label | -(label != other).to(label.dtype)


def _open(label: Tensor) -> Tensor:
    """(n,) flat indices of the open pixels."""
    return (label == torch.tensor(-1).to(label.dtype)).flatten().nonzero()[:, 0]


def _interpolate(
    table: Tensor, where: Tensor, rows: _Axis, columns: _Axis, row_of_pixel: Tensor | None = None
) -> Tensor:
    """Bilinear interpolation of some pixels: (n,) flat indices -> (n, C).

    Args:
        table: (pixels, C); of some pixels where `row_of_pixel` (pixels,) says which row has which.
    """
    y = torch.div(where, len(columns.low), rounding_mode="floor")
    x = where - y * len(columns.low)
    top, bottom, down = (part.index_select(0, y) for part in rows[:3])
    left, right, across = (part.index_select(0, x) for part in columns[:3])
    top, bottom = top * columns.size, bottom * columns.size
    corners = torch.stack([top + left, top + right, bottom + left, bottom + right], 1)
    if row_of_pixel is not None:
        corners = row_of_pixel.index_select(0, corners.flatten()).view_as(corners)
    up, back = 1 - down, 1 - across
    weights = torch.stack([up * back, up * across, down * back, down * across], 1)
    return F.embedding_bag(corners, table, per_sample_weights=weights, mode="sum")


def _fill(label: Tensor, where: Tensor, scores: Tensor) -> Tensor:
    """Write the best of (n, classes) scores, the first of equal ones, into the n open pixels. Returns its score."""
    best, which = scores.max(1)
    label.view(-1)[where] = which.to(label.dtype)
    return best
