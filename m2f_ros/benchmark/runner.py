"""One run: all contestants in one process, on the same frames, in turns."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from m2f_ros import kernels
from m2f_ros.benchmark import inputs, machine, measure, result, theirs
from m2f_ros.benchmark.inputs import Case
from m2f_ros.benchmark.measure import median, released, spread
from m2f_ros.benchmark.ours import Ours, OursExported, host_times, read_export
from m2f_ros.benchmark.result import Comparison, Contestant, Result, Roofline, Settings, Work, shape
from m2f_ros.benchmark.theirs import Batch, Theirs
from m2f_ros.errors import ConfigError
from m2f_ros.model import ModelConfig, has_eight_bits, load
from m2f_ros.model.network import Result as Logits
from m2f_ros.pipeline.device import choose_device, choose_precision, float32_products, is_out_of_memory
from m2f_ros.processes.workers import available_cores

FULL_HD = (1080, 1920)
Say = Callable[[str], object]


@dataclass
class Entry:
    """A contestant and the figures found so far."""

    contestant: Ours | Theirs
    side: str
    setup_s: float
    memory_mb: float
    labels: np.ndarray  # (N, height, width), of all batches
    logits: Logits | None = None  # of the first batch
    seconds: list[float] = field(default_factory=list)  # of each round
    stages: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # milliseconds of each round
    throughput_fps: float = 0.0
    at_rate: result.AtRate | None = None

    @property
    def name(self) -> str:
        own = self.contestant.name
        return f"ours {own}" if self.side == "ours" else own if own in ("hf", "library") else f"hf {own}"


@dataclass(frozen=True)
class Reference:
    """The answers of a network in fp32."""

    what: str
    labels: np.ndarray  # (N, height, width), of all batches
    margins: np.ndarray  # as labels: lead of the best score
    logits: Logits  # of the first batch
    network_gflop: float | None


def run(settings: Settings, say: Say = lambda line: None) -> Result:
    """Measure for minutes. `say` takes a line about each step.

    Raises:
        ConfigError, CheckpointError, SourceError: a setting that is not possible here; no such model or frames.
    """
    device = choose_device(settings.device)
    precision = choose_precision(settings.precision, device)
    for other in settings.more_precisions:
        choose_precision(other, device)
    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads or available_cores())
    try:
        with tempfile.TemporaryDirectory(prefix="m2f_bench_") as scratch, float32_products(precision, device):
            return _run(settings, device, precision, Path(scratch), say)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        others = 1 if settings.against is None else len(settings.against)
        raise ConfigError(
            f"{device} has too little memory for {settings.model} at {shape(settings.size)}, batch "
            f"{settings.batch}, with {others} others beside it; lower --batch or --size, or name fewer"
        ) from error
    finally:
        torch.set_num_threads(before)


def _run(settings: Settings, device: torch.device, precision: str, scratch: Path, say: Say) -> Result:
    weights = inputs.checkpoint(settings.model, scratch, device)
    against = settings.against
    if against is None:
        against = ("hf",) if isinstance(weights.config, ModelConfig) else ("library",) if weights.library else ()
    for name in against:
        theirs.check_family(name, weights)
        theirs.check(name, device, precision)
    if "int8" in settings.more_precisions and not has_eight_bits(weights.name):
        raise ConfigError(f"--precision int8: {settings.model} has no weights in eight bits; make them: m2f quantize")
    say(f"weights: {weights.origin}")
    case = Case(weights, settings.size, device, precision)
    for folder in settings.exports:
        read_export(folder, case)  # before minutes of work
    batch, rounds, threads = settings.batch, settings.rounds, torch.get_num_threads()
    frame_size = settings.frame_size or settings.size
    count = math.ceil(settings.different_frames / batch) * batch
    frames = inputs.read_frames(settings.frames, frame_size, count)
    batches = [frames[i : i + batch] for i in range(0, count, batch)]
    say("counting operations")
    work = _work(case, batches[0])
    say("labels of the fp32 reference")
    reference = _reference(case, batches, against)
    say("rates of matrix product and copy")
    rates = [_rates(case)]

    makers: dict[tuple[str, str], Callable[[], Ours | Theirs]] = {}
    makers |= {("ours", name): partial(Ours, name, case) for name in settings.backends}
    for other in settings.more_precisions:
        makers |= {
            ("ours", f"{name} {other}"): partial(Ours, name, case, precision=other) for name in settings.backends
        }
    makers |= {("ours", f"the export {folder}"): partial(OursExported, folder, case) for folder in settings.exports}
    makers |= {("theirs", name): partial(theirs.make, name, case, batch, threads) for name in against}
    entries = []
    for (side, name), make in makers.items():
        say(f"loading {name} ({side})")
        entry = enter(side, make, batches, settings.warmup, device)
        entry.logits = entry.contestant.logits(batches[0])
        entries.append(entry)
    say(f"{rounds} rounds of {', '.join(entry.name for entry in entries)}")
    take_turns(entries, batches, rounds)
    for entry in entries:
        if case.cuda:
            say(f"throughput of {entry.name}")
        entry.throughput_fps = throughput(entry, batches, rounds, device)
    if settings.seconds:
        ours = max(entry.throughput_fps for entry in entries if entry.side == "ours")
        rate = settings.rate or (30.0 if case.cuda else 0.8 * ours / batch)
        for entry in entries:
            say(f"latency of {entry.name} at {rate:.3g} arrivals a second, {settings.seconds:g} s")
            loop, arrivals = _loop(entry.contestant, batches), max(1, round(rate * settings.seconds))
            entry.at_rate = measure.latency_at_rate(*loop, rate, arrivals, entry.contestant.in_flight)
    say("stages of an eager pass")
    stages = _parts(entries, batches, rounds)
    say("time of the Python thread")
    answer = next(entry.logits for entry in entries if entry.side == "ours" and entry.logits is not None)
    answer = type(answer)(*(x[:1] for x in answer))
    host = host_times(case, answer, inputs.read_frames(settings.frames, FULL_HD, 1)[0], rounds)

    say("rates of matrix product and copy")
    # Before and after: on a machine that others use the better rate is nearer to what the machine can do.
    rates.append(_rates(case))
    gemm, copy = map(max, zip(*rates, strict=True))
    compute_s = (work.network_gflop + work.head_gflop) / 1e3 / gemm
    roofline = Roofline(gemm, copy, 1000 * max(compute_s, work.gigabytes / copy))
    contestants = [_figures(entry, reference, roofline, batch) for entry in entries]
    for entry in entries:
        if not all(x.isfinite().all() for x in entry.logits or ()):
            say(f"{entry.name}: some of its logits in {precision} are not finite; see its agreement")
    parameters = sum(parameter.numel() for parameter in load(weights.name).parameters())
    return Result(
        **machine.run_fields(device),
        settings=dataclasses.replace(settings, against=against),
        device=device.type,
        precision=precision,
        threads=threads,
        input=result.Input(settings.frames, count, frame_size, settings.size, inputs.sha256(frames)),
        weights=result.Weights(weights.origin, weights.random, parameters, weights.config.num_classes),
        reference=reference.what,
        reference_labels=len(np.unique(reference.labels)),
        work=Work(work.network_gflop, work.head_gflop, work.gigabytes, reference.network_gflop),
        roofline=roofline,
        contestants=contestants,
        comparisons=_comparisons(entries, contestants),
        stages_ms=stages,
        host=result.HostTime(FULL_HD, settings.size, spread(host)),
    )


def enter(
    side: str, make: Callable[[], Ours | Theirs], batches: Sequence[Batch], warmup: int, device: torch.device
) -> Entry:
    """Make a contestant, take its labels, and warm it up. Its memory is the peak after loading."""
    watch = measure.MemoryWatch(device)
    start = time.perf_counter()
    contestant = make()
    contestant.labels(batches[0])
    setup_s = time.perf_counter() - start
    watch.restart()
    labels = np.concatenate([contestant.labels(batch) for batch in batches])
    begin, finish = _loop(contestant, batches)
    for i in range(warmup):
        finish(begin(i))
    return Entry(contestant, side, setup_s, watch.peak_mb(), labels)


def _loop(contestant: Ours | Theirs, batches: Sequence[Batch]) -> tuple[Callable, Callable]:
    """start(i) and finish(ticket) of the batches, over and over."""
    return lambda i: contestant.start(batches[i % len(batches)]), contestant.finish


def take_turns(entries: Sequence[Entry], batches: Sequence[Batch], rounds: int) -> None:
    """Time every contestant on the same batch in each round; another one begins each round."""
    gc.collect()
    for i in range(rounds):
        for entry in (*entries[i % len(entries) :], *entries[: i % len(entries)]):
            begin, finish = _loop(entry.contestant, batches)
            start = time.perf_counter()
            stages = finish(begin(i))
            entry.seconds.append(time.perf_counter() - start)
            for name, value in stages.items():
                entry.stages[name].append(value)


def throughput(entry: Entry, batches: Sequence[Batch], count: int, device: torch.device, repeats: int = 5) -> float:
    """Frames a second in steady state, of `count` batches. On a CPU, where batches do not overlap, of the rounds."""
    if device.type != "cuda":
        return len(batches[0]) / median(entry.seconds)
    loop, in_flight = _loop(entry.contestant, batches), entry.contestant.in_flight
    return count * len(batches[0]) / median([measure.seconds_of(*loop, count, in_flight) for _ in range(repeats)])


def _parts(entries: Sequence[Entry], batches: Sequence[Batch], rounds: int) -> dict[str, dict[str, float]]:
    """Contestant -> stage -> median milliseconds, of ours and of the library's eager passes in turns."""
    whose = {e.side if e.side == "ours" else e.name: e.contestant for e in reversed(entries)}
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    with contextlib.ExitStack() as stack:
        parts = {name: stack.enter_context(whose[name].parts()) for name in ("ours", "hf", "library") if name in whose}
        for i in range(-1, rounds):
            for name, stages_of in parts.items():
                found[name].append(stages_of(batches[i % len(batches)]))
    # The first pass allocates.
    return {name: {s: median([p[s] for p in passes[1:]]) for s in passes[0]} for name, passes in found.items()}


def _figures(entry: Entry, reference: Reference, roofline: Roofline, batch: int) -> Contestant:
    assert entry.logits is not None
    differs = entry.labels != reference.labels
    class_error, *rest = map(measure.logit_error, entry.logits, reference.logits)
    return Contestant(
        name=entry.name,
        side=entry.side,
        what=entry.contestant.what,
        precision=getattr(entry.contestant, "precision", None),
        setup_s=entry.setup_s,
        time_ms=spread(1000 * np.array(entry.seconds)),
        throughput_fps=entry.throughput_fps,
        stages_ms={name: median(values) for name, values in entry.stages.items()},
        at_rate=entry.at_rate,
        memory_mb=entry.memory_mb,
        agreement=measure.agreement(entry.labels, reference.labels),
        disagreement_margin=float(reference.margins[differs].max()) if differs.any() else None,
        class_logit_error=class_error,
        mask_logit_error=rest[0] if rest else None,
        roofline_share=roofline.bound_ms / (1000 * batch / entry.throughput_fps),
        fallbacks=entry.contestant.fallbacks,
    )


def _comparisons(entries: Sequence[Entry], contestants: Sequence[Contestant]) -> list[Comparison]:
    pairs = list(zip(entries, contestants, strict=True))
    # The same backend of ours in precisions that were named before.
    names = [entry.name for entry in entries if entry.side == "ours"]
    earlier = {name: [x for x in names[:i] if x.split()[1] == name.split()[1]] for i, name in enumerate(names)}
    return [
        Comparison(
            ours=mine.name,
            theirs=its.name,
            ratio=its.time_ms.median / mine.time_ms.median,
            paired_ratio=spread(np.divide(other.seconds, own.seconds)),
            throughput_ratio=mine.throughput_fps / its.throughput_fps,
            agreement=mine.agreement,
        )
        for own, mine in pairs
        for other, its in pairs
        if own.side == "ours" and (other.side == "theirs" or other.name in earlier[own.name])
    ]


def _reference(case: Case, batches: Sequence[Batch], against: Sequence[str]) -> Reference:
    """Answers of the library's network, or, where no baseline is asked for, of this package's without kernels."""
    case = dataclasses.replace(case, precision="fp32")
    with released(case.device), float32_products("fp32", case.device), contextlib.ExitStack() as stack:
        if against:
            network = theirs.make("library" if tuple(against) == ("library",) else "hf", case)
            what = f"{network.what} in fp32"
            if network.name == "hf":
                what = "transformers' network in fp32, upstream's order of operations at the network's size"
            pixels = network.preprocess(network.upload(batches[0]))
            gflop = machine.count(lambda: network.network(pixels))[0] / 1e9
        else:
            what, gflop = "this package's network in fp32 without kernels, since no other was asked for", None
            stack.enter_context(kernels.off())
            network = _plain(case)
        labels, margins = (np.concatenate([get(b) for b in batches]) for get in (network.labels, network.margins))
        return Reference(what, labels, margins, network.logits(batches[0]), gflop)


def _plain(case: Case) -> Theirs:
    """This package's fp32 network inside the baseline's plain steps."""
    model = load(case.weights.name, device=case.device)
    with torch.inference_mode():
        plan = model.plan(*case.size)
    return Theirs("hf", lambda pixels: model.result(model(pixels, plan)), case)


def _work(case: Case, batch: Batch) -> Work:
    """Operations and traffic of a batch, the library's left out."""
    with released(case.device), kernels.off():
        plain = _plain(case)
        pixels = plain.preprocess(plain.upload(batch))
        network, numbers = machine.count(lambda: plain.network(pixels))
        found = plain.network(pixels)
        head, more = machine.count(lambda: plain.head(found, batch[0].shape[:2]))
    return Work(network / 1e9, head / 1e9, (numbers + more) * case.dtype.itemsize / 1e9)


def _rates(case: Case) -> tuple[float, float]:
    """TFLOP/s of a matrix product and GB/s of a copy."""
    with released(case.device):
        return machine.gemm_rate(case.device, case.dtype) / 1e12, machine.copy_rate(case.device) / 1e9
