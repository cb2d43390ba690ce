"""Fuzzes what reads untrusted input, each target in a process of its own: make fuzz SECONDS=… TARGET=…

Ends with 1 where a target fails: a crash, an input that takes longer than 20 s or more memory than the largest picture,
or an exception that is not documented. The input is kept, and named with the command that takes it again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import re
import resource
import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parent))
from targets import TARGETS, Target

# Megabytes beyond what the process has before the first input: what the largest picture that is allowed takes.
ROOM = 1024
SLOWEST = 20  # seconds
LONGEST = 1 << 16  # bytes of an input


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", choices=TARGETS, action="append", help="one of them, instead of all; repeatable")
    parser.add_argument("--seconds", type=int, default=10, help="for each target")
    parser.add_argument("--runs", type=int, help="inputs for each target, instead of seconds")
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"), help="folder for what is found")
    parser.add_argument("files", nargs="*", help="inputs that --target takes once each, instead")
    given = parser.parse_args()
    if given.seconds < 1:  # also where bash has made 0 of what is no number
        parser.error("SECONDS has to be a whole number from 1 on")
    given.out.mkdir(parents=True, exist_ok=True)
    limit = f"-runs={given.runs}" if given.runs else f"-max_total_time={given.seconds}"
    names = given.target or list(TARGETS)
    # Before the processes part: the modules are imported and instrumented once.
    with contextlib.redirect_stderr(io.StringIO()), atheris.instrument_imports(include=["m2f_ros"]):
        targets = {name: TARGETS[name]() for name in names}
    failed = [name for name in names if not _fuzz(name, targets[name], limit, given.out, given.files)]
    return 1 if failed else 0


def _fuzz(name: str, target: Target, limit: str, out: Path, files: list[str]) -> bool:
    """Fuzz one target. Returns True if it found nothing."""
    log = out / f"{name}.log"
    with tempfile.TemporaryDirectory(prefix="m2f_fuzz_") as folder:
        for i, seed in enumerate(target[0]):
            (Path(folder) / f"{i:03d}").write_bytes(seed)
        sys.stdout.flush()
        if (child := os.fork()) == 0:
            _run(target[1], target[2], log, [limit, f"-artifact_prefix={out}/{name}-", *(files or [folder])])
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    text = log.read_text(errors="replace")
    figures = dict(re.findall(r"^stat::(\w+):\s+(\d+)", text, re.MULTILINE))
    runs, memory = (figures.get(key, "?") for key in ("number_of_executed_units", "peak_rss_mb"))
    print(f"{name}: {runs} inputs, {memory} MB at most", flush=True)
    if status == 0:
        log.unlink()
        return True
    written = re.search(r"Test unit written to (\S+)", text)
    again = f"--target {name} {written[1] if written else ''}"
    print(f"{name}: failed with {status}, see {log}; again with\n  . scripts/env.sh && python {__file__} {again}")
    return False


def _run(take, mutate, log: Path, options: list[str]) -> None:
    """Take the place of this process until it ends."""
    logging.disable()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sizes = dict(re.findall(r"^(VmSize|VmRSS):\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE))
    room = (int(sizes["VmSize"]) << 10) + (2 * ROOM << 20)
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    limits = [f"-rss_limit_mb={(int(sizes['VmRSS']) >> 10) + ROOM}", f"-timeout={SLOWEST}", f"-max_len={LONGEST}"]
    mutator = {}
    if mutate is not None:
        mutator["custom_mutator"] = lambda data, size, seed: mutate(data, size, seed, atheris.Mutate)
    atheris.Setup([sys.argv[0], *limits, "-print_final_stats=1", *options], take, **mutator)
    atheris.Fuzz()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
