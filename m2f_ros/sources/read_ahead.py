"""Reads the samples of a source ahead, so that rendering and decoding do not delay the stream."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from m2f_ros.sources.sample import Sample

Item = TypeVar("Item")


def pixel_bytes(sample: Sample) -> int:
    """Return the bytes of the pixels of a sample, its label and its depth, and of its clouds."""
    arrays = [sample.frame.data if sample.frame else None, sample.label, sample.depth]
    arrays += [cloud.data for cloud in (*sample.clouds, *sample.truth_clouds)]
    return sum(array.nbytes for array in arrays if array is not None)


class ReadAhead(Generic[Item]):
    """Iterates over samples that a separate thread reads, at most `budget` bytes of pixels ahead.

    One sample of any size is always read ahead. An error of the source is raised in place of its sample.
    size: function that returns the bytes of an item; needed if the items are not Samples.
    """

    def __init__(self, samples: Iterable[Item], budget: int, size: Callable[[Any], int] = pixel_bytes) -> None:
        self._samples = samples
        self._budget, self._size = budget, size
        self._ready: deque[Item] = deque()
        self._bytes = 0
        self._read = 0
        self._ended = False
        self._stopped = False
        self._error: Exception | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._fill, name="read-ahead", daemon=True)
        self._thread.start()

    def fill(self, progress: Callable[[int], None]) -> None:
        """Wait until the budget is full or the source ends. progress: function that takes the number of samples."""
        filled = False
        while not filled:
            with self._changed:
                if not self._is_filled():
                    self._changed.wait()
                read, filled = self._read, self._is_filled()
            progress(read)

    def __iter__(self) -> Iterator[Item]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ready or self._ended)
                if not self._ready:
                    if self._error:
                        raise self._error
                    return
                sample = self._ready.popleft()
                self._bytes -= self._size(sample)
                self._changed.notify_all()
            yield sample

    def stop(self) -> None:
        """Stop reading, and wake waiting threads. Samples read so far stay."""
        with self._changed:
            self._stopped = self._ended = True
            self._changed.notify_all()

    def join(self, timeout: float) -> bool:
        """Wait for the thread after `stop`. Return False if it still reads after `timeout` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _is_filled(self) -> bool:
        return self._ended or (bool(self._ready) and self._bytes >= self._budget)

    def _fill(self) -> None:
        error = None
        try:
            for sample in self._samples:
                with self._changed:
                    if self._stopped:
                        return
                    self._ready.append(sample)
                    self._bytes += self._size(sample)
                    self._read += 1
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._stopped or not self._is_filled())
        except Exception as caught:
            error = caught
        with self._changed:
            self._error, self._ended = error, True
            self._changed.notify_all()
