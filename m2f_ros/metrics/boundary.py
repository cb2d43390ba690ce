"""How well the outlines of classes are met."""

from __future__ import annotations

import math

import cv2
import numpy as np

from m2f_ros.metrics.accumulator import Accumulator, mean, ratio
from m2f_ros.metrics.counting import check_pair, is_class

_CORNER = np.ones((2, 2), np.uint8)


class BoundaryScore(Accumulator):
    """Boundary F-score of each class, added up over images.

    Outlines and their matching are those of Perazzi et al., "A benchmark dataset and evaluation methodology
    for video object segmentation" (CVPR 2016), as in github.com/davisvideochallenge/davis2017-evaluation,
    metrics.py, f_measure: a pixel is on the outline of a class where the mask differs within it and its
    neighbours to the right and below; it is met where the other outline has a pixel no farther off than
    the tolerance. Pixels without ground truth belong to no class in either mask. The tolerance is that of
    Csurka et al., "What is a good evaluation measure for semantic segmentation?" (BMVC 2013). Both papers
    average the scores of images; here, as for IoU, pixels are counted over all images.

    counts: (K, 4) int64: pixels of the true outline, those of them that are met by the prediction; pixels
    of the predicted outline, those of them that are met by the truth.
    """

    SETTINGS = ("num_classes", "tolerance")
    COUNTS = ("counts",)

    def __init__(self, num_classes: int, tolerance: float = 0.0075) -> None:
        """num_classes: K, at least 1. tolerance: as a share of the image's diagonal, rounded up to pixels."""
        if num_classes < 1 or tolerance < 0:
            raise ValueError(f"boundaries of {num_classes} classes within {tolerance} of the diagonal are impossible")
        self.num_classes = num_classes
        self.tolerance = tolerance
        self.counts = np.zeros((num_classes, 4), np.int64)

    def update(self, truth: np.ndarray, prediction: np.ndarray, unlabelled: int = 255) -> None:
        """Add an image: truth and prediction (H, W) as Confusion.update takes them.

        Raises FrameError where the shapes differ or an array does not hold integers.
        """
        truth, prediction = check_pair(truth, prediction)
        k = self.num_classes
        known = is_class(truth, k, unlabelled)
        predicted = known & is_class(prediction, k, unlabelled)
        near = _disc(math.ceil(self.tolerance * math.hypot(*truth.shape)))
        for c in np.union1d(np.unique(truth[known]), np.unique(prediction[predicted])).tolist():
            true_mask = (truth == c).view(np.uint8)
            mask = ((prediction == c) & known).view(np.uint8)
            x, y, width, height = cv2.boundingRect(true_mask | mask)
            # An outline runs over the pixels around its mask, too, and is found by them.
            part = slice(max(y - 1, 0), y + height + 1), slice(max(x - 1, 0), x + width + 1)
            true_line, line = _outline(true_mask[part]), _outline(mask[part])
            self.counts[c] += [
                np.count_nonzero(true_line),
                np.count_nonzero(true_line & cv2.dilate(line, near)),
                np.count_nonzero(line),
                np.count_nonzero(line & cv2.dilate(true_line, near)),
            ]

    def recall(self) -> np.ndarray:
        """(K,) float64 share of the true outline that was met; nan for a class without one."""
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
        """Mean over the classes with an outline in truth or prediction; None where there is none."""
        return mean(self.f_score())


def _outline(mask: np.ndarray) -> np.ndarray:
    """Where a pixel and its right, lower and lower right neighbours in the image are not all the same."""
    return cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, _CORNER, anchor=(0, 0))


def _disc(radius: int) -> np.ndarray:
    """Kernel of the pixels no farther off than radius."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)
