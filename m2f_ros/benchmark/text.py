"""A result as a table for the terminal."""

from __future__ import annotations

from m2f_ros.benchmark.result import AtRate, Result


def table(header: list[str], rows: list[list[str]]) -> str:
    """Columns side by side, the first to the left, the others to the right."""
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
        for line in lines
    )


def describe(result: Result) -> str:
    """What was measured, in lines of at most about 120 characters."""
    size = "x".join(map(str, result.input.network_size))
    device = result.machine.gpu or f"{result.machine.cpu}, {result.threads} threads"
    parts = [
        f"{result.settings.model} {size}, batch {result.settings.batch}, {result.precision}, on {device}",
        f"weights: {result.weights.origin}",
        f"{result.input.count} frames of {result.input.source}, sha256 {result.input.sha256[:16]}…; "
        f"{result.settings.rounds} rounds in turns",
        "",
        _contestants(result),
        "",
        _stages(result),
        "",
        f"labels: agreement with {result.reference}; {result.reference_labels} classes occur",
        f"work of a batch: {result.work.network_gflop + result.work.head_gflop:.1f} GFLOP, "
        f"{result.work.gigabytes:.2f} GB; roofline {result.roofline.bound_ms:.2f} ms at "
        f"{result.roofline.gemm_tflop_per_s:.3g} TFLOP/s and "
        f"{result.roofline.copy_gb_per_s:.4g} GB/s",
        f"Python thread beside the device's work: {result.host.time_ms.median:.2f} ms for a frame of "
        f"{result.host.frame_size[1]}x{result.host.frame_size[0]}",
    ]
    if result.comparisons:
        parts.append("")
    for c in result.comparisons:
        parts.append(
            f"{c.ours} against {c.theirs}: {c.ratio:.2f} times as fast (quartiles of the rounds "
            f"{c.paired_ratio.quartile1:.2f} to {c.paired_ratio.quartile3:.2f}), agreement {percent(c.agreement)}"
        )
    return "\n".join(parts)


def _contestants(result: Result) -> str:
    header = ["", "median ms", "quartiles", "min", "frames/s", "memory MB", "roofline", "agreement"]
    rated = next((c.at_rate for c in result.contestants if c.at_rate), None)
    if rated:
        header += [f"p50 at {rated.rate_hz:.3g} Hz", "p99", "jitter", "dropped"]
    rows = []
    for c in result.contestants:
        time = c.time_ms
        row = [
            c.name,
            f"{time.median:.1f}",
            f"{time.quartile1:.1f}-{time.quartile3:.1f}",
            f"{time.minimum:.1f}",
            f"{c.throughput_fps:.2f}",
            "?" if c.memory_mb is None else f"{c.memory_mb:.0f}",
            f"{100 * c.roofline_share:.0f} %",
            percent(c.agreement),
        ]
        if rated:
            row += latency(c.at_rate)
        rows.append(row)
    return table(header, rows)


def _stages(result: Result) -> str:
    names = list(dict.fromkeys(stage for stages in result.stages_ms.values() for stage in stages))
    rows = [
        [who, *(f"{stages[name]:.2f}" if name in stages else "" for name in names)]
        for who, stages in result.stages_ms.items()
    ]
    return table(["eager, ms", *names], rows)


def latency(rated: AtRate) -> list[str]:
    """p50, p99 and jitter in milliseconds, and what was dropped."""
    numbers = (rated.p50_ms, rated.p99_ms, rated.jitter_ms)
    return [*(f"{value:.1f}" for value in numbers), f"{rated.dropped} of {rated.arrived}"]


def percent(part: float) -> str:
    """0.99999 must not look like all."""
    return "100 %" if part == 1 else f"{min(100 * part, 99.9999):.4f} %"
