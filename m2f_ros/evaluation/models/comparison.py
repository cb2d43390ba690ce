"""The result of a comparison of models, its JSON and its short table."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from m2f_ros.evaluation.measures import number
from m2f_ros.evaluation.models.cost import Cost
from m2f_ros.evaluation.result import Result
from m2f_ros.evaluation.run import NOT_COMPARABLE
from m2f_ros.files import write_whole
from m2f_ros.metrics.confusion import listed
from m2f_ros.tables import columns

FORMAT, VERSION = "m2f-models", 1


@dataclass(frozen=True)
class Row:
    """A model.

    Attributes:
        name: short name, that of its folders.
        model: as given.
        score: scores; None if nothing could be scored.
        cost: cost; None if it was not measured.
        frames_a_second: rate of the replay, with reading and writing; None where nothing was replayed.
        problem: line on why a part is missing, or "".
    """

    name: str
    model: str
    score: Result | None = None
    cost: Cost | None = None
    frames_a_second: float | None = None
    problem: str = ""

    @property
    def miou(self) -> float | None:
        return self.score.metrics["miou"] if self.score else None

    @property
    def classes(self) -> list[str]:
        """The names of the classes of the scores."""
        return [row["name"] for row in self.score.classes] if self.score else []

    def metric(self, key: str) -> float | None:
        """Return an overall score by its key."""
        return self.score.metrics.get(key) if self.score else None

    def iou(self, name: str) -> float | None:
        """Return the IoU of a class."""
        rows = self.score.classes if self.score else []
        return next((row["iou"] for row in rows if row["name"] == name), None)


@dataclass(frozen=True)
class Comparison:
    """Models on the same drives.

    Attributes:
        drives: the drives.
        rows: the models, in the order given.
        run: machine, versions, command and date; see benchmark.machine.run_fields.
    """

    drives: tuple[str, ...]
    rows: tuple[Row, ...]
    run: dict[str, Any] = field(default_factory=dict)

    @property
    def scored(self) -> list[Row]:
        """The models with scores."""
        return [row for row in self.rows if row.score]

    @property
    def front(self) -> list[Row]:
        """The models that no other one beats or equals in both mean IoU and median latency, the fastest first."""
        measured = [row for row in self.rows if row.miou is not None and row.cost]
        best: list[Row] = []
        for row in sorted(measured, key=lambda row: (_p50(row), -_miou(row))):
            if not best or _miou(row) > _miou(best[-1]):
                best.append(row)
        return best

    @property
    def notes(self) -> list[str]:
        """Lines to read before the means."""
        scores = {row.name: row.score for row in self.rows if row.score}
        lines = []
        if len({tuple(score.averaged) for score in scores.values()}) > 1:
            counts = ", ".join(f"{name} {len(score.averaged)}" for name, score in scores.items())
            lines.append(f"a class that is only predicted counts as 0 in the mean IoU, which is over: {counts} classes")
        for name, score in scores.items():
            if lacking := score.settings.get(NOT_COMPARABLE):
                lines.append(f"{name} has no class for {listed(lacking)}")
        return lines

    @property
    def problems(self) -> list[str]:
        """Lines on models that failed, or whose result is of a part."""
        return [f"{row.name}: {row.problem}" for row in self.rows if row.problem]

    def save(self, path: Path) -> None:
        """Write the JSON, whole or not at all."""
        rows = [_contents(row) for row in self.rows]
        content = {"format": FORMAT, "version": VERSION, "drives": list(self.drives), "models": rows, **self.run}
        write_whole(path, json.dumps(content, indent=1, allow_nan=False, default=dataclasses.asdict) + "\n")


def _p50(row: Row) -> float:
    assert row.cost is not None  # as `front` has it
    return row.cost.p50_ms


def _miou(row: Row) -> float:
    assert row.miou is not None  # as `front` has it
    return row.miou


def _contents(row: Row) -> dict[str, Any]:
    scores = row.score and {
        "metrics": row.score.metrics,
        "iou": {of["name"]: of["iou"] for of in row.score.classes},
        "frames": row.score.frames,
    }
    kept = {key: getattr(row, key) for key in ("name", "model", "cost", "frames_a_second", "problem")}
    return {**kept, "scores": scores}


HEADER = ("model", "mean IoU", "PQ", "p50", "p99", "replay", "memory", "parameters", "GFLOP", "input", "how")


def cells(comparison: Comparison) -> list[list[str]]:
    """Return a row of text for each model, under HEADER. PQ is left empty unless at least two models have it."""
    quality = sum(row.metric("pq") is not None for row in comparison.rows) > 1
    return [_cells(row, quality) for row in comparison.rows]


def _cells(row: Row, quality: bool) -> list[str]:
    cost = row.cost
    rate = "–" if row.frames_a_second is None else f"{row.frames_a_second:.1f}/s"
    scores = [number(row.miou), number(row.metric("pq") if quality else None)]
    if cost is None:
        return [row.name, *scores, "–", "–", rate, *["–"] * 5]
    weights = "–" if cost.parameters is None else f"{cost.parameters / 1e6:.3g} M"
    work = "–" if cost.gflop is None else f"{cost.gflop:.3g}"
    times = [f"{ms:.1f} ms" for ms in (cost.p50_ms, cost.p99_ms)]
    size = "{}x{}".format(*cost.size)
    how = f"{cost.backend}, {cost.precision}"
    return [row.name, *scores, *times, rate, f"{cost.memory_mb:.0f} MB", weights, work, size, how]


def describe(comparison: Comparison) -> str:
    """Return a table for a terminal, and the models on the Pareto front."""
    table: list[Sequence[str]] = [HEADER, *cells(comparison)]
    front = comparison.front
    lines = [columns(table, (0, len(HEADER) - 1))]
    if front:
        lines.append(f"No other model is both as accurate and as fast as: {', '.join(row.name for row in front)}")
    return "\n".join([*lines, *comparison.notes])
