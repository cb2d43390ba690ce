"""Linear layers with float8 (e4m3) products, twice as fast as float16's on GPUs of compute capability 8.9 and above.

Weights have a scale for each output, inputs a scale for each row, found anew for each frame; sums are float32.
(Micikevicius et al. 2022, FP8 Formats for Deep Learning, https://arxiv.org/abs/2209.05433)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from m2f_ros import kernels
from m2f_ros.model.layers import Linear

MIN_CAPABILITY = (8, 9)
MULTIPLE = 16  # of inputs and outputs of a layer
_LARGEST = torch.finfo(torch.float8_e4m3fn).max


class Float8Linear(nn.Module):
    """An activation, then a linear layer with float8 products.

    Args:
        linear: the layer to convert; its own activation is left out.
        activation: "none", "relu" or "gelu" (exact), of the inputs. Computed with the quantisation, in one pass.
    """

    def __init__(self, linear: nn.Linear, activation: str = "none"):
        super().__init__()
        self.activation = activation
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight, scale = quantise(linear.weight.detach())
        self.weight: Tensor
        self.scale: Tensor
        self.bias: Tensor | None
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale.view(1, -1))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs) of the same dtype."""
        rows = x.reshape(-1, x.shape[-1])
        if kernels.use("float8", x):
            from m2f_ros.kernels import float8

            values, scale = float8.quantise(rows, self.activation)
        else:
            values, scale = quantise(rows, self.activation)
        return multiply(values, scale, self.weight, self.scale, self.bias, x.dtype).view(*x.shape[:-1], -1)


def quantise(x: Tensor, activation: str = "none") -> tuple[Tensor, Tensor]:
    """Quantise rows; see `m2f_ros.kernels.float8.quantise`."""
    x = x.float()
    if activation == "relu":
        x = F.relu(x)
    elif activation == "gelu":
        x = F.gelu(x)
    largest = x.abs().amax(1, keepdim=True).clamp(min=1e-30)
    return (x * (_LARGEST / largest)).to(torch.float8_e4m3fn), largest * (1 / _LARGEST)


def multiply(
    x: Tensor, x_scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Return (x * x_scale) @ (weight * weight_scale.T).T + bias: (M, K) and (N, K) float8 -> (M, N) of `dtype`.

    Args:
        x_scale: (M, 1) float32.
        weight_scale: (1, N) float32.
        bias: (N,) of `dtype`, or None.
    """
    if x.is_cuda:
        return torch._scaled_mm(x, weight.t(), x_scale, weight_scale, bias, out_dtype=dtype)
    # The products of two float8 numbers are exact in float32.
    out = (x.float() @ weight.float().t()) * x_scale * weight_scale
    return (out if bias is None else out + bias.float()).to(dtype)


def convert(layers: list[tuple[nn.Module, str, str]]) -> int:
    """Convert linear layers in place; return their number.

    Args:
        layers: (module, name of its layer, name of the layer that alone takes the first one's output, or ""). The
            second layer is converted, too, and computes the first one's activation with its quantisation. Layers whose
            sides are no multiples of MULTIPLE stay as they are.
    """
    count = 0
    for module, name, after in layers:
        first = getattr(module, name)
        pair = [first, *([getattr(module, after)] if after else [])]
        activated = first.activation != "none" and not after
        if activated or not all(isinstance(x, Linear) and _fits(x) for x in pair):
            continue
        setattr(module, name, Float8Linear(first))
        if after:
            setattr(module, after, Float8Linear(pair[1], first.activation))
        count += len(pair)
    return count


def _fits(linear: nn.Linear) -> bool:
    return linear.in_features % MULTIPLE == 0 and linear.out_features % MULTIPLE == 0
