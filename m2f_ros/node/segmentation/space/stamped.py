"""Messages of a topic in the order of their stamps, until a frame of about the same time needs them. Without ROS."""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")

KEPT = 10  # newest messages that are kept
EXPECTED = 16  # frames on their way: more than the pipeline and its threads hold of a camera
JUMP = 10**9  # nanoseconds; a message that is older than the newest by more comes after a jump of time, or late


class Stamped(Generic[T]):
    """The newest messages, and those about the stamps of frames that are on their way. Thread-safe.

    A model may take seconds for a frame: the depth image of its time must still be there when its labels are.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stamps: list[int] = []
        self._items: dict[int, T] = {}
        self._expected: deque[tuple[int, int]] = deque(maxlen=EXPECTED)  # (stamp, slop) of each frame

    def __len__(self) -> int:
        return len(self._stamps)

    def put(self, stamp: int, item: T) -> int:
        """Keep a message; return the number of messages that were given up for it. stamp: nanoseconds."""
        with self._lock:
            lost = 0
            if self._stamps and stamp < self._stamps[-1] - JUMP:
                lost = len(self._stamps)
                self._clear()
            if stamp not in self._items:
                insort(self._stamps, stamp)
            self._items[stamp] = item
            for old in self._stamps[:-KEPT]:
                if not any(abs(old - expected) <= slop for expected, slop in self._expected):
                    self._drop(old)
                    lost += 1
            return lost

    def expect(self, stamp: int, slop: int) -> None:
        """Keep messages whose stamps differ from that of a frame by at most `slop` nanoseconds."""
        with self._lock:
            self._expected.append((stamp, slop))

    def nearest(self, stamp: int, slop: int) -> T | None:
        """Return the message whose stamp is nearest, by at most `slop` nanoseconds; None if there is none."""
        with self._lock:
            at = bisect_left(self._stamps, stamp)
            near = min(self._stamps[max(0, at - 1) : at + 1], key=lambda other: abs(other - stamp), default=None)
            return None if near is None or abs(near - stamp) > slop else self._items[near]

    def may_come(self, stamp: int) -> bool:
        """Return True if a nearer message than those that are here may come: all are older, and not by long."""
        with self._lock:
            return bool(self._stamps) and 0 < stamp - self._stamps[-1] < JUMP

    def items(self) -> list[tuple[int, T]]:
        """Return the messages with their stamps, oldest first."""
        with self._lock:
            return [(stamp, self._items[stamp]) for stamp in self._stamps]

    def remove(self, stamp: int) -> None:
        """Forget the message of a stamp, if it is still there."""
        with self._lock:
            if stamp in self._items:
                self._drop(stamp)

    def clear(self) -> None:
        """Forget all messages."""
        with self._lock:
            self._clear()

    def _clear(self) -> None:
        self._stamps.clear()
        self._items.clear()
        self._expected.clear()

    def _drop(self, stamp: int) -> None:
        self._stamps.remove(stamp)
        del self._items[stamp]
