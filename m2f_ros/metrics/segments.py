"""Segments of a panoptic image, as the scores take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Segment(Protocol):
    """id: value of the segment's pixels, from 1; train_id: its class, 0..K-1, anything else for none.

    Where it has an attribute `crowd` that is true, it is a region of several objects that the annotator did not tell
    apart (COCO's iscrowd, Cityscapes' groups).
    """

    @property
    def id(self) -> int: ...

    @property
    def train_id(self) -> int: ...


def is_crowd(segment: Segment) -> bool:
    return bool(getattr(segment, "crowd", False))


def things_of(num_classes: int, things: Sequence[int]) -> list[int]:
    """Train ids of things, ascending. Raises ValueError for one that is no class."""
    out = sorted(set(things))
    if num_classes < 1 or any(not 0 <= c < num_classes for c in out):
        raise ValueError(f"things {out} are not all among classes 0..{num_classes - 1}")
    return out
