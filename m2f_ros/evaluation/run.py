"""Scores predictions against ground truth, drive by drive, in one process or several."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from m2f_ros.errors import EvaluationError
from m2f_ros.evaluation import classes as scoring
from m2f_ros.evaluation.bag_drive import BagDrive
from m2f_ros.evaluation.blocks import per_drive
from m2f_ros.evaluation.classes import Classes
from m2f_ros.evaluation.coverage import TRUTH_ABSENT, allowed, shortfalls
from m2f_ros.evaluation.drives import Drive, find_drives
from m2f_ros.evaluation.options import Options
from m2f_ros.evaluation.report.tables import PROBLEMS
from m2f_ros.evaluation.report.worst import WorstFrame
from m2f_ros.evaluation.result import Result
from m2f_ros.evaluation.scores import Scores

log = logging.getLogger("m2f_ros.evaluation")

# The setting that lists the classes in the ground truth that no predicted class maps to.
NOT_COMPARABLE = "not_comparable"
# The setting that gives the reasons why pictures and flips of a drive were left out.
LEFT_OUT = "without_pictures_and_flips"
# The setting that says that predictions were matched by their order, since no name fitted.
IN_ORDER = "matched_in_order"
# Settings that change no score.
_WITHOUT_EFFECT = ("predictions", "truth", "workers", "ray")


def evaluate(
    options: Options, progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[Result, list[WorstFrame]]:
    """Score predictions; returns the result and the worst frames with their pictures.

    progress: called with the number of frames done and the number of all frames.

    Raises EvaluationError, SourceError or TaxonomyError for inputs that do not exist or do not fit each other.
    """
    allowed(options.allow_missing, 0)  # before the minutes that scoring takes
    drives = find_drives(options)
    classes = _classes(drives, options.classes)
    total = sum(drive.frames for drive in drives)
    jobs = [Job(drive, classes, options, per_drive(len(drives))) for drive in drives]
    scores, said = jobs[0].empty(), {}
    done = 0

    def tick(frames: int = 1) -> None:
        nonlocal done
        done += frames
        progress(done, total)

    for i, (part, *lines) in _results(jobs, options, tick):
        scores += part
        said[i] = lines
    settings = {key: value for key, value in asdict(options).items() if key not in _WITHOUT_EFFECT}
    settings[PROBLEMS], left_out = ([line for i in sorted(said) for line in said[i][k]] for k in range(2))
    if left_out:
        settings[LEFT_OUT] = left_out
    if absent := sum(drive.truth_absent for drive in drives):
        settings[TRUTH_ABSENT] = absent
    if any(drive.in_order for drive in drives):
        settings[IN_ORDER] = True
    models = sorted({drive.model for drive in drives if drive.model})
    result = scores.result(
        predictions=", ".join(options.predictions),
        truth=", ".join(options.truth),
        model=", ".join(models),
        settings=settings,
    )
    if not result.frames["scored"]:
        raise EvaluationError(
            f"{result.predictions}: no frame was scored: no prediction belongs to one of {result.truth}"
        )
    if result.metrics["miou"] is None:
        raise EvaluationError(f"{result.truth}: no pixel of the ground truth is of a class, all are unlabelled")
    settings[PROBLEMS] += shortfalls(result, options.allow_missing)
    _note_not_comparable(result, classes)
    return result, scores.worst


def _note_not_comparable(result: Result, classes: Classes) -> None:
    """List in the settings the classes of the ground truth that no predicted class maps to."""
    unpredicted = classes.unpredicted
    if there := [row["name"] for row in result.classes if row["share"] and row["name"] in unpredicted]:
        result.settings[NOT_COMPARABLE] = there


@dataclass(frozen=True)
class Job:
    """A drive to score; it is sent to a worker process."""

    drive: Drive
    classes: Classes
    options: Options
    blocks: int

    def __str__(self) -> str:
        return self.drive.name

    def empty(self) -> Scores:
        """Return scores without frames."""
        return Scores(self.classes.taxonomy, self.blocks, self.options.boundary, self._flips(), self.options.worst)

    def _flips(self) -> bool:
        return self.drive.consecutive if self.options.flips is None else self.options.flips

    def run(self, tick: Callable[[], None] = lambda: None) -> tuple[Scores, list[str], list[str]]:
        """Score the drive.

        tick: called after each frame with ground truth.

        Returns the scores, the problems of the recording, and the reasons why pictures and flips were left out, a line
        each.
        """
        scores = self.empty()
        problems: list[str] = []
        left_out: list[str] = []
        scores.add_drive(self.drive.name)
        images = self._flips() or self.options.worst > 0
        until = self.options.until_ns
        for pair in self.drive.pairs(self.classes, problems, left_out, images):
            if until is not None and pair.stamp_ns > until:
                continue
            scores.update(pair)
            if pair.truth is not None:
                tick()
        if isinstance(self.drive, BagDrive):
            self.drive.score_space(scores.counts, self.classes, problems, until)
        if left_out:
            scores.forget_flips()
        scores.end_drive(self.drive.name)
        scores.add_without_truth(self.drive.alone)
        return scores, problems, left_out


def _results(
    jobs: Sequence[Job], options: Options, tick: Callable[..., None]
) -> Iterator[tuple[int, tuple[Scores, list[str], list[str]]]]:
    """Yield (number of the job, result of the job) in the order in which jobs end."""
    from m2f_ros.processes.workers import available_cores, map_jobs

    workers = min(options.workers or available_cores(), len(jobs))
    if workers == 1 and not options.ray:
        for i, job in enumerate(jobs):
            yield i, job.run(tick)
        return
    for i, result in map_jobs(Job.run, jobs, workers, ray=options.ray):
        tick(jobs[i].drive.frames)
        yield i, result


def _classes(drives: Sequence[Drive], spec: str | None) -> Classes:
    """Choose the classes of all drives. Raises EvaluationError where the drives have different taxonomies."""
    first = drives[0]
    for drive in drives[1:]:
        for what in ("truth_taxonomy", "prediction_taxonomy"):
            here, there = getattr(first, what), getattr(drive, what)
            if here.names != there.names:
                raise EvaluationError(
                    f"{what.replace('_', ' ')} is {here.name} in {first.name} but {there.name} in {drive.name}: "
                    "score drives of different classes apart"
                )
    return scoring.choose(first.truth_taxonomy, first.prediction_taxonomy, spec)
