"""Scores the recording of a drive that played through a segmentation node, and writes the report beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from m2f_ros.bags.writer import written_files
from m2f_ros.evaluation.coverage import partial_measures
from m2f_ros.evaluation.options import Options
from m2f_ros.evaluation.report import check_out, write_report
from m2f_ros.evaluation.report.tables import PROBLEMS
from m2f_ros.evaluation.result import TRANSPORT
from m2f_ros.evaluation.run import LEFT_OUT, NOT_COMPARABLE, evaluate
from m2f_ros.evaluation.text import not_comparable

# Names in the folder of the report.
BAG, TAXONOMY = "recording", "truth_taxonomy.yaml"
FILES = tuple(f"{BAG}/{file}" for file in written_files(BAG, "mcap"))


def score(
    options: Options,
    out: Path,
    problems: Sequence[str],
    keep: bool,
    never_arrived: int | None,
    transport: str,
    say: Callable[[str], None],
    begin_report: Callable[[], None] = lambda: None,
) -> bool:
    """Score a recording as `m2f eval` does and write the report. Returns False where it is of a part of the drive.

    Frames that never came are no such reason: they are measured.

    options: with topics; the report names these in place of the bag.
    out: folder of the report, with the recording.
    problems: reasons why the recording is of a part of the drive, a line each.
    keep: keeps the recording.
    never_arrived: number of frames that were lost on the way to the node; None where that is unknown.
    transport: how images came to the node, named where frames were lost.
    say: called with each line for the user.
    begin_report: called before the first file is written.

    Raises as `evaluate` and `write_report`.
    """
    with tqdm(desc="scoring", unit="frame", disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        result, worst = evaluate(options, progress)
    result.predictions, result.truth = options.topic or "", options.truth_topic or ""
    problems = [*problems, *result.settings[PROBLEMS], *partial_measures(result)]
    result.settings |= {"live": True, PROBLEMS: problems}
    result.never_arrived = never_arrived
    if never_arrived:
        result.settings[TRANSPORT] = transport
    begin_report()
    write_report(result, worst, out)
    if not keep:
        with check_out(out) as results:
            results.discard(FILES)
    lines = [f"warning: without pictures and flips: {line}" for line in result.settings.get(LEFT_OUT, [])]
    if names := result.settings.get(NOT_COMPARABLE):
        lines.append(f"warning: {not_comparable(names)}; set classes:=FILE.yaml")
    lines += [f"warning: {line}" for line in problems] + [f"note: {line}" for line in result.notes]
    frames = result.frames
    lines.append(
        f"{frames['scored']} of {frames['truth']} frames scored, {frames['missing']} never came, "
        f"mIoU {result.metrics['miou']:.3f}: {out.resolve() / 'report.html'}"
    )
    for line in lines:
        say(line)
    return not problems
