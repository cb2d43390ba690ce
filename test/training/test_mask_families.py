"""Training of transformers' networks with queries."""

import re
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("transformers", reason="transformers is not installed")
sys.path.insert(0, str(Path(__file__).parents[1] / "model"))
import adapted

from m2f_ros.errors import TrainingError
from m2f_ros.model import MaskClassification, load
from m2f_ros.model.adapters import mask_training
from m2f_ros.model.adapters.huggingface import ROWS
from m2f_ros.training import loop
from m2f_ros.training.config import NetworkConfig, load_config
from m2f_ros.training.network import build_network, freeze, queries_of

# A network with memory is not trained here; test_families has the refusal.
MASKS = [
    name
    for name in adapted.SHAPES
    if ROWS[name.split(",")[0]].gives is MaskClassification and not ROWS[name.split(",")[0]].video
]
QUICK = [name if name in ("maskformer", "eomt") else pytest.param(name, marks=pytest.mark.more) for name in MASKS]
EOMT = {"model_type": "eomt", **adapted.SHAPES["eomt"]}
# Results do not depend on these: a mask token, a norm that Swin's features bypass, weights of unused outputs.
UNUSED = re.compile(r"mask_token|encoder\.(swin|model)\.layernorm")


@pytest.fixture
def start(settings, config_file, tmp_path):
    """start(model, **changes) -> a run of one of `settings` with this part of it."""

    def start(model: dict, **changes) -> loop.Run:
        config_file.write_text(yaml.safe_dump({**settings, "model": model, **changes}))
        return loop.Run(load_config(config_file), tmp_path / "out", torch.device("cpu"))

    return start


@pytest.mark.parametrize("name", QUICK)
def test_the_last_result_is_that_of_use_and_each_layer_before_has_one(name, tmp_path):
    adapted.write(name, tmp_path)
    model = load(tmp_path)
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = model(pixels)
        if hasattr(model.network, "attn_mask_probs"):  # in training each block predicts
            model.network.attn_mask_probs = torch.ones(2)
            wanted = model(pixels)
        found = mask_training.run(model.network, partial(model._outputs, pixels))
        again = model(pixels)  # nothing of it stays behind
    for one, other, third in zip(wanted, found, again, strict=False):
        assert torch.equal(one, other) and torch.equal(one, third)
    # decoder_layers of Mask2Former and OneFormer count the prediction before the first layer.
    assert len(found.aux) == (1 if name == "maskformer" else 2)
    shapes = [(classes.shape, masks.shape) for classes, masks in found.aux]
    assert set(shapes) == {(wanted.class_logits.shape, wanted.mask_logits.shape)}
    assert queries_of(model) == wanted.class_logits.shape[1]


@pytest.mark.parametrize("name", QUICK)
def test_other_classes_get_a_new_class_layer_and_all_that_learns_has_a_gradient(name, start, tmp_path, capsys):
    adapted.write(name, tmp_path)
    run = start({"weights": str(tmp_path)})
    line = capsys.readouterr().out
    assert re.search(r"has 3 classes, other than the 19 of cityscapes: \S*class\S*, \S*class\S* start anew", line)
    model = run.model.train()
    output = model(torch.randn(2, 3, 64, 64))
    heads = [(output.class_logits, output.mask_logits), *output.aux]
    sum(part.square().mean() for head in heads for part in head).backward()
    learn = {key for key, value in model.named_parameters() if value.requires_grad and not UNUSED.search(key)}
    assert not any("criterion" in key for key in learn)
    assert {key for key, value in model.named_parameters() if value.grad is not None} == learn
    encoder = {id(value) for value in model.encoder().parameters()}
    assert 0 < len(encoder) < len(list(model.parameters()))
    freeze(model, "all_but_class_layer")
    learn = {key: len(value) for key, value in model.named_parameters() if value.requires_grad}
    assert len(learn) == 2 and set(learn.values()) == {20}


@pytest.mark.parametrize("name", QUICK)
def test_a_run_ends_with_a_checkpoint_that_has_learned(name, start, config_file, tmp_path):
    shape = {"model_type": name.split(",")[0], **adapted.SHAPES[name]}
    schedule = {"steps": 16, "batch": 2, "warm_up": 1, "rate": 5e-3, "average": 0.5, "freeze_norms": False}
    start({"network": shape}, schedule=schedule)
    assert loop.train(load_config(config_file), tmp_path / "run", device="cpu", progress=False)
    lines = [line for line in map(yaml.safe_load, (tmp_path / "run/log.jsonl").open()) if "loss" in line]
    losses = [line["loss"] for line in lines]
    assert len(losses) == 16 and sum(losses[-3:]) < 0.9 * sum(losses[:3])
    assert {"class", "mask", "dice"} <= lines[0].keys()
    trained = load(tmp_path / "run/model")
    assert trained.config.kind == shape["model_type"] and trained.config.taxonomy.name == "cityscapes"
    pixels = torch.randn(1, 3, 64, 64)
    assert trained(pixels).class_logits.shape[-1] == 20
    assert torch.equal(trained(pixels).mask_logits, trained(pixels).mask_logits)  # EoMT masks no random queries


def test_a_resumed_run_draws_as_one_without_a_break(start, config_file, tmp_path):
    schedule = {"steps": 6, "batch": 2, "warm_up": 1}
    start({"network": EOMT | {"hidden_dropout_prob": 0.3}}, schedule=schedule)
    config = load_config(config_file)
    loop.train(config, tmp_path / "whole", device="cpu", progress=False)
    run = loop.Run(config, tmp_path / "parts", torch.device("cpu"))
    run.start(resume=False)
    samples = loop.batches(loop.Samples(config), 0)
    for _ in range(3):
        run.advance(next(samples))
    run.save()
    run.close()
    loop.train(config, tmp_path / "parts", resume=True, device="cpu", progress=False)
    whole, parts = (load(tmp_path / name / "model").state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())


def test_masks_of_eomt_are_annealed_block_by_block():
    model = build_network(NetworkConfig(network=EOMT), "cityscapes")
    found = []
    for done in (0.0, 0.25, 0.375, 0.5, 0.625, 0.75, 1.0):
        mask_training.anneal(model.network, done)
        found.append(model.network.attn_mask_probs.tolist())
    half = 0.5**0.9
    for one, other in zip(found, [[1, 1], [1, 1], [half, 1], [0, 1], [0, half], [0, 0], [0, 0]], strict=True):
        assert one == pytest.approx(other)
    mask_training.anneal(model.network, 0.0)  # a checkpoint without masks learns without
    assert not model.network.attn_mask_probs.any()


@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        ("maskformer", "ResNet"),
        pytest.param("maskformer", "Swin", marks=pytest.mark.more),
        pytest.param("mask2former, convnext", "ConvNext", marks=pytest.mark.more),
        pytest.param("oneformer", "Swin", marks=pytest.mark.more),
    ],
)
def test_an_encoder_is_taken_from_a_classifier(name, backbone, tmp_path, capsys):
    import transformers

    shape = dict(adapted.SHAPES[name])
    if backbone == "Swin":
        shape["backbone_config"] = adapted.SHAPES["oneformer"]["backbone_config"]
    torch.manual_seed(1)
    config = getattr(transformers, f"{backbone}Config")(**shape["backbone_config"])
    classifier = getattr(transformers, f"{backbone}ForImageClassification")(config)
    classifier.save_pretrained(tmp_path)
    network = {"model_type": name.partition(",")[0], **shape}
    model = build_network(NetworkConfig(network=network, weights=str(tmp_path)), "cityscapes")
    theirs, taken = list(classifier.base_model.state_dict().values()), 0
    for key, value in model.encoder().state_dict().items():
        if value.dim() > 1 and value.is_floating_point():
            assert any(value.shape == other.shape and torch.equal(value, other) for other in theirs), key
            taken += 1
    assert taken > 4 and re.search(r": \d+ of the \d+ tensors of the encoder are taken", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ({"network": EOMT, "weights": "/no/such"}, {}, "model.network: model '/no/such' is neither a folder"),
        ({"network": EOMT}, {"augment": {"crop": [96, 64]}}, "augment.crop: images of 64x96: .* multiples of 64"),
        (
            {"network": {"model_type": "oneformer", **adapted.SHAPES["oneformer"]}},
            {"schedule": {"freeze_norms": False}, "data": "panoptic"},
            "data.panoptic asks for the panoptic task: write NAME:panoptic in model.weights, or task: panoptic in",
        ),
    ],
)
def test_networks_that_cannot_learn_so_are_refused(start, settings, model, changes, message):
    if changes.get("data") == "panoptic":
        changes = {**changes, "data": {**settings["data"], "panoptic": True}}
    with pytest.raises(TrainingError, match=message):
        start(model, **changes)


def test_another_number_of_queries_is_refused(start, tmp_path):
    adapted.write("eomt", tmp_path)
    with pytest.raises(TrainingError, match=r"EoMT .*: it has 5 queries: leave out model\.num_queries"):
        start({"weights": str(tmp_path), "num_queries": 3})
