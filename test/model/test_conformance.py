"""Promises that every family of networks keeps. A new family adds its small configs to CASES."""

from __future__ import annotations

import copy
import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from m2f_ros.errors import CheckpointError, ConfigError, TrainingError
from m2f_ros.export import modules
from m2f_ros.export.formats import PACKAGES
from m2f_ros.export.onnx import write
from m2f_ros.export.program import trace
from m2f_ros.model import (
    BoxedInstances,
    Instances,
    MaskClassification,
    ModelConfig,
    Network,
    PixelLogits,
    SwinConfig,
    build,
    heads,
    load,
    read_config,
    save,
)
from m2f_ros.model.adapters.huggingface import AdaptedConfig
from m2f_ros.model.adapters.zoo import ZooConfig
from m2f_ros.model.attention_unet import AttentionUNetConfig
from m2f_ros.model.checkpoint import load_for_training
from m2f_ros.model.config import Keys, read_shared, shared_contents
from m2f_ros.model.keys import KeyMap
from m2f_ros.model.layout import read_json
from m2f_ros.model.network import TrackedMasks
from m2f_ros.model.registry import FAMILIES, Family, family_of
from m2f_ros.model.setr import SetrConfig
from m2f_ros.pipeline import Frame, Pipeline, Resize, Tuning
from m2f_ros.taxonomy import Taxonomy, from_names
from m2f_ros.training.config import NetworkConfig
from m2f_ros.training.network import build_network

sys.path.insert(0, str(Path(__file__).parent))
import adapted
import zoo

STRIDE = 8


@dataclass(frozen=True)
class ToyConfig:
    """Shape of a network of two layers; the family is made by the recipe "a network" of docs/architecture.md."""

    labels: tuple[str, ...]
    channels: int = 6
    mean: tuple[float, ...] = (100.0, 110.0, 120.0)
    std: tuple[float, ...] = (60.0, 50.0, 40.0)
    taxonomy: Taxonomy | None = field(default=None, repr=False)
    min_pixels: int | None = None
    max_pixels: int | None = None
    resize: tuple[str, int, int] | None = None

    @property
    def stride(self) -> int:
        return STRIDE

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    @property
    def summary(self) -> str:
        return f"a toy of {self.channels} channels"

    @classmethod
    def read(cls, folder: Path) -> ToyConfig:
        raw = read_json(folder / "config.json")
        keys = Keys(f"{folder}/config.json: ", raw)
        return cls(**read_shared(folder, raw, STRIDE), channels=keys.whole("channels", 6, most=64))

    def contents(self) -> dict:
        return {"channels": self.channels, **shared_contents(self)}


class ToyNetwork(Network):
    gives = PixelLogits
    config: ToyConfig

    def __init__(self, config: ToyConfig):
        super().__init__()
        self.config = config
        self.features = nn.Conv2d(3, config.channels, STRIDE, stride=STRIDE)
        self.classes = nn.Conv2d(config.channels, config.num_classes, 3, padding=1)

    def forward(self, pixels: Tensor, plan: None = None) -> PixelLogits:
        self.check_size(*pixels.shape[-2:])
        return PixelLogits(self.classes(self.features(pixels).relu()))


TOY = Family(ToyConfig, ToyNetwork, KeyMap(to_disk=[(r"^", "toy.")], landmark="toy.features.weight"))

LABELS = ("road", "car", "sky")
SMALL = dict(hidden_dim=64, heads=4, encoder_layers=2, encoder_ffn=32, decoder_layers=4, decoder_ffn=32, num_queries=5)
# Windows of 3: shifted, and not dividing the maps.
SWIN = SwinConfig(embed_dim=16, depths=(2, 2, 1, 2), num_heads=(1, 1, 2, 2), window_size=3)
# Name, which begins with the family's -> config.
CASES = {
    "mask2former, swin": ModelConfig(SWIN, LABELS, **SMALL),
    "mask2former, efficientnet": ModelConfig("efficientnet_lite0", LABELS, **SMALL),
    "toy": ToyConfig(LABELS),
    "attention_unet": AttentionUNetConfig(LABELS, channels=(4, 8, 8, 16, 16)),
    **{
        f"setr, {name}": SetrConfig(LABELS, shape=(16, 2, 2, 32, 48, 8), progressive=name == "pup")
        for name in ("naive", "pup")
    },
    **adapted.CASES,
    **zoo.CASES,
}


@pytest.fixture(scope="module", autouse=True)
def toy_family() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "toy", TOY)
        if importlib.util.find_spec("torchvision"):
            zoo.few_candidates(patch)
        yield


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            config,
            id=name,
            marks=[pytest.mark.more] * (name in adapted.MORE) + [pytest.mark.zoo] * (name in zoo.CASES),
        )
        for name, config in CASES.items()
    ],
)
def model(request, toy_family):
    torch.manual_seed(0)
    if isinstance(request.param, AdaptedConfig | SetrConfig):
        pytest.importorskip("transformers", reason="transformers is not installed")
    if isinstance(request.param, ZooConfig):
        zoo.needs_libraries()
    model = build(request.param).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


@pytest.fixture(scope="module")
def size(model):
    """Height and width of a small input."""
    if has_one_size(model):
        return model.config.resize[1:]
    return 2 * model.config.stride, 3 * model.config.stride


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    save(model, folder)
    return folder


def gives_instances(network):
    return network.gives in (Instances, BoxedInstances)


def has_one_size(model):
    return isinstance(model.config, AdaptedConfig) and model.config.has_one_size


def pixels(size, batch=2, seed=1):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


def equal(one, other):
    torch.testing.assert_close(tuple(one), tuple(other), rtol=0, atol=0)


def leaves(plan):
    for value in plan or ():
        if isinstance(value, tuple):
            yield from leaves(value)
        else:
            yield value


def test_every_family_has_a_case():
    assert {name.partition(",")[0] for name in CASES} == set(FAMILIES)
    shared = AdaptedConfig, ZooConfig  # of all networks of other libraries
    configs = [family.config for family in FAMILIES.values() if family.config not in shared]
    assert len(set(configs)) == len(configs)


def test_the_config_says_what_the_pipeline_asks(model):
    config = model.config
    assert config.num_classes == len(config.labels) == 3
    assert len(config.mean) == len(config.std) == 3
    assert config.stride >= 1
    assert config.summary and "\n" not in config.summary


@pytest.mark.heavy
def test_saved_and_loaded(model, saved, size, tmp_path):
    bounds = {} if has_one_size(model) else {"min_pixels": 4096, "max_pixels": 8192, "resize": None}
    bounded = replace(model.config, taxonomy=from_names("test", LABELS), **bounds)
    model.config, before = bounded, model.config
    save(model, tmp_path)
    model.config = before
    assert read_config(tmp_path) == bounded
    assert read_config(saved) == model.config
    again = load_for_training(saved).eval()
    assert again.state_dict().keys() == model.state_dict().keys()
    with torch.no_grad():
        one, other = (each.result(each(pixels(size))) for each in (model, again))
    if isinstance(model.config, AdaptedConfig | ZooConfig):  # its products round by where tensors lie in memory
        torch.testing.assert_close(tuple(one), tuple(other), rtol=1e-5, atol=1e-5)
    else:
        equal(one, other)


def test_loaded_for_inference(model, saved, size):
    loaded = load(saved)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    with torch.no_grad():
        one, other = loaded.result(loaded(pixels(size))), model.result(model(pixels(size)))
    torch.testing.assert_close(tuple(one), tuple(other), rtol=1e-4, atol=1e-4)  # batch norms are folded


@pytest.mark.parametrize("fault", ["lacks", "surplus", "shape"])
def test_weights_are_all_there_and_of_their_shapes(model, saved, fault, tmp_path):
    save(model, tmp_path)
    state = load_file(saved / "model.safetensors")
    if isinstance(model.config, AdaptedConfig):
        # RF-DETR's files have other keys than transformers' modules.
        own = (key for key in model.network.state_dict() if key in state and "norm" not in key)
        key = next(own, "segmentation_head.spatial_features_proj.weight")
    else:
        key = family_of(model.config).keys.disk_keys(next(iter(model.state_dict())))[0]
    value = state.pop(key)
    if fault == "surplus":
        state |= {key: value, "another.weight": torch.zeros(1)}
    elif fault == "shape":
        state[key] = torch.cat([value, value])
    save_file(state, tmp_path / "model.safetensors")
    key = key.replace("segmentation_head.spatial", "spatial")
    reason = rf"lacks 1 weights: {key}|surplus 1 weights: (model\.)*another|{key} has shape"
    with pytest.raises(CheckpointError, match=reason):
        load(tmp_path)


def test_shapes_and_dtypes_of_the_result(model, size):
    with torch.no_grad():
        result = model.result(model(pixels(size)))
    assert type(result) is model.gives
    assert {x.dtype for x in result} == {torch.float32}
    assert all(x.isfinite().all() for x in result)
    if isinstance(result, MaskClassification):
        queries = result.class_logits.shape[1]
        assert result.class_logits.shape == (2, queries, 4)
        assert result.mask_logits.shape[:2] == (2, queries)
        maps = result.mask_logits
    elif isinstance(result, BoxedInstances):
        number, side = result.masks.shape[1:3]
        assert [x.shape for x in result] == [(2, number, 3), (2, number, side, side), (2, number, 4)]
        assert all(0 <= x.min() <= x.max() <= 1 for x in result[:2])
        return
    elif isinstance(result, Instances):
        assert result.scores.shape == (2, result.mask_logits.shape[1], 3)
        assert 0 <= result.scores.min() <= result.scores.max() <= 1
        maps = result.mask_logits
    else:
        maps = result.logits
        assert maps.shape[:2] == (2, 3)
    assert all(side % part == 0 for side, part in zip(size, maps.shape[2:], strict=True))


def test_embeddings_of_queries_are_what_the_classes_come_from(model, size):
    tracked = copy.deepcopy(model)
    try:
        tracked.give_embeddings()
    except CheckpointError as error:
        assert re.fullmatch("a .* gives no embeddings of queries", str(error))
        return
    seen = []
    heads = [m for n, m in tracked.named_modules() if n.endswith("class_predictor")]
    heads[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        result, plain = (one.result(one(pixels(size))) for one in (tracked, model))
    assert type(result) is TrackedMasks and type(plain) is MaskClassification
    equal(result[:2], plain)
    torch.testing.assert_close(result.embeddings, seen[-1][:, : result.class_logits.shape[1]])


def test_a_plan_changes_nothing(model, size):
    with torch.inference_mode():
        plan = model.plan(*size)
        equal(model.result(model(pixels(size), plan)), model.result(model(pixels(size))))
    assert {type(x) for x in leaves(plan)} <= {torch.Tensor, int}


@pytest.mark.heavy
def test_gradients_reach_every_weight_also_through_a_plan(model, size):
    if isinstance(model.config, AdaptedConfig | ZooConfig):
        pytest.skip(
            "m2f train does not take networks of other libraries, some of whose weights have no part in the result"
        )
    model = copy.deepcopy(model).double().train()
    for part in model.modules():  # which move with every call
        if isinstance(part, torch.nn.BatchNorm2d):
            part.eval()
    names, parameters = zip(*model.named_parameters(), strict=True)

    def gradients(plan):
        result = model.result(model(pixels(size).double(), plan))
        total = sum(x.sum() + x.square().mean() for x in result)
        return torch.autograd.grad(total, parameters)

    for name, one, other in zip(names, gradients(model.plan(*size)), gradients(None), strict=True):
        assert one.isfinite().all(), name
        torch.testing.assert_close(one, other, msg=lambda text, name=name: f"{name}: {text}")


def test_images_of_a_batch_do_not_touch_each_other(model, size):
    batch = pixels(size)
    other = torch.cat([batch[:1], pixels(size, seed=2)[1:]])
    with torch.inference_mode():
        one, two, alone = (model.result(model(x)) for x in (batch, other, batch[:1]))
    equal([x[0] for x in one], [x[0] for x in two])
    torch.testing.assert_close([x[0] for x in one], [x[0] for x in alone], rtol=1e-4, atol=1e-4)


def test_the_same_image_gives_the_same_result(model, size):
    with torch.inference_mode():
        equal(model.result(model(pixels(size))), model.result(model(pixels(size))))


def test_other_sizes_are_refused(model, size):
    height, width = size
    fault = f"images of {height}x{width - 1}: height and width must be multiples of {model.config.stride}$"
    with pytest.raises(ValueError, match=fault):
        model(pixels((height, width - 1)))
    with pytest.raises(ValueError, match=fault):
        model.plan(height, width - 1)
    with pytest.raises(ValueError, match="must be multiples of"):
        model.plan(0, width)
    plan = model.plan(width, height)
    if plan is not None:
        with pytest.raises(ValueError, match=f"images of {height}x{width}, but the plan is for {width}x{height}"):
            model(pixels(size), plan)


class Planned(torch.nn.Module):
    """The network as the backends export it: with a plan of its own."""

    def __init__(self, model, plan):
        super().__init__()
        self.model, self.plan = model, plan

    def forward(self, pixels):
        return self.model.result(self.model(pixels, self.plan))


@pytest.mark.heavy
@pytest.mark.parametrize("batch", [1, 2])
def test_exported(model, saved, size, batch):
    if not model.captures:
        pytest.skip("shapes inside the network depend on the pixels")
    if isinstance(model.config, AdaptedConfig):  # EoMT can be exported only as it is loaded for inference
        model = load(saved)
    with torch.no_grad():
        planned = Planned(model, model.plan(*size))
        exported = torch.export.export(planned, (model.example(*size, batch),)).module()
        one, other = exported(pixels(size, batch)), model.result(model(pixels(size, batch)))
    torch.testing.assert_close(tuple(one), tuple(other), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_in_onnx_runtime(model, size, tmp_path):
    if not model.captures:
        pytest.skip("shapes inside the network depend on the pixels")
    for package in PACKAGES["onnx"]:
        pytest.importorskip(package, reason=f"{package} is not installed")
    import onnxruntime

    names = model.gives._fields
    write(trace(modules.Planned(model, size), model.example(*size, 2)), tmp_path / "x.onnx", ["pixels"], names)
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx")
    for batch in (1, 3):
        with torch.inference_mode():
            wanted = model.result(model(pixels(size, batch)))
        found = [torch.from_numpy(x) for x in session.run(names, {"pixels": pixels(size, batch).numpy()})]
        torch.testing.assert_close(tuple(found), tuple(wanted), rtol=1e-3, atol=1e-3)


@pytest.mark.heavy
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cast(model, size, dtype):
    cast = copy.deepcopy(model).to(dtype)
    assert cast.example(*size).dtype == dtype
    with torch.inference_mode():
        result = cast.result(cast(pixels(size, 1).to(dtype), cast.plan(*size)))
    # Boxes need float32, and so the whole result has it.
    assert {x.dtype for x in result} == {torch.float32 if model.gives is BoxedInstances else dtype}
    assert all(x.isfinite().all() for x in result)


@pytest.fixture
def pipeline(saved):
    def make(backend, **options):
        network = load(saved)
        if gives_instances(network):  # a random network's scores are low
            options["tuning"] = Tuning(score_threshold=0)
        return Pipeline(network, from_names("test", LABELS), device="cpu", backend=backend, **options)

    return make


def frame(height=53, width=90, seed=0):
    patches = np.random.default_rng(seed).integers(0, 256, (height // 9 + 1, width // 9 + 1, 3), np.uint8)
    return Frame(np.ascontiguousarray(patches.repeat(9, 0).repeat(9, 1)[:height, :width]), "rgb8")


@pytest.mark.heavy
@pytest.mark.parametrize("options", [{}, {"smoothing": 0.5}, {"resize": Resize("pad")}, {"output_scale": 0.5}], ids=str)
def test_the_pipeline_segments_a_frame(pipeline, model, options):
    sparse = gives_instances(model)
    if sparse and "smoothing" in options:
        with pytest.raises(ConfigError, match=r"smoothing is 0\.5, and the model finds instances"):
            pipeline("eager", **options)
        return
    pipe = pipeline("eager", **options)
    masked = pipe.finds_segments
    result = pipe.segment(frame(), {"label", "overlay", "confidence", "shares"} | ({"panoptic"} if masked else set()))
    assert result.label.shape == result.confidence.shape == pipe.output_size(53, 90)
    assert set(np.unique(result.label)) <= {0, 1, 2} | ({255} if sparse else set())
    assert result.overlay.shape == (*result.label.shape, 3)
    assert result.shares.sum() == pytest.approx(1)
    assert (result.ids is not None) == masked
    if not sparse:
        # Classes share a pixel: the best of three has a third at least, but for rounding.
        assert result.confidence.min() >= 84


@pytest.mark.heavy
def test_openvino_gives_the_same_labels(model, pipeline, monkeypatch, tmp_path):
    if not model.captures:
        pytest.skip("shapes inside the network depend on the pixels")
    pytest.importorskip("openvino", reason="openvino is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    labels = [pipeline(name).segment(frame(), {"label"}).label for name in ("eager", "openvino")]
    assert (labels[0] != labels[1]).mean() < 1e-3  # where two classes score the same but for rounding


def test_pixel_logits_from_file_to_labels(tmp_path):
    """Labels, confidence and smoothing of a toy, by the formulas written out."""
    torch.manual_seed(1)
    save(build(ToyConfig(LABELS)), tmp_path)
    pipe = Pipeline(load(tmp_path), from_names("test", LABELS), device="cpu", backend="eager", smoothing=0.5)
    plain = Pipeline(load(tmp_path), from_names("test", LABELS), device="cpu", backend="eager")
    network, frames = load(tmp_path), [frame(40, 56, seed) for seed in (1, 2)]
    probabilities = []
    for picture in frames:  # multiples of the toy's stride, 8, and not of 32: none is resized
        image = torch.from_numpy(picture.raw[0]).permute(2, 0, 1)[None].float()
        mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (network.config.mean, network.config.std))
        logits = F.interpolate(network((image - mean) / std).logits, (40, 56), mode="bilinear", align_corners=False)
        probabilities.append(logits.softmax(1)[0])
        result = plain.segment(picture, {"label", "confidence", "shares"})
        best, label = probabilities[-1].max(0)
        assert np.array_equal(result.label, label)
        assert np.abs(result.confidence - (best * 255).numpy()).max() < 0.51
        assert result.shares[:3] == pytest.approx([(label == i).float().mean().item() for i in range(3)])
        assert len(label.unique()) > 1
    both = [pipe.segment(picture, {"label"}).label for picture in frames]
    assert np.array_equal(both[1], (probabilities[0] / 2 + probabilities[1]).argmax(0))
    with plain.submit_batch(frames, {"label"}) as results:
        assert [np.array_equal(r.label, p.argmax(0)) for r, p in zip(results, probabilities, strict=True)] == [True] * 2


@pytest.mark.parametrize("backend", ["eager", "openvino"])
def test_ids_by_queries_in_the_pipeline(backend, tmp_path):
    if backend == "openvino":
        pytest.importorskip("openvino", reason="openvino is not installed")
    pytest.importorskip("scipy", reason="scipy is not installed")
    torch.manual_seed(0)
    save(build(CASES["mask2former, efficientnet"]), tmp_path)
    tuning, stuff = Tuning(score_threshold=0.0, overlap_threshold=0.0), from_names("test", LABELS)
    taxonomy = replace(stuff, classes=tuple(replace(c, thing=c.name == "car") for c in stuff.classes))
    plain, pipe = (
        Pipeline(
            load(tmp_path),
            taxonomy,
            device="cpu",
            backend=backend,
            tuning=tuning,
            track_by=by,
        )
        for by in ("overlap", "queries")
    )
    for number in range(2):
        result, other = (p.segment(frame(64, 96, number), {"label", "panoptic"}) for p in (pipe, plain))
        assert result.embeddings.shape == (5, 64) and result.embeddings.dtype == np.float32
        assert other.embeddings is None and other.slots is None
        np.testing.assert_array_equal(result.ids, other.ids)
        np.testing.assert_array_equal(result.label, other.label)
        assert len(result.slots) == len(result.segments) > 0
        for slot, segment in zip(result.slots, result.segments, strict=True):
            assert slot < 5 if segment.train_id == 1 else slot == 5 + segment.train_id
    assert pipe.segment(frame(64, 96), {"label"}).embeddings is None


def test_what_ids_by_queries_need(tmp_path):
    save(build(ToyConfig(LABELS)), tmp_path)
    options = dict(device="cpu", backend="eager")
    with pytest.raises(ConfigError, match="track_by 'queries': a ToyNetwork gives no embeddings of queries; take"):
        Pipeline(load(tmp_path), from_names("test", LABELS), track_by="queries", **options)
    with pytest.raises(ConfigError, match="track_by is 'iou'; take one of overlap, queries"):
        Pipeline(load(tmp_path), from_names("test", LABELS), track_by="iou", **options)


def test_pixel_logits_have_no_segments(tmp_path):
    save(build(ToyConfig(LABELS)), tmp_path)
    pipe = Pipeline(load(tmp_path), from_names("test", LABELS), device="cpu", backend="eager")
    with pytest.raises(ConfigError, match="finds no segments: leave out output 'panoptic'"):
        pipe.segment(frame(), {"label", "panoptic"})
    assert pipe.segment(frame(), {"label"}).label.shape == (53, 90)


def test_training_takes_the_networks_that_it_knows(tmp_path):
    save(build(ToyConfig(LABELS)), tmp_path)
    with pytest.raises(TrainingError, match="cannot be trained here; m2f train takes this package's own Mask2Former"):
        build_network(NetworkConfig(weights=str(tmp_path)), "cityscapes")


def test_the_labels_of_large_frames_come_in_strips(monkeypatch):
    logits = torch.randn(1, 3, 9, 14, generator=torch.Generator().manual_seed(0))
    whole = heads.pixel_labels(logits, (72, 112), (71, 113), True)
    monkeypatch.setattr("m2f_ros.model.heads.upsampling.STRIP", 113 * 8)
    parts = heads.pixel_labels(logits, (72, 112), (71, 113), True)
    assert (whole[0] != parts[0]).float().mean() < 1e-3  # but for rounding
    assert (whole[1].int() - parts[1].int()).abs().max() <= 1
