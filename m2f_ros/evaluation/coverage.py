"""Frames that a result, or one of its measures, lacks, and how many of them may be missing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from m2f_ros.errors import EvaluationError
from m2f_ros.evaluation.measures import COUNTED, METRICS, find
from m2f_ros.evaluation.result import Result
from m2f_ros.metrics.confusion import listed

TRUTH_ABSENT = "truth_absent"  # the setting that says how many label files of the truth's JSON are not there


def allowed(text: str, frames: int) -> int:
    """Return how many frames may be missing by "20" or "5%" (rounded down). EvaluationError for other texts."""
    found = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)\s*%", text.strip())
    if not found:
        raise EvaluationError(f"--allow-missing {text}: expected a number of frames, as 20, or a share, as 5%")
    return int(found[1]) if found[1] else int(frames * Fraction(found[2]) / 100)


def shortfalls(result: Result, allow: str = "0", metrics: Sequence[str] | None = None) -> list[str]:
    """Return lines on frames without prediction, and on measures over fewer frames, where more lack than is allowed.

    allow: see `allowed`.
    metrics: names on the command line of the metrics that matter; None: all. Frames without prediction always matter.
    """
    frames = result.frames
    if not any(frames.values()):
        return ["it has no numbers of frames"]
    bound = allowed(allow, frames["truth"])
    lines = []
    if frames["missing"] > bound:
        of = listed([f"{d['missing']} of {d['frames']} in {d['name']}" for d in result.drives if d["missing"]], 4)
        more = f" ({of})" if len(result.drives) > 1 else ""
        lines.append(f"no prediction came for {frames['missing']} of {frames['truth']} frames with ground truth{more}")
    absent = result.settings.get(TRUTH_ABSENT, 0)
    if absent > bound:
        lines.append(f"{absent} files that the JSON of the ground truth names are not there")
    return lines + partial_measures(result, bound, metrics)


def partial_measures(result: Result, bound: int = 0, metrics: Sequence[str] | None = None) -> list[str]:
    """Return lines on metrics that lack more than `bound` of the frames with a prediction, one for each accumulator.

    metrics: as for `shortfalls`.
    """
    found = None if metrics is None else [metric for key in metrics if (metric := find(key))]
    lines = []
    for kind, row in COUNTED.items():
        there = result.measured.get(row.key, 0)
        total = result.frames["scored"] + (result.frames["without_truth"] if row.without_truth else 0)
        total = result.measured.get(row.of, 0) if row.of else total
        asked = found is None or any(metric.of is kind for metric in found)
        if row.key and asked and there and total - there > bound:
            label = next(metric.label for metric in METRICS.values() if metric.of is kind)
            what = f"{row.key} of the ground truth" if row.of else "frames"
            lines.append(f"{label} is over {there} of {total} {what}: the others have no {row.needs}")
    return lines
