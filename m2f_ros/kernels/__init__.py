"""Triton kernels for NVIDIA GPUs. Each has a twin, a plain torch function elsewhere, which calls it:

    if kernels.use("overlay", rgb):
        from m2f_ros.kernels import overlay

        return overlay.blend(rgb, ...)

The modules of this folder import Triton, which PyTorch's CUDA builds bring along; this one does not. The first launch
of a kernel compiles it and must come before a graph is captured; after that a launch allocates its outputs and waits
for nothing.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from m2f_ros.errors import ConfigError

names = ("deformable_attention", "window_attention", "semantic_head", "overlay")
MIN_CAPABILITY = (8, 0)  # the lowest that Triton supports


def use(name: str, tensor: Tensor) -> bool:
    """Return True if a call is to take the kernel `name`, judged by one of its tensors.

    So it is on a CUDA device of capability 8.0 or more where Triton is installed, unless the kernel is switched off
    (`off`, M2F_KERNELS), `tensor` needs gradients (no kernel has a backward), or a graph is being exported.
    """
    return (
        tensor.is_cuda
        and name not in _off
        and not (tensor.requires_grad and torch.is_grad_enabled())
        and not torch.compiler.is_exporting()
        and usable(tensor)
    )


def usable(tensor: Tensor) -> bool:
    """Return True if kernels can run on the tensor's device, switched off or not."""
    return tensor.is_cuda and _supported(tensor.device.index)


def device_of(tensor: Tensor) -> AbstractContextManager:
    """Makes the tensor's device the current one, where kernels are launched. torch.compile sees to that itself."""
    return nullcontext() if torch.compiler.is_compiling() else torch.cuda.device_of(tensor)


# Triton has these two as well, but torch.compile cannot look into its own.
def ceil_div(number: int, by: int) -> int:
    return -(-number // by)


def next_power_of_2(number: int) -> int:
    return 1 << (number - 1).bit_length()


@contextmanager
def off(*which: str) -> Iterator[None]:
    """Switch these kernels, or all of them, off meanwhile, in every thread: for launches, captures, compilations."""
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
    """M2F_KERNELS: "off", or the kernels to leave out, separated by commas."""
    which = [name.strip() for name in os.environ.get("M2F_KERNELS", "").split(",") if name.strip()]
    return frozenset(names) if which == ["off"] else _checked(which, "M2F_KERNELS")


_off = _read_environment()
_known: dict[int, bool] = {}


def _supported(device: int) -> bool:
    if device not in _known:
        modern = torch.cuda.get_device_capability(device) >= MIN_CAPABILITY
        _known[device] = modern and importlib.util.find_spec("triton") is not None
    return _known[device]


# torch.compile takes the answer and does not look inside. torch.compiler.assume_constant_result sets this too, but
# imports torch's whole compiler for that, which takes as long as all else that a node or a command imports.
_supported.__dict__["_dynamo_marked_constant"] = True
