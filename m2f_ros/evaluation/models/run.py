"""Replays drives with several models, scores each, and measures what each costs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import torch

from m2f_ros.benchmark.machine import run_fields
from m2f_ros.errors import ConfigError, EvaluationError, M2fError
from m2f_ros.evaluation.bag_drive import BagDrive
from m2f_ros.evaluation.classes import Classes, choose
from m2f_ros.evaluation.drives import find_drives
from m2f_ros.evaluation.models.comparison import Comparison, Row
from m2f_ros.evaluation.models.cost import measure
from m2f_ros.evaluation.models.differences import Difference, most_different
from m2f_ros.evaluation.models.report import FILES, write_report
from m2f_ros.evaluation.options import Options
from m2f_ros.evaluation.report.tables import PROBLEMS
from m2f_ros.evaluation.run import evaluate
from m2f_ros.files import file_names
from m2f_ros.frame.frame import Frame
from m2f_ros.frame.outputs import REPLAYED
from m2f_ros.metrics.confusion import listed
from m2f_ros.replay import run as replays
from m2f_ros.replay.settings import TRUTH, Settings
from m2f_ros.replay.space import open_for
from m2f_ros.results import Results

_KIND = re.compile(r"\w+:")  # in front of the name of a model
FRAMES = 16  # different frames to time, from all over the first drive
REPLAYS = "replays"  # folder in that of the report

Say = Callable[[str], object]


@dataclass(frozen=True)
class Request:
    """Models to compare.

    Attributes:
        drives: rosbag2s with images and ground truth, patterns, or folders of bags.
        models: names, folders or hub ids, at least one.
        settings: settings of all replays; the model is that of each.
        classes, taxonomy: see Options.
        rounds: number of frames to time.
        pictures: number of frames to show on which the models differ most.
    """

    drives: tuple[str, ...]
    models: tuple[str, ...]
    settings: Settings = field(default_factory=Settings)
    classes: str | None = None
    taxonomy: str | None = None
    rounds: int = 60
    pictures: int = 6


class Stopped(Exception):
    """A signal stopped a replay. The argument is its number."""


def compare_models(request: Request, out: Path, say: Say = lambda line: None) -> Comparison:
    """Replay, score and time all models; write report and JSON into `out`, and the replays into its folder REPLAYS.

    Replays that are there are continued, or taken as they are. A model that fails does not stop the others.

    say: function of a line about each step.

    Raises:
        ConfigError: a model is named twice.
        OutputError: `out` holds other files.
        EvaluationError: no model could be scored, or the models are scored in different classes.
        SourceError: a drive cannot be opened.
        Stopped: a signal stopped a replay; the same command goes on.
    """
    names = _names(request.models)
    inputs = [*request.drives, *request.models, request.classes, request.taxonomy]
    results = Results(out, "m2f compare-models", inputs)
    results.check(FILES)
    settings = {
        name: replace(request.settings, model=model, outputs=REPLAYED)
        for name, model in zip(names, request.models, strict=True)
    }
    frames = _frames(request)
    results.begin()
    say(f"timing {request.rounds} frames of each model in turns")
    costs, problems = measure(settings, frames, request.rounds)
    rows = []
    for name in names:
        row = Row(name, settings[name].model, cost=costs.get(name), problem=problems.get(name, ""))
        if not row.problem:
            say(f"replaying and scoring {row.model}")
            row = _scored(row, request, out, settings[name])
        rows.append(row)
    scored = [row for row in rows if row.score]
    if not scored:
        raise EvaluationError(f"no model could be scored: {'; '.join(row.problem for row in rows)}")
    _check_classes(scored)
    comparison = Comparison(request.drives, tuple(rows), run_fields(torch.device("cpu")))
    say("looking for the frames on which the models differ most")
    write_report(comparison, _differences(request, out, scored), results)
    return comparison


def _names(models: Sequence[str]) -> list[str]:
    for model in models:
        if models.count(model) > 1:
            raise ConfigError(f"--models: {model} is named twice")
        if model == TRUTH:
            raise ConfigError(f"--models: {TRUTH} is no model, but the drive's own labels")
    return file_names(model if _KIND.match(model) else Path(model).name for model in models)


def _frames(request: Request) -> list[Frame]:
    """Return frames from all over the first drive. Raises SourceError, or EvaluationError for a drive without any."""
    (drive, _), *_ = replays.named(request.drives, Path())
    source = open_for(drive, replace(request.settings, outputs=("label",)))
    every = max((source.length or 1) // FRAMES, 1)
    readable = (sample.frame for sample in source.samples() if sample.frame is not None)
    if frames := list(islice(readable, 0, FRAMES * every, every)):
        return frames
    raise EvaluationError(f"{drive}: has no image that can be read")


def _scored(row: Row, request: Request, out: Path, settings: Settings) -> Row:
    """Replay the drives with a model, and score it. Raises Stopped."""
    outcomes, stopped = replays.run(request.drives, out / REPLAYS / row.name, settings)
    if stopped:
        raise Stopped(stopped)
    lines = [outcome.problem for outcome in outcomes if outcome.problem]
    seconds = sum(outcome.seconds for outcome in outcomes)
    rate = sum(outcome.segmented for outcome in outcomes) / seconds if seconds else None
    try:
        score, _ = evaluate(_options(request, out, row))
    except M2fError as error:
        return replace(row, frames_a_second=rate, problem="; ".join([*lines, str(error)]))
    found = score.settings[PROBLEMS]
    lines = [line for line in lines if not any(line in told for told in found)]  # the evaluation tells most of them
    return replace(row, score=score, frames_a_second=rate, problem="; ".join([*lines, *found]))


def _options(request: Request, out: Path, row: Row) -> Options:
    return Options(
        (str(out / REPLAYS / row.name),),
        request.drives,
        classes=request.classes,
        taxonomy=request.taxonomy,
        boundary=False,
        flips=False,
        worst=0,
    )


def _check_classes(rows: Sequence[Row]) -> None:
    """Raise EvaluationError unless all models are scored in the same classes."""
    first = rows[0]
    for row in rows[1:]:
        if row.classes != first.classes:
            raise EvaluationError(
                f"{first.name} is scored in the classes {listed(first.classes)}, {row.name} in {listed(row.classes)}: "
                "such means do not compare; give --classes"
            )


def _differences(request: Request, out: Path, rows: Sequence[Row]) -> list[Difference]:
    if len(rows) < 2 or not request.pictures:
        return []
    found: dict[str, dict[str, tuple[BagDrive, Classes]]] = {}
    for row in rows:
        for drive in find_drives(_options(request, out, row)):
            assert isinstance(drive, BagDrive), "replays are bags"
            classes = choose(drive.truth_taxonomy, drive.prediction_taxonomy, request.classes)
            found.setdefault(drive.name, {})[row.name] = drive, classes
    return most_different([models for models in found.values() if len(models) == len(rows)], request.pictures)
