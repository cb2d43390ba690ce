"""What a figure depends on beside the code: machine, versions, commit."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from m2f_ros.benchmark.result import SCHEMA, Machine

PACKAGES = ("torch", "transformers", "openvino", "onnxruntime", "triton", "numpy")


def run_fields(device: torch.device) -> dict[str, Any]:
    """The fields of a result.Run, by this machine, this process' command and the time of now (UTC)."""
    at, dirty = commit()
    return {
        "schema": SCHEMA,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["m2f", *sys.argv[1:]]),
        "commit": at,
        "dirty": dirty,
        "machine": describe(device),
        "versions": versions(device),
    }


def describe(device: torch.device) -> Machine:
    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        cpu=_cpu(),
        cores=usable_cores(),
        cores_in_all=os.cpu_count() or 1,
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        gpu=gpu and gpu.name,
        gpu_memory_gib=gpu and round(gpu.total_memory / 2**30, 1),
        gpu_capability=gpu and f"{gpu.major}.{gpu.minor}",
    )


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions(device: torch.device) -> dict[str, str]:
    """Of Python, of the packages that are installed, and on CUDA of CUDA and the driver."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if device.type == "cuda":
        found["cuda"] = str(torch.version.cuda)
        driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        if driver:
            found["driver"] = driver.splitlines()[0]
    return found


def commit() -> tuple[str | None, bool | None]:
    """(hash of the checkout's commit, whether its files differ from it); None outside a checkout."""
    folder = str(Path(__file__).parent)
    head = _output("git", "-C", folder, "rev-parse", "HEAD")
    return (head, bool(_output("git", "-C", folder, "status", "--porcelain", ":/m2f_ros"))) if head else (None, None)


def _cpu() -> str:
    """The processor's name, and its family and model, in which rented machines of one name differ."""
    try:
        lines = dict(re.findall(r"^(\w[\w ]*?)\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE))
    except OSError:
        lines = {}
    name = lines.get("model name", "").strip() or platform.processor() or platform.machine()
    return f"{name} (family {lines['cpu family']}, model {lines['model']})" if "cpu family" in lines else name


def _output(*command: str) -> str:
    """What a command prints; nothing where it fails or is not there."""
    if not shutil.which(command[0]):
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
