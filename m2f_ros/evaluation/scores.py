"""Scores of a stream of pairs: sums that merge exactly for any number of workers, in bounded memory."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

from m2f_ros.evaluation import measures
from m2f_ros.evaluation.blocks import MOST, Blocks
from m2f_ros.evaluation.latency import Latency
from m2f_ros.evaluation.measures import Counts
from m2f_ros.evaluation.pairs import Pair
from m2f_ros.evaluation.report.worst import Worst
from m2f_ros.evaluation.result import ClassScores, DriveRow, Result
from m2f_ros.metrics import BoundaryScore, Calibration, Confusion, Flips
from m2f_ros.taxonomy import Taxonomy

# Frames further apart are not compared: what moved by half a picture has no flow.
FLIPS_WITHIN_NS = 500_000_000


class _Drive:
    """Sums of one recording. last_stamp: of the frame before; None: there is none to compare with."""

    def __init__(self, num_classes: int, most_blocks: int) -> None:
        self.blocks = Blocks(num_classes, most_blocks)
        self.drops: dict[str, int] = {}
        self.flips = Flips()
        self.last_stamp: int | None = None


class Scores:
    """Adds up pairs. `a += b` adds the scores of other drives.

    Attributes:
        taxonomy: of the labels in the pairs.
        counts: of all pairs so far.
    """

    def __init__(
        self, taxonomy: Taxonomy, blocks: int = MOST, boundary: bool = True, flips: bool = True, worst: int = 12
    ) -> None:
        """taxonomy: of the labels in the pairs. blocks: of a drive, at most (see blocks.per_drive).

        boundary, flips: whether to measure these, which take longest. worst: how many frames to keep.
        """
        self.taxonomy = taxonomy
        self._most_blocks, self._with_flips = blocks, flips
        self.counts = Counts(taxonomy, () if boundary else (BoundaryScore,))
        self._drives: dict[str, _Drive] = {}
        self._without_truth = 0
        self._worst = Worst(taxonomy, worst)

    @property
    def worst(self) -> list:
        """The frames of lowest mean IoU, lowest first, with pictures: WorstFrame."""
        return self._worst.frames()

    def add_drive(self, name: str) -> None:
        """Add a drive, which is in the result even if no pair of it comes."""
        self._drives.setdefault(name, _Drive(len(self.taxonomy.classes), self._most_blocks))

    def update(self, pair: Pair) -> None:
        """Add a frame. The frames of a drive come in their order; drives may alternate.

        A pair without prediction counts as missing. Raises FrameError where truth and prediction differ in size.
        """
        self.add_drive(pair.drive)
        drive = self._drives[pair.drive]
        flipped, compared = self._update_flips(drive, pair) if self._with_flips else (0, 0)
        if pair.drops is not None:
            drive.drops = pair.drops
        frame = self.counts.add(pair)
        if pair.truth is None:
            self._without_truth += 1
            return
        drive.blocks.add(pair.stamp_ns, frame, pair.latency_ms, flipped, compared)
        if frame is not None:
            self._worst.offer(pair, frame.miou())

    def add_without_truth(self, count: int) -> None:
        """Count predictions without ground truth that `update` does not get."""
        self._without_truth += count

    def forget_flips(self) -> None:
        """Leave out the flips of all pairs so far: flips of a part of the frames would mislead."""
        for drive in self._drives.values():
            drive.flips = Flips()
            drive.blocks.forget_flips()

    def end_drive(self, name: str) -> None:
        """Forget the last picture of a drive that is over."""
        if name in self._drives:
            self._drives[name].flips.restart()
            self._drives[name].last_stamp = None

    def __iadd__(self, other: Scores) -> Scores:
        if both := self._drives.keys() & other._drives.keys():
            raise ValueError(f"scores of one drive cannot be merged: {', '.join(sorted(both))}")
        self._drives |= other._drives
        self.counts += other.counts
        self._without_truth += other._without_truth
        self._worst += other._worst
        return self

    def _update_flips(self, drive: _Drive, pair: Pair) -> tuple[int, int]:
        """Compare a frame with the one before; returns (pixels that flipped, pixels compared)."""
        if pair.prediction is None or pair.image is None:
            drive.flips.restart()
            drive.last_stamp = None
            return 0, 0
        if drive.last_stamp is not None and pair.stamp_ns - drive.last_stamp > FLIPS_WITHIN_NS:
            drive.flips.restart()
        drive.last_stamp = pair.stamp_ns
        before = drive.flips.flipped, drive.flips.compared
        drive.flips.update(pair.image, pair.prediction)
        return drive.flips.flipped - before[0], drive.flips.compared - before[1]

    def result(
        self, *, predictions: str, truth: str, model: str = "", settings: dict[str, Any] | None = None
    ) -> Result:
        """Return the result of all pairs so far. predictions, truth, model, settings: see Result."""
        names = sorted(self._drives)
        drives: list[DriveRow] = [
            {
                "name": name,
                "frames": (blocks := self._drives[name].blocks).frames,
                "scored": blocks.frames - blocks.missing,
                "missing": blocks.missing,
                "miou": blocks.miou(),
            }
            for name in names
        ]
        drops: Counter[str] = Counter()
        for name in names:
            drops.update(self._drives[name].drops)
        counts, measured = self.counts, self.counts.measured
        flips = counts[Flips]
        flips.counts = sum((drive.flips.counts for drive in self._drives.values()), np.zeros_like(flips.counts))
        bins = counts[Calibration].reliability()
        return Result(
            predictions=predictions,
            truth=truth,
            model=model,
            settings=settings or {},
            taxonomy={
                "name": self.taxonomy.name,
                "unlabelled": self.taxonomy.unlabelled,
                "classes": [
                    {"id": c.id, "name": c.name, "color": list(c.colour), "thing": c.thing}
                    for c in self.taxonomy.classes
                ],
            },
            frames={
                "truth": sum(d["frames"] for d in drives),
                "scored": sum(d["scored"] for d in drives),
                "missing": sum(d["missing"] for d in drives),
                "without_truth": self._without_truth,
            },
            drives=drives,
            metrics={key: metric.total(counts) for key, metric in measures.stored().items()},
            ranges=[
                {"metric": key, "near": near, "far": far if math.isfinite(far) else None, "value": _number(score)}
                for key, metric in measures.stored().items()
                if metric.total(counts) is not None
                for near, far, score in metric.ranges(counts)
            ],
            classes=self._classes(),
            confusion=counts[Confusion].matrix.tolist(),
            calibration=[{"confidence": b.confidence, "accuracy": b.accuracy, "count": b.pixels} for b in bins] or None,
            latency_ms=counts[Latency].summary(),
            drops={reason: drops[reason] for reason in sorted(drops)},
            blocks=[row for name in names for row in self._drives[name].blocks.rows(name)],
            worst=[{"drive": f.drive, "name": f.name, "stamp_ns": f.stamp_ns, "miou": f.miou} for f in self.worst],
            measured={key: measured[key] for key in sorted(measured)},
        )

    def _classes(self) -> list[ClassScores]:
        truth = self.counts[Confusion].truth()
        shares = truth / truth.sum() if truth.any() else np.full(len(truth), np.nan)
        values = {key: metric.of_classes(self.counts) for key, metric in measures.of_classes().items()}
        return [
            {"id": c.id, "name": c.name, "share": _number(shares[c.id])}
            | {key: _number(of_class[c.id]) for key, of_class in values.items()}
            for c in self.taxonomy.classes
        ]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
