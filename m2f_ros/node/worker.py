"""Two threads for all cameras: one owns model and pipeline, one publishes what comes of the frames.

torch's graphs belong to the thread that made them, so that loading, segmenting and freeing happen in one thread.
rclpy holds the interpreter lock while it publishes; a thread of its own keeps that from the pipeline. `Decoding` and
`Sizes` do the work that one camera alone needs, and that may take long, in other threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING

from m2f_ros.node.camera import Arrival
from m2f_ros.node.counts import StageTimes
from m2f_ros.node.decoding import Decoded, Decoding
from m2f_ros.node.inbox import Closed, Inbox
from m2f_ros.node.process import join
from m2f_ros.node.sizes import Sizes

if TYPE_CHECKING:
    from m2f_ros.pipeline import Frame, Pipeline, Segmentation, Ticket
    from m2f_ros.pipeline.resize import Placement


TIDY_PERIOD = 30.0  # seconds
UNUSED = 600.0  # seconds without a frame after which a size of the network is no longer kept ready


@dataclass(frozen=True)
class Entry:
    """A frame about to be segmented, where it goes in the network's input, and what is wanted of it."""

    arrival: Arrival
    frame: Frame
    placement: Placement
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
        self._decoding = Decoding(inbox, self._together, _wanted)
        self._sizes: Sizes | None = None
        self._held: dict[str, Decoded] = {}  # by camera; what waits for its size of the network
        self._epochs: dict[str, int] = {}
        self.times = StageTimes()
        self._at: float | None = None
        self._tidied = time.monotonic()
        # Threads that may be at work after `close`: nothing can interrupt them, and they need nothing of the pipeline.
        self.others: list[threading.Thread] = []
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
        """Finish the frames inside the pipeline and free the device. False when that goes on after `timeout` s."""
        self._inbox.close()
        return join([self._thread], timeout)

    @property
    def busy_since(self) -> float | None:
        """time.monotonic() since when the pipeline's thread is at a frame, or a size is made ready; None: neither is.
        In any thread."""
        times = [since for since in (self._at, self._sizes and self._sizes.since) if since is not None]
        return min(times, default=None)

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
        # First a free place, then the newest frames: the other way round they would age in between. While they are
        # decoded it is not held, so that `drain` does not wait for a decoder.
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
        except Exception as error:  # that of no frame: the next ones go on
            self._say(f"memory that is of no use cannot be given back: {type(error).__name__}: {error}")

    def _settled(self) -> Decoded | None:
        """A frame whose size of the network is ready now, or cannot be made so."""
        for camera, one in self._held.items():
            if not self._sizes.waits(*one.frame.size):
                return self._held.pop(camera)
        return None

    def _segment(self, pipeline: Pipeline, found: Sequence[Decoded]) -> None:
        """Submit these frames, with one place held."""
        try:
            batches = self._batches(found)
        except Exception as error:  # whatever a library or a full memory makes of it
            batches = []
            for one in found:
                one.arrival.camera.fail(error)
        if not batches:
            self._free.release()
        for number, entries in enumerate(batches):
            if number:
                self._free.acquire()
            self._submit(pipeline, entries)

    def _together(self, one: Arrival, other: Arrival) -> bool:
        return abs(one.stamp - other.stamp) <= self._window

    def _batches(self, found: Sequence[Decoded]) -> list[list[Entry]]:
        """The frames that could be decoded, that somebody still wants, and whose size of the network is ready."""
        alike: dict[tuple[int, int], list[Entry]] = {}
        for one in found:
            arrival, camera = one.arrival, one.arrival.camera
            if not (wanted := _wanted(arrival)):
                continue
            try:
                if one.error is not None:
                    raise one.error
                placement = self._place(one)
            except Exception as error:  # whatever a camera sends
                camera.fail(error)
                continue
            if camera.name in self._held:
                del self._held[camera.name]
                camera.counts.drop("newer")
            if placement is None:
                self._held[camera.name] = one
            else:
                alike.setdefault(placement.network, []).append(Entry(arrival, one.frame, placement, wanted))
        batches = []
        for network, entries in alike.items():
            number, camera = len(entries), entries[0].arrival.camera.name
            if number == 1 or self._sizes.ask(camera, (network, number), f"{number} frames at once")[0]:
                batches.append(entries)
            else:
                batches += ([entry] for entry in entries)
        return batches

    def _place(self, one: Decoded) -> Placement | None:
        """Where a frame goes in the network's input; None where its size has to be made ready first."""
        camera = one.arrival.camera
        placement, exact = self._sizes.place(camera.name, *one.frame.size)
        if not exact and camera.counts.stretch() == 1:
            self._say(
                f"{camera.name or 'the camera'} changes the size of its images more often than the model can be "
                "prepared for: images are stretched to a size that is ready, and their labels are less exact"
            )
        return placement

    def _submit(self, pipeline: Pipeline, entries: Sequence[Entry]) -> None:
        began = time.monotonic()
        want = frozenset().union(*(entry.wanted for entry in entries))
        streams = [entry.arrival.camera.name for entry in entries]
        try:
            for stream, entry in zip(streams, entries, strict=True):
                if entry.arrival.epoch != self._epochs.setdefault(stream, entry.arrival.epoch):
                    self._epochs[stream] = entry.arrival.epoch
                    pipeline.reset(stream)
            placements = [entry.placement for entry in entries]
            ticket = pipeline.submit_batch([entry.frame for entry in entries], want, streams, placements)
        except Exception as error:
            self._free.release()
            _fail(entries, error)
            return
        finally:
            self._charge(entries, time.monotonic() - began)
        self._work.put(Work(entries, ticket, began))

    # The publisher's thread

    def _publish_all(self) -> None:
        while (work := self._work.get()) is not None:
            began = time.monotonic()
            try:
                # Leaving the block gives the results' memory back: encoding has copied them by then.
                with work.ticket as results:
                    self._charge(work.entries, time.monotonic() - began)
                    self.times.note(results[0].stages)
                    for entry, result in zip(work.entries, results, strict=True):
                        self._publish(entry, result, work.began)
            except Exception as error:
                _fail(work.entries, error)
            finally:
                self._free.release()

    def _publish(self, entry: Entry, result: Segmentation, began: float) -> None:
        arrival, at = entry.arrival, time.monotonic()
        try:
            size = entry.frame.size[::-1]
            arrival.camera.publish(arrival, result, entry.wanted, size, began - arrival.came)
        except Exception as error:  # the other frames of the batch are none the worse
            arrival.camera.fail(error)
        finally:
            self._charge([entry], time.monotonic() - at)

    def _charge(self, entries: Sequence[Entry], seconds: float) -> None:
        """Time of the pipeline's thread, or the publisher's, is that of the cameras whose frames these are."""
        for entry in entries:
            self._inbox.charge(entry.arrival.camera.name, seconds / len(entries))


def _wanted(arrival: Arrival) -> frozenset[str]:
    """Names of the outputs that somebody wants of a frame; counts the frame as dropped where there are none."""
    camera = arrival.camera
    wanted = camera.outputs.wanted() if camera.active else frozenset()
    if not wanted:
        camera.counts.drop("unwanted" if camera.active else "deactivated")
    return wanted


def _fail(entries: Sequence[Entry], error: Exception) -> None:
    for entry in entries:
        entry.arrival.camera.fail(error)
