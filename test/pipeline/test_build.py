"""The precision that "auto" takes, by the processor and the model."""

import json
import shutil

import pytest
import torch

from m2f_ros.model import load
from m2f_ros.model.quantised import Products, Quantisation
from m2f_ros.model.quantised_files import FILE, FOLDER, save_quantised
from m2f_ros.pipeline.build import PipelineSettings, build_pipeline


@pytest.fixture(scope="module")
def model(small_model, tmp_path_factory):
    """A checkpoint with a quantised form in it."""
    folder = tmp_path_factory.mktemp("model") / "small"
    shutil.copytree(small_model, folder)
    network, found = load(folder), []
    with torch.inference_mode(), Products(network, lambda product: found.append(product) or product()):
        network(network.example(64, 96))
    chosen = [product for product in found if product.name.startswith("backbone")]
    ranges = {product.name: (-1.0, 1.0) for product in chosen}
    network.quantisation = Quantisation(ranges, {product.name: product.weight_scale() for product in chosen})
    save_quantised(network, folder / FOLDER, (), {"scores": []})
    return folder


def set_losses(model, losses):
    path = model / FOLDER / FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scores": [{"loss": loss} for loss in losses]}))


def stand_in(monkeypatch, vnni: bool, bf16: bool):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx_vnni": vnni})
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)


@pytest.mark.parametrize(
    ("vnni", "bf16", "losses", "expected"),
    [
        (True, False, [0.005, -0.01], "int8"),
        (True, False, [0.001, 0.0051], "fp32"),  # more than a little on one of the drives
        (True, False, [], "fp32"),  # never scored
        (False, False, [0.0], "fp32"),
        (True, True, [0.0], "bf16"),
    ],
)
def test_eight_bits_unasked(vnni, bf16, losses, expected, model, monkeypatch):
    pytest.importorskip("openvino", reason="openvino is not installed")
    stand_in(monkeypatch, vnni, bf16)
    set_losses(model, losses)
    taken = []
    monkeypatch.setattr(
        "m2f_ros.pipeline.build.Pipeline",
        lambda network, taxonomy, **settings: taken.append((settings["precision"], network.quantisation is not None)),
    )
    build_pipeline(PipelineSettings(str(model), device="cpu", precision="auto"))
    assert taken == [(expected, expected == "int8")]


def test_a_model_without_eight_bits(small_model, monkeypatch):
    pytest.importorskip("openvino", reason="openvino is not installed")
    stand_in(monkeypatch, vnni=True, bf16=False)
    pipeline = build_pipeline(PipelineSettings(str(small_model), device="cpu", precision="auto"))
    assert pipeline.precision == "fp32"
    pipeline.close()
