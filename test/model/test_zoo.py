"""Networks of torchvision and segmentation_models.pytorch: the libraries' own files in, their own results out."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from m2f_ros.errors import CheckpointError, ConfigError
from m2f_ros.export.export import export
from m2f_ros.export.settings import Settings
from m2f_ros.model import BoxedInstances, PixelLogits, load, save
from m2f_ros.model.adapters.zoo import LIBRARIES, SMP, parsed
from m2f_ros.pipeline import Frame, Pipeline, Resize, Tuning
from m2f_ros.pipeline.backends.eager import Eager
from m2f_ros.pipeline.build import PipelineSettings, build_pipeline
from m2f_ros.pipeline.classes import taxonomy_of

sys.path.insert(0, str(Path(__file__).parent))
import zoo
from zoo import picture

ZOO = pytest.mark.zoo
# With the names that published files have; ResNet-101 differs from ResNet-50 by its depth alone.
ARCHITECTURES = [
    (k, a)
    for k, library in LIBRARIES.items()
    for a, row in library.rows.items()
    if row.gives is PixelLogits and not a.endswith("101")
]


@pytest.fixture
def libraries(monkeypatch):
    zoo.needs_libraries()
    zoo.few_candidates(monkeypatch)


class Recording(Eager):
    """The eager backend, which keeps what goes in."""

    def __call__(self, pixels):
        self.pixels = pixels.clone()
        return super().__call__(pixels)


def pipeline(network, **options):
    backend = Recording(network)
    return Pipeline(network, taxonomy_of("test", network.config), device="cpu", backend=backend, **options), backend


@ZOO
@pytest.mark.parametrize(("kind", "architecture"), ARCHITECTURES, ids=str)
def test_labels_are_those_of_the_library(libraries, kind, architecture, tmp_path):
    size = (128, 192) if architecture == "PAN" else (64, 96)  # PAN pools the deepest map three times
    network = zoo.theirs(kind, architecture)
    ours = load(zoo.write(kind, architecture, tmp_path, network))
    pipe, backend = pipeline(ours)
    frames = [Frame(picture(*size), "rgb8"), Frame(picture(*size)[::-1].copy(), "rgb8")]
    with pipe.submit_batch(frames, {"label"}) as results:
        found = torch.stack([torch.from_numpy(result.label).long() for result in results])
    wanted = zoo.logits(network, backend.pixels).argmax(1)
    assert len(wanted.unique()) > 1
    assert (found != wanted).float().mean() < 1e-3  # where two classes score the same but for rounding
    odd = size[0] + 5, size[1] - 5
    label = torch.from_numpy(pipe.segment(Frame(picture(*odd), "rgb8"), {"label"}).label)
    with torch.no_grad():
        wanted = F.interpolate(ours(backend.pixels).logits, odd, mode="bilinear").argmax(1)[0]
    assert (label != wanted).float().mean() < 1e-3
    save(ours, tmp_path / "again")
    before = zoo.logits(network, backend.pixels)
    if kind == SMP:
        network = sys.modules[LIBRARIES[SMP].package].from_pretrained(tmp_path / "again").eval()
    else:
        network.load_state_dict(load_file(tmp_path / "again" / "model.safetensors"))
    torch.testing.assert_close(zoo.logits(network, backend.pixels), before, rtol=1e-5, atol=1e-5)


def of_library(one, frame, threshold):
    """Labels, confidence, ids and (class, score) by the loop of panoptic segmentation over the library's instances."""
    label, level, ids = torch.full(frame, 255), torch.zeros(frame), torch.zeros(frame, dtype=torch.long)
    kept = []
    for score, which, mask in zip(one["scores"], one["labels"] - 1, one["masks"][:, 0] >= 0.5, strict=True):
        free = mask & (ids == 0)
        if score > threshold and free.any():
            kept.append((int(which), float(score)))
            label[free], level[free], ids[free] = which, (score * 255).round(), len(kept)
    return label, level, ids, kept


@ZOO
@pytest.mark.parametrize("architecture", ["maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2"])
def test_instances_are_those_of_the_library(libraries, architecture, tmp_path):
    network = zoo.theirs("torchvision", architecture)
    ours = load(zoo.write("torchvision", architecture, tmp_path, network))
    assert (ours.config.labels, ours.config.resize) == (("LABEL_1", "LABEL_2", "LABEL_3"), ("shortest", 800, 1333))
    tuning = Tuning(score_threshold=0.6, overlap_threshold=0)
    pipe, backend = pipeline(ours, tuning=tuning, resize=Resize("fixed", height=64, width=96))
    want = {"label", "confidence", "panoptic", "overlay"}
    for size in ((64, 96), (69, 91)):
        frames = [Frame(picture(*size), "rgb8"), Frame(picture(*size)[::-1].copy(), "rgb8")]
        with pipe.submit_batch(frames, want) as results:
            for result, one in zip(results, zoo.found_by(network, backend.pixels, size), strict=True):
                label, level, ids, kept = of_library(one, size, 0.6)
                assert len(kept) > 2
                assert (result.label != label.numpy()).mean() < 1e-3
                assert (result.ids != ids.numpy()).mean() < 1e-3
                assert (np.abs(result.confidence - level.numpy()) > 1).mean() < 1e-3
                assert [s.train_id for s in result.segments] == [which for which, _ in kept]
                assert [s.score for s in result.segments] == pytest.approx([score for _, score in kept], abs=2e-3)
    save(ours, tmp_path / "again")
    again = load(tmp_path / "again")
    with torch.no_grad():
        for one, other in zip(ours(backend.pixels), again(backend.pixels), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    network.load_state_dict(load_file(tmp_path / "again" / "model.safetensors"), strict=False)


@ZOO
def test_a_mask_rcnn_runs_uncaptured_and_is_not_exported(libraries, tmp_path):
    of = "torchvision", "maskrcnn_resnet50_fpn"
    name = zoo.write(*of, tmp_path, zoo.theirs(*of))
    pipe = build_pipeline(PipelineSettings(name, device="cpu", precision="fp32"))
    assert pipe.backend == "eager"
    assert not load(name).captures
    for backend in ("openvino", "compile"):
        with pytest.raises(ConfigError, match=f"backend '{backend}': the shapes inside this network depend on the pix"):
            build_pipeline(PipelineSettings(name, device="cpu", backend=backend))
    with pytest.raises(ConfigError, match="the shapes inside this network depend on the pixels: it has no export"):
        export(Settings(name, "openvino"), tmp_path / "out", [Frame(picture(64, 96), "rgb8")], "a picture")


@ZOO
def test_older_files_of_a_mask_rcnn(libraries, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints"
    cached.mkdir(parents=True)
    network = zoo.theirs("torchvision", "maskrcnn_resnet50_fpn", classes=90)
    state = {}
    for key, value in network.state_dict().items():  # as in torchvision 0.12 and in its published file
        key = re.sub(r"mask_head\.(\d)\.0\.", lambda found: f"mask_head.mask_fcn{int(found[1]) + 1}.", key)
        key = key.replace("head.conv.0.0.", "head.conv.")
        state[re.sub(r"(fpn\.\w+_blocks\.\d)\.0\.", r"\1.", key)] = value
    state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(state, cached / "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth")
    ours = load("torchvision:maskrcnn_resnet50_fpn:weights=COCO_V1")
    assert (len(ours.config.labels), ours.config.labels[0]) == (90, "person")
    assert taxonomy_of("test", ours.config).classes[2].name == "car"
    assert {m.eps for m in ours.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {0.0}  # as torchvision sets it
    save(ours, tmp_path / "again")
    assert load(tmp_path / "again").config == ours.config
    for norm in network.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.eps = 0.0
    pixels = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(4))
    (wanted,) = zoo.found_by(network, pixels, (64, 96))
    with torch.no_grad():
        found = BoxedInstances(*ours(pixels))
    number = len(wanted["scores"])
    assert number
    scores, labels = found.scores[0].max(1)
    torch.testing.assert_close(scores[:number], wanted["scores"], rtol=1e-4, atol=1e-4)
    assert torch.equal(labels[:number], wanted["labels"] - 1)
    assert not found.scores[0, number:].any()


@ZOO
def test_pixels_are_those_of_the_encoder(libraries, tmp_path, monkeypatch):
    import segmentation_models_pytorch as smp

    image = picture(64, 96)
    params = {"input_space": "BGR", "input_range": [0, 255], "mean": [104.0, 117.0, 123.0], "std": [1.0, 2.0, 3.0]}
    (tmp_path / "params.json").write_text(json.dumps(params))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a, **k: str(tmp_path / "params.json"))
    monkeypatch.setattr(
        "segmentation_models_pytorch.encoders.hf_hub_download", lambda *a, **k: tmp_path / "params.json"
    )
    for encoder, name in ((zoo.ENCODER, "timm"), ("resnet18", "hub")):
        network = zoo.theirs(SMP, "FPN", encoder=encoder)
        network.save_pretrained(tmp_path / name)
        pipe, backend = pipeline(load(tmp_path / name))
        pipe.segment(Frame(image, "rgb8"), {"label"})
        wanted = smp.encoders.preprocess_input(image, **smp.encoders.get_preprocessing_params(encoder))
        found = backend.pixels.flip(1) if name == "hub" else backend.pixels
        torch.testing.assert_close(found[0].permute(1, 2, 0).double(), torch.from_numpy(wanted), rtol=1e-4, atol=1e-4)


@ZOO
def test_one_class_is_two(libraries, tmp_path):
    network = zoo.theirs(SMP, "Unet", classes=1, activation="sigmoid", aux_params={"classes": 4})
    ours = load(zoo.write(SMP, "Unet", tmp_path, network))
    pipe, backend = pipeline(ours)
    result = pipe.segment(Frame(picture(64, 96), "rgb8"), {"label", "confidence"})
    probability = zoo.logits(network, backend.pixels)[0, 0].numpy()
    assert set(np.unique(result.label)) == {0, 1}
    assert ((probability > 0.5) != result.label).mean() < 1e-3
    wanted = 255 * np.maximum(probability, 1 - probability)
    assert np.abs(result.confidence - wanted).max() < 0.6
    assert ours.config.labels == ("LABEL_0", "LABEL_1")


@ZOO
def test_a_file_of_a_trainer_and_its_name(libraries, tmp_path):
    network = zoo.theirs(SMP, "FPN")
    state = {f"model.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": state | {"loss.weight": torch.zeros(3)}}, tmp_path / "last.ckpt")
    ours = load(f"smp:FPN/{zoo.ENCODER}:{tmp_path}/last.ckpt")
    pixels = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        torch.testing.assert_close(ours(pixels).logits, zoo.logits(network, pixels), rtol=0, atol=0)
    with pytest.raises(CheckpointError, match=r"lacks \d+ weights: .*; it is no FPN of that name"):
        load(f"smp:FPN/resnet18:{tmp_path}/last.ckpt")
    with pytest.raises(CheckpointError, match=r"last\.ckpt has no classifier\.4\.weight: it is no fcn_resnet50"):
        load(f"torchvision:fcn_resnet50:{tmp_path}/last.ckpt")


@ZOO
def test_published_weights_of_torchvision(libraries, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints"

    def refuse(url, path, *more, **options):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    name = "torchvision:lraspp_mobilenet_v3_large:weights="
    with pytest.raises(CheckpointError, match=r"https://.*/lraspp_\S+\.pth could not be had \(no network\)"):
        load(f"{name}DEFAULT")
    with pytest.raises(CheckpointError, match="known weights are COCO_WITH_VOC_LABELS_V1, DEFAULT"):
        load(f"{name}IMAGENET")
    network = zoo.theirs("torchvision", "lraspp_mobilenet_v3_large", classes=21)
    torch.save(network.state_dict(), cached / "lraspp_mobilenet_v3_large-d234d4ea.pth")
    config = load(f"{name}COCO_WITH_VOC_LABELS_V1").config
    assert (config.labels[0], config.labels[15]) == ("__background__", "person")
    assert config.resize == ("shortest", 520, 8192)
    assert load(f"{name}DEFAULT").config == config


@ZOO
def test_the_pipeline_takes_the_name(libraries, tmp_path):
    network = zoo.theirs(SMP, "Linknet", encoder="mobilenet_v2")
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    settings = PipelineSettings(f"smp:Linknet/mobilenet_v2:{tmp_path}", device="cpu", taxonomy="cityscapes")
    with pytest.raises(ConfigError, match="taxonomy 'cityscapes' is not that of model"):
        build_pipeline(settings)
    pipe = build_pipeline(PipelineSettings(settings.model, device="cpu", precision="fp32"))
    pixels = (torch.from_numpy(picture(64, 96)).permute(2, 0, 1)[None] / 255 - 0.45) / 0.225
    assert pipe.backend == "openvino" and pixels.shape == (1, 3, 64, 96)
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    wanted = zoo.logits(network, (torch.from_numpy(picture(64, 96)).permute(2, 0, 1)[None] / 255 - mean) / std).argmax(
        1
    )
    label = pipe.segment(Frame(picture(64, 96), "rgb8"), {"label"}).label
    assert (label != wanted[0].numpy()).mean() < 1e-3


@ZOO
@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"encoder_name": "tu-hf-hub:somebody/network"}, "it must be the name of an encoder"),
        ({"encoder_name": "resnet19"}, "segmentation_models_pytorch cannot build the network"),
        ({"in_channels": 4}, "in_channels is 4; only 3 is supported"),
        ({"decoder_channels": [1 << 30] * 5}, "decoder_channels is 1073741824; it must be"),
        ({"classes": 4}, "has shape"),
        ({"activation": "argmax2d"}, "take a network that gives logits"),
        ({"_model_class": "DPT"}, "the network is 'DPT'; known of smp are Unet, UnetPlusPlus, MAnet"),
    ],
    ids=str,
)
def test_a_config_that_does_not_fit_is_one_line(libraries, tmp_path, keys, reason):
    zoo.write(SMP, "Unet", tmp_path, zoo.theirs(SMP, "Unet"))
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | keys))
    with pytest.raises(CheckpointError, match=reason) as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("torchvision:deeplabv3_resnet50", "names no weights: torchvision:deeplabv3_resnet50:FILE, .*:weights=DEFAULT"),
        ("smp:Unet/resnet34", "names no weights: smp:Unet/resnet34:FILE, a file or folder of them$"),
        ("smp:Unet:weights.pth", "the encoder is missing: smp:Unet/ENCODER:FILE"),
        ("smp:unet/resnet34:weights.pth", "the network is 'unet'; known of smp are Unet, "),
        ("torchvision:vgg:weights.pth", "the network is 'vgg'; known of torchvision are fcn_resnet50, "),
        ("torchvision:fcn_resnet50/vgg:w.pth", "fcn_resnet50 has one encoder; leave out '/vgg'"),
        ("smp:Unet/resnet34:/no/such.pth", r"there is no file or folder /no/such\.pth"),
        ("smp:Unet/resnet34:weights=imagenet", "smp has no weights of whole networks by name; name a file"),
    ],
)
def test_names_that_are_incomplete(name, reason):
    with pytest.raises(CheckpointError, match=reason):
        load(name)


def test_names_of_other_models_are_left_alone():
    assert [parsed(name) for name in ("street", "owner/name", "hf:owner/name", "/smp/Unet", "onnx:x")] == [None] * 5


def test_the_extra_is_named_where_the_library_is_absent(tmp_path, monkeypatch):
    config = {"model_type": "torchvision", "architecture": "fcn_resnet50", "id2label": {"0": "road", "1": "car"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text("{}")
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(CheckpointError, match=r"a FCN with ResNet-50 needs torchvision \(.*\): pip install"):
        load(tmp_path)
