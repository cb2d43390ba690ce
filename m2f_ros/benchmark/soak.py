"""Results of `m2f soak`, which runs the node beside hostile cameras: JSON, criteria, page and plot. Knows no ROS."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from m2f_ros.benchmark.page import machine_of, markdown, new_figure, origin_of, save_figure, write_page
from m2f_ros.benchmark.result import Run, Size, read, shape, to_json, write_text
from m2f_ros.files import has_keys
from m2f_ros.tables import template

WARM_UP = 300.0  # seconds that memory may take to settle; a third of a run that is shorter than three times that
WINDOW = 60.0  # seconds that figures are judged over; a sixth of what is left of a short run
# The same for memory: each hostile process, of a minute, has DDS take some memory and give it back.
MEMORY_WINDOW = 300.0
MEMORY_GROWTH = 0.01
LOG_LINES = 100
RATE_SHARE = 0.5  # of the rate alone
GOOD = ("raw", "jpeg")  # cameras with good images
MARK = "Made by `m2f soak-report`"
PAGE = Path(__file__).with_name("soak.md.j2")


@dataclass(frozen=True)
class Sample:
    """The node at one moment, and the labels of the good cameras since the sample before."""

    time_s: float  # since the hostile cameras began; below 0 before that
    resident_mb: float  # resident_mb to threads: of the node, as in a ProcessUse
    anonymous_mb: float
    shared_mb: float
    files: int
    threads: int
    cores: float  # CPU time over time
    shm_mb: float  # all of /dev/shm
    log_lines: int  # so far
    rates_hz: list[float]  # labels a second of each of GOOD
    p50_ms: list[float]  # from stamp to label at the listener, of each of GOOD; -1 without any
    p99_ms: list[float]


@dataclass(frozen=True, kw_only=True)
class Soak(Run):
    """A run of `m2f soak`."""

    minutes: float  # asked for, with hostile cameras
    model: str
    image: Size  # of the good images
    rate_hz: float  # of each good camera
    hostile: list[str]  # kinds of hostile traffic; none in a calm run
    seed: int  # of the first hostile process
    sent: dict[str, int]  # messages of each kind, and "call" and "answer" of services
    cameras: dict[str, dict[str, str]]  # counts of each of the node's cameras, by its last word on /diagnostics
    ended_s: float | None = None  # when the node ended by itself, as time_s; None where it lived
    status: int  # exit status of the node, negative for the number of a signal
    samples: list[Sample]


@dataclass(frozen=True)
class Criterion:
    """A thing that must hold, its bound and the figure reached, in words."""

    what: str
    bound: str
    reached: str = "too few samples"
    met: bool = False


def criteria(soak: Soak) -> list[Criterion]:
    """Judge a run by each criterion, in the order of the page. A run with too few samples meets none."""
    lived = soak.ended_s is None
    settled = [sample for sample in soak.samples if sample.time_s >= warm_up(soak)]
    windows = _windows(settled, _window(soak))
    lines = soak.samples[-1].log_lines if soak.samples else 0
    return [
        Criterion("the node lives", "to the end", "it did" if lived else f"it ended after {soak.ended_s:.0f} s", lived),
        Criterion("exit status after SIGTERM", "0", str(soak.status), lived and soak.status == 0),
        _memory(_windows(settled, _window(soak, MEMORY_WINDOW))),
        _flat("file descriptors", "files", windows),
        _flat("threads", "threads", windows),
        Criterion("lines of log", f"less than {LOG_LINES}", str(lines), lines < LOG_LINES),
        *(_rate(soak, number) for number in range(len(GOOD))),
    ]


def warm_up(soak: Soak) -> float:
    """Seconds after which memory, file descriptors and threads must be flat."""
    return min(WARM_UP, soak.minutes * 60 / 3)


def _window(soak: Soak, longest: float = WINDOW) -> float:
    return min(longest, (soak.minutes * 60 - warm_up(soak)) / 6)


def _windows(samples: Sequence[Sample], length: float) -> list[list[Sample]]:
    """Consecutive samples by time. A last window shorter than half of `length` becomes part of the one before."""
    windows: list[list[Sample]] = []
    for sample in samples:
        if not windows or sample.time_s - windows[-1][0].time_s >= length:
            windows.append([])
        windows[-1].append(sample)
    if len(windows) > 1 and windows[-1][-1].time_s - windows[-1][0].time_s < length / 2:
        windows[-2:] = [windows[-2] + windows[-1]]
    return windows


def _memory(windows: Sequence[Sequence[Sample]]) -> Criterion:
    what = "resident memory"
    bound = f"grows by at most {MEMORY_GROWTH:.0%} after the warm-up, by the median of each five minutes"
    if len(windows) < 2:
        return Criterion(what, bound)
    first, *later = (float(np.median([sample.resident_mb for sample in window])) for window in windows)
    most = max(later)
    reached = f"{100 * (most / first - 1):+.2f} % ({first:.1f} to {most:.1f} MB; at the end {later[-1]:.1f} MB)"
    return Criterion(what, bound, reached, most <= (1 + MEMORY_GROWTH) * first)


def _flat(what: str, name: str, windows: Sequence[Sequence[Sample]]) -> Criterion:
    """Peers come and go, so that a number goes up and down; a leak raises its lowest value."""
    bound = "at the end no more than at first, after the warm-up"
    if len(windows) < 2:
        return Criterion(what, bound)
    ends = [[getattr(sample, name) for sample in window] for window in (windows[0], windows[-1])]
    first, last = (" to ".join(map(str, sorted({min(values), max(values)}))) for values in ends)
    return Criterion(what, bound, f"{first} at first, {last} at the end", min(ends[1]) <= max(ends[0]))


def _rate(soak: Soak, number: int) -> Criterion:
    what, bound = f"labels of the good camera '{GOOD[number]}'", f"at least {RATE_SHARE:.0%} of the rate alone"
    alone, length = _rate_alone(soak, number), _window(soak)
    windows = _windows([sample for sample in soak.samples if sample.time_s >= 0], length)
    if alone is None or not windows or (soak.ended_s is not None and len(windows) < 2):
        return Criterion(what, bound)
    rates = [float(np.mean([sample.rates_hz[number] for sample in window])) for window in windows]
    worst, mean = min(rates), np.mean(rates)
    reached = f"{worst:.1f} Hz at worst, {mean:.1f} on average; alone {alone:.1f} ({length:.0f} s each)"
    return Criterion(what, bound, reached, alone > 0 and worst >= RATE_SHARE * alone)


def _rate_alone(soak: Soak, number: int) -> float | None:
    alone = [sample.rates_hz[number] for sample in soak.samples if sample.time_s < 0]
    return float(np.mean(alone)) if alone else None


def describe(soak: Soak) -> str:
    """In a few lines, for the terminal."""
    rows = [f"{'met   ' if c.met else 'MISSED'}  {c.what}: {c.reached} ({c.bound})" for c in criteria(soak)]
    total = sum(count for kind, count in soak.sent.items() if kind != "answer")
    return "\n".join([f"{soak.minutes:g} minutes, {total} hostile messages and calls", *rows])


# Returns True if `write`, of any version, wrote a text.
is_own = has_keys("schema", "machine", "date", "samples")


def write(soak: Soak, path: Path) -> None:
    """Write the JSON, a sample a line. ConfigError where it cannot be written, OutputError where another file is."""
    content = to_json(soak)
    rows = ",\n  ".join(json.dumps(sample, allow_nan=False) for sample in content["samples"])
    text = json.dumps(content | {"samples": []}, indent=1, allow_nan=False)
    write_text(text.replace('"samples": []', f'"samples": [\n  {rows}\n ]') + "\n", path, is_own)


def new_soak(*, versions: Mapping[str, str], samples: Sequence[Mapping[str, Any]], **fields: Any) -> Soak:
    """Make a Soak of the fields that m2f_ros.node.load.soak.soak returns, with this machine and the present time.

    samples: the fields of each Sample. versions: of ROS.
    """
    import torch

    from m2f_ros.benchmark import machine

    run = machine.run_fields(torch.device("cpu"))
    run["versions"] |= versions
    return Soak(**run, samples=[Sample(**sample) for sample in samples], **fields)


def write_soak_page(results: Path, out: Path) -> None:
    """Write docs/soak.md of the JSON of `m2f soak` alone, and its plot, in images/ beside it.

    Raises:
        ConfigError: the JSON is none of `m2f soak`; matplotlib is not installed; the page cannot be written.
        OutputError: another page or picture is there.
    """
    soak, picture = read(results, Soak), f"{out.stem}.png"
    write_page(out, page(soak, picture), MARK, {picture: partial(draw, soak)})


def page(soak: Soak, picture: str) -> str:
    """The whole text. picture: name of the plot, in images/."""
    found = criteria(soak)
    missed = sum(not criterion.met for criterion in found)
    verdict = f"{missed} of {len(found)} criteria missed" if missed else f"All {len(found)} criteria met"
    judged = [[c.what, c.bound, c.reached, "met" if c.met else "**missed**"] for c in found]
    keys = list(dict.fromkeys(key for values in soak.cameras.values() for key in values))
    cameras = [[name, *(values.get(key, "") for key in keys)] for name, values in soak.cameras.items()]
    return template(PAGE, shape=shape, table=markdown, machine=machine_of, origin=origin_of).render(
        soak=soak,
        picture=picture,
        verdict=verdict,
        hostile=f"hostile: {', '.join(soak.hostile)}; seed {soak.seed}" if soak.hostile else "no hostile camera",
        criteria=[["what", "must", "reached", ""], *judged],
        sent=[["kind", "messages"], *([kind, str(count)] for kind, count in soak.sent.items())],
        cameras=[["camera", *keys], *cameras],
    )


def draw(soak: Soak, path: Path) -> None:
    """Write a PNG of memory, file descriptors, threads, log, rates and latency over the run."""
    samples = soak.samples
    minutes = [sample.time_s / 60 for sample in samples]
    figure = new_figure(13, 6.5)
    memory, handles, log, rates, latency, work = figure.subplots(2, 3).flat

    for axis, title, names in (
        (
            memory,
            "memory of the node, MB",
            {"resident_mb": "resident", "anonymous_mb": "heap", "shared_mb": "shared memory"},
        ),
        (handles, "file descriptors and threads", {"files": "file descriptors", "threads": "threads"}),
        (log, "lines of log so far", {"log_lines": "lines of log"}),
        (work, "CPU and /dev/shm", {"cores": "cores of the node"}),
    ):
        for name, label in names.items():
            axis.plot(minutes, [getattr(sample, name) for sample in samples], label=label)
        axis.set_title(title, fontsize=10)
    work.plot(minutes, [sample.shm_mb / 1000 for sample in samples], label="/dev/shm, GB")
    for number, camera in enumerate(GOOD):
        colour, alone = f"C{number}", _rate_alone(soak, number)
        rates.plot(minutes, [sample.rates_hz[number] for sample in samples], label=camera, color=colour)
        if alone is not None:
            rates.axhline(RATE_SHARE * alone, color=colour, linestyle=":", linewidth=1)
        for name, style in (("p50", "-"), ("p99", ":")):
            values = np.array([getattr(sample, f"{name}_ms")[number] for sample in samples], float)
            values[values < 0] = np.nan  # which is not drawn
            latency.plot(minutes, values, style, label=f"{camera} {name}", color=colour, linewidth=1)
    rates.set_title("labels a second (dots: half of the rate alone)", fontsize=10)
    latency.set_title("from stamp to label, ms", fontsize=10)
    latency.set_yscale("log")
    for axis in figure.axes:
        if axis is not latency:
            axis.set_ylim(bottom=0)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.axvline(warm_up(soak) / 60, color="grey", linewidth=0.8, linestyle="--")
        axis.set_xlabel("minutes of hostile cameras", fontsize=9)
        axis.legend(fontsize=8, frameon=False)
    save_figure(figure, path)
