"""This package's pipeline as a contestant, and the time of its Python thread."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch

from m2f_ros.benchmark.inputs import Case
from m2f_ros.benchmark.measure import split, timed
from m2f_ros.benchmark.result import shape
from m2f_ros.benchmark.theirs import Batch, Theirs
from m2f_ros.errors import ConfigError
from m2f_ros.model import Mask2Former, Network, load
from m2f_ros.model.network import Result
from m2f_ros.pipeline import Frame, Pipeline, Ticket
from m2f_ros.pipeline.backends import Backend, make_backend
from m2f_ros.pipeline.classes import taxonomy_of
from m2f_ros.pipeline.resize import Resize

if TYPE_CHECKING:
    from m2f_ros.pipeline.exported import Export

_HOST_STAGES = ("upload", "download")  # that are the host's own work on a CPU; the others stand for the device's
SLOTS = 2  # the pipeline's own default


class Ours:
    """The pipeline with one backend: as `Theirs`, with several batches in flight on CUDA.

    Args:
        model: the network, where it is loaded already. It is moved to the device and cast.
        precision: a precision other than the case's.
    """

    def __init__(self, backend: str, case: Case, model: Network | None = None, precision: str | None = None):
        self.name, self.what, self.precision = backend, f"this package's pipeline, backend {backend}", precision
        if precision:
            self.name, self.what = f"{backend} {precision}", f"{self.what}, in {precision}"
            case = dataclasses.replace(case, precision=precision)
        self.in_flight = SLOTS if case.cuda else 1
        self._case = case
        self._model = channels_last(model or load(case.weights.name, eight_bits=precision == "int8"), case)
        self._backend = make_backend(backend, self._model, case.precision)
        self._pipeline = make_pipeline(case, self._backend)

    @property
    def fallbacks(self) -> int:
        """1 if CUDA graphs were given up."""
        return self._pipeline.counters["fallbacks"]

    def warm_up(self, frames: Batch) -> None:
        """Segment a batch until every slot has its memory, and on CUDA its graph."""
        for _ in range(2 * SLOTS if self._case.cuda else 1):
            self.finish(self.start(frames))

    def start(self, frames: Batch) -> Ticket:
        return _start(self._pipeline, frames)

    def finish(self, ticket: Ticket) -> dict[str, float]:
        """Wait for the labels. Milliseconds of each stage."""
        with ticket as results:
            return results[0].stages

    def labels(self, frames: Batch) -> np.ndarray:
        """(B, height, width)."""
        with self.start(frames) as results:
            return np.stack([result.label for result in results])

    @torch.inference_mode()
    def logits(self, frames: Batch) -> Result:
        """The network's result in float32 on the CPU, of pixels preprocessed as the baseline's."""
        return Theirs("hf", self._backend, self._case, self._backend.dtype).logits(frames)

    @contextlib.contextmanager
    def parts(self) -> Iterator[Callable[[Batch], dict[str, float]]]:
        """A function that gives a batch's milliseconds of each stage, without graphs, a Mask2Former's in parts."""
        model = self._model
        pipeline = make_pipeline(self._case, make_backend("eager", model, self._case.precision), graphs=False)

        def measure(frames: Batch) -> dict[str, float]:
            with _start(pipeline, frames) as results:
                return split(results[0].stages, times())

        # The time of the last part is the rest of the network's.
        parts = list(model.named_children())[:-1] if isinstance(model, Mask2Former) else []
        modules = [(name.replace("_", " "), module) for name, module in parts]
        with timed(self._case.device, modules) as times:
            yield measure


class OursExported(Ours):
    """The pipeline with a network of `m2f export`, in the precision of its file.

    Args:
        folder: export of the case's model at its size.
    Raises:
        CheckpointError, ConfigError: it is none, or cannot run here; see `Exported`.
    """

    def __init__(self, folder: str, case: Case):
        from m2f_ros.pipeline.backends.exported import Exported

        export = read_export(folder, case)
        self._backend = Exported(export, case.device)
        self.name = f"{Path(folder).name} in {self._backend.name}"
        self.what = f"this package's pipeline, an export to {export.manifest.format} in {self._backend.precision}"
        self.precision = self._backend.precision
        self.in_flight = SLOTS if case.cuda else 1
        self._case = case
        self._pipeline = make_pipeline(case, self._backend, graphs=self._backend.captures)

    def parts(self) -> NoReturn:
        raise TypeError("an export has no parts that can be timed")


def read_export(folder: str, case: Case) -> Export:
    """Read an export's description. Raises CheckpointError, or ConfigError if it is of another model or size."""
    from m2f_ros.pipeline.exported import Export  # needs msgspec, which a machine for gpu-check may lack

    export = Export.read(Path(folder))
    manifest, config = export.manifest, case.weights.config
    if manifest.size not in (None, case.size):
        raise ConfigError(
            f"--exports {folder}: is for a network size of {shape(manifest.size)}, not {shape(case.size)}: take --size "
            f"{shape(manifest.size)}, or export the model with --size {shape(case.size)}"
        )
    if (manifest.network, export.config.labels) != (config.summary, config.labels):
        raise ConfigError(f"--exports {folder}: is of another network ({manifest.network}): export the benchmark's")
    return export


def host_times(case: Case, answer: Result, frame: np.ndarray, rounds: int) -> list[float]:
    """Measure the Python thread's milliseconds for each of `rounds` frames, outside the device's work.

    The thread's work is submit, and result and release once the device is done; the network answers at once, the same
    for every frame. On a CPU the device's work runs in submit: its stages are subtracted.

    answer: the network's result for one frame at the case's size.
    """
    pipeline = make_pipeline(case, _stub(case, answer))
    times = []
    for _ in range(5 + rounds):  # the first ones allocate and capture, in both slots
        start = time.perf_counter()
        ticket = pipeline.submit(Frame(frame, "rgb8"), {"label"})
        submitted = time.perf_counter()
        if case.cuda:
            torch.cuda.synchronize(case.device)
        waited = time.perf_counter()
        stages = ticket.result().stages
        ticket.release()
        spent = 1000 * (time.perf_counter() - waited + submitted - start)
        if not case.cuda:
            spent -= sum(value for name, value in stages.items() if name not in _HOST_STAGES)
        times.append(spent)
    return times[5:]


def _stub(case: Case, answer: Result) -> Any:
    """A backend, as far as a pipeline of one size calls it, that gives the same answer for every frame."""
    given = type(answer)(*(x.to(case.device, case.dtype) for x in answer))
    stub: Any = lambda pixels: given  # noqa: E731
    stub.dtype, stub.build = case.dtype, lambda size, batch=1: None
    return stub


def make_pipeline(case: Case, backend: Backend, graphs: bool = True, slots: int = SLOTS) -> Pipeline:
    """Make the pipeline around a backend, for frames of any size. graphs, slots: see Pipeline."""
    config = case.weights.config
    model: Any = SimpleNamespace(config=config)  # the backend has the network; the pipeline asks for its config alone
    return Pipeline(
        model,
        taxonomy_of("model", config),
        device=str(case.device),
        precision=case.precision,
        backend=backend,
        graphs=graphs,
        slots=slots,
        resize=Resize("fixed", height=case.size[0], width=case.size[1]),
    )


def channels_last(model: Network, case: Case) -> Network:
    """Move a network to the device."""
    return model.to(case.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _start(pipeline: Pipeline, frames: Batch) -> Ticket:
    return pipeline.submit_batch([Frame(frame, "rgb8") for frame in frames], {"label"})
