"""Labels from the scores of a stream's frames so far, against sums written out."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m2f_ros.errors import ConfigError, FrameError
from m2f_ros.model import heads
from m2f_ros.pipeline import Frame, Resize

sys.path.insert(0, str(Path(__file__).parent))
from stub import frame, on_cpu, pipeline

WANT = {"label", "confidence"}
FIXED = Resize("fixed", height=32, width=64)
WEIGHT = 0.75


def scores(frame):
    """Class scores of the stub at the network's size."""
    pipe = on_cpu()
    pixels = pipe._segmenter._normalised(torch.from_numpy(frame.data), False, Resize().place(*frame.size))
    return heads.semantic_scores(*pipe._backend(pixels), tuple(pixels.shape[2:]))


def expected(total, size):
    label, confidence = heads.semantic_of_scores(total, size, True)
    return label[0].numpy(), confidence[0].numpy()


def assert_is(result, total):
    label, confidence = expected(total, result.label.shape)
    np.testing.assert_array_equal(result.label, label)
    np.testing.assert_allclose(result.confidence.astype(int), confidence.astype(int), atol=1)


@pytest.fixture(params=["graphs", "no graphs", "CPU"])
def make(request):
    """Makes a pipeline that smooths."""
    if request.param == "CPU":
        return lambda **options: on_cpu(smoothing=WEIGHT, **options)
    return lambda **options: pipeline(2, request.param == "graphs", smoothing=WEIGHT, **options)[0]


def test_a_label_needs_more_than_one_frame_to_change(make):
    red, green = (Frame(np.full((32, 64, 3), colour, np.uint8), "rgb8") for colour in [(255, 0, 0), (0, 255, 0)])
    pipe = make()
    labels = [np.unique(pipe.segment(image).label).tolist() for image in [red, red, green, green, green]]
    assert labels == [[0], [0], [0], [1], [1]]


def test_each_stream_has_a_past_of_its_own(make):
    pipe, totals = make(), {}
    for i in range(12):
        stream = ("front", "left", "right")[i % 3]
        totals[stream] = scores(frame(i)) + WEIGHT * totals.get(stream, 0)
        with pipe.submit(frame(i), WANT, stream=stream) as result:
            assert_is(result, totals[stream])


def test_frames_of_a_batch_have_theirs(make):
    pipe, totals = make(resize=FIXED), [0, 0]
    for i in range(4):
        frames = [frame(i), frame(9 - i)]
        totals = [scores(image) + WEIGHT * total for image, total in zip(frames, totals, strict=True)]
        order = [0, 1] if i % 2 else [1, 0]
        with pipe.submit_batch([frames[j] for j in order], WANT, streams=[("a", "b")[j] for j in order]) as results:
            for j, result in zip(order, results, strict=True):
                assert_is(result, totals[j])


def test_a_reset_is_of_one_stream_or_all(make):
    pipe = make()

    def alone(stream):
        with pipe.submit(frame(1), WANT, stream=stream) as result:
            label, confidence = expected(scores(frame(1)), (32, 64))
            return np.array_equal(result.label, label) and np.array_equal(result.confidence, confidence)

    assert (alone("a"), alone("b")) == (True, True)
    pipe.segment(frame(2))
    for stream in "ab":
        pipe.submit(frame(2), stream=stream).release()
    pipe.reset("a")
    pipe.reset("never seen")
    assert (alone("a"), alone("b")) == (True, False)
    pipe.submit(frame(2), stream="a").release()
    pipe.reset()
    assert (alone("a"), alone("b")) == (True, True)


def test_another_size_and_a_pause_of_labels_begin_anew(make):
    pipe = make()
    pipe.segment(frame(1), WANT)
    pipe.segment(frame(2, 64), WANT)
    assert_is(pipe.segment(frame(3), WANT), scores(frame(3)))
    pipe.segment(frame(4), {"panoptic"})
    assert_is(pipe.segment(frame(5), WANT), scores(frame(5)))


def test_another_place_in_the_network_begins_anew(make):
    pipe = make(resize=Resize("pad"))
    for size in ((32, 60), (28, 64)):
        found, alone = (p.segment(frame(1, *size), WANT) for p in (pipe, on_cpu(resize=Resize("pad"))))
        np.testing.assert_array_equal(found.label, alone.label)
        np.testing.assert_allclose(found.confidence.astype(int), alone.confidence.astype(int), atol=1)


def test_segments_are_of_the_frame_alone(make):
    pipe = make()
    for i in range(3):
        result, wanted = pipe.segment(frame(i), {"panoptic", "label"}), on_cpu().segment(frame(i), {"panoptic"})
        np.testing.assert_array_equal(result.ids, wanted.ids)


def test_streams_share_graphs_and_the_memory_of_graphs():
    pipe, device, _ = pipeline(slots=2, smoothing=WEIGHT)
    for i in range(20):
        pipe.submit(frame(i), stream=str(i % 5)).release()
    assert pipe.counters["captures"] == 2
    assert len({id(memory.past[0]) for slot in pipe._slots for memory in slot._kept.values()}) == 1
    assert device.races() == []


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("ab"), st.sampled_from([32, 64])), max_size=8))
def test_frames_in_flight_do_not_race(steps):
    pipe, device, _ = pipeline(slots=2, smoothing=WEIGHT)
    flying, totals = [], {}
    for seed, stream, height in steps:
        size, total = totals.get(stream, (height, 0))
        totals[stream] = height, scores(frame(seed, height)) + WEIGHT * (total if size == height else 0)
        if len(flying) == 2:
            ticket, wanted = flying.pop(0)
            with ticket as result:
                assert_is(result, wanted)
        waits = device.waits
        flying.append((pipe.submit(frame(seed, height), WANT, stream=stream), totals[stream][1]))
        assert device.waits == waits
    for ticket, wanted in flying:
        with ticket as result:
            assert_is(result, wanted)
    assert device.races() == []


def test_without_smoothing_there_is_no_past(monkeypatch):
    monkeypatch.setattr(heads, "smooth_scores", None)
    pipe = on_cpu(resize=FIXED)
    pipe.submit_batch([frame(), frame()], WANT).release()
    assert not pipe._segmenter.smoothing._kept


def test_a_batch_must_name_its_streams(make):
    pipe = make(resize=FIXED)
    for streams in (None, ["a"]):
        with pytest.raises(FrameError, match="smoothing needs a stream for each of 2 frames; name them in streams"):
            pipe.submit_batch([frame(), frame()], streams=streams)
    with pytest.raises(FrameError, match="streams of their own"):
        pipe.submit_batch([frame(), frame()], streams=["a", "a"])


@pytest.mark.parametrize("weight", [-0.1, 1.0, float("nan")])
def test_out_of_range(weight):
    with pytest.raises(ConfigError, match=f"smoothing is {weight}; it must be 0 or more, and below 1"):
        on_cpu(smoothing=weight)
