"""result.json, report.md and report.html of an evaluation."""

from __future__ import annotations

from pathlib import Path

from m2f_ros.errors import EvaluationError
from m2f_ros.evaluation.intervals import miou_interval
from m2f_ros.evaluation.report import markdown, page
from m2f_ros.evaluation.report.worst import WorstFrame
from m2f_ros.evaluation.result import Result


def write_report(result: Result, worst: list[WorstFrame], out: Path) -> None:
    """Write the files into the folder `out`, which is made, in the place of those of an earlier run.

    worst: the frames of lowest mean IoU, lowest first. Raises EvaluationError where `out` cannot be written, and
    ConfigError where jinja2 or matplotlib is not installed: then all but report.html is there.
    """
    interval = miou_interval(result)
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "report.html").unlink(missing_ok=True)
        result.save(out / "result.json")
        (out / "report.md").write_text(markdown.page(result, interval), encoding="utf-8")
        (out / "report.html").write_text(page.page(result, worst, interval), encoding="utf-8")
    except OSError as error:
        raise EvaluationError(f"the report cannot be written to {out}: {error.strerror}") from None
