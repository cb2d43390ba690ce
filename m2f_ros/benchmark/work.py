"""How much work the network is, and how fast the device could be: the roofline.

(Williams et al. 2009, Roofline: an insightful visual performance model, https://doi.org/10.1145/1498765.1498785)
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import conv_flop_count, flop_registry, sdpa_flop_count

from m2f_ros.model import onednn

aten, mkldnn = torch.ops.aten, torch.ops.mkldnn


def _attention_on_cpu(args: tuple, out: tuple) -> int:
    query, key, value = (x.shape for x in args[:3])
    return sdpa_flop_count(query, key, value)


def _weighted_sum(args: tuple, out: tuple) -> int:
    table, rows = args[:2]
    return 2 * rows.numel() * table.shape[1]


def _bilinear_samples(args: tuple, out: Tensor) -> int:
    return 8 * out.numel()  # four neighbours, each times its weight and added


def _linear(args: tuple, out: Tensor) -> int:
    return 2 * args[0].numel() * out.shape[-1]


def _convolution(args: tuple, out: Tensor) -> int:
    weight = next(x for x in args[1:] if x.shape != out.shape)  # not what is added
    return conv_flop_count(args[0].shape, weight.shape, out.shape)


# What torch's own counter leaves out, by the arguments and the result. mkldnn's: see `m2f_ros.model.onednn`.
_MORE = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_on_cpu,
    aten._embedding_bag: _weighted_sum,
    aten._embedding_bag_forward_only: _weighted_sum,
    aten.grid_sampler_2d: _bilinear_samples,
    mkldnn._linear_pointwise: _linear,
    mkldnn._convolution_pointwise: _convolution,
}


class WorkCounter(TorchDispatchMode):
    """Counts what the operations inside the context do: torch.utils.flop_counter's and those of _MORE.

    Attributes:
        flops: a multiply-add is two.
        numbers: floating-point numbers read and written: operands and results of each operation, once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        packet = func._overloadpacket
        if packet not in flop_registry and packet not in _MORE:
            # linear, matmul and others come whole here, and are made of operations that are counted.
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
            return func(*args, **kwargs)
        out = func(*args, **kwargs)
        if packet in _MORE:
            self.flops += _MORE[packet](args, out)
        else:
            self.flops += flop_registry[packet](*args, **kwargs, out_val=out)
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        if packet in (aten._embedding_bag, aten._embedding_bag_forward_only):
            tensors = tensors[:1]  # a kernel has rows and factors in registers
        tensors += [out] if isinstance(out, Tensor) else [x for x in out[:1] if isinstance(x, Tensor)]
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
    a = torch.randn(side, side, device=device).to(dtype)
    b = torch.randn(side, side, device=device).to(dtype)
    out = torch.empty_like(a)
    # torch.mm calls MKL, which on AMD's processors is not the faster one.
    seconds = min(_fastest(lambda: torch.mm(a, b, out=out), device), _fastest(lambda: onednn.linear(a, b), device))
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
    seconds = []
    for _ in range(times):
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            end.synchronize()
            seconds.append(begin.elapsed_time(end) / 1000)
        else:
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
    return min(seconds)
