"""What an evaluation measures, in one table: the names that people read, the unit, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass

from m2f_ros.evaluation.result import Result


@dataclass(frozen=True)
class Measure:
    """key: its name in the JSON and on the command line. unit: "ms", or "" for 0..1."""

    key: str
    label: str
    what: str
    higher_is_better: bool = True
    unit: str = ""


MEASURES = {
    measure.key: measure
    for measure in (
        Measure("miou", "mean IoU", "intersection over union, mean of the classes"),
        Measure("pixel_accuracy", "pixel accuracy", "pixels that are right"),
        Measure("mean_accuracy", "mean accuracy", "pixels of a class that were found, mean of the classes"),
        Measure("frequency_weighted_iou", "frequency-weighted IoU", "IoU, each class by its share of the pixels"),
        Measure("boundary_f", "boundary F-score", "outlines of classes that agree, mean of the classes"),
        Measure("iiou", "instance IoU (iIoU)", "IoU of things, small objects counting as much as large ones"),
        Measure("pq", "panoptic quality (PQ)", "segments found and how well they fit: SQ times RQ of each class"),
        Measure("sq", "segmentation quality (SQ)", "mean IoU of the segments that were found"),
        Measure("rq", "recognition quality (RQ)", "F1 of finding segments"),
        Measure("ece", "calibration error (ECE)", "distance of confidence from the truth; less is better", False),
        Measure("flips", "flips", "labels that change from frame to frame; less is better", False),
        Measure("missing", "frames missing", "share of the frames that never came; less is better", False),
        Measure("latency_p50", "latency, median", "half of the frames take no longer; less is better", False, "ms"),
        Measure("latency_p99", "latency, p99", "99 of 100 frames take no longer; less is better", False, "ms"),
    )
}
MEASURES_WITHOUT_TRUTH = {"flips", "missing", "latency_p50", "latency_p99"}
CLASS_MEASURES = {
    measure.key: measure
    for measure in (
        Measure("iou", "IoU", "intersection over union"),
        Measure("accuracy", "recall", "pixels of the class that were found"),
        Measure("precision", "precision", "pixels given to the class that are of it"),
        Measure("boundary_f", "boundary F", "outlines that agree"),
        Measure("iiou", "iIoU", "IoU, small objects counting as much as large ones"),
        Measure("pq", "PQ", "panoptic quality"),
        Measure("sq", "SQ", "mean IoU of segments found"),
        Measure("rq", "RQ", "F1 of finding segments"),
    )
}


def value(result: Result, key: str) -> float | None:
    """A result's value of a measure: a key of MEASURES. None where it was not measured."""
    if key == "missing":
        frames = result.frames
        return frames["missing"] / frames["truth"] if frames["truth"] else None
    if key.startswith("latency_"):
        return result.latency_ms[key.removeprefix("latency_")] if result.latency_ms else None
    return result.metrics[key]


def number(value: float | None, unit: str = "") -> str:
    """A value as people read it: three digits after the point, one for ms; a dash for None."""
    if value is None:
        return "–"
    return f"{value:.1f} {unit}" if unit else f"{value:.3f}"
