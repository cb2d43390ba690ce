"""Products in eight bits: their names, the rounding, and checkpoints of it."""

from __future__ import annotations

import json
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from m2f_ros.errors import CheckpointError
from m2f_ros.model import ModelConfig, SwinConfig, build, has_eight_bits, load, save
from m2f_ros.model.checkpoint import load_for_training
from m2f_ros.model.quantised import LARGEST, LAYOUTS, WEIGHT_STEPS, Product, Products, Quantisation, quantised, rounded
from m2f_ros.model.quantised_files import FILE, FOLDER, in_eight_bits, save_quantised, sums

SMALL = dict(hidden_dim=32, heads=4, encoder_layers=2, encoder_ffn=32, decoder_layers=4, decoder_ffn=32, num_queries=5)
BACKBONES = {
    "swin": SwinConfig(embed_dim=16, depths=(1, 2, 1, 1), num_heads=(1, 1, 2, 2), window_size=3),
    "efficientnet": "efficientnet_lite0",
}


@pytest.fixture(scope="module", params=BACKBONES.values(), ids=BACKBONES)
def model(request):
    torch.manual_seed(0)
    model = build(ModelConfig(request.param, ("road", "car", "sky"), **SMALL)).eval()
    model.fold_norms()
    return model.requires_grad_(False)


def products(model, size) -> list[Product]:
    found: list[Product] = []

    def note(product):
        found.append(product)
        return product()

    plan = model.plan(*size)
    with torch.inference_mode(), Products(model, note):
        model(torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1)), plan)
    return found


def quantisation_of(model, size=(64, 64)) -> Quantisation:
    found = [p for p in products(model, size) if not model.keeps_float(p.name) and p.name.count("baddbmm") == 0]
    return Quantisation(
        {p.name: (min(0, p.input.min().item()), max(1e-3, p.input.max().item())) for p in found},
        {p.name: p.weight_scale() for p in found},
        {p.name: torch.full((p.weight.shape[0],), 1e-3) for p in found},
    )


def test_names_are_the_same_at_all_sizes(model) -> None:
    names = [product.name for product in products(model, (64, 96))]
    assert len(set(names)) == len(names)
    assert [product.name for product in products(model, (96, 160))] == names


def test_coordinates_and_results_stay_in_floating_point(model) -> None:
    kept = {product.name: product.weight for product in products(model, (64, 64)) if model.keeps_float(product.name)}
    points = 4 * 3 * 4  # heads, levels, points
    coordinates = [name for name, weight in kept.items() if weight.shape[-1] == 2 * points]
    assert len(coordinates) == 2  # of the encoder's layers
    classes = [name for name, weight in kept.items() if len(weight) == 4]
    assert classes == ["decoder.class_predictor:linear.0"]
    # The learned queries and each layer have two layers of the embedding, the fused third one, and the offset.
    assert len(kept) == 2 + 1 + 4 * 5
    # The values of each level are the first of the decoder's own.
    assert "decoder:linear.2" not in kept and "decoder:linear.3" in kept


@given(st.floats(-100, 0), st.floats(0.01, 100), st.lists(st.floats(-200, 200, width=32), min_size=1))
def test_rounding_is_to_the_nearest_of_256_numbers(low, high, values) -> None:
    x = torch.tensor([0.0, *values])
    step = max((high - low) / 255, 1e-12)
    found = rounded(x, low, high)
    assert found[0] == 0
    inside = (x >= low) & (x <= high)
    assert ((found - x).abs()[inside] <= 1.01 * step + 1e-6).all()  # half a step, and as much for the place of 0
    assert found.min() >= low - step and found.max() <= high + step
    assert torch.equal(rounded(found, low, high), found)


def test_padding_is_outside_the_rounding() -> None:
    """Where the rounded numbers would not hold 0 exactly, the border would change."""
    layer = nn.Conv2d(3, 4, 3)

    class Padded(nn.Module):
        def forward(self, x):
            return layer(F.pad(x, (0, 1, 2, 1)))

    x = torch.rand(1, 3, 5, 6) + 1
    found = []

    def note(product):
        found.append(product)
        return product.in_eight_bits(0.0, 2.0, product.weight_scale())

    with torch.inference_mode(), Products(Padded(), note):
        result = Padded()(x)
        assert found[0].unpadded is x and found[0].pads == (0, 1, 2, 1)
    weight, step = in_eight_bits(layer.weight.detach(), WEIGHT_STEPS)
    exact = F.conv2d(F.pad(rounded(x, 0.0, 2.0), (0, 1, 2, 1)), weight * step.view(-1, 1, 1, 1), layer.bias)
    torch.testing.assert_close(result, exact)


def test_only_this_thread_and_only_inside(model) -> None:
    before = quantisation_of(model)
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        exact = model(pixels)[:2]
        elsewhere: list = []
        with quantised(model, before):
            inside = model(pixels)[:2]
            thread = threading.Thread(target=lambda: elsewhere.extend(model(pixels.clone())[:2]))
            thread.start()
            thread.join()
            again = model(pixels)[:2]
        after = model(pixels)[:2]
    for x, y, z, a, b in zip(exact, inside, again, after, elsewhere, strict=True):
        assert not torch.equal(x, y)
        assert torch.equal(y, z) and torch.equal(x, a)
        torch.testing.assert_close(x, b, rtol=1e-4, atol=1e-4)


def test_saved_and_loaded(model, tmp_path) -> None:
    save_quantised(model_with(model), tmp_path / FOLDER, (), {"model": "small"})
    folded = load(tmp_path / FOLDER)
    assert folded.quantisation is not None and not folded.training
    original = model.quantisation
    assert folded.quantisation.ranges == original.ranges
    for name, scale in original.scales.items():
        assert torch.equal(folded.quantisation.scales[name], scale)
        assert torch.equal(folded.quantisation.corrections[name], original.corrections[name].half().float())
    places = {name.partition(":")[0] for name in original.ranges}
    for (name, x), y in zip(model.state_dict().items(), folded.state_dict().values(), strict=True):
        if x.is_floating_point():
            steps = WEIGHT_STEPS if name.removesuffix(".weight") in places else LARGEST
            step = x.flatten(1).abs().amax(1) / steps if x.dim() > 1 else torch.zeros(1)
            assert (
                (x - y).flatten(1 if x.dim() > 1 else 0).abs()
                <= torch.maximum(0.51 * step.view(-1, *[1] * (x.dim() > 1)), x.abs().max() * 2**-11)
            ).all(), name
    # Weights are on the grid that the products round to: rounding them once more changes nothing.
    pixels = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode(), quantised(folded, folded.quantisation):
        found = {p.name: p for p in products(folded, (64, 96))}
    for name, scale in original.scales.items():
        torch.testing.assert_close(found[name].weight_scale(), scale, rtol=1e-6, atol=0)
    assert pixels.isfinite().all()


def model_with(model):
    model.quantisation = quantisation_of(model)
    return model


def test_a_checkpoint_and_its_quantised_form(model, tmp_path) -> None:
    torch.manual_seed(0)
    save(build(model.config), tmp_path)
    assert not has_eight_bits(tmp_path)
    with pytest.raises(CheckpointError, match="has no weights in eight bits: make them by m2f quantize"):
        load(tmp_path, eight_bits=True)
    save_quantised(model_with(model), tmp_path / FOLDER, (), {})
    assert has_eight_bits(tmp_path) and has_eight_bits(tmp_path / FOLDER)
    assert load(tmp_path, eight_bits=True).quantisation is not None
    assert load(tmp_path).quantisation is None
    with pytest.raises(CheckpointError, match="is in eight bits; train the checkpoint that it was made from"):
        load_for_training(tmp_path / FOLDER)
    size = (tmp_path / FOLDER / "model.safetensors").stat().st_size
    assert size < (tmp_path / "model.safetensors").stat().st_size / 2


def test_a_form_of_other_weights(model, tmp_path) -> None:
    torch.manual_seed(0)
    original = build(model.config)
    save(original, tmp_path)
    save_quantised(model_with(model), tmp_path / FOLDER, (), {"weights": sums(tmp_path)})
    assert load(tmp_path, eight_bits=True).quantisation is not None
    save(original.half(), tmp_path)
    with pytest.raises(CheckpointError, match=r"was made from other weights than those in .*: quantise the model anew"):
        load(tmp_path, eight_bits=True)
    assert load(tmp_path).quantisation is None and load(tmp_path / FOLDER).quantisation is not None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "has version 2, not 1; quantise the model anew"),
        ({"version": None}, "has version None"),
        ({"ranges": {}}, "ranges must map"),
        ({"ranges": {"x": [1.0, 2.0]}}, "ranges must map"),
        ({"ranges": {"x": [0.0, float("inf")]}}, "it holds Infinity"),
        ({"ranges": {"x": [0.0, "1"]}}, "ranges must map"),
        ({"ranges": {"another:linear.0": [0.0, 1.0]}}, "are of different models"),
    ],
)
def test_a_damaged_description(change, words, model, tmp_path) -> None:
    save_quantised(model_with(model), tmp_path, (), {})
    content = json.loads((tmp_path / FILE).read_text()) | change
    (tmp_path / FILE).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=words):
        load(tmp_path)


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        (":scale", lambda x: -x, "a step of the weights is not above 0"),
        (":scale", lambda x: x * float("nan"), "are damaged"),
        (":scale", lambda x: x.double(), "are damaged"),
        (":scale", None, "are of different models"),
        (":correction", lambda x: x[:, None], "are damaged"),
        (":step", lambda x: x[1:], "is not in eight bits as"),
        (":step", None, "quantised weights are not supported"),
    ],
)
def test_damaged_tensors(part, change, words, model, tmp_path) -> None:
    save_quantised(model_with(model), tmp_path, (), {})
    state = load_file(tmp_path / "model.safetensors")
    key = next(key for key in state if key.endswith(part))
    value = state.pop(key)
    if change:
        state[key] = change(value).contiguous()
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=words):
        load(tmp_path)


def test_sums_fit_into_sixteen_bits() -> None:
    """Processors without VNNI add two products of an activation and a weight in 16 bits."""
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight[:, :2] = 7.0
    products = []
    with torch.inference_mode(), Products(layer, lambda product: products.append(product) or product()):
        layer(torch.ones(1, 4))
    steps = (layer.weight / products[0].weight_scale()[:, None]).round()
    assert steps[:, :2].sum(1).max() * 255 < 2**15


def test_a_batched_product_is_one_of_shared_weights() -> None:
    """ONNX Runtime refuses weights of three axes with a step for each channel."""
    generator = torch.Generator().manual_seed(0)
    x, weight, term = (torch.randn(*shape, generator=generator) for shape in ((2, 5, 4), (3, 4), (5, 3)))
    product = Product("x", LAYOUTS["baddbmm"], torch.baddbmm, (term, x, weight.t().expand(2, -1, -1)), {})
    scale, correction = product.weight_scale(), torch.tensor([0.0, 1.0, 2.0])
    assert scale.tolist() == (weight.abs().amax(1) / WEIGHT_STEPS).tolist()
    on_grid = (weight / scale[:, None]).round() * scale[:, None]
    wanted = torch.baddbmm(term + correction, rounded(x, -2.0, 2.0), on_grid.t().expand(2, -1, -1))
    torch.testing.assert_close(product.in_eight_bits(-2.0, 2.0, scale, correction), wanted)
