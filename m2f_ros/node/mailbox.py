"""A place for one frame between the thread that receives and the thread that segments: the newest wins."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):
    """The mailbox was closed: nothing more will come."""


class Mailbox(Generic[T]):
    """Holds the newest item only. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: T | None = None
        self._full = False
        self._closed = False
        self._received = 0
        self._dropped = 0

    def put(self, item: T) -> bool:
        """Leave an item, in place of one that was not taken; never blocks. True when that dropped one.

        An item put into a closed mailbox is forgotten, and not counted.
        """
        with self._changed:
            if self._closed:
                return False
            replaced = self._full
            self._item, self._full = item, True
            self._received += 1
            self._dropped += replaced
            self._changed.notify()
            return replaced

    def take(self, timeout: float | None = None) -> T:
        """The newest item, waiting for one if there is none.

        timeout: seconds; None waits for ever. Raises Closed once the mailbox is closed, TimeoutError when
        nothing came in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._full or self._closed, timeout):
                raise TimeoutError(f"no item within {timeout} s")
            if self._closed:
                raise Closed
            item, self._item, self._full = self._item, None, False
            return item

    def close(self) -> None:
        """Wake all who wait. The item that nobody took is forgotten."""
        with self._changed:
            self._closed = True
            self._item, self._full = None, False
            self._changed.notify_all()

    def counts(self) -> tuple[int, int]:
        """(received, dropped): items put so far; of these, replaced before anybody took them."""
        with self._changed:
            return self._received, self._dropped
