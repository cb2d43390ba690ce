"""Tuning changes the outputs from a known frame on, and captured graphs follow it."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2f_ros.errors import ConfigError
from m2f_ros.model import heads
from m2f_ros.pipeline import Tuning

sys.path.insert(0, str(Path(__file__).parent))
from stub import LABELS, frame, on_cpu, pipeline

EVERYTHING = frozenset({"label", "overlay", "color", "confidence", "shares", "panoptic"})
PALETTE = np.array([[128, 0, 0], [0, 128, 0], [128, 128, 0]])  # of a, b and c, as VOC has them


@pytest.fixture(scope="module", autouse=True)
def static_shapes():
    """On a CPU the panoptic head leaves out what cannot win; the device that is played here could not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["m2f_ros.model.heads.panoptic"], "on_host", lambda tensor: False)
        yield


def bgr(frame):
    return frame.data[..., ::-1].astype(int)


def mixed(frame, colours, weight):
    return (bgr(frame) * (256 - weight) + colours * weight + 128) // 256


def warm():
    """A pipeline whose graph is there."""
    pipe, *_ = pipeline(slots=1)
    for _ in range(2):
        pipe.segment(frame(), EVERYTHING)
    assert pipe.counters["captures"] == 1
    return pipe


def test_color_is_each_class_in_its_colour():
    result = on_cpu().segment(frame(), {"label", "color"})
    assert result.color.dtype == np.uint8
    np.testing.assert_array_equal(result.color, PALETTE[result.label][..., ::-1])
    assert len(np.unique(result.label)) == 3


@pytest.mark.parametrize("alpha, weight", [(0.0, 0), (0.25, 64), (1.0, 256)])
def test_alpha(alpha, weight):
    pipe = warm()
    pipe.tuning = Tuning(alpha=alpha)
    result = pipe.segment(frame(1), EVERYTHING)
    colours = PALETTE[result.label][..., ::-1]
    np.testing.assert_array_equal(result.overlay, mixed(frame(1), colours, weight))
    np.testing.assert_array_equal(result.color, colours)
    assert pipe.counters["captures"] == 1


@pytest.mark.parametrize(
    "hidden, highlighted, in_overlay, in_color",
    [({1}, {}, {0, 2}, {0, 2}), ({}, {2}, {2}, {0, 1, 2}), ({0}, {0, 1}, {1}, {1, 2}), ({0, 1, 2}, {}, {}, {})],
)
def test_hidden_and_highlighted_classes(hidden, highlighted, in_overlay, in_color):
    pipe = warm()
    label = pipe.segment(frame(1), EVERYTHING).label
    pipe.tuning = Tuning(hidden=hidden, highlighted=highlighted)
    result = pipe.segment(frame(1), EVERYTHING)
    np.testing.assert_array_equal(result.label, label)
    colours = PALETTE[label][..., ::-1]
    shown = np.isin(label, list(in_overlay))[..., None]
    np.testing.assert_array_equal(result.overlay, np.where(shown, mixed(frame(1), colours, 128), bgr(frame(1))))
    np.testing.assert_array_equal(result.color, colours * np.isin(label, list(in_color))[..., None])
    assert pipe.counters["captures"] == 1


def test_labels_of_little_confidence_become_unlabelled():
    pipe = warm()
    plain = pipe.segment(frame(1), EVERYTHING)
    level = int(np.median(plain.confidence))
    pipe.tuning = Tuning(min_confidence=level / 255)
    result = pipe.segment(frame(1), EVERYTHING)
    unsure = plain.confidence < level
    assert unsure.any() and (plain.confidence == level).any()
    np.testing.assert_array_equal(result.label, np.where(unsure, 255, plain.label))
    np.testing.assert_array_equal(result.confidence, plain.confidence)
    np.testing.assert_array_equal(result.overlay, np.where(unsure[..., None], bgr(frame(1)), plain.overlay))
    np.testing.assert_array_equal(result.color, plain.color * ~unsure[..., None])
    counts = np.bincount(result.label.flatten(), minlength=256)[[0, 1, 2, 255]]
    np.testing.assert_array_equal(result.shares, (counts / unsure.size).astype(np.float32))


def test_a_filter_needs_one_more_graph_and_follows_its_threshold():
    pipe = warm()
    for level in (0.5, 0.6, 0.7, 1.0):
        pipe.tuning = Tuning(min_confidence=level)
        result = pipe.segment(frame(1), EVERYTHING)
        np.testing.assert_array_equal(result.label == 255, result.confidence < round(level * 255))
    pipe.tuning = Tuning(min_confidence=0.001)  # less than half a level
    assert pipe.segment(frame(1), EVERYTHING).label.max() < 3
    assert pipe.counters["captures"] == 2


def test_confidence_is_computed_only_where_it_is_needed(monkeypatch):
    asked, semantic = [], heads.semantic
    monkeypatch.setattr(heads, "semantic", lambda *args: asked.append(args[4]) or semantic(*args))
    pipe = on_cpu()
    pipe.segment(frame(), EVERYTHING - {"confidence"})
    pipe.segment(frame(), {"confidence"})
    pipe.tuning = Tuning(min_confidence=0.5)
    assert pipe.segment(frame(), {"shares"}).confidence is None
    pipe.segment(frame(), {"panoptic"})
    assert asked == [False, True, True]


@pytest.mark.parametrize("thresholds", [(0.0, 0.0), (0.9, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_panoptic_thresholds(thresholds):
    pipe = warm()
    expected = on_cpu(tuning=Tuning(score_threshold=thresholds[0], overlap_threshold=thresholds[1]))
    pipe.tuning = expected.tuning
    found, wanted = (p.segment(frame(1), EVERYTHING) for p in (pipe, expected))
    np.testing.assert_array_equal(found.ids, wanted.ids)
    assert found.segments == wanted.segments
    assert len(found.segments) == {(0.0, 0.0): 3, (0.9, 0.0): 3}.get(thresholds, 0)
    assert pipe.counters["captures"] == 1


def test_it_holds_from_the_next_frame_on_and_the_host_waits_for_nothing():
    pipe, device, _ = pipeline(slots=2)
    for _ in range(4):
        pipe.segment(frame(), EVERYTHING)
    waits = device.waits
    before = pipe.submit(frame(1), EVERYTHING)
    pipe.tuning = Tuning(alpha=1.0, hidden={0})
    after = pipe.submit(frame(1), EVERYTHING)
    assert device.waits == waits
    with before as first, after as second:
        np.testing.assert_array_equal(first.overlay, mixed(frame(1), PALETTE[first.label][..., ::-1], 128))
        np.testing.assert_array_equal(
            second.overlay, np.where(second.label[..., None] == 0, bgr(frame(1)), PALETTE[second.label][..., ::-1])
        )
    assert device.races() == []


tunings = st.builds(
    Tuning,
    alpha=st.floats(0, 1),
    hidden=st.frozensets(st.integers(0, 2)),
    highlighted=st.frozensets(st.integers(0, 2)),
    min_confidence=st.sampled_from([0.0, 0.4, 0.5]),
    score_threshold=st.sampled_from([0.0, 0.8, 1.0]),
    overlap_threshold=st.sampled_from([0.0, 0.3, 0.8]),
    mask_threshold=st.sampled_from([0.5, 0.75]),
)
steps = st.tuples(
    tunings,
    st.sets(st.sampled_from(sorted(EVERYTHING)), min_size=1),
    st.integers(0, 3),
    st.sampled_from(["front", "left"]),
    st.booleans(),
)


@settings(deadline=None, max_examples=40)
@given(st.lists(steps, max_size=12), st.sampled_from([1.0, 0.4]), st.sampled_from([0.0, 0.5]))
def test_a_graph_gives_what_its_operations_give(steps, output_scale, smoothing):
    options = {"output_scale": output_scale, "smoothing": smoothing}
    pipes = [pipeline(2, True, **options)[0], pipeline(1, False, **options)[0], on_cpu(**options)]
    for tuning, want, seed, stream, jump in steps:
        results = []
        for pipe in pipes:
            pipe.tuning = tuning
            if jump:
                pipe.reset(stream)
            with pipe.submit(frame(seed), want, stream=stream) as result:
                own = {
                    name: np.copy(x)
                    for name, x in {**result.images, "shares": result.shares}.items()
                    if isinstance(x, np.ndarray)
                }
                results.append((own, result.segments))
        (first, segments), *others = results
        assert first.keys() == want
        for other, other_segments in others:
            assert other_segments == segments
            for name in first:
                np.testing.assert_array_equal(other[name], first[name], name)


@pytest.mark.parametrize("name", ["alpha", "min_confidence", "score_threshold", "overlap_threshold", "mask_threshold"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_numbers_out_of_range(name, value):
    with pytest.raises(ConfigError, match=f"^{name} is {value}; it must be 0 to 1$"):
        Tuning(**{name: value})


@pytest.mark.parametrize("name", ["hidden", "highlighted"])
@pytest.mark.parametrize("wrong", [-1, len(LABELS)])
def test_a_class_that_there_is_not_changes_nothing(name, wrong):
    pipe = on_cpu()
    with pytest.raises(ConfigError, match=f"^{name}: there is no class {wrong}; the train ids are 0 to 2$"):
        pipe.tuning = Tuning(alpha=1.0, **{name: [0, wrong]})
    assert pipe.tuning == Tuning()
    with pytest.raises(ConfigError, match="there is no class"):
        on_cpu(tuning=Tuning(**{name: [wrong]}))
