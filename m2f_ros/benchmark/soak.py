"""Results of `m2f soak`, which runs the node beside hostile cameras: their JSON and their criteria. Knows no ROS."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from m2f_ros.benchmark.result import Run, read
from m2f_ros.benchmark.stats import median
from m2f_ros.errors import ConfigError
from m2f_ros.files import has_keys, replace_own

WARM_UP = 300.0  # seconds that memory may take to settle; a third of a run that is shorter than three times that
WINDOW = 60.0  # seconds that figures are judged over; a sixth of what is left of a short run
# The same of memory: each hostile process, of a minute, has DDS take some and give it back.
MEMORY_WINDOW = 300.0
MEMORY_GROWTH = 0.01
LOG_LINES = 100
RATE_SHARE = 0.5  # of the rate alone

# The cameras whose images are good.
GOOD = ("raw", "jpeg")


@dataclass(frozen=True)
class Sample:
    """The node at one moment, and what came of the good cameras since the sample before.

    time_s: since the hostile cameras began; below 0 before that.
    resident_mb, anonymous_mb, shared_mb, files, threads: of the node, as a ProcessUse.
    cores: CPU time over time. shm_mb: all of /dev/shm. log_lines: so far.
    rates_hz: labels a second, p50_ms and p99_ms: from stamp to label at the listener, of each of GOOD; -1 without any.
    """

    time_s: float
    resident_mb: float
    anonymous_mb: float
    shared_mb: float
    files: int
    threads: int
    cores: float
    shm_mb: float
    log_lines: int
    rates_hz: list[float]
    p50_ms: list[float]
    p99_ms: list[float]


@dataclass(frozen=True)
class Criterion:
    """One thing that must hold. reached: in words."""

    what: str
    bound: str
    reached: str
    met: bool


@dataclass(frozen=True)
class Soak(Run):
    """A run of `m2f soak`.

    minutes: asked for, with hostile cameras. image: (height, width) of the good ones. rate_hz: of each of them.
    hostile: kinds of hostile traffic; none in a calm run. seed: of the first hostile process.
    sent: messages of each kind, and "call" and "answer" of services. cameras: what the node counted of each of its
        cameras, by its last word on /diagnostics.
    ended_s: when the node ended by itself, as time_s; None where it lived. status: its exit status, negative for the
        number of a signal.
    """

    minutes: float
    model: str
    image: tuple[int, int]
    rate_hz: float
    hostile: list[str]
    seed: int
    sent: dict[str, int]
    cameras: dict[str, dict[str, str]]
    ended_s: float | None
    status: int
    samples: list[Sample]


def criteria(soak: Soak) -> list[Criterion]:
    """Judge a run by each criterion, in the order of the page. A run with too few samples meets none."""
    lived = soak.ended_s is None
    found = [
        Criterion("the node lives", "to the end", "it did" if lived else f"it ended after {soak.ended_s:.0f} s", lived),
        Criterion("exit status after SIGTERM", "0", str(soak.status), lived and soak.status == 0),
    ]
    settled = [sample for sample in soak.samples if sample.time_s >= warm_up(soak)]
    found.append(_memory(_windows(settled, _window(soak, MEMORY_WINDOW))))
    windows = _windows(settled, _window(soak))
    found += [_flat("file descriptors", "files", windows), _flat("threads", "threads", windows)]
    lines = soak.samples[-1].log_lines if soak.samples else 0
    found.append(Criterion("lines of log", f"less than {LOG_LINES}", str(lines), lines < LOG_LINES))
    return found + [_rate(soak, number) for number in range(len(GOOD))]


def warm_up(soak: Soak) -> float:
    """Seconds after which memory, file descriptors and threads must be flat."""
    return min(WARM_UP, soak.minutes * 60 / 3)


def _window(soak: Soak, longest: float = WINDOW) -> float:
    return min(longest, (soak.minutes * 60 - warm_up(soak)) / 6)


def _windows(samples: Sequence[Sample], length: float) -> list[list[Sample]]:
    """Samples that follow each other, by time; the last window is as long as the others or is a part of the one
    before."""
    windows: list[list[Sample]] = []
    for sample in samples:
        if not windows or sample.time_s - windows[-1][0].time_s >= length:
            windows.append([])
        windows[-1].append(sample)
    if len(windows) > 1 and windows[-1][-1].time_s - windows[-1][0].time_s < length / 2:
        windows[-2:] = [windows[-2] + windows[-1]]
    return windows


def _memory(windows: Sequence[Sequence[Sample]]) -> Criterion:
    bound = f"grows by at most {MEMORY_GROWTH:.0%} after the warm-up, by the median of each five minutes"
    if len(windows) < 2:
        return Criterion("resident memory", bound, "too few samples", False)
    first, *later = [median([sample.resident_mb for sample in window]) for window in windows]
    most = max(later)
    reached = f"{100 * (most / first - 1):+.2f} % ({first:.1f} to {most:.1f} MB; at the end {later[-1]:.1f} MB)"
    return Criterion("resident memory", bound, reached, most <= (1 + MEMORY_GROWTH) * first)


def _flat(what: str, name: str, windows: Sequence[Sequence[Sample]]) -> Criterion:
    """Peers come and go, so that a number goes up and down; what leaks raises its lowest value."""
    bound = "at the end no more than at first, after the warm-up"
    if len(windows) < 2:
        return Criterion(what, bound, "too few samples", False)
    first, last = ([getattr(sample, name) for sample in window] for window in (windows[0], windows[-1]))
    reached = f"{_span(first)} at first, {_span(last)} at the end"
    return Criterion(what, bound, reached, min(last) <= max(first))


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _rate(soak: Soak, number: int) -> Criterion:
    what, bound = f"labels of the good camera '{GOOD[number]}'", f"at least {RATE_SHARE:.0%} of the rate alone"
    alone = [sample.rates_hz[number] for sample in soak.samples if sample.time_s < 0]
    windows = _windows([sample for sample in soak.samples if sample.time_s >= 0], _window(soak))
    if not alone or not windows or (soak.ended_s is not None and len(windows) < 2):
        return Criterion(what, bound, "too few samples", False)
    before = sum(alone) / len(alone)
    rates = [sum(sample.rates_hz[number] for sample in window) / len(window) for window in windows]
    reached = (
        f"{min(rates):.1f} Hz at worst, {sum(rates) / len(rates):.1f} on average; alone {before:.1f} "
        f"({_window(soak):.0f} s each)"
    )
    return Criterion(what, bound, reached, before > 0 and min(rates) >= RATE_SHARE * before)


def describe(soak: Soak) -> str:
    """In a few lines, for the terminal."""
    rows = [f"{'met   ' if c.met else 'MISSED'}  {c.what}: {c.reached} ({c.bound})" for c in criteria(soak)]
    total = sum(count for kind, count in soak.sent.items() if kind != "answer")
    return "\n".join([f"{soak.minutes:g} minutes, {total} hostile messages and calls", *rows])


# Returns True if `write`, of any version, wrote a text.
is_own = has_keys("schema", "machine", "date", "samples")


def write(soak: Soak, path: Path) -> None:
    """Write the JSON, a sample a line. ConfigError where it cannot be written, OutputError where another file is."""
    content = asdict(soak)
    rows = ",\n  ".join(json.dumps(sample, allow_nan=False) for sample in content["samples"])
    text = json.dumps(content | {"samples": []}, indent=1, allow_nan=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_own(path, text.replace('"samples": []', f'"samples": [\n  {rows}\n ]') + "\n", is_own)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None


def load(path: Path) -> Soak:
    """Read what `write` wrote. ConfigError for anything else."""
    return read(path, Soak)


def new_soak(*, versions: Mapping[str, str], samples: Sequence[Mapping[str, Any]], **fields: Any) -> Soak:
    """Make a Soak of the fields that m2f_ros.node.soak.soak returns, with this machine and the date of now.

    samples: the fields of each Sample. versions: of ROS.
    """
    import torch

    from m2f_ros.benchmark import machine

    run = machine.run_fields(torch.device("cpu"))
    run["versions"] |= versions
    return Soak(
        **run,
        samples=[Sample(**sample) for sample in samples],
        **fields,
    )
