"""The drive's own labels in place of a model's: the best that outputs in space can be made of."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np

from m2f_ros.errors import SourceError
from m2f_ros.pipeline.segmentation import Segmentation
from m2f_ros.replay.settings import TRUTH
from m2f_ros.sources.sample import Sample, Source
from m2f_ros.space.ignore import fitted


class TrueLabels:
    """Takes the place of a pipeline.

    Attributes:
        taxonomy: of the labels.
        device, precision, backend: as those of a pipeline.
    """

    device = SimpleNamespace(type="cpu")
    precision = "exact"
    backend = TRUTH

    def __init__(self, drive: Source) -> None:
        """Raises SourceError for a drive without ground truth."""
        if drive.taxonomy is None:
            raise SourceError(
                f"{drive.name}: no ground truth beside the images, which --model {TRUTH} takes: a rosbag2 has it below "
                "ground_truth, with its legend"
            )
        self.taxonomy = drive.taxonomy

    def checked(self, sample: Sample) -> Sample:
        """Return a sample, as a damaged one where its image has no label."""
        if sample.frame is not None and sample.label is None:
            sample.frame, sample.problem = None, f"{sample.name}: the image has no ground truth"
        return sample

    def submit(self, samples: Sequence[Sample]) -> Finished:
        """Return the results of samples with labels."""
        return Finished([self._result(sample) for sample in samples])

    def _result(self, sample: Sample) -> Segmentation:
        assert sample.label is not None and sample.frame is not None, "it was checked"
        label, ignored = sample.label, sample.frame.ignored
        kept = np.ones(label.shape, bool)
        if ignored is not None:
            kept = ~fitted(ignored.mask, label.shape[::-1])
            label = np.where(kept, label, label.dtype.type(self.taxonomy.unlabelled))
        confidence = np.where(label == self.taxonomy.unlabelled, np.uint8(0), np.uint8(255))
        classes = len(self.taxonomy.names)
        known = label[kept & (label < classes)]
        shares = np.append(np.bincount(known, minlength=classes), np.count_nonzero(kept) - len(known))
        images = {"label": label, "confidence": confidence}
        return Segmentation(images, shares=(shares / max(shares.sum(), 1)).astype(np.float32))


class Finished:
    """Results that are there, in the form of a Ticket."""

    def __init__(self, results: list[Segmentation]) -> None:
        self._results = results

    def result(self) -> list[Segmentation]:
        return self._results

    def release(self) -> None:
        """Nothing is held."""
