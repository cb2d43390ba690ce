"""The targets of the project, and the results judged by them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from m2f_ros.benchmark.result import NodeShare, Result, Run, Size, shape


@dataclass(frozen=True)
class Target:
    """A bound on one figure."""

    where: str  # the machine, in words
    what: str  # the figure, in words
    bound: float
    unit: str
    applies: Callable[[Any], bool]  # True for a result that has the figure
    value: Callable[[Any], float | None]  # the figure of such a result
    most: bool = False  # True: the bound is the largest value, else the least
    worst: bool = False  # True: the worst result counts, else the newest
    timed: bool = True  # True: the stages of the result say why the target is missed
    of: type[Run] = Result

    def figure(self, result: Run) -> float | None:
        """The figure of a result; None where the target is not about it."""
        return self.value(result) if isinstance(result, self.of) and self.applies(result) else None

    @property
    def shown(self) -> str:
        return f"{'at most' if self.most else 'at least'} {self.bound:g}{self.unit}"


@dataclass(frozen=True)
class Verdict:
    """A target's figure; None without a result."""

    target: Target
    value: float | None
    result: str  # name of the result

    @property
    def missed_by(self) -> float:
        """Distance from the bound as a part of it; 0 where the target is met or has no figure."""
        if self.value is None:
            return 0.0
        sign = -1 if self.target.most else 1
        return max(0.0, sign * (self.target.bound - self.value) / self.target.bound)

    @property
    def met(self) -> bool:
        return self.value is not None and self.missed_by == 0

    @property
    def shown(self) -> str:
        """The figure, with enough digits not to round a miss up to the bound."""
        if self.value is None:
            return "no run committed yet"
        texts = (f"{self.value:.{digits}f}" for digits in (2, 3, 4, 5, 6))
        return (
            next((t for t in texts if self.met or float(t) != self.target.bound), f"{self.value:.6f}")
            + self.target.unit
        )

    @property
    def outcome(self) -> str:
        if self.value is None or self.met:
            return "met" if self.met else ""
        part = 100 * self.missed_by
        return f"missed by {part:.1f} %" if part >= 0.1 else f"missed by {part:.1g} %"


Found = tuple[float, str, str]  # figure, and date and name of its result


def figures(results: Mapping[str, Run]) -> dict[str, list[Found]]:
    """Target's words -> figures of the results, by name, that it is about."""
    return {
        target.what: [(value, r.date, name) for name, r in results.items() if (value := target.figure(r)) is not None]
        for target in TARGETS
    }


def judge(target: Target, found: Mapping[str, Sequence[Found]]) -> Verdict:
    """Judge by the newest of its figures, or the worst."""
    mine = found.get(target.what)
    if not mine:
        return Verdict(target, None, "")
    sign = -1 if target.most else 1
    value, _, name = min(mine, key=lambda f: sign * f[0]) if target.worst else max(mine, key=lambda f: f[1])
    return Verdict(target, value, name)


def _against_hf(figure: str, ours: str = "") -> Callable[[Result], float | None]:
    """The highest of a figure of the comparisons with HF eager: of one contestant of ours, or of all."""
    return lambda r: max(
        (
            getattr(c, figure)
            for c in r.comparisons
            if c.theirs == "hf" and c.ours.startswith(ours) and c.ours in {entry.name for entry in r.ours}
        ),
        default=None,
    )


def _against_library(ours: str = "") -> Callable[[Result], float | None]:
    """The highest ratio of the comparisons with a library's own eager path: of one contestant of ours, or of all."""
    return lambda r: max(
        (c.ratio for c in r.comparisons if c.theirs == "library" and c.ours.startswith(ours)), default=None
    )


def _eight_bits_over(precision: str) -> Callable[[Result], float | None]:
    """The ratio of OpenVINO's time in a precision to its time in eight bits."""

    def ratio(r: Result) -> float | None:
        other = "ours openvino" if precision == r.precision else f"ours openvino {precision}"
        found = [c.ratio for c in r.comparisons if (c.ours, c.theirs) == ("ours openvino int8", other)]
        return found[0] if found else None

    return ratio


def _tail(result: Result) -> float | None:
    rated = result.best.at_rate
    return rated.p99_ms / rated.p50_ms if rated and rated.rate_hz == 30 else None


def _worst_agreement(result: Result) -> float:
    return min(c.agreement for c in result.ours)


def _on_two_cores(model: str, size: Size, precision: str = "fp32") -> Callable[[Result], bool]:
    return lambda r: (
        (r.device, r.threads, r.precision, r.settings.batch) == ("cpu", 2, precision, 1)
        and (r.settings.model, r.input.network_size) == (model, size)
    )


def _on_hopper(r: Result) -> bool:
    return (
        (r.device, r.machine.gpu_capability, r.precision, r.settings.batch) == ("cuda", "9.0", "fp16", 1)
        and (r.settings.model, r.input.network_size) == ("swin-large", (1024, 2048))
    )  # fmt: skip


def _listens_to(output: str) -> Callable[[NodeShare], bool]:
    return lambda share: (share.frame_size, share.outputs) == ((480, 640), ["label", output])


_TINY = _on_two_cores("swin-tiny", (256, 512))
_CPU, _GPU = "CPU, 2 threads", "Hopper GPU"
_TINY_IS = "Swin-T 256x512 fp32"
_STREETS = [
    (_on_two_cores("street", size, precision), f"`street`, network {shape(size)}, {precision}, frame to label")
    for size, precision in (((352, 480), "fp32"), ((480, 672), "fp32"), ((480, 672), "bf16"))
]
_LARGE_IS = "Swin-L 1024x2048 fp16, batch 1"
TARGETS = (
    Target(_CPU, f"{_TINY_IS}: times as fast as HF eager, eager", 1.8, "", _TINY,
           _against_hf("ratio", "ours eager")),
    Target(_CPU, f"{_TINY_IS}: times as fast as HF eager, best backend", 2.2, "", _TINY, _against_hf("ratio")),
    *(Target(_CPU, f"{what}: frames a second", 12, "", applies, lambda r: r.best.throughput_fps)
      for applies, what in _STREETS),
    *(Target(_CPU, f"{what}: times as fast as HF-style code", 2, "", applies, _against_hf("ratio"))
      for applies, what in _STREETS),
    *(Target(_CPU, f"`street`, network 480x672, frame to label in OpenVINO: times as fast in int8 as in {other}", least,
             "", _on_two_cores("street", (480, 672)), _eight_bits_over(other), timed=False)
      for other, least in (("fp32", 1.6), ("bf16", 1.1))),
    *(Target(_CPU, f"{what} 480x640 fp32 in OpenVINO: times as fast as its library's eager path", 1.5, "",
             _on_two_cores(f"random:{model}", (480, 640)), _against_library("ours openvino"))
      for what, model in (("SegFormer-B0", "segformer"), ("U-Net with MobileNetV2", "smp:Unet/mobilenet_v2"))),
    Target(_CPU, "each family that was measured, fp32, best backend: times as fast as its library's eager path", 1, "",
           lambda r: (r.device, r.threads, r.precision) == ("cpu", 2, "fp32"), _against_library(), worst=True),
    Target(_GPU, f"{_LARGE_IS}: frame to label in steady state", 14, " ms", _on_hopper,
           lambda r: 1000 / r.best.throughput_fps, most=True),
    Target(_GPU, f"{_LARGE_IS}: frames a second over HF eager's", 6, "", _on_hopper,
           _against_hf("throughput_ratio")),
    Target(_GPU, f"{_LARGE_IS}: share of the roofline", 0.35, "", _on_hopper, lambda r: r.best.roofline_share),
    Target(_GPU, f"{_LARGE_IS}: p99 of latency at 30 Hz over its median", 1.2, "", _on_hopper, _tail, most=True),
    Target("anywhere", "fp16, trained weights: pixels that agree with fp32", 0.995, "",
           lambda r: r.precision == "fp16" and not r.weights.random, _worst_agreement, worst=True, timed=False),
    Target("anywhere", "fp32: pixels that agree with HF's network and upstream's order", 1, "",
           lambda r: r.precision == "fp32" and bool(r.settings.against) and r.settings.against != ("library",),
           _worst_agreement, worst=True, timed=False),
    Target("host", "Python thread for a 1920x1080 frame beside the device's work", 3, " ms",
           lambda r: r.host.frame_size == (1080, 1920), lambda r: r.host.time_ms.median,
           most=True, worst=True, timed=False),
    Target("one core", "node's CPU time for a 1920x1080 frame beyond the pipeline: label and overlay", 8, " ms",
           lambda s: (s.frame_size, s.outputs) == ((1080, 1920), ["label", "overlay"]), lambda s: s.time_ms.median,
           most=True, timed=False, of=NodeShare),
    *(Target("one core", f"node's thread for outputs in space, a 640x480 frame: {what}", 4, " ms",
             _listens_to(name), lambda s: s.threads_ms["space"], most=True, timed=False, of=NodeShare)
      for name, what in (("points", "points at stride 2"), ("grid", "grid"))),
)  # fmt: skip


def blame(result: Result) -> str:
    """The longest stages of ours, and the one of them that gains least over the library's."""
    mine, theirs = result.stages_ms["ours"], result.stages_ms.get("hf") or result.stages_ms.get("library", {})
    whole = sum(mine.values())
    longest = sorted(mine, key=lambda stage: -mine[stage])[:2]
    text = ", ".join(f"{stage} {100 * mine[stage] / whole:.0f} %" for stage in longest)
    gains = {stage: theirs[stage] / mine[stage] for stage in longest if stage in theirs and mine[stage]}
    if gains:
        least = min(gains, key=lambda stage: gains[stage])
        whom = "HF" if "hf" in result.stages_ms else "the library"
        text += f"; of these {least} gains least over {whom} ({gains[least]:.2f} times)"
    return f"of an eager pass {text}"
