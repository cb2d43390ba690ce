"""Calibration of the confidence."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from m2f_ros.errors import FrameError
from m2f_ros.metrics.accumulator import Accumulator
from m2f_ros.metrics.counting import check_pair, is_class, joint_histogram


class ReliabilityBin(NamedTuple):
    """Pixels of similar confidence: mean confidence, accuracy (both 0..1), and number."""

    confidence: float
    accuracy: float
    pixels: int


class Calibration(Accumulator):
    """Confidence against accuracy, added up over images: Guo et al., "On calibration of modern neural networks" (ICML
    2017).

    counts: (256, 2) int64, pixels with ground truth by [confidence 0..255, wrong or right].
    """

    SETTINGS = ("num_classes",)
    COUNTS = ("counts",)

    def __init__(self, num_classes: int) -> None:
        """num_classes: K, at least 1."""
        if num_classes < 1:
            raise ValueError(f"calibration needs at least one class, not {num_classes}")
        self.num_classes = num_classes
        self.counts = np.zeros((256, 2), np.int64)

    def update(self, truth: np.ndarray, prediction: np.ndarray, confidence: np.ndarray, unlabelled: int = 255) -> None:
        """Add an image: truth and prediction, see Confusion.update; uint8 confidence, 255 for certain.

        Raises FrameError if the shapes differ or an array has another type.
        """
        truth, prediction = check_pair(truth, prediction)
        confidence = np.asarray(confidence)
        if confidence.dtype != np.uint8 or confidence.shape != truth.shape:
            raise FrameError(
                f"confidence must be uint8 of the labels' shape {truth.shape}, not {confidence.dtype} "
                f"{confidence.shape}"
            )
        outcome = np.where(is_class(truth, self.num_classes, unlabelled), (truth == prediction).view(np.uint8), 2)
        self.counts += joint_histogram(confidence, outcome.astype(np.uint8), 256, 3)[:, :2]

    def reliability(self, bins: int = 15) -> list[ReliabilityBin]:
        """Return the non-empty bins of the reliability diagram, of equal width: bin m holds confidences above m / bins,
        up to (m + 1) / bins; the first one also 0."""
        level = np.arange(256)
        member = np.maximum(-(-level * bins // 255) - 1, 0)  # ceil(confidence * bins) - 1, in integers
        out = []
        for m in range(bins):
            counts = self.counts[member == m]
            total = int(counts.sum())
            if total:
                confidence = int(counts.sum(axis=1) @ level[member == m]) / (255 * total)
                out.append(ReliabilityBin(confidence, int(counts[:, 1].sum()) / total, total))
        return out

    def ece(self, bins: int = 15) -> float | None:
        """Return the expected calibration error, 0..1: mean over pixels of their bin's |accuracy - confidence|
        (equation 3 of the paper); None without pixels."""
        diagram = self.reliability(bins)
        total = sum(b.pixels for b in diagram)
        return sum(b.pixels * abs(b.accuracy - b.confidence) for b in diagram) / total if total else None
