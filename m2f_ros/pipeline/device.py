"""The device, precision and memory of the pipeline."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import platform
from collections.abc import Iterator
from pathlib import Path

import torch

from m2f_ros.errors import ConfigError
from m2f_ros.model.float8 import MIN_CAPABILITY as FLOAT8_CAPABILITY
from m2f_ros.pipeline.backends import PRECISIONS, choose_backend, cpu_has_bf16, cpu_has_vnni


def choose_device(name: str) -> torch.device:
    """Return the device of this name; "auto" is the first CUDA device, else the CPU.

    Raises:
        ConfigError: the device does not exist.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {name!r} cannot be used ({reason}); take 'auto', 'cpu' or 'cuda:0'") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {name!r} is not supported; take 'auto', 'cpu' or 'cuda:0'")
    return device


@functools.cache
def hardware_name(device: torch.device) -> str:
    """Return the name of the GPU, or of this machine's processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def choose_precision(name: str | None, device: torch.device) -> str:
    """Return the key of PRECISIONS for this device; None is fp16 on CUDA and fp32 on a CPU.

    Raises:
        ConfigError: the precision is unknown, or the device lacks it. (The backend checks bf16 on a CPU.)
    """
    cuda = device.type == "cuda"
    if name is None:
        return "fp16" if cuda else "fp32"
    if name not in PRECISIONS:
        raise ConfigError(f"precision {name!r} is unknown; take {', '.join(PRECISIONS)}")
    if cuda:
        if name == "int8":
            raise ConfigError("precision 'int8' is for CPUs, and exports of m2f quantize; on CUDA take fp16 or fp8")
        if name == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise ConfigError(f"precision 'bf16': {torch.cuda.get_device_name(device)} lacks it; take fp16 or fp32")
        if name == "fp8" and torch.cuda.get_device_capability(device) < FLOAT8_CAPABILITY:
            raise ConfigError(
                f"precision 'fp8': {torch.cuda.get_device_name(device)} lacks it; take fp16 "
                "(float8 products begin with compute capability 8.9: RTX 40, L4, H100)"
            )
    elif name in ("fp8", "fp16", "tf32"):
        raise ConfigError(f"precision {name!r} needs CUDA; on a CPU take fp32, or bf16 where the processor has it")
    return name


def quickest_precision(device: torch.device, backend: str = "auto", eight_bits: bool = False) -> str:
    """Return the fastest precision: fp16 on CUDA; in OpenVINO on a CPU bf16, or int8 with VNNI alone; else fp32.

    With the shipped model, fewer than one label in a thousand differs from fp32's in bf16, and the scores are the same.
    In int8 they are less by what the model's `quantisation.json` says.

    Args:
        backend: one of `backends.NAMES`.
        eight_bits: True if the model has a quantised form that loses little.
    Raises:
        ConfigError: the backend is unknown.
    """
    if choose_backend(backend, device) != "openvino" or device.type != "cpu":
        return choose_precision(None, device)
    if cpu_has_bf16():
        return "bf16"
    return "int8" if eight_bits and cpu_has_vnni() else "fp32"


@contextlib.contextmanager
def float32_products(precision: str, device: torch.device) -> Iterator[None]:
    """Return a context in which CUDA uses TF32 for float32 products if `precision` is "tf32", else full float32.

    torch's default is TF32 in convolutions. A captured graph keeps the setting of its capture.
    """
    if device.type != "cuda":
        yield
        return
    # `fp32_precision` is not set, since torch then raises if a library uses the older names.
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def keep_freed_memory() -> None:
    """Let glibc keep the memory of freed tensors: new memory from the kernel costs a page fault per 4 KiB.

    Does nothing with another C library.
    """
    mmap_threshold, trim_threshold = -3, -1  # malloc.h
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for option in (mmap_threshold, trim_threshold):
            libc.mallopt(option, 1 << 30)


def give_memory_back() -> None:
    """Return the freed memory that glibc keeps (see `keep_freed_memory`) to the system. Takes milliseconds."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Return True for an out-of-memory error of torch, NumPy or OpenVINO, on the device or the host."""
    # Only torch's CUDA allocator raises OutOfMemoryError; other errors are recognised by their text.
    words = (
        "out of memory",
        "ALLOC_FAILED",
        "can't allocate memory",
        "not enough memory",
        "ailed to allocate",
        "bad_alloc",
    )
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)
