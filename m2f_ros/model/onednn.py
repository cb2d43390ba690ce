"""Fast linear layers and convolutions on a CPU: oneDNN's, with a fused activation.

torch's own linear layer calls MKL, which is slower on AMD's processors, and does not fuse the activation. These are the
operators that torch.compile generates calls of. torch's usual operators are the fallback for other devices and
precisions, gradients, export and compilation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Activation -> torch's function, oneDNN's name, arguments and algorithm.
_ACTIVATIONS = {
    "none": (lambda x: x, ("none", [], "")),
    "relu": (F.relu, ("relu", [], "")),
    "relu6": (F.relu6, ("hardtanh", [0.0, 6.0], "")),
    "gelu": (F.gelu, ("gelu", [], "none")),
}
# Least number of multiplications: for smaller products the call takes longer than the computation.
_LEAST_WORK = 1 << 22
_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def usable(x: Tensor, weight: Tensor) -> bool:
    """Return True if oneDNN's operators support these tensors."""
    return (
        _AVAILABLE
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
        and not torch.compiler.is_compiling()
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """Apply a linear layer: (..., K), (N, K), (N,) -> (..., N). activation: "none", "relu" or "gelu" (exact, erf)."""
    function, fused = _ACTIVATIONS[activation]
    if usable(x, weight) and x.numel() * len(weight) >= _LEAST_WORK:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, *fused)
    return function(F.linear(x, weight, bias))


def linear_plus(x: Tensor, weight: Tensor, term: Tensor) -> Tensor:
    """Apply a linear layer and add a term (S, N) to every image: (B, S, K), (N, K), (S, N) -> (B, S, N)."""
    if usable(x, weight) and x.numel() * len(weight) >= _LEAST_WORK:
        return torch.ops.mkldnn._linear_pointwise.binary(x, term.expand(len(x), -1, -1), weight, None, "add")
    return torch.baddbmm(term, x, weight.t().expand(len(x), -1, -1))


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


class Linear(nn.Linear):
    """A linear layer and its activation."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True, activation: str = "none"):
        super().__init__(inputs, outputs, bias)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        return linear(x, self.weight, self.bias, self.activation)
