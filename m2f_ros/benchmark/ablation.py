"""What each rewrite, kernel and arrangement of the pipeline gains: the time of a frame without it over that with it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from m2f_ros import kernels
from m2f_ros.benchmark import plain
from m2f_ros.benchmark.memory import collect
from m2f_ros.benchmark.ours import SLOTS, make_pipeline
from m2f_ros.benchmark.stats import agreement, median
from m2f_ros.benchmark.throughput import seconds_of
from m2f_ros.model import Mask2Former
from m2f_ros.model.mask2former.swin import Swin
from m2f_ros.pipeline import Frame, Ticket
from m2f_ros.pipeline.backends import make_backend

# What the node publishes to everybody who looks.
WANT = frozenset({"label", "overlay"})

Context = Callable[[Mask2Former], contextlib.AbstractContextManager]


@dataclass(frozen=True)
class Variant:
    """The pipeline with something taken out.

    Attributes:
        without: names it, in words.
        form: what takes it out of a network, or out of what the network calls.
        graphs, slots: of the pipeline; graphs hold on CUDA only.
        against: the variant it is compared with, which differs in this thing alone. "" names the whole pipeline.
        device: where it makes a difference: "cuda", "cpu" or "" for both.
        swin: whether it is about that backbone.
    """

    without: str
    form: Context = contextlib.nullcontext
    graphs: bool = True
    slots: int = SLOTS
    against: str = ""
    device: str = ""
    swin: bool = False


def _kernel_off(*names: str) -> Context:
    return lambda model: kernels.off(*names)


def _with_kernel_off(name: str, form: Context) -> Context:
    @contextlib.contextmanager
    def both(model: Mask2Former) -> Iterator[None]:
        with kernels.off(name), form(model):
            yield

    return both


# Put on together they wrap each other: rolled windows before the biases, and what the decoder does with its masks from
# the inside to the outside.
_FORMS = {
    "windows by index": plain.rolled_windows,
    "biases made once a size": plain.biases_each_time,
    "query, key and value in one product": plain.query_key_value_apart,
    "positions in deformable projections": plain.deformable_projections_apart,
    "samples in one sum": plain.grid_samples,
    "keys and values of three layers in one product": plain.memory_of_each_layer,
    "masks at the size of use": plain.masks_at_full_size,
    "mask projection in the queries": plain.mask_features_projected,
}


@contextlib.contextmanager
def without_everything(model: Mask2Former) -> Iterator[None]:
    """All rewrites undone and all kernels off."""
    others = (plain.plan_each_time, plain.plain_products, plain.scores_of_every_pixel)
    with kernels.off(), contextlib.ExitStack() as stack:
        for form in (*_FORMS.values(), *others):
            stack.enter_context(form(model))
        yield


_OFF = {name: f"kernel {name}" for name in kernels.names}
# What counts most comes first: time may run out.
VARIANTS = (
    Variant("CUDA graphs", graphs=False, device="cuda"),
    *(Variant(_OFF[name], _kernel_off(name), device="cuda", swin=name.startswith("window")) for name in kernels.names),
    *(
        Variant(name, _FORMS[name], swin=name.startswith(("biases", "query")))
        for name in (
            "masks at the size of use",
            "positions in deformable projections",
            "keys and values of three layers in one product",
            "mask projection in the queries",
            "biases made once a size",
            "query, key and value in one product",
        )
    ),
    Variant("a second slot", slots=1, device="cuda"),
    Variant("windows by index", plain.rolled_windows, device="cpu", swin=True),
    Variant("samples in one sum", plain.grid_samples, device="cpu"),
    Variant("plans kept for a size", plain.plan_each_time, device="cpu"),
    Variant("oneDNN's products", plain.plain_products, device="cpu"),
    Variant("labels where the class may change only", plain.scores_of_every_pixel, device="cpu"),
    Variant(
        "samples in one sum, without its kernel",
        _with_kernel_off("deformable_attention", plain.grid_samples),
        against=_OFF["deformable_attention"],
        device="cuda",
    ),
    Variant(
        "windows by index, without their kernel",
        plain.rolled_windows,
        against=_OFF["window_attention"],
        device="cuda",
        swin=True,
    ),
    Variant("all of this", without_everything, graphs=False, slots=1),
    Variant("plans kept for a size, without graphs", plain.plan_each_time, False, against="CUDA graphs", device="cuda"),
)


@dataclass(frozen=True)
class Row:
    """What a variant took.

    Attributes:
        without, against: as of the Variant.
        ms: a frame in steady state, median of the rounds; against_ms: of what it is compared with, in turns.
        gain: median over the rounds of ms over against_ms: how many times as fast the thing makes it.
        agreement: of its labels with the whole pipeline's, 0 to 1.
        memory_mb: of the device, what it adds while it runs; None on a CPU.
        error: what went wrong, in which case there are no figures.
    """

    without: str
    against: str
    ms: float | None = None
    against_ms: float | None = None
    gain: float | None = None
    agreement: float | None = None
    memory_mb: float | None = None
    error: str | None = None


def variants(device: torch.device, model: Mask2Former) -> list[Variant]:
    """Those that make a difference."""
    swin = isinstance(model.backbone, Swin)
    return [v for v in VARIANTS if v.device in ("", device.type) and (swin or not v.swin)]


def ablate(
    model: Mask2Former,
    frames: Sequence[np.ndarray],
    size: tuple[int, int],
    device: torch.device,
    precision: str,
    rounds: int = 5,
    seconds: float = 0.3,
) -> Iterator[Row]:
    """Measure every variant that makes a difference, and yield its row.

    Args:
        model: in eval mode. It is moved to the device and cast.
        frames: (height, width, 3) uint8 RGB, of one size.
        size: (height, width) of the network's input.
        rounds, seconds: how often a variant and what it is compared with take turns, and for how long about.
    """
    model = model.to(device, memory_format=torch.channels_last)
    whole = Runner(Variant(""), model, frames, size, device, precision)
    others: dict[str, Runner] = {"": whole}
    chosen = variants(device, model)
    compared = {variant.against for variant in chosen}
    for variant in chosen:
        try:
            runner = Runner(variant, model, frames, size, device, precision)
            yield _row(runner, others[variant.against], whole, rounds, seconds)
            if variant.without in compared:
                others[variant.without] = runner
        except Exception as error:  # one that fails leaves the others their turn
            yield Row(
                variant.without, variant.against, error=" ".join(f"{type(error).__name__}: {error}".split())[:300]
            )
        runner = None
        collect(device)


class Runner:
    """The pipeline of a variant, ready for frames of one size."""

    def __init__(
        self,
        variant: Variant,
        model: Mask2Former,
        frames: Sequence[np.ndarray],
        size: tuple[int, int],
        device: torch.device,
        precision: str,
    ):
        self.variant, self._model = variant, model
        self._frames = [Frame(frame, "rgb8") for frame in frames]
        self._in_flight = variant.slots if device.type == "cuda" else 1
        before = _memory(device)
        backend = make_backend("eager", model, precision)
        self._pipeline = make_pipeline(model.config, backend, size, device, precision, variant.graphs, variant.slots)
        with variant.form(model):
            # The first frame of a slot allocates and compiles, the second is captured.
            for _ in range(2 * variant.slots if device.type == "cuda" else 1):
                self._pipeline.segment(self._frames[0], WANT)
            self.labels = np.stack([self._pipeline.segment(frame, WANT).label for frame in self._frames])
        if variant.graphs and self._pipeline.counters["fallbacks"]:
            raise RuntimeError("its work could not be captured as a CUDA graph")
        self.memory_mb = None if before is None else (_memory(device) - before) / 1e6

    def seconds_a_frame(self, count: int) -> float:
        """Of `count` frames one after the other, as many in flight as there are slots."""

        def start(i: int) -> Ticket:
            return self._pipeline.submit(self._frames[i % len(self._frames)], WANT)

        def finish(ticket: Ticket) -> None:
            with ticket:
                pass

        with self.variant.form(self._model):
            return seconds_of(start, finish, count, self._in_flight) / count


def _row(runner: Runner, other: Runner, whole: Runner, rounds: int, seconds: float) -> Row:
    counts = {each: max(1, min(100, math.ceil(seconds / each.seconds_a_frame(1)))) for each in (runner, other)}
    times = {runner: [], other: []}
    for i in range(rounds):
        for each in (runner, other) if i % 2 else (other, runner):
            times[each].append(1000 * each.seconds_a_frame(counts[each]))
    return Row(
        runner.variant.without,
        runner.variant.against,
        ms=median(times[runner]),
        against_ms=median(times[other]),
        gain=median([a / b for a, b in zip(times[runner], times[other], strict=True)]),
        agreement=agreement(runner.labels, whole.labels),
        memory_mb=runner.memory_mb,
    )


def _memory(device: torch.device) -> int | None:
    """Bytes of the device that torch has taken, for graphs too."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    return torch.cuda.memory_reserved(device)
