"""Scores of a stream of pairs: sums that merge exactly for any number of workers, in bounded memory."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from m2f_ros.evaluation.blocks import MOST, Blocks
from m2f_ros.evaluation.latency import Latency
from m2f_ros.evaluation.pairs import Pair
from m2f_ros.evaluation.report.worst import Worst
from m2f_ros.evaluation.result import Result
from m2f_ros.metrics import (
    CITYSCAPES_SIZES,
    BoundaryScore,
    Calibration,
    Confusion,
    Flips,
    InstanceIou,
    PanopticQuality,
)
from m2f_ros.metrics.accumulator import mean
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
    """Adds up pairs. `a += b` adds the scores of other drives."""

    def __init__(
        self, taxonomy: Taxonomy, blocks: int = MOST, boundary: bool = True, flips: bool = True, worst: int = 12
    ) -> None:
        """taxonomy: of the labels in the pairs. blocks: of a drive, at most (see blocks.per_drive).

        boundary, flips: whether to measure these, which take longest. worst: how many frames to keep.
        """
        k, things = len(taxonomy.classes), [c.id for c in taxonomy.classes if c.thing]
        self.taxonomy = taxonomy
        self._most_blocks, self._with_flips = blocks, flips
        self._confusion = Confusion(k)
        self._boundary = BoundaryScore(k) if boundary else None
        self._instances = InstanceIou(k, things)
        self._panoptic = PanopticQuality(k, things)
        self._calibration = Calibration(k)
        self._latency = Latency()
        self._drives: dict[str, _Drive] = {}
        self._without_truth = 0
        self._measured: Counter[str] = Counter()  # see Result.measured
        self._worst = Worst(taxonomy, worst)

    @property
    def worst(self) -> list:
        """The frames of lowest mean IoU, lowest first, with pictures: WorstFrame."""
        return self._worst.frames()

    def add_drive(self, name: str) -> None:
        """Make a drive known, of which no pair may come."""
        self._drives.setdefault(name, _Drive(self._confusion.num_classes, self._most_blocks))

    def update(self, pair: Pair) -> None:
        """Add a frame. The frames of a drive come in their order; drives may alternate.

        A pair without prediction counts as missing. Raises FrameError where truth and prediction differ in size.
        """
        self.add_drive(pair.drive)
        drive = self._drives[pair.drive]
        flipped, compared = self._update_flips(drive, pair) if self._with_flips else (0, 0)
        if pair.latency_ms is not None:
            self._latency.add(pair.latency_ms)
            self._measured["latency_p50"] += pair.prediction is not None
        if pair.drops is not None:
            drive.drops = pair.drops
        if pair.truth is None:
            self._without_truth += 1
            return
        frame = None if pair.prediction is None else self._score(pair)
        drive.blocks.add(pair.stamp_ns, frame, pair.latency_ms, flipped, compared)
        if frame is not None:
            self._confusion += frame
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
        self._confusion += other._confusion
        if self._boundary is not None:
            self._boundary += other._boundary
        self._instances += other._instances
        self._panoptic += other._panoptic
        self._calibration += other._calibration
        self._latency += other._latency
        self._measured.update(other._measured)
        self._without_truth += other._without_truth
        self._worst += other._worst
        return self

    def _score(self, pair: Pair) -> Confusion:
        """The frame's own confusion; the other scores are added up at once."""
        unlabelled = self.taxonomy.unlabelled
        frame = Confusion(self._confusion.num_classes)
        frame.update(pair.truth, pair.prediction, unlabelled)
        self._measured["miou"] += bool(frame.matrix.any())
        if self._boundary is not None:
            self._boundary.update(pair.truth, pair.prediction, unlabelled)
        if pair.confidence is not None:
            self._measured["ece"] += 1
            self._calibration.update(pair.truth, pair.prediction, pair.confidence, unlabelled)
        if pair.truth_ids is not None:
            self._measured["iiou"] += 1
            self._instances.update(pair.prediction, pair.truth_ids, pair.truth_segments)
            if pair.ids is not None:
                self._measured["pq"] += 1
                self._panoptic.update(pair.truth_ids, pair.truth_segments, pair.ids, pair.segments)
        return frame

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
        drives = [
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
        bins = self._calibration.reliability()
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
            metrics=self._metrics(),
            classes=self._classes(),
            confusion=self._confusion.matrix.tolist(),
            calibration=[b._asdict() for b in bins] if bins else None,
            latency_ms=self._latency.summary(),
            drops={reason: drops[reason] for reason in sorted(drops)},
            blocks=[row for name in names for row in self._drives[name].blocks.rows(name)],
            worst=[{"drive": f.drive, "name": f.name, "stamp_ns": f.stamp_ns, "miou": f.miou} for f in self.worst],
            measured={key: self._measured[key] for key in sorted(self._measured)},
        )

    def _metrics(self) -> dict[str, float | None]:
        flips = Flips()
        for drive in self._drives.values():
            flips += drive.flips
        return {
            "miou": self._confusion.miou(),
            "pixel_accuracy": self._confusion.pixel_accuracy(),
            "mean_accuracy": self._confusion.mean_accuracy(),
            "frequency_weighted_iou": self._confusion.frequency_weighted_iou(),
            "boundary_f": self._boundary.mean_f_score() if self._boundary is not None else None,
            "iiou": mean(self._iiou()),
            "pq": self._panoptic.mean_pq(),
            "sq": self._panoptic.mean_sq(),
            "rq": self._panoptic.mean_rq(),
            "ece": self._calibration.ece(),
            "flips": flips.rate(),
        }

    def _classes(self) -> list[dict[str, Any]]:
        truth = self._confusion.truth()
        k = len(truth)
        arrays = {
            "iou": self._confusion.iou(),
            "accuracy": self._confusion.accuracy(),
            "precision": self._confusion.precision(),
            "share": truth / truth.sum() if truth.any() else np.full(k, np.nan),
            "boundary_f": self._boundary.f_score() if self._boundary is not None else np.full(k, np.nan),
            "iiou": self._iiou(),
            "pq": self._panoptic.pq(),
            "sq": self._panoptic.sq(),
            "rq": self._panoptic.rq(),
        }
        return [
            {"id": c.id, "name": c.name} | {key: _number(values[c.id]) for key, values in arrays.items()}
            for c in self.taxonomy.classes
        ]

    def _iiou(self) -> np.ndarray:
        """(K,), nan where no instances were there. Cityscapes has sizes of its own, which make scores comparable."""
        if not self._instances.instances.any():
            return np.full(self._confusion.num_classes, np.nan)
        sizes = {c.id: CITYSCAPES_SIZES[c.name] for c in self.taxonomy.classes if c.name in CITYSCAPES_SIZES}
        official = self.taxonomy.name == "cityscapes" and len(sizes) == len(CITYSCAPES_SIZES)
        return self._instances.iiou(self._confusion, sizes if official else None)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
