"""Scores frames in a thread of its own, so that a slow measure keeps no message from being received. No ROS."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

from m2f_ros.node.matching import Gathered


class Scorer:
    """Takes frames until it is closed, of which so many wait as their bytes allow.

    Args:
        limit: bytes of frames that may wait.
        failed: called from the thread when scoring a frame raised; `close` raises that error.
    """

    def __init__(self, limit: int, failed: Callable[[], None]) -> None:
        self._limit, self._failed = limit, failed
        self._queue: SimpleQueue[Gathered | None] = SimpleQueue()
        self._changed = threading.Lock()
        self._held = 0  # bytes
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None
        self.skipped = 0  # frames that came when too many waited

    def put(self, frame: Gathered) -> None:
        """Leave a frame to be scored; it is skipped, and counted, where there is no room. One always has room."""
        with self._changed:
            if self._held and self._held + frame.size > self._limit:
                self.skipped += 1
                return
            self._held += frame.size
        self._queue.put(frame)

    def start(self, score: Callable[[Gathered], None]) -> None:
        """Begin to score what was put and what comes."""
        self._thread = threading.Thread(target=self._run, args=(score,), name="scorer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Score what waits and end. Raises what scoring raised."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self, score: Callable[[Gathered], None]) -> None:
        try:
            while (frame := self._queue.get()) is not None:
                score(frame)
                with self._changed:
                    self._held -= frame.size
        except Exception as error:
            self._error = error
            self._failed()
