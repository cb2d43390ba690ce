"""Instance-level IoU: IoU with equal weights for small and large objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from m2f_ros.frame.segment import Segment
from m2f_ros.metrics.accumulator import PARTS, Accumulator, in_parts, mean
from m2f_ros.metrics.confusion import Confusion
from m2f_ros.metrics.counting import check_pair, joint_histogram, relabel, things_of

# Mean pixels of an instance in Cityscapes: avgClassSize of
# cityscapesscripts/evaluation/evalPixelLevelSemanticLabeling.py, for the classes that are evaluated.
CITYSCAPES_SIZES = {
    "person": 3462.4756337644,
    "rider": 3930.4788056518,
    "car": 12794.0202738185,
    "truck": 27855.1264367816,
    "bus": 35732.1511111111,
    "train": 67583.7075812274,
    "motorcycle": 6298.7200839748,
    "bicycle": 4672.3249222261,
}


class InstanceIou(Accumulator):
    """Cityscapes' iIoU of things, added up over images.

    Cordts et al., "The Cityscapes dataset for semantic urban scene understanding" (CVPR 2016), section 4: IoU of
    labels in which the pixels of each true instance weigh as the mean size of its class's instances to its own size.
    The instances are those of the truth; the prediction is a label image.

    instances, pixels: (K,) int64, number and total size of the true instances. found: (K,) integers of any size, in
    PARTS: sum over instances of the correctly labelled share.
    """

    SETTINGS = ("num_classes", "things")
    COUNTS = ("instances", "pixels", "found")

    def __init__(self, num_classes: int, things: Sequence[int]) -> None:
        """num_classes: K, at least 1. things: train ids of the countable classes."""
        self.things = things_of(num_classes, things)
        self.num_classes = num_classes
        self.instances = np.zeros(num_classes, np.int64)
        self.pixels = np.zeros(num_classes, np.int64)
        self.found = np.zeros(num_classes, object)

    def update(self, prediction: np.ndarray, truth_ids: np.ndarray, truth_segments: Sequence[Segment]) -> None:
        """Add an image: predicted train ids, true segment ids, integers of one shape, and the true segments.

        Crowds and segments of stuff are not instances. Raises FrameError if the shapes differ or an array does not
        hold integers.
        """
        truth_ids, prediction = check_pair(truth_ids, prediction)
        things = [s for s in truth_segments if s.id and s.train_id in self.things and not s.crowd]
        numbers = relabel(truth_ids, {s.id: i for i, s in enumerate(things, 1)})
        train_ids = np.array([0, *(s.train_id for s in things)], np.min_scalar_type(self.num_classes))
        right = (train_ids[numbers] == prediction).view(np.uint8)
        counts = joint_histogram(numbers, right, len(things) + 1, 2)[1:]
        for segment, (wrong, hit) in zip(things, counts.tolist(), strict=True):
            if size := wrong + hit:
                self.instances[segment.train_id] += 1
                self.pixels[segment.train_id] += size
                self.found[segment.train_id] += in_parts(hit, size)

    def iiou(self, confusion: Confusion, sizes: Mapping[int, float] | None = None) -> np.ndarray:
        """Return (K,) float64 iIoU, 0..1; nan for stuff, and for things in neither truth nor prediction.

        confusion: confusion of the same images, for the false positives, which belong to no instance. sizes: train id
        -> mean pixels of an instance, such as CITYSCAPES_SIZES; None for the mean of the counted instances.
        Raises KeyError for a thing without a size.
        """
        false_positives = confusion.prediction() - confusion.hit()
        out = np.full(self.num_classes, np.nan)
        for c in self.things:
            instances = int(self.instances[c])
            size = sizes[c] if sizes is not None else self.pixels[c] / max(instances, 1)
            union = size * instances + false_positives[c]
            if union:
                out[c] = size * (self.found[c] / PARTS) / union
        return out

    def mean_iiou(self, confusion: Confusion, sizes: Mapping[int, float] | None = None) -> float | None:
        """Return the mean of `iiou` over the things in truth or prediction; None if there are none."""
        return mean(self.iiou(confusion, sizes))
