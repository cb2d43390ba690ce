"""Streams, events, memory and graphs of a device. On a CPU most of the calls do nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import torch
from torch import Tensor

STREAMS = ("upload", "compute", "download")


class CaptureError(RuntimeError):
    """The work cannot be captured as a graph."""


class Cuda:
    """Three streams of one CUDA device, synchronised by events; the host waits for no stream."""

    def __init__(self, device: torch.device):
        self.device = device
        self._streams = {name: torch.cuda.Stream(device) for name in STREAMS}
        # One memory pool for all graphs, since they run one after the other on the compute stream, and write their
        # results into a slot's own buffers.
        self._pool = torch.cuda.graph_pool_handle()
        self._failed: list[torch.cuda.CUDAGraph] = []

    def on(self, stream: str) -> contextlib.AbstractContextManager:
        """Return a context in which torch computes and allocates on that stream."""
        return torch.cuda.stream(self._streams[stream])

    def event(self) -> torch.cuda.Event:
        # Blocking: a thread that waits for such an event sleeps instead of spinning.
        return torch.cuda.Event(enable_timing=True, blocking=True)

    def record(self, event: torch.cuda.Event, stream: str) -> None:
        """Record the event after the work on the stream so far."""
        event.record(self._streams[stream])

    def wait(self, stream: str, event: torch.cuda.Event) -> None:
        """Let later work on the stream start after the event."""
        self._streams[stream].wait_event(event)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return pinned memory of the host."""
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def copy(self, to: Tensor, source: Tensor) -> None:
        """Copy between host and device, on the current stream; the host does not wait."""
        to.copy_(source, non_blocking=True)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Capture work of the compute stream as a graph; return the function that launches it.

        The capture does not run the work. It must have run once before, so that libraries have allocated and compiled.

        Raises:
            CaptureError: the work cannot be captured.
            torch.OutOfMemoryError: the device is out of memory.
        """
        graph = torch.cuda.CUDAGraph()
        with self.on("compute"):
            try:
                # torch.cuda.graph would synchronise the device. "thread_local" lets another thread wait for its result
                # without invalidating the capture.
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                work()
                graph.capture_end()
            except Exception as error:
                with contextlib.suppress(RuntimeError):
                    graph.capture_end()
                # Kept alive, since torch's allocator may still refer to it.
                self._failed.append(graph)
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                raise CaptureError(str(error).partition("\n")[0] or type(error).__name__) from error
        return graph.replay

    def free_memory(self) -> None:
        """Synchronise the device, and free its unused memory and unused pinned memory."""
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()
        # torch 2.11 has no public function for unused pinned memory.
        getattr(torch._C, "_host_emptyCache", lambda: None)()


class Cpu:
    """The calls of Cuda on a CPU, in sequence; an event is the time of its recording."""

    device = torch.device("cpu")

    def on(self, stream: str) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext()

    def event(self) -> CpuEvent:
        return CpuEvent()

    def record(self, event: CpuEvent, stream: str) -> None:
        event.time = time.perf_counter()

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype)

    def copy(self, to: Tensor, source: Tensor) -> None:
        to.copy_(source)

    def free_memory(self) -> None:
        pass


class CpuEvent:
    time = 0.0

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, later: CpuEvent) -> float:
        """Return the milliseconds from this event to the later one."""
        return (later.time - self.time) * 1000
