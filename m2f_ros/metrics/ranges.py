"""Scores of labels in space by distance: cells of the ground, and points of a lidar."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from m2f_ros.errors import FrameError
from m2f_ros.metrics.accumulator import Accumulator, mean, ratio
from m2f_ros.metrics.counting import is_class

LETHAL = 100  # cost from which a cell is occupied: Nav2's lethal_cost_threshold
OCCUPIED, FREE = range(2)  # columns of the counts of cells


class _Ranged(Accumulator):
    """Counts by distance.

    edges: distances between ranges in metres, ascending from 0; beyond a finite last one nothing is counted.
    """

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges = tuple(map(float, edges))
        if len(self.edges) < 2 or self.edges[0] != 0 or not all(np.diff(self.edges) > 0):
            raise ValueError(f"edges of ranges must ascend from 0, not {', '.join(map(str, edges))}")

    @property
    def num_ranges(self) -> int:
        return len(self.edges) - 1

    def _range_of(self, distance: np.ndarray) -> np.ndarray:
        """Return the number of each distance's range; num_ranges and more, or -1, outside."""
        return np.searchsorted(self.edges, distance, side="right") - 1


class CellScore(_Ranged):
    """Precision and recall of occupied and free cells of occupancy grids.

    A cell is occupied at a cost of LETHAL, free below, and unknown at -1 and above LETHAL.

    predicted, right: (R, 2) int64, cells in view that are predicted as occupied and as free and whose truth is known,
    and those of them that are so. kept, kept_right: the same of cells out of view. true, found: (R, 2) int64, cells in
    view that are occupied and free, and those of them predicted so. R: ranges.
    """

    SETTINGS = ("edges",)
    COUNTS = ("predicted", "right", "kept", "kept_right", "true", "found")

    def __init__(self, edges: Sequence[float] = (0, 5, 10, 15, 20)) -> None:
        super().__init__(edges)
        self.predicted, self.right, self.kept, self.kept_right, self.true, self.found = np.zeros(
            (6, self.num_ranges, 2), np.int64
        )

    def update_precision(
        self, prediction: np.ndarray, truth: np.ndarray, in_view: np.ndarray, distance: np.ndarray
    ) -> None:
        """Add the cells of a predicted grid.

        prediction, truth: (N,) integers, costs of the same cells. in_view: (N,) bool. distance: (N,) metres.
        """
        known = _state(truth) >= 0
        for which, counts, right in ((in_view, self.predicted, self.right), (~in_view, self.kept, self.kept_right)):
            which = known & which
            self._count(counts, right, prediction[which], truth[which], distance[which])

    def update_recall(self, truth: np.ndarray, prediction: np.ndarray, distance: np.ndarray) -> None:
        """Add the cells in view, which a prediction has to find; see `update_precision`."""
        self._count(self.true, self.found, truth, prediction, distance)

    def _count(self, counts: np.ndarray, same: np.ndarray, a: np.ndarray, b: np.ndarray, distance: np.ndarray) -> None:
        if not a.shape == b.shape == distance.shape:
            raise FrameError(f"cells of shapes {a.shape} and {b.shape}, and distances {distance.shape}, do not fit")
        at, state = self._range_of(distance), _state(a)
        counted = (state >= 0) & (at >= 0) & (at < self.num_ranges)
        cell = at * 2 + state
        for into, which in ((counts, counted), (same, counted & (state == _state(b)))):
            into += np.bincount(cell[which], minlength=2 * self.num_ranges).reshape(-1, 2)

    def precision(self, state: int, in_view: bool = True) -> float | None:
        """Share of the cells predicted as OCCUPIED or FREE that are so, 0..1; None where none was predicted."""
        return _overall(*self._of(in_view), state)

    def recall(self, state: int) -> float | None:
        """Share of the cells that are OCCUPIED or FREE that were predicted so, 0..1; None where there is none."""
        return _overall(self.found, self.true, state)

    def precisions(self, state: int, in_view: bool = True) -> np.ndarray:
        """(R,) float64 `precision` of each range, nan for None."""
        return ratio(*self._of(in_view))[:, state]

    def recalls(self, state: int) -> np.ndarray:
        """(R,) float64 `recall` of each range, nan for None."""
        return ratio(self.found, self.true)[:, state]

    def _of(self, in_view: bool) -> tuple[np.ndarray, np.ndarray]:
        return (self.right, self.predicted) if in_view else (self.kept_right, self.kept)


def _overall(part: np.ndarray, whole: np.ndarray, state: int) -> float | None:
    return mean(ratio(part.sum(axis=0), whole.sum(axis=0))[state : state + 1])


def _state(cost: np.ndarray) -> np.ndarray:
    """Return OCCUPIED, FREE, or -1 for unknown."""
    return np.select([cost == LETHAL, (cost >= 0) & (cost < LETHAL)], [OCCUPIED, FREE], -1)


class PointScore(_Ranged):
    """Confusion of the labels of points by distance.

    matrix: (R, K, K + 1) int64, points by [range, true class, predicted class]. The last column counts points that got
    no label, which are in no IoU: a lidar sees more than the cameras do. Points without a true class are not counted.
    """

    SETTINGS = ("num_classes", "edges")
    COUNTS = ("matrix",)

    def __init__(self, num_classes: int, edges: Sequence[float] = (0, 10, 20, 30, 50, np.inf)) -> None:
        """num_classes: K, at least 1."""
        super().__init__(edges)
        if num_classes < 1:
            raise ValueError(f"a confusion matrix needs at least one class, not {num_classes}")
        self.num_classes = num_classes
        self.matrix = np.zeros((self.num_ranges, num_classes, num_classes + 1), np.int64)

    def update(self, truth: np.ndarray, prediction: np.ndarray, distance: np.ndarray, unlabelled: int = 255) -> None:
        """Add the points of a cloud: (N,) integers with ids 0..K-1, others for none, and (N,) metres.

        Points whose distance is not finite are left out. Raises FrameError if the shapes differ.
        """
        if not truth.shape == prediction.shape == distance.shape:
            raise FrameError(
                f"{truth.size} points have a true label, {prediction.size} a predicted one, {distance.size} a distance"
            )
        k, at = self.num_classes, self._range_of(distance)
        there = is_class(truth, k, unlabelled) & np.isfinite(distance) & (at >= 0) & (at < self.num_ranges)
        true, predicted = truth[there].astype(np.int64), prediction[there]
        predicted = np.where(is_class(predicted, k, unlabelled), predicted, k).astype(np.int64)
        place = (at[there] * k + true) * (k + 1) + predicted
        self.matrix += np.bincount(place, minlength=self.matrix.size).reshape(self.matrix.shape)

    def iou(self) -> np.ndarray:
        """(K,) float64 intersection over union of the labelled points; nan for a class in neither truth nor labels."""
        return _iou(self.matrix.sum(axis=0))

    def miou(self) -> float | None:
        """Mean of `iou`; None without labelled points."""
        return mean(self.iou())

    def mious(self) -> np.ndarray:
        """(R,) float64 `miou` of each range, nan for None."""
        found = (mean(_iou(matrix)) for matrix in self.matrix)
        return np.array([np.nan if score is None else score for score in found])

    def labelled(self) -> float | None:
        """Share of the points that got a label, 0..1; None without points."""
        return mean(ratio(self.matrix[..., :-1].sum(keepdims=True), self.matrix.sum(keepdims=True)))

    def labelled_shares(self) -> np.ndarray:
        """(R,) float64 `labelled` of each range, nan for None."""
        return ratio(self.matrix[..., :-1].sum(axis=(1, 2)), self.matrix.sum(axis=(1, 2)))


def _iou(matrix: np.ndarray) -> np.ndarray:
    """(K,) float64 of (K, K + 1) counts, without those of no label."""
    counts = matrix[:, :-1]
    hit = np.diagonal(counts)
    return ratio(hit, counts.sum(axis=0) + counts.sum(axis=1) - hit)
