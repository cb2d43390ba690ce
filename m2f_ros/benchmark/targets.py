"""What must be reached, and whether the results do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from m2f_ros.benchmark.node_share import NodeShare
from m2f_ros.benchmark.result import Comparison, Contestant, Result


@dataclass(frozen=True)
class Target:
    """A bound on one figure.

    where, what: in words. bound: least value, or largest where `most`. unit: behind the value.
    applies: whether a result is of what it is about. value: the figure of such a result, None without one.
    worst: of all results that apply, the worst counts, else the newest. timed: the stages say why it is missed.
    of: what kind of result.
    """

    where: str
    what: str
    bound: float
    unit: str
    applies: Callable[[Any], bool]
    value: Callable[[Any], float | None]
    most: bool = False
    worst: bool = False
    timed: bool = True
    of: type = Result


@dataclass(frozen=True)
class Verdict:
    """What became of a target: value and missed_by (0 where it is met, else a part of the bound) of `result`."""

    target: Target
    result: Result | NodeShare | None
    value: float | None
    missed_by: float

    @property
    def met(self) -> bool:
        return self.value is not None and self.missed_by == 0


def judge(target: Target, results: Sequence[Result | NodeShare]) -> Verdict:
    """By the newest result that applies, or the worst."""
    right = [r for r in results if isinstance(r, target.of) and target.applies(r)]
    found = [(value, r) for r in right if (value := target.value(r)) is not None]
    if not found:
        return Verdict(target, None, None, 0)
    sign = -1 if target.most else 1
    value, result = min(found, key=lambda f: sign * f[0]) if target.worst else max(found, key=lambda f: f[1].date)
    short = sign * (target.bound - value)
    return Verdict(target, result, value, max(0.0, short / target.bound))


def ours(result: Result) -> list[Contestant]:
    return [c for c in result.contestants if c.side == "ours"]


def best(result: Result) -> Contestant:
    """The quickest of ours."""
    return max(ours(result), key=lambda c: c.throughput_fps)


def _against_hf(result: Result) -> list[Comparison]:
    return [c for c in result.comparisons if c.theirs == "hf"]


def _eager_ratio(result: Result) -> float | None:
    return next((c.ratio for c in _against_hf(result) if c.ours == "ours eager"), None)


def _best_ratio(result: Result) -> float | None:
    return max((c.ratio for c in _against_hf(result)), default=None)


def _best_throughput_ratio(result: Result) -> float | None:
    return max((c.throughput_ratio for c in _against_hf(result)), default=None)


def _tail(result: Result) -> float | None:
    rated = best(result).at_rate
    return rated and rated.p99_ms / rated.p50_ms


def _on_two_cores(model: str, size: tuple[int, int], precision: str = "fp32") -> Callable[[Result], bool]:
    return lambda r: (
        r.device == "cpu"
        and r.threads == 2
        and r.precision == precision
        and r.settings.batch == 1
        and (r.settings.model, r.input.network_size) == (model, size)
    )


def _on_hopper(r: Result) -> bool:
    return (
        r.device == "cuda"
        and r.machine.gpu_capability == "9.0"
        and (r.settings.model, r.input.network_size) == ("swin-large", (1024, 2048))
        and (r.precision, r.settings.batch) == ("fp16", 1)
    )


_TINY = _on_two_cores("swin-tiny", (256, 512))
_CPU, _GPU = "CPU, 2 threads", "Hopper GPU"
_TINY_IS = "Swin-T 256x512 fp32"
_STREETS = [
    (_on_two_cores("street", size, precision), f"`street`, network {size[0]}x{size[1]}, {precision}, frame to label")
    for size, precision in (((352, 480), "fp32"), ((480, 672), "fp32"), ((480, 672), "bf16"))
]
_LARGE_IS = "Swin-L 1024x2048 fp16, batch 1"
TARGETS = (
    Target(_CPU, f"{_TINY_IS}: times as fast as HF eager, eager", 1.8, "", _TINY, _eager_ratio),
    Target(_CPU, f"{_TINY_IS}: times as fast as HF eager, best backend", 2.2, "", _TINY, _best_ratio),
    *(Target(_CPU, f"{what}: frames a second", 12, "", applies, lambda r: best(r).throughput_fps)
      for applies, what in _STREETS),
    *(Target(_CPU, f"{what}: times as fast as HF-style code", 2, "", applies, _best_ratio)
      for applies, what in _STREETS),
    Target(_GPU, f"{_LARGE_IS}: frame to label in steady state", 14, " ms", _on_hopper,
           lambda r: 1000 / best(r).throughput_fps, most=True),
    Target(_GPU, f"{_LARGE_IS}: frames a second over HF eager's", 6, "", _on_hopper, _best_throughput_ratio),
    Target(_GPU, f"{_LARGE_IS}: share of the roofline", 0.35, "", _on_hopper, lambda r: best(r).roofline_share),
    Target(_GPU, f"{_LARGE_IS}: p99 of latency at 30 Hz over its median", 1.2, "",
           lambda r: _on_hopper(r) and best(r).at_rate is not None and best(r).at_rate.rate_hz == 30, _tail, most=True),
    Target("anywhere", "fp16, trained weights: pixels that agree with fp32", 0.995, "",
           lambda r: r.precision == "fp16" and not r.weights.random,
           lambda r: min(c.agreement for c in ours(r)), worst=True, timed=False),
    Target("anywhere", "fp32: pixels that agree with HF's network and upstream's order", 1, "",
           lambda r: r.precision == "fp32" and bool(r.settings.against),
           lambda r: min(c.agreement for c in ours(r)), worst=True, timed=False),
    Target("host", "Python thread for a 1920x1080 frame beside the device's work", 3, " ms",
           lambda r: r.host.frame_size == (1080, 1920), lambda r: r.host.time_ms.median,
           most=True, worst=True, timed=False),
    Target("one core", "node's CPU time for a 1920x1080 frame beyond the pipeline: label and overlay", 8, " ms",
           lambda s: (s.frame_size, s.outputs) == ((1080, 1920), ["label", "overlay"]), lambda s: s.time_ms.median,
           most=True, timed=False, of=NodeShare),
)  # fmt: skip


def blame(result: Result) -> str:
    """Where the time of ours goes, and which stage gained least over HF's."""
    mine, theirs = result.stages_ms["ours"], result.stages_ms.get("hf", {})
    whole = sum(mine.values())
    longest = sorted(mine, key=lambda stage: -mine[stage])[:2]
    text = ", ".join(f"{stage} {100 * mine[stage] / whole:.0f} %" for stage in longest)
    gains = {stage: theirs[stage] / mine[stage] for stage in longest if stage in theirs and mine[stage]}
    if gains:
        least = min(gains, key=lambda stage: gains[stage])
        text += f"; of these {least} gains least over HF ({gains[least]:.2f} times)"
    return f"of an eager pass {text}"
