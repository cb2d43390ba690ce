"""The network a run starts from: other classes, frozen parts, and what transformers makes of the result."""

import json
import shutil

import pytest
import torch
import yaml

from m2f_ros import taxonomy
from m2f_ros.errors import TrainingError
from m2f_ros.model import load
from m2f_ros.model.checkpoint import load_for_training
from m2f_ros.training import loop
from m2f_ros.training.config import NetworkConfig, load_config
from m2f_ros.training.network import build_network, freeze

LAYER = {"decoder.class_predictor.weight", "decoder.class_predictor.bias"}


def changed(one: torch.nn.Module, other: torch.nn.Module) -> set[str]:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    return {key for key, value in ours.items() if not torch.equal(value, theirs[key])}  # other shapes, too


def test_a_checkpoint_of_the_same_classes_is_kept_whole(small_model, capsys):
    model = build_network(NetworkConfig(weights=str(small_model)), "cityscapes")
    assert changed(model, load_for_training(small_model)) == set()
    assert capsys.readouterr().out == ""


def test_a_checkpoint_of_other_classes_gets_a_new_class_layer(small_model, capsys):
    camvid = taxonomy.get("camvid")
    model = build_network(NetworkConfig(weights=str(small_model)), "camvid")
    assert changed(model, load_for_training(small_model)) == LAYER
    assert model.decoder.class_predictor.weight.shape == (12, 32)
    assert (model.config.labels, model.config.taxonomy) == (camvid.names, camvid)
    line = capsys.readouterr().out
    assert line == (
        f"{small_model} has 19 classes, other than the 11 of camvid: the class layer starts anew, the rest is kept\n"
    )


def test_another_number_of_queries_starts_them_anew(small_model, capsys):
    model = build_network(NetworkConfig(weights=str(small_model), num_queries=24), "cityscapes")
    fresh = {"decoder.query_embed.weight", "decoder.query_features.weight"}
    assert changed(model, load_for_training(small_model)) == fresh
    assert {tuple(model.state_dict()[key].shape) for key in fresh} == {(24, 32)}
    line = capsys.readouterr().out
    assert line == f"{small_model} has 20 queries, not 24: they start anew, the rest is kept\n"
    # As many come out, of the checkpoint that is written, too.
    assert model.config.num_queries == 24
    assert model.eval()(torch.zeros(1, 3, 64, 64)).class_logits.shape == (1, 24, 20)

    frozen = NetworkConfig(weights=str(small_model), num_queries=24, freeze="all_but_class_layer")
    with pytest.raises(TrainingError, match=r"would keep 24 queries from learning .* which is 20 in"):
        build_network(frozen, "cityscapes")


@pytest.mark.parametrize("bound", ["min_pixels", "max_pixels"])
@pytest.mark.parametrize(("wanted", "kept"), [(None, 4096), (1024, 1024)])
def test_a_bound_on_pixels_is_the_checkpoints_unless_named(small_model, tmp_path, bound, wanted, kept):
    folder = shutil.copytree(small_model, tmp_path / "bounded")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, bound: 4096}))
    model = build_network(NetworkConfig(weights=str(folder), **{bound: wanted}), "camvid")
    assert getattr(model.config, bound) == kept


def test_resuming_refuses_the_state_of_another_network(config_file, settings, small_model, tmp_path):
    run = loop.Run(load_config(config_file), tmp_path / "out", torch.device("cpu"))
    run.start(resume=False)
    run.save()
    settings["model"]["weights"] = str(small_model)
    config_file.write_text(yaml.safe_dump(settings))
    other = loop.Run(load_config(config_file), tmp_path / "out", torch.device("cpu"))
    with pytest.raises(TrainingError, match=r"last\.pt: of another network than model.weights \(.*small.*\) gives"):
        other.start(resume=True)


def test_a_swin_from_nothing():
    model = build_network(NetworkConfig(backbone="swin-tiny", hidden_dim=32, heads=4), "camvid")
    assert (model.config.backbone.embed_dim, model.config.backbone.depths) == (96, (2, 2, 6, 2))
    assert model.config.mean == pytest.approx((123.675, 116.28, 103.53))
    with pytest.raises(TrainingError, match=r"imagenet is for backbones efficientnet_lite0, .*, not swin-tiny; name"):
        build_network(NetworkConfig(backbone="swin-tiny", weights="imagenet", hidden_dim=32, heads=4), "camvid")


@pytest.mark.parametrize("what", ["none", "backbone", "all_but_class_layer"])
def test_what_is_frozen_does_not_learn(what, small_model, settings, folder, tmp_path, capsys):
    """Fine-tuned for other classes, and read by transformers with the same outputs."""
    transformers = pytest.importorskip("transformers", reason="transformers is the oracle of this test")
    settings["model"] = {"weights": str(small_model), "freeze": what}
    settings["data"] |= {"taxonomy": "camvid", "workers": 0}
    settings["schedule"] |= {"steps": 2}
    path = folder.parent / "run.yaml"
    path.write_text(yaml.safe_dump(settings))
    assert loop.train(load_config(path), tmp_path / "out", progress=False)

    # It is said once, not again by a run that goes on.
    assert "the class layer starts anew" in capsys.readouterr().out
    assert loop.train(load_config(path), tmp_path / "out", resume=True, progress=False)
    assert "class layer" not in capsys.readouterr().out

    before = load_for_training(small_model)
    state = torch.load(tmp_path / "out" / "last.pt")["model"]
    learnt = {key for key, value in before.state_dict().items() if not torch.equal(value, state[key])}
    expected = {key for key, _ in before.named_parameters()}
    if what == "backbone":
        expected = {key for key in expected if not key.startswith("backbone.")}
    elif what == "all_but_class_layer":
        expected = LAYER
    assert learnt == expected

    ours = load(tmp_path / "out" / "model", dtype=torch.float64)
    theirs = (
        transformers.Mask2FormerForUniversalSegmentation.from_pretrained(tmp_path / "out" / "model").double().eval()
    )
    assert theirs.config.id2label == dict(enumerate(taxonomy.get("camvid").names))
    pixels = torch.randn(1, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        actual, expected = ours(pixels), theirs(pixel_values=pixels)
    torch.testing.assert_close(actual.class_logits, expected.class_queries_logits, atol=1e-9, rtol=0)
    torch.testing.assert_close(actual.mask_logits, expected.masks_queries_logits, atol=1e-9, rtol=0)


def test_frozen_weights_need_no_gradients(small_model):
    model = load_for_training(small_model)
    freeze(model, "all_but_class_layer")
    assert {name for name, p in model.named_parameters() if p.requires_grad} == LAYER


def test_the_config_for_fine_tuning_is_read(request):
    config = load_config(request.config.rootpath / "config" / "finetune.yaml", data_root="/data")
    assert config.model.weights == "facebook/mask2former-swin-tiny-cityscapes-semantic"
    assert config.data.train[0].images == "/data/camvid/train"
