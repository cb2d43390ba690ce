"""A picture of one result: times, stages of an eager pass, latency at a rate."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from m2f_ros.benchmark.result import Result
from m2f_ros.errors import ConfigError

OURS, THEIRS = "#1f6fb4", "#b0b0b0"
STAGES = {
    "upload": "#8dd3c7", "preprocess": "#bebada", "backbone": "#1f6fb4", "pixel decoder": "#f28e2b",
    "decoder": "#59a14f", "head": "#e15759", "download": "#9c755f",
}  # fmt: skip


def draw(result: Result, path: Path) -> None:
    """Write a PNG. ConfigError without matplotlib."""
    if not importlib.util.find_spec("matplotlib"):
        raise ConfigError("the plots need matplotlib; pip install matplotlib")
    from matplotlib.figure import Figure  # without pyplot: no display, no state

    rated = any(c.at_rate for c in result.contestants)
    rows = max(len(result.contestants), 2)
    figure = Figure(figsize=(13 if rated else 9, 1.5 + 0.36 * rows), dpi=80, layout="constrained")
    axes = figure.subplots(1, 3 if rated else 2)
    _times(axes[0], result)
    _stages(axes[1], result)
    if rated:
        _latency(axes[2], result)
    for axis in axes:
        axis.invert_yaxis()
        axis.spines[["top", "right"]].set_visible(False)
    # Below all panels: beside its own it would take their width.
    figure.legend(loc="outside lower center", ncols=len(STAGES), fontsize=9, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", metadata={"Software": None})


def _times(axis, result: Result) -> None:
    for i, c in enumerate(result.contestants):
        time = c.time_ms
        whiskers = [[time.median - time.quartile1], [time.quartile3 - time.median]]
        axis.barh(i, time.median, color=OURS if c.side == "ours" else THEIRS, xerr=whiskers, capsize=3)
        axis.annotate(_short(time.median), (time.quartile3, i), xytext=(6, 0), textcoords="offset points", va="center")
    axis.set_yticks(range(len(result.contestants)), [c.name for c in result.contestants])
    axis.set_title(f"time of a batch of {result.settings.batch}, ms", fontsize=10)
    axis.set_xlim(0, 1.2 * max(c.time_ms.quartile3 for c in result.contestants))


def _stages(axis, result: Result) -> None:
    for i, stages in enumerate(result.stages_ms.values()):
        left = 0.0
        for name, value in stages.items():
            axis.barh(i, value, left=left, color=STAGES.get(name, "#444444"), label=name if i == 0 else None)
            left += value
    axis.set_yticks(range(len(result.stages_ms)), list(result.stages_ms))
    axis.set_title("stages of an eager pass, ms", fontsize=10)


def _latency(axis, result: Result) -> None:
    for i, c in enumerate(result.contestants):
        if c.at_rate:
            colour = OURS if c.side == "ours" else THEIRS
            axis.barh(i, c.at_rate.p99_ms, color=colour, alpha=0.45)
            axis.barh(i, c.at_rate.p50_ms, color=colour)
            dropped = f"{_short(c.at_rate.p99_ms)}, {100 * c.at_rate.dropped / c.at_rate.arrived:.0f} % dropped"
            axis.annotate(dropped, (c.at_rate.p99_ms, i), xytext=(4, 0), textcoords="offset points", va="center")
    rate = next(c.at_rate.rate_hz for c in result.contestants if c.at_rate)
    axis.set_yticks(range(len(result.contestants)), [c.name for c in result.contestants])
    axis.set_title(f"latency at {rate:.3g} Hz, ms: p50 and p99", fontsize=10)
    axis.set_xlim(0, 1.7 * max(c.at_rate.p99_ms for c in result.contestants if c.at_rate))


def _short(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
