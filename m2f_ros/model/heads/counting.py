"""Pixel count and bounding box of each value in a map.

No shape depends on the pixels: nothing synchronises the device, and CUDA graphs can capture the work.
"""

from __future__ import annotations

import torch
from torch import Tensor

from m2f_ros.model.heads.upsampling import strips


def count(values: Tensor, number: int) -> Tensor:
    """Count the pixels of each value 0..number-1 in each image: (B, H, W) integers -> (B, number) int64.

    `torch.bincount` would synchronise the device. Counting row by row avoids contention between additions.
    """
    total = torch.zeros((), dtype=torch.int64, device=values.device)
    for rows in strips(*values.shape[1:]):
        some = values[:, rows].long()
        counts = some.new_zeros((*some.shape[:2], number))
        total = total + counts.scatter_add_(2, some, some.new_ones(()).expand_as(some)).sum(1)
    return total


def shares(label: Tensor, classes: int, ignored: Tensor | None = None) -> Tensor:
    """Compute the share of each class in the pixels: (B, H, W) integer train ids -> (B, classes + 1) float32.

    The last share is that of unlabelled pixels.

    ignored: (B, H, W) bool, unlabelled pixels that do not count; None for none. Without a pixel that counts all shares
        are 0.
    """
    found = count(label.clamp(max=classes), classes + 1)
    if ignored is None:
        return found / label[0].numel()
    found[:, -1] -= ignored.sum((1, 2))
    return found / found.sum(1, keepdim=True).clamp(min=1)


def boxes(ids: Tensor, number: int) -> Tensor:
    """Compute the axis-aligned bounding box of each value 0..number-1 in each image.

    Args:
        ids: (B, H, W) integers, each below `number`.
    Returns:
        (B, number, 4) int64: x and y of the left and top pixel, width, height; width and height are below 1 for absent
        values.
    """
    (left, right), (top, bottom) = (_extent(lines, number) for lines in (ids.transpose(1, 2), ids))
    return torch.stack([left, top, right - left + 1, bottom - top + 1], -1)


def _extent(lines: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Return the first and last line of each value: (B, L, N) integers -> two of (B, number)."""
    # uint8, since the cost is memory bandwidth.
    one = torch.ones((), dtype=torch.uint8, device=lines.device)
    present = one.new_zeros((*lines.shape[:2], number))
    for some in strips(*lines.shape[1:]):
        present[:, some].scatter_(2, lines[:, some].long(), one.expand_as(lines[:, some]))
    present = present.bool()
    place = torch.arange(lines.shape[1], device=lines.device)[:, None]
    return torch.where(present, place, lines.shape[1]).amin(1), torch.where(present, place, -1).amax(1)
