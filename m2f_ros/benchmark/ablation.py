"""The gain of each kernel and arrangement of the pipeline: the time of a frame without it over that with it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch

from m2f_ros import kernels
from m2f_ros.benchmark.inputs import Case
from m2f_ros.benchmark.measure import agreement, collect, median, said, seconds_of
from m2f_ros.benchmark.ours import SLOTS, channels_last, make_pipeline
from m2f_ros.model import Network, layers
from m2f_ros.model.heads import boundaries
from m2f_ros.model.heads.semantic import _labels as labels_of_every_pixel
from m2f_ros.pipeline import Frame, Ticket
from m2f_ros.pipeline.backends import Kept, make_backend

WANT = frozenset({"label", "overlay"})  # which the node publishes to everybody who looks


@dataclass(frozen=True)
class Variant:
    """The pipeline with one thing switched off."""

    without: str  # the thing, in words
    switch: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext  # off in its block
    graphs: bool = True  # of the pipeline; they hold on CUDA only
    slots: int = SLOTS  # of the pipeline
    device: str = ""  # where it makes a difference: "cuda", "cpu" or "" for both
    backend: str = "eager"


@contextlib.contextmanager
def _everything() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for switch in (kernels.off, *_ON_CPU.values()):
            stack.enter_context(switch())
        yield


_ON_CPU: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "plans kept for a size": lambda: mock.patch.object(Kept, "__call__", lambda kept, *key: kept._make(*key)),
    "oneDNN's products": lambda: mock.patch.object(layers, "_AVAILABLE", False),
    "labels where the class may change only": lambda: mock.patch.object(boundaries, "labels", labels_of_every_pixel),
}
# The most valuable come first: time may run out.
VARIANTS = (
    Variant("CUDA graphs", graphs=False, device="cuda"),
    *(Variant(f"kernel {name}", partial(kernels.off, name), device="cuda") for name in kernels.names),
    Variant("a second slot", slots=1, device="cuda"),
    *(Variant(name, switch, device="cpu") for name, switch in _ON_CPU.items()),
    Variant("all of this", _everything, graphs=False, slots=1),
    Variant("eager launches, but compiled ones", backend="compile", device="cuda"),  # takes a minute to compile
)


@dataclass(frozen=True)
class Row:
    """The figures of a variant, or the error that left it without."""

    without: str
    ms: float | None = None  # a frame in steady state, median of the rounds
    against_ms: float | None = None  # the same of the whole pipeline, in turns
    gain: float | None = None  # median over the rounds of ms over against_ms
    agreement: float | None = None  # of its labels with the whole pipeline's, 0 to 1
    memory_mb: float | None = None  # of the device, added while it runs; None on a CPU
    fallbacks: int | None = None  # of graphs, its own and the whole pipeline's
    error: str | None = None
    traceback: str | None = None


def ablate(
    model: Network, case: Case, frames: Sequence[np.ndarray], rounds: int = 5, seconds: float = 0.3
) -> Iterator[Row]:
    """Measure every variant that makes a difference on this device, and yield its row.

    Args:
        model: in eval mode. It is moved to the device and cast.
        frames: (height, width, 3) uint8 RGB, of one size.
        rounds, seconds: number and approximate length of the turns of a variant and of the whole pipeline.
    """
    make = partial(_Runner, channels_last(model, case), case, frames)
    whole = make(Variant(""))
    for variant in VARIANTS:
        if variant.device not in ("", case.device.type) or ("window" in variant.without and not case.weights.has_swin):
            continue
        try:
            yield _row(make(variant), whole, rounds, seconds)
        except Exception as error:  # one that fails leaves the others their turn
            yield Row(variant.without, **said(error))
        collect(case.device)


class _Runner:
    """The pipeline of a variant, ready for frames of one size."""

    def __init__(self, model: Network, case: Case, frames: Sequence[np.ndarray], variant: Variant):
        self.variant, self._frames = variant, [Frame(frame, "rgb8") for frame in frames]
        self._in_flight = variant.slots if case.cuda else 1
        before = _memory(case)
        self._pipeline = make_pipeline(
            case, make_backend(variant.backend, model, case.precision), variant.graphs, variant.slots
        )
        with variant.switch():
            # The first frame of a slot allocates and compiles, the second is captured.
            for _ in range(2 * variant.slots if case.cuda else 1):
                self._pipeline.segment(self._frames[0], WANT)
            found: Any = [self._pipeline.segment(frame, WANT).label for frame in self._frames]
        self.labels = np.stack(found)
        self.fallbacks = self._pipeline.counters["fallbacks"]
        self.memory_mb = (_memory(case) - before) / 1e6 if case.cuda else None

    def milliseconds_a_frame(self, count: int) -> float:
        """Time `count` frames, as many in flight as there are slots."""
        with self.variant.switch():
            seconds = seconds_of(
                lambda i: self._pipeline.submit(self._frames[i % len(self._frames)], WANT),
                _finish,
                count,
                self._in_flight,
            )
        return 1000 * seconds / count


def _row(runner: _Runner, whole: _Runner, rounds: int, seconds: float) -> Row:
    both = (runner, whole)
    counts = [max(1, min(100, math.ceil(1000 * seconds / each.milliseconds_a_frame(1)))) for each in both]
    times: tuple[list[float], list[float]] = ([], [])
    for i in range(rounds):
        for j in (0, 1) if i % 2 else (1, 0):
            times[j].append(both[j].milliseconds_a_frame(counts[j]))
    gain = median(list(np.divide(*times)))
    similar = agreement(runner.labels, whole.labels)
    given_up = runner.fallbacks + whole.fallbacks
    return Row(runner.variant.without, median(times[0]), median(times[1]), gain, similar, runner.memory_mb, given_up)


def _finish(ticket: Ticket) -> None:
    with ticket:
        pass


def _memory(case: Case) -> int:
    """Bytes of the device that torch has taken, for graphs too; 0 on a CPU."""
    if not case.cuda:
        return 0
    torch.cuda.synchronize(case.device)
    return torch.cuda.memory_reserved(case.device)
