"""Tensors that frames of a stream hand on to the next ones, such as past class scores."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

from torch import Tensor

from m2f_ros.errors import FrameError

Key = TypeVar("Key", bound=Hashable)
MOST_STREAMS = 256  # the least recently used of more is forgotten


class PerStream(Generic[Key]):
    """A tensor of each stream, updated in place with its frames.

    Args:
        title: what needs the streams, in messages.
    """

    def __init__(self, title: str):
        self._title = title
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[Key, Tensor]] = OrderedDict()
        self._buffers: WeakValueDictionary[tuple[int, Key], Tensor] = WeakValueDictionary()

    def check(self, number: int, streams: Sequence[str] | None) -> None:
        """Raise FrameError if not each of `number` frames has its own stream."""
        if streams is None or len(streams) != number:
            raise FrameError(f"{self._title} needs a stream for each of {number} frames; name them in streams")
        if len(set(streams)) < number:
            raise FrameError(f"frames of one batch need streams of their own for {self._title}; submit them one by one")

    def forget(self, stream: str | None = None) -> None:
        """Drop the tensor of a stream, or of all. Thread-safe; takes effect at the next frame."""
        with self._lock:
            if stream is None:
                self._kept.clear()
            else:
                self._kept.pop(stream, None)

    def _of(self, stream: str, key: Key) -> Tensor:
        """Return the tensor of a stream, a new one of `_new` if it has none for this key."""
        with self._lock:
            known = self._kept.get(stream)
            if known is None or known[0] != key:
                known = self._kept[stream] = key, self._new(key)
            self._kept.move_to_end(stream)
            while len(self._kept) > MOST_STREAMS:
                self._kept.popitem(last=False)
            return known[1]

    def _buffers_of(self, number: int, key: Key) -> list[Tensor]:
        """Return memory at fixed addresses for `number` tensors of a key, which graphs use for any streams.

        All graphs share this memory, since they run one after the other. Their holders keep it alive.
        """
        buffers = []
        for i in range(number):
            buffer = self._buffers.get((i, key))
            if buffer is None:
                buffer = self._buffers[i, key] = self._new(key)
            buffers.append(buffer)
        return buffers

    def _new(self, key: Key) -> Tensor:
        """Return a new tensor for a key, as before a stream's first frame."""
        raise NotImplementedError(f"{type(self).__name__}._new")
