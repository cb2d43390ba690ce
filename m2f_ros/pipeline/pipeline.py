"""The stages of a frame: upload, resize, network, head, overlay, download.

On CUDA the upload of one frame, the computation of another and the download of a third overlap on three streams,
ordered by events; the host waits only for the result of the frame that it reads. On a CPU the stages run in sequence.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import queue
from collections.abc import Callable, Collection, Sequence
from typing import Generic, TypeVar

import numpy as np
import torch

from m2f_ros.errors import CheckpointError, ConfigError, FrameError, to_install
from m2f_ros.frame.frame import Frame
from m2f_ros.model import Network
from m2f_ros.model.network import (
    INSTANCES,
    MASKS,
    SEGMENTS,
    FusedInstances,
    LabelMap,
    PixelLogits,
)
from m2f_ros.pipeline.backends import Backend, make_backend
from m2f_ros.pipeline.device import (
    choose_device,
    choose_precision,
    give_memory_back,
    is_out_of_memory,
    keep_freed_memory,
)
from m2f_ros.pipeline.resize import Placement, Resize
from m2f_ros.pipeline.segmentation import Segmentation
from m2f_ros.pipeline.segmenter import LABELLED, MEMORY, OUTPUTS, PANOPTIC, GraphKey, Segmenter
from m2f_ros.pipeline.slots import CpuSlot, CudaSlot, Graphs
from m2f_ros.pipeline.streams import CaptureError, Cpu, Cuda
from m2f_ros.pipeline.tuning import Tuning
from m2f_ros.pipeline.views import WHOLE, Views
from m2f_ros.taxonomy import Taxonomy

DEFAULT = frozenset({"label", "overlay"})
MAX_SLOTS = 8
TRACK_BY = ("overlap", "queries")
_log = logging.getLogger("m2f_ros.pipeline")

Result = TypeVar("Result")


class Pipeline:
    """Segments frames with one network on one device.

    `submit` and `submit_batch` are called from one thread only; tickets may be waited for in any thread.

    Args:
        model: network from `m2f_ros.model.load`; moved to the device.
        taxonomy: classes of the model, with their colours.
        device: "auto", "cpu", "cuda", "cuda:1", …
        precision: "int8", "fp8", "fp16", "bf16", "tf32" or "fp32"; None for fp16 on CUDA and fp32 on a CPU.
        backend: name of a backend (see `m2f_ros.pipeline.backends`), or a Backend.
        graphs: True to capture a CUDA graph for each GraphKey, at its second frame in a slot, if the network
            `captures`.
        slots: most frames in flight on CUDA; `submit` waits for a free slot.
        resize: rule for the network's input size.
        tuning: settings that may change while frames flow; see the property.
        output_scale: side of the outputs over side of the frame, 0.1..1. Scores are interpolated to that size before
            the argmax; the overlay's picture is averaged.
        smoothing: weight of the past class scores of a frame's stream, 0..<1: sum = frame's scores + weight * past sum.
            0: labels depend on the frame alone. Otherwise the head computes and keeps the scores of all classes at all
            of the network's pixels, 4 bytes a class and pixel for each stream, without its fast paths (boundaries on a
            CPU, the kernel on CUDA). Panoptic segments are not smoothed.
        views: views of a frame whose class scores are averaged: test-time augmentation and sliding windows. They have
            no segments, and exclude smoothing.
        track_by: one of TRACK_BY: what `Tracker` finds a segment of the frame before by, the overlap of masks or the
            queries' embeddings. The ids of a network with memory always follow its queries.
    Raises:
        ConfigError: a device, precision or backend is unavailable, the taxonomy does not fit the model, or a number is
            out of range.
    """

    def __init__(
        self,
        model: Network,
        taxonomy: Taxonomy,
        *,
        device: str = "auto",
        precision: str | None = None,
        backend: str | Backend = "auto",
        graphs: bool = True,
        slots: int = 2,
        resize: Resize | None = None,
        tuning: Tuning | None = None,
        output_scale: float = 1.0,
        smoothing: float = 0.0,
        views: Views = WHOLE,
        track_by: str = "overlap",
    ):
        if len(taxonomy.classes) != model.config.num_classes:
            raise ConfigError(
                f"taxonomy {taxonomy.name!r} has {len(taxonomy.classes)} classes, the model {model.config.num_classes}"
            )
        self._gives = getattr(model, "gives", None)  # a network that is only timed has none
        if not 1 <= slots <= MAX_SLOTS:
            raise ConfigError(f"slots is {slots}; take 1 to {MAX_SLOTS}, of which 2 or 3 keep a device busy")
        if smoothing and not self.scores_classes:
            raise ConfigError(
                f"smoothing is {smoothing}, and the model gives labels alone, without scores: leave it out"
            )
        if smoothing and self._gives in (*INSTANCES, FusedInstances):
            raise ConfigError(
                f"smoothing is {smoothing}, and the model finds instances, without class scores of pixels: leave it out"
            )
        if views and smoothing:
            raise ConfigError(f"smoothing is {smoothing}, beside tta or windows: take one of them")
        if not 0.1 <= output_scale <= 1:
            raise ConfigError(f"output_scale is {output_scale}; it must be 0.1 to 1")
        self.taxonomy = taxonomy
        self.output_scale = output_scale
        self.tuning = tuning or Tuning()
        self._applied: Tuning | None = None
        self._closed = False
        self.device = choose_device(device)
        # A backend that is made already has its precision.
        made = None if isinstance(backend, str) else precision
        self.precision = made or choose_precision(precision, self.device)
        self.resize = (resize or Resize()).for_model(model.config)
        _prepare_tracking(model, track_by)
        if isinstance(backend, str):
            model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            backend = make_backend(backend, model, self.precision)
        self._views = views
        self._check_views(model)
        self._backend = backend
        self._warmed_up: set[tuple[int, int]] = set()
        self._largest = [0, 0]  # pixels of the largest frame: before the last `tidy`, and since
        memory = getattr(model, "memory", lambda: None)()  # an export has none
        by_queries = memory is not None or track_by == "queries"
        self._segmenter = Segmenter(
            backend, model.config, taxonomy, self.device, self.precision, smoothing, memory, by_queries, views
        )
        if self.device.type == "cpu":
            keep_freed_memory()
        self._captures = getattr(model, "captures", True)
        self._open(Cuda(self.device) if self.device.type == "cuda" else Cpu(), graphs, slots)
        # The other streams do not wait for the default stream, which moved and cast the weights.
        self._streams.free_memory()

    def _check_views(self, model: Network) -> None:
        if not self._views:
            return
        known = self._gives is None or issubclass(self._gives, (*MASKS, PixelLogits))
        if not known or getattr(model, "memory", lambda: None)() is not None:
            raise ConfigError("tta and windows: the model gives no class scores of single frames: leave both out")
        fixed = model.config.resize if model.config.resize and model.config.resize[0] in ("only", "within") else None
        self._views.check(model.config.stride, fixed and (fixed[1], fixed[2]))

    def _open(self, streams: Cuda | Cpu, graphs: bool, slots: int) -> None:
        self._streams = streams
        self._graphs = Graphs(on=graphs and self._captures and not isinstance(streams, Cpu))
        self._slots = [
            CpuSlot(streams) if isinstance(streams, Cpu) else CudaSlot(streams, self._graphs) for _ in range(slots)
        ]
        self._free: queue.SimpleQueue[CudaSlot | CpuSlot] = queue.SimpleQueue()
        for slot in self._slots:
            self._free.put(slot)

    @property
    def backend(self) -> str:
        """Name of the backend; "" once closed."""
        return "" if self._closed else self._backend.name

    @property
    def tuning(self) -> Tuning:
        """The settings that may change while frames flow. Thread-safe; all take effect together at the next submitted
        frame.

        Captured graphs read them. Only a change of `min_confidence` from or to 0 changes the GraphKey: the next two
        frames are slower.

        Raises:
            ConfigError: no class has a given train id, or the model has no confidence for `min_confidence`.
        """
        return self._tuning

    @tuning.setter
    def tuning(self, value: Tuning) -> None:
        self.check(value)
        self._tuning = value

    def check(self, tuning: Tuning) -> None:
        """Raise ConfigError for settings that do not suit the model; see `tuning`."""
        tuning.check(len(self.taxonomy.classes))
        if tuning.min_level and not self.scores_classes:
            raise ConfigError(
                f"min_confidence is {tuning.min_confidence:g}, and the model gives labels alone, without confidence: "
                "leave it out"
            )

    @property
    def finds_segments(self) -> bool:
        """True if segments are found, which "panoptic" needs."""
        return not self.no_segments

    @property
    def no_segments(self) -> str:
        """The reason why no segments are found; "" if they are."""
        if self._views:
            return "scores that tta and windows average have no segments"
        return "" if self._gives is not None and issubclass(self._gives, SEGMENTS) else "the model finds no segments"

    @property
    def scores_classes(self) -> bool:
        """True if the model scores classes, which "confidence", `min_confidence` and smoothing need."""
        return self._gives is not LabelMap

    @property
    def finds_instances(self) -> bool:
        """True if the model finds instances alone, and leaves the pixels between them without a label."""
        return self._gives is not None and issubclass(self._gives, INSTANCES)

    @property
    def fixed_masks(self) -> bool:
        """True if the masks of segments end at a probability of 0.5, whatever `Tuning.mask_threshold` is."""
        return self.finds_segments and self._gives not in MASKS

    @property
    def counters(self) -> dict[str, int]:
        """Counts so far, by the attributes of `Graphs`."""
        return {
            "captures": self._graphs.captures,
            "evictions": self._graphs.evictions,
            "fallbacks": self._graphs.fallbacks,
        }

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) of the outputs of a frame of this size."""
        return max(1, round(height * self.output_scale)), max(1, round(width * self.output_scale))

    def submit(self, frame: Frame, want: Collection[str] = DEFAULT, stream: str = "") -> Ticket[Segmentation]:
        """Start to segment a frame. On CUDA, wait for a free slot, then return while the device works.

        Args:
            want: names of outputs: "label", "overlay", "color", "confidence", "shares", "panoptic"; "memory" of a
                network with memory.
            stream: name of the stream for `smoothing` and networks with memory, such as a camera's name.
        Raises:
            FrameError: the device is out of memory.
            ConfigError: an output is unknown, or the backend cannot run the network at this size.
        """
        return Ticket(self._submit([frame], want, [stream]), self._free, _first)

    def submit_batch(
        self,
        frames: Sequence[Frame],
        want: Collection[str] = DEFAULT,
        streams: Sequence[str] | None = None,
        placements: Sequence[Placement] | None = None,
    ) -> Ticket[list[Segmentation]]:
        """Start to segment a batch of frames of several cameras; see `submit`.

        Their sizes and encodings may differ; their network size must be the same.

        Args:
            streams: stream of each frame, all different; needed by smoothing and networks with memory only.
            placements: placement of each frame in the network's input; None for that of `resize`.
        Raises:
            FrameError: the batch is empty, its network sizes differ, or a frame lacks a stream that is needed.
        """
        return Ticket(self._submit(frames, want, streams, placements), self._free, list)

    def reset(self, stream: str | None = None) -> None:
        """Forget the past class scores and the network's memory of a stream, or of all, as after a jump of time.

        Thread-safe; takes effect at the next submitted frame.
        """
        segmenter = getattr(self, "_segmenter", None)  # another thread may close meanwhile
        if segmenter is not None:
            segmenter.forget(stream)

    @property
    def remembers(self) -> bool:
        """True if the network hands something from frame to frame: its results depend on the frames before."""
        return bool(self._segmenter.memory)

    def restore(self, stream: str, memory: np.ndarray) -> None:
        """Set the network's memory of a stream to `Segmentation.memory` of an earlier frame, "memory" wanted.

        Call it in the thread that submits. Raises ValueError if the array is of another network.
        """
        with self._streams.on("compute"):
            self._segmenter.memory.restore(stream, memory)

    def segment(self, frame: Frame, want: Collection[str] = DEFAULT) -> Segmentation:
        """Segment a frame; return a copy of the result."""
        with self.submit(frame, want) as result:
            return result.copy()

    def warm_up(self, height: int, width: int) -> None:
        """Build the network for single frames of this size; otherwise the first such frame waits for the build.

        Raises:
            FrameError, ConfigError: see `submit`.
        """
        self._warmed_up.update(self._segmenter.sizes(self.resize.place(height, width).network))
        self.segment(Frame(np.zeros((height, width, 3), np.uint8), "bgr8"))
        self.reset("")  # the past of a black frame means nothing
        if self.device.type == "cpu":
            give_memory_back()

    @property
    def builds_in_background(self) -> bool:
        """True if `build_network` may run in another thread while frames are submitted."""
        return self._backend.background and not self._views

    def ready(self, network: tuple[int, int], batch: int = 1) -> bool:
        """Return True if the network is built for `batch` frames at this size (height, width). Thread-safe."""
        if self._views:
            return all(self._backend.ready(size, 1) for size in self._segmenter.sizes(network))
        return self._backend.ready(network, batch)

    def ready_networks(self) -> list[tuple[int, int]]:
        """Return the sizes that are built for single frames; empty if no size needs a build. Thread-safe."""
        return [] if self._views else self._backend.sizes()

    def build_network(self, network: tuple[int, int], batch: int = 1) -> None:
        """Build the network for `batch` frames at this size (height, width). Later sizes may evict it.

        Call it in any thread if `builds_in_background`, else in the thread that submits.

        Raises:
            ConfigError: see `submit`.
        """
        self._segmenter.build_network(network, batch)
        if self.device.type == "cpu":
            give_memory_back()  # building takes far more memory than the result

    def tidy(self, seconds: float) -> None:
        """Free the memory of network sizes unused for `seconds`, and of frames larger than those since the last call.

        The last used size and those of `warm_up` stay. Call it in the thread that submits.
        """
        dropped = self._backend.forget(seconds, self._warmed_up)
        if self.device.type == "cpu" and (dropped or 2 * self._largest[1] < self._largest[0]):
            give_memory_back()
            self._largest[0] = 0
        self._largest = [max(self._largest), 0]

    def close(self) -> None:
        """Free the slots, the graphs, and the model if nobody else holds it.

        Release all tickets before, and submit no frame afterwards.
        """
        if self._closed:
            return
        self._closed = True
        for slot in self._slots:
            with contextlib.suppress(RuntimeError):  # `result` reports it
                slot.wait()
            slot.forget()
        self._segmenter.forget()
        del self._segmenter, self._backend
        self._streams.free_memory()
        if self.device.type == "cpu":
            give_memory_back()

    @torch.inference_mode()
    def _submit(
        self,
        frames: Sequence[Frame],
        want: Collection[str],
        streams: Sequence[str] | None,
        placements: Sequence[Placement] | None = None,
    ) -> CudaSlot | CpuSlot:
        if self._closed:
            raise RuntimeError("the pipeline is closed")
        tuning = self._tuning  # read once, since another thread may set it meanwhile
        raws = [frame.raw for frame in frames]
        placements = tuple(placements) if placements else tuple(self.resize.place(*frame.size) for frame in frames)
        key = self._graph_key(frames, raws, want, tuning, placements)
        self._largest[1] = max(self._largest[1], *(math.prod(frame.size) for frame in frames))
        self._segmenter.check(len(frames), streams)
        slot = self._free.get()
        try:
            if tuning != self._applied:
                with self._streams.on("compute"):
                    self._segmenter.tables.fill(tuning, self._streams)
                self._applied = tuning
            self._run(slot, key, [data for data, _ in raws], streams or [])
        except BaseException:
            self._free.put(slot)
            raise
        return slot

    def _graph_key(
        self,
        frames: Sequence[Frame],
        raws: list[tuple[np.ndarray, str]],
        want: Collection[str],
        tuning: Tuning,
        placements: tuple[Placement, ...],
    ) -> GraphKey:
        want = frozenset(want)
        if unknown := want - OUTPUTS - {MEMORY}:
            raise ConfigError(f"there is no output {min(unknown)!r}; take some of {', '.join(sorted(OUTPUTS))}")
        if self._views and want & PANOPTIC:
            raise ConfigError(f"{self.no_segments}: leave out output {min(want & PANOPTIC)!r}")
        if not frames:
            raise FrameError("a batch has no frames; submit one or more")
        for frame, placement in zip(frames, placements, strict=True):
            if placement.network != placements[0].network:
                raise FrameError(
                    f"frames of one batch need one network size: {_size(frames[0].size)} gives "
                    f"{_size(placements[0].network)}, {_size(frame.size)} gives {_size(placement.network)}; "
                    "take resize mode 'fixed', or submit them one by one"
                )
        return GraphKey(
            shapes=tuple(data.shape for data, _ in raws),
            encodings=tuple(encoding for _, encoding in raws),
            placements=placements,
            sizes=tuple(self.output_size(*f.size) for f in frames),
            want=want,
            filtered=tuning.min_level > 0 and bool(want & LABELLED),
            ignored=tuple(frame.ignored for frame in frames),
        )

    def _run(self, slot: CudaSlot | CpuSlot, key: GraphKey, data: list[np.ndarray], streams: Sequence[str]) -> None:
        """Start the work in a slot. If a graph fails or memory runs out, retry once without graphs."""
        while True:
            try:
                return slot.run(key, data, streams, self._segmenter)
            except (RuntimeError, MemoryError) as error:
                memory = is_out_of_memory(error)
                if not memory and not (isinstance(error, CaptureError) and self._graphs.on):
                    raise
                reason = "memory is short" if memory else str(error)
            # Outside `except`, since the error's traceback keeps tensors alive.
            if memory:
                slot.forget()
            if not self._graphs.on:
                self._streams.free_memory()
                raise FrameError(self._too_large(key))
            self._give_up_graphs(reason)

    def _give_up_graphs(self, reason: str) -> None:
        self._graphs.on = False
        self._graphs.fallbacks = 1
        for slot in self._slots:
            if isinstance(slot, CudaSlot):
                slot.drop_graphs()
        self._streams.free_memory()
        _log.warning("CUDA graphs are given up, which costs speed and nothing else: %s", reason)

    def _too_large(self, key: GraphKey) -> str:
        cuda, batch = self.device.type == "cuda", len(key.shapes)
        hints = ["lower max_pixels", "send smaller images"]
        if batch > 1:
            hints.append("fewer cameras in a batch")
        if cuda and len(self._slots) > 1:
            hints.append("lower slots")
        if self._segmenter.smoothing.weight:
            hints.append("take smoothing 0")
        if cuda and self.precision in ("fp32", "tf32"):
            hints.append("take precision fp16")
        return (
            f"{self.device} has too little memory for {f'{batch} frames' if batch > 1 else 'a frame'} of "
            f"{_size(key.shapes[0][:2])} at a network size of {_size(key.network)}: {' or '.join(hints)}"
        )


class Ticket(Generic[Result]):
    """Frames in flight: a context manager that returns their result; or call `result`, then `release`."""

    def __init__(
        self,
        slot: CudaSlot | CpuSlot,
        free: queue.SimpleQueue[CudaSlot | CpuSlot],
        pack: Callable[[list[Segmentation]], Result],
    ):
        self._slot, self._free, self._pack = slot, free, pack
        self._released = False

    def result(self) -> Result:
        """Wait for these frames; return a Segmentation, or a list for a batch. Arrays are valid until `release`.

        Raises:
            RuntimeError: the device reports an error.
        """
        self._slot.wait()
        stages = self._slot.stages()
        return self._pack([Segmentation.of(arrays, stages) for arrays in self._slot.arrays])

    def release(self) -> None:
        """Give the slot back for another frame."""
        if not self._released:
            self._released = True
            with contextlib.suppress(RuntimeError):  # `result` reports it
                self._slot.wait()
            self._free.put(self._slot)

    def __enter__(self) -> Result:
        try:
            return self.result()
        except BaseException:
            self.release()
            raise

    def __exit__(self, *error: object) -> None:
        self.release()


def _prepare_tracking(model: Network, track_by: str) -> None:
    """Let a model give what `track_by` needs. Raises ConfigError if it cannot."""
    if track_by not in TRACK_BY:
        raise ConfigError(f"track_by is {track_by!r}; take one of {', '.join(TRACK_BY)}")
    if track_by == "overlap" or (isinstance(model, Network) and model.memory() is not None):
        return
    if not importlib.util.find_spec("scipy"):
        raise ConfigError(f"track_by 'queries' needs scipy: {to_install('scipy')}, or take 'overlap'")
    if not isinstance(model, Network):
        raise ConfigError("track_by 'queries': an export gives no embeddings of queries; take 'overlap'")
    try:
        model.give_embeddings()
    except CheckpointError as error:
        raise ConfigError(f"track_by 'queries': {error}; take 'overlap'") from None


def _first(results: list[Segmentation]) -> Segmentation:
    return results[0]


def _size(size: Sequence[int]) -> str:
    """Return WIDTHxHEIGHT."""
    return f"{size[1]}x{size[0]}"
