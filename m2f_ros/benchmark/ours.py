"""This package's pipeline as a contestant, and what its Python thread costs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from m2f_ros.benchmark import others
from m2f_ros.benchmark.marks import Marks, marked, split
from m2f_ros.benchmark.weights import Checkpoint
from m2f_ros.model import Mask2Former, ModelConfig, load
from m2f_ros.pipeline import Frame, Pipeline, Ticket
from m2f_ros.pipeline.backends import Backend, make_backend
from m2f_ros.pipeline.classes import taxonomy_of
from m2f_ros.pipeline.device import PRECISIONS
from m2f_ros.pipeline.resize import Resize

# Stages of a ticket that are the host's own on a CPU; the others are the device's work.
_HOST_STAGES = ("upload", "download")
SLOTS = 2  # the pipeline's own default


class Ours:
    """The pipeline with one backend: as `others.Other`, with several batches in flight on CUDA.

    Args:
        size: (height, width) of the network's input.
        model: of these weights, where they are loaded already. It is moved to the device and cast.
    """

    def __init__(
        self,
        backend: str,
        weights: Checkpoint,
        size: tuple[int, int],
        device: torch.device,
        precision: str,
        model: Mask2Former | None = None,
    ):
        self.name = backend
        self.what = f"this package's pipeline, backend {backend}"
        self.in_flight = SLOTS if device.type == "cuda" else 1
        self._weights, self._size, self._device, self._precision = weights, size, device, precision
        self._model = (model or load(weights.folder)).to(device, memory_format=torch.channels_last)
        self._backend = make_backend(backend, self._model, precision)
        self._pipeline = make_pipeline(weights.config, self._backend, size, device, precision)

    def warm_up(self, frames: Sequence[np.ndarray]) -> None:
        """Segment a batch as often as it takes for every slot to have its memory, and on CUDA its graph."""
        for _ in range(2 * SLOTS if self._device.type == "cuda" else 1):
            self.finish(self.start(frames))

    def start(self, frames: Sequence[np.ndarray]) -> Ticket:
        """frames: a batch of (height, width, 3) uint8 RGB."""
        return _start(self._pipeline, frames)

    def finish(self, ticket: Ticket) -> dict[str, float]:
        """Wait for the labels. Milliseconds of each stage."""
        with ticket as results:
            return results[0].stages

    def labels(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """(B, height, width)."""
        with self.start(frames) as results:
            return np.stack([result.label for result in results])

    @torch.inference_mode()
    def logits(self, frames: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Class and mask logits in float32 on the CPU, of pixels prepared as the baseline's."""
        dtype = self._backend.dtype
        plain = others.Other("hf", self._backend, self._weights, self._size, self._device, dtype)
        return plain.logits(frames)

    @contextlib.contextmanager
    def parts(self) -> Iterator[Callable[[Sequence[np.ndarray]], dict[str, float]]]:
        """What gives a batch's milliseconds of each stage, the network in three parts: eager, without graphs."""
        model = self._model
        eager = make_backend("eager", model, self._precision)
        pipeline = make_pipeline(self._weights.config, eager, self._size, self._device, self._precision, graphs=False)
        marks = Marks(self._device)
        modules = {"backbone": model.backbone, "pixel decoder": model.pixel_decoder, "decoder": model.decoder}

        def measure(frames: Sequence[np.ndarray]) -> dict[str, float]:
            with _start(pipeline, frames) as results:
                return split(results[0].stages, marks.milliseconds())

        with marked(marks, model.backbone, modules):
            yield measure


def host_times(
    config: ModelConfig, frame: np.ndarray, size: tuple[int, int], device: torch.device, precision: str, rounds: int
) -> list[float]:
    """Milliseconds of the Python thread for each of `rounds` frames, outside the device's work.

    The time of submit, and of result and release once the device is done, with a network that answers at once. On a
    CPU the device's work runs in submit: its stages are subtracted.

    Args:
        frame: (height, width, 3) uint8 RGB.
        size: (height, width) of the network's input.
    """
    pipeline = make_pipeline(config, _Stub(config, size, device, PRECISIONS[precision]), size, device, precision)
    cuda = device.type == "cuda"
    times = []
    for _ in range(5 + rounds):  # the first ones allocate and capture, in both slots
        start = time.perf_counter()
        ticket = pipeline.submit(Frame(frame, "rgb8"), {"label"})
        submitted = time.perf_counter()
        if cuda:
            torch.cuda.synchronize(device)
        waited = time.perf_counter()
        stages = ticket.result().stages
        ticket.release()
        spent = 1000 * (time.perf_counter() - waited + submitted - start)
        if not cuda:
            spent -= sum(value for name, value in stages.items() if name not in _HOST_STAGES)
        times.append(spent)
    return times[5:]


class _Stub:
    """A backend that gives the same logits for every frame, without work."""

    name, background = "stub", False

    def __init__(self, config: ModelConfig, size: tuple[int, int], device: torch.device, dtype: torch.dtype):
        generator = torch.Generator().manual_seed(0)
        shapes = (config.num_classes + 1,), (size[0] // 4, size[1] // 4)
        self.dtype = dtype
        self._logits = tuple(
            torch.randn(1, config.num_queries, *shape, generator=generator).to(device, dtype) for shape in shapes
        )

    def ready(self, size: tuple[int, int], batch: int = 1) -> bool:
        return True

    def sizes(self) -> list[tuple[int, int]]:
        return []

    def build(self, size: tuple[int, int], batch: int = 1) -> None:
        pass

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return self._logits


def make_pipeline(
    config: ModelConfig,
    backend: Backend,
    size: tuple[int, int],
    device: torch.device,
    precision: str,
    graphs: bool = True,
    slots: int = SLOTS,
) -> Pipeline:
    """The pipeline around a backend, for frames of any size.

    Args:
        size: (height, width) of the network's input.
        graphs, slots: see Pipeline.
    """
    classes = taxonomy_of("model", config)
    resize = Resize("fixed", height=size[0], width=size[1])
    # The backend has the network; the pipeline asks for its config alone.
    model = SimpleNamespace(config=config)
    return Pipeline(
        model,
        classes,
        device=str(device),
        precision=precision,
        backend=backend,
        graphs=graphs,
        slots=slots,
        resize=resize,
    )


def _start(pipeline: Pipeline, frames: Sequence[np.ndarray]) -> Ticket:
    return pipeline.submit_batch([Frame(frame, "rgb8") for frame in frames], {"label"})
