"""Every rewrite of the network gives what its plain form gives."""

import pytest
import torch

from m2f_ros.benchmark import plain
from m2f_ros.benchmark.ablation import without_everything
from m2f_ros.model import heads, load, onednn

NETWORK = [
    plain.plan_each_time,
    plain.biases_each_time,
    plain.rolled_windows,
    plain.query_key_value_apart,
    plain.deformable_projections_apart,
    plain.grid_samples,
    plain.memory_of_each_layer,
    plain.masks_at_full_size,
    plain.mask_features_projected,
]


@pytest.fixture(scope="module")
def model(small_model):
    return load(small_model, dtype=torch.float64)


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(2, 3, 96, 160, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def outputs(model, pixels):
    return model(pixels, model.plan(*pixels.shape[-2:]))[:2]


@pytest.mark.parametrize("form", NETWORK, ids=lambda form: form.__name__)
def test_the_plain_form_gives_the_same(model, pixels, form) -> None:
    wanted = outputs(model, pixels)
    with form(model):
        found = outputs(model, pixels)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert all(torch.equal(a, b) for a, b in zip(outputs(model, pixels), wanted, strict=True))


@pytest.mark.parametrize("form", NETWORK, ids=lambda form: form.__name__)
@torch.inference_mode()
def test_the_plain_form_is_what_runs(model, pixels, form) -> None:
    def operations() -> list[str]:
        plan = model.plan(*pixels.shape[-2:])
        with torch.profiler.profile() as profile:
            model(pixels, plan)
        return sorted(event.name for event in profile.events() if event.name.startswith("aten::"))

    usual = operations()
    with form(model):
        assert operations() != usual


@pytest.mark.parametrize("form", NETWORK, ids=lambda form: form.__name__)
def test_the_plain_form_in_half_precision(small_model, pixels, form) -> None:
    model = load(small_model, dtype=torch.bfloat16)
    with form(model):
        found = outputs(model, pixels.bfloat16())
    assert all(x.dtype == torch.bfloat16 and x.isfinite().all() for x in found)


def test_all_of_them_together(model, pixels) -> None:
    wanted = outputs(model, pixels)
    with without_everything(model):
        found = outputs(model, pixels)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_plain_products(small_model, pixels) -> None:
    model, pixels = load(small_model), pixels.float()
    wanted = outputs(model, pixels)
    with plain.plain_products(model):
        assert not onednn.usable(pixels, pixels)
        for a, b in zip(outputs(model, pixels), wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_scores_of_every_pixel(model, pixels) -> None:
    logits = outputs(model, pixels)
    wanted, _ = heads.semantic(*logits, (96, 160), (100, 150))
    with plain.scores_of_every_pixel(model):
        found, _ = heads.semantic(*logits, (96, 160), (100, 150))
    assert wanted.unique().numel() > 1
    assert torch.equal(found, wanted)
