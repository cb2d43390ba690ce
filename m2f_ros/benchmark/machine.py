"""The surroundings of a run: machine, versions, commit; operations of a network and rates of the device.

Operations and rates give the roofline. (Williams et al. 2009, Roofline: an insightful visual performance model,
https://doi.org/10.1145/1498765.1498785)
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import conv_flop_count, flop_registry, sdpa_flop_count

from m2f_ros.benchmark.measure import Marks, median, spread
from m2f_ros.benchmark.result import SCHEMA, Machine, NodeShare
from m2f_ros.model import layers
from m2f_ros.processes.workers import available_cores

aten, mkldnn = torch.ops.aten, torch.ops.mkldnn
_SUMS = (aten._embedding_bag, aten._embedding_bag_forward_only)
PACKAGES = (
    "torch",
    "transformers",
    "torchvision",
    "segmentation_models_pytorch",
    "openvino",
    "onnxruntime",
    "triton",
    "numpy",
)


def run_fields(device: torch.device) -> dict[str, Any]:
    """The fields of a result.Run: this machine, this process' command and the present time (UTC)."""
    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    if gpu:
        driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").splitlines()
        versions |= {"cuda": str(torch.version.cuda)} | ({"driver": driver[0]} if driver else {})
    git = ("git", "-C", str(Path(__file__).parent))
    commit = _output(*git, "rev-parse", "HEAD") or None
    return {
        "schema": SCHEMA,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["m2f", *sys.argv[1:]]),
        "commit": commit,
        "dirty": bool(_output(*git, "status", "--porcelain", ":/m2f_ros")) if commit else None,
        "machine": Machine(
            system=f"{platform.system()} {platform.machine()}",
            cpu=_cpu(),
            cores=available_cores(),
            cores_in_all=os.cpu_count() or 1,
            memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            gpu=gpu.name if gpu else None,
            gpu_memory_gib=round(gpu.total_memory / 2**30, 1) if gpu else None,
            gpu_capability=f"{gpu.major}.{gpu.minor}" if gpu else None,
        ),
        "versions": versions,
    }


def _cpu() -> str:
    """The processor's name, and its family and model, in which rented machines of one name differ."""
    try:
        lines = dict(re.findall(r"^(\w[\w ]*?)\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE))
    except OSError:
        lines = {}
    name = lines.get("model name", "").strip() or platform.processor() or platform.machine()
    return f"{name} (family {lines['cpu family']}, model {lines['model']})" if "cpu family" in lines else name


def _output(*command: str) -> str:
    """Output of a command; nothing where it fails or is not there."""
    if not shutil.which(command[0]):
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def node_share(
    times_ms: Sequence[float],
    threads_ms: Mapping[str, Sequence[float]],
    *,
    outputs: Sequence[str],
    versions: Mapping[str, str],
    **fields: Any,
) -> NodeShare:
    """Make a NodeShare of what m2f_ros.node.load.benchmark.measure gives. Threads that take no time are left out."""
    run = run_fields(torch.device("cpu"))
    run["versions"] = {name: run["versions"][name] for name in ("python", "numpy")} | dict(versions)
    medians = {name: median(values) for name, values in threads_ms.items()}
    threads = {name: value for name, value in medians.items() if value >= 0.01}
    return NodeShare(**run, **fields, outputs=list(outputs), time_ms=spread(times_ms), threads_ms=threads)


def _weighted_sum(args: tuple, out: tuple) -> int:
    table, rows = args[:2]
    return 2 * rows.numel() * table.shape[1]


def _convolution(args: tuple, out: Tensor) -> int:
    weight = next(x for x in args[1:] if x.shape != out.shape)  # not what is added
    return conv_flop_count(list(args[0].shape), list(weight.shape), list(out.shape))


# Operations that torch's own counter leaves out, by the arguments and the result. See also `m2f_ros.model.layers`.
_MORE: dict[object, Callable] = {
    aten._scaled_dot_product_flash_attention_for_cpu: lambda args, out: sdpa_flop_count(*(x.shape for x in args[:3])),
    **dict.fromkeys(_SUMS, _weighted_sum),
    aten.grid_sampler_2d: lambda args, out: 8 * out.numel(),  # four neighbours, each times its weight and added
    aten._addmm_activation: lambda args, out: 2 * args[1].numel() * out.shape[-1],
    mkldnn._linear_pointwise: lambda args, out: 2 * args[0].numel() * out.shape[-1],
    mkldnn._convolution_pointwise: _convolution,
}


class WorkCounter(TorchDispatchMode):
    """Counts the operations in its block that torch.utils.flop_counter or _MORE knows."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0  # a multiply-add is two
        self.numbers = 0  # floating-point operands and results of each operation, once

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        packet = func._overloadpacket
        if packet not in flop_registry and packet not in _MORE:
            # linear, matmul and others come whole here, and are made of operations that are counted.
            with self:
                result = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if result is NotImplemented else result
        out = func(*args, **kwargs)
        if packet in _MORE:
            self.flops += _MORE[packet](args, out)
        else:
            self.flops += flop_registry[packet](*args, **kwargs, out_val=out)
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        if packet in _SUMS:
            tensors = tensors[:1]  # a kernel has rows and factors in registers
        tensors += [x for x in ([out] if isinstance(out, Tensor) else out[:1]) if isinstance(x, Tensor)]
        self.numbers += sum(_stored(x) for x in tensors if x.is_floating_point())
        return out


def _stored(x: Tensor) -> int:
    """Numbers in memory: one that is expanded counts once."""
    return min(x.numel(), x.untyped_storage().nbytes() // x.element_size())


@torch.inference_mode()
def count(call: Callable[[], object]) -> tuple[int, int]:
    """(flops, numbers) of a call: see WorkCounter."""
    with WorkCounter() as counter:
        call()
    return counter.flops, counter.numbers


@torch.inference_mode()
def gemm_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Best operations a second of a square matrix product, by torch's and, on a CPU, by oneDNN's."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    # torch.mm calls MKL, which on AMD's processors is not the faster one.
    seconds = min(_fastest(lambda: torch.mm(a, b, out=out), device), _fastest(lambda: layers.linear(a, b), device))
    return 2 * side**3 / seconds


@torch.inference_mode()
def copy_rate(device: torch.device) -> float:
    """Best bytes a second, read and written, of a copy within the device's memory."""
    size = 2**30 if device.type == "cuda" else 2**28  # more than any cache
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return 2 * size / _fastest(lambda: target.copy_(source), device)


def _fastest(call: Callable[[], object], device: torch.device, times: int = 12) -> float:
    """Seconds of the quickest call."""
    marks, best = Marks(device), float("inf")
    for _ in range(times):
        marks.mark("")
        call()
        marks.mark("call")
        best = min(best, marks.milliseconds()["call"] / 1000)
    return best
