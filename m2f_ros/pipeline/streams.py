"""Streams, events, memory and graphs of a device. On a CPU most of the calls do nothing."""

from __future__ import annotations

import contextlib
import gc
import time
import weakref
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

STREAMS = ("upload", "compute", "download")


# torch's allocator of pinned memory goes on to ask such a graph which memory is its own.
_failed: list[torch.cuda.CUDAGraph] = []


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
        self._graphs: weakref.WeakSet[torch.cuda.CUDAGraph] = weakref.WeakSet()  # those in the pool

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
        The memory that it took then goes back to the device, which waits for all work: the graph has its own.

        Raises:
            CaptureError: the work cannot be captured.
            torch.OutOfMemoryError: the device is out of memory.
        """
        if not self._graphs:
            # torch's allocator gives a pool up with its last graph.
            self._pool = torch.cuda.graph_pool_handle()
        torch.cuda.empty_cache()
        graph = torch.cuda.CUDAGraph()
        with self.on("compute"), _no_garbage_collection():
            try:
                # torch.cuda.graph would synchronise the device. "thread_local" lets another thread wait for its result
                # without invalidating the capture.
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                work()
                graph.capture_end()
            except BaseException as error:
                self._end(graph)
                if isinstance(error, torch.OutOfMemoryError) or not isinstance(error, Exception):
                    raise
                raise CaptureError(str(error).partition("\n")[0] or type(error).__name__) from error
        self._graphs.add(graph)
        return graph.replay

    def _end(self, graph: torch.cuda.CUDAGraph) -> None:
        """End a capture that failed, so that later work and captures of the process go on."""
        try:
            graph.capture_end()
            return
        except RuntimeError:
            pass
        # Without a valid capture, torch (2.11 to 2.13) leaves out the rest of capture_end.
        with contextlib.suppress(RuntimeError):  # the allocator does not take the capture as underway
            torch._C._cuda_endAllocateToPool(self.device.index, self._pool)
            torch._C._cuda_releasePool(self.device.index, self._pool)
            # The allocator of pinned memory still does: it refuses another capture into this pool.
            _failed.append(graph)
            self._graphs.clear()
        with contextlib.suppress(RuntimeError):  # the device itself has failed
            self._capture_nothing()

    def _capture_nothing(self) -> None:
        """End the state "capturing" of torch's random number generator, in which it refuses all other work."""
        number = torch.zeros(1, device=self.device)
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(capture_error_mode="thread_local")
        number.zero_()  # torch warns about empty graphs
        graph.capture_end()

    def free_memory(self) -> None:
        """Synchronise the device, and free its unused memory and unused pinned memory."""
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()
        # torch 2.11 has no public function for unused pinned memory.
        getattr(torch._C, "_host_emptyCache", lambda: None)()


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Keep the garbage collector from freeing objects of CUDA during a capture, which forbids that."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


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
