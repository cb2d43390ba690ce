"""Latency at a fixed rate of arrival: open loop, the newest frame wins, as in the node.

A closed loop, which starts the next frame when the last is done, hides what a camera sees: frames that wait.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from m2f_ros.benchmark.result import AtRate
from m2f_ros.benchmark.stats import percentile

T = TypeVar("T")


def latency_at_rate(
    start: Callable[[int], T],
    finish: Callable[[T], object],
    rate: float,
    count: int,
    in_flight: int = 1,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> AtRate:
    """Let `count` frames arrive, one every 1 / rate seconds.

    Frame i arrives at i / rate, whatever the contestant does; when it is free it takes the newest that has arrived,
    and those in between are dropped. The last one is always taken.

    Args:
        start: begins on frame i; may return before it is done.
        finish: waits for what `start` returned.
        in_flight: frames begun and not finished at most; above 1 a second thread finishes them.
    """
    latencies: list[float] = []
    arrival = {}
    begin = clock()

    def complete(index: int, ticket: T) -> None:
        finish(ticket)
        latencies.append(clock() - arrival[index])

    def serve(submit: Callable[[int, T], None], free: Callable[[], object]) -> None:
        last = -1
        while last < count - 1:
            free()
            wait = begin + (last + 1) / rate - clock()
            if wait > 0:
                sleep(wait)
            newest = min(math.floor((clock() - begin) * rate), count - 1)
            last = max(newest, last + 1)  # a sleep may end a rounding error early
            arrival[last] = begin + last / rate
            submit(last, start(last))

    if in_flight == 1:
        serve(complete, lambda: None)
    else:
        _with_collector(serve, complete, in_flight)
    milliseconds = [1000 * value for value in latencies]
    return AtRate(
        rate_hz=rate,
        arrived=count,
        done=len(latencies),
        dropped=count - len(latencies),
        p50_ms=percentile(milliseconds, 50),
        p99_ms=percentile(milliseconds, 99),
        max_ms=max(milliseconds),
        jitter_ms=float(np.std(milliseconds)),
    )


def _with_collector(serve: Callable, complete: Callable[[int, T], None], in_flight: int) -> None:
    """Run `serve` here and `complete` in a thread of its own, as the node's publisher."""
    places = threading.Semaphore(in_flight)
    work: queue.SimpleQueue[tuple[int, T] | None] = queue.SimpleQueue()
    failures: list[BaseException] = []

    def collect() -> None:
        while (item := work.get()) is not None:
            try:
                complete(*item)
            except BaseException as error:
                failures.append(error)
            places.release()

    collector = threading.Thread(target=collect, name="collector", daemon=True)
    collector.start()
    try:
        serve(lambda index, ticket: work.put((index, ticket)), places.acquire)
    finally:
        work.put(None)
        collector.join()
    if failures:
        raise failures[0]
