"""Confidence intervals of the scores of a drive, and of differences of two results, over frames of the same kind."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from m2f_ros.evaluation.result import Block, Result
from m2f_ros.metrics import bootstrap
from m2f_ros.metrics.bootstrap import Blocks, Interval, Metric

# The metrics that the blocks of a result suffice for: key in a result -> the bootstrap's metric.
METRICS: dict[str, Metric] = {"miou": "miou", "pixel_accuracy": "pixel_accuracy"}


def miou_interval(result: Result) -> tuple[float, float] | None:
    """95 % interval of the mean IoU; None where there are too few frames to tell."""
    found = bootstrap.interval(pixel_counts(result), "miou")
    low, high = float(found.low), float(found.high)
    return None if np.isnan(low) or np.isnan(high) else (low, high)


def difference(a: Result, b: Result, metric: Metric) -> Interval:
    """The metric of b less that of a, with its 95 % interval; paired where the two are over the same frames."""
    counts = pixel_counts(a), pixel_counts(b)
    if same_frames(a, b) and len(counts[0].hit) == len(counts[1].hit):
        return bootstrap.paired_difference(*counts, metric)
    return bootstrap.difference(*counts, metric)


def same_frames(a: Result, b: Result) -> bool:
    """Return True if the blocks of both are the same stretches of the same drives; the name of a single drive may
    differ. Files have no stamps: where no frame is missing, the ground truth has to be the same, too.
    """

    def stretches(result: Result) -> list[tuple[str, int, int, int, int]]:
        several = len(a.drives) > 1
        return [
            (x["drive"] if several else "", x["first"], x["frames"], x["first_stamp_ns"], x["last_stamp_ns"])
            for x in result.blocks
        ]

    if stretches(a) != stretches(b):
        return False
    whole = ((x, y) for x, y in zip(a.blocks, b.blocks, strict=True) if not x["missing"] and not y["missing"])
    return all(x["truth"] == y["truth"] for x, y in whole)


def pixel_counts(result: Result) -> Blocks:
    """Pixel counts of stretches of frames, each of a drive and long enough that its neighbours tell something new.

    n frames are cut into stretches of n ** (1 / 3) or more: the order of length that Hall, Horowitz and Jing, "On
    blocking rules for the bootstrap with dependent data" (1995), find best for a variance.
    """
    length = round(sum(block["frames"] for block in result.blocks) ** (1 / 3))
    # Without frames, or without the counts of one: empty stretches, of which every score is nan.
    nothing = np.zeros((3, len(result.classes)), np.int64)
    whole = all(block["hit"] and block["truth"] and block["prediction"] for block in result.blocks)
    counts = [
        np.sum([(block["hit"], block["truth"], block["prediction"]) for block in stretch], axis=0, dtype=np.int64)
        if whole
        else nothing
        for stretch in _stretches(result.blocks, length)
    ]
    return Blocks(*np.array(counts or [nothing]).swapaxes(0, 1))


def _stretches(blocks: list[Block], length: int) -> Iterator[list[Block]]:
    """Consecutive blocks of one drive, together of `length` frames or more; less at the end of a drive."""
    stretch: list[Block] = []
    for block in blocks:
        if stretch and (stretch[0]["drive"] != block["drive"] or sum(b["frames"] for b in stretch) >= length):
            yield stretch
            stretch = []
        stretch.append(block)
    if stretch:
        yield stretch
