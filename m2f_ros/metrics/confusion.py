"""Accuracy of label images against ground truth: confusion, intersection over union, pixel accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from m2f_ros.metrics.accumulator import Accumulator, mean, ratio
from m2f_ros.metrics.counting import bytes_histogram, check_pair, is_class


class Confusion(Accumulator):
    """Confusion matrix of semantic labels, added up over images.

    matrix: (K, K + 1) int64, pixels by [true class, predicted class]. The last column counts pixels of a class with an
    unlabelled or unknown prediction, which is wrong. Pixels without ground truth are not counted. The scores are those
    of the Cityscapes benchmark (cityscapesscripts/evaluation/evalPixelLevelSemanticLabeling.py) and of Long et al.,
    "Fully convolutional networks for semantic segmentation" (CVPR 2015), section 5.
    """

    SETTINGS = ("num_classes",)
    COUNTS = ("matrix",)

    def __init__(self, num_classes: int) -> None:
        """num_classes: K, at least 1."""
        if num_classes < 1:
            raise ValueError(f"a confusion matrix needs at least one class, not {num_classes}")
        self.num_classes = num_classes
        self.matrix = np.zeros((num_classes, num_classes + 1), np.int64)

    def update(self, truth: np.ndarray, prediction: np.ndarray, unlabelled: int = 255) -> None:
        """Add an image: truth and prediction are integer arrays of one shape with ids 0..K-1.

        Other ids (`unlabelled`, or K and above) mean no ground truth, or a wrong prediction.
        Raises FrameError if the shapes differ or an array does not hold integers.
        """
        truth, prediction = check_pair(truth, prediction)
        k = self.num_classes
        if truth.dtype == np.uint8 and prediction.dtype == np.uint8:
            counts = bytes_histogram(truth, prediction)
            known = is_class(np.arange(256), k, unlabelled)
            ids = np.flatnonzero(known)
            self.matrix[np.ix_(ids, ids)] += counts[np.ix_(ids, ids)]
            self.matrix[ids, k] += counts[np.ix_(ids, ~known)].sum(axis=1)
            return
        known = is_class(truth, k, unlabelled)
        true = truth[known].astype(np.int64)
        predicted = prediction[known]
        predicted = np.where(is_class(predicted, k, unlabelled), predicted, k).astype(np.int64)
        self.matrix += np.bincount(true * (k + 1) + predicted, minlength=k * (k + 1)).reshape(k, k + 1)

    def hit(self) -> np.ndarray:
        """(K,) int64 correctly predicted pixels of each class."""
        return np.diagonal(self.matrix).copy()

    def truth(self) -> np.ndarray:
        """(K,) int64 pixels of each class in the ground truth."""
        return self.matrix.sum(axis=1)

    def prediction(self) -> np.ndarray:
        """(K,) int64 pixels with ground truth predicted as each class."""
        return self.matrix[:, :-1].sum(axis=0)

    def iou(self) -> np.ndarray:
        """(K,) float64 intersection over union, 0..1; nan for a class in neither truth nor prediction."""
        return ratio(self.hit(), self.truth() + self.prediction() - self.hit())

    def accuracy(self) -> np.ndarray:
        """(K,) float64 share of correctly predicted pixels of each class; nan for a class not in the truth."""
        return ratio(self.hit(), self.truth())

    def precision(self) -> np.ndarray:
        """(K,) float64 share of correct pixels among those predicted as each class; nan for one never predicted."""
        return ratio(self.hit(), self.prediction())

    def miou(self) -> float | None:
        """Mean IoU over the classes in truth or prediction; None without pixels."""
        return mean(self.iou())

    def mean_accuracy(self) -> float | None:
        """Mean accuracy over the classes in the truth; None without pixels."""
        return mean(self.accuracy())

    def pixel_accuracy(self) -> float | None:
        """Share of correctly predicted pixels among those with ground truth; None without pixels."""
        total = self.matrix.sum()
        return None if total == 0 else float(np.trace(self.matrix) / total)

    def frequency_weighted_iou(self) -> float | None:
        """Mean IoU weighted by the classes' pixels in the truth; None without pixels."""
        truth = self.truth()
        return None if truth.sum() == 0 else float(np.nansum(truth * self.iou()) / truth.sum())


def over_classes(averaged: Sequence[str], names: Sequence[str]) -> str:
    """Describe the classes of a mean: "over 3 of 19 classes: road, car, sky"; if they are many, the other classes."""
    rest = [name for name in names if name not in set(averaged)]
    if not rest:
        return f"over all {len(names)} classes"
    which = listed(averaged) if len(averaged) <= len(rest) else f"all but {listed(rest)}"
    return f"over {len(averaged)} of {len(names)} classes: {which}"


def listed(names: Sequence[str], most: int = 12) -> str:
    """Join names with commas; after the first `most` ones give the number of the rest."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
