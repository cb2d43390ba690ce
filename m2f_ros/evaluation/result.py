"""The result of an evaluation, and its JSON.

Scores are 0..1. A score that was not measured, or has nothing to measure (a class in neither truth nor prediction), is
None, null in the JSON. K: number of classes of the taxonomy that was scored in.

Results of other versions are read, too. A field that the file lacks is None, or 0 or empty where it cannot be None;
fields that are not known here are kept and written again.
"""

from __future__ import annotations

import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypedDict

import msgspec

from m2f_ros.documents import parse_json, read_text
from m2f_ros.errors import DocumentError, EvaluationError, say_once
from m2f_ros.evaluation import measures
from m2f_ros.evaluation.latency import Percentiles
from m2f_ros.files import write_whole
from m2f_ros.metrics.confusion import listed, over_classes
from m2f_ros.typed import as_type, shown

FORMAT = "m2f-evaluation"
VERSION = 1  # raise it where a field changes its meaning; a new field needs no new version
TRANSPORT = "transport"  # key of the settings: how images came to the live node
_LIMIT = 64 << 20  # bytes of a result
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
# Values of a class: its id and name, share (its part of the ground truth), and those of measures.of_classes() by key.
ClassScores = dict[str, Any]


class ClassRow(TypedDict, total=False):
    """A class of the taxonomy. color: red, green, blue, 0..255."""

    id: Count
    name: str
    color: list[int]
    thing: bool


class TaxonomyRow(TypedDict, total=False):
    """The classes scored in, by id. unlabelled: the label that stands for none, 255 or 65535."""

    name: str
    unlabelled: Count
    classes: list[ClassRow]


class Frames(TypedDict, total=False):
    """Number of frames.

    truth: with ground truth. scored: those of them with a prediction. missing: those without. without_truth: with a
    prediction alone.
    """

    truth: Count
    scored: Count
    missing: Count
    without_truth: Count


class DriveRow(TypedDict, total=False):
    """A recording, or a folder. frames: with ground truth, scored and missing ones."""

    name: str
    frames: Count
    scored: Count
    missing: Count
    miou: float | None


class CalibrationBin(TypedDict, total=False):
    """Pixels of similar confidence: their mean confidence, the share that is right, and their number."""

    confidence: float | None
    accuracy: float | None
    count: Count


class RangeRow(TypedDict, total=False):
    """The value of a metric at some distances. near, far: metres; far is None for no end."""

    metric: str
    near: float
    far: float | None
    value: float | None


class Block(TypedDict, total=False):
    """Consecutive frames of a drive, for the timeline and the bootstrap.

    first: number of the first frame among those of the drive with ground truth, from 0. frames: scored and missing.
    hit, truth, prediction: (K,) pixels of each class that were right, are in the truth, and were predicted where there
    is truth. latency_ms: mean of the frames. flips: share of labels.
    """

    drive: str
    first: Count
    first_stamp_ns: int
    last_stamp_ns: int
    frames: Count
    missing: Count
    hit: list[Count]
    truth: list[Count]
    prediction: list[Count]
    latency_ms: float | None
    flips: float | None


class WorstRow(TypedDict, total=False):
    """One of the frames of lowest mean IoU."""

    drive: str
    name: str
    stamp_ns: int
    miou: float | None


class _Settings(TypedDict, total=False):
    """The settings that are read again; see m2f_ros.evaluation.run and coverage."""

    problems: list[str] | None
    truth_absent: Count
    classes: str | None


@dataclass
class Result:
    """Scores of predictions against ground truth.

    Attributes:
        predictions, truth: where they came from.
        model: as the legend of the predictions has it, "" where unknown.
        settings: of the evaluation.
        metrics: by key of measures.stored().
        ranges: of the metrics by distance, one after the other.
        confusion: K rows of the true class, K + 1 columns of the predicted one, in pixels; the last column: predicted
            as no class.
        drops: frames that the node dropped, by reason.
        never_arrived: number of frames that were lost on the way to the live node; None where that is unknown.
        worst: the frames of lowest mean IoU, lowest first.
        measured: number of frames that a metric is over, by the keys of measures.COUNTED; "miou": those with a pixel of
            a class in the truth; "true_grids", "true_clouds": grids and clouds of the ground truth.
        unknown: fields of the file that are not known here.
        version: of the format.
    """

    predictions: str = ""
    truth: str = ""
    model: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    taxonomy: TaxonomyRow = field(default_factory=lambda: TaxonomyRow(name="", unlabelled=255, classes=[]))
    frames: Frames = field(default_factory=lambda: Frames(truth=0, scored=0, missing=0, without_truth=0))
    drives: list[DriveRow] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    classes: list[ClassScores] = field(default_factory=list)
    ranges: list[RangeRow] = field(default_factory=list)
    confusion: list[list[Count]] = field(default_factory=list)
    calibration: list[CalibrationBin] | None = None
    latency_ms: Percentiles | None = None
    drops: dict[str, Count] = field(default_factory=dict)
    never_arrived: Count | None = None
    blocks: list[Block] = field(default_factory=list)
    worst: list[WorstRow] = field(default_factory=list)
    measured: dict[str, Count] = field(default_factory=dict)
    unknown: dict[str, Any] = field(default_factory=dict)
    version: int = VERSION

    @property
    def averaged(self) -> list[str]:
        """The classes that the mean IoU is over: those that occur in truth or prediction."""
        return [row["name"] for row in self.classes if row["iou"] is not None]

    @property
    def of_truth(self) -> list[str]:
        """The classes that occur in the truth."""
        return [row["name"] for row in self.classes if row["share"]]

    @property
    def notes(self) -> list[str]:
        """Lines to read before a mean: lost frames, the classes that it is over, and those that the truth lacks."""
        lost = self.never_arrived
        arrived = [f"{lost} frames never arrived at the node: {self.settings.get(TRANSPORT, '')}"] if lost else []
        if not self.of_truth:
            return arrived
        names = [row["name"] for row in self.classes]
        lines = [f"mean IoU {over_classes(self.averaged, names)}"] if len(self.averaged) < len(names) else []
        if lacking := [name for name in names if name not in self.of_truth]:
            lines.append(f"never in the ground truth: {listed(lacking)} ({len(lacking)} of {len(names)} classes)")
        blank = self.frames["scored"] - self.measured.get("miou", self.frames["scored"])
        if blank:
            lines.append(
                f"{blank} of {self.frames['scored']} frames scored have no pixel of a class in the ground truth"
            )
        if len(self.of_truth) == 1:
            lines.append(f"the ground truth is all {self.of_truth[0]}: no score of it tells classes apart")
        return arrived + lines

    def to_json(self) -> str:
        """The result as JSON text, a row of a list on a line; for those who read it, `notes`, too."""
        known = {name: getattr(self, name) for name in _KNOWN}
        content = {"format": FORMAT, "version": self.version, **known, "notes": self.notes, **self.unknown}
        return "{" + ",".join(f"\n{json.dumps(key)}: {_text(value)}" for key, value in content.items()) + "\n}\n"

    @classmethod
    def from_json(cls, text: str, what: str = "the result") -> Result:
        """Read what `to_json` of this or another version wrote.

        what: begins the message of the EvaluationError where the text is no result or damaged.
        """
        try:
            content = parse_json(text)
        except DocumentError as error:
            raise EvaluationError(f"{what}: {error}; expected the result.json of m2f eval") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise EvaluationError(f"{what}: not a result of m2f eval (format {FORMAT!r})")
        version = content.get("version", 1)
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise EvaluationError(
                f"{what}: damaged: version: expected a whole number, found {shown(version)}; score anew with m2f eval"
            )
        given = {name: content[name] for name in _KNOWN if name in content}
        try:
            as_type(given, cls)
            as_type(given, _checked())
            _check_lengths(given)
        except DocumentError as error:
            cure = "score anew with m2f eval" if version <= VERSION else f"it is of version {version}: update m2f_ros"
            raise EvaluationError(f"{what}: damaged: {error}; {cure}") from None
        if version > VERSION:
            say_once(
                f"{what}: version {version} of the format: read as far as this m2f_ros, which knows {VERSION}, can"
            )
        rest = {key: value for key, value in content.items() if key not in {*_KNOWN, "format", "version", "notes"}}
        result = cls(**{name: _filled(value, _KNOWN[name]) for name, value in given.items()})
        result.unknown, result.version = rest, version
        result.metrics |= dict.fromkeys(measures.stored().keys() - result.metrics)
        for i, row in enumerate(result.classes):
            empty = {"id": i, "name": f"class {i}", "share": None} | dict.fromkeys(measures.of_classes())
            row |= {key: value for key, value in empty.items() if key not in row}
        return result

    def save(self, path: str | Path) -> None:
        """Write the JSON, whole or not at all."""
        write_whole(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Result:
        """Read a JSON file, or result.json in a folder. Raises EvaluationError where it is not one."""
        path = Path(path)
        file = path / "result.json" if path.is_dir() else path
        try:
            text = read_text(file, _LIMIT)
        except FileNotFoundError:
            raise EvaluationError(f"{file}: no such file; m2f eval writes it") from None
        except (OSError, DocumentError) as error:
            raise EvaluationError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
        return cls.from_json(text, str(file))


def _text(value: object) -> str:
    if isinstance(value, list) and value:
        return "[" + ",".join(f"\n  {json.dumps(row, allow_nan=False)}" for row in value) + "\n]"
    return json.dumps(value, allow_nan=False)


def _checked() -> type:
    """The types inside the fields that Result has as dictionaries of anything."""
    score = float | None
    of_all = [(key, score, None) for key in measures.stored()]
    of_class = [("id", Count, 0), ("name", str, ""), ("share", score, None)]
    of_class += [(key, score, None) for key in measures.of_classes()]
    metrics, row = (msgspec.defstruct(name, rows) for name, rows in (("Metrics", of_all), ("Row", of_class)))
    fields: dict[str, Any] = {"metrics": metrics, "classes": types.GenericAlias(list, (row,)), "settings": _Settings}
    return msgspec.defstruct("Checked", [(name, kind | None, None) for name, kind in fields.items()])


def _filled(value: Any, hint: Any) -> Any:
    """The value, with an empty value for each field of a TypedDict that is absent."""
    parts = [part for part in typing.get_args(hint) if part is not type(None)]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return value if value is None else _filled(value, parts[0])
    if typing.get_origin(hint) is list:
        return [_filled(item, parts[0]) for item in value]
    if typing.is_typeddict(hint):
        hints = typing.get_type_hints(hint, include_extras=True)
        known = {key: _filled(value[key], hints[key]) if key in value else _empty(hints[key]) for key in hints}
        return value | known
    return value


def _empty(hint: Any) -> Any:
    if type(None) in typing.get_args(hint):
        return None
    if hint is Count:
        return 0
    return _filled({}, hint) if typing.is_typeddict(hint) else (typing.get_origin(hint) or hint)()


def _check_lengths(given: dict[str, Any]) -> None:
    """Raise DocumentError where counts of classes are not as many as there are classes."""
    k = len(given.get("classes", ()))
    rows = [(f"confusion[{i}]", row, k + 1) for i, row in enumerate(given.get("confusion", ()))]
    for i, block in enumerate(given.get("blocks", ())):
        rows += [(f"blocks[{i}].{key}", block.get(key), k) for key in ("hit", "truth", "prediction")]
    if given.get("confusion"):
        rows.append(("confusion", given["confusion"], k))
    for place, row, wanted in rows:
        if row and k and len(row) != wanted:
            raise DocumentError(f"{place}: expected {wanted} entries for {k} classes, found {len(row)}")


# The fields of the file, in its order, and their types.
_KNOWN = {
    name: hint
    for name, hint in typing.get_type_hints(Result, include_extras=True).items()
    if name not in ("unknown", "version")
}
