"""The table of metrics, and the counts that they are found from.

To add a metric, add a row to METRICS with a function of Counts. Scores, result, report, comparison and the table in
docs/evaluation.md (`python -m m2f_ros.evaluation.measures`) follow the table. A metric that needs counts which are not
kept yet also needs an Accumulator in m2f_ros.metrics, and a row in COUNTED.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from m2f_ros.evaluation.latency import Latency
from m2f_ros.evaluation.pairs import Pair
from m2f_ros.files import write_whole
from m2f_ros.metrics import (
    CITYSCAPES_SIZES,
    BoundaryScore,
    Calibration,
    CellScore,
    Confusion,
    Flips,
    InstanceIou,
    PanopticQuality,
    PointScore,
)
from m2f_ros.metrics.accumulator import mean
from m2f_ros.metrics.ranges import FREE, OCCUPIED
from m2f_ros.taxonomy import Taxonomy

A = TypeVar("A")


@dataclass(frozen=True)
class Counted:
    """How the counts of an accumulator are made.

    Attributes:
        make: an empty accumulator for the classes of a taxonomy.
        takes: the fields of a Pair that its `update` takes, and "unlabelled"; a frame without one of them is not in the
            counts. Empty: its counts are added elsewhere.
        key: under which `Result.measured` counts the frames; "": not at all.
        needs: words for what a frame must have.
        of: key in `Result.measured` of the number that `key` should reach; "": that of the frames scored.
        without_truth: frames without ground truth count, too.
    """

    make: Callable[[Taxonomy], Any]
    takes: tuple[str, ...] = ()
    key: str = ""
    needs: str = ""
    of: str = ""
    without_truth: bool = False


class Counts:
    """The accumulators of the frames scored, by class: `counts[PanopticQuality].pq()`.

    Attributes:
        taxonomy: of the labels.
        measured: number of frames, see Result.measured.
    """

    def __init__(self, taxonomy: Taxonomy, without: Iterable[type] = ()) -> None:
        """without: accumulators that are left out."""
        self.taxonomy = taxonomy
        self.measured: Counter[str] = Counter()
        self._found: dict[type, Any] = {
            kind: row.make(taxonomy) for kind, row in COUNTED.items() if kind not in set(without)
        }

    def __contains__(self, kind: object) -> bool:
        return kind in self._found

    def __getitem__(self, kind: type[A]) -> A:
        found: A = self._found[kind]
        return found

    def __iadd__(self, other: Counts) -> Counts:
        for kind in self._found:
            self._found[kind] += other._found[kind]
        self.measured.update(other.measured)
        return self

    def add(self, pair: Pair) -> Confusion | None:
        """Add a frame; returns the confusion of the frame alone, None without ground truth or prediction.

        Raises FrameError where ground truth and prediction differ in size.
        """
        frame = None
        if pair.truth is not None and pair.prediction is not None:
            frame = Confusion(len(self.taxonomy.classes))
            frame.update(pair.truth, pair.prediction, self.taxonomy.unlabelled)
            self._found[Confusion] += frame
            self.measured["miou"] += bool(frame.matrix.any())
        given = {**vars(pair), "unlabelled": self.taxonomy.unlabelled}
        for kind, row in COUNTED.items():
            values = [given[name] for name in row.takes]
            fits = all(value is not None for value in values) and (frame is not None or row.without_truth)
            if values and fits and kind in self._found:
                self._found[kind].update(*values)
                if row.key and pair.prediction is not None:
                    self.measured[row.key] += 1
        return frame


def _things(taxonomy: Taxonomy) -> list[int]:
    return [c.id for c in taxonomy.classes if c.thing]


COUNTED: dict[type, Counted] = {
    Confusion: Counted(lambda t: Confusion(len(t.classes))),
    BoundaryScore: Counted(lambda t: BoundaryScore(len(t.classes)), ("truth", "prediction", "unlabelled")),
    Calibration: Counted(
        lambda t: Calibration(len(t.classes)), ("truth", "prediction", "confidence", "unlabelled"), "ece", "confidence"
    ),
    InstanceIou: Counted(
        lambda t: InstanceIou(len(t.classes), _things(t)), ("prediction", "truth_ids", "truth_segments"),
        "iiou", "instances of the ground truth",
    ),
    PanopticQuality: Counted(
        lambda t: PanopticQuality(len(t.classes), _things(t)), ("truth_ids", "truth_segments", "ids", "segments"),
        "pq", "segments on both sides",
    ),
    Latency: Counted(lambda t: Latency(), ("latency_ms",), "latency_p50", "stats", without_truth=True),
    Flips: Counted(lambda t: Flips()),  # of each drive, and each frame with the one before it
    # Counted over the topics of all cameras; see space_drive.
    CellScore: Counted(lambda t: CellScore(), key="grids", needs="grid", of="true_grids"),
    PointScore: Counted(lambda t: PointScore(len(t.classes)), key="clouds", needs="labelled cloud", of="true_clouds"),
}  # fmt: skip


class Found(Protocol):
    """The fields of a Result that metrics are read from."""

    metrics: dict[str, Any]
    frames: Any
    latency_ms: Any


@dataclass(frozen=True)
class Metric:
    """A row of the table.

    Attributes:
        key: name in the JSON and on the command line.
        label: name for people.
        what: a phrase on what it is; ends in "less is better" where less is.
        of: the accumulator that it is found from: without that, or without its frames, nothing was measured.
        find: of all frames together; None: the mean of `each` over the classes that have a value.
        each: (K,) of each class, nan where there is nothing to measure; None: there is no value of a class.
        class_key: name in the JSON for the value of a class; "": `key`.
        class_label: name for people, of the value of a class.
        overall: whether there is a value of all frames together.
        by_range: (R,) of each range of distances, nan where there is nothing to measure; None: there is no such value.
        read: takes the value from other fields of a result than `metrics`.
        higher_is_better: False where less is better.
        unit: such as "ms"; "" for 0..1.
        tile: whether it is one of the numbers at the head of the report.
        needs_truth: False for what says the same on a ground truth of one class.
        seldom: whether few drives have what it needs, so that its absence is not worth a word.
    """

    key: str
    label: str
    what: str
    of: type | None = None
    find: Callable[[Counts], float | None] | None = None
    each: Callable[[Counts], np.ndarray] | None = None
    class_key: str = ""
    class_label: str = ""
    overall: bool = True
    by_range: Callable[[Counts], np.ndarray] | None = None
    read: Callable[[Found], float | None] | None = None
    higher_is_better: bool = True
    unit: str = ""
    tile: bool = False
    needs_truth: bool = True
    seldom: bool = False

    def total(self, counts: Counts) -> float | None:
        """The value of all frames together; None where it was not measured."""
        if self.of not in counts:
            return None
        return self.find(counts) if self.find else mean(self.of_classes(counts))

    def of_classes(self, counts: Counts) -> np.ndarray:
        """(K,) float64 values of the classes, nan where there is none."""
        if self.each is None or self.of not in counts:
            return np.full(len(counts.taxonomy.classes), np.nan)
        return self.each(counts)

    def ranges(self, counts: Counts) -> list[tuple[float, float, float]]:
        """(nearest metre, farthest, value) of the ranges; the last may be infinite, and a value nan."""
        if self.by_range is None or self.of is None or self.of not in counts:
            return []
        edges: tuple[float, ...] = counts[self.of].edges
        return list(zip(edges[:-1], edges[1:], self.by_range(counts).tolist(), strict=True))


def _share_missing(result: Found) -> float | None:
    frames = result.frames
    return frames["missing"] / frames["truth"] if frames["truth"] else None


def _iiou(counts: Counts) -> np.ndarray:
    """(K,), nan where no instances were there. Cityscapes has sizes of its own, which make scores comparable."""
    taxonomy, instances = counts.taxonomy, counts[InstanceIou]
    if not instances.instances.any():
        return np.full(len(taxonomy.classes), np.nan)
    sizes = {c.id: CITYSCAPES_SIZES[c.name] for c in taxonomy.classes if c.name in CITYSCAPES_SIZES}
    official = taxonomy.name == "cityscapes" and len(sizes) == len(CITYSCAPES_SIZES)
    return instances.iiou(counts[Confusion], sizes if official else None)


METRICS = {
    metric.key: metric
    for metric in (
        Metric(
            "miou", "mean IoU", "intersection over union, mean of the classes", Confusion,
            each=lambda c: c[Confusion].iou(), class_key="iou", class_label="IoU", tile=True,
        ),
        Metric(
            "pixel_accuracy", "pixel accuracy", "pixels that are right", Confusion,
            lambda c: c[Confusion].pixel_accuracy(), tile=True,
        ),
        Metric(
            "mean_accuracy", "mean accuracy", "pixels of a class that were found, mean of the classes", Confusion,
            lambda c: c[Confusion].mean_accuracy(),
            lambda c: c[Confusion].accuracy(), "accuracy", "recall",
        ),
        Metric(
            "frequency_weighted_iou", "frequency-weighted IoU", "IoU, each class by its share of the pixels", Confusion,
            lambda c: c[Confusion].frequency_weighted_iou(), tile=True,
        ),
        Metric(
            "precision", "precision", "pixels given to a class that are of it", Confusion,
            each=lambda c: c[Confusion].precision(), class_label="precision", overall=False,
        ),
        Metric(
            "boundary_f", "boundary F-score", "outlines of classes that agree, mean of the classes", BoundaryScore,
            each=lambda c: c[BoundaryScore].f_score(), class_label="boundary F", tile=True,
        ),
        Metric(
            "iiou", "instance IoU (iIoU)", "IoU of things, small objects counting as much as large ones", InstanceIou,
            each=_iiou, class_label="iIoU", tile=True,
        ),
        Metric(
            "pq", "panoptic quality (PQ)", "segments found and how well they fit: SQ times RQ of each class",
            PanopticQuality, each=lambda c: c[PanopticQuality].pq(), class_label="PQ", tile=True,
        ),
        Metric(
            "sq", "segmentation quality (SQ)", "mean IoU of the segments that were found", PanopticQuality,
            each=lambda c: c[PanopticQuality].sq(), class_label="SQ",
        ),
        Metric(
            "rq", "recognition quality (RQ)", "F1 of finding segments", PanopticQuality,
            each=lambda c: c[PanopticQuality].rq(), class_label="RQ",
        ),
        Metric(
            "ece", "calibration error (ECE)", "distance of confidence from the truth; less is better", Calibration,
            lambda c: c[Calibration].ece(), higher_is_better=False, tile=True,
        ),
        Metric(
            "flips", "flips", "labels that change from frame to frame; less is better", Flips,
            lambda c: c[Flips].rate(), higher_is_better=False, tile=True, needs_truth=False,
        ),
        Metric(
            "occupied_precision", "occupied cells, precision", "cells in view given as occupied that are",
            CellScore, lambda c: c[CellScore].precision(OCCUPIED),
            by_range=lambda c: c[CellScore].precisions(OCCUPIED), tile=True, needs_truth=False, seldom=True,
        ),
        Metric(
            "occupied_recall", "occupied cells, recall", "occupied cells in view that the grid has",
            CellScore, lambda c: c[CellScore].recall(OCCUPIED),
            by_range=lambda c: c[CellScore].recalls(OCCUPIED), tile=True, needs_truth=False, seldom=True,
        ),
        Metric(
            "free_precision", "free cells, precision", "cells in view given as free that are",
            CellScore, lambda c: c[CellScore].precision(FREE),
            by_range=lambda c: c[CellScore].precisions(FREE), needs_truth=False, seldom=True,
        ),
        Metric(
            "free_recall", "free cells, recall", "free cells in view that the grid has",
            CellScore, lambda c: c[CellScore].recall(FREE),
            by_range=lambda c: c[CellScore].recalls(FREE), needs_truth=False, seldom=True,
        ),
        Metric(
            "unseen_occupied_precision", "occupied cells out of view, precision",
            "cells out of view given as occupied that are; what drove away counts against it",
            CellScore, lambda c: c[CellScore].precision(OCCUPIED, False),
            by_range=lambda c: c[CellScore].precisions(OCCUPIED, False), needs_truth=False, seldom=True,
        ),
        Metric(
            "unseen_free_precision", "free cells out of view, precision",
            "cells out of view given as free that are; what drove there counts against it",
            CellScore, lambda c: c[CellScore].precision(FREE, False),
            by_range=lambda c: c[CellScore].precisions(FREE, False), needs_truth=False, seldom=True,
        ),
        Metric(
            "lidar_miou", "lidar, mean IoU", "intersection over union of the labelled points, mean of the classes",
            PointScore, each=lambda c: c[PointScore].iou(), class_key="lidar_iou", class_label="IoU of lidar points",
            by_range=lambda c: c[PointScore].mious(), tile=True, seldom=True,
        ),
        Metric(
            "lidar_labelled", "lidar, labelled", "points of a class that got a label: those that a camera sees",
            PointScore, lambda c: c[PointScore].labelled(),
            by_range=lambda c: c[PointScore].labelled_shares(), needs_truth=False, seldom=True,
        ),
        Metric(
            "missing", "frames missing", "share of the frames that never came; less is better",
            read=_share_missing, higher_is_better=False, needs_truth=False,
        ),
        Metric(
            "latency_p50", "latency, median", "half of the frames take no longer; less is better", Latency,
            read=lambda r: r.latency_ms and r.latency_ms["p50"],
            higher_is_better=False, unit="ms", tile=True, needs_truth=False,
        ),
        Metric(
            "latency_p99", "latency, p99", "99 of 100 frames take no longer; less is better", Latency,
            read=lambda r: r.latency_ms and r.latency_ms["p99"],
            higher_is_better=False, unit="ms", tile=True, needs_truth=False,
        ),
    )
}  # fmt: skip


def overall() -> dict[str, Metric]:
    """The metrics of all frames together, by key."""
    return {key: metric for key, metric in METRICS.items() if metric.overall}


def stored() -> dict[str, Metric]:
    """Those of them that are in `Result.metrics`."""
    return {key: metric for key, metric in overall().items() if metric.read is None}


def of_classes() -> dict[str, Metric]:
    """The metrics of each class, by the key of a class's value."""
    return {metric.class_key or key: metric for key, metric in METRICS.items() if metric.each}


def find(key: str) -> Metric | None:
    """The metric that a key on the command line names, "miou", "iou:person" or "lidar_miou@0-10"; None for an unknown
    one."""
    key, of_class, _ = key.partition(":")
    key, of_range, _ = key.partition("@")
    metric = (of_classes() if of_class else overall()).get(key)
    return metric if metric is None or not of_range or metric.by_range else None


def range_name(near: float, far: float | None) -> str:
    """A range of distances as the command line has it, "5-10", or "50-" for one without an end (None)."""
    return f"{near:g}-" + ("" if far is None else f"{far:g}")


def value(result: Found, key: str) -> float | None:
    """The value of a metric of all frames. None where it was not measured."""
    read = METRICS[key].read
    return read(result) if read else result.metrics.get(key)


def class_value(row: Mapping[str, Any], key: str) -> float | None:
    """The value of a metric of a class, by a key of `of_classes`. None where it was not measured."""
    found: float | None = row.get(key)
    return found


def number(value: float | None, unit: str = "") -> str:
    """A value as people read it: three digits after the point, one for ms; a dash for None."""
    if value is None:
        return "–"
    return f"{value:.1f} {unit}" if unit else f"{value:.3f}"


def table() -> str:
    """The table as Markdown, for docs/evaluation.md."""
    lines = ["| name | `--metric` | of a class | of a range | better | what |", "|---|---|---|---|---|---|"]
    for key, metric in METRICS.items():
        of_all = f"`{key}`" if metric.overall else ""
        of_class = f"`{metric.class_key or key}:CLASS`" if metric.each else ""
        of_range = f"`{key}@NEAR-FAR`" if metric.by_range else ""
        better = "up" if metric.higher_is_better else "down"
        lines.append(f"| {metric.label} | {of_all} | {of_class} | {of_range} | {better} | {metric.what} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    page = Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"
    parts = re.split("(<!-- .*metrics -->\n)", page.read_text(encoding="utf-8"))
    write_whole(page, "".join([*parts[:2], table(), *parts[3:]]))
