"""Decoding of frames between the inbox and the pipeline, in one thread for each camera with compressed frames.

A decoder cannot be interrupted: a picture that takes long to decode delays its own camera only. simplejpeg, Pillow and
FFmpeg release the interpreter lock meanwhile.
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

# Seconds that the pipeline waits for the frame whose turn it is while other frames are ready. It does not wait for a
# camera whose last frame took longer to decode.
PATIENCE = 0.1


class Decoding:
    """Decodes the frames of the inbox, and returns them in turn. For use by one thread.

    Args:
        inbox: inbox of the frames; woken when a frame is decoded.
        together: function that returns True if two frames may share a batch.
    """

    def __init__(self, inbox: Inbox[FrameJob], together: Callable[[FrameJob, FrameJob], bool]) -> None:
        self._inbox, self._together = inbox, together
        self._begun: list[FrameJob] = []  # oldest first, at most one of each camera
        self._slow: set[str] = set()  # cameras that the pipeline does not wait for
        self._queues: dict[str, SimpleQueue[FrameJob | None]] = {}
        self._threads: list[threading.Thread] = []

    def next(self, limit: int, waiting: Callable[[], FrameJob | None] = lambda: None) -> list[FrameJob]:
        """Wait for the next decoded frame; return it with up to `limit` - 1 decoded frames for the same batch.

        waiting: function that returns an earlier frame that is ready by now, or None.

        Raises Closed.
        """
        while True:
            changes = self._inbox.changes  # read before the checks below, so that no change is missed
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
            except RuntimeError as error:  # too many threads in this process or on this machine
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
        job.result = result  # set last: from here on the pipeline's thread may take the frame

    # A camera's thread

    def _decode_all(self, queue: SimpleQueue[FrameJob | None]) -> None:
        while (job := queue.get()) is not None:
            self._decode(job)
            del job  # frees its pixels while this thread waits
            self._inbox.wake()
