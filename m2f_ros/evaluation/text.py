"""The result as a short table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from m2f_ros.evaluation.measures import number, overall, value
from m2f_ros.evaluation.report import tables
from m2f_ros.evaluation.result import Result
from m2f_ros.tables import columns


def describe(result: Result) -> str:
    """Return all scores, the IoU of each class, scores by distance, frames, drops and notes, a line each."""
    frames = result.frames
    lines = []
    width = max((len(c["name"]) for c in result.classes), default=0)
    for c in result.classes:
        if c["iou"] is not None:
            lines.append(f"  {c['name']:<{width}}  {number(c['iou'])}")
    found = ((metric, value(result, key)) for key, metric in overall().items())
    rows = [(metric.label, number(score, metric.unit)) for metric, score in found if score is not None]
    width = max((len(label) for label, _ in rows), default=0)
    lines = [*(f"{label:<{width}}  {text:>9}" for label, text in rows), "", "IoU of each class", *lines, ""]
    for table in tables.ranges(result):
        of_range = [[cell.text for cell in row] for row in table.rows]
        lines += [columns([table.header, *of_range], (0,)), ""]
    counts = f"{frames['scored']} of {frames['truth']} frames with ground truth scored"
    if frames["missing"]:
        counts += f", {frames['missing']} missing"
    if frames["without_truth"]:
        counts += f"; {frames['without_truth']} predictions without ground truth"
    if any(result.drops.values()):
        counts += "; dropped: " + ", ".join(f"{n} {reason}" for reason, n in result.drops.items() if n)
    return "\n".join([*lines, counts, *result.notes])


def not_comparable(names: Sequence[str]) -> str:
    """Return a line on classes of the ground truth that no predicted class maps to."""
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"not comparable: no predicted class is mapped to {shown}, which can only score 0"
