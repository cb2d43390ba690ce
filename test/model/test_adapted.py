"""Networks of transformers: the library's own files in, the library's own results out."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from m2f_ros.errors import CheckpointError, ConfigError
from m2f_ros.export.export import export
from m2f_ros.export.formats import PACKAGES
from m2f_ros.export.settings import Settings
from m2f_ros.model import Instances, Mask2Former, MaskClassification, load, read_config, save
from m2f_ros.model.adapters.huggingface import AdaptedMasks
from m2f_ros.model.checkpoint import find
from m2f_ros.model.preprocessor import FILE
from m2f_ros.pipeline import Frame, Pipeline, Resize, Tuning
from m2f_ros.pipeline.backends.eager import Eager
from m2f_ros.pipeline.build import PipelineSettings, build_pipeline
from m2f_ros.taxonomy import from_names

sys.path.insert(0, str(Path(__file__).parent))
import adapted

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
ODD = 53, 91


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[pytest.mark.more] * (name in adapted.MORE)) for name in adapted.SHAPES],
)
def case(request, tmp_path_factory):
    """Name, transformers' network and processor, and the folder that they wrote."""
    folder = tmp_path_factory.mktemp("theirs")
    return request.param, *adapted.write(request.param, folder), folder


@pytest.fixture(scope="module")
def segformer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segformer")
    adapted.write("segformer", folder)
    return folder


class Recording(Eager):
    """The eager backend, which keeps what goes in."""

    def __call__(self, pixels, memory=None):
        self.pixels = pixels.clone()
        return super().__call__(pixels, memory)


def pipeline(network, **options):
    backend = Recording(network)
    return Pipeline(network, from_names("test", adapted.LABELS), device="cpu", backend=backend, **options), backend


def changed(folder: Path, to: Path, file: str, **keys: object) -> Path:
    """A copy of a checkpoint with other keys in one of its files."""
    shutil.copytree(folder, to)
    content = json.loads((to / file).read_text())
    (to / file).write_text(json.dumps(content | keys))
    return to


def test_labels_of_an_odd_frame_are_those_of_the_library(case):
    name, network, process, folder = case
    ours = load(folder)
    pipe, backend = pipeline(ours)
    label = torch.from_numpy(pipe.segment(Frame(adapted.picture(*ODD), "rgb8"), {"label"}).label).long()
    assert label.shape == ODD
    assert len(label.unique()) > 1
    outputs = adapted.run(network, backend.pixels.flip(1) if ours.config.bgr else backend.pixels)
    with torch.no_grad():
        result = ours.result(ours(backend.pixels))
    fields = ("class_queries_logits", "masks_queries_logits") if isinstance(result, MaskClassification) else ("logits",)
    if isinstance(result, Instances):
        fields = ("logits", "pred_masks")
        result = Instances(torch.where(result.scores > 0, result.scores.logit(), outputs.logits), result.mask_logits)
    torch.testing.assert_close(tuple(result), tuple(outputs[field] for field in fields), rtol=1e-5, atol=1e-5)
    more = {"size": {"shortest_edge": 64, "longest_edge": 64}} if "eomt" in name else {}
    if ours.config.kind in ("maskformer", "oneformer"):
        # The library sums the scores at the masks' size and resizes the sums: the masks are resized before.
        outputs.masks_queries_logits = F.interpolate(outputs.masks_queries_logits, (64, 96), mode="bilinear")
    library = process.post_process_semantic_segmentation(outputs, target_sizes=[ODD], **more)[0]
    different = label != library
    if ours.config.kind == "mask2former":
        # The library resizes masks to 384x384 in between: labels differ at their edges, by a pixel.
        edges = torch.zeros(ODD)
        edges[:, 1:] += library[:, 1:] != library[:, :-1]
        edges[1:] += library[1:] != library[:-1]
        beside = F.max_pool2d(edges[None], 3, 1, 1)[0] > 0
        assert not (different & ~beside).any()
        assert different.float().mean() < 0.03
    else:
        assert different.float().mean() < 1e-3  # where two classes score the same but for rounding


def test_pixels_are_those_of_the_librarys_processor(case):
    name, _, process, folder = case
    ours = load(folder)
    pipe, backend = pipeline(ours)
    frame = adapted.picture(64, 64 if name in adapted.SQUARE else 96)
    pipe.segment(Frame(frame, "rgb8"), {"label"})
    task = {"task_inputs": ["semantic"]} if name == "oneformer" else {}
    theirs = process(images=frame, return_tensors="pt", **task)["pixel_values"]
    pixels = backend.pixels.flip(1) if ours.config.bgr else backend.pixels
    torch.testing.assert_close(pixels, theirs.float(), rtol=1e-5, atol=1e-5)


def test_the_library_reads_what_is_saved(case, tmp_path):
    name, network, _, folder = case
    save(load(folder), tmp_path)
    again, found = type(network).from_pretrained(tmp_path, output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"]
    size = (64, 64) if name in adapted.SQUARE else (64, 96)
    pixels = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(4))
    one, other = (adapted.run(each.eval(), pixels) for each in (type(network).from_pretrained(folder), again))
    torch.testing.assert_close(one[0], other[0], rtol=1e-5, atol=1e-5)
    if name == "rf_detr":  # the library's processor needs torchvision
        assert json.loads((tmp_path / "preprocessor_config.json").read_text())["size"] == {"height": 64, "width": 64}
        return
    if name == "videomt":
        return  # its processor needs torchvision
    process = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    assert process.size == type(process).from_pretrained(folder).size


@pytest.mark.parametrize(
    "name", ["eomt", *(pytest.param(x, marks=pytest.mark.more) for x in ("maskformer", "oneformer"))]
)
def test_segments_of_mask_classification(name, tmp_path):
    adapted.write(name, tmp_path)
    pipe, _ = pipeline(load(tmp_path))
    pipe.tuning = type(pipe.tuning)(score_threshold=0.3, overlap_threshold=0.3)
    result = pipe.segment(Frame(adapted.picture(*ODD), "rgb8"), {"panoptic"})
    assert result.segments
    assert {s.id for s in result.segments} == set(np.unique(result.ids)) - {0}


@pytest.mark.parametrize("threshold", [0.05, 0.5, 0.9])
def test_segments_of_an_rf_detr_are_those_of_the_library(threshold, tmp_path):
    network, process = adapted.write("rf_detr", tmp_path)
    pipe, backend = pipeline(load(tmp_path), tuning=Tuning(score_threshold=threshold, overlap_threshold=0))
    result = pipe.segment(Frame(adapted.picture(*ODD), "rgb8"), {"label", "confidence", "panoptic", "overlay", "color"})
    outputs = adapted.run(network, backend.pixels)
    (library,) = process.post_process_instance_segmentation(outputs, threshold=threshold, target_sizes=[ODD])
    ids = library["segmentation"].numpy().clip(0)  # -1 is no instance
    assert (result.ids != ids).mean() < 1e-3
    assert len(library["segments_info"]) > 1
    found = [(s.id, s.train_id, pytest.approx(s.score, abs=1e-5)) for s in result.segments]
    assert [(s["id"], s["label_id"], s["score"]) for s in library["segments_info"]] == found
    classes, levels = np.full(len(found) + 1, 255), np.zeros(len(found) + 1)
    for segment in result.segments:
        classes[segment.id], levels[segment.id] = segment.train_id, round(255 * segment.score)
    assert np.array_equal(result.label, classes[result.ids])
    assert np.array_equal(result.confidence, levels[result.ids])
    assert (result.label == 255).any()
    assert not result.color[result.label == 255].any()


@pytest.mark.heavy
@pytest.mark.parametrize("to", ["openvino", pytest.param("onnx", marks=pytest.mark.more)])
def test_an_rf_detr_is_exported(to, tmp_path):
    for package in PACKAGES[to]:
        pytest.importorskip(package, reason=f"{package} is not installed")
    adapted.write("rf_detr", tmp_path / "model")
    frames = [Frame(adapted.picture(150, 271), "rgb8"), Frame(adapted.picture(150, 271)[::-1].copy(), "rgb8")]
    export(Settings(str(tmp_path / "model"), to, size=(64, 64)), tmp_path / "out", frames, "patches")
    found, tuning = [], Tuning(score_threshold=0.3, overlap_threshold=0)
    for name in ("model", "out"):
        pipe = build_pipeline(PipelineSettings(str(tmp_path / name), device="cpu"), lambda taxonomy: tuning)
        found.append(pipe.segment(frames[0], {"label", "panoptic"}))
    assert (found[0].label != found[1].label).mean() < 1e-3
    assert (found[0].ids != found[1].ids).mean() < 1e-3
    assert len(found[0].segments) == len(found[1].segments) > 1
    with pytest.raises(ConfigError, match="--whole: labels of instances depend on a threshold"):
        export(Settings(str(tmp_path / "model"), to, whole=True), tmp_path / "whole", frames, "patches")


def test_images_of_an_rf_detr_are_not_averaged(tmp_path):
    _, process = adapted.write("rf_detr", tmp_path)
    pipe, backend = pipeline(load(tmp_path))
    frame = adapted.picture(150, 271)
    pipe.segment(Frame(frame, "rgb8"), {"label"})
    torch.testing.assert_close(backend.pixels, process(images=frame)["pixel_values"], rtol=1e-4, atol=1e-4)


@pytest.mark.heavy
def test_an_rf_detr_as_transformers_converts_it(tmp_path):
    """With its modules' keys, the processor of a DETR and numbers as classes (convert_rf_detr_weights_to_hf.py)."""
    network = adapted.theirs("rf_detr", id2label={i: f"LABEL_{i}" for i in range(3)})
    network.save_pretrained(tmp_path, save_original_format=False)
    process = transformers.DetrImageProcessorPil(size={"height": 64, "width": 64})
    process.save_pretrained(tmp_path)
    ours = load(tmp_path)
    assert (ours.config.labels[2], ours.config.averaged) == ("LABEL_2", True)
    pipe, backend = pipeline(ours)
    frame = adapted.picture(150, 271)
    pipe.segment(Frame(frame, "rgb8"), {"label"})
    theirs = process(images=frame, return_tensors="pt")["pixel_values"]
    assert (backend.pixels - theirs).abs().max() < 0.03  # PIL rounds to whole numbers, and here and there by one
    outputs = adapted.run(network, backend.pixels)
    with torch.no_grad():
        torch.testing.assert_close(ours(backend.pixels).mask_logits, outputs.pred_masks, rtol=1e-5, atol=1e-5)
    save(ours, tmp_path / "again")
    assert read_config(tmp_path / "again") == ours.config


def test_an_rf_detr_takes_one_square(tmp_path):
    adapted.write("rf_detr", tmp_path)
    for keys in ({"size": {"height": 64, "width": 96}}, {"do_resize": False}, {"size": {"shortest_edge": 64}}):
        folder = changed(tmp_path, tmp_path / f"other{len(keys)}{next(iter(keys))}{len(str(keys))}", FILE, **keys)
        with pytest.raises(CheckpointError, match="takes images of one square alone: set do_resize to true, and size"):
            load(folder)
    folder = changed(tmp_path, tmp_path / "deep", "config.json", backbone_config={"patch_size": 1 << 20})
    with pytest.raises(CheckpointError, match=r"backbone_config\.patch_size is 1048576; it must be a whole number"):
        load(folder)
    with pytest.raises(ConfigError, match=r"smoothing is 0\.5, and the model finds instances"):
        pipeline(load(tmp_path), smoothing=0.5)


def test_padding_of_an_eomt_is_black(tmp_path):
    size = {"shortest_edge": 64, "longest_edge": 64}
    _, process = adapted.write("eomt", tmp_path, size=size, do_pad=True)
    network = load(tmp_path)
    assert network.config.resize == ("within", 64, 64)
    save(network, tmp_path / "again")
    assert read_config(tmp_path / "again") == network.config
    pipe, backend = pipeline(network)
    frame = adapted.picture(40, 64)
    assert pipe.segment(Frame(frame, "rgb8"), {"label"}).label.shape == (40, 64)
    theirs = process(images=frame, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(backend.pixels, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.heavy
def test_a_oneformer_takes_a_task(tmp_path):
    network, _ = adapted.write("oneformer", tmp_path)
    pixels = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(4))
    results = {}
    for task in ("semantic", "panoptic", "instance"):
        ours = load(f"{tmp_path}:{task}")
        assert ours.config.task == task
        with torch.no_grad():
            results[task] = ours(pixels).mask_logits
        wanted = adapted.run(network, pixels, task).masks_queries_logits
        torch.testing.assert_close(results[task], wanted, rtol=1e-4, atol=1e-4)
    assert not torch.equal(results["semantic"], results["panoptic"])
    assert load(tmp_path).config.task == "semantic"
    save(load(f"{tmp_path}:panoptic"), tmp_path / "again")
    assert read_config(tmp_path / "again").task == "panoptic"


def test_a_task_is_for_a_oneformer(segformer):
    with pytest.raises(CheckpointError, match="'panoptic' is a task of a OneFormer, and it is none; leave out"):
        load(f"{segformer}:panoptic")


def test_hf_takes_the_librarys_code_for_a_swin(tmp_path):
    swin = adapted.SHAPES["oneformer"]["backbone_config"]
    shape = adapted.SHAPES["mask2former, resnet"]
    config = transformers.Mask2FormerConfig(**shape | {"backbone_config": swin}, id2label=dict(enumerate("abc")))
    torch.manual_seed(0)
    transformers.Mask2FormerForUniversalSegmentation(config).save_pretrained(tmp_path)
    transformers.Mask2FormerImageProcessorPil(do_resize=False).save_pretrained(tmp_path)
    ours, theirs = load(tmp_path), load(f"hf:{tmp_path}")
    assert (type(ours), type(theirs)) == (Mask2Former, AdaptedMasks)
    assert find(f"hf:{tmp_path}") == tmp_path
    pixels = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        one, other = ours.result(ours(pixels)), theirs(pixels)
    torch.testing.assert_close(tuple(one), tuple(other), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("stages", [(2, 3, 4), (4,)])
def test_a_swin_with_three_stages_is_transformers_code(stages, tmp_path):
    swin = adapted.SHAPES["oneformer"]["backbone_config"] | {"out_features": [f"stage{i}" for i in stages]}
    shape = adapted.SHAPES["mask2former, resnet"] | {"backbone_config": swin}
    config = transformers.Mask2FormerConfig(**shape, id2label=dict(enumerate("abc")))
    network = transformers.Mask2FormerForUniversalSegmentation(config).eval()
    network.save_pretrained(tmp_path)
    transformers.Mask2FormerImageProcessorPil(do_resize=False).save_pretrained(tmp_path)
    if stages == (4,):  # which transformers cannot run, either
        with pytest.raises(CheckpointError, match=r"backbone_config.out_features is \['stage4'\]; only"):
            load(tmp_path)
        return
    ours = load(tmp_path)
    assert type(ours) is AdaptedMasks
    pixels = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        torch.testing.assert_close(ours(pixels).mask_logits, adapted.run(network, pixels).masks_queries_logits)


def test_hf_is_for_families_of_the_library(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "unheard_of"}')
    with pytest.raises(
        CheckpointError, match=r"is a 'unheard_of'; known are segformer, upernet, .*eomt_dinov3, rf_detr"
    ):
        load(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"do_center_crop": True}, "do_center_crop asks for the centre of each image alone"),
        ({"do_split_image": True}, "do_split_image asks for windows of each image, which are not supported"),
        ({"image_processor_type": "ViTImageProcessor"}, "is of a 'ViTImageProcessor'; take the file of a Mask2Former"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_preprocessing_that_the_pipeline_does_not_do_is_refused(segformer, tmp_path, keys, reason):
    folder = changed(segformer, tmp_path / "other", "preprocessor_config.json", **keys)
    with pytest.raises(CheckpointError, match=reason):
        load(folder)


def test_a_checkpoint_without_its_preprocessing_is_refused(segformer, tmp_path):
    shutil.copytree(segformer, tmp_path / "other")
    (tmp_path / "other" / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no preprocessor_config\.json, which says how images are prepared"):
        load(tmp_path / "other")


def test_a_network_of_one_size_takes_no_other(tmp_path):
    adapted.write("beit", tmp_path)
    network = load(tmp_path)
    with pytest.raises(ValueError, match="images of 128x128: the network takes 64x64 alone"):
        network(torch.zeros(1, 3, 128, 128))
    for resize in (Resize("shortest", shortest=64, longest=128), Resize(max_pixels=1 << 20)):
        with pytest.raises(ConfigError, match="the network takes images of 64 x 64 alone; leave out the size"):
            pipeline(network, resize=resize)
    assert pipeline(network, resize=Resize("fixed", height=64, width=64))[0].resize.place(*ODD).network == (64, 64)
    with pytest.raises(CheckpointError, match="do not give the 64x64 that the network takes alone; set do_resize"):
        load(changed(tmp_path, tmp_path / "other", "preprocessor_config.json", size={"height": 32, "width": 64}))


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"hidden_sizes": [8, 8, 16, 32]}, "config.json asks for"),
        ({"depths": [1, 1, 1, 2]}, r"lacks \d+ weights"),
        ({"depths": [1, 1, 1]}, "transformers cannot build the network"),
        ({"depths": [1, 1, 1, 10**9]}, r"depths is 1000000000; it must be 1024 at most"),
        ({"quantization_config": {"bits": 8}}, "quantization_config is not supported"),
    ],
    ids=str,
)
def test_a_config_of_another_network_is_refused(segformer, tmp_path, keys, reason):
    with pytest.raises(CheckpointError, match=reason) as caught:
        load(changed(segformer, tmp_path / "other", "config.json", **keys))
    assert "\n" not in str(caught.value)


def test_weights_that_are_no_numbers_are_refused(segformer, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(segformer, tmp_path / "other")
    state = load_file(tmp_path / "other" / "model.safetensors")
    state["decode_head.classifier.weight"][0] = torch.nan
    save_file(state, tmp_path / "other" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"decode_head\.classifier\.weight holds NaN or infinite values"):
        load(tmp_path / "other")


def test_the_extra_is_named_where_the_library_is_absent(segformer, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(CheckpointError, match=r"a SegFormer needs transformers \(.*\): pip install"):
        load(segformer)


def test_classes_that_disagree_with_the_taxonomy_are_refused(segformer):
    with pytest.raises(ConfigError, match="taxonomy 'cityscapes' is not that of model"):
        build_pipeline(PipelineSettings(model=str(segformer), taxonomy="cityscapes", device="cpu", backend="eager"))
