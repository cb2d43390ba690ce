"""docs/benchmarks.md, made of the JSONs of `m2f bench` alone, and one result for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from m2f_ros.benchmark.gpu_check.plan import FILE as CHECK
from m2f_ros.benchmark.gpu_check.text import check_sections
from m2f_ros.benchmark.page import (
    Table,
    machine_of,
    markdown,
    new_figure,
    or_dash,
    origin_of,
    percent,
    save_figure,
    write_page,
)
from m2f_ros.benchmark.result import NodeShare, Result, Run, read, shape
from m2f_ros.benchmark.targets import TARGETS, blame, figures, judge
from m2f_ros.errors import ConfigError
from m2f_ros.files import refuse_foreign
from m2f_ros.tables import columns, template

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NODE = "node.json"  # end of the names of m2f bench-node's files
PLOT = "benchmark_{}.png"  # name of a result's plot
MARK = "Made by `m2f bench-report`"
PAGE = Path(__file__).with_name("benchmarks.md.j2")
COLOURS = {"ours": "#1f6fb4", "theirs": "#b0b0b0"}
STAGES = {
    "upload": "#8dd3c7", "preprocess": "#bebada", "backbone": "#1f6fb4", "pixel decoder": "#f28e2b",
    "decoder": "#59a14f", "network": "#1f6fb4", "head": "#e15759", "download": "#9c755f",
}  # fmt: skip


def write_report(folder: Path, out: Path) -> None:
    """Write the page and its plots, in images/ beside it.

    Args:
        folder: of the JSONs. One in a subfolder (of a matrix of runs) gets a line in the table only. One whose name
            ends in gpu_check.json, which `m2f gpu-check` writes, gets a section of its own.
        out: the page.
    Raises:
        ConfigError: a JSON is no result, or there is none; matplotlib is not installed; the page cannot be written.
        OutputError: another page or picture is there.
    """
    refuse_foreign(out, lambda old: MARK in old)
    results = load(folder)
    checks = check_sections(folder)
    if not results and not checks:
        raise ConfigError(f"{folder} has no results; m2f bench --json and m2f gpu-check --out write them")
    text = "\n".join([page(results), *checks])
    write_page(out, text, MARK, {PLOT.format(name): partial(draw, r) for name, r in _detailed(results).items()})


def load(folder: Path) -> dict[str, Result | NodeShare]:
    """Path below `folder`, without .json -> result, in the paths' order."""
    return {
        path.relative_to(folder).with_suffix("").as_posix(): (
            read(path, NodeShare) if path.name.endswith(NODE) else read(path, Result)
        )
        for path in sorted(folder.rglob("*.json"))
        if not path.name.endswith(CHECK)
    }


def _detailed(results: Mapping[str, Run]) -> dict[str, Result]:
    """Those of the folder itself, which have a section and a plot."""
    return {name: r for name, r in results.items() if isinstance(r, Result) and "/" not in name}


def page(results: Mapping[str, Run]) -> str:
    """The whole text."""
    targets, missed = _targets(results)
    runs = {name: r for name, r in results.items() if isinstance(r, Result)}
    filled = template(
        PAGE, shape=shape, table=markdown, machine=machine_of, origin=origin_of, device=_device, work=_work
    )
    return filled.render(
        tables=lambda run: [make(run) for make in (_contestants, _latency, _comparisons, _stages)],
        targets=targets,
        missed=missed,
        overview=_overview(runs) if runs else None,
        detailed=_detailed(runs),
        shares={name: share for name, share in results.items() if isinstance(share, NodeShare)},
        share_table=_share_table,
    )


def describe(result: Result) -> str:
    """The result for the terminal."""
    parts = [
        f"{result.settings.model} {shape(result.input.network_size)}, batch {result.settings.batch}, "
        f"{result.precision}, on {_device(result)}",
        f"weights: {result.weights.origin}",
        f"{result.input.count} frames of {result.input.source}, sha256 {result.input.sha256[:16]}…; "
        f"{result.settings.rounds} rounds in turns\n",
        columns([row[:9] for row in _contestants(result)]),
        *([f"\n{columns(latency)}"] if (latency := _latency(result)) else []),
        f"\n{columns(_stages(result))}\n",
        f"labels: agreement with {result.reference}; {result.reference_labels} classes occur",
        _work(result),
        *(
            f"{c.ours} against {c.theirs}: {c.ratio:.2f} times as fast (quartiles of the rounds "
            f"{c.paired_ratio.quartile1:.2f} to {c.paired_ratio.quartile3:.2f}), agreement {percent(c.agreement)}"
            for c in result.comparisons
        ),
    ]
    return "\n".join(parts)


def describe_share(share: NodeShare) -> str:
    """The node's share for the terminal."""
    time, threads = share.time_ms, ", ".join(f"{name} {value:.2f}" for name, value in share.threads_ms.items())
    return (
        f"{time.median:.2f} ms of CPU time a frame of {shape(share.frame_size[::-1])} beyond the pipeline (median of "
        f"{time.count}; quartiles {time.quartile1:.2f} to {time.quartile3:.2f})\nof that in its threads: {threads}"
    )


def _targets(results: Mapping[str, Run]) -> tuple[Table, list[str]]:
    """The targets, and for each that is missed a line on the stages of the pass."""
    rows, missed = [["where", "what", "target", "reached", "", "run"]], []
    found = figures(results)
    for target in TARGETS:
        verdict = judge(target, found)
        name = f"`{verdict.result}`" if verdict.result else ""
        rows.append([target.where, target.what, target.shown, verdict.shown, verdict.outcome, name])
        result = results.get(verdict.result)
        if isinstance(result, Result) and target.timed and not verdict.met:
            missed.append(f"{target.what}: {blame(result)} (`{verdict.result}`)")
    return rows, missed


def _overview(results: Mapping[str, Result]) -> Table:
    header = ["run", "model", "size", "batch", "precision", "device", "best of ours", "time ms", "frames/s"]
    header += ["roofline", "memory MB", "agreement", "the library's eager time over ours"]
    rows = [header]
    for name, r in results.items():
        own = r.best
        eager = [c.ratio for c in r.comparisons if c.ours == own.name and c.theirs in ("hf", "library")]
        ratio = eager[0] if eager else None
        cells = [f"`{name}`", r.settings.model, shape(r.input.network_size), str(r.settings.batch), r.precision]
        cells += [_device(r), own.name.removeprefix("ours "), f"{own.time_ms.median:.1f}", f"{own.throughput_fps:.1f}"]
        cells += [f"{100 * own.roofline_share:.0f} %", or_dash(own.memory_mb, ".0f"), percent(own.agreement)]
        rows.append([*cells, or_dash(ratio, ".2f")])
    return rows


def _share_table(share: NodeShare) -> Table:
    time = share.time_ms
    rows = [["thread", "CPU time a frame, ms", "quartiles"]]
    rows += [["whole process", f"{time.median:.2f}", f"{time.quartile1:.2f} to {time.quartile3:.2f}"]]
    return rows + [[thread, f"{value:.2f}", ""] for thread, value in share.threads_ms.items()]


def _contestants(result: Result) -> Table:
    header = ["contestant", "time ms", "quartiles", "min", "frames/s", "set-up s", "memory MB", "roofline", "agreement"]
    header += ["lead where labels differ", "class logits off by", "mask logits off by"]
    rows = [header]
    for c in result.contestants:
        time = c.time_ms
        cells = [c.name, f"{time.median:.1f}", f"{time.quartile1:.1f} to {time.quartile3:.1f}", f"{time.minimum:.1f}"]
        cells += [f"{c.throughput_fps:.2f}", f"{c.setup_s:.1f}", or_dash(c.memory_mb, ".0f")]
        cells += [f"{100 * c.roofline_share:.0f} %", percent(c.agreement)]
        errors = (c.disagreement_margin, c.class_logit_error, c.mask_logit_error)
        rows.append(cells + [or_dash(value, ".1e") for value in errors])
    return rows


def _latency(result: Result) -> Table:
    """Empty where no latency was measured."""
    rated = [(c.name, c.at_rate) for c in result.contestants if c.at_rate]
    if not rated:
        return []
    header = [f"at {rated[0][1].rate_hz:.3g} arrivals a second", "p50 ms", "p99 ms", "jitter ms", "dropped"]
    rows = [
        [name, f"{r.p50_ms:.1f}", f"{r.p99_ms:.1f}", f"{r.jitter_ms:.1f}", f"{r.dropped} of {r.arrived}"]
        for name, r in rated
    ]
    return [header, *rows]


def _comparisons(result: Result) -> Table:
    rows = [["ours", "theirs", "ratio", "quartiles of the rounds", "ratio of frames/s", "agreement"]]
    for c in result.comparisons:
        quartiles = f"{c.paired_ratio.quartile1:.2f} to {c.paired_ratio.quartile3:.2f}"
        cells = [c.ours.removeprefix("ours "), c.theirs, f"{c.ratio:.2f}", quartiles, f"{c.throughput_ratio:.2f}"]
        rows.append([*cells, percent(c.agreement)])
    return rows


def _stages(result: Result) -> Table:
    names = list(dict.fromkeys(stage for stages in result.stages_ms.values() for stage in stages))
    rows = [[who, *(or_dash(stages.get(n), ".2f") for n in names)] for who, stages in result.stages_ms.items()]
    return [["eager, ms", *names], *rows]


def _work(result: Result) -> str:
    work, roofline, host = result.work, result.roofline, result.host
    hf = "" if work.hf_network_gflop is None else f" (the library's network: {work.hf_network_gflop:.1f} GFLOP)"
    return (
        f"Work: {work.network_gflop:.1f} GFLOP in the network, {work.head_gflop:.2f} in the head, "
        f"{work.gigabytes:.2f} GB{hf}. Roofline: {roofline.gemm_tflop_per_s:.3g} TFLOP/s, "
        f"{roofline.copy_gb_per_s:.4g} GB/s, so at least {roofline.bound_ms:.2f} ms. "
        f"Python thread: {host.time_ms.median:.2f} ms for a frame of {shape(host.frame_size[::-1])}."
    )


def _device(result: Result) -> str:
    return result.machine.gpu or f"{result.machine.cpu}, {result.threads} threads"


def draw(result: Result, path: Path) -> None:
    """Write a PNG of one result: times, stages of an eager pass, latency at a rate."""
    contestants, rated = result.contestants, {i: c.at_rate for i, c in enumerate(result.contestants) if c.at_rate}
    names = [c.name for c in contestants]
    figure = new_figure(13 if rated else 9, 1.5 + 0.36 * max(len(contestants), 2))
    times, stages, *latency = figure.subplots(1, 3 if rated else 2)
    for i, c in enumerate(contestants):
        time = c.time_ms
        whiskers = [[time.median - time.quartile1], [time.quartile3 - time.median]]
        times.barh(i, time.median, color=COLOURS[c.side], xerr=whiskers, capsize=3)
        _annotate(times, _short(time.median), time.quartile3, i, 6)
    _label(
        times, f"time of a batch of {result.settings.batch}, ms", names, 1.2, [c.time_ms.quartile3 for c in contestants]
    )
    for i, values in enumerate(result.stages_ms.values()):
        left = 0.0
        for name, value in values.items():
            stages.barh(i, value, left=left, color=STAGES.get(name, "#444444"), label=name if i == 0 else None)
            left += value
    _label(stages, "stages of an eager pass, ms", list(result.stages_ms))
    for i, at_rate in rated.items():
        latency[0].barh(i, at_rate.p99_ms, color=COLOURS[contestants[i].side], alpha=0.45)
        latency[0].barh(i, at_rate.p50_ms, color=COLOURS[contestants[i].side])
        dropped = f"{_short(at_rate.p99_ms)}, {100 * at_rate.dropped / at_rate.arrived:.0f} % dropped"
        _annotate(latency[0], dropped, at_rate.p99_ms, i, 4)
    if rated:
        title = f"latency at {next(iter(rated.values())).rate_hz:.3g} Hz, ms: p50 and p99"
        _label(latency[0], title, names, 1.7, [at_rate.p99_ms for at_rate in rated.values()])
    # Below all panels: beside its own panel the legend would take that panel's width.
    figure.legend(loc="outside lower center", ncols=len(STAGES), fontsize=9, frameon=False)
    save_figure(figure, path)


def _annotate(axis: Axes, text: str, x: float, y: float, shift: int) -> None:
    axis.annotate(text, (x, y), xytext=(shift, 0), textcoords="offset points", va="center")


def _label(axis: Axes, title: str, names: list[str], room: float = 0, ends: Sequence[float] = ()) -> None:
    """Title, names of the bars, first one on top, and room for words behind the ends of the bars."""
    axis.set_title(title, fontsize=10)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    if ends:
        axis.set_xlim(0, room * max(ends))


def _short(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
