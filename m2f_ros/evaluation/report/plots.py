"""The plots of a report, as SVG for a page that is light or dark: text and axes take the colour of the page's text."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from m2f_ros.evaluation.report.tables import class_name, colour
from m2f_ros.evaluation.result import Block, Result
from m2f_ros.metrics.accumulator import mean, ratio

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 9.6  # inches
MATRIX = 24  # classes, at most, whose names and numbers are readable in a matrix
RIGHT, WRONG, SLOW, MISSING = "#3b82c4", "#d9772b", "#8a63c9", "#d64545"
INK = "#010203"  # stands for the colour of the page's text
_ROWS, _COLUMNS = 50, 3  # of bars: more rows only where the columns are not enough


def class_bars(result: Result) -> str:
    """IoU of each class that occurs, the best first, as SVG."""
    rows = sorted((row for row in result.classes if row["iou"] is not None), key=lambda row: -row["iou"])
    columns = min(_COLUMNS, max(1, -(-len(rows) // _ROWS)))
    height = -(-len(rows) // columns)
    with figure_of("bars", 0.6 + 0.21 * height) as (figure, svg):
        for axis, part in zip(np.atleast_1d(figure.subplots(1, columns)), _parts(rows, height), strict=True):
            places = range(len(part))
            axis.barh(
                places,
                [row["iou"] for row in part],
                color=[colour(result, row["id"]) for row in part],
                edgecolor=INK,
                linewidth=0.4,
            )
            for place, row in zip(places, part, strict=True):
                axis.text(row["iou"] + 0.012, place, f"{row['iou']:.3f}", va="center", fontsize=8)
            axis.set_yticks(places, [short(row["name"]) for row in part])
            axis.tick_params(axis="y", length=0)
            axis.set_ylim(height - 0.5, -0.5)
            axis.set_xlim(0, 1.12)
            axis.set_xticks([0, 0.25, 0.5, 0.75, 1])
            axis.grid(axis="x")
    return svg[0]


def confusion(result: Result) -> tuple[str, bool]:
    """Return the confusion matrix as SVG, each row divided by its sum; and True where it has every class that occurs.

    With more than MATRIX classes it shows those of the largest confusions; the others are one column together.
    """
    matrix = np.array(result.confusion, np.int64)
    shown, whole = confused(matrix)
    names = [short(class_name(result, i)) for i in shown]
    of_class = matrix.sum(axis=1)
    rows = [i for i in shown if of_class[i]]
    columns = [matrix[:, shown]]
    if not whole:
        columns.append(np.delete(matrix[:, :-1], shown, axis=1).sum(axis=1, keepdims=True))
        names.append("other classes")
    if matrix[rows, -1].any():
        columns.append(matrix[:, -1:])
        names.append("no class")
    share = np.hstack(columns)[rows] / of_class[rows][:, None]
    right = np.array([[i == j for j in range(len(names))] for i in (shown.index(row) for row in rows)], bool)
    side = min(0.33, (WIDTH - 1.8) / len(names))
    with figure_of("confusion", 1.5 + side * len(rows), 1.9 + side * len(names)) as (figure, svg):
        axis = figure.subplots()
        _cells(axis, share, right)
        axis.set_xticks(range(len(names)), names, rotation=90)
        axis.set_yticks(range(len(rows)), [short(class_name(result, i)) for i in rows])
        axis.xaxis.tick_top()
        axis.xaxis.set_label_position("top")
        axis.set_xlabel("predicted")
        axis.set_ylabel("truth")
        axis.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
        axis.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
        axis.grid(which="minor", alpha=0.15)
        axis.tick_params(which="both", length=0)
        axis.spines[:].set_visible(False)
    return svg[0], whole


def confused(matrix: np.ndarray) -> tuple[list[int], bool]:
    """Choose the classes to show of a (K, K + 1) matrix: all that occur, or those of the largest confusions.

    Returns (ids, ascending; True where these are all).
    """
    k = len(matrix)
    occur = np.flatnonzero(matrix.sum(axis=1) + matrix[:, :k].sum(axis=0)).tolist()
    if len(occur) <= MATRIX:
        return occur, True
    wrong = matrix[:, :k].copy()
    np.fill_diagonal(wrong, 0)
    chosen: list[int] = []
    for pair in zip(*np.unravel_index(np.argsort(-wrong, axis=None, kind="stable"), wrong.shape), strict=True):
        chosen += [int(i) for i in dict.fromkeys(pair) if i not in chosen and i in occur]
        if len(chosen) >= MATRIX:
            break
    return sorted(chosen[:MATRIX]), False


def reliability(result: Result) -> str:
    """Accuracy over confidence, and how many pixels had which confidence, as SVG."""
    bins = [row for row in result.calibration or [] if row["count"]]
    confidence = [row["confidence"] for row in bins]
    accuracy = [row["accuracy"] for row in bins]
    count = np.array([row["count"] for row in bins], float)
    with figure_of("reliability", 4.6, 5.2) as (figure, svg):
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        upper.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle="--")
        upper.vlines(confidence, confidence, accuracy, color=WRONG, linewidth=2)
        upper.plot(confidence, accuracy, color=RIGHT, marker="o", markersize=4)
        upper.set_ylabel("share that is right")
        upper.set_xlim(0, 1)
        upper.set_ylim(0, 1)
        upper.grid()
        lower.bar(confidence, count / max(count.sum(), 1), width=0.04, color=RIGHT)
        lower.set_ylabel("share of pixels")
        lower.set_xlabel("confidence")
        lower.grid(axis="y")
    return svg[0]


def timeline(result: Result) -> str:
    """Mean IoU, missing frames, flips and latency of each stretch of frames, as SVG."""
    blocks = result.blocks
    edges = np.concatenate([[0], np.cumsum([block["frames"] for block in blocks])])
    panels = [("mean IoU", [block_miou(block) for block in blocks], RIGHT)]
    others = (
        ("flips", [block["flips"] for block in blocks], WRONG),
        ("latency, ms", [block["latency_ms"] for block in blocks], SLOW),
    )
    panels += [panel for panel in others if any(value is not None for value in panel[1])]
    with figure_of("timeline", 0.7 + 2.0 + 1.1 * (len(panels) - 1)) as (figure, svg):
        ratios = [2.0] + [1.1] * (len(panels) - 1)
        axes = np.atleast_1d(figure.subplots(len(panels), 1, sharex=True, height_ratios=ratios))
        for axis, (label, values, ink) in zip(axes, panels, strict=True):
            axis.stairs(np.array(values, float), edges, color=ink, linewidth=1.2, baseline=None)
            axis.set_ylabel(label)
            axis.set_ylim(bottom=0)
            axis.grid(axis="y")
        axes[0].set_ylim(0, 1)
        missing = np.array([block["missing"] / block["frames"] for block in blocks])
        if missing.any():  # drawn from above, so that it does not hide a low IoU
            axes[0].stairs(np.ones(len(blocks)), edges, baseline=1 - missing, fill=True, color=MISSING, alpha=0.6)
        axes[0].set_xlim(0, edges[-1])
        axes[-1].set_xlabel("frame with ground truth")
        _mark_drives(axes, result)
    return svg[0]


def block_miou(block: Block) -> float | None:
    """Mean IoU of a block's frames over the classes that occur in them; None where nothing was scored."""
    hit, truth, prediction = np.array([block["hit"], block["truth"], block["prediction"]], np.int64)
    return mean(ratio(hit, truth + prediction - hit))


def _mark_drives(axes: np.ndarray, result: Result) -> None:
    if len(result.drives) < 2:
        return
    start = 0
    total = sum(drive["frames"] for drive in result.drives)
    for drive in result.drives:
        for axis in axes:
            axis.axvline(start, color=INK, linewidth=0.6, alpha=0.5)
        room = int(110 * drive["frames"] / total)  # letters
        if room >= 3:
            text = short(drive["name"], room)
            axes[0].annotate(text, (start, 1), (2, 2), xycoords="data", textcoords="offset points", fontsize=8)
        start += drive["frames"]


def _cells(axis: Axes, share: np.ndarray, right: np.ndarray) -> None:
    """A square for each share of 0..1: blue where right, orange where wrong, the stronger the more; in percent."""
    from matplotlib.colors import to_rgb

    picture = np.empty((*share.shape, 4))
    picture[..., :3] = np.where(right[..., None], to_rgb(RIGHT), to_rgb(WRONG))
    picture[..., 3] = np.sqrt(share)  # 4 % is seen
    axis.imshow(picture, interpolation="none", aspect="equal")
    for (i, j), value in np.ndenumerate(share):
        if value >= 0.005:
            ink = "white" if value > 0.4 else INK
            axis.text(j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color=ink)


@contextmanager
def figure_of(name: str, height: float, width: float = WIDTH) -> Iterator[tuple[Figure, list[str]]]:
    """Yield a figure, its height and width in inches, and a list that holds its SVG when the block has ended."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.fonttype": "none",  # text stays text
        "text.parse_math": False,  # a dollar in a name is a dollar
        "svg.hashsalt": name,  # ids are the same each time, and not those of another plot on the page
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.alpha": 0.25,
        "grid.linewidth": 0.6,
    }
    inks = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color")
    with rc_context(style | dict.fromkeys(inks, INK)):
        figure = Figure(figsize=(width, max(height, 1.0)), layout="constrained")
        svg: list[str] = []
        yield figure, svg
        for axis in figure.axes:
            axis.patch.set_alpha(0)
        out = io.StringIO()
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=metadata)
        svg.append(_inline(out.getvalue()))


def _inline(svg: str) -> str:
    """Return the svg element for use inside HTML, without XML's head and without ids that other plots have, too."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(
        r' id="(?:figure|axes|patch|line2d|text|matplotlib\.axis|xtick|ytick|LineCollection|QuadMesh)_\d+"', "", svg
    )
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    head, rest = svg.split(">", 1)
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', head)[0]
    # 4/3: from points to pixels.
    head = f'<svg viewBox="0 0 {width} {height}" style="width: {float(width) * 4 / 3:.0f}px" aria-hidden="true"'
    return f"{head}>{rest}".replace(INK, "currentColor")


def _parts(rows: list, length: int) -> list[list]:
    return [rows[i : i + length] for i in range(0, max(len(rows), 1), max(length, 1))]


def short(name: str, most: int = 22) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
