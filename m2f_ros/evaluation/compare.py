"""The comparison of two results: each change, and a verdict on a metric that must not fall by more than a bound."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from m2f_ros.errors import EvaluationError
from m2f_ros.evaluation import intervals
from m2f_ros.evaluation.coverage import shortfalls
from m2f_ros.evaluation.measures import Metric, class_value, number, of_classes, overall, range_name, value
from m2f_ros.evaluation.measures import find as find_metric
from m2f_ros.evaluation.report.tables import PROBLEMS, problems
from m2f_ros.evaluation.result import Result
from m2f_ros.files import has_keys, replace_own
from m2f_ros.tables import columns

_WORDS = (0, 5)  # columns of names and verdicts; the others hold numbers


@dataclass(frozen=True)
class Change:
    """One metric in both results.

    Attributes:
        key: its name on the command line, `miou` or `iou:person`.
        a, b: its values; None: not measured.
        difference: b - a; None where one of the two is None.
        low, high: 95 % interval of the difference; None where there is none.
        verdict: better, worse, same, or unclear where 0 is in the interval; "" where one of the values is None.
    """

    key: str
    label: str
    a: float | None
    b: float | None
    difference: float | None
    low: float | None
    high: float | None
    verdict: str
    unit: str = ""

    @property
    def drop(self) -> float:
        """Amount by which the metric got worse, in its unit; below 0 where it got better."""
        metric = find_metric(self.key)
        worse = self.difference or 0.0
        return worse if metric and not metric.higher_is_better else -worse


@dataclass(frozen=True)
class Comparison:
    """The comparison of two results.

    Attributes:
        a, b: names of the two results.
        paired: True where both are over the same frames.
        notes: other differences, a sentence each.
        metrics: the metrics that one of the two has at least.
        classes: key of a metric in a result's classes -> its change for each class.
        ranges: key of a metric by distance -> its change in each range that both have.
        obstacles: reasons why it cannot guard a release, see `obstacles`.
    """

    a: str
    b: str
    paired: bool
    notes: list[str]
    metrics: list[Change]
    classes: dict[str, list[Change]]
    ranges: dict[str, list[Change]] = field(default_factory=dict)
    obstacles: list[str] = field(default_factory=list)

    def find(self, key: str) -> Change:
        """The change of `miou` or `iou:person`. EvaluationError for an unknown one, or one that was not measured."""
        known = {
            change.key: change
            for change in itertools.chain(self.metrics, *self.classes.values(), *self.ranges.values())
        }
        if key not in known and key not in overall() and not (find_metric(key) and "@" in key):
            raise EvaluationError(
                f"no metric {key!r}: there are {', '.join(overall())}, iou:CLASS, and such as occupied_recall@5-10"
            )
        change = known.get(key)
        for name, found in ((self.a, change and change.a), (self.b, change and change.b)):
            if change is None or found is None:
                raise EvaluationError(f"{key} was not measured in {name}: score it there too, or choose another metric")
        return known[key]

    def save(self, path: str | Path) -> None:
        """Write all of it as JSON. Raises EvaluationError where writing fails, OutputError where another file is."""
        try:
            is_own = has_keys("a", "b", "paired", "obstacles")
            replace_own(Path(path), json.dumps(asdict(self), indent=1) + "\n", is_own)
        except OSError as error:
            raise EvaluationError(f"{path} cannot be written: {error.strerror}") from None


def compare(a: Result, b: Result, name_a: str = "A", name_b: str = "B") -> Comparison:
    """Changes from a to b. Raises EvaluationError where the two are not of the same classes."""
    names = [[row["name"] for row in result.classes] for result in (a, b)]
    if names[0] != names[1]:
        raise EvaluationError(
            f"{name_a} has the {len(names[0])} classes of {a.taxonomy['name']} and {name_b} the {len(names[1])} of "
            f"{b.taxonomy['name']}, which are others: score both in the same classes"
        )
    metrics = []
    for key, metric in overall().items():
        both = value(a, key), value(b, key)
        if both != (None, None):
            interval = None
            if key in intervals.METRICS and None not in both:
                _, low, high = intervals.difference(a, b, intervals.METRICS[key])
                interval = float(low), float(high)
            metrics.append(_change(key, metric.label, *both, interval, metric.higher_is_better, metric.unit))
    _, low, high = intervals.difference(a, b, "iou")
    of_iou = np.column_stack([np.asarray(low), np.asarray(high)]).tolist()
    classes = {}
    for key, metric in of_classes().items():
        sides = [[class_value(row, key) for row in result.classes] for result in (a, b)]
        pairs = list(zip(*sides, strict=True))
        if any(pair != (None, None) for pair in pairs):
            bounds = of_iou if key == "iou" else [None] * len(pairs)
            classes[key] = [
                _change(f"{key}:{name}", name, one, other, bound, metric.higher_is_better, metric.unit)
                for name, (one, other), bound in zip(names[0], pairs, bounds, strict=True)
            ]
    ranges = {key: changes for key, metric in overall().items() if (changes := _ranges(a, b, key, metric))}
    return Comparison(name_a, name_b, intervals.same_frames(a, b), _notes(a, b), metrics, classes, ranges)


def _ranges(a: Result, b: Result, key: str, metric: Metric) -> list[Change]:
    sides = [
        {range_name(row["near"], row["far"]): row["value"] for row in result.ranges if row["metric"] == key}
        for result in (a, b)
    ]
    return [
        _change(f"{key}@{name}", f"{metric.label}, {name} m", one, sides[1][name], None, metric.higher_is_better)
        for name, one in sides[0].items()
        if name in sides[1]
    ]


def _change(
    key: str,
    label: str,
    a: float | None,
    b: float | None,
    interval: Sequence[float] | None,
    higher_is_better: bool = True,
    unit: str = "",
) -> Change:
    if a is None or b is None:
        return Change(key, label, a, b, None, None, None, "", unit)
    difference = b - a
    low, high = interval if interval and not math.isnan(interval[0]) else (None, None)
    if difference == 0:
        verdict = "same"
    elif low is not None and high is not None and low <= 0 <= high:
        verdict = "unclear"
    else:
        verdict = "better" if (difference > 0) == higher_is_better else "worse"
    return Change(key, label, a, b, difference, low, high, verdict, unit)


def _notes(a: Result, b: Result) -> list[str]:
    both = (("A", a), ("B", b))
    notes = [f"{name} is of a part: {problem}" for name, result in both for problem in problems(result)]
    notes += [f"A and B: {note}." for note in a.notes if note in b.notes]
    for (name, result), other in zip(both, (b, a), strict=True):
        notes += [f"{name}: {note}." for note in result.notes if note not in other.notes]
    if not intervals.same_frames(a, b):
        notes.append("The frames are not the same: the intervals hold the difference of the drives, too.")
    elif a.frames["scored"] != b.frames["scored"]:
        notes.append(
            f"Scored were {a.frames['scored']} frames in A and {b.frames['scored']} in B: what never came is in no "
            "score, so look at the missing frames, too."
        )
    one_sided = [
        f"{name} alone has {', '.join(only)}"
        for (name, result), other in zip(both, (b, a), strict=True)
        if (only := [label for label in _measured(result) if label not in _measured(other)])
    ]
    if one_sided:
        notes.append(f"{'; '.join(one_sided)}: not compared.")
    given = {**a.settings, **b.settings}.keys() - {PROBLEMS, "allow_missing"}
    differ = sorted(key for key in given if a.settings.get(key) != b.settings.get(key))
    if differ:
        notes.append(f"Settings of the evaluation that differ: {', '.join(differ)}.")
    return notes


def _measured(result: Result) -> list[str]:
    """Labels of the metrics that a result has; of one that is not known here, its key."""
    labels = [metric.label for key, metric in overall().items() if value(result, key) is not None]
    labels += [
        f"{metric.class_label} of classes"
        for key, metric in of_classes().items()
        if any(class_value(row, key) is not None for row in result.classes)
    ]
    return labels + [key for key, score in result.metrics.items() if key not in overall() and score is not None]


def obstacles(
    comparison: Comparison,
    a: Result,
    b: Result,
    metrics: Sequence[str],
    allow_missing: str = "0",
    other_frames: bool = False,
) -> list[str]:
    """The reasons why the comparison of a and b cannot guard a release, a line each.

    Args:
        metrics: to be guarded.
        allow_missing: see coverage.allowed.
        other_frames: lets the two be of different frames.
    Raises:
        EvaluationError: `allow_missing` is neither a number nor a share.
    """
    lines = []
    for name, result in ((comparison.a, a), (comparison.b, b)):
        # Frames without prediction are judged anew.
        cut = [problem for problem in problems(result) if problem not in shortfalls(result)]
        lines += [
            f"{name}: of a part of the frames, which cannot guard a release: {line}"
            for line in [*cut, *shortfalls(result, allow_missing, metrics)]
        ]
        needs_truth = any(metric is None or metric.needs_truth for metric in map(find_metric, metrics))
        if len(result.of_truth) == 1 and needs_truth:
            lines.append(f"{name}: its ground truth is all {result.of_truth[0]}, which cannot guard a release")
        for metric in metrics:
            _, _, of = metric.partition(":")
            if of and of not in result.of_truth:
                lines.append(f"{name}: no pixel of its ground truth is {of}, so that {metric} cannot guard a release")
    if not comparison.paired and not other_frames:
        lines.append(
            f"{comparison.a} and {comparison.b}: their frames, or the ground truth of these, are not the same, which "
            "cannot guard a release; score both on the same recordings, or give --other-frames"
        )
    return lines


def describe(comparison: Comparison) -> str:
    """The comparison for a terminal: a table of metrics, a table of classes, the worst change first."""
    lines = [f"A  {comparison.a}", f"B  {comparison.b}", *comparison.notes, ""]
    rows = [["metric", "A", "B", "B - A", "95 % interval", ""]]
    rows += [[change.label, *_cells(change)] for change in comparison.metrics]
    rows += [[change.label, *_cells(change)] for changes in comparison.ranges.values() for change in changes]
    lines.append(columns(rows, _WORDS))
    others = [key for key in comparison.classes if key != "iou"]
    labels = [of_classes()[key].class_label for key in others]
    rows = [["class", "IoU A", "IoU B", "B - A", "95 % interval", "", *labels]]
    ious = comparison.classes.get("iou", [])
    differences = [math.inf if change.difference is None else change.difference for change in ious]
    for i in sorted(range(len(ious)), key=lambda i: differences[i]):
        if (ious[i].a, ious[i].b) != (None, None):
            rest = [_signed(comparison.classes[key][i].difference) for key in others]
            rows.append([ious[i].label, *_cells(ious[i]), *rest])
    return "\n".join([*lines, "", columns(rows, _WORDS)]) if len(rows) > 1 else "\n".join(lines)


def judge(change: Change, max_drop: float) -> tuple[bool, str]:
    """Return (True if a metric fell by no more than `max_drop`, in the metric's unit; a line that says so).

    The measured difference decides. The line also gives the interval; where that reaches beyond the bound, only more
    frames can tell.
    """
    # Values that differ by the bound, as far as float64 can tell, are within it.
    held = change.drop <= max_drop + 1e-12
    word = "got worse" if change.drop > 0 else "did not get worse"
    text = f"{change.key} {word}: {number(change.a, change.unit)} to {number(change.b, change.unit)}"
    text += f" ({_signed(change.difference, change.unit)}), {'within' if held else 'beyond'} the bound of {max_drop:g}"
    if change.low is not None:
        text += f"; 95 % interval {_interval(change)}"
        if held and -change.low > max_drop:
            text += ", which reaches beyond it: more frames would tell"
    elif change.key in intervals.METRICS or change.key.startswith("iou:"):
        text += "; too few frames for an interval"
    return held, text


def _cells(change: Change) -> list[str]:
    values = [number(change.a, change.unit), number(change.b, change.unit), _signed(change.difference, change.unit)]
    return [*values, _interval(change), change.verdict]


def _interval(change: Change) -> str:
    return "–" if change.low is None else f"{_signed(change.low)} to {_signed(change.high)}"


def _signed(difference: float | None, unit: str = "") -> str:
    if not difference:
        return "–" if difference is None else "0"
    return f"{difference:+.1f} {unit}" if unit else f"{difference:+.4f}"
