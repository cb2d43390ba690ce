"""Calibration: the ranges of a network's products on frames, and what corrects the mean error of their rounding."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from m2f_ros.model import Network
from m2f_ros.model.quantised import Product, Products, Quantisation, rounded

# A product with less of the network's multiplications stays in floating point: it gains nothing.
LEAST_SHARE = 5e-4
# Parts of the values that a range may leave out; the one with the least squared error is taken.
_TAILS = (0.0, 1e-5, 1e-4, 5e-4, 1e-3)
_SAMPLES = 20_000  # values of a product's input for each frame
_MOST_SAMPLES = 1 << 18


class Calibration(NamedTuple):
    """Result of a calibration.

    Attributes:
        quantisation: all products that may be in eight bits.
        work: multiplications of every product with weights, by its name, for one of the frames.
    """

    quantisation: Quantisation
    work: dict[str, int]

    def share(self, names: Collection[str]) -> float:
        """Return the share of these products in the multiplications of all products with weights, 0..1."""
        return sum(self.work[name] for name in names) / sum(self.work.values())


@torch.inference_mode()
def calibrate(
    model: Network, images: Sequence[Tensor], say: Callable[[str], object] = lambda line: None
) -> Calibration:
    """Find the ranges of the products on these images, then the corrections.

    Args:
        model: in eval mode, on a CPU, in float32, with folded norms.
        images: normalised images (1, 3, H, W), one or more, of any sizes.
        say: function that takes a line about each step.
    """
    values: dict[str, list[Tensor]] = defaultdict(list)
    bounds: dict[str, tuple[float, float]] = {}
    scales: dict[str, Tensor] = {}
    work: dict[str, int] = {}
    constants: set[int] = set()

    def observe(product: Product) -> Tensor:
        result = product()
        places = [x.untyped_storage().data_ptr() for x in (product.weight, product.input)]
        if places[0] in constants and places[1] not in constants:  # runtimes compute a product of constants once
            name, found = product.name, product.input.flatten()
            (low, high), (lowest, highest) = bounds.get(name, (0.0, 0.0)), found.aminmax()
            bounds[name] = min(low, lowest.item()), max(high, highest.item())
            values[name].append(found[:: max(1, found.numel() // _SAMPLES)].clone())
            if name not in scales:
                scales[name] = product.weight_scale()
            work[name] = result.numel() // len(result) * (product.weight.numel() // len(scales[name]))
        return result

    say(f"ranges of {len(images)} frames")
    plans: dict[tuple[int, ...], Any] = {}
    for pixels in images:
        size = tuple(pixels.shape[-2:])
        if size not in plans:
            plans[size] = model.plan(*size)
        plan = plans[size]
        tensors = [*model.parameters(), *model.buffers(), *(x for x in tree_leaves(plan) if isinstance(x, Tensor))]
        constants = {x.untyped_storage().data_ptr() for x in tensors}
        with Products(model, observe):
            model(pixels, plan)
    total = sum(work.values())
    names = {name for name in work if work[name] / total >= LEAST_SHARE and not model.keeps_float(name)}
    names = {name for name in names if bounds[name][0] < bounds[name][1]}  # an input of zeros says nothing
    ranges = {name: _best_range(torch.cat(values[name]), *bounds[name]) for name in work if name in names}
    quantisation = Quantisation(ranges, {name: scales[name] for name in ranges})
    say("mean errors")
    return Calibration(_corrected(model, images, plans, quantisation), work)


def _best_range(values: Tensor, lowest: float, highest: float) -> tuple[float, float]:
    """Return the range, from all values down to the last of _TAILS, that rounds with the least squared error."""
    values = values[:: -(-len(values) // _MOST_SAMPLES)].sort().values
    found = []
    for tail in _TAILS:
        low, high = lowest, highest
        if tail:
            cut = round(tail * (len(values) - 1))
            low, high = min(values[cut].item(), 0.0), max(values[-1 - cut].item(), 0.0)
        if low < high:
            found.append(((rounded(values, low, high) - values).square().mean().item(), (low, high)))
    return min(found)[1]


def _corrected(
    model: Network, images: Sequence[Tensor], plans: Mapping[tuple[int, ...], Any], quantisation: Quantisation
) -> Quantisation:
    """Return the quantisation with the mean error of each channel of each product, on inputs without rounding errors.

    plans: of each size of the images.

    (Nagel et al. 2019, Data-Free Quantization, section 4.2, https://arxiv.org/abs/1906.04721)
    """
    errors: dict[str, list[Tensor]] = defaultdict(list)

    def compare(product: Product) -> Tensor:
        result, name = product(), product.name
        if name in quantisation.ranges:
            error = result - product.in_eight_bits(*quantisation.ranges[name], quantisation.scales[name])
            channels = product.layout.channels % error.dim()
            errors[name].append(error.mean([axis for axis in range(error.dim()) if axis != channels]))
        return result

    for pixels in images:
        with Products(model, compare):
            model(pixels, plans[tuple(pixels.shape[-2:])])
    corrections = {name: torch.stack(found).mean(0) for name, found in errors.items()}
    return Quantisation(quantisation.ranges, quantisation.scales, corrections)
