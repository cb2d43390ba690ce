"""Accuracy of the outlines of classes."""

from __future__ import annotations

import math

import numpy as np

from m2f_ros.metrics.accumulator import Accumulator, mean, ratio
from m2f_ros.metrics.counting import bytes_histogram, check_pair, is_class, present, relabel

# [n, value]: bit n of the value; float64 for fast products, exact up to 2 ** 53.
_BITS = (np.arange(256) >> np.arange(8)[:, None] & 1).astype(np.float64)


class BoundaryScore(Accumulator):
    """Boundary F-score of each class, added up over images.

    Outlines and their matching are those of Perazzi et al., "A benchmark dataset and evaluation methodology
    for video object segmentation" (CVPR 2016), as in github.com/davisvideochallenge/davis2017-evaluation,
    metrics.py, f_measure: a pixel is on the outline of a class where the mask differs within it and its
    neighbours to the right and below; it is met where the other outline has a pixel no farther off than
    the tolerance. Pixels without ground truth belong to no class in either mask. The tolerance is that of
    Csurka et al., "What is a good evaluation measure for semantic segmentation?" (BMVC 2013). Both papers
    average the scores of images; here, as for IoU, pixels are counted over all images.

    counts: (K, 4) int64: pixels of the true outline, number of these that the prediction meets; pixels of the
    predicted outline, number of these that the truth meets.
    """

    SETTINGS = ("num_classes", "tolerance")
    COUNTS = ("counts",)

    def __init__(self, num_classes: int, tolerance: float = 0.0075) -> None:
        """num_classes: K, at least 1. tolerance: share of the image's diagonal, rounded up to pixels."""
        if num_classes < 1 or tolerance < 0:
            raise ValueError(f"boundaries of {num_classes} classes within {tolerance} of the diagonal are impossible")
        self.num_classes = num_classes
        self.tolerance = tolerance
        self.counts = np.zeros((num_classes, 4), np.int64)

    def update(self, truth: np.ndarray, prediction: np.ndarray, unlabelled: int = 255) -> None:
        """Add an image: (H, W) truth and prediction; see Confusion.update.

        Raises FrameError if the shapes differ or an array does not hold integers.
        """
        truth, prediction = check_pair(truth, prediction)
        known = is_class(truth, self.num_classes, unlabelled)
        radius = math.ceil(self.tolerance * math.hypot(*truth.shape))
        ids = np.union1d(present(truth), present(prediction))
        classes = ids[is_class(ids, self.num_classes, unlabelled)].tolist()
        # Eight classes at a time, one bit for each.
        for some in (classes[i : i + 8] for i in range(0, len(classes), 8)):
            bits = {c: 1 << n for n, c in enumerate(some)}
            true_line = _outlines(relabel(truth, bits) * known)
            line = _outlines(relabel(prediction, bits) * known)
            counts = *_met(true_line, _dilated(line, radius)), *_met(line, _dilated(true_line, radius))
            self.counts[some] += np.stack(counts, axis=1)[: len(some)]

    def recall(self) -> np.ndarray:
        """(K,) float64 share of the true outline that the prediction meets; nan for a class without one."""
        return ratio(self.counts[:, 1], self.counts[:, 0])

    def precision(self) -> np.ndarray:
        """(K,) float64 share of the predicted outline that is true; nan for a class without one."""
        return ratio(self.counts[:, 3], self.counts[:, 2])

    def f_score(self) -> np.ndarray:
        """(K,) float64 harmonic mean of precision and recall, 0..1; nan for a class with no outline at all."""
        precision, recall = np.nan_to_num(self.precision()), np.nan_to_num(self.recall())
        both = precision + recall
        score = np.divide(2 * precision * recall, both, out=np.zeros_like(both), where=both > 0)
        return np.where(self.counts[:, [0, 2]].any(axis=1), score, np.nan)

    def mean_f_score(self) -> float | None:
        """Mean over the classes with an outline in truth or prediction; None if there is none."""
        return mean(self.f_score())


def _outlines(masks: np.ndarray) -> np.ndarray:
    """Return the bits that differ between a pixel and its right, lower and lower right neighbours."""
    some, every = masks.copy(), masks.copy()
    for here, beyond in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        some[here] |= some[beyond]
        every[here] &= every[beyond]
    return some & ~every


def _dilated(lines: np.ndarray, radius: int) -> np.ndarray:
    """Dilate by a disc: the bits of all pixels within the radius, row by row of the disc."""
    height, width = lines.shape
    padded = np.pad(lines, radius)
    wide, reach = padded[:, radius : radius + width].copy(), 0
    out = np.zeros_like(lines)
    for row in range(radius, -1, -1):
        while reach < math.isqrt(radius**2 - row**2):
            reach += 1
            for left in (radius - reach, radius + reach):
                wide |= padded[:, left : left + width]
        for top in (radius - row, radius + row):
            out |= wide[top : top + height]
    return out


def _met(lines: np.ndarray, near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two (8,) int64 for the bits: pixels of the line, and pixels of it near the other line."""
    counts = bytes_histogram(lines, near)
    return (_BITS @ counts.sum(axis=1)).astype(np.int64), ((_BITS @ counts) * _BITS).sum(axis=1).astype(np.int64)
