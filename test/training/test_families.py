"""Training of transformers' networks that classify pixels."""

import re
import sys
from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("transformers", reason="transformers is not installed")
sys.path.insert(0, str(Path(__file__).parents[1] / "model"))
import adapted

from m2f_ros.errors import ConfigError, TrainingError
from m2f_ros.model import load
from m2f_ros.training import loop
from m2f_ros.training.config import NetworkConfig, load_config
from m2f_ros.training.network import build_network, freeze

PIXELS = [name for name in adapted.SHAPES if name.split(",")[0] in ("segformer", "upernet", "beit", "dpt")]
# Layers that results do not depend on.
UNUSED = re.compile(r"swin\.layernorm|beit\.layers\.3|dpt\.layernorm|layers\.0\.residual_layer1|mobilenet_v2\.conv_1x1")
PIXELS += ["mobilenet_v2", "mobilevit"]
SEGFORMER = {"model_type": "segformer", **adapted.SHAPES["segformer"]}


@pytest.fixture
def start(settings, config_file, tmp_path):
    """start(model, **changes) -> a run of one of `settings` with this part of it."""

    def start(model: dict, **changes) -> loop.Run:
        changed = {**settings, "model": model, "loss": {"pixel": {"cross_entropy": 1.0}}, **changes}
        config_file.write_text(yaml.safe_dump(changed))
        return loop.Run(load_config(config_file), tmp_path / "out", torch.device("cpu"))

    return start


def test_a_run_ends_with_a_checkpoint_that_has_learned(start, config_file, tmp_path):
    start({"network": SEGFORMER}, schedule={"steps": 12, "batch": 2, "warm_up": 1, "rate": 1e-2, "average": 0.5})
    assert loop.train(load_config(config_file), tmp_path / "run", device="cpu", progress=False)
    losses = [line["loss"] for line in map(yaml.safe_load, (tmp_path / "run/log.jsonl").open()) if "loss" in line]
    assert len(losses) == 12 and losses[-1] < 0.8 * losses[0]
    trained = load(tmp_path / "run/model")
    assert trained.config.kind == "segformer" and trained.config.taxonomy.name == "cityscapes"
    assert trained(torch.zeros(1, 3, 64, 64)).logits.shape[1] == 19


@pytest.mark.parametrize(
    "name", [name if name == "mobilevit" else pytest.param(name, marks=pytest.mark.more) for name in PIXELS]
)
def test_other_classes_get_a_new_class_layer_and_all_that_learns_has_a_gradient(name, start, tmp_path, capsys):
    adapted.write(name, tmp_path)
    side = {"beit": 64, "dpt": 64}.get(name.split(",")[0], 64)
    run = start({"weights": str(tmp_path)}, augment={"crop": [side, side]})
    line = capsys.readouterr().out
    assert "has 3 classes, other than the 19 of cityscapes" in line and "start anew" in line
    before = load(tmp_path).state_dict()
    own = run.model.state_dict()
    fresh = {key for key, value in own.items() if key in before and value.shape != before[key].shape}
    assert {id(own[key]) for key in fresh} and all(key.removeprefix("network.") in line for key in fresh)
    model = run.model.train()
    output = model(torch.randn(2, 3, side, side))
    output.logits.square().mean().backward()
    learn = {key for key, value in model.named_parameters() if value.requires_grad and not UNUSED.search(key)}
    assert {key for key, value in model.named_parameters() if value.grad is not None} == learn
    encoder = {id(value) for value in model.encoder().parameters()}
    assert 0 < len(encoder) < len(list(model.parameters()))
    freeze(model, "all_but_class_layer")
    learn = {key for key, value in model.named_parameters() if value.requires_grad}
    assert learn and all(own[key].shape[0] == 19 for key in learn)


def test_an_encoder_is_taken_from_a_classifier(tmp_path, capsys):
    import transformers

    torch.manual_seed(1)
    shape = transformers.SegformerConfig(**adapted.SHAPES["segformer"], num_labels=5)
    classifier = transformers.SegformerForImageClassification(shape)
    classifier.save_pretrained(tmp_path)
    model = build_network(NetworkConfig(network=SEGFORMER, weights=str(tmp_path)), "cityscapes")
    theirs = classifier.segformer.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in model.encoder().state_dict().items())
    assert (
        f"{tmp_path}: {len(theirs)} of the {len(theirs)} tensors of the encoder are taken\n" in capsys.readouterr().out
    )
    with pytest.raises(
        TrainingError, match=r"has 0 of the \d+ tensors of the encoder of MobileViT .*: it is of another network"
    ):
        other = {"model_type": "mobilevit", **adapted.SHAPES["mobilevit"]}
        build_network(NetworkConfig(network=other, weights=str(tmp_path)), "cityscapes")


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ({"network": SEGFORMER}, {"loss": {}}, r"SegFormer.* classifies pixels: loss.pixel must name a loss"),
        ({"network": {"model_type": "rf_detr"}}, {}, "model.network: RF-DETR cannot be trained here"),
        ({"network": {"model_type": "videomt"}}, {}, "model.network: VidEoMT cannot be trained here"),
        ({"network": {"model_type": "gpt2"}}, {}, "model.network: model_type 'gpt2' is unknown; known are segformer"),
        (
            {"network": {**SEGFORMER, "depths": "deep"}},
            {},
            "model.network: a SegFormer: transformers cannot build the network",
        ),
        (
            {"network": {"model_type": "dpt", **adapted.SHAPES["dpt"]}},
            {"augment": {"crop": [96, 64]}},
            "augment.crop: images of 64x96: height and width must be multiples of 64",
        ),
    ],
)
def test_networks_that_cannot_learn_so_are_refused(start, model, changes, message):
    with pytest.raises(TrainingError, match=message):
        start(model, **changes)


def test_a_shape_of_two_kinds_is_refused(start):
    with pytest.raises(
        ConfigError, match=r"model.network has the whole shape; leave out the other keys of it, found .*heads"
    ):
        start({"network": SEGFORMER, "heads": 4})


def test_queries_of_a_network_without_any_are_refused(start, tmp_path):
    adapted.write("segformer", tmp_path)
    with pytest.raises(TrainingError, match=r"it has no queries: leave out model\.num_queries"):
        start({"weights": str(tmp_path), "num_queries": 3})
