"""The job of a worker, a drive to replay, and its outcome."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import m2f_ros
from m2f_ros.bags.files import bag_path, is_bag
from m2f_ros.errors import M2fError
from m2f_ros.replay.folder import Folder, Progress
from m2f_ros.replay.settings import TRUTH, Settings
from m2f_ros.replay.space import open_for
from m2f_ros.sources.open import is_street
from m2f_ros.sources.sample import Source

if TYPE_CHECKING:
    from m2f_ros.pipeline import Pipeline
    from m2f_ros.pipeline.build import PipelineSettings
    from m2f_ros.replay.truth import TrueLabels

log = logging.getLogger("m2f_ros.replay")


@dataclass(frozen=True)
class Job:
    """A drive to replay.

    Attributes:
        number: number of the drive, from 0.
        out: folder of the result.
        restart: see Folder.
    """

    number: int
    drive: str
    out: Path
    settings: Settings
    restart: bool = False

    def __str__(self) -> str:
        return self.drive


@dataclass(frozen=True)
class Outcome:
    """The end of a job.

    Attributes:
        status: "finished"; "stopped", to be resumed by the same command; or "failed".
        problem: one line on why images are missing, or "".
        segmented: number of segmented images so far.
        next: number of the first unprocessed image.
        seconds: wall time of the segmentation, seconds.
        pipeline_share: see Progress.
        before: True if it was finished before this run.
    """

    job: Job
    status: Literal["finished", "stopped", "failed"]
    problem: str = ""
    segmented: int = 0
    next: int = 0
    seconds: float = 0.0
    pipeline_share: float | None = None
    before: bool = False


def inputs_of(job: Job) -> list[str | Path]:
    """Return the names of all inputs of a job, files and others."""
    path = bag_path(job.drive)
    simulated = is_street(job.drive) and not is_bag(path)
    return [job.settings.model, *([] if simulated else [path])]


def describe(outcome: Outcome) -> str:
    """Return the outcome as a line of text."""
    job = outcome.job
    if outcome.status == "failed":
        kept = f"; {outcome.segmented} images before that are kept: {job.out}" if outcome.segmented else ""
        return f"m2f: error: {outcome.problem}{kept}"
    if outcome.status == "stopped" and not outcome.next:
        return f"{job.drive}: stopped before its first image; the same command begins it"
    if outcome.status == "stopped":
        return f"{job.drive}: stopped after {outcome.next} images; the same command goes on from there, in {job.out}"
    rate = f" ({outcome.segmented / outcome.seconds:.1f} a second)" if outcome.seconds else ""
    share = "" if outcome.pipeline_share is None else f", {outcome.pipeline_share:.0%} of the time in the pipeline"
    line = f"{job.drive}: {outcome.segmented} images in {outcome.seconds:.1f} s{rate}{share}: {job.out}"
    if outcome.before:
        line = f"{job.drive}: was finished before, with {outcome.segmented} images (--restart begins anew): {job.out}"
    return f"{line}\nm2f: error: {job.drive}: {outcome.problem}" if outcome.problem else line


def run_job(
    job: Job, stopped: Callable[[], bool], progress: Callable[[int, int], None], drive: Source | None = None
) -> Outcome:
    """Replay a drive, or the rest of it. Errors become a failed outcome.

    Args:
        progress: function of the job's number and that of the first unprocessed image; also called at the start.
        drive: opened drive of the job, or None.
    """
    try:
        return _run(job, stopped, progress, drive)
    except Exception as error:
        return _failed(job, error, Progress())


def _failed(job: Job, error: Exception, done: Progress) -> Outcome:
    """Return the outcome of an error, for an `except` block. done: progress before it."""
    line = str(error)
    if not isinstance(error, M2fError):
        log.exception("%s", job.drive)
        line = f"{type(error).__name__}: {' '.join(line.split())}"
    line = line if line.startswith(job.drive) else f"{job.drive}: {line}"
    return Outcome(job, "failed", line, sum(done.segmented.values()), done.next)


def _run(job: Job, stopped: Callable[[], bool], progress: Callable[[int, int], None], drive: Source | None) -> Outcome:
    from m2f_ros.replay.replay import replay
    from m2f_ros.replay.video import write_videos

    settings = job.settings
    drive = drive or open_for(job.drive, settings)
    if settings.model == TRUTH:
        from m2f_ros.replay.truth import TrueLabels

        pipeline: Pipeline | TrueLabels = TrueLabels(drive)
    else:
        pipeline = load_pipeline(settings)
        if not pipeline.finds_segments:
            settings = settings.without_segments(pipeline.no_segments if settings.tta or settings.windows else "")
    path = bag_path(job.drive)
    where = path.resolve() if path.exists() or is_bag(path) else job.drive
    record = {
        "drive": str(where),
        **settings.record(),
        # The resolved "auto", since results depend on the type of device, but not on its number.
        "device": pipeline.device.type,
        "precision": pipeline.precision,
        "backend": pipeline.backend,
        "images": drive.length,
        "m2f_ros": m2f_ros.__version__,
    }
    with Folder(job.out, record, job.restart, inputs_of(job)) as folder:
        before = folder.progress.finished
        progress(job.number, folder.progress.next)
        try:
            if not before and replay(
                drive, pipeline, folder, settings, stopped, lambda images: progress(job.number, images)
            ):
                finished = not settings.video or write_videos(folder.results, drive.cameras, stopped)
                # A continued replay does not read again what is before its first image: `lost` has the damage there.
                problem = folder.progress.problem or drive.problem or folder.progress.lost
                folder.save(replace(folder.progress, problem=problem, finished=finished))
        except Exception as error:
            return _failed(job, error, folder.progress)
        done = folder.progress
        return Outcome(
            job,
            "finished" if done.finished else "stopped",
            done.lack,
            sum(done.segmented.values()),
            done.next,
            done.seconds["wall"],
            done.pipeline_share,
            before,
        )


def load_pipeline(settings: Settings) -> Pipeline:
    """Load the pipeline of these settings, cached for the next drive."""
    return _build(pipeline_settings(settings))


def pipeline_settings(settings: Settings) -> PipelineSettings:
    """Return the pipeline's part of a replay's settings."""
    from m2f_ros.pipeline.build import PipelineSettings
    from m2f_ros.pipeline.resize import Resize
    from m2f_ros.pipeline.views import Views
    from m2f_ros.replay.replay import IN_FLIGHT

    if settings.size:
        height, width = settings.size
        resize = Resize("fixed", height=height, width=width, stride=1)
    else:
        resize = Resize(max_pixels=settings.max_pixels, stride=1)
    return PipelineSettings(
        model=settings.model,
        device=settings.device,
        precision=settings.precision,
        backend=settings.backend,
        slots=IN_FLIGHT,
        threads=settings.threads,
        resize=resize,
        views=Views.parse(settings.tta, settings.windows, settings.window_overlap),
        track_by=settings.track_by,
    )


@lru_cache(maxsize=1)
def _build(settings: PipelineSettings) -> Pipeline:
    from m2f_ros.pipeline.build import build_pipeline

    return build_pipeline(settings)
