"""The newest frame of each camera, between the thread that receives and the one that segments."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):
    """The inbox was closed: nothing more will come."""


class Inbox(Generic[T]):
    """Holds the newest item of each key only. Thread-safe.

    The key that has used the least time comes first (see `charge`), of two that used as much the one that was served
    longest ago. None starves another, and of those that always have an item each gets an equal share of the time. A
    key does not get back later the time that it left to others while it had no item.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._changed = threading.Condition()
        self._turns = list(keys)  # served longest ago first
        self._used = dict.fromkeys(self._turns, 0.0)  # seconds
        self._level = 0.0  # what the key served last had used by then
        self._items: dict[str, T] = {}
        self._closed = False
        self._changes = 0

    def put(self, key: str, item: T) -> bool:
        """Leave an item, in place of one that was not taken; never blocks. True when that dropped one.

        An item put into a closed inbox is forgotten.
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
        """Count time that was spent on an item of this key."""
        with self._changed:
            self._used[key] += seconds

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until there is an item, at most `timeout` seconds. Whether there is. Raises Closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed, timeout)
            if self._closed:
                raise Closed
            return bool(self._items)

    def wake(self) -> None:
        """Count as a change what happened elsewhere."""
        with self._changed:
            self._changes += 1
            self._changed.notify()

    @property
    def changes(self) -> int:
        """How many there were. Raises Closed."""
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
        """The item of the key whose turn it is, with up to `limit` - 1 others, in their turns, for which
        `together(first, other)`; none of the keys `but`. Does not wait: empty where there is none. Raises Closed.
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
        """Wake all who wait. What nobody took is forgotten."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()
