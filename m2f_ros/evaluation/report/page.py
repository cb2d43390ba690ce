"""The report as one self-contained page of HTML: no script, no network, light and dark, printable."""

from __future__ import annotations

import base64
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from m2f_ros.errors import ConfigError, to_install
from m2f_ros.evaluation.measures import number, overall, value
from m2f_ros.evaluation.report import plots, tables
from m2f_ros.evaluation.report.tables import Cell, Table, colour
from m2f_ros.evaluation.report.worst import WorstFrame
from m2f_ros.evaluation.result import Result


@dataclass
class Tile:
    """A headline number."""

    label: str
    value: str
    note: str = ""
    bad: bool = False


@dataclass
class Plot:
    """A plot. svg: from m2f_ros.evaluation.report.plots. alt: description for those who do not see it."""

    svg: str
    caption: str
    alt: str


@dataclass
class Picture:
    """A picture. data: file in base64. kind: jpeg or png."""

    data: str
    caption: str
    alt: str
    kind: str = "jpeg"


@dataclass
class Row:
    """Pictures side by side, which a narrow page breaks into lines."""

    caption: str
    pictures: list[Picture]


@dataclass
class Section:
    """A heading and its contents. The page leaves out a section without plots, tables, pictures and rows of them."""

    anchor: str
    title: str
    plots: list[Plot] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    text: str = ""
    pictures: list[Picture] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)


def page(result: Result, worst: list[WorstFrame], interval: tuple[float, float] | None) -> str:
    """Return the whole page. interval: 95 % interval of the mean IoU. ConfigError without jinja2 or matplotlib."""
    check_libraries(" (report.md was written)")
    return render(
        f"Evaluation of {result.predictions}",
        f"Model {result.model}, against {result.truth}." if result.model else f"Against {result.truth}.",
        tables.summary(result),
        [f"Scored as far as it goes: {problem}" for problem in tables.problems(result)],
        result.notes,
        _tiles(result, interval),
        _sections(result, worst, interval),
        [Cell(row["name"], colour(result, row["id"])) for row in result.classes if row["iou"] is not None],
    )


def check_libraries(written: str = "") -> None:
    """Raise ConfigError where jinja2 or matplotlib is not installed. written: what was written without them."""
    for name in ("jinja2", "matplotlib"):
        if not importlib.util.find_spec(name):
            raise ConfigError(f"report.html needs {name}; {to_install(name)}{written}")


def render(
    title: str,
    origin: str,
    summary: str,
    problems: Sequence[str],
    notes: Sequence[str],
    tiles: Sequence[Tile],
    sections: Sequence[Section],
    key: Sequence[Cell],
) -> str:
    """Return a page.

    Args:
        origin: sentence on models and data.
        problems: sentences on parts that are missing.
        notes: notes without full stops.
        key: classes with their colours, beside pictures.
    """
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    return environment.get_template("page.html.j2").render(
        title=title,
        origin=origin,
        summary=summary,
        problems=problems,
        notes=notes,
        tiles=tiles,
        sections=[s for s in sections if s.plots or s.tables or s.pictures or s.rows],
        key=key,
    )


def _tiles(result: Result, interval: tuple[float, float] | None) -> list[Tile]:
    tiles = []
    for key, metric in overall().items():
        found = value(result, key)
        if metric.tile and found is not None:
            tiles.append(Tile(metric.label, number(found, metric.unit)))
            if key == "miou":
                within = [f"95 %: {number(interval[0])} to {number(interval[1])}"] if interval else []
                few = len(result.averaged) < len(result.classes)
                over = [f"over {len(result.averaged)} of {len(result.classes)} classes"] if few else []
                tiles[-1].note = "; ".join(within + over)
    frames = result.frames
    missing = f"{frames['missing']} missing" if frames["missing"] else ""
    return [*tiles, Tile("frames scored", f"{frames['scored']} of {frames['truth']}", missing, bool(missing))]


def _sections(result: Result, worst: list[WorstFrame], interval: tuple[float, float] | None) -> list[Section]:
    measured = [row for row in result.classes if row["iou"] is not None]
    drives = result.drives if len(result.drives) > 1 else []
    confused = [_confusion(result)] if measured else []
    return [
        Section("scores", "Scores", tables=_filled(tables.measures(result, interval))),
        Section("classes", "Classes", [_bars(result)] if measured else [], _filled(tables.classes(result))),
        Section("distance", "By distance", tables=tables.ranges(result)),
        Section("confusions", "Confusions", confused, _filled(tables.confusions(result))),
        Section(
            "drive",
            "Over the drives" if drives else "Over the drive",
            [_timeline(result)] if result.blocks else [],
            _filled(tables.drives(result)) if drives else [],
        ),
        Section("confidence", "Confidence", [_reliability(result)] if result.calibration else []),
        Section("latency", "Latency and drops", tables=_filled(tables.latency(result), tables.drops(result))),
        Section(
            "worst",
            "Worst frames",
            text="At most one of each drive and second. Picture, truth and prediction, in the colours of the classes; "
            "black is unlabelled. m2f explain DRIVE --frame NAME, or STAMP, shows how a model came to one.",
            pictures=[_picture(frame) for frame in worst],
        ),
        Section("settings", "Settings", tables=_filled(tables.settings(result))),
    ]


def _filled(*found: Table) -> list[Table]:
    return [table for table in found if table.rows]


def _bars(result: Result) -> Plot:
    rows = sorted((row for row in result.classes if row["iou"] is not None), key=lambda row: row["iou"])
    low, high = rows[0], rows[-1]
    alt = (
        f"Bars of the IoU of {tables.count(len(rows), 'class', 'classes')}, from {low['name']} with "
        f"{number(low['iou'])} to {high['name']} with {number(high['iou'])}. The table below has the numbers."
    )
    return Plot(plots.class_bars(result), "IoU of each class that occurs, in the colour of the class.", alt)


def _confusion(result: Result) -> Plot:
    svg, whole = plots.confusion(result)
    caption = (
        "Confusion matrix: of the pixels of a true class (row), the share in percent that was given to each class "
        "(column). Blue is right, orange is wrong."
    )
    if not whole:
        caption += f" Shown are the {plots.MATRIX} classes of the largest confusions."
    return Plot(svg, caption, f"{caption} The table below has the largest confusions.")


def _timeline(result: Result) -> Plot:
    most = max(block["frames"] for block in result.blocks)
    caption = "Mean IoU over the frames" if most == 1 else f"Mean IoU over the frames, at most {most} of them at a time"
    caption += " (over the classes that occur in them, so it jumps where a rare class comes and goes)."
    missing = result.frames["missing"]
    if missing:
        caption += " Red from above: the share of frames that never came."
    alt = f"{caption} {tables.count(len(result.blocks), 'stretch', 'stretches')}; {missing} frames missing."
    return Plot(plots.timeline(result), caption, alt)


def _reliability(result: Result) -> Plot:
    caption = (
        "Share of right pixels by confidence. On the dashed line the confidence is right; below it, the model is surer "
        "than it should be."
    )
    bins = [row for row in result.calibration or [] if row["count"]]
    alt = "; ".join(f"confidence {number(row['confidence'])}: {number(row['accuracy'])} right" for row in bins)
    return Plot(plots.reliability(result), caption, f"{caption} {alt}.")


def _picture(frame: WorstFrame) -> Picture:
    name = ", ".join(part for part in (frame.drive, tables.frame_name(frame.name, frame.stamp_ns)) if part)
    data = base64.b64encode(frame.picture).decode()
    alt = f"Picture, true classes and predicted classes of {name}, side by side."
    return Picture(data, f"{name}: mean IoU {number(frame.miou)}", alt)
