"""A frame in flight: its memory, the order of its upload, work and download, and the times of them."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from m2f_ros.pipeline.graphs import Graphs
from m2f_ros.pipeline.segmenter import Kind, Segmenter
from m2f_ros.pipeline.streams import Cpu, Cuda

# Kinds of frames for which a slot keeps memory and a graph; the least recently used makes way. Several cameras, alone
# and in batches, and listeners that come and go make a few each.
KINDS = 8
# Bytes of page-locked memory that a slot keeps for kinds beside the present one.
KEPT_BYTES = 1 << 28
# Frames of a kind until its graph is captured, once there were more kinds than a slot keeps: for a camera whose size
# changes all the time captures would be made for nothing.
STEADY = 30


# Once, for warnings' state belongs to all threads. See _tensor.
warnings.filterwarnings("ignore", "The given NumPy array is not writ", UserWarning)


class Clock:
    """Begin and end of each stage, by events that are used again for the next frame."""

    def __init__(self, device: Cuda | Cpu):
        self._device = device
        self._events: list = []
        self._marks: list[str] = []
        self._stream = ""

    def restart(self) -> None:
        self._marks.clear()

    def begin(self, stream: str) -> None:
        """What follows is of this stream."""
        self._stream = stream
        self._record("")

    def mark(self, stage: str) -> None:
        """`stage` ends here, in the stream's order."""
        self._record(stage)

    def _record(self, stage: str) -> None:
        if len(self._marks) == len(self._events):
            self._events.append(self._device.event())
        self._device.record(self._events[len(self._marks)], self._stream)
        self._marks.append(stage)

    def milliseconds(self) -> dict[str, float]:
        """Time of each stage, once all of them are over."""
        return {
            stage: self._events[i - 1].elapsed_time(self._events[i]) for i, stage in enumerate(self._marks) if stage
        }


class HostSlot:
    """A frame on a CPU: the frame's own memory in, new arrays out, one stage after the other."""

    def __init__(self, device: Cpu):
        self._clock = Clock(device)
        self.arrays: list[dict[str, np.ndarray]] = []

    def run(self, kind: Kind, frames: list[np.ndarray], streams: Sequence[str], segmenter: Segmenter) -> None:
        clock = self._clock
        clock.restart()
        segmenter.prepare(kind)  # by itself, so that no stage has its time
        clock.begin("compute")
        raws = [_tensor(frame) for frame in frames]
        clock.mark("upload")
        outputs = segmenter(kind, raws, segmenter.past(kind, streams), clock.mark)
        self.arrays = [{name: tensor.numpy() for name, tensor in frame.items()} for frame in outputs]
        clock.mark("download")

    def wait(self) -> None:
        pass

    def stages(self) -> dict[str, float]:
        return self._clock.milliseconds()

    def forget(self) -> None:
        self.arrays = []


@dataclass
class Memory:
    """What a slot keeps for one kind of frames. A graph reads `raws` and writes `outputs`: it owns them with the slot.

    Attributes:
        staged: page-locked; what is uploaded.
        raws: on the device.
        views: `staged` as NumPy sees it.
        outputs: on the device, for each frame by name.
        results: page-locked; what was downloaded.
        arrays: `results` as NumPy sees them.
        past: on the device; the past that a graph reads and writes, whichever streams it serves.
        replay: launches the graph; None until there is one.
        prepared: the backend's, which the graph reads too.
        frames: how many there were of this kind.
    """

    staged: list[Tensor]
    raws: list[Tensor]
    views: list[np.ndarray] = field(init=False)
    outputs: list[dict[str, Tensor]] = field(default_factory=list)
    results: list[dict[str, Tensor]] = field(default_factory=list)
    arrays: list[dict[str, np.ndarray]] = field(default_factory=list)
    past: list[Tensor] = field(default_factory=list)
    replay: Callable[[], None] | None = None
    prepared: object = None
    frames: int = 0

    @property
    def bytes(self) -> int:
        """Bytes of page-locked memory."""
        arrays = [*self.views, *(array for frame in self.arrays for array in frame.values())]
        return sum(array.nbytes for array in arrays)

    def __post_init__(self) -> None:
        self.views = [tensor.numpy() for tensor in self.staged]


class Slot:
    """A frame on CUDA. Whoever holds the slot gives it back only when its download is done (`wait`)."""

    def __init__(self, device: Cuda, graphs: Graphs):
        self._device, self._graphs = device, graphs
        self._clock = Clock(device)
        self._kept: OrderedDict[Kind, Memory] = OrderedDict()
        self._now: Memory | None = None
        self._uploaded, self._computed, self._done = (device.event() for _ in range(3))
        self._started = False

    @property
    def arrays(self) -> list[dict[str, np.ndarray]]:
        return self._now.arrays

    def run(self, kind: Kind, frames: list[np.ndarray], streams: Sequence[str], segmenter: Segmenter) -> None:
        """Start on frames. Each step waits, on the device, for the one before it; nothing waits for other slots."""
        clock, device = self._clock, self._device
        clock.restart()
        self._started = False
        memory = self._now = self._memory(kind)

        # The only copy on the host: a device reads by itself from page-locked memory alone.
        for view, frame in zip(memory.views, frames, strict=True):
            np.copyto(view, frame)
        with device.on("upload"):
            clock.begin("upload")
            for raw, staged in zip(memory.raws, memory.staged, strict=True):
                device.copy(raw, staged)
            clock.mark("upload")
        device.record(self._uploaded, "upload")

        device.wait("compute", self._uploaded)
        with device.on("compute"):
            self._compute(memory, kind, streams, segmenter)
        device.record(self._computed, "compute")

        device.wait("download", self._computed)
        with device.on("download"):
            clock.begin("download")
            for results, outputs in zip(memory.results, memory.outputs, strict=True):
                for name, result in results.items():
                    device.copy(result, outputs[name])
            clock.mark("download")
        device.record(self._done, "download")
        self._started = True

    def _compute(self, memory: Memory, kind: Kind, streams: Sequence[str], segmenter: Segmenter) -> None:
        def run(mark: Callable[[str], None]) -> list[dict[str, Tensor]]:
            return segmenter(kind, memory.raws, memory.past, mark)

        def work(mark: Callable[[str], None]) -> None:
            for kept, made in zip(memory.outputs, run(mark), strict=True):
                for name, tensor in made.items():
                    self._device.copy(kept[name], tensor)

        # The first frame of a kind warms up: libraries allocate, compile and choose algorithms as it goes.
        first, clock = not memory.outputs, self._clock
        past = segmenter.past(kind, streams)
        if first:
            segmenter.prepare(kind)
            memory.past = segmenter.smoothing.places(len(past), kind.network)
        elif memory.replay is None and self._graphs.on and memory.frames >= (STEADY if self._graphs.evictions else 1):
            memory.prepared = segmenter.prepare(kind)
            memory.replay = self._graphs.capture(lambda: work(_unmarked))
        memory.frames += 1
        clock.begin("compute")
        for place, total in zip(memory.past, past, strict=True):
            self._device.copy(place, total)
        if first:
            self._keep(memory, run(clock.mark))
        elif memory.replay is None:
            work(clock.mark)
        else:
            memory.replay()
            clock.mark("compute")
        for place, total in zip(memory.past, past, strict=True):
            self._device.copy(total, place)

    def _keep(self, memory: Memory, made: list[dict[str, Tensor]]) -> None:
        """Results of the first frame of a kind: their memory is the slot's from here on."""
        memory.outputs = made
        memory.results = [
            {name: self._device.page_locked(tensor.shape, tensor.dtype) for name, tensor in frame.items()}
            for frame in made
        ]
        memory.arrays = [{name: tensor.numpy() for name, tensor in frame.items()} for frame in memory.results]

    def _memory(self, kind: Kind) -> Memory:
        memory = self._kept.get(kind)
        if memory is not None:
            self._kept.move_to_end(kind)
            return memory
        device = self._device
        while len(self._kept) >= KINDS or sum(kept.bytes for kept in self._kept.values()) > KEPT_BYTES:
            self._kept.popitem(last=False)
            self._graphs.evictions += 1
        # Of the upload stream: memory that another stream has freed may still be in use there.
        with device.on("upload"):
            raws = [device.empty(shape, torch.uint8) for shape in kind.shapes]
        staged = [device.page_locked(shape, torch.uint8) for shape in kind.shapes]
        memory = self._kept[kind] = Memory(staged, raws)
        return memory

    def wait(self) -> None:
        """Until the results are there; raises what the device reports."""
        if self._started:
            self._done.synchronize()

    def stages(self) -> dict[str, float]:
        return self._clock.milliseconds()

    def drop_graphs(self) -> None:
        for memory in self._kept.values():
            memory.replay = None

    def forget(self) -> None:
        """Let all memory go."""
        self._kept.clear()
        self._now = None


def _tensor(array: np.ndarray) -> Tensor:
    """A view of the frame's own memory; torch has no read-only tensors, and nothing here writes to it.

    Nor has torch tensors that run backwards: of those a copy.
    """
    if min(array.strides) < 0:
        return torch.from_numpy(array.copy())
    return torch.from_numpy(array)


def _unmarked(stage: str) -> None:
    pass
