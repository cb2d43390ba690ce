"""Frames between the inbox and the pipeline: each camera has a thread that decodes its compressed frames.

A decoder cannot be interrupted, and a camera may send pictures that keep it busy for long: that delays this camera
alone. simplejpeg, Pillow and FFmpeg release the interpreter lock meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING

from m2f_ros.node.segmentation.inbox import Inbox

if TYPE_CHECKING:
    from m2f_ros.frame.frame import Frame
    from m2f_ros.node.segmentation.frame_job import FrameJob

# Seconds for which the pipeline waits for the frame whose turn it is, while there are others. It does not wait for a
# camera whose last frame took longer to decode.
PATIENCE = 0.1


class Decoding:
    """Gives the frames that go next, decoded, in the order of each camera. For one thread.

    Args:
        inbox: the frames that arrive; it is woken when a frame is decoded.
        together: returns True if two frames may go as one batch.
    """

    def __init__(self, inbox: Inbox[FrameJob], together: Callable[[FrameJob, FrameJob], bool]) -> None:
        self._inbox, self._together = inbox, together
        self._begun: list[FrameJob] = []  # the oldest first, one of each camera at most
        self._slow: set[str] = set()  # cameras for which nobody waits
        self._queues: dict[str, SimpleQueue[FrameJob | None]] = {}
        self._threads: list[threading.Thread] = []

    def next(self, limit: int, waiting: Callable[[], FrameJob | None] = lambda: None) -> list[FrameJob]:
        """Wait for the next frame; return it with up to `limit` - 1 others that go together with it, all decoded.

        waiting: returns a frame that was decoded earlier and can go now, or None.

        Raises Closed.
        """
        while True:
            changes = self._inbox.changes  # before the looks that follow
            if (first := waiting()) is not None:
                return [first]
            now = time.monotonic()
            awaited = [job for job in self._begun if job.result is None and now < job.awaited_until]
            if (done := [job for job in self._begun if job.result is not None]) and not any(
                self._together(done[0], job) for job in awaited
            ):
                return self._hand_over(done, limit)
            if not awaited and (taken := self._take(limit)):
                for job in taken:
                    if job.ask():  # a frame that nobody wants is not decoded
                        self._begin(job, now)
                continue
            until = min((job.awaited_until for job in awaited), default=None)
            self._inbox.changed(changes, None if until is None else until - now)

    def close(self) -> list[threading.Thread]:
        """Start no more decoders. Return the threads that may still run: a decoder cannot be interrupted."""
        for queue in self._queues.values():
            queue.put(None)
        return self._threads

    def _take(self, limit: int) -> list[FrameJob]:
        return self._inbox.take(limit, self._together, {job.camera.name for job in self._begun})

    def _hand_over(self, done: Sequence[FrameJob], limit: int) -> list[FrameJob]:
        group = [job for job in done if job is done[0] or self._together(done[0], job)][:limit]
        self._begun = [job for job in self._begun if job not in group]
        return group

    def _begin(self, job: FrameJob, now: float) -> None:
        camera = job.camera.name
        job.awaited_until = now if camera in self._slow else now + PATIENCE
        self._begun.append(job)
        if not job.slow:
            self._decode(job)
            return
        if camera not in self._queues:
            queue: SimpleQueue[FrameJob | None] = SimpleQueue()
            thread = threading.Thread(target=self._decode_all, args=(queue,), name=f"decoder {camera}", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # there are too many in this process, or on this machine
                job.result = error
                return
            self._threads.append(thread)
            self._queues[camera] = queue
        self._queues[camera].put(job)

    def _decode(self, job: FrameJob) -> None:
        began, camera = time.monotonic(), job.camera.name
        result: Frame | Exception
        try:
            result = job.decode()
        except Exception as error:  # whatever a camera sends
            result = error
        seconds = time.monotonic() - began
        self._inbox.charge(camera, seconds)
        (self._slow.add if seconds > PATIENCE else self._slow.discard)(camera)
        job.result = result  # at last: the pipeline's thread may now take the frame

    # A camera's thread

    def _decode_all(self, queue: SimpleQueue[FrameJob | None]) -> None:
        while (job := queue.get()) is not None:
            self._decode(job)
            del job  # frees its pixels while this thread waits
            self._inbox.wake()
