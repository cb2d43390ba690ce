"""Panoptic quality: recognition and segmentation of segments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from m2f_ros.frame.segment import Segment
from m2f_ros.metrics.accumulator import PARTS, Accumulator, in_parts, mean, ratio
from m2f_ros.metrics.counting import check_pair, joint_histogram, relabel, things_of


class _Region(NamedTuple):
    """The unit of matching: a segment of a thing, or all pixels of a stuff class."""

    train_id: int
    id: int | None
    crowd: bool


class PanopticQuality(Accumulator):
    """PQ = SQ x RQ of each class, added up over images: Kirillov et al., "Panoptic segmentation" (CVPR 2019).

    The rules are those of COCO's evaluation (github.com/cocodataset/panopticapi, evaluation.py), which Cityscapes
    shares: a predicted and a true segment of one class match if their IoU, without pixels that lack truth, is above
    0.5. A predicted segment mostly on pixels without truth, or on crowds of its class, is not a false positive, and a
    crowd is not a false negative. Pixels without a predicted segment count against their true segment (torchmetrics'
    PanopticQuality leaves them out). Segments of one stuff class are one segment.

    true_positives, false_positives, false_negatives: (K,) int64 segments. iou_sum: (K,) integers of any size, in
    PARTS: sum of the IoU of the matches.
    """

    SETTINGS = ("num_classes", "things")
    COUNTS = ("true_positives", "false_positives", "false_negatives", "iou_sum")

    def __init__(self, num_classes: int, things: Sequence[int]) -> None:
        """num_classes: K, at least 1. things: train ids of the countable classes."""
        self.things = things_of(num_classes, things)
        self.num_classes = num_classes
        self.true_positives = np.zeros(num_classes, np.int64)
        self.false_positives = np.zeros(num_classes, np.int64)
        self.false_negatives = np.zeros(num_classes, np.int64)
        self.iou_sum = np.zeros(num_classes, object)

    def update(
        self, truth_ids: np.ndarray, truth_segments: Sequence[Segment], ids: np.ndarray, segments: Sequence[Segment]
    ) -> None:
        """Add an image: true and predicted segment ids, integers of one shape, and their segments.

        Pixels with id 0, an unknown id, or a segment of an unknown class are void; segments without pixels do not
        count. Raises FrameError if the shapes differ or an array does not hold integers.
        """
        truth_ids, ids = check_pair(truth_ids, ids)
        true_numbers, true_regions = self._regions(truth_ids, truth_segments)
        numbers, regions = self._regions(ids, segments)
        overlap = joint_histogram(true_numbers, numbers, len(true_regions) + 1, len(regions) + 1)
        true_area, area = overlap.sum(axis=1), overlap.sum(axis=0)
        matched, true_matched = set(), set()
        forgiven = overlap[0].copy()
        for i, j in (np.argwhere(overlap[1:, 1:]) + 1).tolist():
            true, region = true_regions[i - 1], regions[j - 1]
            if true.train_id != region.train_id:
                continue
            if true.crowd:
                forgiven[j] += overlap[i, j]
                continue
            intersection = int(overlap[i, j])
            union = int(true_area[i] + area[j] - overlap[0, j]) - intersection
            if 2 * intersection > union:
                true_matched.add(i)
                matched.add(j)
                self.true_positives[true.train_id] += 1
                self.iou_sum[true.train_id] += in_parts(intersection, union)
        for i, true in enumerate(true_regions, 1):
            if true_area[i] and not true.crowd and i not in true_matched:
                self.false_negatives[true.train_id] += 1
        for j, region in enumerate(regions, 1):
            if area[j] and j not in matched and 2 * forgiven[j] <= area[j]:
                self.false_positives[region.train_id] += 1

    def pq(self) -> np.ndarray:
        """(K,) float64 panoptic quality, 0..1; nan for a class with no segment in truth or prediction."""
        return self.sq() * self.rq()

    def sq(self) -> np.ndarray:
        """(K,) float64 segmentation quality: mean IoU of the matches, 0 without a match; nan as in `pq`."""
        iou = np.array([total / PARTS for total in self.iou_sum.tolist()])
        return np.where(self._segments() > 0, iou / np.maximum(self.true_positives, 1), np.nan)

    def rq(self) -> np.ndarray:
        """(K,) float64 recognition quality: F1 score of the matches; nan as in `pq`."""
        return ratio(2 * self.true_positives, self._segments())

    def mean_pq(self) -> float | None:
        """Mean over the classes with segments; None if there are none. Not the product of the other two means."""
        return mean(self.pq())

    def mean_sq(self) -> float | None:
        """As `mean_pq`."""
        return mean(self.sq())

    def mean_rq(self) -> float | None:
        """As `mean_pq`."""
        return mean(self.rq())

    def _segments(self) -> np.ndarray:
        """(K,) counted segments in truth and prediction together."""
        return 2 * self.true_positives + self.false_positives + self.false_negatives

    def _regions(self, ids: np.ndarray, segments: Sequence[Segment]) -> tuple[np.ndarray, list[_Region]]:
        """Return the region of each pixel (0 for none, else 1 + index in the list), and the regions."""
        regions: dict[_Region, int] = {}
        numbers = {}
        for s in segments:
            if s.id and 0 <= s.train_id < self.num_classes:
                region = _Region(s.train_id, s.id if s.train_id in self.things else None, s.crowd)
                numbers[s.id] = regions.setdefault(region, len(regions) + 1)
        return relabel(ids, numbers), list(regions)
