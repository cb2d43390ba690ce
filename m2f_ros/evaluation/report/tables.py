"""The tables of a report: HTML and Markdown show the same text."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from m2f_ros.evaluation.measures import class_value, number, of_classes, overall, range_name, value
from m2f_ros.evaluation.result import Result

CONFUSIONS = 20
PROBLEMS = "problems"  # the setting with the reasons why a result is a partial one


@dataclass(frozen=True)
class Cell:
    """A cell of a table. colour: of a class, #rrggbb, shown beside the text."""

    text: str
    colour: str | None = None


@dataclass(frozen=True)
class Table:
    """A table. caption: its contents in a sentence. numbers: the columns that hold numbers."""

    caption: str
    header: list[str]
    rows: list[list[Cell]]
    numbers: range


def colour(result: Result, i: int) -> str:
    """#rrggbb of class i; a grey for "no class", i = K."""
    classes = result.taxonomy["classes"]
    rgb = classes[i]["color"] if i < len(classes) else []
    return "#{:02x}{:02x}{:02x}".format(*rgb) if len(rgb) == 3 else "#808080"


def class_name(result: Result, i: int) -> str:
    """Name of class i; i = K is "no class"."""
    return result.classes[i]["name"] if i < len(result.classes) else "no class"


def summary(result: Result) -> str:
    """Return the frames and classes of the evaluation in a sentence or two."""
    frames = result.frames
    text = f"{frames['scored']} of {count(frames['truth'], 'frame')} with ground truth scored"
    if len(result.drives) > 1:
        text += f", of {len(result.drives)} drives"
    text += f", in the {count(len(result.classes), 'class', 'classes')} of {result.taxonomy['name']}."
    if frames["missing"]:
        text += f" For {frames['missing']} no prediction came: they are in no score, and count as missing."
    if frames["without_truth"]:
        text += f" {count(frames['without_truth'], 'prediction')} had no ground truth."
    return text


def measures(result: Result, interval: tuple[float, float] | None) -> Table:
    """Return all scores. interval: 95 % interval of the mean IoU."""
    rows = []
    for measure in overall().values():
        found = value(result, measure.key)
        if found is not None:
            what = measure.what
            if measure.key == "miou" and interval:
                what += f"; 95 % interval {number(interval[0])} to {number(interval[1])}"
            elif measure.key == "miou":
                what += "; no interval: too few frames"
            rows.append([Cell(measure.label), Cell(number(found, measure.unit)), Cell(what)])
    absent = [metric.label for key, metric in overall().items() if not metric.seldom and value(result, key) is None]
    caption = "Scores over all frames, 0 to 1." + (f" Not measured: {', '.join(absent)}." if absent else "")
    return Table(caption, ["measure", "value", "what it is"], rows, range(1, 2))


def classes(result: Result) -> Table:
    """Return a row for each class, and only columns in which some class has a value."""
    labels = {
        key: metric.class_label
        for key, metric in of_classes().items()
        if any(class_value(row, key) is not None for row in result.classes)
    }
    rows = []
    for row in result.classes:
        # A share of 0.0004 is not nothing.
        share = "–" if row["share"] is None else f"{100 * row['share']:.2f} %"
        name = Cell(row["name"], colour(result, row["id"]))
        rows.append([name, Cell(share), *(Cell(number(class_value(row, key))) for key in labels)])
    header = ["class", "share of the truth", *labels.values()]
    caption = (
        "Scores of each class, 0 to 1. A class that was predicted but is not in the truth has an IoU of 0; a dash: it "
        "is in neither, or was not measured."
    )
    return Table(caption, header, rows, range(1, len(header)))


def ranges(result: Result) -> list[Table]:
    """Return a table of each group of metrics with the same ranges of distances, a column for each range."""
    groups: dict[tuple[str, ...], list[list[Cell]]] = {}
    for key, metric in overall().items():
        found = [row for row in result.ranges if row["metric"] == key]
        if found:
            names = tuple(f"{range_name(row['near'], row['far'])} m" for row in found)
            groups.setdefault(names, []).append([Cell(metric.label), *(Cell(number(row["value"])) for row in found)])
    caption = "By distance, 0 to 1. A dash: nothing to measure there."
    return [Table(caption, ["measure", *names], rows, range(1, len(names) + 1)) for names, rows in groups.items()]


def confusions(result: Result, most: int = CONFUSIONS) -> Table:
    """The largest confusions, by pixels."""
    matrix = np.array(result.confusion, np.int64).reshape(-1, len(result.classes) + 1)
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    of_class = matrix.sum(axis=1)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    rows = []
    for true, predicted in zip(*np.unravel_index(order, wrong.shape), strict=True):
        pixels = int(wrong[true, predicted])
        if pixels:
            rows.append(
                [
                    Cell(class_name(result, true), colour(result, true)),
                    Cell(class_name(result, predicted), colour(result, predicted)),
                    Cell(f"{100 * pixels / of_class[true]:.1f} %"),
                    Cell(f"{100 * pixels / wrong.sum():.1f} %"),
                    Cell(f"{pixels:,}".replace(",", " ")),
                ]
            )
    header = ["true class", "taken for", "of the class", "of all errors", "pixels"]
    return Table("The largest confusions, by number of pixels.", header, rows, range(2, 5))


def drives(result: Result) -> Table:
    rows = [
        [
            Cell(d["name"]),
            Cell(str(d["frames"])),
            Cell(str(d["scored"])),
            Cell(str(d["missing"])),
            Cell(number(d["miou"])),
        ]
        for d in result.drives
    ]
    return Table("Drives, each by itself.", ["drive", "frames", "scored", "missing", "mean IoU"], rows, range(1, 5))


def latency(result: Result) -> Table:
    """Return the percentiles of the frames that came."""
    found = dict(result.latency_ms or {}).items()
    rows = [[Cell(name), Cell(number(ms, "ms"))] for name, ms in found if isinstance(ms, int | float)]
    return Table(
        "From the stamp of an image to its label; of m2f replay, the time in the pipeline.",
        ["latency", "time"],
        rows,
        range(1, 2),
    )


def drops(result: Result) -> Table:
    rows = [[Cell(reason), Cell(str(n))] for reason, n in result.drops.items()]
    return Table("Frames that were dropped, by the reason given.", ["reason", "frames"], rows, range(1, 2))


def worst(result: Result) -> Table:
    rows = [
        [Cell(w["drive"]), Cell(frame_name(w["name"], w["stamp_ns"])), Cell(number(w["miou"]))] for w in result.worst
    ]
    return Table("The frames of lowest mean IoU.", ["drive", "frame", "mean IoU"], rows, range(2, 3))


def settings(result: Result) -> Table:
    origin = {"predictions": result.predictions, "truth": result.truth, "model": result.model or "unknown"}
    given = {**origin, "scored in": result.taxonomy["name"], **result.settings}
    rows = [
        [Cell(key.replace("_", " ")), Cell(value if isinstance(value, str) else json.dumps(value))]
        for key, value in given.items()
        if value is not None and key != PROBLEMS
    ]
    return Table("Inputs and options of the evaluation.", ["setting", "value"], rows, range(0))


def problems(result: Result) -> list[str]:
    """Return lines on problems of the recordings and on frames without prediction."""
    return [str(problem) for problem in result.settings.get(PROBLEMS) or []]


def frame_name(name: str, stamp_ns: int) -> str:
    """Return name and stamp in seconds; frames of bags have the stamp alone."""
    stamp = f"stamp {stamp_ns // 10**9}.{stamp_ns % 10**9:09d}" if stamp_ns else ""
    return ", ".join(part for part in (name if name != str(stamp_ns) else "", stamp) if part)


def count(n: int, one: str, many: str = "") -> str:
    """'1 frame', '2 frames'."""
    return f"{n} {one if n == 1 else many or one + 's'}"
