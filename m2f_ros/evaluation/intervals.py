"""How far the scores of a drive, and differences of two runs, would move on other frames of the same kind."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from m2f_ros.evaluation.result import Block, Result
from m2f_ros.metrics import bootstrap
from m2f_ros.metrics.bootstrap import Blocks, Interval, Metric

# What the blocks of a result are enough for; the key in a result -> the bootstrap's metric.
METRICS: dict[str, Metric] = {"miou": "miou", "pixel_accuracy": "pixel_accuracy"}


def miou_interval(result: Result) -> tuple[float, float] | None:
    """95 % interval of the mean IoU; None where there are too few frames to tell."""
    found = bootstrap.interval(pixel_counts(result), "miou")
    return None if np.isnan([found.low, found.high]).any() else (found.low, found.high)


def difference(a: Result, b: Result, metric: Metric) -> Interval:
    """The metric of b less that of a, with its 95 % interval; paired where the runs are over the same frames."""
    if same_frames(a, b):
        return bootstrap.paired_difference(pixel_counts(a), pixel_counts(b), metric)
    return bootstrap.difference(pixel_counts(a), pixel_counts(b), metric)


def same_frames(a: Result, b: Result) -> bool:
    """Whether the blocks of both are the same stretches of the same drives; one drive may be called differently.

    Files have no stamps: where no frame is missing, the truth has to be the same, too.
    """
    keys = ["first", "frames", "first_stamp_ns", "last_stamp_ns"]
    if len(a.drives) > 1:
        keys.append("drive")
    if [[block[k] for k in keys] for block in a.blocks] != [[block[k] for k in keys] for block in b.blocks]:
        return False
    whole = ((x, y) for x, y in zip(a.blocks, b.blocks, strict=True) if not x["missing"] and not y["missing"])
    return all(x["truth"] == y["truth"] for x, y in whole)


def pixel_counts(result: Result) -> Blocks:
    """Pixel counts of stretches of frames, each of a drive and long enough that its neighbours tell something new.

    n frames are cut into stretches of n ** (1 / 3) or more: the order of length that Hall, Horowitz and Jing, "On
    blocking rules for the bootstrap with dependent data" (1995), find best for a variance.
    """
    length = round(sum(block["frames"] for block in result.blocks) ** (1 / 3))
    stretches = list(_stretches(result.blocks, length))
    classes = len(result.classes)

    def counts(key: str) -> np.ndarray:
        rows = [np.sum([block[key] for block in stretch], axis=0, dtype=np.int64) for stretch in stretches]
        # Without frames: one empty stretch, of which every score is nan.
        return np.array(rows or [[0] * classes], np.int64)

    return Blocks(counts("hit"), counts("truth"), counts("prediction"))


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
