"""Where the pipeline computes, and in which numbers."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

import torch

from m2f_ros.errors import ConfigError
from m2f_ros.pipeline.backends import PRECISIONS, choose_backend, cpu_has_bf16


def choose_device(name: str) -> torch.device:
    """ "auto" is the first CUDA device, else the CPU.

    Raises:
        ConfigError: no such device here.
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


def choose_precision(name: str | None, device: torch.device) -> str:
    """A key of PRECISIONS for this kind of device; None takes fp16 on CUDA and fp32 on a CPU.

    Raises:
        ConfigError: no such precision, or not on such a device. (bf16 on a CPU: the backend looks at the processor.)
    """
    cuda = device.type == "cuda"
    if name is None:
        return "fp16" if cuda else "fp32"
    if name not in PRECISIONS:
        raise ConfigError(f"precision {name!r} is unknown; take {', '.join(PRECISIONS)}")
    if cuda:
        if name == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise ConfigError(f"precision 'bf16': {torch.cuda.get_device_name(device)} lacks it; take fp16 or fp32")
    elif name in ("fp16", "tf32"):
        raise ConfigError(f"precision {name!r} needs CUDA; on a CPU take fp32, or bf16 where the processor has it")
    return name


def quickest_precision(device: torch.device, backend: str = "auto") -> str:
    """For live frames: fp16 on CUDA; on a CPU that multiplies bfloat16 itself bf16 in OpenVINO, else fp32.

    The shipped model then gives fewer than one pixel in a thousand another label than in fp32, and the same scores.

    Args:
        backend: one of `backends.NAMES`.
    Raises:
        ConfigError: it is not.
    """
    openvino = choose_backend(backend, device) == "openvino"
    return "bf16" if openvino and device.type == "cpu" and cpu_has_bf16() else choose_precision(None, device)


@contextlib.contextmanager
def float32_products(precision: str, device: torch.device) -> Iterator[None]:
    """How CUDA multiplies float32 meanwhile: rounded for "tf32", else exactly.

    Exactly has to be asked for: torch rounds in convolutions unless told not to. Captured graphs keep what held when
    they were captured.
    """
    if device.type != "cuda":
        yield
        return
    # Not the attributes `fp32_precision`: once they are set, whatever asks by the older names gets an error.
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def keep_freed_memory() -> None:
    """Let the C library keep the memory of freed tensors: getting it from the kernel anew costs a page fault per 4 KiB.

    Does nothing where the C library is not glibc.
    """
    mmap_threshold, trim_threshold = -3, -1  # malloc.h
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for option in (mmap_threshold, trim_threshold):
            libc.mallopt(option, 1 << 30)


def give_memory_back() -> None:
    """Return what `keep_freed_memory` made the C library keep, once much of it is of no use. Takes milliseconds."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if torch, NumPy or OpenVINO failed for want of memory, on the device or the host."""
    # Only its own allocator raises the first; cuBLAS, page-locked memory and the CPU's allocator say it in words.
    words = (
        "out of memory",
        "ALLOC_FAILED",
        "can't allocate memory",
        "not enough memory",
        "ailed to allocate",
        "bad_alloc",
    )
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)
