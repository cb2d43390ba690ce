"""result.json, report.md and report.html of an evaluation."""

from __future__ import annotations

from pathlib import Path

from m2f_ros.errors import EvaluationError
from m2f_ros.evaluation.intervals import miou_interval
from m2f_ros.evaluation.report import markdown, page
from m2f_ros.evaluation.report.worst import WorstFrame
from m2f_ros.evaluation.result import Result
from m2f_ros.files import write_whole
from m2f_ros.replay.bag_files import is_bag


def check_out(out: Path) -> None:
    """Raises EvaluationError where `out` is a bag, among whose files a report has no place."""
    if is_bag(Path(out)):
        raise EvaluationError(f"{out}: is a bag; choose another folder for the report")


def write_report(result: Result, worst: list[WorstFrame], out: Path) -> None:
    """Write the files into the folder `out`, which is made, in the place of those of an earlier run; each is whole.

    worst: the frames of lowest mean IoU, lowest first. Raises EvaluationError where `out` is a bag or cannot be
    written, and ConfigError where jinja2 or matplotlib is not installed: then all but report.html is there.
    """
    check_out(out)
    interval = miou_interval(result)
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "report.html").unlink(missing_ok=True)
        result.save(out / "result.json")
        write_whole(out / "report.md", markdown.page(result, interval))
        write_whole(out / "report.html", page.page(result, worst, interval))
    except OSError as error:
        raise EvaluationError(f"the report cannot be written to {out}: {error.strerror}") from None
