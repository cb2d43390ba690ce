"""Streams, events, memory and graphs of a device. On a CPU most of them do nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import torch
from torch import Tensor

STREAMS = ("upload", "compute", "download")


class CaptureError(RuntimeError):
    """Work that could not be captured as a graph."""


class Cuda:
    """Three streams of one CUDA device. Work on one waits for another by events alone; the host waits for no stream."""

    def __init__(self, device: torch.device):
        self.device = device
        self._streams = {name: torch.cuda.Stream(device) for name in STREAMS}
        # Graphs run one after the other on the compute stream and leave nothing behind but what they write into a
        # slot's own buffers: all may use the same memory.
        self._pool = torch.cuda.graph_pool_handle()
        self._failed: list[torch.cuda.CUDAGraph] = []

    def on(self, stream: str) -> contextlib.AbstractContextManager:
        """Return a context in which torch works, and allocates memory, on that stream."""
        return torch.cuda.stream(self._streams[stream])

    def event(self) -> torch.cuda.Event:
        # A thread that waits for a blocking event sleeps; it waits for another one by spinning.
        return torch.cuda.Event(enable_timing=True, blocking=True)

    def record(self, event: torch.cuda.Event, stream: str) -> None:
        """Record the event: it happens when the work on the stream so far is done."""
        event.record(self._streams[stream])

    def wait(self, stream: str, event: torch.cuda.Event) -> None:
        """Let later work on the stream start after the event."""
        self._streams[stream].wait_event(event)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return pinned memory of the host, which the device copies without the host."""
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def copy(self, to: Tensor, source: Tensor) -> None:
        """Copy between host and device, on the current stream; the host does not wait."""
        to.copy_(source, non_blocking=True)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Capture work of the compute stream as a graph; return the function that launches it.

        The capture does not do the work. The work must have run once before, when libraries allocate and compile.

        Raises:
            CaptureError: the work cannot be captured.
            torch.OutOfMemoryError: out of memory on the device.
        """
        graph = torch.cuda.CUDAGraph()
        with self.on("compute"):
            try:
                # Not torch.cuda.graph: that waits for the whole device. "thread_local": another thread that waits for
                # its result meanwhile does not spoil the capture.
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                work()
                graph.capture_end()
            except Exception as error:
                with contextlib.suppress(RuntimeError):
                    graph.capture_end()
                # The allocator of torch may still point to it.
                self._failed.append(graph)
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                raise CaptureError(str(error).partition("\n")[0] or type(error).__name__) from error
        return graph.replay

    def free_memory(self) -> None:
        """Wait for the device, and give memory that nothing uses back to it."""
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()
        # Pinned memory of the host that nothing uses; torch has no public name for this in 2.11.
        getattr(torch._C, "_host_emptyCache", lambda: None)()


class Cpu:
    """The same calls on a CPU, one after the other; an event is the time at which it was recorded."""

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
        """Milliseconds from this event to the later one."""
        return (later.time - self.time) * 1000
