"""result.json, report.md and report.html of an evaluation."""

from __future__ import annotations

import os
from collections.abc import Iterable
from glob import glob
from pathlib import Path

from m2f_ros.bags.files import is_bag
from m2f_ros.errors import EvaluationError
from m2f_ros.evaluation.intervals import miou_interval
from m2f_ros.evaluation.report import markdown, page
from m2f_ros.evaluation.report.worst import WorstFrame
from m2f_ros.evaluation.result import Result
from m2f_ros.files import write_whole
from m2f_ros.results import Results

FILES = ("result.json", "report.md", "report.html")
PREVIOUS = "previous"  # folder of the last report, in that of the next one until it is written


def check_out(out: Path, inputs: Iterable[str | Path | None] = ()) -> Results:
    """Check the folder of the report and return it; nothing is written yet. inputs: files that are read, and globs.

    Raises EvaluationError where `out` is a bag, and OutputError where it holds something else, an input, or a report
    that somebody has changed.
    """
    if os.path.isdir(out) and is_bag(out):
        raise EvaluationError(f"{out}: is a bag; choose another folder for the report")
    results = Results(out, "m2f eval", (path for given in inputs if given for path in glob(str(given)) or [str(given)]))
    results.check(FILES)
    return results


def set_aside(results: Results) -> bool:
    """Move the last report, and what was written beside it, into the folder PREVIOUS. Returns True if there was one.

    It takes the place of what is in PREVIOUS. Without it PREVIOUS stays, and everything else goes: files of a run that
    has ended without a report. Raises OutputError, with all as it was, if a file was changed.
    """
    aside = _previous(results)
    beside = [name for name in results.names if name not in aside]
    results.check([*aside, *beside])
    is_there = any(name in beside and (results.folder / name).exists() for name in FILES)
    if is_there:
        results.discard(aside)
        results.move(beside, PREVIOUS)
    else:
        results.discard(beside)
    return is_there


def _previous(results: Results) -> list[str]:
    return [name for name in results.names if name.startswith(f"{PREVIOUS}/")]


def write_report(result: Result, worst: list[WorstFrame], out: Path) -> None:
    """Write the files into the folder `out`, which is made, in place of those of an earlier run; each is whole.

    The report of an earlier run that `set_aside` kept is removed in the end.

    worst: the frames of lowest mean IoU, lowest first.

    Raises as `check_out`, EvaluationError where `out` cannot be written, and ConfigError where jinja2 or matplotlib is
    not installed: then all files but report.html are there.
    """
    results = check_out(out)
    interval = miou_interval(result)
    try:
        with results:
            results.discard(["report.html"])
            results.claim(FILES, keep=True)
            result.save(out / "result.json")
            write_whole(out / "report.md", markdown.page(result, interval))
            write_whole(out / "report.html", page.page(result, worst, interval))
            results.discard(_previous(results))
    except OSError as error:
        raise EvaluationError(f"the report cannot be written to {out}: {error.strerror}") from None
