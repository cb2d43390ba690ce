"""Runs the parts of the check within a budget of time and keeps account of what became of each."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import m2f_ros
from m2f_ros import signals
from m2f_ros.benchmark.gpu_check.plan import Part, parts
from m2f_ros.errors import ConfigError
from m2f_ros.files import has_keys, refuse_foreign, replace_own

KIND, SCHEMA = "gpu-check", 1
FILE = "gpu_check.json"
MINUTES, MINUTES_ON_CPU = 9.0, 3.0
RESERVE = 3.0  # seconds at the end for the account itself
PASSED, FAILED, LATE, NOT_RUN = "passed", "failed", "out of time", "not run"
Say = Callable[[str], object]
_IS_OWN = has_keys("kind", "schema", "parts")


@dataclass(frozen=True)
class Options:
    """What to check.

    Attributes:
        out: folder of the results.
        minutes: for all of it; None: 9 with a CUDA device, 3 without. With more the parts' deadlines grow alike.
        device: auto, cpu, cuda, cuda:1, …
        model, size: see `plan.parts`.
        only: names of parts; empty: all.
    """

    out: Path = Path("out/gpu-check")
    minutes: float | None = None
    device: str = "auto"
    model: str | None = None
    size: tuple[int, int] | None = None
    only: tuple[str, ...] = ()


@dataclass
class Outcome:
    """What became of a part.

    Attributes:
        status: PASSED; FAILED; LATE, its deadline having come; NOT_RUN, for want of time or of what it needs.
        seconds: that it took. limit_s: that it had.
        error: why it did not pass, in the process' own words.
        result: what it found, as far as it came.
    """

    name: str
    kind: str
    what: str
    status: str
    seconds: float = 0.0
    limit_s: float = 0.0
    error: str | None = None
    result: dict | None = None


Run = Callable[[Part, dict, float], Outcome]


def check(
    options: Options, say: Say = print, run: Run | None = None, clock: Callable[[], float] = time.monotonic
) -> dict:
    """Run all parts, and write what they found into `options.out` after each.

    Args:
        run: runs a part, given its arguments and its seconds; None: `run_part`.
    Returns:
        The content of gpu_check.json. `passed(content)` says whether all went well.
    Raises:
        ConfigError: there is no such part; `out` cannot be written.
        OutputError: another gpu_check.json is there.
    """
    begin = clock()
    refuse_foreign(options.out / FILE, _IS_OWN)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {options.out}: {error.strerror}; take another folder") from None
    with tempfile.TemporaryDirectory(prefix="m2f_gpu_check_") as scratch:
        shared = {"device": options.device, "scratch": scratch, "out": str(options.out.resolve())}
        run = run or run_part
        first = run(Part("machine", "machine", "device, versions, rates", 60, 0), shared, 60)
        machine = first.result or {}
        cuda = machine.get("device") == "cuda"
        chosen = _chosen(parts(cuda, options.model, options.size), options.only)
        usual = MINUTES if cuda else MINUTES_ON_CPU
        budget = 60 * (options.minutes or usual)
        if first.status == PASSED:
            say(machine["gpu"] or f"no CUDA device was found: {machine['why_no_cuda']}")
        outcomes = [first]
        content = _content(options, budget, machine, outcomes)
        _write(options.out, content)
        for part in chosen:
            left = budget - RESERVE - (clock() - begin)
            limit = min(part.most_s * max(1, budget / 60 / usual), left)
            if limit < part.least_s:
                outcome = Outcome(part.name, part.kind, part.what, NOT_RUN, error=f"{max(left, 0):.0f} s were left")
            else:
                say(f"{part.name}: {part.what} (at most {limit:.0f} s)")
                outcome = run(part, {**shared, **part.arguments}, limit)
            if outcome.status != PASSED:
                say(f"{part.name}: {outcome.status}: {outcome.error}")
            outcomes.append(outcome)
            content = _content(options, budget, machine, outcomes)
            _write(options.out, content)
    return content


def passed(content: dict) -> bool:
    """Whether no part failed, and all tests that were asked for came to their end."""
    states = [(part["kind"], part["status"]) for part in content["parts"]]
    return all(status in (PASSED, NOT_RUN) or (status == LATE and kind != "tests") for kind, status in states)


def run_part(part: Part, arguments: dict, limit: float) -> Outcome:
    """Run a part in a process of its own, and end that, with all it started, when its time has come."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="m2f_part_") as folder:
        found, log = Path(folder, "result.json"), Path(folder, "log")
        command = [
            sys.executable,
            "-m",
            "m2f_ros.benchmark.gpu_check.part",
            part.kind,
            json.dumps(arguments),
            str(found),
        ]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**_environment(), "M2F_SECONDS": f"{limit:.0f}", signals.PARENT: str(os.getpid())},
                start_new_session=True,
            )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
        outcome = Outcome(part.name, part.kind, part.what, PASSED, limit_s=round(limit, 1))
        outcome.seconds = round(time.monotonic() - started, 1)
        answer = json.loads(found.read_text()) if found.exists() else {}
        outcome.result = answer.get("result")
        if code is None:
            outcome.status, outcome.error = LATE, f"not done after {limit:.0f} s"
        elif answer.get("not_run"):
            outcome.status, outcome.error = NOT_RUN, answer["not_run"]
        elif code or answer.get("failed"):
            outcome.status = FAILED
            outcome.error = answer.get("failed") or _last_lines(log) or f"exit status {code}"
        return outcome


def _end(process: subprocess.Popen) -> None:
    """Kill what is left of the process and of those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _environment() -> dict[str, str]:
    """Of the parts: this package before others, and nothing from a network."""
    root = str(Path(m2f_ros.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    defaults = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "GOMP_SPINCOUNT": "1000"}
    return {**defaults, **os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def _last_lines(log: Path, count: int = 12) -> str:
    return "\n".join(log.read_text(errors="replace").strip().splitlines()[-count:])[-2000:]


def _chosen(every: Sequence[Part], only: Sequence[str]) -> list[Part]:
    names = [part.name for part in every]
    for name in only:
        if name not in names:
            raise ConfigError(f"--only {name!r}: there is no such part here; take some of {', '.join(names)}")
    return [part for part in every if not only or part.name in only]


def _content(options: Options, budget: float, machine: dict, outcomes: Sequence[Outcome]) -> dict:
    return {
        "kind": KIND,
        "schema": SCHEMA,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": machine.get("device"),
        "machine": machine,
        "budget_s": budget,
        "asked": {**asdict(options), "out": str(options.out)},
        "parts": [asdict(outcome) for outcome in outcomes],
    }


def _write(folder: Path, content: dict) -> None:
    """Whole or not at all."""
    path = folder / FILE
    try:
        replace_own(path, json.dumps(content, indent=1) + "\n", _IS_OWN)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}; take another --out") from None
