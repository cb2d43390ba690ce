"""Networks that hand something from frame to frame: each stream has its own, with graphs and without."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2f_ros.errors import FrameError
from m2f_ros.pipeline import Resize
from m2f_ros.pipeline.per_stream import MOST_STREAMS

sys.path.insert(0, str(Path(__file__).parent))
from stub import Remembering, frame, on_cpu, pipeline

WANT = {"label", "memory"}
FIXED = Resize("fixed", height=32, width=64)
START = np.array([0.5, -0.5, 0.0], np.float32)


def means(frame):
    """Mean of the normalised colours of the network's input."""
    pipe = on_cpu(Remembering, resize=FIXED)
    pipe.restore("", np.zeros(3, np.float32))
    return pipe.segment(frame, WANT).memory


def same(result, memory):
    np.testing.assert_allclose(result.memory, memory, rtol=0, atol=1e-5)


@pytest.fixture(params=["graphs", "no graphs", "CPU"])
def make(request):
    """Makes a pipeline of a network with memory."""
    if request.param == "CPU":
        return lambda **options: on_cpu(Remembering, resize=FIXED, **options)
    return lambda **options: pipeline(2, request.param == "graphs", of=Remembering, resize=FIXED, **options)[0]


def test_each_stream_has_a_memory_of_its_own(make):
    pipe, memories = make(), {}
    for i in range(12):
        stream = ("front", "left", "right")[i % 3]
        memories[stream] = memories.get(stream, START) / 2 + means(frame(i))
        with pipe.submit(frame(i), WANT, stream=stream) as result:
            same(result, memories[stream])


def test_frames_of_a_batch_have_theirs(make):
    pipe, memories = make(), [START, START]
    for i in range(4):
        frames = [frame(i), frame(9 - i, 64)]
        memories = [memory / 2 + means(image) for image, memory in zip(frames, memories, strict=True)]
        order = [0, 1] if i % 2 else [1, 0]
        with pipe.submit_batch([frames[j] for j in order], WANT, streams=[("a", "b")[j] for j in order]) as results:
            for j, result in zip(order, results, strict=True):
                same(result, memories[j])


def test_a_reset_is_of_one_stream_or_all(make):
    pipe = make()

    def fresh(stream):
        with pipe.submit(frame(1), WANT, stream=stream) as result:
            return np.allclose(result.memory, START / 2 + means(frame(1)), atol=1e-5)

    assert (fresh("a"), fresh("b")) == (True, True)
    pipe.reset("a")
    pipe.reset("never seen")
    assert (fresh("a"), fresh("b")) == (True, False)
    pipe.reset()
    assert (fresh("a"), fresh("b")) == (True, True)


def test_smoothing_goes_with_it(make):
    pipe, memory = make(smoothing=0.5), START
    for i in range(6):
        memory = memory / 2 + means(frame(i))
        same(pipe.segment(frame(i), WANT if i % 2 else {"memory", "panoptic"}), memory)


def test_a_result_stays_as_it_was(make):
    pipe = make()
    first = pipe.submit(frame(1), WANT)
    before = first.result().memory.copy()
    with pipe.submit(frame(2), WANT):
        np.testing.assert_array_equal(first.result().memory, before)
    first.release()


def test_streams_share_graphs_and_the_memory_of_graphs():
    pipe, device, _ = pipeline(slots=2, of=Remembering)
    for i in range(20):
        pipe.submit(frame(i), stream=str(i % 5)).release()
    assert pipe.counters["captures"] == 2
    assert len({id(memory.past[0]) for slot in pipe._slots for memory in slot._kept.values()}) == 1
    assert device.races() == []


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("ab"), st.sampled_from([32, 64])), max_size=8))
def test_frames_in_flight_do_not_race(steps):
    pipe, device, _ = pipeline(slots=2, of=Remembering, resize=FIXED)
    flying, memories = [], {}
    for seed, stream, height in steps:
        memories[stream] = memories.get(stream, START) / 2 + means(frame(seed, height))
        if len(flying) == 2:
            ticket, wanted = flying.pop(0)
            with ticket as result:
                same(result, wanted)
        waits = device.waits
        flying.append((pipe.submit(frame(seed, height), WANT, stream=stream), memories[stream]))
        assert device.waits == waits
    for ticket, wanted in flying:
        with ticket as result:
            same(result, wanted)
    assert device.races() == []


def test_so_many_streams_are_kept(make):
    pipe = make()
    for number in range(MOST_STREAMS + 1):
        pipe.submit(frame(1), {"label"}, stream=str(number)).release()
    assert len(pipe._segmenter.memory._kept) == MOST_STREAMS
    for number, after in ((1, START / 2 + means(frame(1))), (0, START)):  # the oldest is forgotten
        with pipe.submit(frame(1), WANT, stream=str(number)) as result:
            same(result, after / 2 + means(frame(1)))


def test_a_batch_must_name_its_streams(make):
    pipe = make()
    with pytest.raises(FrameError, match="the network's memory needs a stream for each of 2 frames"):
        pipe.submit_batch([frame(), frame()])
    with pytest.raises(FrameError, match="need streams of their own for the network's memory"):
        pipe.submit_batch([frame(), frame()], streams=["a", "a"])
