"""Test-time augmentation and windows: equal to averaging by hand."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from m2f_ros.errors import ConfigError
from m2f_ros.model import load
from m2f_ros.model.heads import semantic_scores
from m2f_ros.pipeline import Frame, Pipeline, Tuning
from m2f_ros.pipeline.colour import resampled
from m2f_ros.pipeline.resize import Placement, Resize
from m2f_ros.pipeline.views import Views

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "model"))
import adapted
from stub import frame as blocks
from stub import on_cpu, pipeline

IMAGE = np.random.default_rng(0).integers(0, 256, (96, 160, 3), np.uint8)


@pytest.fixture(scope="module")
def network(small_model):
    return load(str(small_model))


def make(network, **options):
    return Pipeline(network, network.config.taxonomy, device="cpu", backend="eager", **options)


def resized(maps, size):
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def scores_by_hand(network, image, size, frame_size, flip):
    """Scores (1, classes, *frame_size) of the whole image at a size."""
    pixels = torch.from_numpy(image[:, ::-1].copy() if flip else image).permute(2, 0, 1)[None].float()
    pixels = resampled(pixels.to(torch.uint8), size)
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (network.config.mean, network.config.std))
    with torch.no_grad():
        result = network((pixels - mean) / std)
    scores = semantic_scores(result.class_logits, result.mask_logits, size)
    scores = resized(scores, frame_size)
    return scores.flip(-1) if flip else scores


@pytest.mark.parametrize("flip", [False, True])
def test_scales_and_flip_equal_the_mean_by_hand(flip, network):
    result = make(network, views=Views((0.6, 1.0), flip)).segment(
        Frame(IMAGE, "rgb8"), {"label", "confidence", "shares"}
    )
    passes = [(size, side) for size in ((64, 96), (96, 160)) for side in ((False, True) if flip else (False,))]
    mean = sum(scores_by_hand(network, IMAGE, size, (96, 160), side) for size, side in passes)[0] / len(passes)
    best = mean.topk(2, 0).values
    certain = (best[0] - best[1] > 1e-4 * best[0]).numpy()
    assert certain.mean() > 0.99
    np.testing.assert_array_equal(result.label[certain], mean.argmax(0).numpy()[certain])
    confidence = (255 * best[0] / mean.sum(0)).numpy()
    assert np.abs(result.confidence - confidence)[certain].max() <= 1
    np.testing.assert_allclose(
        result.shares, np.bincount(result.label.ravel(), minlength=20) / result.label.size, atol=1e-6
    )


def test_one_scale_of_one_is_the_plain_way(network):
    assert not Views()
    for views in (Views.parse("1"), Views.parse(windows="96x160"), Views.parse(windows="128x1024")):
        plain, averaged = (make(network, **more).segment(Frame(IMAGE, "rgb8")) for more in ({}, {"views": views}))
        assert (plain.label == averaged.label).mean() > 0.999


def test_windows_equal_the_mean_by_hand(network):
    views = Views(window=(64, 96), overlap=0.25)
    result = make(network, views=views).segment(Frame(IMAGE, "rgb8"), {"label"})
    total, count = torch.zeros(1, 19, 96, 160), torch.zeros(1, 1, 96, 160)
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (network.config.mean, network.config.std))
    pixels = (torch.from_numpy(IMAGE).permute(2, 0, 1)[None].float() - mean) / std
    for top in (0, 32):
        for left in (0, 64):
            with torch.no_grad():
                part = network(pixels[..., top : top + 64, left : left + 96])
            total[..., top : top + 64, left : left + 96] += semantic_scores(
                part.class_logits, part.mask_logits, (64, 96)
            )
            count[..., top : top + 64, left : left + 96] += 1
    scores = (total / count)[0]
    best = scores.topk(2, 0).values
    certain = (best[0] - best[1] > 1e-4 * best[0]).numpy()
    np.testing.assert_array_equal(result.label[certain], scores.argmax(0).numpy()[certain])
    assert certain.mean() > 0.99


def test_pixel_logits_are_averaged_as_probabilities(tmp_path):
    adapted.write("segformer", tmp_path)
    network = load(str(tmp_path))
    from m2f_ros.taxonomy import of_labels

    image = adapted.picture(64, 96)
    pipe = Pipeline(
        network, of_labels("small", network.config.labels), device="cpu", backend="eager", views=Views(flip=True)
    )
    result = pipe.segment(Frame(image, "rgb8"), {"label"})
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (network.config.mean, network.config.std))
    pixels = (torch.from_numpy(image).permute(2, 0, 1)[None].float() - mean) / std
    with torch.no_grad():
        one, other = (resized(network(x).logits, (64, 96)).softmax(1) for x in (pixels, pixels.flip(-1)))
    scores = (one + other.flip(-1))[0]
    best = scores.topk(2, 0).values
    certain = (best[0] - best[1] > 1e-4).numpy()
    np.testing.assert_array_equal(result.label[certain], scores.argmax(0).numpy()[certain])


sides = st.integers(1, 12).map(lambda n: 32 * n)


@given(sides, sides, sides, sides, st.sampled_from([0.0, 0.25, 0.5, 0.9]), st.sampled_from([0.5, 1.0, 1.7]))
def test_windows_cover_the_frame_and_overlap(height, width, rows, columns, overlap, scale):
    placement = Placement((height - 3, width - 5), (height, width))
    views = Views((scale,), window=(rows, columns), overlap=overlap)
    (view,) = views.of(placement, 32)
    whole = view.placement.network
    assert whole[0] % 32 == 0 and whole[1] % 32 == 0 and views.sizes((height, width), 32) == [view.size]
    seen = np.zeros(whole, int)
    for top, left in view.windows:
        assert top + view.size[0] <= whole[0] and left + view.size[1] <= whole[1]
        seen[top : top + view.size[0], left : left + view.size[1]] += 1
    assert seen.min() >= 1
    for axis in (0, 1):
        starts = sorted({window[axis] for window in view.windows})
        for one, other in pairwise(starts):
            assert one + view.size[axis] - other >= int(overlap * view.size[axis]) - 1


def test_masks_filters_and_encodings_hold():
    views = Views((0.5, 1.0), flip=True)
    plain, averaged = on_cpu(tuning=Tuning(min_confidence=0.4)), on_cpu(tuning=Tuning(min_confidence=0.4), views=views)
    picture = np.full((32, 64, 3), 200, np.uint8)
    picture[:, 32:, 0] = 10
    for pipe in (plain, averaged):
        result = pipe.segment(Frame(picture[..., ::-1].copy(), "bgr8"), {"label", "overlay", "color", "confidence"})
        assert result.overlay.shape == (32, 64, 3) and result.label.shape == (32, 64)
    frames = [Frame(picture, "rgb8"), blocks(1)]
    with averaged.submit_batch(frames, {"label"}) as results:
        batch = [result.label.copy() for result in results]
    for one, frame in zip(batch, frames, strict=True):
        np.testing.assert_array_equal(one, averaged.segment(frame, {"label"}).label)


def test_a_graph_gives_what_its_operations_give():
    views = Views((0.5, 1.0), flip=True)
    captured, device, network = pipeline(2, True, views=views)
    plain = on_cpu(views=views)
    for seed in range(4):
        found, wanted = (pipe.segment(blocks(seed), {"label", "overlay"}) for pipe in (captured, plain))
        np.testing.assert_array_equal(found.label, wanted.label)
        np.testing.assert_array_equal(found.overlay, wanted.overlay)
    assert captured.counters["captures"] == 2 and device.races() == []
    assert {size for size, batch in network.built} == {(32, 32), (32, 64)} and all(
        batch == 1 for _, batch in network.built
    )


@pytest.mark.parametrize(
    ("tta", "windows", "expected"),
    [
        ("", "", Views()),
        ("flip", "", Views(flip=True)),
        ("0.75, 1, 1.25 + flip", "", Views((0.75, 1.0, 1.25), True)),
        ("0.5", "512x1024", Views((0.5,), window=(512, 1024))),
    ],
)
def test_texts(tta, windows, expected):
    assert Views.parse(tta, windows) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("1,x",), "tta is '1,x'; take scales and flip, as in 0.75,1,1.25.flip, or flip"),
        (("1+mirror",), "tta is '1.mirror'"),
        (("1+",), "tta is '1.'"),
        (("+flip",), "tta is '.flip'"),
        (("1,1",), "tta: 1,1 has a scale twice, or none"),
        (("0.05",), "tta: scales are 0.05; they must be 0.1 to 4"),
        (("nan",), "they must be 0.1 to 4"),
        (("1,2,3,4,0.5",), "tta: 5 scales; at most 4 are kept ready"),
        (("", "512"), "windows is '512'; take HEIGHTxWIDTH, as in 512x1024"),
        (("", "64x64", 0.95), "window_overlap is 0.95; it must be 0 to 0.9"),
    ],
)
def test_wrong_texts(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Views.parse(*arguments)


def test_views_that_do_not_suit(network, tmp_path):
    with pytest.raises(ConfigError, match="windows: height and width must be multiples of 32: take 64x96"):
        make(network, views=Views(window=(60, 100)))
    with pytest.raises(ConfigError, match=r"smoothing is 0.5, beside tta or windows: take one of them"):
        make(network, views=Views(flip=True), smoothing=0.5)
    pipe = make(network, views=Views(flip=True))
    assert not pipe.finds_segments and not pipe.builds_in_background
    with pytest.raises(
        ConfigError, match="scores that tta and windows average have no segments: leave out output 'panoptic'"
    ):
        pipe.segment(Frame(IMAGE, "rgb8"), {"panoptic"})
    adapted.write("eomt", tmp_path)
    from m2f_ros.taxonomy import of_labels

    square = load(str(tmp_path))
    taxonomy = of_labels("small", square.config.labels)
    for views, message in (
        (Views((0.5, 1.0)), "tta: the network takes 64x64 alone: leave out the scales; flip is possible"),
        (Views(window=(32, 64)), "windows: the network takes 64x64 alone: take that"),
    ):
        with pytest.raises(ConfigError, match=message):
            Pipeline(square, taxonomy, device="cpu", backend="eager", views=views)


def test_resize_pads_views_as_it_pads_frames(network):
    """The label of padded views has the frame's size, and no label comes from padding."""
    pipe = make(network, resize=Resize("pad"), views=Views((0.7, 1.0), flip=True))
    image = np.ascontiguousarray(IMAGE[:83, :131])
    assert pipe.segment(Frame(image, "rgb8"), {"label"}).label.shape == (83, 131)
