"""m2f explain: the inner states are those of the network, and the page has them."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from m2f_ros import taxonomy as taxonomies
from m2f_ros.cli import m2f
from m2f_ros.evaluation.explain import regions
from m2f_ros.evaluation.explain.watched import Layer, Watched, _attention, watch
from m2f_ros.frame.frame import Frame
from m2f_ros.model import load
from m2f_ros.pipeline import Segmentation
from m2f_ros.pipeline.build import PipelineSettings, build_pipeline
from m2f_ros.taxonomy import from_names

sys.path.insert(0, str(Path(__file__).parents[1] / "model"))
import adapted

IMAGE = np.random.default_rng(0).integers(0, 256, (70, 100, 3), np.uint8)


@pytest.fixture(scope="module")
def watched(small_model):
    network = load(str(small_model))
    return watch(network, network.config.taxonomy, Frame(IMAGE, "bgr8"), IMAGE)


def test_labels_are_the_pipelines(watched, small_model):
    pipeline = build_pipeline(PipelineSettings(model=str(small_model), device="cpu", backend="eager"))
    result = pipeline.segment(Frame(IMAGE, "bgr8"), {"label", "confidence", "panoptic"})
    np.testing.assert_array_equal(watched.label, result.label)
    np.testing.assert_array_equal(watched.result.confidence, result.confidence)
    assert watched.result.segments == result.segments
    np.testing.assert_allclose(watched.scores.sum(0), 1, atol=1e-5)
    certain = np.partition(watched.scores, -2, axis=0)
    certain = certain[-1] - certain[-2] > 1e-4
    np.testing.assert_array_equal(watched.scores.argmax(0)[certain], watched.label[certain])


def test_layers_are_those_of_the_decoder(watched):
    assert [layer.stride for layer in watched.layers] == [0, 32, 16, 8]
    for layer in watched.layers:
        assert layer.masks.shape == (20, 70, 100) and layer.classes.shape == (20, 20)
        np.testing.assert_allclose(layer.classes.sum(1), 1, atol=1e-5)
        if layer.stride:
            assert layer.attention.shape == (20, 70, 100)
            np.testing.assert_allclose(layer.attention.max((1, 2)), 1, atol=1e-5)
    # The last layer makes the scores.
    last = watched.layers[-1]
    scores = np.einsum("qc,qhw->chw", last.classes[:, :-1], last.masks)
    assert (np.abs(scores / scores.sum(0) - watched.scores) < 0.05).mean() > 0.99  # scores are resized after the sum


def test_weights_of_the_attention():
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 5, 8), torch.randn(1, 12, 8), torch.randn(1, 12, 8)
    visible = torch.rand(1, 1, 5, 12) > 0.5
    visible[..., 0] = True
    weights = _attention(query, key, value, visible, heads=1)
    torch.testing.assert_close(weights.sum(1), torch.ones(5))
    assert (weights[~visible[0, 0]] == 0).all()
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, visible[0])
    torch.testing.assert_close((weights @ value)[0], expected[0])


def test_entropy_and_second_class(watched):
    assert watched.entropy.min() >= 0 and watched.entropy.max() <= 1 + 1e-6
    best, second = watched.scores.argmax(0), watched.second
    assert (best != second).all()
    others = watched.scores.copy()
    np.put_along_axis(others, best[None], -1, 0)
    np.testing.assert_array_equal(others.max(0), np.take_along_axis(watched.scores, second[None], 0)[0])


def test_shares_of_queries_sum_up_to_the_score(watched):
    region = np.zeros((70, 100), bool)
    region[10:20, 30:60] = True
    shares = watched.shares(region, 3)
    assert shares.sum() == pytest.approx(1)
    last = watched.layers[-1]
    query = int(shares.argmax())
    parts = [last.classes[q, 3] * last.masks[q, region].mean() for q in range(20)]
    assert query == int(np.argmax(parts)) and shares[query] == pytest.approx(max(parts) / sum(parts))


def drawn(label, scores=None):
    """An explanation of these labels, of three classes and two queries."""
    classes = from_names("three", ["a", "b", "c"])
    if scores is None:
        scores = np.eye(3, dtype=np.float32)[label].transpose(2, 0, 1) * 0.8 + 0.2 / 3
    layer = Layer(0, np.zeros(0), np.full((2, 4), 0.25), np.full((2, *label.shape), 0.5))
    image = np.zeros((*label.shape, 3), np.uint8)
    result = Segmentation({"label": label, "confidence": np.full_like(label, 255)})
    return Watched(image, result, scores, [layer], classes, "drawn", None, None, label.shape)


def test_mistakes_are_connected_and_the_largest_comes_first():
    label = np.zeros((20, 30), np.uint8)
    label[2:8, 2:8] = 1
    label[10:16, 10:20] = 1
    true = np.zeros_like(label)
    true[10:16, 10:20] = 2
    true[0, :] = 255
    watched = drawn(label)
    truth = regions.truth_of(watched, true, ("a", "b", "c"), np.r_[0, 1, 2, [255] * 253].astype(np.uint8), 255)
    assert truth.wrong.sum() == 36 + 60 and truth.right.sum() == 20 * 30 - 30 - 96
    found = regions.mistakes(watched, truth, 5)
    assert [(int(r.mask.sum()), r.train_id, r.other, r.wrong) for r in found] == [(60, 1, 2, 60), (36, 1, 0, 36)]
    assert found[0].title == "c, predicted as b, around 14,12"
    assert [r.title for r in regions.mistakes(watched, truth, 1)] == [found[0].title]
    # With truth those segments come first that are wrong.
    assert [r.title for r in regions.segments(watched, truth, 3)] == ["b", "a"]
    assert [r.title for r in regions.segments(watched, None, 3)] == ["a", "b"]


def test_the_region_at_a_pixel():
    label = np.zeros((20, 30), np.uint8)
    label[2:8, 2:8] = 1
    label[12:18, 2:8] = 1
    watched = drawn(label)
    region = regions.at(watched, None, 3, 3)
    assert (int(region.mask.sum()), region.train_id, region.title, region.wrong) == (36, 1, "At 3,3: b", None)
    true = np.zeros_like(label)
    true[2:8, 2:20] = 2
    truth = regions.truth_of(watched, true, ("a", "b", "c"), np.r_[0, 1, 2, [255] * 253].astype(np.uint8), 255)
    region = regions.at(watched, truth, 3, 3)
    assert int(region.mask.sum()) == 108 and region.other == 2 and region.wrong == 108
    assert region.title.startswith("At 3,3: c, predicted as a")


def test_truth_in_other_classes_than_the_models():
    """CamVid's tree is vegetation and terrain; the one that is predicted most stands for both."""
    cityscapes, camvid = taxonomies.get("cityscapes"), taxonomies.get("camvid")
    table = taxonomies.merge_table(cityscapes, camvid)
    label = np.full((4, 6), cityscapes.names.index("terrain"), np.uint8)
    scores = np.zeros((19, 4, 6), np.float32)
    scores[cityscapes.names.index("terrain")] = 1
    watched = drawn(label, scores)
    object.__setattr__(watched, "taxonomy", cityscapes)
    tree = camvid.names.index("tree")
    truth = regions.truth_of(watched, np.full_like(label, tree), camvid.names, table, camvid.unlabelled)
    assert truth.right.all() and cityscapes.names[truth.as_model[tree]] == "terrain"


def run(*arguments):
    return CliRunner().invoke(m2f, ["explain", *map(str, arguments)])


def test_the_page(small_model, tmp_path):
    cv2.imwrite(str(tmp_path / "a frame.png"), IMAGE)
    (tmp_path / "labels").mkdir()
    cv2.imwrite(str(tmp_path / "labels/a frame.png"), np.full((70, 100), 11, np.uint8))
    out = tmp_path / "out"
    options = [
        "--model",
        small_model,
        "--labels",
        tmp_path / "labels",
        "--taxonomy",
        "cityscapes_trainids",
        "--out",
        out,
    ]
    for _ in range(2):
        done = run(tmp_path / "a frame.png", *options, "--at", "50,30", "--segments", "2", "--mistakes", "1")
        assert (done.exit_code, done.output.strip()) == (0, f"{out}/explain.html")
    page = (out / "explain.html").read_text()
    assert (
        "At 50,30: person, predicted as" in page
        and "Cross-attention of query" in page
        and "http://" not in page
        and "https://" not in page
    )
    for name in ("confidence", "entropy", "second_best_class", "wrong_pixels", "layer_3_stride_8"):
        assert list((out / "pictures").glob(f"*{name}*.png")), name
    picture = cv2.imread(str(next((out / "pictures").glob("*wrong_pixels*.png"))))
    label = cv2.imread(str(tmp_path / "labels/a frame.png"), cv2.IMREAD_GRAYSCALE)
    assert picture.shape == (70, 100, 3) and label.shape == (70, 100)


def test_a_network_that_classifies_pixels_shows_gradients(tmp_path):
    pytest.importorskip("captum", reason="needs the extra explain")
    adapted.write("segformer", tmp_path / "model")
    image = adapted.picture(64, 96)
    network = load(str(tmp_path / "model"))
    watched = watch(network, taxonomies.of_labels("small", network.config.labels), Frame(image, "rgb8"), image)
    assert watched.layers == [] and watched.result.segments is None
    region = watched.label == watched.label[0, 0]
    found = watched.gradients(region, int(watched.label[0, 0]))
    assert found.shape == (64, 96) and found.min() >= 0 and found.max() == pytest.approx(1)
    cv2.imwrite(str(tmp_path / "frame.png"), image)
    done = run(tmp_path / "frame.png", "--model", tmp_path / "model", "--out", tmp_path / "out")
    assert done.exit_code == 0 and "Seg-Grad-CAM" in (tmp_path / "out/explain.html").read_text()


def test_masks_of_other_libraries_have_no_layers(tmp_path):
    adapted.write("maskformer", tmp_path)
    image = adapted.picture(64, 96)
    network = load(str(tmp_path))
    watched = watch(network, taxonomies.of_labels("small", network.config.labels), Frame(image, "rgb8"), image)
    assert [layer.stride for layer in watched.layers] == [0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{image}", "--at", "100,3"], "--at 100,3: the image has 100x70 pixels"),
        (["{image}", "--at", "1x3"], "'1x3' is not of the form --at 320,240"),
        (["{image}", "--frame", "1"], "there is no frame 1 that can be read; numbers count from 0"),
        (["{image}", "--frame", "other"], "there is no frame other that can be read"),
        (["street", "--frame", "other"], "--frame other: frames of a street have numbers, from 0"),
        (["/no/such.png"], "/no/such.png"),
    ],
)
def test_bad_input_is_one_line(arguments, message, small_model, tmp_path):
    cv2.imwrite(str(tmp_path / "frame.png"), IMAGE)
    arguments = [one.format(image=tmp_path / "frame.png") for one in arguments]
    done = run(*arguments, "--model", small_model, "--out", tmp_path / "out")
    assert done.exit_code != 0 and message in done.output + str(done.exception)
    assert not (tmp_path / "out" / "explain.html").exists()
