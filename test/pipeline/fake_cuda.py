"""A device with streams, events and graphs that computes at once on the CPU and notes what must wait for what."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

import torch


@dataclass
class Op:
    """Something done on a stream, or by the host.

    after: all operations that are certainly over before it starts.
    """

    stream: str
    name: str
    reads: list[int] = field(default_factory=list)
    writes: list[int] = field(default_factory=list)
    after: set[int] = field(default_factory=set)


class Event:
    def __init__(self, device):
        self._device = device
        self.after: set[int] = set()
        self.time = 0

    def synchronize(self):
        self._device.host |= self.after
        self._device.waits += 1
        if self._device.broken is not None:
            broken, self._device.broken = self._device.broken, None
            raise broken

    def elapsed_time(self, later):
        return float(later.time - self.time)


class FakeCuda:
    """The calls of `streams.Cuda`.

    Attributes:
        ops: in the order in which the host asked for them.
        waits: how often the host waited for the device.
        broken: an error that the next wait of the host is to report.
        capture_errors, compute_errors: errors that the next captures, and the next computations, are to fail with.
    """

    device = torch.device("cpu")

    def __init__(self):
        self.ops: list[Op] = []
        self.host: set[int] = set()  # what is over, as far as the host knows
        self.waits = self.launches = self.frees = 0
        self.broken: Exception | None = None
        self.capture_errors: list[Exception] = []
        self.compute_errors: list[Exception] = []
        self._streams: dict[str, set[int]] = {name: set() for name in ("upload", "compute", "download")}
        self._current = ""
        self._capturing = False
        self._kept: list[torch.Tensor] = []  # so that no two buffers have one address

    @contextlib.contextmanager
    def on(self, stream):
        before, self._current = self._current, stream
        yield
        self._current = before

    def event(self):
        return Event(self)

    def record(self, event, stream):
        event.after = set(self._streams[stream])
        event.time = len(self.ops)

    def wait(self, stream, event):
        self._streams[stream] |= event.after

    def empty(self, shape, dtype):
        assert self._current != "compute", "memory that compute freed may still be in use there"
        return self._keep(torch.zeros(shape, dtype=dtype))

    def pinned(self, shape, dtype):
        return self._keep(torch.zeros(shape, dtype=dtype))

    def copy(self, to, source):
        if self._capturing:
            return
        if self._current == "upload":
            self.by_host("stage", writes=[source])
        to.copy_(source)
        self.note(self._current, "copy", [source], [to])

    def capture(self, work):
        from m2f_ros.pipeline.streams import CaptureError

        if self.capture_errors:
            error = self.capture_errors.pop(0)
            raise error if isinstance(error, torch.OutOfMemoryError) else CaptureError(str(error)) from error
        self._capturing = True
        work()
        self._capturing = False

        def replay():
            self.launches += 1
            with self.on("compute"):
                work()

        return replay

    def free_memory(self):
        self.frees += 1

    def note(self, stream, name, reads=(), writes=()):
        """An operation on a stream: after all that the stream waits for, and not before the host asked for it."""
        if self._capturing:
            return
        if name == "compute" and self.compute_errors:
            raise self.compute_errors.pop(0)
        after = self._streams[stream] | self.host
        self._add(Op(stream, name, self._addresses(reads), self._addresses(writes), set(after)))
        self._streams[stream] |= {len(self.ops) - 1}

    def by_host(self, name, reads=(), writes=()):
        self._add(Op("host", name, self._addresses(reads), self._addresses(writes), set(self.host)))
        self.host |= {len(self.ops) - 1}

    def races(self) -> list[tuple[Op, Op]]:
        """Pairs of operations on the same memory, one of which writes, in no certain order."""
        found = []
        for j, later in enumerate(self.ops):
            for i, earlier in enumerate(self.ops[:j]):
                shared = set(earlier.writes) & set(later.reads + later.writes) or set(earlier.reads) & set(later.writes)
                if shared and i not in later.after:
                    found.append((earlier, later))
        return found

    def _add(self, op):
        for i in tuple(op.after):
            op.after |= self.ops[i].after
        self.ops.append(op)

    def _addresses(self, tensors):
        return [self._keep(tensor).untyped_storage().data_ptr() for tensor in tensors]

    def _keep(self, tensor):
        self._kept.append(tensor)
        return tensor
