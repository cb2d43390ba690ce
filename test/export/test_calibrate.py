"""Ranges of products and corrections of their mean errors."""

from __future__ import annotations

import pytest
import torch

from m2f_ros.export.calibrate import LEAST_SHARE, calibrate
from m2f_ros.model import load
from m2f_ros.model.quantised import Products


@pytest.fixture(scope="module")
def model(small_model):
    return load(small_model)


def images(count: int = 2, size: tuple[int, int] = (64, 96)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 3, *size, generator=generator) for _ in range(count)]


def test_products_that_are_worth_it(model) -> None:
    found = calibrate(model, images())
    total = sum(found.work.values())
    for name, work in found.work.items():
        assert (name in found.quantisation.ranges) == (work >= LEAST_SHARE * total and not model.keeps_float(name))
    # Products of two activations have no weights.
    masks = {"decoder:baddbmm.3", "decoder:baddbmm.4"}
    assert masks.isdisjoint(found.work)
    assert found.share(found.work.keys()) == 1
    # Multiplications of a known layer: tokens, inputs, outputs.
    layer = model.pixel_decoder.layers[0].fc1
    tokens = sum(64 * 96 // stride**2 for stride in (8, 16, 32))
    assert found.work["pixel_decoder.layers.0.fc1:linear.0"] == tokens * layer.in_features * layer.out_features


def test_ranges_and_corrections(model) -> None:
    frames = images()
    found = calibrate(model, frames).quantisation
    errors: dict[str, list[torch.Tensor]] = {}

    def compare(product):
        result = product()
        if product.name in found.ranges:
            low, high = found.ranges[product.name]
            assert product.input.min() >= low or product.input.max() <= high or low < 0 < high
            assert ((product.input < low) | (product.input > high)).float().mean() < 0.01
            rounded = product.in_eight_bits(low, high, found.scales[product.name], found.corrections[product.name])
            channels = product.layout.channels % result.dim()
            error = (result - rounded).mean([axis for axis in range(result.dim()) if axis != channels])
            errors.setdefault(product.name, []).append(error)
        return result

    for pixels in frames:
        with torch.inference_mode(), Products(model, compare):
            model(pixels)
    assert errors.keys() == found.ranges.keys()
    for name, parts in errors.items():
        assert torch.stack(parts).mean(0).abs().max() < 1e-4, name
