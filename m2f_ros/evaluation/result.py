"""What an evaluation found, and its JSON.

Scores are 0..1. What was not measured, or of which nothing was there (a class in neither truth nor prediction), is
None, null in the JSON. K: number of classes of the taxonomy that was scored in.
"""

from __future__ import annotations

import json
import types
import typing
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypedDict

from m2f_ros.documents import parse_json, read_text
from m2f_ros.errors import DocumentError, EvaluationError
from m2f_ros.files import write_whole
from m2f_ros.metrics.confusion import listed, over_classes

FORMAT = "m2f-evaluation"
VERSION = 1
_LIMIT = 64 << 20  # bytes of a result


class ClassRow(TypedDict):
    """A class of the taxonomy. color: red, green, blue, 0..255."""

    id: int
    name: str
    color: list[int]
    thing: bool


class TaxonomyRow(TypedDict):
    """The classes scored in, by id. unlabelled: the label that stands for none, 255 or 65535."""

    name: str
    unlabelled: int
    classes: list[ClassRow]


class Frames(TypedDict):
    """Frames with ground truth; of these scored, and missing (no prediction came). without_truth: predictions alone."""

    truth: int
    scored: int
    missing: int
    without_truth: int


class DriveRow(TypedDict):
    """One recording, or folder. frames: with ground truth, scored and missing."""

    name: str
    frames: int
    scored: int
    missing: int
    miou: float | None


class Metrics(TypedDict):
    """Over all frames scored; means over the classes that occur.

    boundary_f, iiou, pq, sq, rq, ece, flips: see m2f_ros.metrics. Of ece and flips less is better.
    """

    miou: float | None
    pixel_accuracy: float | None
    mean_accuracy: float | None
    frequency_weighted_iou: float | None
    boundary_f: float | None
    iiou: float | None
    pq: float | None
    sq: float | None
    rq: float | None
    ece: float | None
    flips: float | None


class ClassScores(TypedDict):
    """Of one class. accuracy: its pixels that were found (recall). share: its part of the ground truth."""

    id: int
    name: str
    iou: float | None
    accuracy: float | None
    precision: float | None
    share: float | None
    boundary_f: float | None
    iiou: float | None
    pq: float | None
    sq: float | None
    rq: float | None


class CalibrationBin(TypedDict):
    """Pixels of about one confidence: their mean confidence, the part of them that was right, how many."""

    confidence: float
    accuracy: float
    count: int


class Latency(TypedDict):
    """From the stamp of a frame to the publication of its label, in ms, to three digits."""

    p50: float
    p90: float
    p99: float
    max: float


class Block(TypedDict):
    """Consecutive frames of a drive: what a timeline and a bootstrap need.

    first: number of its first frame among those of the drive with ground truth, from 0. frames: scored and missing.
    hit, truth, prediction: (K,) pixels of each class that were right, are in the truth, and were predicted where there
    is truth. latency_ms: mean of its frames. flips: share of labels.
    """

    drive: str
    first: int
    first_stamp_ns: int
    last_stamp_ns: int
    frames: int
    missing: int
    hit: list[int]
    truth: list[int]
    prediction: list[int]
    latency_ms: float | None
    flips: float | None


class WorstRow(TypedDict):
    """One of the frames of lowest mean IoU."""

    drive: str
    name: str
    stamp_ns: int
    miou: float


@dataclass
class Result:
    """Scores of predictions against ground truth.

    predictions, truth: where they came from. model: as the legend of the predictions has it, "" where unknown.
    settings: of the evaluation. confusion: K rows of the true class, K + 1 columns of the predicted one, in pixels; the
    last column: predicted as no class. drops: frames that the node dropped, by reason. worst: lowest first. measured:
    frames that a measure is over: of miou those with a pixel of a class in the truth, of ece, iiou, pq and latency_p50
    those with what they need; empty where not counted.
    """

    predictions: str
    truth: str
    model: str
    settings: dict[str, Any]
    taxonomy: TaxonomyRow
    frames: Frames
    drives: list[DriveRow]
    metrics: Metrics
    classes: list[ClassScores]
    confusion: list[list[int]]
    calibration: list[CalibrationBin] | None
    latency_ms: Latency | None
    drops: dict[str, int]
    blocks: list[Block]
    worst: list[WorstRow]
    measured: dict[str, int] = field(default_factory=dict)

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
        """Lines to read before a mean: the classes that it is over, and the classes that the truth lacks."""
        if not self.of_truth:
            return []
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
        return lines

    def to_json(self) -> str:
        """The result as JSON text, a row of a list on a line; for those who read it, `notes`, too."""
        content = {"format": FORMAT, "version": VERSION, **asdict(self), "notes": self.notes}
        return "{" + ",".join(f"\n{json.dumps(key)}: {_text(value)}" for key, value in content.items()) + "\n}\n"

    @classmethod
    def from_json(cls, text: str, what: str = "the result") -> Result:
        """Read what `to_json` wrote. what: begins the message of the EvaluationError where it is not one."""
        try:
            content = parse_json(text)
        except DocumentError as error:
            raise EvaluationError(f"{what}: {error}; expected the result.json of m2f eval") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise EvaluationError(f"{what}: not a result of m2f eval (format {FORMAT!r})")
        if content.get("version") != VERSION:
            raise EvaluationError(
                f"{what}: version {content.get('version')!r} of the format; this m2f reads {VERSION}: score anew"
            )
        hints = typing.get_type_hints(cls)
        known = {f.name: content[f.name] for f in fields(cls) if f.name in content}
        for f in fields(cls):
            fault = _fault(known[f.name], hints[f.name]) if f.name in known else "is missing"
            if fault and (f.name in known or f.default_factory is MISSING):
                raise EvaluationError(f"{what}: damaged: {f.name}{fault if fault[0] in '[.' else ' ' + fault}")
        return cls(**known)

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


def _fault(value: object, hint: Any) -> str:
    """What is wrong with a value for a type, with the place inside it; "" where it fits."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return ""
    if origin in (typing.Union, types.UnionType):
        faults = [_fault(value, kind) for kind in inner]
        return "" if "" in faults else faults[0]
    if origin is list and isinstance(value, list):
        found = ((f"[{i}]", _fault(item, inner[0])) for i, item in enumerate(value))
    elif origin is dict and isinstance(value, dict):
        found = ((f".{key}", _fault(item, inner[1])) for key, item in value.items())
    elif typing.is_typeddict(hint) and isinstance(value, dict):
        hints = typing.get_type_hints(hint)
        found = ((f".{key}", _fault(value[key], hints[key]) if key in value else "is missing") for key in hints)
    else:
        plain = {float: (int, float)}.get(hint, origin or hint)
        fits = not typing.is_typeddict(hint) and isinstance(value, plain)
        if fits and (hint is bool or not isinstance(value, bool)):
            return ""
        return f"is {json.dumps(value)[:40]}, expected {getattr(hint, '__name__', hint)}"
    for place, fault in found:
        if fault:
            return place + (fault if fault[0] in "[." else f" {fault}")
    return ""
