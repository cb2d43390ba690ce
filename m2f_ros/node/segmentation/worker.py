"""Two threads for all cameras: one runs the pipeline, one publishes the outputs.

CUDA graphs belong to the thread that captured them: one thread loads, runs and frees the pipeline. Publishing has its
own thread, since rclpy holds the interpreter lock meanwhile. `Decoding` and `Sizes` do long work for single cameras in
further threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING

from m2f_ros.frame.outputs import needing
from m2f_ros.node.process import join
from m2f_ros.node.segmentation.counts import StageTimes
from m2f_ros.node.segmentation.decoding import Decoding
from m2f_ros.node.segmentation.inbox import Closed, Inbox
from m2f_ros.node.segmentation.sizes import Sizes

if TYPE_CHECKING:
    from m2f_ros.node.segmentation.frame_job import FrameJob
    from m2f_ros.pipeline import Pipeline, Segmentation, Ticket
    from m2f_ros.pipeline.resize import Placement

PANOPTIC = needing("panoptic")
CONFIDENT = needing("confidence")
TIDY_PERIOD = 30.0  # seconds
UNUSED = 600.0  # seconds without a frame after which a size of the network is freed


class Worker:
    """Segments the frames of the inbox, from its creation until `close`.

    Args:
        load: function that returns the pipeline; called in the pipeline's thread.
        inbox: frames of all cameras; closed with the worker.
        slots: number of batches in flight inside the pipeline.
        batch: function of the pipeline that returns the largest batch size.
        window: greatest difference of stamps in a batch, seconds.
        say: function that logs a line; called in any thread.
    Attributes:
        loaded: future of the pipeline.
        times: durations of the pipeline's stages.
        others: threads that may still run after `close`.
    """

    def __init__(
        self,
        load: Callable[[], Pipeline],
        inbox: Inbox[FrameJob],
        *,
        slots: int,
        batch: Callable[[Pipeline], int],
        window: float,
        say: Callable[[str], None],
    ) -> None:
        self.loaded: Future[Pipeline] = Future()
        self._load, self._inbox = load, inbox
        self._slots, self._free = slots, threading.Semaphore(slots)
        self._batch, self._window = batch, round(window * 1e9)
        self._say = say
        self._decoding = Decoding(inbox, self._together)
        self._sizes: Sizes  # once the pipeline is loaded
        self._held: dict[str, FrameJob] = {}  # camera -> frame that waits for its size of the network
        self._epochs: dict[str, int] = {}
        self.times = StageTimes()
        self._at: float | None = None
        self._tidied = time.monotonic()
        # Nothing can interrupt these threads, and they do not need the pipeline.
        self.others: list[threading.Thread] = []
        self._work: SimpleQueue[tuple[Sequence[FrameJob], Ticket[list[Segmentation]]] | None] = SimpleQueue()
        self._publisher = threading.Thread(target=self._publish_all, name="publisher", daemon=True)
        self._thread = threading.Thread(target=self._run, name="pipeline", daemon=True)
        self._publisher.start()
        self._thread.start()

    def drain(self, timeout: float) -> bool:
        """Wait for the frames inside the pipeline. Return False if some are still there after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        held = 0
        while held < self._slots and self._free.acquire(timeout=max(0.0, deadline - time.monotonic())):
            held += 1
        for _ in range(held):
            self._free.release()
        return held == self._slots

    def close(self, timeout: float) -> bool:
        """Finish the frames inside the pipeline and free the device. Return False after `timeout` seconds."""
        self._inbox.close()
        return join([self._thread], timeout)

    @property
    def busy_since(self) -> float | None:
        """Start of the present frame or of the build of a size, time.monotonic(); None if idle.

        Thread-safe.
        """
        making = self._sizes.since if self.loaded.done() and not self.loaded.exception() else None
        return min((since for since in (self._at, making) if since is not None), default=None)

    # The pipeline's thread

    def _run(self) -> None:
        try:
            pipeline = self._load()
        except BaseException as error:
            self._work.put(None)
            self.loaded.set_exception(error)
            return
        self._sizes = Sizes(pipeline, self._inbox.wake, self._say)
        self.loaded.set_result(pipeline)
        try:
            while True:
                self._step(pipeline)
        except Closed:
            pass
        self._held.clear()
        self.others = [*self._decoding.close(), *self._sizes.close()]
        self._work.put(None)
        self._publisher.join()
        pipeline.close()

    def _step(self, pipeline: Pipeline) -> None:
        # Wait for a free slot first: frames taken before would age meanwhile. The slot is not held while frames are
        # decoded, so that `drain` does not wait for a decoder.
        self._free.acquire()
        self._free.release()
        found = self._decoding.next(self._batch(pipeline), self._settled)
        self._free.acquire()
        self._at = time.monotonic()
        try:
            self._segment(pipeline, found)
            if self._at > self._tidied + TIDY_PERIOD:
                self._tidied = self._at
                self._tidy(pipeline)
        finally:
            self._at = None

    def _tidy(self, pipeline: Pipeline) -> None:
        try:
            pipeline.tidy(UNUSED)
        except Exception as error:  # no frame depends on it
            self._say(f"memory that is of no use cannot be given back: {type(error).__name__}: {error}")

    def _settled(self) -> FrameJob | None:
        """Return a held frame whose size of the network is built, or cannot be built; None if all have to wait."""
        for camera in [name for name, job in self._held.items() if not self._sizes.waits(*job.frame.size)]:
            job = self._held.pop(camera)
            if job.ask():  # it may have waited for long
                return job
        return None

    def _segment(self, pipeline: Pipeline, jobs: Sequence[FrameJob]) -> None:
        """Submit these frames; the caller holds one slot."""
        try:
            batches = self._batches(jobs)
        except Exception as error:  # of any library, or out of memory
            batches = []
            _fail(jobs, error)
        if not batches:
            self._free.release()
        for number, batch in enumerate(batches):
            if number:
                self._free.acquire()
            self._submit(pipeline, batch)

    def _together(self, one: FrameJob, other: FrameJob) -> bool:
        return abs(one.stamp - other.stamp) <= self._window

    def _batches(self, jobs: Sequence[FrameJob]) -> list[list[FrameJob]]:
        """Group the decoded frames whose size of the network is built into batches of one size."""
        alike: dict[tuple[int, int], list[FrameJob]] = {}
        for job in jobs:
            camera = job.camera
            if not camera.active:  # it may have been deactivated while the frame was decoded
                camera.counts.drop("deactivated")
                continue
            try:
                placement = self._place(job)
            except Exception as error:  # whatever a camera sends
                camera.fail(error)
                continue
            if camera.name in self._held:
                del self._held[camera.name]
                camera.counts.drop("newer")
            if placement is None:
                self._held[camera.name] = job
            else:
                job.placement = placement
                alike.setdefault(placement.network, []).append(job)
        batches = []
        for network, batch in alike.items():
            number, first = len(batch), batch[0].camera.name
            if number == 1 or self._sizes.ask(first, (network, number), f"{number} frames at once")[0]:
                batches.append(batch)
            else:
                batches += ([job] for job in batch)
        return batches

    def _place(self, job: FrameJob) -> Placement | None:
        """Return the placement of a frame in the network's input; None if its size must be built first."""
        camera = job.camera
        placement, exact = self._sizes.place(camera.name, *job.frame.size)
        if not exact and camera.counts.stretch() == 1:
            self._say(
                f"{camera.name or 'the camera'} changes the size of its images more often than the model can be "
                "prepared for: images are stretched to a size that is ready, and their labels are less exact"
            )
        return placement

    def _submit(self, pipeline: Pipeline, jobs: Sequence[FrameJob]) -> None:
        began = time.monotonic()
        want = frozenset[str]().union(*(job.needed for job in jobs))
        if not pipeline.finds_segments:
            want -= PANOPTIC
        if not pipeline.scores_classes:
            want -= CONFIDENT
        streams = [job.camera.name for job in jobs]
        try:
            for stream, job in zip(streams, jobs, strict=True):
                job.began = began
                if job.epoch != self._epochs.setdefault(stream, job.epoch):
                    self._epochs[stream] = job.epoch
                    pipeline.reset(stream)
            placements = [job.placement for job in jobs]
            ticket = pipeline.submit_batch([job.frame for job in jobs], want, streams, placements)
        except Exception as error:
            self._free.release()
            _fail(jobs, error)
            return
        finally:
            self._charge(jobs, time.monotonic() - began)
        self._work.put((jobs, ticket))

    # The publisher's thread

    def _publish_all(self) -> None:
        while (work := self._work.get()) is not None:
            (jobs, ticket), began = work, time.monotonic()
            try:
                # The block frees the results' memory when it ends, after publishing has copied it.
                with ticket as results:
                    self._charge(jobs, time.monotonic() - began)
                    self.times.note(results[0].stages)
                    for job, result in zip(jobs, results, strict=True):
                        self._publish(job, result)
            except Exception as error:
                _fail(jobs, error)
            finally:
                self._free.release()

    def _publish(self, job: FrameJob, result: Segmentation) -> None:
        began = time.monotonic()
        try:
            job.camera.publish(job, result)
        except Exception as error:  # the other frames of the batch go on
            job.camera.fail(error)
        finally:
            self._charge([job], time.monotonic() - began)

    def _charge(self, jobs: Sequence[FrameJob], seconds: float) -> None:
        """Charge seconds of the pipeline's or the publisher's thread to the cameras of these frames."""
        for job in jobs:
            self._inbox.charge(job.camera.name, seconds / len(jobs))


def _fail(jobs: Sequence[FrameJob], error: Exception) -> None:
    for job in jobs:
        job.camera.fail(error)
