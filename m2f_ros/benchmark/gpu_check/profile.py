"""Where the time of a frame goes: kernels as the profiler sees them, and modules by marks around each."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, schedule

from m2f_ros import kernels
from m2f_ros.benchmark import machine
from m2f_ros.benchmark.inputs import Case
from m2f_ros.benchmark.measure import timed
from m2f_ros.benchmark.ours import Ours
from m2f_ros.benchmark.theirs import Batch
from m2f_ros.model import Network

KERNELS = 25
# Kinds of kernels by their names; the first that fits counts.
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


def profile_frame(model: Network, case: Case, frames: Batch, found: dict, note: Callable[[dict], None]) -> None:
    """Profile one frame in steady state, and note what is found as it goes on."""
    ours = Ours("eager", case, model)
    ours.warm_up(frames)
    found["frame"] = steady_frame(ours, frames, case.cuda)
    note(found)
    with torch.inference_mode():
        pixels = torch.randn(1, 3, *case.size, device=case.device).to(case.dtype, memory_format=torch.channels_last)
        plan = model.plan(*case.size)
        found["modules_ms"] = times_of_modules(model, lambda: model(pixels, plan), case.device)
        note(found)
        with kernels.off():
            flops, _ = machine.count(lambda: model(pixels, plan))
    rate = machine.gemm_rate(case.device, case.dtype)
    found["network_gflop"], found["matrix_product_tflop_per_s"] = flops / 1e9, rate / 1e12
    found["copy_gb_per_s"] = machine.copy_rate(case.device) / 1e9
    if busy_ms := found["frame"]["busy_ms"]:
        found["frame_tflop_per_s"] = flops / busy_ms / 1e9
        found["share_of_matrix_product_rate"] = found["frame_tflop_per_s"] * 1e12 / rate
    note(found)


def steady_frame(ours: Ours, frames: Batch, cuda: bool) -> dict:
    """Profile one frame; all frames before it are done.

    Returns:
        busy_ms: sum of the times of kernels and copies; on a CPU of operations, less those inside them.
        launched: number of these.
        groups_ms: their times by GROUPS.
        top: the KERNELS longest, by name.
        calls: CUDA's functions, and how often the host called each.
    """
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with torch.profiler.profile(
        activities=activities, schedule=schedule(wait=0, warmup=1, active=1, repeat=1)
    ) as profiler:
        for _ in range(2):  # the profiler itself starts slowly
            ours.finish(ours.start(frames))
            profiler.step()
    times: dict[str, list[float]] = defaultdict(list)
    calls: Counter[str] = Counter()
    for event in profiler.events():
        if re.match(r"cu(da)?[A-Z]", event.name):
            calls[event.name] += 1
        elif not event.name.startswith("ProfilerStep") and (event.device_type == DeviceType.CUDA) == cuda:
            times[event.name].append((event.time_range.elapsed_us() if cuda else event.self_cpu_time_total) / 1000)
    rows: list[dict] = [{"name": name, "count": len(ms), "ms": sum(ms)} for name, ms in times.items()]
    rows.sort(key=lambda row: -row["ms"])
    groups: Counter[str] = Counter()
    for row in rows:
        groups[group(row["name"])] += row["ms"]
    return {
        "busy_ms": sum(row["ms"] for row in rows),
        "launched": sum(row["count"] for row in rows),
        "groups_ms": dict(groups.most_common()),
        "top": rows[:KERNELS],
        "calls": dict(calls.most_common()),
    }


def group(kernel: str) -> str:
    """The kind of a kernel of this name."""
    return next((what for what, pattern in GROUPS if re.search(pattern, kernel, re.IGNORECASE)), "other")


def times_of_modules(model: nn.Module, call: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Milliseconds of each module in the second pass without a graph; modules of a list are added up.

    On CUDA it is the time between events: where kernels are short, it measures the host.
    """
    call()
    modules = [
        (re.sub(r"(blocks|layers)\.\d+", r"\1.*", path), module)
        for path, module in model.named_modules()
        # Deeper than this there are thousands.
        if path and path.count(".") <= 5 and not isinstance(module, nn.ModuleList | nn.Identity)
    ]
    with timed(device, modules) as times:
        call()
        return dict(sorted(times().items()))
