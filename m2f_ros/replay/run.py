"""Replays drives in sequence or in parallel, with a progress bar."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatch
from functools import partial
from glob import glob
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from m2f_ros.bags.files import bag_name, is_bag
from m2f_ros.bags.reader import bags_in
from m2f_ros.errors import M2fError, OutputError, WorkerError
from m2f_ros.files import file_names
from m2f_ros.processes.stopping import Stop
from m2f_ros.processes.workers import available_cores, map_jobs
from m2f_ros.replay.folder import how_far
from m2f_ros.replay.job import Job, Outcome, inputs_of, run_job
from m2f_ros.replay.settings import Settings
from m2f_ros.replay.space import open_for
from m2f_ros.results import Results
from m2f_ros.sources.files import is_image
from m2f_ros.sources.sample import Source

log = logging.getLogger("m2f_ros.replay")


def run(
    drives: Sequence[str],
    out: Path,
    settings: Settings,
    *,
    restart: bool = False,
    workers: int = 0,
    devices: Sequence[str] = (),
    ray: bool = False,
) -> tuple[list[Outcome], int]:
    """Replay drives. Return the outcome of each, in their order, and the signal that stopped the run, or 0.

    Args:
        drives: drives of `open_drive`, patterns such as "drives/*", and folders of bags.
        out: folder of the result; for several drives, a pattern, or a folder of bags, the parent of a folder for each.
        workers: number of parallel drives, each in its own process; 0 for one a device.
        devices: devices for the drives, in turns; replaces the settings' device.
        ray: True to use Ray's workers; see `map_jobs`.
    Raises:
        OutputError: the next run would take `out` for a drive.
    """
    _refuse_among_drives(drives, out)
    jobs = [
        Job(
            number,
            drive,
            folder,
            replace(settings, device=devices[number % len(devices)]) if devices else settings,
            restart,
        )
        for number, (drive, folder) in enumerate(named(drives, out))
    ]
    workers = min(workers or len(devices) or 1, len(jobs))
    if workers * settings.threads > available_cores() and workers > 1 and not ray:
        log.warning(
            "%d workers with %d threads each on %d cores: fewer --workers or --threads are quicker",
            workers,
            settings.threads,
            available_cores(),
        )
    outcomes: dict[int, Outcome] = {}
    total: int | None = 0
    drive = None
    for job in jobs:
        try:
            Results(job.out, "m2f replay", inputs_of(job))
            drive = open_for(job.drive, settings)
            total = None if total is None or drive.length is None else total + drive.length
        except M2fError as error:
            outcomes[job.number] = Outcome(job, "failed", str(error))
    left = [job for job in jobs if job.number not in outcomes]
    one = drive if len(jobs) == 1 else None  # several drives would keep too many files open
    with Stop() as stop:
        if left:
            with _Bar(total) as bar, logging_redirect_tqdm():  # puts warnings on separate lines
                outcomes.update(
                    (outcome.job.number, outcome) for outcome in _outcomes(left, workers, ray, stop, bar, one)
                )
    return [outcomes.get(job.number) or Outcome(job, "stopped", next=how_far(job.out)) for job in jobs], stop.number


def _refuse_among_drives(drives: Sequence[str], out: Path) -> None:
    for given in drives:
        folder = Path(os.path.realpath(given))
        inside = folder in Path(os.path.realpath(out)).parents and _drives_in(Path(given))
        if inside or (not folder.exists() and fnmatch(os.path.normpath(out), os.path.normpath(given))):
            raise OutputError(
                f"--out {out}: is among the drives {given}, and would be taken for one: name another folder"
            )


def named(drives: Sequence[str], out: Path) -> list[tuple[str, Path]]:
    """Return each drive with its output folder, after expanding and sorting patterns and folders of bags."""
    found: list[str] = []
    for drive in drives:
        for path in [drive] if Path(drive).exists() else sorted(glob(drive)) or [drive]:
            found += _drives_in(Path(path)) or [path]
    if found == list(drives) and len(found) == 1:
        return [(found[0], out)]
    paths = map(Path, found)
    names = file_names(path.stem if path.is_file() and not is_bag(path) else bag_name(path) for path in paths)
    return [(drive, out / name) for drive, name in zip(found, names, strict=True)]


def _drives_in(folder: Path) -> list[str]:
    """Return the bags in a folder; none if the folder is a drive itself."""
    if not folder.is_dir() or (not is_bag(folder) and any(map(is_image, folder.iterdir()))):
        return []
    return [str(path) for path in bags_in(folder)]


def _outcomes(
    jobs: Sequence[Job], workers: int, ray: bool, stop: Stop, bar: _Bar, drive: Source | None
) -> Iterator[Outcome]:
    """drive: the only job's, which is open already."""
    if workers == 1 and not ray:
        for job in jobs:
            if stop():
                return
            yield run_job(job, stop, bar, drive)
        return
    with _listening(bar) as progress:
        settings = jobs[0].settings
        done = map_jobs(
            _on_ray if ray else _in_worker,
            jobs,
            workers,
            ray=ray,
            cores=settings.threads,
            gpus=1 if settings.device.startswith("cuda") else 0,
            begin=partial(_begin_worker, progress),
            failed=_failed,
            stopped=stop,
        )
        for _, outcome in done:
            if ray:  # workers of Ray send nothing meanwhile
                bar(outcome.job.number, outcome.next)
            yield outcome


def _failed(job: Job, error: WorkerError) -> Outcome:
    return Outcome(job, "failed", str(error))


# In a worker's process

_stop = Stop()
_progress: Connection | None = None


def _begin_worker(progress: Connection) -> None:
    global _progress
    _progress = progress
    _stop.listen()


def _in_worker(job: Job) -> Outcome:
    # A pipe takes so few bytes whole, whoever else writes and wherever a process dies.
    assert _progress is not None, "_begin_worker comes first"
    progress = _progress
    return run_job(job, _stop, lambda *at: progress.send(at))


def _on_ray(job: Job) -> Outcome:
    return run_job(job, lambda: False, lambda *at: None)


# The bar


class _Bar:
    """Counts the processed images of all drives."""

    def __init__(self, total: int | None) -> None:
        self._bar = tqdm(total=total, unit="image")
        self._at: dict[int, int] = {}

    def __call__(self, number: int, images: int) -> None:
        """Set the number of processed images of drive `number`. The first call counts those of an earlier run."""
        before = self._at.get(number)
        self._at[number] = images
        if before is None:
            self._bar.initial += images
            self._bar.unpause()  # excludes the loading of a model from the rate
        self._bar.update(images - (before or 0))

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.close()


@contextmanager
def _listening(bar: _Bar) -> Iterator[Connection]:
    """Yield the end of a pipe that takes (number, images) from any process, for the bar."""
    receiver, sender = Pipe(duplex=False)

    def listen() -> None:
        while (at := receiver.recv()) is not None:
            bar(*at)

    thread = threading.Thread(target=listen, name="progress", daemon=True)
    thread.start()
    try:
        yield sender
    finally:
        sender.send(None)
        thread.join()
