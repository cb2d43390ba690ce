"""Eight-bit products: where a network multiplies by its weights, and the rounding to eight bits there.

The rounding is written into the network's operations as torch's fake quantisation. torch.export, TorchScript and ONNX
record it with the operations, at any size, and a runtime computes such products with integers.
(Jacob et al. 2018, https://arxiv.org/abs/1712.05877)
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from m2f_ros.model import layers

ACTIVATION_STEPS = 255  # an activation is one of 256 numbers
# Weights are symmetric, in 7 of the 8 bits: -63..63. Processors without VNNI add two products of an activation and a
# weight in 16 bits, and 2 * 255 * 63 is the most that fits. So results are the same on all processors.
WEIGHT_STEPS = 63
LARGEST = 127  # of int8: runtimes recognise the bounds -128..127
_META = torch.library.Library("aten", "IMPL", "Meta")


def _shapes(x: Tensor, *args: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(x, dtype=torch.bool)


# torch.export asks for the shapes of the results where the number of images is open; torch (2.13) does not have them.
for _name in ("fake_quantize_per_tensor_affine_cachemask", "fake_quantize_per_channel_affine_cachemask"):
    if not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{_name}", "Meta"):
        _META.impl(_name, _shapes)


class Layout(NamedTuple):
    """Where a function of torch has its operands.

    Attributes:
        input: index of the activation among the arguments.
        weight: index of the weight.
        bias: index of what is added, which broadcasts to the result.
        axis: axis of the weight that becomes the channels of the result.
        channels: axis of the result's channels.
    """

    input: int
    weight: int
    bias: int
    axis: int
    channels: int


LAYOUTS = {
    "conv2d": Layout(0, 1, 2, 0, 1),
    "linear": Layout(0, 1, 2, 0, -1),
    "baddbmm": Layout(1, 2, 0, 2, -1),
}


@dataclass(frozen=True)
class Quantisation:
    """The products of a network in eight bits, by their names; see `Products`. The same for all sizes of images.

    Attributes:
        ranges: product -> lowest and highest value of its input; what is beyond is cut off.
        scales: product -> (channels,) float32, step of each channel's weights.
        corrections: product -> (channels,) float32, to add to the result; it undoes the mean error of the rounding.
    """

    ranges: dict[str, tuple[float, float]]
    scales: dict[str, Tensor]
    corrections: dict[str, Tensor] = field(default_factory=dict)

    def only(self, names: Collection[str]) -> Quantisation:
        """Return the part for these products; the others stay in floating point."""
        return Quantisation(
            {name: value for name, value in self.ranges.items() if name in names},
            {name: value for name, value in self.scales.items() if name in names},
            {name: value for name, value in self.corrections.items() if name in names},
        )


class Product(NamedTuple):
    """A call of a function of torch that multiplies by a second operand.

    Attributes:
        name: path of the module that calls, the function, and the number of the call there:
            "pixel_decoder.layers.0.fc1:linear.0".
        layout: places of the operands.
        function: the function.
        args, kwargs: its arguments.
        unpadded: the input before its padding with zeros; None without one.
        pads: argument `pad` of that padding.
    """

    name: str
    layout: Layout
    function: Callable[..., Tensor]
    args: tuple
    kwargs: dict[str, Any]
    unpadded: Tensor | None = None
    pads: tuple[int, ...] = ()

    def __call__(self) -> Tensor:
        return self.function(*self.args, **self.kwargs)

    @property
    def input(self) -> Tensor:
        return self.args[self.layout.input]

    @property
    def weight(self) -> Tensor:
        return self.args[self.layout.weight]

    def weight_scale(self) -> Tensor:
        """Return the step of each channel's weights: (channels,) float32."""
        axes = [axis for axis in range(self.weight.dim()) if axis != self.layout.axis]
        return (self.weight.detach().float().abs().amax(axes) / WEIGHT_STEPS).clamp(min=1e-12)

    def in_eight_bits(self, lowest: float, highest: float, scale: Tensor, correction: Tensor | None = None) -> Tensor:
        """Compute the product with its operands rounded; see Quantisation."""
        args, layout = list(self.args), self.layout
        if self.unpadded is None:
            args[layout.input] = rounded(self.input, lowest, highest)
        else:  # Zeros stay zeros; and a runtime can make the padding a part of the convolution.
            args[layout.input] = nn.functional.pad(rounded(self.unpadded, lowest, highest), self.pads)
        weight, axis = self.weight, layout.axis
        if batched := self.function is torch.baddbmm:  # with the same weights for each image
            # ONNX Runtime has no product in eight bits whose weights have three axes and a step for each channel.
            weight, axis = weight[0], axis - 1
        zero = torch.zeros(len(scale), dtype=torch.int32, device=scale.device)
        args[layout.weight] = torch.fake_quantize_per_channel_affine(weight, scale, zero, axis, -LARGEST - 1, LARGEST)
        if correction is not None:
            args += [None] * (layout.bias + 1 - len(args))
            bias = args[layout.bias]
            args[layout.bias] = correction if bias is None else bias + correction
        if batched:
            return args[layout.input] @ args[layout.weight] + args[layout.bias]
        return self.function(*args, **self.kwargs)


def rounded(x: Tensor, lowest: float, highest: float) -> Tensor:
    """Round to 256 numbers from `lowest` to `highest`, among them 0. Both bounds are moved to include 0."""
    lowest, highest = min(lowest, 0.0), max(highest, 0.0)
    scale = max((highest - lowest) / ACTIVATION_STEPS, 1e-12)
    return torch.fake_quantize_per_tensor_affine(x, scale, round(-lowest / scale), 0, ACTIVATION_STEPS)


class Products(TorchFunctionMode):
    """A context in which a network's products are computed by `compute`, in this thread alone.

    Names are the same for images of all sizes.

    Args:
        network: the network that is called in the context.
        compute: computes a product; `Product.__call__` does it as it is.
    """

    def __init__(self, network: nn.Module, compute: Callable[[Product], Tensor]):
        super().__init__()
        self._network, self._compute = network, compute

    def __enter__(self) -> Products:
        self._thread, self._path = threading.get_ident(), [""]
        self._counts: Counter[str] = Counter()
        self._padded: tuple[Tensor, Tensor, tuple[int, ...]] | None = None  # result, input and amount of the last one
        self._exits = contextlib.ExitStack()
        self._exits.enter_context(layers.plain_operators())
        for name, module in self._network.named_modules():
            # Kept in a list: TorchScript's trace forbids attributes of modules.
            self._exits.callback(module.register_forward_pre_hook(self._entering(name)).remove)
            self._exits.callback(module.register_forward_hook(self._leaving, always_call=True).remove)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._padded = None
        self._exits.close()

    def _entering(self, name: str) -> Callable[[nn.Module, tuple], None]:
        def enter(module: nn.Module, args: tuple) -> None:
            if threading.get_ident() == self._thread:
                if not name:
                    self._counts.clear()
                self._path.append(name)

        return enter

    def _leaving(self, module: nn.Module, args: tuple, result: object) -> None:
        if threading.get_ident() == self._thread:
            self._path.pop()

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        kind = getattr(func, "__name__", "")
        if kind == "pad":
            result = func(*args, **kwargs)
            if len(args) == 2 and kwargs.get("mode", "constant") == "constant" and not kwargs.get("value"):
                self._padded = result, args[0], tuple(args[1])
            return result
        layout = LAYOUTS.get(kind)
        if layout is None or len(args) <= layout.weight:
            return func(*args, **kwargs)
        place = f"{self._path[-1]}:{kind}"
        self._counts[place] += 1
        product = Product(f"{place}.{self._counts[place] - 1}", layout, func, args, kwargs)
        if self._padded is not None and product.input is self._padded[0]:
            product = product._replace(unpadded=self._padded[1], pads=self._padded[2])
        self._padded = None
        return self._compute(product)


def quantised(network: nn.Module, quantisation: Quantisation | None) -> contextlib.AbstractContextManager[object]:
    """Return a context in which the network's products are rounded to eight bits; without a Quantisation nothing is."""
    if quantisation is None:
        return contextlib.nullcontext()
    ranges, scales, corrections = quantisation.ranges, quantisation.scales, quantisation.corrections

    def compute(product: Product) -> Tensor:
        if product.name not in ranges:
            return product()
        name = product.name
        return product.in_eight_bits(*ranges[name], scales[name], corrections.get(name))

    return Products(network, compute)
