"""One run: all contestants in one process, on the same frames, in turns."""

from __future__ import annotations

import contextlib
import gc
import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from m2f_ros import kernels
from m2f_ros.benchmark import frames as sources
from m2f_ros.benchmark import machine, others, work
from m2f_ros.benchmark.arrivals import latency_at_rate
from m2f_ros.benchmark.memory import MemoryWatch, collect
from m2f_ros.benchmark.ours import Ours, host_times
from m2f_ros.benchmark.result import (
    AtRate,
    Comparison,
    Contestant,
    HostTime,
    Input,
    Result,
    Roofline,
    Weights,
    Work,
)
from m2f_ros.benchmark.settings import Settings
from m2f_ros.benchmark.stats import agreement, logit_error, median, paired_ratios, ratio, spread
from m2f_ros.benchmark.throughput import seconds_of
from m2f_ros.benchmark.weights import Checkpoint, checkpoint
from m2f_ros.errors import ConfigError
from m2f_ros.model import load
from m2f_ros.pipeline.device import (
    PRECISIONS,
    choose_device,
    choose_precision,
    float32_products,
    is_out_of_memory,
)

FULL_HD = (1080, 1920)
Batch = Sequence[np.ndarray]
Say = Callable[[str], object]


@dataclass
class Measured:
    """A contestant and what was found out about it so far."""

    contestant: Ours | others.Other
    side: str
    setup_s: float
    memory_mb: float | None
    labels: np.ndarray
    logits: tuple[Tensor, Tensor] | None
    seconds: list[float]
    stages: dict[str, list[float]]
    throughput_fps: float = 0.0
    at_rate: AtRate | None = None

    @property
    def name(self) -> str:
        own = self.contestant.name
        return f"ours {own}" if self.side == "ours" else own if own == "hf" else f"hf {own}"


@dataclass(frozen=True)
class Reference:
    """What is right, in fp32: labels and margins of all batches, (N, height, width); logits of the first."""

    what: str
    labels: np.ndarray
    margins: np.ndarray
    logits: tuple[Tensor, Tensor]
    network_gflop: float | None


def run(settings: Settings, say: Say = lambda line: None) -> Result:
    """Measure. Minutes: what takes time is said by `say`, line by line.

    Raises:
        ConfigError, CheckpointError, SourceError: a setting that is not possible here, a model or frames that are not
            there.
    """
    device = choose_device(settings.device)
    precision = choose_precision(settings.precision, device)
    for name in settings.against:
        others.check(name, device, precision)
    threads = settings.threads or machine.usable_cores()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with tempfile.TemporaryDirectory(prefix="m2f_bench_") as scratch, float32_products(precision, device):
            return _run(settings, device, precision, threads, Path(scratch), say)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(
            f"{device} has too little memory for {settings.model} at {settings.size[0]}x{settings.size[1]}, batch "
            f"{settings.batch}, with {len(settings.against)} others beside it; lower --batch or --size, or name fewer"
        ) from error
    finally:
        torch.set_num_threads(before)


def _run(settings: Settings, device: torch.device, precision: str, threads: int, scratch: Path, say: Say) -> Result:
    weights = checkpoint(settings.model, scratch, device)
    say(f"weights: {weights.origin}")
    frame_size = settings.frame_size or settings.size
    count = math.ceil(settings.different_frames / settings.batch) * settings.batch
    frames = sources.read_frames(settings.frames, frame_size, count)
    batches = [frames[i : i + settings.batch] for i in range(0, count, settings.batch)]
    amount = _work(weights, settings, device, precision, batches[0], say)
    reference = _reference(weights, settings, device, batches, say)
    rates = [_rates(device, precision, say)]

    field = []
    for side, names in (("ours", settings.backends), ("theirs", settings.against)):
        for name in names:
            say(f"loading {name} ({side})")
            make = _maker(side, name, weights, settings, device, precision, threads)
            field.append(_enter(side, make, batches, settings.warmup, device))
    _rounds(field, batches, settings.rounds, say)
    for each in field:
        each.throughput_fps = _throughput(each, batches, settings, device, say)
    if settings.seconds:
        rate = settings.rate or _default_rate(field, settings.batch, device)
        for each in field:
            say(f"latency of {each.name} at {rate:.3g} arrivals a second, {settings.seconds:g} s")
            each.at_rate = _at_rate(each, batches, rate, settings.seconds)
    say("stages of an eager pass")
    stages = _parts(field, batches, settings.rounds)
    say("time of the Python thread")
    host = host_times(weights.config, _full_hd(settings), settings.size, device, precision, settings.rounds)

    # Before and after: on a machine that others use the better one is nearer to what it can do.
    rates.append(_rates(device, precision, say))
    roofline = _roofline(amount, *map(max, zip(*rates, strict=True)))
    contestants = [_figures(each, reference, roofline, settings.batch) for each in field]
    for each, figures in zip(field, contestants, strict=True):
        if each.logits is not None and None in (figures.class_logit_error, figures.mask_logit_error):
            say(f"{each.name}: some of its logits in {precision} are not finite; see its agreement")
    return Result(
        **machine.run_fields(device),
        settings=settings,
        device=device.type,
        precision=precision,
        threads=threads,
        input=Input(settings.frames, count, frame_size, settings.size, sources.sha256(frames)),
        weights=Weights(weights.origin, weights.random, _parameters(weights), weights.config.num_classes),
        reference=reference.what,
        reference_labels=len(np.unique(reference.labels)),
        work=Work(**amount, hf_network_gflop=reference.network_gflop),
        roofline=roofline,
        contestants=contestants,
        comparisons=_comparisons(field, contestants),
        stages_ms=stages,
        host=HostTime(FULL_HD, settings.size, spread(host)),
    )


def _maker(side, name, weights, settings, device, precision, threads) -> Callable[[], Ours | others.Other]:
    if side == "ours":
        return lambda: Ours(name, weights, settings.size, device, precision)
    return lambda: others.make(name, weights, settings.size, settings.batch, device, precision, threads)


def _enter(
    side: str, make: Callable[[], Ours | others.Other], batches: Sequence[Batch], warmup: int, device: torch.device
) -> Measured:
    """Load a contestant, see its labels, and warm it up; its memory is the peak after loading."""
    watch = MemoryWatch(device)
    start = time.perf_counter()
    contestant = make()
    contestant.labels(batches[0])
    setup_s = time.perf_counter() - start
    watch.restart()
    labels = np.concatenate([contestant.labels(batch) for batch in batches])
    for i in range(warmup):
        contestant.finish(contestant.start(batches[i % len(batches)]))
    memory_mb = watch.peak_mb()
    return Measured(contestant, side, setup_s, memory_mb, labels, contestant.logits(batches[0]), [], defaultdict(list))


def _rounds(field: list[Measured], batches: Sequence[Batch], rounds: int, say: Say) -> None:
    """Each round every contestant segments the same batch once; who begins changes from round to round."""
    say(f"{rounds} rounds of {', '.join(each.name for each in field)}")
    gc.collect()
    for i in range(rounds):
        for each in (*field[i % len(field) :], *field[: i % len(field)]):
            start = time.perf_counter()
            stages = each.contestant.finish(each.contestant.start(batches[i % len(batches)]))
            each.seconds.append(time.perf_counter() - start)
            for name, value in stages.items():
                each.stages[name].append(value)


def _throughput(each: Measured, batches: Sequence[Batch], settings: Settings, device: torch.device, say: Say) -> float:
    """Frames a second in steady state. Where one batch follows the other it is what the rounds say."""
    contestant = each.contestant
    if device.type != "cuda":
        return settings.batch / median(each.seconds)
    say(f"throughput of {each.name}")
    per_second = []
    for _ in range(5):
        seconds = seconds_of(
            lambda i: contestant.start(batches[i % len(batches)]),
            contestant.finish,
            settings.rounds,
            contestant.in_flight,
        )
        per_second.append(settings.rounds * settings.batch / seconds)
    return median(per_second)


def _default_rate(field: list[Measured], batch: int, device: torch.device) -> float:
    ours = max(each.throughput_fps for each in field if each.side == "ours")
    return 30.0 if device.type == "cuda" else 0.8 * ours / batch


def _at_rate(each: Measured, batches: Sequence[Batch], rate: float, seconds: float) -> AtRate:
    contestant = each.contestant
    return latency_at_rate(
        lambda i: contestant.start(batches[i % len(batches)]),
        contestant.finish,
        rate,
        max(1, round(rate * seconds)),
        contestant.in_flight,
    )


def _parts(field: list[Measured], batches: Sequence[Batch], rounds: int) -> dict[str, dict[str, float]]:
    """Whose -> stage -> median milliseconds, of ours and of HF's eager passes in turns."""
    whose = {each.side if each.side == "ours" else each.name: each.contestant for each in reversed(field)}
    whose = {name: whose[name] for name in ("ours", "hf") if name in whose}
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    with contextlib.ExitStack() as stack:
        measure = {name: stack.enter_context(contestant.parts()) for name, contestant in whose.items()}
        for i in range(-1, rounds):
            for name in whose:
                passed = measure[name](batches[i % len(batches)])
                if i >= 0:  # the first one allocates
                    found[name].append(passed)
    return {name: {stage: median([p[stage] for p in passes]) for stage in passes[0]} for name, passes in found.items()}


def _figures(each: Measured, reference: Reference, roofline: Roofline, batch: int) -> Contestant:
    differs = each.labels != reference.labels
    errors: list[float | None] = [None, None]
    if each.logits is not None:
        errors = [logit_error(a, b) for a, b in zip(each.logits, reference.logits, strict=True)]
    return Contestant(
        name=each.name,
        side=each.side,
        what=each.contestant.what,
        setup_s=each.setup_s,
        time_ms=spread([1000 * value for value in each.seconds]),
        throughput_fps=each.throughput_fps,
        stages_ms={name: median(values) for name, values in each.stages.items()},
        at_rate=each.at_rate,
        memory_mb=each.memory_mb,
        agreement=agreement(each.labels, reference.labels),
        disagreement_margin=float(reference.margins[differs].max()) if differs.any() else None,
        class_logit_error=errors[0],
        mask_logit_error=errors[1],
        roofline_share=roofline.bound_ms / (1000 * batch / each.throughput_fps),
    )


def _comparisons(field: list[Measured], contestants: list[Contestant]) -> list[Comparison]:
    pairs = list(zip(field, contestants, strict=True))
    return [
        Comparison(
            ours=mine.name,
            theirs=its.name,
            ratio=ratio(other.seconds, own.seconds),
            paired_ratio=paired_ratios(other.seconds, own.seconds),
            throughput_ratio=mine.throughput_fps / its.throughput_fps,
            agreement=mine.agreement,
        )
        for own, mine in pairs
        for other, its in pairs
        if own.side == "ours" and other.side == "theirs"
    ]


@contextlib.contextmanager
def _released(device: torch.device) -> Iterator[None]:
    """Give the memory of what was loaded inside back before others are measured."""
    try:
        yield
    finally:
        collect(device)


def _reference(
    weights: Checkpoint, settings: Settings, device: torch.device, batches: Sequence[Batch], say: Say
) -> Reference:
    """transformers' network in fp32, or, where nothing of it is asked for, this package's without kernels."""
    with _released(device), float32_products("fp32", device):
        if settings.against:
            say("labels of the fp32 reference: transformers")
            other = others.make("hf", weights, settings.size, settings.batch, device, "fp32", torch.get_num_threads())
            pixels = other.prepare(torch.from_numpy(np.stack(batches[0])).to(device))
            flops, _ = work.count(lambda: other.network(pixels))
            what = "transformers' network in fp32, upstream's order of operations at the network's size"
            return _answers(what, other, batches, flops / 1e9)
        say("labels of the fp32 reference: this package's network without kernels")
        with kernels.off():
            what = "this package's network in fp32 without kernels, since no other was asked for"
            return _answers(what, _plain(weights, settings, device), batches, None)


def _answers(what: str, network: others.Other, batches: Sequence[Batch], gflop: float | None) -> Reference:
    labels, margins = (
        np.concatenate([found(batch) for batch in batches]) for found in (network.labels, network.margins)
    )
    return Reference(what, labels, margins, network.logits(batches[0]), gflop)


def _plain(weights: Checkpoint, settings: Settings, device: torch.device) -> others.Other:
    """This package's fp32 network inside the baseline's plain steps."""
    model = load(weights.folder, device=device)
    with torch.inference_mode():
        plan = model.plan(*settings.size)
    return others.Other("hf", lambda pixels: model(pixels, plan)[:2], weights, settings.size, device, torch.float32)


def _work(weights, settings, device, precision, batch, say) -> dict[str, float]:
    say("counting operations")
    with _released(device), kernels.off():
        plain = _plain(weights, settings, device)
        pixels = plain.prepare(torch.from_numpy(np.stack(batch)).to(device))
        network, numbers = work.count(lambda: plain.network(pixels))
        logits = plain.network(pixels)
        head, more = work.count(lambda: plain.head(*logits, batch[0].shape[:2]))
    item = torch.empty(0, dtype=PRECISIONS[precision]).element_size()
    return {"network_gflop": network / 1e9, "head_gflop": head / 1e9, "gigabytes": (numbers + more) * item / 1e9}


def _rates(device: torch.device, precision: str, say: Say) -> tuple[float, float]:
    """TFLOP/s of a matrix product and GB/s of a copy."""
    say("rates of matrix product and copy")
    with _released(device):
        return work.gemm_rate(device, PRECISIONS[precision]) / 1e12, work.copy_rate(device) / 1e9


def _roofline(amount: dict[str, float], gemm: float, copy: float) -> Roofline:
    compute_s = (amount["network_gflop"] + amount["head_gflop"]) / 1e3 / gemm
    return Roofline(gemm, copy, 1000 * max(compute_s, amount["gigabytes"] / copy))


def _parameters(weights: Checkpoint) -> int:
    return sum(parameter.numel() for parameter in load(weights.folder).parameters())


def _full_hd(settings: Settings) -> np.ndarray:
    return sources.read_frames(settings.frames, FULL_HD, 1)[0]
