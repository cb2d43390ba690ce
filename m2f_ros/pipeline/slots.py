"""Slots of frames in flight: their memory, the order of upload, computation and download, and the stage times."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from m2f_ros.pipeline.segmenter import GraphKey, Segmenter
from m2f_ros.pipeline.streams import Cpu, Cuda

# Number of GraphKeys for which a slot keeps memory and a graph; the least recently used is evicted. Each camera, batch
# and set of wanted outputs adds a few.
MAX_KEYS = 8
# Bytes of pinned memory that a slot keeps for GraphKeys other than the present one.
KEPT_BYTES = 1 << 28
# Frames of one GraphKey before its graph is captured, after the first eviction from a slot: a camera whose size changes
# with every frame would make every capture useless.
STEADY = 30


# Set at import, since all threads share the warning filters. See _tensor.
warnings.filterwarnings("ignore", "The given NumPy array is not writ", UserWarning)


@dataclass
class Graphs:
    """Use of CUDA graphs by all slots of a pipeline.

    Attributes:
        on: True if work is captured as graphs; False after the first failure, when operations are launched one by one.
        captures: number of captured graphs.
        evictions: number of evicted GraphKeys.
        fallbacks: 1 after a failure, else 0.
    """

    on: bool
    captures: int = 0
    evictions: int = 0
    fallbacks: int = 0


class StageClock:
    """Times the stages of a frame with reusable events."""

    def __init__(self, device: Cuda | Cpu):
        self._device = device
        self._events: list = []
        self._marks: list[str] = []
        self._stream = ""

    def restart(self) -> None:
        self._marks.clear()

    def begin(self, stream: str) -> None:
        """Start the clock on this stream."""
        self._stream = stream
        self._record("")

    def mark(self, stage: str) -> None:
        """Record the end of a stage on the stream."""
        self._record(stage)

    def _record(self, stage: str) -> None:
        if len(self._marks) == len(self._events):
            self._events.append(self._device.event())
        self._device.record(self._events[len(self._marks)], self._stream)
        self._marks.append(stage)

    def milliseconds(self) -> dict[str, float]:
        """Return the time of each stage, after all have ended."""
        return {
            stage: self._events[i - 1].elapsed_time(self._events[i]) for i, stage in enumerate(self._marks) if stage
        }


class CpuSlot:
    """A slot on a CPU: reads the frame's own memory, returns new arrays, and runs the stages in sequence."""

    def __init__(self, device: Cpu):
        self._clock = StageClock(device)
        self.arrays: list[dict[str, np.ndarray]] = []

    def run(self, key: GraphKey, frames: list[np.ndarray], streams: Sequence[str], segmenter: Segmenter) -> None:
        clock = self._clock
        clock.restart()
        # Before the clock starts, so that no stage includes the build.
        segmenter.build_network(key.network, len(key.shapes))
        clock.begin("compute")
        raws = [_tensor(frame) for frame in frames]
        clock.mark("upload")
        outputs = segmenter(key, raws, segmenter.past(key, streams), clock.mark)
        self.arrays = [{name: tensor.numpy() for name, tensor in frame.items()} for frame in outputs]
        clock.mark("download")

    def wait(self) -> None:
        pass

    def stages(self) -> dict[str, float]:
        return self._clock.milliseconds()

    def forget(self) -> None:
        self.arrays = []


@dataclass
class Buffers:
    """The memory of a slot for the frames of one GraphKey. A graph reads `inputs` and writes `outputs`.

    Attributes:
        pinned_inputs: data of each frame, uint8 in pinned memory.
        inputs: copies of `pinned_inputs` on the device.
        input_arrays: `pinned_inputs` as NumPy arrays.
        outputs: output name -> array on the device, for each frame.
        pinned_outputs: copies of `outputs` in pinned memory.
        output_arrays: `pinned_outputs` as NumPy arrays.
        past: past class scores and memories on the device, which a graph reads and writes for any streams.
        replay: function that launches the graph; None before its capture.
        plan: the backend's plan, which the graph reads, too.
        frames: number of frames so far.
    """

    pinned_inputs: list[Tensor]
    inputs: list[Tensor]
    input_arrays: list[np.ndarray] = field(init=False)
    outputs: list[dict[str, Tensor]] = field(default_factory=list)
    pinned_outputs: list[dict[str, Tensor]] = field(default_factory=list)
    output_arrays: list[dict[str, np.ndarray]] = field(default_factory=list)
    past: list[Tensor] = field(default_factory=list)
    replay: Callable[[], None] | None = None
    plan: object = None
    frames: int = 0

    @property
    def bytes(self) -> int:
        """Bytes of pinned memory."""
        arrays = [*self.input_arrays, *(array for frame in self.output_arrays for array in frame.values())]
        return sum(array.nbytes for array in arrays)

    def __post_init__(self) -> None:
        self.input_arrays = [tensor.numpy() for tensor in self.pinned_inputs]


class CudaSlot:
    """A slot on CUDA. Its holder releases it only after the download (`wait`)."""

    def __init__(self, device: Cuda, graphs: Graphs):
        self._device, self._graphs = device, graphs
        self._clock = StageClock(device)
        self._kept: OrderedDict[GraphKey, Buffers] = OrderedDict()
        self._now: Buffers | None = None
        self._uploaded, self._computed, self._done = (device.event() for _ in range(3))
        self._started = False

    @property
    def arrays(self) -> list[dict[str, np.ndarray]]:
        return self._now.output_arrays if self._now else []

    def run(self, key: GraphKey, frames: list[np.ndarray], streams: Sequence[str], segmenter: Segmenter) -> None:
        """Start the work on frames. Each step waits on the device for the one before; slots do not wait for others."""
        clock, device = self._clock, self._device
        clock.restart()
        self._started = False
        memory = self._now = self._memory(key)

        # The only copy on the host: an asynchronous upload needs pinned memory.
        for array, frame in zip(memory.input_arrays, frames, strict=True):
            np.copyto(array, frame)
        with device.on("upload"):
            clock.begin("upload")
            for on_device, pinned in zip(memory.inputs, memory.pinned_inputs, strict=True):
                device.copy(on_device, pinned)
            clock.mark("upload")
        device.record(self._uploaded, "upload")

        device.wait("compute", self._uploaded)
        with device.on("compute"):
            self._compute(memory, key, streams, segmenter)
        device.record(self._computed, "compute")

        device.wait("download", self._computed)
        with device.on("download"):
            clock.begin("download")
            for pinned_outputs, outputs in zip(memory.pinned_outputs, memory.outputs, strict=True):
                for name, pinned in pinned_outputs.items():
                    device.copy(pinned, outputs[name])
            clock.mark("download")
        device.record(self._done, "download")
        self._started = True

    def _compute(self, memory: Buffers, key: GraphKey, streams: Sequence[str], segmenter: Segmenter) -> None:
        def run(mark: Callable[[str], None]) -> list[dict[str, Tensor]]:
            return segmenter(key, memory.inputs, memory.past, mark)

        def work(mark: Callable[[str], None]) -> None:
            made = run(mark)
            if not memory.outputs:
                self._keep(memory, made)
            for kept, frame in zip(memory.outputs, made, strict=True):
                for name, tensor in frame.items():
                    self._device.copy(kept[name], tensor)

        # The first frame of a GraphKey is the warm-up: libraries allocate, compile and choose algorithms.
        first, clock = not memory.outputs, self._clock
        past = segmenter.past(key, streams)
        if first:
            segmenter.build_network(key.network, len(key.shapes))
            memory.past = segmenter.buffers(key, len(past))
        elif memory.replay is None and self._graphs.on and memory.frames >= (STEADY if self._graphs.evictions else 1):
            memory.plan = segmenter.build_network(key.network, len(key.shapes))
            memory.replay = self._device.capture(lambda: work(_unmarked))
            self._graphs.captures += 1
        memory.frames += 1
        clock.begin("compute")
        for buffer, total in zip(memory.past, past, strict=True):
            self._device.copy(buffer, total)
        if memory.replay is None:
            work(clock.mark)
        else:
            memory.replay()
            clock.mark("compute")
        for buffer, total in zip(memory.past, past, strict=True):
            self._device.copy(total, buffer)

    def _keep(self, memory: Buffers, made: list[dict[str, Tensor]]) -> None:
        """Allocate the memory of the outputs: apart, since a few bytes of a large block keep all of it allocated."""
        device = self._device
        with device.on("upload"):  # see _memory
            memory.outputs = [
                {name: device.empty(tensor.shape, tensor.dtype) for name, tensor in frame.items()} for frame in made
            ]
        memory.pinned_outputs = [
            {name: device.pinned(tensor.shape, tensor.dtype) for name, tensor in frame.items()} for frame in made
        ]
        memory.output_arrays = [
            {name: tensor.numpy() for name, tensor in frame.items()} for frame in memory.pinned_outputs
        ]

    def _memory(self, key: GraphKey) -> Buffers:
        memory = self._kept.get(key)
        if memory is not None:
            self._kept.move_to_end(key)
            return memory
        device = self._device
        while len(self._kept) >= MAX_KEYS or sum(kept.bytes for kept in self._kept.values()) > KEPT_BYTES:
            self._kept.popitem(last=False)
            self._graphs.evictions += 1
        # Allocated on the upload stream: another stream may still use memory that it has freed.
        with device.on("upload"):
            inputs = [device.empty(shape, torch.uint8) for shape in key.shapes]
        pinned = [device.pinned(shape, torch.uint8) for shape in key.shapes]
        memory = self._kept[key] = Buffers(pinned, inputs)
        return memory

    def wait(self) -> None:
        """Wait for the results. Raises RuntimeError if the device reports an error."""
        if self._started:
            self._done.synchronize()

    def stages(self) -> dict[str, float]:
        return self._clock.milliseconds()

    def drop_graphs(self) -> None:
        for memory in self._kept.values():
            memory.replay = None

    def forget(self) -> None:
        """Free all memory."""
        self._kept.clear()
        self._now = None


def _tensor(array: np.ndarray) -> Tensor:
    """Return a view of the frame's memory, or a copy if it has negative strides, which torch does not support.

    torch has no read-only tensors either, and the pipeline does not write to the view.
    """
    if min(array.strides) < 0:
        return torch.from_numpy(array.copy())
    return torch.from_numpy(array)


def _unmarked(stage: str) -> None:
    pass
