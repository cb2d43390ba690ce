"""Triton kernels for NVIDIA GPUs. A reference function in plain torch, elsewhere, calls each kernel:

    if kernels.use("overlay", rgb):
        from m2f_ros.kernels import overlay

        return overlay.blend(rgb, ...)

The modules of this folder import Triton, a dependency of PyTorch's CUDA builds; this one does not. The first launch of
a kernel compiles it and must precede the capture of a graph; later launches are asynchronous.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from m2f_ros.errors import ConfigError

names = (
    "deformable_attention",
    "window_attention",
    "masked_attention",
    "query_layers",
    "residual_norm",
    "gelu",
    "patch_merging",
    "group_norm",
    "semantic_head",
    "overlay",
    "float8",
)
MIN_CAPABILITY = (8, 0)  # lowest CUDA capability that Triton supports
HEAD = 128  # bytes of a head's channels: with more, attention exceeds the shared memory or the registers of some GPU


def use(name: str, tensor: Tensor, dim: int = 0) -> bool:
    """Return True if a call with this tensor uses the kernel `name`.

    Kernels need a CUDA device of capability 8.0 or more, and Triton. They are not used if switched off (`off`,
    M2F_KERNELS), if `tensor` needs gradients (no kernel has a backward), during an export, or for attention whose heads
    have so many channels (`dim`) that they take more than HEAD bytes.
    """
    return (
        tensor.is_cuda
        and name not in _off
        and (not dim or dim * tensor.element_size() <= HEAD)
        and not (tensor.requires_grad and torch.is_grad_enabled())
        and not exporting()
        and usable(tensor)
    )


def exporting() -> bool:
    """Return True during torch.export, in every thread; torch 2.11's own function is also True in torch.compile."""
    return torch.compiler._is_exporting_flag


def usable(tensor: Tensor) -> bool:
    """Return True if the tensor's device supports kernels, even if they are switched off."""
    return tensor.is_cuda and _supported(tensor.device.index)


def device_of(tensor: Tensor) -> AbstractContextManager:
    """Return a context that makes the tensor's device the current one, for launches outside torch.compile."""
    return nullcontext() if torch.compiler.is_compiling() else torch.cuda.device_of(tensor)


# Triton has both functions, but torch.compile cannot trace its versions.
def ceil_div(number: int, by: int) -> int:
    return -(-number // by)


def next_power_of_2(number: int) -> int:
    return 1 << (number - 1).bit_length()


@contextmanager
def off(*which: str) -> Iterator[None]:
    """Switch these kernels, or all, off inside the block, in every thread: for launches, captures and compilations."""
    global _off
    before = _off
    _off = before | _checked(which or names)
    try:
        yield
    finally:
        _off = before


def _checked(which: tuple[str, ...] | list[str], where: str = "kernels.off") -> frozenset[str]:
    for name in which:
        if name not in names:
            raise ConfigError(f"{where}: there is no kernel {name!r}; take 'off' or some of {', '.join(names)}")
    return frozenset(which)


def _read_environment() -> frozenset[str]:
    """Return the kernels that M2F_KERNELS switches off: "off" for all, or their names, separated by commas."""
    which = [name.strip() for name in os.environ.get("M2F_KERNELS", "").split(",") if name.strip()]
    return frozenset(names) if which == ["off"] else _checked(which, "M2F_KERNELS")


_off = _read_environment()
_known: dict[int, bool] = {}


def _supported(device: int) -> bool:
    if device not in _known:
        modern = torch.cuda.get_device_capability(device) >= MIN_CAPABILITY
        _known[device] = modern and importlib.util.find_spec("triton") is not None
    return _known[device]


# Marks the results as constant for torch.compile. torch.compiler.assume_constant_result does the same, but imports the
# whole compiler, which doubles the import time of a node or a command.
for _function in (_supported, exporting):
    _function.__dict__["_dynamo_marked_constant"] = True
