"""The comparison as a page, as Markdown and as JSON."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import cv2
import numpy as np

from m2f_ros.evaluation.measures import number
from m2f_ros.evaluation.models.comparison import HEADER, Comparison, Row, cells
from m2f_ros.evaluation.models.differences import Difference
from m2f_ros.evaluation.report import markdown, plots
from m2f_ros.evaluation.report.page import Picture, Plot, Section, check_libraries, render
from m2f_ros.evaluation.report.page import Row as Pictures
from m2f_ros.evaluation.report.tables import Cell, Table, colour
from m2f_ros.files import write_whole
from m2f_ros.results import Results

FILES = ("models.json", "models.md", "models.html")
PANEL = 360  # pixels, at most, of the longer side of a picture
_HOW = (
    "Scores over all frames with ground truth. p50 and p99: from a frame to its labels, one frame in flight, all "
    "models in turns. Replay: frames a second with reading and writing. Memory: peak of the GPU, on a CPU of the "
    "process, beyond that before the model was loaded. A multiply-add is two operations. A dash: not measured, or the "
    "model has none."
)


def write_report(comparison: Comparison, differences: Sequence[Difference], results: Results) -> None:
    """Write FILES, each whole, in place of those of an earlier run.

    Raises ConfigError where jinja2 or matplotlib is not installed: then all files but models.html are there.
    """
    with results:
        results.discard(["models.html"])
        results.claim(FILES, keep=True)
        comparison.save(results.folder / "models.json")
        write_whole(results.folder / "models.md", text(comparison))
        check_libraries(" (models.md was written)")
        write_whole(results.folder / "models.html", page(comparison, differences))


def text(comparison: Comparison) -> str:
    """Return the tables as Markdown."""
    parts = [f"# {_title(comparison)}", markdown.text(_origin(comparison))]
    parts += [f"Not whole: {markdown.text(problem)}" for problem in comparison.problems]
    parts += [f"Note: {markdown.text(note)}." for note in comparison.notes]
    for table in (_overview(comparison), _classes(comparison)):
        parts += [markdown.text(table.caption), markdown.grid(table)]
    return "\n\n".join(parts) + "\n"


def page(comparison: Comparison, differences: Sequence[Difference]) -> str:
    """Return the whole page."""
    first = comparison.scored[0].score
    assert first is not None  # as `scored` has it
    front = [row.name for row in comparison.front]
    sections = [
        Section("models", "Models", [_front(comparison)] if front else [], [_overview(comparison)]),
        Section("classes", "Classes", tables=[_classes(comparison)]),
        Section(
            "differences",
            "Where they differ most",
            text="At most one frame of each drive and second, in the colours of the classes; black is unlabelled.",
            rows=[_pictures(difference, comparison) for difference in differences],
        ),
    ]
    return render(
        _title(comparison),
        _origin(comparison),
        f"No other model is both as accurate and as fast as {', '.join(front)}." if front else "",
        [f"Not whole: {problem}" for problem in comparison.problems],
        comparison.notes,
        [],
        sections,
        [Cell(row["name"], colour(first, row["id"])) for row in first.classes if row["share"]],
    )


def _title(comparison: Comparison) -> str:
    return f"{len(comparison.rows)} models on {', '.join(comparison.drives)}"


def _origin(comparison: Comparison) -> str:
    machine, first = comparison.run["machine"], comparison.scored[0].score
    assert first is not None  # as `scored` has it
    devices = sorted({row.cost.device for row in comparison.rows if row.cost})
    return (
        f"{first.frames['truth']} frames with ground truth, in the classes of {first.taxonomy['name']}. Measured on "
        f"{', '.join(devices)} of {machine.cpu}, {machine.cores} cores, {comparison.run['date']}."
    )


def _overview(comparison: Comparison) -> Table:
    rows = [[Cell(cell) for cell in row] for row in cells(comparison)]
    return Table(_HOW, list(HEADER), rows, range(1, len(HEADER) - 2))


def _classes(comparison: Comparison) -> Table:
    """Return the IoU of each class that occurs in the ground truth, a column for each model."""
    scored = comparison.scored
    first = scored[0].score
    assert first is not None  # as `scored` has it
    rows = [
        [Cell(of["name"], colour(first, of["id"])), *(Cell(number(row.iou(of["name"]))) for row in scored)]
        for of in first.classes
        if of["share"]
    ]
    header = ["class", *(row.name for row in scored)]
    return Table("IoU of each class that occurs in the ground truth.", header, rows, range(1, len(header)))


def _front(comparison: Comparison) -> Plot:
    caption = "Mean IoU over the median latency. No other model is both as accurate and as fast as those on the line."
    rows = [row for row in comparison.rows if row.miou is not None and row.cost]
    alt = "; ".join(f"{row.name}: {number(row.miou)} in {row.cost.p50_ms:.1f} ms" for row in rows if row.cost)
    return Plot(_draw_front(rows, comparison.front), caption, f"{caption} {alt}.")


def _draw_front(rows: Sequence[Row], front: Sequence[Row]) -> str:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    places = {row.name: (row.cost.p50_ms, row.miou) for row in rows if row.cost and row.miou is not None}
    on_line = [row.name for row in front]
    with plots.figure_of("front", 4.2, 7.2) as (figure, svg):
        axis = figure.subplots()
        axis.plot(*zip(*(places[name] for name in on_line), strict=True), color=plots.RIGHT, linewidth=1.2, zorder=1)
        for name, (x, y) in places.items():
            colour = plots.RIGHT if name in on_line else plots.WRONG
            axis.scatter(x, y, color=colour, zorder=2)
            axis.annotate(plots.short(name), (x, y), (5, 5), textcoords="offset points", fontsize=8)
        times = [x for x, _ in places.values()]
        if max(times) > 5 * min(times):
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:g}"))
            axis.xaxis.set_minor_formatter(NullFormatter())
        axis.margins(0.15, 0.12)
        axis.set_xlabel("median latency of a frame, ms")
        axis.set_ylabel("mean IoU")
        axis.grid(True)
    return svg[0]


def _pictures(difference: Difference, comparison: Comparison) -> Pictures:
    first = comparison.scored[0].score
    assert first is not None  # as `scored` has it
    palette = np.zeros((first.taxonomy["unlabelled"] + 1, 3), np.uint8)
    for row in first.taxonomy["classes"]:
        palette[row["id"]] = row["color"][::-1]
    shown = [] if difference.image is None else [_jpeg(difference.image)]
    shown.append(_png(difference.truth, palette, "truth"))
    shown += [
        _png(label, palette, f"{name}: {difference.right[name]:.1%} right") for name, label in difference.labels.items()
    ]
    seconds, rest = divmod(difference.stamp_ns, 10**9)
    where = ", ".join(part for part in (difference.drive, f"stamp {seconds}.{rest:09d}") if part)
    return Pictures(f"{where}: labels of {difference.share:.1%} of the pixels differ", shown)


def _size(image: np.ndarray) -> tuple[int, int]:
    height, width = image.shape[:2]
    shrink = min(1.0, PANEL / max(height, width))
    return max(1, round(width * shrink)), max(1, round(height * shrink))


def _jpeg(image: np.ndarray) -> Picture:
    small = cv2.resize(image, _size(image), interpolation=cv2.INTER_AREA)
    data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
    return Picture(base64.b64encode(data).decode(), "image", "The image.")


def _png(labels: np.ndarray, palette: np.ndarray, caption: str) -> Picture:
    # OpenCV resizes no int64; nearest, since between two ids there is no third.
    small = cv2.resize(labels.astype(np.uint16), _size(labels), interpolation=cv2.INTER_NEAREST)
    data = cv2.imencode(".png", palette[small])[1].tobytes()
    return Picture(base64.b64encode(data).decode(), caption, f"Classes by colour, {caption}.", "png")
