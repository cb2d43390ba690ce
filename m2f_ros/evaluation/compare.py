"""What got better and worse between two results, and whether a metric fell by more than a bound."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from m2f_ros.errors import EvaluationError
from m2f_ros.evaluation import intervals
from m2f_ros.evaluation.coverage import shortfalls
from m2f_ros.evaluation.measures import CLASS_MEASURES, MEASURES, MEASURES_WITHOUT_TRUTH, number, value
from m2f_ros.evaluation.report.tables import PROBLEMS, problems
from m2f_ros.evaluation.result import Result
from m2f_ros.files import has_keys, replace_own
from m2f_ros.tables import columns

_WORDS = (0, 5)  # columns of names and verdicts; the others hold numbers


@dataclass(frozen=True)
class Change:
    """One metric in both results: key as on the command line, `miou` or `iou:person`.

    a, b: its values; difference: b - a; low, high: 95 % interval of the difference. None where there is none.
    verdict: better or worse; unclear where 0 is in the interval; same; "" where one of the values is None.
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
        """By how much it got worse, in its unit; below 0 where it got better."""
        return -self.difference if MEASURES.get(self.key, _CLASS).higher_is_better else self.difference


_CLASS = CLASS_MEASURES["iou"]  # of all scores of classes more is better


@dataclass(frozen=True)
class Comparison:
    """a, b: what was scored. paired: over the same frames. notes: what else differs, a sentence each.

    metrics: those measured in one of the two at least. classes: key as in a result -> a change for each class.
    obstacles: why it guards nothing, see `obstacles`.
    """

    a: str
    b: str
    paired: bool
    notes: list[str]
    metrics: list[Change]
    classes: dict[str, list[Change]]
    obstacles: list[str] = field(default_factory=list)

    def find(self, key: str) -> Change:
        """The change of `miou` or `iou:person`. EvaluationError for an unknown one, or one that was not measured."""
        known = {change.key: change for change in itertools.chain(self.metrics, *self.classes.values())}
        if key not in known and key not in MEASURES:
            raise EvaluationError(f"no metric {key!r}: there are {', '.join(MEASURES)}, and iou:CLASS")
        change = known.get(key)
        for name, found in ((self.a, change and change.a), (self.b, change and change.b)):
            if found is None:
                raise EvaluationError(f"{key} was not measured in {name}: score it there too, or choose another metric")
        return change

    def save(self, path: str | Path) -> None:
        """Write all of it as JSON. Raises EvaluationError where that cannot be, OutputError where another file is."""
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
    for measure in MEASURES.values():
        both = value(a, measure.key), value(b, measure.key)
        if both != (None, None):
            interval = None
            if measure.key in intervals.METRICS and None not in both:
                interval = intervals.difference(a, b, intervals.METRICS[measure.key])[1:]
            metrics.append(_change(measure.key, measure.label, *both, interval, measure.higher_is_better, measure.unit))
    _, low, high = intervals.difference(a, b, "iou")
    classes = {}
    for key in CLASS_MEASURES:
        both = [(one[key], other[key]) for one, other in zip(a.classes, b.classes, strict=True)]
        if any(pair != (None, None) for pair in both):
            classes[key] = [
                _change(f"{key}:{name}", name, *pair, (low[i], high[i]) if key == "iou" else None)
                for i, (name, pair) in enumerate(zip(names[0], both, strict=True))
            ]
    return Comparison(name_a, name_b, intervals.same_frames(a, b), _notes(a, b), metrics, classes)


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
    elif low is not None and low <= 0 <= high:
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
    given = {**a.settings, **b.settings}.keys() - {PROBLEMS, "allow_missing"}
    differ = sorted(key for key in given if a.settings.get(key) != b.settings.get(key))
    if differ:
        notes.append(f"Settings of the evaluation that differ: {', '.join(differ)}.")
    return notes


def obstacles(
    comparison: Comparison,
    a: Result,
    b: Result,
    metrics: Sequence[str],
    allow_missing: str = "0",
    other_frames: bool = False,
) -> list[str]:
    """Why the comparison of a and b guards nothing, a line each.

    metrics: that are to be guarded. allow_missing: see coverage.allowed. other_frames: whether the two may be of
    different frames. Raises EvaluationError for an `allow_missing` that is none.
    """
    lines = []
    for name, result in ((comparison.a, a), (comparison.b, b)):
        # Frames without prediction are judged anew.
        cut = [problem for problem in problems(result) if problem not in shortfalls(result)]
        lines += [
            f"{name}: of a part of the frames, which cannot guard a release: {line}"
            for line in [*cut, *shortfalls(result, allow_missing, metrics)]
        ]
        if len(result.of_truth) == 1 and not MEASURES_WITHOUT_TRUTH.issuperset(metrics):
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
    lines.append(columns(rows, _WORDS))
    others = [key for key in comparison.classes if key != "iou"]
    rows = [["class", "IoU A", "IoU B", "B - A", "95 % interval", "", *(CLASS_MEASURES[k].label for k in others)]]
    ious = comparison.classes.get("iou", [])
    for i in sorted(range(len(ious)), key=lambda i: math.inf if ious[i].difference is None else ious[i].difference):
        if (ious[i].a, ious[i].b) != (None, None):
            rest = [_signed(comparison.classes[key][i].difference) for key in others]
            rows.append([ious[i].label, *_cells(ious[i]), *rest])
    return "\n".join([*lines, "", columns(rows, _WORDS)]) if len(rows) > 1 else "\n".join(lines)


def judge(change: Change, max_drop: float) -> tuple[bool, str]:
    """Whether a metric fell by no more than `max_drop`, in the metric's unit, and a line that says so.

    The measured difference decides. The interval is told: where it reaches beyond the bound, more frames are needed to
    be sure.
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
