"""Instruments of the benchmarks: statistics, throughput, latency at a rate, memory, and times of stages."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import resource
import time
import traceback
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from m2f_ros.benchmark.result import AtRate, Spread
from m2f_ros.errors import words_of

Ticket = TypeVar("Ticket")
TRACEBACK = 8000  # characters


def spread(values: Sequence[float] | np.ndarray) -> Spread:
    """Distribution of at least one value."""
    return Spread(len(values), *map(float, np.percentile(values, (0, 25, 50, 75, 100))))


def median(values: Sequence[float]) -> float:
    return float(np.median(values))


def agreement(labels: np.ndarray, reference: np.ndarray) -> float:
    """Part of the pixels with the same label, 0 to 1. ValueError for arrays of different shapes."""
    if labels.shape != reference.shape:
        raise ValueError(f"labels {labels.shape} and reference {reference.shape} are of different shapes")
    return float((labels == reference).mean())


def said(error: BaseException) -> dict[str, Any]:
    """The fields of a row that an error left without figures: the error in a line, and the end of its traceback."""
    trace = "".join(traceback.format_exception(error))
    return {"error": f"{type(error).__name__}: {words_of(error)}", "traceback": trace[-TRACEBACK:]}


def logit_error(logits: Tensor, reference: Tensor) -> float | None:
    """Largest difference of two tensors of one shape; None where some values are not finite."""
    largest = float((logits - reference).abs().max())
    return largest if math.isfinite(largest) else None


def seconds_of(
    start: Callable[[int], Ticket], finish: Callable[[Ticket], object], count: int, in_flight: int = 1
) -> float:
    """Time `count` batches in a closed loop, from the start of the first to the end of the last.

    Args:
        start: begins batch i; may return before it is done.
        finish: waits for the batch whose ticket `start` returned.
        in_flight: largest number of batches that are begun and not finished; the oldest is finished first.
    """
    flying: deque[Ticket] = deque()
    begin = time.perf_counter()
    for i in range(count):
        if len(flying) == in_flight:
            finish(flying.popleft())
        flying.append(start(i))
    while flying:
        finish(flying.popleft())
    return time.perf_counter() - begin


def latency_at_rate(
    start: Callable[[int], Ticket],
    finish: Callable[[Ticket], object],
    rate: float,
    count: int,
    in_flight: int = 1,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> AtRate:
    """Measure latency in an open loop: `count` frames arrive, one every 1 / rate seconds.

    Frame i arrives at i / rate, whether or not the contestant is free. A free contestant takes the newest frame that
    has arrived; the frames before it are dropped. The last frame is always taken. A closed loop, which starts the next
    frame when the last one is done, would hide the time that a camera's frames wait.

    Args:
        start, finish: see `seconds_of`.
        in_flight: largest number of frames in flight; above 1 a second thread finishes them.
    """
    latencies: list[float] = []
    flying: deque[Future[None]] = deque()
    begin, last = clock(), -1

    def complete(ticket: Ticket, arrival: float) -> None:
        finish(ticket)
        latencies.append(1000 * (clock() - arrival))

    with ThreadPoolExecutor(1, "collector") as collector:
        while last < count - 1:
            if len(flying) == in_flight:
                flying.popleft().result()
            wait = begin + (last + 1) / rate - clock()
            if wait > 0:
                sleep(wait)
            newest = min(math.floor((clock() - begin) * rate), count - 1)
            last = max(newest, last + 1)  # a sleep may end a rounding error early
            ticket, arrival = start(last), begin + last / rate
            if in_flight == 1:
                complete(ticket, arrival)
            else:
                flying.append(collector.submit(complete, ticket, arrival))
        for future in flying:
            future.result()
    p50, p99, most = map(float, np.percentile(latencies, (50, 99, 100)))
    done = len(latencies)
    return AtRate(rate, count, done, count - done, p50, p99, most, jitter_ms=float(np.std(latencies)))


class MemoryWatch:
    """Memory that is added after the watch was made: on the device, on a CPU the process' resident memory."""

    def __init__(self, device: torch.device):
        self.device = device
        self.restart()
        self._before = self._peak()

    def restart(self) -> None:
        """Forget the peak so far, as of loading and conversion."""
        collect(self.device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # the kernel's peak of resident memory (proc(5))

    def peak_mb(self) -> float:
        """Megabytes (10^6) of the peak since `restart` beyond the memory in use when the watch was made."""
        return max(0, self._peak() - self._before) / 1e6

    def _peak(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def collect(device: torch.device) -> None:
    """Give unused memory back to the device, or on a CPU to the system: it would hide what the next one takes."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
    else:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)


@contextlib.contextmanager
def released(device: torch.device) -> Iterator[None]:
    """Give the memory of what is loaded in the block back before anything else is measured."""
    try:
        yield
    finally:
        collect(device)


@torch.inference_mode()
def call_us(call: Callable[[], object], device: torch.device, times: int = 20, repeat: int = 1) -> float:
    """Median microseconds of a call: on CUDA of replays of its graph, without the host's share; on a CPU of calls.

    Args:
        times: number of replays.
        repeat: calls in the graph, for one that takes no longer than the start of a graph.
    """
    call()  # compiles, and lets libraries allocate
    run, marks, found = call, Marks(device), []
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(repeat):
                call()
        run = graph.replay
        run()
    for _ in range(times):
        marks.mark("")
        run()
        marks.mark("call")
        found.append(1000 * marks.milliseconds()["call"] / (repeat if run is not call else 1))
    return median(found)


class Marks:
    """Ends of the stages of a pass: events in the stream's order on CUDA, the clock on a CPU."""

    def __init__(self, device: torch.device):
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[str, Any]] = []

    def mark(self, stage: str) -> None:
        """End `stage` here; the first mark only begins."""
        moment: Any = torch.cuda.Event(enable_timing=True) if self._cuda else time.perf_counter()
        if self._cuda:
            moment.record()
        self._marks.append((stage, moment))

    def milliseconds(self) -> dict[str, float]:
        """Stage -> time since the marks before its ends. Waits for the device and forgets the marks."""
        marks, self._marks = self._marks, []
        if self._cuda:
            torch.cuda.synchronize()
        found: dict[str, float] = defaultdict(float)
        for (_, before), (name, now) in pairwise(marks):
            found[name] += before.elapsed_time(now) if self._cuda else 1000 * (now - before)
        return dict(found)


@contextlib.contextmanager
def timed(device: torch.device, modules: Iterable[tuple[str, nn.Module]]) -> Iterator[Callable[[], dict[str, float]]]:
    """Time modules whenever they run in the block. The time of a module includes that of the modules it calls.

    modules: (name, module); modules of one name are added up.
    Yields: a function that gives the milliseconds of each name since its last call.
    """
    found, handles = [], []
    for name, module in modules:
        marks = Marks(device)
        found.append((name, marks))
        handles.append(module.register_forward_pre_hook(lambda *_, marks=marks: marks.mark("")))
        handles.append(module.register_forward_hook(lambda *_, name=name, marks=marks: marks.mark(name)))

    def times() -> dict[str, float]:
        total: dict[str, float] = defaultdict(float)
        for name, marks in found:
            total[name] += marks.milliseconds().get(name, 0.0)  # the rest is the time between calls of the module
        return dict(total)

    try:
        yield times
    finally:
        for handle in handles:
            handle.remove()


def split(stages: Mapping[str, float], inner: Mapping[str, float]) -> dict[str, float]:
    """The stages of a pass, with the parts of the network, if any, for "network"; the decoder is the last one."""
    found: dict[str, float] = {}
    for name, value in stages.items():
        found |= {**inner, "decoder": value - sum(inner.values())} if inner and name == "network" else {name: value}
    return found
