"""The check: runs its parts within a budget of time, each in a process of its own with a deadline of its own.

The findings of a part are written before the next one starts, so that a kill loses nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import m2f_ros
from m2f_ros import signals
from m2f_ros.benchmark.gpu_check.plan import FAILED, FILE, KIND, LATE, NOT_RUN, PASSED, Part, parts
from m2f_ros.benchmark.result import SCHEMA, write_text
from m2f_ros.errors import ConfigError
from m2f_ros.files import has_keys, refuse_foreign

MINUTES, MINUTES_ON_CPU = 9.0, 3.0
RESERVE = 3.0  # seconds at the end for the account itself
GRACE = 4.0  # seconds that a part has from SIGINT, to say where it is, to SIGKILL
LOG = 16_000  # characters that are kept of the end of the log of a part that did not pass
# Fields that nvidia-smi reports while a part runs -> their names in the result.
BESIDE = {
    "clocks.sm": "sm_clock_mhz",
    "clocks.mem": "memory_clock_mhz",
    "power.draw": "power_w",
    "temperature.gpu": "temperature_c",
    "utilization.gpu": "busy_percent",
}
Say = Callable[[str], object]
_IS_OWN = has_keys("kind", "schema", "parts")


@dataclass(frozen=True)
class Options:
    """The parts to run, and how."""

    out: Path = Path("out/gpu-check")  # folder of the results
    minutes: float | None = None  # for all of it; None: MINUTES; with more the parts' deadlines grow alike
    device: str = "auto"  # auto, cpu, cuda, cuda:1, …
    model: str | None = None  # model and size: see `plan.parts`
    size: tuple[int, int] | None = None
    only: tuple[str, ...] = ()  # names of parts; empty: all


@dataclass
class Outcome:
    """The end of a part, and its findings."""

    name: str
    kind: str
    what: str
    status: str  # PASSED; FAILED; LATE, after its deadline; NOT_RUN, without time or the things that it needs
    seconds: float = 0.0  # that it took
    limit_s: float = 0.0  # that it had
    error: str | None = None  # why it did not pass, in the process' own words
    result: dict | None = None  # what it found, as far as it came
    log: str | None = None  # the end of its output, where it did not pass
    beside: dict[str, list[float]] | None = None  # [least, median, largest] of each of BESIDE; None without nvidia-smi


Run = Callable[[Part, dict, float], Outcome]


def check(
    options: Options, say: Say = print, run: Run | None = None, clock: Callable[[], float] = time.monotonic
) -> dict:
    """Run all parts, and write what they found into `options.out` after each.

    Args:
        run: runs a part, given its arguments and its seconds; None: `run_part`.
    Returns:
        The content of gpu_check.json; see `passed`.
    Raises:
        ConfigError: there is no such part; `out` cannot be written.
        OutputError: another gpu_check.json is there.
    """
    begin = clock()
    file = options.out / FILE
    refuse_foreign(file, _IS_OWN)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {options.out}: {error.strerror}; take another folder") from None
    with tempfile.TemporaryDirectory(prefix="m2f_gpu_check_") as scratch:
        shared: dict[str, Any] = {"device": options.device, "scratch": scratch, "out": str(options.out.resolve())}
        run = run or run_part
        first = run(Part("machine", "machine", "device, versions, rates", 60, 0), shared, 60)
        machine = first.result or {}
        cuda, shared["uuid"] = machine.get("device") == "cuda", machine.get("uuid")
        planned = {part.name: part for part in parts(cuda, options.model, options.size)}
        for name in options.only:
            if name not in planned:
                raise ConfigError(f"--only {name!r}: there is no such part here; take some of {', '.join(planned)}")
        usual = MINUTES if cuda else MINUTES_ON_CPU
        budget = 60 * (options.minutes or usual)
        if first.status == PASSED:
            say(machine["gpu"] or f"no CUDA device was found: {machine['why_no_cuda']}")
        content: dict[str, Any] = {
            "kind": KIND,
            "schema": SCHEMA,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "device": machine.get("device"),
            "machine": machine,
            "budget_s": budget,
            "asked": {**asdict(options), "out": str(options.out)},
            "parts": [asdict(first)],
        }
        for part in (part for name, part in planned.items() if not options.only or name in options.only):
            write_text(json.dumps(content, indent=1) + "\n", file, _IS_OWN)
            left = budget - RESERVE - (clock() - begin)
            limit = min(part.most_s * max(1, budget / 60 / usual), left)
            missed = [p["name"] for p in content["parts"] if p["name"] == part.needs and p["status"] != PASSED]
            outcome = Outcome(part.name, part.kind, part.what, NOT_RUN, error=f"{max(left, 0):.0f} s were left")
            if missed:
                outcome.error = f"{missed[0]} did not pass"
            elif limit >= part.least_s:
                say(f"{part.name}: {part.what} (at most {limit:.0f} s)")
                outcome = judged(run(part, {**shared, **part.arguments}, limit))
            if outcome.status != PASSED:
                say(f"{part.name}: {outcome.status}: {outcome.error}")
            content["parts"].append(asdict(outcome))
        write_text(json.dumps(content, indent=1) + "\n", file, _IS_OWN)
    return content


def passed(content: dict) -> bool:
    """Return True if no part failed, and the preflight and all tests that were asked for came to their end."""
    states = [(part["kind"] in ("preflight", "tests"), part["status"]) for part in content["parts"]]
    return all(status in (PASSED, NOT_RUN) or (status == LATE and not vital) for vital, status in states)


def judged(outcome: Outcome) -> Outcome:
    """Fail a part in which graphs were given up, or whose rows have errors for figures, or that passed with nothing."""
    rows = (outcome.result or {}).get("rows")
    faults = [f"fallbacks {count}: CUDA graphs were given up" for count in _given_up(outcome.result)][:1]
    if rows is not None and all(row.get("error") for row in rows):
        faults.append(f"none of {len(rows)} rows has figures" + "".join(f"; first {row['error']}" for row in rows[:1]))
    if outcome.status == PASSED and not outcome.result:
        faults.append("it found nothing")
    if faults and outcome.status in (PASSED, LATE, FAILED):
        outcome.status, outcome.error = FAILED, "; ".join(filter(None, [*faults, outcome.error]))
    return outcome


def _given_up(found: Any) -> Iterator[int]:
    """The values above 0 that are called `fallbacks`, at any depth."""
    if isinstance(found, dict):
        if found.get("fallbacks"):
            yield found["fallbacks"]
        found = list(found.values())
    if isinstance(found, list | tuple):
        for inner in found:
            yield from _given_up(inner)


def run_part(part: Part, arguments: dict, limit: float) -> Outcome:
    """Run a part in a process of its own, and end that, with all it started, at its deadline."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="m2f_part_") as folder:
        found, log = Path(folder, "result.json"), Path(folder, "log")
        module = [sys.executable, "-m", "m2f_ros.benchmark.gpu_check.part"]
        with log.open("wb") as output, _beside(Path(folder, "beside"), arguments.get("uuid")) as beside:
            process = subprocess.Popen(
                [*module, part.kind, json.dumps(arguments), str(found)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**_environment(), "M2F_SECONDS": f"{limit:.0f}", signals.PARENT: str(os.getpid())},
                start_new_session=True,
            )
            code = None
            try:
                code = process.wait(max(limit - GRACE, limit / 2))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # what is left of it, and of the processes that it started
                process.wait()
        answer = json.loads(found.read_text()) if found.exists() else {}
        said, sampled = log.read_text(errors="replace").strip(), beside()
    status, error, last = PASSED, None, "\n".join(said.splitlines()[-12:])[-2000:]
    if code is None:
        status, error = LATE, f"not done after {limit:.0f} s"
    elif answer.get("not_run"):
        status, error = NOT_RUN, answer["not_run"]
    elif code or answer.get("failed"):
        status, error = FAILED, answer.get("failed") or last or f"exit status {code}"
    outcome = Outcome(part.name, part.kind, part.what, status, round(time.monotonic() - started, 1), round(limit, 1))
    outcome.error, outcome.result, outcome.beside = error, answer.get("result"), sampled
    if status in (LATE, FAILED):
        outcome.log = said[-LOG:]
    return outcome


@contextlib.contextmanager
def _beside(file: Path, uuid: str | None) -> Iterator[Callable[[], dict[str, list[float]] | None]]:
    """Sample BESIDE of this GPU into a file during the block; yield the function that reads it after."""
    process = None
    if uuid:
        query = f"--query-gpu={','.join(BESIDE)}"
        with contextlib.suppress(OSError), file.open("wb") as output:
            process = subprocess.Popen(
                ["nvidia-smi", query, "--format=csv,noheader,nounits", f"--id=GPU-{uuid}", "--loop-ms=250"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.DEVNULL,
            )

    def read() -> dict[str, list[float]] | None:
        found: dict[str, list[float]] = {name: [] for name in BESIDE.values()}
        for line in file.read_text().splitlines() if file.exists() else []:
            for name, value in zip(BESIDE.values(), line.split(","), strict=False):
                if re.fullmatch(r"\s*[\d.]+\s*", value):  # it says N/A where it cannot know
                    found[name].append(float(value))
        spread = {name: sorted(values) for name, values in found.items() if values}
        return {name: [v[0], v[len(v) // 2], v[-1]] for name, v in spread.items()} or None

    try:
        yield read
    finally:
        if process:
            process.kill()
            process.wait()


def _environment() -> dict[str, str]:
    """Environment of the parts: this package before others, and nothing from a network."""
    root = str(Path(m2f_ros.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    defaults = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "GOMP_SPINCOUNT": "1000"}
    return {**defaults, **os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
