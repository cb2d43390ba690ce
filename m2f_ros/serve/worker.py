"""Runs the pipeline of one model in a thread. Requests of a moment become batches."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple

from m2f_ros.errors import M2fError
from m2f_ros.frame.frame import Frame
from m2f_ros.pipeline.images import ImageSegmenter, Thresholds, want_of
from m2f_ros.pipeline.resize import Placement
from m2f_ros.pipeline.segmentation import Segmentation


class BusyError(M2fError):
    """More images wait than may wait."""


class _Key(NamedTuple):
    """Images of one key may share a batch: the size of the network's input, the output, the thresholds."""

    network: tuple[int, int]
    want: str
    thresholds: Thresholds


@dataclass
class _Job:
    frame: Frame
    key: _Key
    placement: Placement
    future: Future[Segmentation] = field(default_factory=Future)


class Worker:
    """The thread of one model.

    Args:
        segmenter: nothing else may use it.
        batch: most images of a batch.
        wait: seconds for which the first image of a batch waits for others.
        waiting: most images that wait.
    Attributes:
        on_batch: called in the thread with the number of images of each batch.
    """

    def __init__(self, segmenter: ImageSegmenter, batch: int, wait: float, waiting: int):
        self.segmenter = segmenter
        self.on_batch: Callable[[int], object] = lambda size: None
        self._batch, self._wait = batch, wait
        self._queue: queue.Queue[_Job | None] = queue.Queue()
        self._most = waiting
        self._waiting = 0
        self._lock = threading.Lock()
        self._later: deque[_Job] = deque()  # of other keys than the batch for which they were taken out
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="serve", daemon=True)
        self._thread.start()

    def check_room(self) -> None:
        """Raise BusyError if an image that came now would not be taken."""
        if self._closing:
            raise BusyError("the server is stopping")
        if self._waiting >= self._most:
            raise BusyError(f"{self._waiting} images wait already: try again later")

    @property
    def waiting(self) -> int:
        """Number of images that wait."""
        return self._waiting

    def submit(self, frame: Frame, subtask: str | None, thresholds: Thresholds) -> Future[Segmentation]:
        """Return the future of an image's result. Thread-safe. Cancelled before its turn, it costs nothing.

        Raises:
            BusyError: too many images wait.
            ConfigError: see `ImageSegmenter`.
        """
        want = want_of(self.segmenter.check(subtask, thresholds))
        placement = self.segmenter.pipeline.resize.place(*frame.size)
        job = _Job(frame, _Key(placement.network, want, thresholds), placement)
        with self._lock:
            self.check_room()
            self._waiting += 1
        self._queue.put(job)
        return job.future

    def close(self) -> None:
        """Finish what waits, then free the model."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        self._queue.put(None)
        self._thread.join()
        self.segmenter.close()

    def _run(self) -> None:
        more = True
        while more or self._later:
            jobs, more = self._gather(more)
            jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if jobs:
                self.on_batch(len(jobs))
                self._segment(jobs)

    def _gather(self, more: bool) -> tuple[list[_Job], bool]:
        """Return the jobs of a batch, and whether further ones may come."""
        first = self._later.popleft() if self._later else self._queue.get()
        if first is None:
            return [], False
        jobs = [first, *(job for job in self._later if job.key == first.key)][: self._batch]
        for job in jobs[1:]:
            self._later.remove(job)
        deadline = time.monotonic() + self._wait
        while more and len(jobs) < self._batch:
            try:
                other = self._queue.get(timeout=max(0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if other is None:
                more = False
            elif other.key == first.key:
                jobs.append(other)
            else:
                self._later.append(other)
        with self._lock:
            self._waiting -= len(jobs)
        return jobs, more

    def _segment(self, jobs: list[_Job]) -> None:
        try:
            self.segmenter.set(jobs[0].key.thresholds)
            ticket = self.segmenter.pipeline.submit_batch(
                [job.frame for job in jobs],
                [jobs[0].key.want],
                [str(number) for number in range(len(jobs))],
                [job.placement for job in jobs],
            )
            with ticket as results:
                copies = [result.copy() for result in results]
        except Exception as error:
            for job in jobs:
                job.future.set_exception(error)
            return
        for job, result in zip(jobs, copies, strict=True):
            job.future.set_result(result)
