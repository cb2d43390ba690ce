"""Confidence intervals of scores, and of differences between two runs, by the block bootstrap.

Neighbouring frames of a drive are correlated: blocks of consecutive frames are drawn with replacement (Künsch, "The
jackknife and the bootstrap for general stationary observations", 1989, here without overlap). The interval is the
percentile interval (Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 13).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from m2f_ros.metrics.accumulator import ratio

# miou and pixel_accuracy: see Confusion; iou: IoU of every class; a number: IoU of that class.
Metric = Literal["miou", "pixel_accuracy", "iou"] | int


class Blocks(NamedTuple):
    """Pixel counts (B, K) of B blocks and K classes: true positives, pixels in the truth, pixels predicted."""

    hit: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray


class Interval(NamedTuple):
    """A value and its bounds: float, or (K,) float64 for the metric "iou".

    nan if the metric is undefined; the bounds are nan also for fewer than two blocks.
    """

    value: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray


def interval(blocks: Blocks, metric: Metric, samples: int = 2000, seed: int = 0, level: float = 0.95) -> Interval:
    """Return the metric over all blocks, and its confidence interval at `level`."""
    draws = _scores(blocks, metric, _draws(len(blocks.hit), samples, np.random.default_rng(seed)))
    return _interval(_score(blocks, metric), draws, len(blocks.hit), level)


def paired_difference(
    a: Blocks, b: Blocks, metric: Metric, samples: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Return the metric of b minus that of a, for two runs over the same frames: each draw takes the same blocks.

    The variation that both runs share cancels out, which shows small differences. Raises ValueError if the numbers of
    blocks differ.
    """
    if len(a.hit) != len(b.hit):
        raise ValueError(f"{len(a.hit)} blocks cannot be paired with {len(b.hit)}")
    weights = _draws(len(a.hit), samples, np.random.default_rng(seed))
    draws = _scores(b, metric, weights) - _scores(a, metric, weights)
    return _interval(_score(b, metric) - _score(a, metric), draws, len(a.hit), level)


def difference(
    a: Blocks, b: Blocks, metric: Metric, samples: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Return the metric of b minus that of a, for different frames, which are drawn independently."""
    rng = np.random.default_rng(seed)
    draws_a = _scores(a, metric, _draws(len(a.hit), samples, rng))
    draws = _scores(b, metric, _draws(len(b.hit), samples, rng)) - draws_a
    return _interval(_score(b, metric) - _score(a, metric), draws, min(len(a.hit), len(b.hit)), level)


def _draws(blocks: int, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Return (samples, blocks) int64, the multiplicity of each block in each draw."""
    if not blocks:
        return np.zeros((samples, 0), np.int64)
    return rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=samples)


def _score(blocks: Blocks, metric: Metric) -> np.ndarray:
    """Return the metric over all blocks: (), or (K,) for "iou"."""
    return _scores(blocks, metric, np.ones((1, len(blocks.hit)), np.int64))[0]


def _scores(blocks: Blocks, metric: Metric, weights: np.ndarray) -> np.ndarray:
    """Return the metric of each draw (N, B): (N,), or (N, K) for "iou"."""
    # Integers up to 2 ** 53 are exact in float64, whose products are much faster.
    hit, truth, prediction = (weights.astype(np.float64) @ np.asarray(counts, np.float64) for counts in blocks)
    if metric == "pixel_accuracy":
        return ratio(hit.sum(axis=1), truth.sum(axis=1))
    iou = ratio(hit, truth + prediction - hit)
    if metric == "miou":
        present = ~np.isnan(iou)
        return ratio(np.where(present, iou, 0).sum(axis=1), present.sum(axis=1))
    return iou if metric == "iou" else iou[:, metric]


def _interval(value: np.ndarray, draws: np.ndarray, blocks: int, level: float) -> Interval:
    if blocks < 2:
        low = high = np.full_like(value, np.nan)
    else:
        # Draws without a rare class are left out of its bounds.
        missing = np.isnan(draws).all(axis=0)
        tail = (1 - level) / 2
        low, high = np.nanquantile(np.where(missing, 0, draws), [tail, 1 - tail], axis=0)
        low, high = np.where(missing, np.nan, low), np.where(missing, np.nan, high)
    return Interval(*(x if np.ndim(x) else float(x) for x in (value, low, high)))
