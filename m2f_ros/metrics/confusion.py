"""Accuracy of label images against ground truth: confusion, intersection over union, pixel accuracy."""

from __future__ import annotations

import numpy as np

from m2f_ros.errors import FrameError


class Confusion:
    """Confusion matrix of semantic labels, added up over images.

    matrix: (K, K + 1) int64, pixels by [true class, predicted class]. The last column counts pixels of a
    class that were predicted as none (unlabelled, or an id of no class): they are wrong. Pixels without
    ground truth are not counted, whatever was predicted there.
    """

    def __init__(self, num_classes: int) -> None:
        """num_classes: K, at least 1."""
        if num_classes < 1:
            raise ValueError(f"a confusion matrix needs at least one class, not {num_classes}")
        self.num_classes = num_classes
        self.matrix = np.zeros((num_classes, num_classes + 1), np.int64)

    def update(self, truth: np.ndarray, prediction: np.ndarray, unlabelled: int = 255) -> None:
        """Add an image: truth and prediction are integer arrays of one shape, holding ids 0..K-1.

        Ids of no class (`unlabelled`, or K and above) are no ground truth, or a wrong prediction.
        Raises FrameError where the shapes differ or an array does not hold integers.
        """
        truth, prediction = np.asarray(truth), np.asarray(prediction)
        if truth.shape != prediction.shape:
            raise FrameError(f"ground truth is {_size(truth)} but the prediction is {_size(prediction)}")
        for name, labels in (("ground truth", truth), ("prediction", prediction)):
            if not np.issubdtype(labels.dtype, np.integer):
                raise FrameError(f"{name} must hold integer labels, not {labels.dtype}")
        k = self.num_classes
        known = self._is_class(truth, unlabelled)
        true = truth[known].astype(np.int64)
        predicted = prediction[known]
        predicted = np.where(self._is_class(predicted, unlabelled), predicted, k).astype(np.int64)
        self.matrix += np.bincount(true * (k + 1) + predicted, minlength=k * (k + 1)).reshape(k, k + 1)

    def iou(self) -> np.ndarray:
        """(K,) float64 intersection over union, 0..1; nan for a class in neither truth nor prediction."""
        hit = np.diagonal(self.matrix).astype(np.float64)
        union = self.matrix.sum(axis=1) + self.matrix[:, :-1].sum(axis=0) - hit
        with np.errstate(invalid="ignore"):
            return hit / union

    def miou(self) -> float | None:
        """Mean IoU over the classes that occur in truth or prediction; None where nothing was counted."""
        iou = self.iou()
        return None if np.isnan(iou).all() else float(np.nanmean(iou))

    def pixel_accuracy(self) -> float | None:
        """Share of the pixels with ground truth that were predicted right; None where nothing was counted."""
        total = self.matrix.sum()
        return None if total == 0 else float(np.trace(self.matrix) / total)

    def _is_class(self, labels: np.ndarray, unlabelled: int) -> np.ndarray:
        return (labels >= 0) & (labels < self.num_classes) & (labels != unlabelled)


def _size(labels: np.ndarray) -> str:
    """Width x height of a label image, as people write it."""
    return f"{labels.shape[1]}x{labels.shape[0]}" if labels.ndim == 2 else f"of shape {labels.shape}"
