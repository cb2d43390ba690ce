"""Replays one drive through the pipeline in three threads, which read, compute and write with bounded queues."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial
from queue import SimpleQueue

from m2f_ros.frame.outputs import needed, needing
from m2f_ros.pipeline import Pipeline, Segmentation, Ticket
from m2f_ros.replay.batches import Batch, batches
from m2f_ros.replay.folder import Folder
from m2f_ros.replay.outputs import BagOutputs
from m2f_ros.replay.settings import Settings
from m2f_ros.replay.space import Masks, of_drive
from m2f_ros.replay.truth import Finished, TrueLabels
from m2f_ros.sources.read_ahead import ReadAhead
from m2f_ros.sources.sample import Source

# Bytes of pixels to read ahead.
READ_AHEAD_BYTES = 256 << 20
# Batches in the pipeline or being written: one is computed while others are written.
IN_FLIGHT = 3
PANOPTIC = needing("panoptic")
_COPIES = ("upload", "download")  # stages that overlap with the computation of another frame


def replay(
    drive: Source,
    pipeline: Pipeline | TrueLabels,
    folder: Folder,
    settings: Settings,
    stopped: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] = lambda images: None,
) -> bool:
    """Segment all images of a drive that are not in the folder yet. Return True if the end was reached.

    Batches hold the same images wherever an earlier run stopped, and the tracks of segments and the network's memory go
    on, so that the messages equal those of one run.

    `folder.progress.seconds` splits the time from the first image on ("wall") into that in the pipeline and that spent
    waiting for the reader and the writer. The device's own clock counts work that goes on after its submission.

    Args:
        pipeline: pipeline with IN_FLIGHT slots, or the drive's own labels.
        stopped: function that returns True to stop; called after each batch. Batches in the pipeline are still written.
        progress: function of the number of processed images; called after each batch.
    Raises:
        SourceError: the drive cannot be read any further, or the folder cannot be written.
        FrameError: the device is out of memory.
        Earlier outputs stay, as a valid rosbag2.
    """
    seconds = dict.fromkeys(folder.progress.seconds, 0.0)
    begun = time.monotonic()

    @contextlib.contextmanager
    def timed(name: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        seconds[name] += time.monotonic() - start

    want = {*needed(settings.outputs), "shares"}
    if settings.spatial and settings.space.grid.min_confidence:
        want.add("confidence")
    if not isinstance(pipeline, TrueLabels) and not pipeline.finds_segments:
        want -= PANOPTIC  # points then have no instance
    remembers = not isinstance(pipeline, TrueLabels) and pipeline.remembers
    if remembers:
        want.add("memory")
    settings = of_drive(settings, drive)
    masks = Masks(settings.space)
    ahead = ReadAhead(drive.samples(folder.progress.next), READ_AHEAD_BYTES)
    samples = map(masks.apply, ahead)
    if isinstance(pipeline, TrueLabels):
        samples = map(pipeline.checked, samples)
    grouped = batches(samples, partial(_network, pipeline), settings.batch, settings.part, apart=remembers)
    outputs = BagOutputs(folder, drive.cameras, settings, pipeline.taxonomy)
    if not isinstance(pipeline, TrueLabels):
        pipeline.reset()  # it may have segmented another drive before
        for camera, memory in outputs.memories.items():
            pipeline.restore(camera, memory)
    writer = _Writer(outputs, settings.part, progress)
    ended = False
    try:
        while not (stopped() or writer.error):
            with timed("reading"):
                batch = next(grouped, None)
            if batch is None:
                ended = True
                break
            with timed("writing"):
                writer.wait()
            with timed("pipeline"):
                ticket = _submitted(pipeline, batch, want) if batch.readable else None
            writer.put(batch, ticket)
    finally:
        ahead.stop()
        with timed("writing"):
            writer.close()
        seconds["pipeline"] = max(seconds["pipeline"], writer.computed)
        seconds["wall"] = time.monotonic() - begun
        for name, value in seconds.items():
            folder.progress.seconds[name] += value
    if writer.error:
        raise writer.error
    folder.save(folder.progress)
    return ended


def _network(pipeline: Pipeline | TrueLabels, height: int, width: int) -> tuple[int, int]:
    """Return the size of the network's input for a frame; that of the frame without a network."""
    return (height, width) if isinstance(pipeline, TrueLabels) else pipeline.resize.place(height, width).network


def _submitted(pipeline: Pipeline | TrueLabels, batch: Batch, want: Collection[str]) -> Ticket | Finished:
    if isinstance(pipeline, TrueLabels):
        return pipeline.submit(batch.readable)
    frames = [image.frame for image in batch.readable if image.frame is not None]
    if not pipeline.remembers:
        return pipeline.submit_batch(frames, want)
    return pipeline.submit_batch(frames, want, [image.camera for image in batch.readable])


class _Writer:
    """A thread that waits for results, in order, and writes them.

    Attributes:
        error: error that ended the writing, or None.
        computed: seconds of work of the device, by its own clock.
    """

    def __init__(self, outputs: BagOutputs, part: int, progress: Callable[[int], None]) -> None:
        self.error: Exception | None = None
        self.computed = 0.0
        self._outputs, self._part, self._progress = outputs, part, progress
        self._free = threading.Semaphore(IN_FLIGHT)
        self._work: SimpleQueue[tuple[Batch, Ticket | Finished | None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait for room for another batch."""
        self._free.acquire()

    def put(self, batch: Batch, ticket: Ticket[list[Segmentation]] | Finished | None) -> None:
        """Queue a batch, after `wait`. ticket: ticket of its images; None without readable ones."""
        self._work.put((batch, ticket))

    def close(self) -> None:
        """Write all queued batches, and commit them to the bag."""
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            batch, ticket = work
            try:
                if self.error is None:
                    self._write(batch, ticket)
            except Exception as error:
                self._fail(error)
            finally:
                if ticket is not None:
                    ticket.release()
                self._free.release()
        try:
            if self.error is None:
                self._outputs.commit()
        except Exception as error:
            self._fail(error)

    def _write(self, batch: Batch, ticket: Ticket[list[Segmentation]] | Finished | None) -> None:
        results = ticket.result() if ticket is not None else []
        if results:
            stages = results[0].stages
            self.computed += sum(ms for stage, ms in stages.items() if stage not in _COPIES) / 1e3
        self._outputs.write(batch, results)
        if batch.end % self._part == 0:
            self._outputs.commit()
        self._progress(batch.end)

    def _fail(self, error: Exception) -> None:
        self.error = error
        try:
            self._outputs.commit()
        except Exception:
            self._outputs.discard()
