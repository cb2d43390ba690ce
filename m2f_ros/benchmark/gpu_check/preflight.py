"""The first second on a GPU: a frame launched operation by operation, one captured as a graph, and one replayed."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from unittest import mock

import numpy as np
import torch
from torch.profiler import ProfilerActivity

from m2f_ros import kernels
from m2f_ros.benchmark.gpu_check.plan import FailedPart
from m2f_ros.benchmark.inputs import Case
from m2f_ros.benchmark.measure import TRACEBACK, agreement
from m2f_ros.benchmark.ours import channels_last, make_pipeline
from m2f_ros.model import Network
from m2f_ros.pipeline import Frame, Pipeline
from m2f_ros.pipeline.backends import make_backend
from m2f_ros.pipeline.streams import Cuda

WANT = frozenset({"label", "overlay"})
# A library may choose another algorithm in a capture, which rounds otherwise: a few pixels at borders may differ.
EQUAL = 0.999
# Kernels round otherwise, and random weights leave classes close together. A wrong kernel differs more.
ALIKE = 0.9


def first_frames(model: Network, case: Case, frame: np.ndarray, found: dict, note: Callable[[dict], None]) -> None:
    """Take the three frames, and note what is found as it goes on.

    Found are, of each frame, its time and the device's memory after it; of the first one the attention that torch chose
    and the Triton kernels with their registers; the nodes of the graph, failed captures, and how alike the labels are,
    also to those without kernels.

    Raises:
        FailedPart: graphs were given up; labels of the captured or replayed frame differ from those of the first, or
            these from the labels without kernels.
    """
    backend = make_backend("eager", channels_last(model, case), case.precision)
    pipeline = make_pipeline(case, backend, slots=1)
    labels: list[np.ndarray] = []
    found["graphs"], found["failed_captures"] = [], []

    def take(name: str) -> None:
        torch.cuda.reset_peak_memory_stats(case.device)
        begin = time.perf_counter()
        labels.append(np.array(pipeline.segment(Frame(frame, "rgb8"), WANT).label))
        found[name] = {"ms": 1000 * (time.perf_counter() - begin), **memory(case.device)}
        found["fallbacks"] = pipeline.counters["fallbacks"]
        note(found)

    with watched(found["graphs"], found["failed_captures"]):
        with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profiler:
            take("eager")
        found["attention"] = attention([event.key for event in profiler.key_averages() for _ in range(event.count)])
        found["triton"] = compiled()
        note(found)
        take("captured")
        take("replayed")
    found["nodes"] = sum(graph["nodes"] for graph in found["graphs"])
    found["classes"] = len(np.unique(labels[0]))
    likeness = {name: agreement(labels[i], labels[0]) for i, name in ((1, "captured"), (2, "replayed"))}
    found["agreement"] = likeness
    note(found)
    found["without"] = without(make_pipeline(case, backend, graphs=False, slots=1), Frame(frame, "rgb8"), labels[0])
    note(found)
    if not found["graphs"] or found["fallbacks"]:
        raise FailedPart("the work was not captured as a graph: see failed_captures")
    for name, alike in likeness.items():
        if alike < EQUAL:
            raise FailedPart(f"only {alike:.4%} of the labels of the {name} frame are those of the first one")
    if found["without"]["none"] < ALIKE:
        raise FailedPart(f"only {found['without']['none']:.2%} of the labels are those without kernels: see 'without'")


def without(pipeline: Pipeline, frame: Frame, label: np.ndarray) -> dict[str, float]:
    """How alike to the labels without kernels are `label`, those with all kernels ("none" is off), and those with all
    but one. Where these are more alike, that kernel is wrong.
    """

    def take(*off: str) -> np.ndarray:
        with kernels.off(*off):
            return np.array(pipeline.segment(frame, WANT).label)

    plain = take()
    return {"none": agreement(label, plain)} | {name: agreement(take(name), plain) for name in kernels.names}


def memory(device: torch.device) -> dict[str, float]:
    """Megabytes (10^6) that torch has allocated, the most so far, and those reserved for it."""
    torch.cuda.synchronize(device)
    calls = torch.cuda.memory_allocated, torch.cuda.max_memory_allocated, torch.cuda.memory_reserved
    names = "allocated_mb", "peak_mb", "reserved_mb"
    return {name: call(device) / 1e6 for name, call in zip(names, calls, strict=True)}


@contextlib.contextmanager
def watched(graphs: list[dict], failed: list[str]) -> Iterator[None]:
    """Add to `graphs` the nodes of each graph that is captured in the block; to `failed`, tracebacks of the others."""
    capture = Cuda.capture

    def watch(device: Cuda, work: Callable[[], None]) -> Callable[[], None]:
        made: list[torch.cuda.CUDAGraph] = []
        kind = torch.cuda.CUDAGraph

        def keep() -> torch.cuda.CUDAGraph:
            made.append(kind(keep_graph=True))
            return made[-1]

        with mock.patch.object(torch.cuda, "CUDAGraph", keep):
            try:
                replay = capture(device, work)
            except Exception:
                failed.append(traceback.format_exc()[-TRACEBACK:])
                raise
        graphs.append({"nodes": nodes(made[0])})
        return replay

    with mock.patch.object(Cuda, "capture", watch):
        yield


def nodes(graph: torch.cuda.CUDAGraph) -> int:
    """The number of kernels, copies and other nodes of a graph that was made with keep_graph."""
    library = ctypes.CDLL(f"libcudart.so.{(torch.version.cuda or '').partition('.')[0]}")  # torch has loaded it
    count = ctypes.c_size_t()
    if code := library.cudaGraphGetNodes(ctypes.c_void_p(graph.raw_cuda_graph()), None, ctypes.byref(count)):
        raise RuntimeError(f"cudaGraphGetNodes: error {code}")
    return count.value


def attention(operations: list[str]) -> dict[str, int]:
    """Count torch's kinds of attention: flash, efficient, cudnn or math."""
    prefix = "aten::_scaled_dot_product_"
    kinds = [name.removeprefix(prefix).removesuffix("_attention") for name in operations if name.startswith(prefix)]
    return dict(Counter(kinds))


def compiled() -> list[dict]:
    """Every Triton kernel of this package that this process has launched, one for each variant of its constants."""
    functions = [
        f for name, m in sys.modules.items() if name.startswith(f"{kernels.__name__}.") for f in vars(m).values()
    ]
    unique = {id(f): f for f in functions if hasattr(f, "device_caches")}
    rows = []
    for function in unique.values():
        for cache, *_ in function.device_caches.values():
            for kernel in cache.values():
                constants = {
                    function.arg_names[at[0]]: value for at, value in kernel.src.constants.items() if len(at) == 1
                }
                rows.append(
                    {
                        "kernel": function.__name__,
                        "constants": ", ".join(f"{name} {value}" for name, value in constants.items()),
                        "warps": kernel.metadata.num_warps,
                        "registers": getattr(kernel, "n_regs", None),
                        "spills": getattr(kernel, "n_spills", None),
                        "shared_bytes": kernel.metadata.shared,
                    }
                )
    return rows
