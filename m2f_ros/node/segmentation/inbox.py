"""The newest frame of each camera, passed from the executor's thread to the pipeline's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):
    """The inbox was closed."""


class Inbox(Generic[T]):
    """Holds only the newest item of each key. Thread-safe.

    The key that has used the least time is served first (see `charge`); a tie goes to the key served longest ago. No
    key starves, and keys that always have an item get equal shares of the time. A key without an item leaves its time
    to the others, and does not get it back later.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._changed = threading.Condition()
        self._turns = list(keys)  # served longest ago first
        self._used = dict.fromkeys(self._turns, 0.0)  # seconds
        self._level = 0.0  # time used by the key that was served last
        self._items: dict[str, T] = {}
        self._closed = False
        self._changes = 0

    def put(self, key: str, item: T) -> bool:
        """Put an item, without blocking. Return True if it replaced one that was not taken.

        A closed inbox forgets the item.
        """
        with self._changed:
            if self._closed:
                return False
            replaced = key in self._items
            if not replaced:
                self._used[key] = max(self._used[key], self._level)
            self._items[key] = item
            self._changes += 1
            self._changed.notify()
            return replaced

    def charge(self, key: str, seconds: float) -> None:
        """Add to the time that a key has used."""
        with self._changed:
            self._used[key] += seconds

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until there is an item, at most `timeout` seconds. Return True if there is one. Raises Closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed, timeout)
            if self._closed:
                raise Closed
            return bool(self._items)

    def wake(self) -> None:
        """Count a change outside the inbox, and wake the reader."""
        with self._changed:
            self._changes += 1
            self._changed.notify()

    @property
    def changes(self) -> int:
        """Number of changes so far. Raises Closed."""
        with self._changed:
            if self._closed:
                raise Closed
            return self._changes

    def changed(self, since: int, timeout: float | None = None) -> None:
        """Sleep until there are more changes than `since`, at most `timeout` seconds. Raises Closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._changes != since or self._closed, timeout)
            if self._closed:
                raise Closed

    def take(
        self, limit: int = 1, together: Callable[[T, T], bool] | None = None, but: Collection[str] = ()
    ) -> list[T]:
        """Take the item whose turn it is, and up to `limit` - 1 others for which `together(first, other)` is true.

        Return an empty list, without waiting, if there is no item. Keys in `but` are skipped. Raises Closed.
        """
        with self._changed:
            if self._closed:
                raise Closed
            waiting = [key for key in self._turns if key in self._items and key not in but]
            waiting.sort(key=self._used.__getitem__)
            taken = waiting[:1]
            self._level = max(self._level, *(self._used[key] for key in taken), 0.0)
            for key in waiting[1:]:
                if len(taken) < limit and together and together(self._items[taken[0]], self._items[key]):
                    taken.append(key)
            self._turns = [key for key in self._turns if key not in taken] + taken
            return [self._items.pop(key) for key in taken]

    def close(self) -> None:
        """Wake all readers, and drop all items."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()
