"""Linear layers and convolutions by the device's fused operators: on a CPU oneDNN's, on CUDA cuBLASLt's.

torch's own linear layer does not fuse the activation; on a CPU it calls MKL, which is slower on AMD's processors. These
are the operators that torch.compile generates calls of. torch's usual operators are the fallback for other devices and
precisions, gradients, export and compilation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from m2f_ros import kernels


def _gelu(x: Tensor) -> Tensor:
    """Compute GELU, on a GPU in place."""
    if kernels.use("gelu", x):
        from m2f_ros.kernels import gelu

        return gelu.gelu_(x)
    return F.gelu(x)


# Activation -> torch's function, oneDNN's name, arguments and algorithm.
_ACTIVATIONS = {
    "none": (lambda x: x, ("none", [], "")),
    "relu": (F.relu, ("relu", [], "")),
    "relu6": (F.relu6, ("hardtanh", [0.0, 6.0], "")),
    "gelu": (_gelu, ("gelu", [], "none")),
}
# Least number of multiplications: for smaller products the call takes longer than the computation.
_LEAST_WORK = 1 << 22
_plain = ContextVar("plain", default=False)
_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def usable(x: Tensor, weight: Tensor) -> bool:
    """Return True if oneDNN's operators support these tensors."""
    return _AVAILABLE and x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and _runs_alone(x, weight)


def _runs_alone(x: Tensor, weight: Tensor) -> bool:
    """Return False if torch records the call, for gradients, an export, a compilation or TorchScript; or if it is in
    the context of `plain_operators`.
    """
    recorded = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    return not recorded and not torch.compiler.is_compiling() and not (torch.jit.is_tracing() or _plain.get())


@contextlib.contextmanager
def plain_operators() -> Iterator[None]:
    """Return a context in which this module calls torch's usual operators."""
    before = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(before)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """Apply a linear layer: (..., K), (N, K), (N,) -> (..., N). activation: "none", "relu" or "gelu" (exact, erf)."""
    function, fused = _ACTIVATIONS[activation]
    if usable(x, weight) and x.numel() * len(weight) >= _LEAST_WORK:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, *fused)
    if activation == "relu" and bias is not None and x.is_cuda and _runs_alone(x, weight):
        return _linear_relu(x, weight, bias)
    return function(F.linear(x, weight, bias))


def _linear_relu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute relu(F.linear(x, weight, bias)): on CUDA one product, whose epilogue adds the bias and cuts off at 0."""
    return torch._addmm_activation(bias, x.flatten(0, -2), weight.t()).view(*x.shape[:-1], -1)


def linear_plus(x: Tensor, weight: Tensor, term: Tensor) -> Tensor:
    """Apply a linear layer and add a term (S, N) to every image: (B, S, K), (N, K), (S, N) -> (B, S, N)."""
    if usable(x, weight) and x.numel() * len(weight) >= _LEAST_WORK:
        return torch.ops.mkldnn._linear_pointwise.binary(x, term.expand(len(x), -1, -1), weight, None, "add")
    return torch.baddbmm(term, x, weight.t().expand(x.shape[0], -1, -1))


def convolve(conv: nn.Conv2d, x: Tensor, activation: str = "none", plus: Tensor | None = None) -> Tensor:
    """Compute conv(x), followed either by relu6 or by the addition of `plus`, of the result's shape."""
    function, fused = _ACTIVATIONS[activation]
    if not usable(x, conv.weight):
        x = function(conv(x))
        return x if plus is None else x + plus
    arguments = (conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups)
    if plus is None:
        return torch.ops.mkldnn._convolution_pointwise(x, *arguments, *fused)
    return torch.ops.mkldnn._convolution_pointwise.binary(x, plus, *arguments, "add", 1.0, None, [], None)


def convolve_patches(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Compute conv(x) for a convolution whose kernel is as large as its stride, 1x1 for one.

    On CUDA it is a product of patches: cuDNN adds the bias in a pass of its own, and pads few channels.
    """
    return _product_of_patches(conv, x) if x.is_cuda else conv(x)


def _product_of_patches(conv: nn.Conv2d, x: Tensor) -> Tensor:
    height, width = conv.kernel_size
    patches = x.permute(0, 2, 3, 1).unflatten(2, (-1, width)).unflatten(1, (-1, height)).transpose(2, 3).flatten(3)
    return F.linear(patches, conv.weight.permute(0, 2, 3, 1).flatten(1), conv.bias).permute(0, 3, 1, 2)


class Linear(nn.Linear):
    """A linear layer and its activation."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True, activation: str = "none"):
        super().__init__(inputs, outputs, bias)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        return linear(x, self.weight, self.bias, self.activation)
