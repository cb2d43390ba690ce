"""One part of the check, in a process of its own: python -m m2f_ros.benchmark.gpu_check.part KIND ARGUMENTS RESULT.

KIND is a key of KINDS, ARGUMENTS a JSON object, RESULT the file for what was found: {"result": …}, and "failed" or
"not_run" with the reason. It is replaced whenever there is more, so that it is complete whenever the process is ended.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from m2f_ros import signals
from m2f_ros.benchmark.gpu_check.tests import FailedTests
from m2f_ros.errors import M2fError
from m2f_ros.files import file_name, write_whole

Note = Callable[[dict], None]


class NotHere(Exception):
    """What this part needs is not on this machine."""


def machine(arguments: dict, note: Note) -> None:
    """Device, versions, commit, and how fast the device multiplies and copies."""
    import torch

    from m2f_ros.benchmark import machine, work
    from m2f_ros.pipeline.device import choose_device

    device = choose_device(arguments["device"])
    described = machine.describe(device)
    commit, dirty = machine.commit()
    cuda = device.type == "cuda"
    found = {
        "device": device.type,
        "gpu": described.gpu,
        "why_no_cuda": None if cuda else _why_no_cuda(arguments["device"]),
        "described": asdict(described),
        "versions": machine.versions(device),
        "commit": commit,
        "dirty": dirty,
    }
    note(found)
    types = {"fp16": torch.float16, "bf16": torch.bfloat16} if cuda else {"fp32": torch.float32}
    found["matrix_product_tflop_per_s"] = {name: work.gemm_rate(device, t) / 1e12 for name, t in types.items()}
    found["copy_gb_per_s"] = work.copy_rate(device) / 1e9
    note(found)


def _why_no_cuda(asked: str) -> str:
    import torch

    if torch.cuda.is_available():
        return f"--device {asked} was asked for"
    if not torch.backends.cuda.is_built():
        return f"PyTorch {torch.__version__} is built without CUDA"
    return f"PyTorch {torch.__version__}, built for CUDA {torch.version.cuda}, sees none"


def tests(arguments: dict, note: Note) -> None:
    """pytest; see `gpu_check.tests`."""
    from m2f_ros.benchmark.gpu_check.tests import run_tests

    # Tests of kernels switch torch's deterministic algorithms on, which cuBLAS takes part in with this alone.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    run_tests(arguments["paths"], arguments.get("ignore", ()), arguments.get("few"), note)


def bench(arguments: dict, note: Note) -> None:
    """`m2f bench` against HF; the result goes to the folder `out` too."""
    from m2f_ros import benchmark

    settings = benchmark.Settings(
        model=arguments["model"],
        size=tuple(arguments["size"]),
        device=arguments["device"],
        rounds=arguments["rounds"],
        seconds=arguments["seconds"],
        rate=30.0,
    )
    result = benchmark.run(settings, lambda line: print(line, flush=True))
    name = Path(settings.model).name
    file = f"{result.device}_{name}_{settings.size[0]}x{settings.size[1]}_{result.precision}.json".replace("-", "_")
    benchmark.write(result, Path(arguments["out"], file_name(file)))
    ours, theirs = (next(c for c in result.contestants if c.side == side) for side in ("ours", "theirs"))
    note({
        "file": file_name(file),
        "weights": result.weights.origin,
        "ours_ms": ours.time_ms.median,
        "ours_fps": ours.throughput_fps,
        "hf_ms": theirs.time_ms.median,
        "agreement": ours.agreement,
        "roofline_share": ours.roofline_share,
    })  # fmt: skip


def ablation(arguments: dict, note: Note) -> None:
    """See `m2f_ros.benchmark.ablation`."""
    from m2f_ros.benchmark.ablation import ablate
    from m2f_ros.benchmark.gpu_check.matrix import street
    from m2f_ros.benchmark.gpu_check.subject import subject

    model, weights, device, precision = subject(arguments)
    size = tuple(arguments["size"])
    frames = street(Path(arguments["scratch"]), size)[: 4 if device.type == "cuda" else 2]
    found = {"model": arguments["model"], "size": size, "precision": precision, "weights": weights.origin, "rows": []}
    for row in ablate(model, frames, size, device, precision, arguments["rounds"], arguments["seconds"]):
        found["rows"].append(asdict(row))
        note(found)
        print(row, flush=True)


def profile(arguments: dict, note: Note) -> None:
    """See `gpu_check.profile`."""
    from m2f_ros.benchmark.gpu_check.profile import profile_frame

    profile_frame(arguments, note)


def matrix(arguments: dict, note: Note) -> None:
    """See `gpu_check.matrix`."""
    from m2f_ros.benchmark.gpu_check.matrix import run_matrix

    _needs("transformers")
    run_matrix(arguments, note)


def compiled(arguments: dict, note: Note) -> None:
    """See `gpu_check.matrix`."""
    from m2f_ros.benchmark.gpu_check.matrix import run_compiled

    _needs("transformers")
    run_compiled(arguments, note)


def node(arguments: dict, note: Note) -> None:
    """See `gpu_check.node`."""
    for name in ("rclpy", "rosbags", "mcap", "av"):
        _needs(name)
    from m2f_ros.benchmark.gpu_check.node import run_node

    run_node(arguments, note)


KINDS = {function.__name__: function for function in (machine, tests, bench, ablation, profile, matrix, compiled, node)}


def _needs(name: str) -> None:
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise NotHere(f"{name} cannot be imported here ({error})") from None


def main(kind: str, arguments: str, result: str) -> int:
    """The exit status."""
    # Whoever started this ends it in time; if that was killed, this ends with it, and what it started by itself.
    if parent := os.environ.pop(signals.PARENT, ""):
        signals.end_with_parent(int(parent), signal.SIGKILL)
    signal.alarm(round(float(os.environ.get("M2F_SECONDS", 600))) + 10)
    answer: dict = {"result": None}
    path = Path(result)

    def note(found: dict) -> None:
        answer["result"] = found
        write_whole(path, json.dumps(answer))

    try:
        KINDS[kind](json.loads(arguments), note)
    except NotHere as reason:
        answer["not_run"] = str(reason)
    except (M2fError, FailedTests) as error:
        answer["failed"] = str(error)
    note(answer["result"])
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
