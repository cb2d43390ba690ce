"""The arithmetic of the figures: percentiles, spread, ratio, agreement, error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Spread:
    """How values are spread; percentiles are interpolated linearly between neighbours."""

    count: int
    minimum: float
    quartile1: float
    median: float
    quartile3: float
    maximum: float


def spread(values: Sequence[float]) -> Spread:
    """Of one value at least."""
    return Spread(len(values), *(percentile(values, q) for q in (0, 25, 50, 75, 100)))


def percentile(values: Sequence[float], q: float) -> float:
    """q: 0 to 100."""
    return float(np.percentile(np.asarray(values, np.float64), q))


def median(values: Sequence[float]) -> float:
    return percentile(values, 50)


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """Median of theirs over median of ours: 2 where ours takes half as long."""
    return median(theirs) / median(ours)


def paired_ratios(theirs: Sequence[float], ours: Sequence[float]) -> Spread:
    """Theirs over ours, round by round: what a machine that grows slower meanwhile does not change."""
    return spread([a / b for a, b in zip(theirs, ours, strict=True)])


def agreement(labels: np.ndarray, reference: np.ndarray) -> float:
    """Part of the pixels with the same label, 0 to 1; both of one shape."""
    if labels.shape != reference.shape:
        raise ValueError(f"labels {labels.shape} and reference {reference.shape} are of different shapes")
    return float((labels == reference).mean())


def logit_error(logits: Tensor, reference: Tensor) -> float | None:
    """Largest difference of two of one shape; None where some values are not finite, which JSON could not hold."""
    largest = float((logits - reference).abs().max())
    return largest if math.isfinite(largest) else None
