"""Scores the recording of a drive that played through a segmentation node, and writes the report beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from m2f_ros.bags.writer import written_files
from m2f_ros.evaluation.coverage import partial_measures
from m2f_ros.evaluation.options import Options
from m2f_ros.evaluation.report import check_out, write_report
from m2f_ros.evaluation.report.tables import PROBLEMS
from m2f_ros.evaluation.run import LEFT_OUT, NOT_COMPARABLE, evaluate
from m2f_ros.evaluation.text import not_comparable

# Names in the folder of the report.
BAG, TAXONOMY = "recording", "truth_taxonomy.yaml"
FILES = tuple(f"{BAG}/{file}" for file in written_files(BAG, "mcap"))


@dataclass(frozen=True)
class Recording:
    """A recording to score.

    Attributes:
        out: folder of the report; the bag is in it.
        label, truth: topics of the labels and of the ground truth.
        truth_taxonomy: True where TAXONOMY says what the ids of the ground truth mean; False: its legend does.
        classes: classes to score in, see classes.choose.
        measures: measures beside those of the labels: boundary, flips; others need no word, their topics are there.
        worst: number of worst frames to show.
        until_ns: stamp of the last frame to score, in nanoseconds; None: all.
        keep: keeps the bag when the report is written.
        problems: reasons why the recording is of a part of the drive, a line each.
    """

    out: Path
    label: str
    truth: str
    truth_taxonomy: bool
    classes: str | None
    measures: tuple[str, ...]
    worst: int
    until_ns: int | None
    keep: bool
    problems: tuple[str, ...]


def score(recording: Recording, say: Callable[[str], None], begin_report: Callable[[], None] = lambda: None) -> bool:
    """Score a recording as `m2f eval` does and write the report. Returns False where it is of a part of the drive.

    Frames that never came are no reason: they are what is measured.

    say: called with each line for the user. begin_report: called before the first file is written.
    Raises as `evaluate` and `write_report`.
    """
    out, bag = recording.out, str(recording.out / BAG)
    options = Options(
        predictions=(bag,),
        truth=(bag,),
        classes=recording.classes,
        taxonomy=str(out / TAXONOMY) if recording.truth_taxonomy else None,
        topic=recording.label,
        truth_topic=recording.truth,
        boundary="boundary" in recording.measures,
        flips="flips" in recording.measures,
        worst=recording.worst,
        allow_missing="100%",
        workers=1,
        until_ns=recording.until_ns,
    )
    with tqdm(desc="scoring", unit="frame", disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        result, worst = evaluate(options, progress)
    result.predictions, result.truth = recording.label, recording.truth
    problems = [*recording.problems, *result.settings[PROBLEMS], *partial_measures(result)]
    result.settings |= {"live": True, PROBLEMS: problems}
    begin_report()
    write_report(result, worst, out)
    if not recording.keep:
        with check_out(out) as results:
            results.discard(FILES)
    for line in result.settings.get(LEFT_OUT, []):
        say(f"warning: without pictures and flips: {line}")
    if names := result.settings.get(NOT_COMPARABLE):
        say(f"warning: {not_comparable(names)}; set classes:=FILE.yaml")
    for line in problems:
        say(f"warning: {line}")
    for line in result.notes:
        say(f"note: {line}")
    frames = result.frames
    say(
        f"{frames['scored']} of {frames['truth']} frames scored, {frames['missing']} never came, "
        f"mIoU {result.metrics['miou']:.3f}: {out.resolve() / 'report.html'}"
    )
    return not problems
