"""The page and its pictures, as files."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from huggingface_hub import EvalResult, ModelCardData

from m2f_ros.benchmark.result import Result as Benchmark
from m2f_ros.errors import ConfigError, EvaluationError, to_install
from m2f_ros.evaluation.card import failures
from m2f_ros.evaluation.card.about import FILE, About, read_about, unwritten
from m2f_ros.evaluation.card.evidence import Evidence, Facts, benchmarks, evaluations, read_facts
from m2f_ros.evaluation.card.failures import Failure
from m2f_ros.evaluation.measures import METRICS, number
from m2f_ros.evaluation.report import markdown, tables
from m2f_ros.evaluation.report.tables import Cell, Table
from m2f_ros.files import refuse_foreign, replace_own, whole
from m2f_ros.model.checkpoint import find
from m2f_ros.tables import template

if TYPE_CHECKING:
    from jinja2 import Template

CONFUSIONS = 5
TASK = "image-segmentation"
# Key in a result -> id of the metric on the hub, and its name there.
HUB_METRICS = {
    "miou": ("mean_iou", "mean IoU"),
    "pixel_accuracy": ("accuracy", "pixel accuracy"),
    "pq": ("pq", "panoptic quality"),
    "ece": ("ece", "expected calibration error"),
}
_TEMPLATE = Path(__file__).with_name("card.md.j2")
# Beside the mean IoU. The latency of a replay, which the report has, too, is no camera's.
_HEADLINES = ("pixel_accuracy", "boundary_f", "pq", "ece")


@dataclass(frozen=True)
class Request:
    """A request for a card.

    Attributes:
        checkpoint: folder, shipped model or hub id.
        out: the page; None: MODEL_CARD.md in the checkpoint's folder, or here where that is not named by its folder.
        about: the card.yaml; None: that of the checkpoint's folder, where there is one.
        evaluations: results of m2f eval, or their folders, beside those of the card.yaml.
        benchmarks: folder of results of m2f bench; None: as the card.yaml says.
        pictures: most pictures of the worst frames of simulated streets.
    """

    checkpoint: str
    out: Path | None = None
    about: Path | None = None
    evaluations: tuple[Path, ...] = ()
    benchmarks: Path | None = None
    pictures: int = 3


@dataclass(frozen=True)
class Card:
    """A card.

    Attributes:
        path: of the page.
        text: Markdown.
        failures: file name, beside the page, of each picture in it.
    """

    path: Path
    text: str
    facts: Facts
    failures: dict[str, Failure]


def make_card(request: Request) -> Card:
    """The page of a checkpoint; nothing is written.

    Raises CheckpointError, ConfigError or EvaluationError where the checkpoint, the card.yaml or a result cannot be
    read or does not belong to the others, or Jinja2 is not installed.
    """
    facts, about = read_facts(request.checkpoint), find_about(request)
    named = Path(request.checkpoint).expanduser()
    path = request.out or (named if named.is_dir() else Path()) / "MODEL_CARD.md"
    evidence = evaluations(about, request.evaluations, facts)
    folder = request.benchmarks or (about.folder / about.benchmarks if about.benchmarks else None)
    measured = benchmarks(folder, about, facts)
    own = [e for e in evidence if not e.of_another]
    shown = {f"failure_{i}.jpg": f for i, f in enumerate(failures.worst(own, request.pictures), 1)}
    name = about.name or facts.spec

    def link(file: Path) -> str:
        """A file, from the page's folder."""
        return quote(Path(os.path.relpath(file, path.parent)).as_posix())

    text = _template().render(
        head=_head(name, about, own),
        name=name,
        spec=request.checkpoint,
        about=about,
        facts=facts,
        evidence=evidence,
        scores=_scores(evidence),
        tables=tables,
        reliability=_reliability,
        confusions=CONFUSIONS,
        benchmarks=measured,
        latency=_latency,
        failures=shown,
        link=link,
        number=number,
    )
    return Card(path, text, facts, shown)


def write_card(request: Request) -> Card:
    """Write the page and its pictures. Raises as make_card, EvaluationError where the evaluation was of other weights
    than the pictures, or a file cannot be written, and OutputError where another page or picture is there."""
    card = make_card(request)
    refuse_foreign(card.path, _is_own, card.failures)
    pictures = failures.draw(list(card.failures.values()), card.facts) if card.failures else []
    try:
        card.path.parent.mkdir(parents=True, exist_ok=True)
        for name, picture in zip(card.failures, pictures, strict=True):
            with whole(card.path.parent / name) as partial:
                partial.write_bytes(picture)
        replace_own(card.path, card.text, _is_own)
    except OSError as error:
        raise EvaluationError(f"the card cannot be written to {card.path}: {error.strerror}") from None
    return card


def _is_own(text: str) -> bool:
    return "Made by `m2f card " in text


def find_about(request: Request) -> About:
    """The card.yaml that was asked for, that of the checkpoint's folder, or what is known without one."""
    file = request.about or find(request.checkpoint) / FILE
    if request.about is None and not file.is_file():
        return unwritten(request.checkpoint)
    return read_about(file)


def _template() -> Template:
    if not importlib.util.find_spec("jinja2"):
        raise ConfigError(f"m2f card needs jinja2; {to_install('jinja2')}")
    return template(_TEMPLATE, text=markdown.text, code=markdown.code, block=markdown.block, grid=markdown.grid)


def _head(name: str, about: About, evidence: list[Evidence]) -> str:
    """The page's head in YAML, as the Hugging Face hub reads it: licence, tags, data sets, metrics and results."""
    results = [
        EvalResult(
            task_type=TASK,
            dataset_type=e.about.id or e.result.taxonomy["name"],
            dataset_name=e.title,
            dataset_split=e.about.split or None,
            metric_type=metric,
            metric_name=label,
            metric_value=round(e.result.metrics[key], 4),
        )
        for e in evidence
        for key, (metric, label) in HUB_METRICS.items()
        if e.result.metrics[key] is not None
    ]
    head = ModelCardData(
        model_name=name,
        license=about.licence.id or None,
        library_name="m2f_ros",
        pipeline_tag=TASK,
        tags=["mask2former", "semantic-segmentation", "ros2"],
        datasets=[data.id for data in about.data if data.id] or None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)),
        eval_results=results,
    )
    return head.to_yaml()


def _scores(evidence: list[Evidence]) -> Table:
    """A row for each evaluation; only columns in which something was measured."""
    keys = [key for key in _HEADLINES if any(e.result.metrics[key] is not None for e in evidence)]
    header = ["measured on", "frames", "mean IoU", "95 % interval", *(METRICS[key].label for key in keys)]
    rows = []
    for e in evidence:
        interval = "–" if e.interval is None else " to ".join(map(number, e.interval))
        row = [e.title, str(e.result.frames["scored"]), number(e.result.metrics["miou"]), interval]
        row += [number(e.result.metrics[key]) for key in keys]
        rows.append([Cell(text) for text in row])
    return Table("", header, rows, range(1, len(header)))


def _reliability(evidence: Evidence) -> Table:
    """A row for each bin of confidence; none where confidence was not measured."""
    bins = evidence.result.calibration or []
    total = sum(row["count"] for row in bins)
    rows = [
        [Cell(number(row["confidence"])), Cell(number(row["accuracy"])), Cell(f"{100 * row['count'] / total:.2f} %")]
        for row in bins
    ]
    return Table("", ["confidence", "of these right", "of all pixels"], rows, range(3))


def _latency(benchmark: Benchmark) -> Table:
    """A row for each backend."""
    rows = []
    for c in benchmark.ours:
        rate = c.at_rate
        late = ["–"] * 3
        if rate:
            late = [f"{rate.rate_hz:.3g}", f"{rate.p50_ms:.1f} and {rate.p99_ms:.1f}"]
            late.append(f"{rate.dropped} of {rate.arrived}")
        spread = f"{c.time_ms.quartile1:.1f} to {c.time_ms.quartile3:.1f}"
        row = [c.name.removeprefix("ours "), f"{c.time_ms.median:.1f}", spread, f"{c.throughput_fps:.1f}", *late]
        rows.append([Cell(text) for text in row])
    header = ["backend", "a frame, ms", "quartiles", "frames a second", "at Hz", "p50 and p99, ms", "dropped"]
    return Table("", header, rows, range(1, len(header)))
