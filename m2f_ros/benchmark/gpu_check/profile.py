"""Where the time of a frame goes: every kernel of one replay as the profiler sees it, and every module alone."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, schedule

from m2f_ros import kernels
from m2f_ros.benchmark import machine
from m2f_ros.benchmark.gpu_check.plan import FailedPart
from m2f_ros.benchmark.inputs import Case
from m2f_ros.benchmark.measure import call_us, said
from m2f_ros.benchmark.ours import Ours
from m2f_ros.benchmark.theirs import Batch
from m2f_ros.files import whole
from m2f_ros.model import Network

KERNELS = 25
REPLAYS = 20
DEEPEST = 5  # names in the path of a module: a linear layer of a block of Swin is backbone.stages.2.blocks.7.fc1
# Kinds of kernels by their names; the first that fits counts.
GROUPS = (
    ("this package's kernels", r"^_[a-z]"),
    ("torch.compile's kernels", r"^triton_"),
    ("attention", r"flash|fmha|attention|sdpa|softmax"),
    ("resampling", r"upsample|interp|grid"),
    ("convolutions", r"conv|implicit|wgrad|dgrad|fprop"),
    ("matrix products", r"gemm|nvjet|cutlass|xmma|cublas|matmul|splitk|mm_|linear|addmm|::b?mm"),
    ("norms", r"norm"),
    ("copies", r"memcpy|memset|copy|cat|gather|index|pad"),
    ("elementwise", r"elementwise|vectorized|unrolled|reduce|fill"),
)
ON_DEVICE = {"kernel", "gpu_memcpy", "gpu_memset"}  # categories of events in a trace
FIELDS = {
    "grid": "grid",
    "block": "block",
    "registers per thread": "registers",
    "shared memory": "shared_bytes",
    "bytes": "bytes",
}


def profile_frame(
    model: Network, case: Case, frames: Batch, out: Path, found: dict, note: Callable[[dict], None]
) -> None:
    """Profile one frame in steady state and each module alone, and note what is found as it goes on.

    out: folder for the gzipped trace on CUDA, which chrome://tracing and https://ui.perfetto.dev show.
    Raises:
        FailedPart: the profiler saw no kernel.
    """
    ours = Ours("eager", case, model)
    ours.warm_up(frames)
    trace = out / f"{case.device.type}_frame_trace.json.gz"
    found["frame"] = steady_frame(ours, frames, trace if case.cuda else None)
    found["kernels"] = in_order(json.loads(gzip.decompress(trace.read_bytes()))) if case.cuda else []
    found["fallbacks"] = ours.fallbacks
    note(found)
    found["rows"] = []
    with torch.inference_mode():
        pixels = torch.randn(1, 3, *case.size, device=case.device).to(case.dtype, memory_format=torch.channels_last)
        plan = model.plan(*case.size)
        number = torch.zeros(1, device=case.device)
        found["empty_graph_us"] = call_us(number.zero_, case.device, REPLAYS)  # that all times below include
        for path, (count, call) in calls_of(model, lambda: model(pixels, plan)).items():
            row: dict[str, Any] = {"module": path, "calls": count}
            try:
                row["us"] = call_us(call, case.device, REPLAYS if case.cuda else 3)
            except Exception as error:  # one that fails leaves the others their turn
                row |= said(error)
            found["rows"].append(row)
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
    if not busy_ms:
        raise FailedPart("the profiler saw no kernel")


def steady_frame(ours: Ours, frames: Batch, trace: Path | None) -> dict:
    """Profile one frame; all frames before it are done.

    Args:
        trace: file for the trace on CUDA; None on a CPU.
    Returns:
        busy_ms: sum of the times of kernels and copies; on a CPU of operations, less those inside them.
        launched: number of these.
        groups_ms: their times by GROUPS.
        top: the KERNELS longest, by name.
        calls: CUDA's functions, and how often the host called each.
    """
    cuda = trace is not None
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with torch.profiler.profile(
        activities=activities, schedule=schedule(wait=0, warmup=1, active=1, repeat=1)
    ) as profiler:
        for _ in range(2):  # the profiler itself starts slowly
            ours.finish(ours.start(frames))
            profiler.step()
    if trace:
        with whole(trace) as new:
            profiler.export_chrome_trace(f"{new}.gz")
            Path(f"{new}.gz").replace(new)
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


def in_order(trace: dict) -> list[dict]:
    """Kernels and copies of a trace in the order of their beginnings.

    Each has its name, its beginning and length in microseconds, and of FIELDS those that the profiler knows.
    """
    events = sorted((e for e in trace["traceEvents"] if e.get("cat") in ON_DEVICE), key=lambda e: e["ts"])
    return [
        {"name": e["name"], "at_us": round(e["ts"] - events[0]["ts"], 3), "us": e["dur"]}
        | {ours: e["args"][theirs] for theirs, ours in FIELDS.items() if theirs in e.get("args", {})}
        for e in events
    ]


def group(kernel: str) -> str:
    """The kind of a kernel of this name."""
    return next((what for what, pattern in GROUPS if re.search(pattern, kernel, re.IGNORECASE)), "other")


def calls_of(model: nn.Module, call: Callable[[], object]) -> dict[str, tuple[int, Callable[[], object]]]:
    """Run the call once: path of each module in it -> number of its calls, and its first one, to be repeated."""
    found: dict[str, tuple[int, Callable[[], object]]] = {}
    handles = []
    for path, module in model.named_modules():
        if path and path.count(".") <= DEEPEST and not isinstance(module, nn.ModuleList | nn.Identity):

            def count(module: nn.Module, args: tuple, kwargs: dict, path: str = path) -> None:
                number, first = found.get(path, (0, lambda: module(*args, **kwargs)))
                found[path] = number + 1, first

            handles.append(module.register_forward_pre_hook(count, with_kwargs=True))
    try:
        call()
    finally:
        for handle in handles:
            handle.remove()
    return found
