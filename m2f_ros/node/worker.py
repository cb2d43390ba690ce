"""Two threads for all cameras: one owns model and pipeline, one publishes what comes of the frames.

torch's graphs belong to the thread that made them, so that loading, segmenting and freeing happen in one thread.
rclpy holds the interpreter lock while it publishes; a thread of its own keeps that from the pipeline.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING

from m2f_ros.node.camera import Arrival
from m2f_ros.node.counts import StageTimes
from m2f_ros.node.inbox import Closed, Inbox
from m2f_ros.node.process import join

if TYPE_CHECKING:
    from m2f_ros.pipeline import Frame, Pipeline, Segmentation, Ticket


SLOW = 1.0  # seconds at the first frame of a size until it is said


@dataclass(frozen=True)
class Entry:
    """A frame about to be segmented, and what is wanted of it."""

    arrival: Arrival
    frame: Frame
    wanted: frozenset[str]


@dataclass(frozen=True)
class Work:
    """Frames inside the pipeline, and when they came there (time.monotonic, seconds)."""

    entries: Sequence[Entry]
    ticket: Ticket[list[Segmentation]]
    began: float


class Worker:
    """Segments what lies in the inbox, from its creation until `close`.

    Args:
        load: makes the pipeline, in the pipeline's thread.
        inbox: of all cameras; closed with the worker.
        slots: frames, or batches of them, inside the pipeline at once.
        batch: frames of a batch, at most, by the pipeline.
        window: seconds that the stamps of a batch may differ by.
        say: takes a line for the log, in any thread.
    """

    def __init__(
        self,
        load: Callable[[], Pipeline],
        inbox: Inbox[Arrival],
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
        self._sizes: set[tuple[tuple[int, int], int]] = set()  # of the network, and frames: those it was used with
        self._epochs: dict[str, int] = {}
        self.times = StageTimes()
        self.busy_since: float | None = None  # time.monotonic(); while the pipeline's thread is at a frame
        self._work: SimpleQueue[Work | None] = SimpleQueue()
        self._publisher = threading.Thread(target=self._publish_all, name="publisher", daemon=True)
        self._thread = threading.Thread(target=self._run, name="pipeline", daemon=True)
        self._publisher.start()
        self._thread.start()

    def drain(self, timeout: float) -> bool:
        """Wait for the frames inside the pipeline, or about to enter it. False when some are still there after
        `timeout` s."""
        deadline = time.monotonic() + timeout
        held = 0
        while held < self._slots and self._free.acquire(timeout=max(0.0, deadline - time.monotonic())):
            held += 1
        for _ in range(held):
            self._free.release()
        return held == self._slots

    def close(self, timeout: float) -> bool:
        """Finish the frames inside the pipeline and free the device. False when a thread runs after `timeout` s."""
        self._inbox.close()
        return join([self._thread], timeout)

    # The pipeline's thread

    def _run(self) -> None:
        try:
            pipeline = self._load()
        except BaseException as error:
            self._work.put(None)
            self.loaded.set_exception(error)
            return
        self.loaded.set_result(pipeline)
        try:
            while True:
                # First a free place, then the newest frames: the other way round they would age in between.
                self._inbox.wait()
                self._free.acquire()
                self.busy_since = time.monotonic()
                self._segment(pipeline)
                self.busy_since = None
        except Closed:
            pass
        self._work.put(None)
        self._publisher.join()
        pipeline.close()

    def _segment(self, pipeline: Pipeline) -> None:
        """Submit what waits, with one place held."""
        batches = self._batches(pipeline, self._inbox.take(self._batch(pipeline), self._together))
        if not batches:
            self._free.release()
        for number, (network, entries) in enumerate(batches.items()):
            if number:
                self._free.acquire()
            with self._first_of_size(network, entries):
                self._submit(pipeline, entries)

    @contextlib.contextmanager
    def _first_of_size(self, network: tuple[int, int], entries: Sequence[Entry]) -> Iterator[None]:
        """Say what takes long where a backend has to convert, compile or capture the network first."""
        if (network, len(entries)) in self._sizes:
            yield
            return
        sizes = sorted({entry.frame.size for entry in entries})
        images = " and ".join(f"{width}x{height}" for height, width in sizes)
        line = (
            f"the model is being prepared for images of {images} ({network[1]}x{network[0]} in the network); "
            "what comes meanwhile is dropped for newer images"
        )
        timer = threading.Timer(SLOW, self._say, (line,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            self._sizes.add((network, len(entries)))

    def _together(self, one: Arrival, other: Arrival) -> bool:
        return abs(one.stamp - other.stamp) <= self._window

    def _batches(self, pipeline: Pipeline, arrivals: Sequence[Arrival]) -> dict[tuple[int, int], list[Entry]]:
        """The frames that can be decoded and that somebody still wants, by their size for the network."""
        batches: dict[tuple[int, int], list[Entry]] = {}
        for arrival in arrivals:
            camera = arrival.camera
            wanted = camera.outputs.wanted()
            if not camera.active or not wanted:
                camera.counts.drop("unwanted" if camera.active else "deactivated")
                continue
            try:
                frame = arrival.decode()
                network = pipeline.resize.fit(*frame.size).network
            except Exception as error:  # whatever a camera sends
                camera.fail(error)
                continue
            batches.setdefault(network, []).append(Entry(arrival, frame, wanted))
        return batches

    def _submit(self, pipeline: Pipeline, entries: Sequence[Entry]) -> None:
        began = time.monotonic()
        want = frozenset().union(*(entry.wanted for entry in entries))
        streams = [entry.arrival.camera.name for entry in entries]
        try:
            for stream, entry in zip(streams, entries, strict=True):
                if entry.arrival.epoch != self._epochs.setdefault(stream, entry.arrival.epoch):
                    self._epochs[stream] = entry.arrival.epoch
                    pipeline.reset(stream)
            ticket = pipeline.submit_batch([entry.frame for entry in entries], want, streams)
        except Exception as error:
            self._free.release()
            _fail(entries, error)
            return
        self._work.put(Work(entries, ticket, began))

    # The publisher's thread

    def _publish_all(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                # Leaving the block gives the results' memory back: encoding has copied them by then.
                with work.ticket as results:
                    self.times.note(results[0].stages)
                    for entry, result in zip(work.entries, results, strict=True):
                        self._publish(entry, result, work.began)
            except Exception as error:
                _fail(work.entries, error)
            finally:
                self._free.release()

    def _publish(self, entry: Entry, result: Segmentation, began: float) -> None:
        arrival = entry.arrival
        try:
            size = entry.frame.size[::-1]
            arrival.camera.publish(arrival, result, entry.wanted, size, began - arrival.came)
        except Exception as error:  # the other frames of the batch are none the worse
            arrival.camera.fail(error)


def _fail(entries: Sequence[Entry], error: Exception) -> None:
    for entry in entries:
        entry.arrival.camera.fail(error)
