"""Where the time of a frame goes: kernels as the profiler sees them, and modules by events around each."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.autograd import DeviceType

from m2f_ros import kernels
from m2f_ros.benchmark import work
from m2f_ros.benchmark.gpu_check.matrix import street
from m2f_ros.benchmark.gpu_check.subject import subject
from m2f_ros.benchmark.marks import Marks
from m2f_ros.benchmark.ours import Ours
from m2f_ros.pipeline.device import PRECISIONS

KERNELS = 25
FRAME = "m2f frame"  # of the profiler's records
# What a kernel does, by its name; the first that fits.
GROUPS = (
    ("this package's kernels", r"^_(deformable_attention|window_attention|labels|blend)"),
    ("attention", r"flash|fmha|attention|sdpa|softmax"),
    ("resampling", r"upsample|interp|grid"),
    ("convolutions", r"conv|implicit|wgrad|dgrad|fprop"),
    ("matrix products", r"gemm|nvjet|cutlass|xmma|cublas|matmul|splitk|mm_|linear|addmm|::b?mm"),
    ("norms", r"norm"),
    ("copies", r"memcpy|memset|copy|cat|gather|index|pad"),
    ("elementwise", r"elementwise|vectorized|unrolled|reduce|fill"),
)
Note = Callable[[dict], None]


def profile_frame(arguments: dict, note: Note) -> None:
    """Of one frame in steady state; notes as it goes on."""
    model, weights, device, precision = subject(arguments)
    size = tuple(arguments["size"])
    frames = street(Path(arguments["scratch"]), size)[:2]
    found = {"model": arguments["model"], "size": size, "precision": precision, "weights": weights.origin}

    ours = Ours("eager", weights, size, device, precision, model)
    ours.warm_up(frames[:1])
    found["frame"] = steady_frame(ours, frames, device)
    note(found)
    with torch.inference_mode():
        pixels = torch.randn(1, 3, *size, device=device).to(PRECISIONS[precision], memory_format=torch.channels_last)
        plan = model.plan(*size)
        found["modules_ms"] = times_of_modules(model, lambda: model(pixels, plan), device)
        note(found)
        with kernels.off():
            flops, _ = work.count(lambda: model(pixels, plan))
    rate = work.gemm_rate(device, PRECISIONS[precision])
    found["network_gflop"] = flops / 1e9
    found["matrix_product_tflop_per_s"] = rate / 1e12
    found["copy_gb_per_s"] = work.copy_rate(device) / 1e9
    found["frame_tflop_per_s"] = flops / found["frame"]["busy_ms"] / 1e9
    found["share_of_matrix_product_rate"] = found["frame_tflop_per_s"] * 1e12 / rate
    note(found)


def steady_frame(ours: Ours, frames, device: torch.device) -> dict:
    """What the profiler sees of one frame, all before it being done.

    Returns:
        busy_ms: sum of the times of kernels and copies (on a CPU: of operations, less those inside them).
        launched: how many. groups_ms: by what they do, going by their names. top: the KERNELS longest, by name.
        calls: of CUDA's functions, and how often.
    """
    activities = [torch.profiler.ProfilerActivity.CPU]
    cuda = device.type == "cuda"
    if cuda:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        ours.finish(ours.start(frames[:1]))  # the profiler itself starts slowly
        with torch.profiler.record_function(FRAME):
            ours.finish(ours.start(frames[:1]))
    events = list(profiler.events())
    begin = next(e.time_range.start for e in events if e.name == FRAME and e.device_type == DeviceType.CPU)
    times: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.name == FRAME or event.time_range.start < begin or (event.device_type == DeviceType.CUDA) != cuda:
            continue
        times[event.name].append((event.time_range.elapsed_us() if cuda else event.self_cpu_time_total) / 1000)
    groups: Counter[str] = Counter()
    for name, values in times.items():
        groups[group(name)] += sum(values)
    longest = sorted(times, key=lambda name: -sum(times[name]))[:KERNELS]
    return {
        "busy_ms": sum(map(sum, times.values())),
        "launched": sum(map(len, times.values())),
        "groups_ms": dict(groups.most_common()),
        "top": [{"name": name, "count": len(times[name]), "ms": sum(times[name])} for name in longest],
        "calls": dict(runtime_calls(profiler, FRAME).most_common()),
    }


def group(kernel: str) -> str:
    """What a kernel of this name does."""
    return next((what for what, pattern in GROUPS if re.search(pattern, kernel, re.IGNORECASE)), "other")


def runtime_calls(profiler: torch.profiler.profile, region: str) -> Counter[str]:
    """CUDA's functions that the host called inside the regions of a name (record_function), and how often."""
    events = list(profiler.events())
    regions = [e.time_range for e in events if e.name == region and e.device_type == DeviceType.CPU]
    return Counter(
        event.name
        for event in events
        if re.match(r"cu(da)?[A-Z]", event.name) and any(r.start <= event.time_range.start <= r.end for r in regions)
    )


def times_of_modules(model: nn.Module, call: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Milliseconds of each module in one pass without a graph, the second one; modules of a list are added up.

    What a module calls counts for it and for the called one. On CUDA it is the time between events: where kernels are
    short, it is the host that this measures.
    """
    marks: list[tuple[str, Marks]] = []

    def watch(name: str, module: nn.Module) -> list:
        def before(*_: object) -> None:
            mark = Marks(device)
            mark.mark("")
            stack.append(mark)

        def after(*_: object) -> None:
            mark = stack.pop()
            mark.mark(name)
            marks.append((name, mark))

        return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]

    stack: list[Marks] = []
    call()
    handles = []
    for name, module in model.named_modules():
        # Deeper than this there are thousands.
        if name and name.count(".") <= 5 and not isinstance(module, nn.ModuleList | nn.Identity):
            handles += watch(re.sub(r"(blocks|layers)\.\d+", r"\1.*", name), module)
    try:
        call()
    finally:
        for handle in handles:
            handle.remove()
    times: Counter[str] = Counter()
    for _, mark in marks:
        times.update(mark.milliseconds())
    return {name: times[name] for name in sorted(times)}
