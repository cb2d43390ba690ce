"""Throughput: a closed loop, with as many batches in flight as the contestant takes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def seconds_of(start: Callable[[int], T], finish: Callable[[T], object], count: int, in_flight: int = 1) -> float:
    """Of `count` batches, from the start of the first to the end of the last.

    Args:
        start: begins on batch i; may return before it is done.
        finish: waits for what `start` returned.
        in_flight: batches begun and not finished at most; the oldest is finished first.
    """
    flying: deque[T] = deque()
    begin = time.perf_counter()
    for i in range(count):
        if len(flying) == in_flight:
            finish(flying.popleft())
        flying.append(start(i))
    while flying:
        finish(flying.popleft())
    return time.perf_counter() - begin
