"""Labels on a CPU: scores are computed only where the best class may change.

Most pixels lie well inside one mask. Inside a cell of four neighbouring mask logits, interpolated logits lie between
their minimum and maximum, and so do the sigmoids. A class whose score at the minima exceeds every other class's score
at the maxima is the best one in the whole cell. Likewise a pixel of the frame between four pixels of one label has that
label. The remaining, open pixels are computed in full. The result is exact except for ties within rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from m2f_ros.model.heads.upsampling import CHUNK, label_dtype, resize

MARGIN = 1.001  # factor of scores, above the rounding error of their sums


def labels(
    class_logits: Tensor,
    mask_logits: Tensor,
    network_size: tuple[int, int],
    frame_size: tuple[int, int],
    content: tuple[int, int],
    with_scores: bool,
) -> tuple[Tensor, Tensor | None]:
    """Compute the class of each pixel of the frame.

    Args:
        class_logits: (B, Q, classes + 1).
        mask_logits: (B, Q, h, w).
        network_size: (height, width) of the network's input.
        content: (height, width) of the frame in the top left corner of the network's input.
        with_scores: True to return scores, too, which are then computed at all of the network's pixels.
    Returns:
        (B, *frame_size) labels, uint8, or int32 above 255 classes; and (2, B, *frame_size) score of the label and sum
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
    """Compute `labels` of one image. Open pixels of a label map have all bits set."""
    probabilities = class_logits.softmax(-1)[:, :-1]
    mask_logits = mask_logits.permute(1, 2, 0).contiguous()  # no copy if it is channels_last
    dtype = label_dtype(probabilities.shape[1])
    rows, columns = (
        _Axis.between(logits, network).first(part)
        for logits, network, part in zip(mask_logits.shape[:2], network_size, content, strict=True)
    )
    if with_scores:
        label = torch.full(content, -1).to(dtype)
    else:
        cells = _cells(probabilities, mask_logits, dtype)
        row, column = (axis.low.clamp(max=size - 1) for axis, size in zip((rows, columns), cells.shape, strict=True))
        label = cells.gather(1, column.expand(len(cells), -1)).index_select(0, row)
    table = mask_logits.flatten(0, 1)

    def scores_at(where: Tensor) -> Tensor:
        scores = probabilities.new_empty(len(where), probabilities.shape[1])
        some = max(1, CHUNK // len(probabilities))
        for pixels, out in zip(where.split(some), scores.split(some), strict=True):
            corners, weights = _corners(pixels, rows, columns)
            masks = F.embedding_bag(corners, table, per_sample_weights=weights, mode="sum").sigmoid_()
            torch.mm(masks, probabilities, out=out)
        return scores

    where = _open(label)
    scores = scores_at(where)
    best = _fill(label, where, scores)
    maps = torch.stack([best, scores.sum(1)]).view(2, *content) if with_scores else None
    if frame_size == content:
        return label, maps

    row_of_pixel = torch.full((label.numel(),), -1)
    row_of_pixel[where] = torch.arange(len(where))
    rows_of_frame, columns_of_frame = (_Axis.between(*sizes) for sizes in zip(content, frame_size, strict=True))
    label = _agreed(label, rows_of_frame, columns_of_frame)
    if maps is not None:
        maps = resize(maps[None], frame_size)[0]
    # In chunks, since in a noisy picture most pixels are open.
    for where in _open(label).split(CHUNK):
        pixels, weights = _corners(where, rows_of_frame, columns_of_frame)
        corners = row_of_pixel.index_select(0, pixels.flatten()).view_as(pixels)
        known = scores
        if not with_scores:
            # The score is computed again only for pixels beside another label, which are few.
            settled = corners < 0
            known = torch.cat([scores, scores_at(pixels[settled])])
            corners[settled] = torch.arange(len(scores), len(known))
        best = _fill(label, where, F.embedding_bag(corners, known, per_sample_weights=weights, mode="sum"))
        if maps is not None:
            maps[0].view(-1)[where] = best
    return label, maps


class _Axis(NamedTuple):
    """Interpolation along one axis: the two source pixels of each target pixel.

    Attributes:
        low: index of the lower source pixel.
        high: index of the higher source pixel.
        weight: weight of the higher one.
        size: number of source pixels.
    """

    low: Tensor
    high: Tensor
    weight: Tensor
    size: int

    @staticmethod
    def between(source: int, target: int) -> _Axis:
        """Return the axis from `source` to `target` pixels, as in F.interpolate with align_corners=False."""
        where = ((torch.arange(target) + 0.5) * (source / target) - 0.5).clamp(min=0)
        low = where.long()
        return _Axis(low, (low + 1).clamp(max=source - 1), where - low, source)

    def first(self, number: int) -> _Axis:
        """Return the axis of the first `number` target pixels."""
        return self._replace(low=self.low[:number], high=self.high[:number], weight=self.weight[:number])


def _cells(probabilities: Tensor, mask_logits: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the label, or open, of each cell between four neighbouring mask logits of (h, w, Q).

    The shape is (h - 1, w - 1), and at least 1: beyond the outermost logits the masks are constant.
    """
    least = greatest = mask_logits.sigmoid()
    for axis, size in enumerate(least.shape[:2]):
        if size > 1:
            least, greatest = (
                function(values.narrow(axis, 0, size - 1), values.narrow(axis, 1, size - 1))
                for function, values in ((torch.minimum, least), (torch.maximum, greatest))
            )
    score, label = (probabilities.T @ least.flatten(0, 1).T).max(0)
    others = (probabilities.T @ greatest.flatten(0, 1).T).scatter_(0, label[None], -1).amax(0)
    return torch.where(score > others * MARGIN, label, -1).to(dtype).view(least.shape[:2])


def _agreed(label: Tensor, rows: _Axis, columns: _Axis) -> Tensor:
    """Return the common label of each pixel's four source pixels, or open."""
    label, other = (label.gather(1, index.expand(len(label), -1)) for index in (columns.low, columns.high))
    label = label | -(label != other).to(label.dtype)  # sets all bits; on a CPU faster than torch.where
    label, other = (label.index_select(0, index) for index in (rows.low, rows.high))
    return label | -(label != other).to(label.dtype)


def _open(label: Tensor) -> Tensor:
    """Return the (n,) flat indices of the open pixels."""
    return (label == torch.tensor(-1).to(label.dtype)).flatten().nonzero()[:, 0]


def _corners(where: Tensor, rows: _Axis, columns: _Axis) -> tuple[Tensor, Tensor]:
    """Return the four source pixels of target pixels, and their weights: (n,) flat indices -> (n, 4) and (n, 4)."""
    y = torch.div(where, len(columns.low), rounding_mode="floor")
    x = where - y * len(columns.low)
    first = torch.stack([rows.low, rows.low, rows.high, rows.high], 1) * columns.size
    second = torch.stack([columns.low, columns.high, columns.low, columns.high], 1)
    up, back = 1 - rows.weight, 1 - columns.weight
    down = torch.stack([up, up, rows.weight, rows.weight], 1)
    across = torch.stack([back, columns.weight, back, columns.weight], 1)
    return (
        first.index_select(0, y) + second.index_select(0, x),
        down.index_select(0, y) * across.index_select(0, x),
    )


def _fill(label: Tensor, where: Tensor, scores: Tensor) -> Tensor:
    """Write the argmax of (n, classes) scores, the lowest for ties, into the n open pixels. Return the best scores."""
    best, which = scores.max(1)
    label.view(-1)[where] = which.to(label.dtype)
    return best
