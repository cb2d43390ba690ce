"""The settings that may change while frames flow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from m2f_ros.errors import ConfigError

LEVELS = 255  # of confidence, above 0


@dataclass(frozen=True)
class Tuning:
    """Settings of the outputs that take effect together, from one frame on.

    Attributes:
        alpha: weight of the class colours in the overlay, 0..1.
        hidden: train ids that are transparent in the overlay and black in the colour image. Labels keep them.
        highlighted: the only train ids with colour in the overlay; empty for all. Hidden ones stay hidden.
        min_confidence: least confidence of a label, 0..1, in the 256 levels of the confidence image; pixels below
            become unlabelled. Above 0 it costs as much time as the output confidence.
        score_threshold: class probability that a panoptic segment must exceed, 0..1; upstream's is 0.8. Score that an
            instance must exceed, for labels, too.
        overlap_threshold: share of its own mask that a panoptic segment must keep, 0..1; upstream's is 0.8.
        mask_threshold: mask probability from which on a pixel is in the mask of a query, 0..1; upstream's is 0.5.
    Raises:
        ConfigError: a number is out of range.
    """

    alpha: float = 0.5
    hidden: frozenset[int] = frozenset()
    highlighted: frozenset[int] = frozenset()
    min_confidence: float = 0.0
    score_threshold: float = 0.8
    overlap_threshold: float = 0.8
    mask_threshold: float = 0.5

    def __post_init__(self) -> None:
        for name in ("alpha", "min_confidence", "score_threshold", "overlap_threshold", "mask_threshold"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} is {value}; it must be 0 to 1")
        for name in ("hidden", "highlighted"):
            object.__setattr__(self, name, frozenset(getattr(self, name)))

    @property
    def min_level(self) -> int:
        """`min_confidence` as a level of the confidence image, 0..255."""
        return round(self.min_confidence * LEVELS)

    def check(self, classes: int) -> None:
        """Raise ConfigError for a train id outside 0..classes - 1."""
        for name in ("hidden", "highlighted"):
            _check_ids(name, getattr(self, name), classes)


def _check_ids(name: str, ids: Iterable[int], classes: int) -> None:
    wrong = [i for i in ids if i not in range(classes)]
    if wrong:
        raise ConfigError(f"{name}: there is no class {wrong[0]}; the train ids are 0 to {classes - 1}")
