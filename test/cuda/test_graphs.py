"""Captured CUDA graphs: the same results, captured no more often than needed, given up where they fail."""

import logging

import numpy as np
import pytest
import torch

from m2f_ros.pipeline import Frame, Resize, Tuning
from m2f_ros.pipeline.slots import MAX_KEYS, STEADY

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
ALL = frozenset({"label", "overlay", "confidence"})
SLOTS = 2


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_graphs_give_what_goes_without(pipeline, street, same, precision) -> None:
    graphs, plain = pipeline(precision=precision), pipeline(precision=precision, graphs=False)
    for frame in street(3 * SLOTS + 1):
        same(graphs.segment(frame, ALL), plain.segment(frame, ALL))
    assert graphs.counters == {"captures": SLOTS, "evictions": 0, "fallbacks": 0}
    assert plain.counters["captures"] == 0


def test_a_graph_reads_each_frame_anew(pipeline, street) -> None:
    pipe = pipeline()
    first, second = street(2)
    for _ in range(2 * SLOTS):
        pipe.segment(first, ALL)
    wanted = [pipe.segment(frame, ALL) for frame in (first, second)]
    assert not np.array_equal(wanted[0].label, wanted[1].label)
    for _ in range(3):
        for frame, result in zip((first, second), wanted, strict=True):
            again = pipe.segment(frame, ALL)
            assert np.array_equal(again.label, result.label)
            assert np.array_equal(again.overlay, result.overlay)


def test_many_frames_in_flight_keep_apart(pipeline, street, same) -> None:
    frames = street(6)
    pipe, plain = pipeline(slots=3), pipeline(graphs=False, slots=1)
    wanted = [plain.segment(frame, ALL) for frame in frames]
    flying = []
    for i in range(30):
        if len(flying) == 3:
            index, ticket = flying.pop(0)
            with ticket as result:
                same(result, wanted[index])
        flying.append((i % 6, pipe.submit(frames[i % 6], ALL)))
    for index, ticket in flying:
        with ticket as result:
            same(result, wanted[index])


def test_outputs_follow_the_tuning_without_another_capture(pipeline, street) -> None:
    pipe = pipeline(tuning=Tuning(alpha=0.0))
    (frame,) = street(1)
    for _ in range(2 * SLOTS):
        pipe.segment(frame, ALL)
    captures = pipe.counters["captures"]
    picture = pipe.segment(frame, ALL).overlay
    assert np.array_equal(picture, frame.data[..., ::-1])
    pipe.tuning = Tuning(alpha=1.0)
    colours = pipe.segment(frame, ALL)
    palette = pipe.taxonomy.palette()
    assert np.array_equal(colours.overlay, palette[colours.label][..., ::-1])
    common = int(np.bincount(colours.label.flatten()).argmax())
    pipe.tuning = Tuning(alpha=1.0, hidden=frozenset({common}))
    hidden = pipe.segment(frame, ALL).overlay
    shown = np.where((colours.label == common)[..., None], frame.data[..., ::-1], colours.overlay)
    assert np.array_equal(hidden, shown)
    assert pipe.counters["captures"] == captures


def test_sizes_change_in_mid_stream_and_graphs_are_bounded(pipeline, street, same) -> None:
    pipe, plain = pipeline(slots=1), pipeline(graphs=False, slots=1)
    sizes = [(64 + 32 * i, 96) for i in range(MAX_KEYS + 2)]
    frames = [street(1, *size)[0] for size in sizes]
    wanted = [plain.segment(frame, ALL) for frame in frames]
    for i in range(MAX_KEYS):
        for _ in range(3):
            same(pipe.segment(frames[i], ALL), wanted[i])
    assert pipe.counters == {"captures": MAX_KEYS, "evictions": 0, "fallbacks": 0}
    for i in range(MAX_KEYS):  # they are all still there
        same(pipe.segment(frames[i], ALL), wanted[i])
    assert pipe.counters["captures"] == MAX_KEYS
    for i in (MAX_KEYS, MAX_KEYS + 1, 0, MAX_KEYS + 1):
        for _ in range(3):
            same(pipe.segment(frames[i], ALL), wanted[i])
    # The last two took the places of the first two, and the first one came back: too briefly for a capture.
    assert pipe.counters == {"captures": MAX_KEYS, "evictions": 3, "fallbacks": 0}


@pytest.mark.parametrize("size", [(1, 1), (8, 300), (20, 20), (700, 40)])
def test_odd_sizes(pipeline, same, size) -> None:
    frame = Frame(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8), "bgr8")
    graphs, plain = pipeline(slots=1), pipeline(slots=1, graphs=False)
    for _ in range(3):
        same(graphs.segment(frame, ALL), plain.segment(frame, ALL), part=0.01)


@pytest.mark.parametrize("encoding, depth", [("mono8", 1), ("bayer_rggb8", 1), ("bgra8", 4), ("yuv422_yuy2", 2)])
def test_encodings(pipeline, same, encoding, depth) -> None:
    shape = (96, 128) if depth == 1 else (96, 128, depth)
    frame = Frame(np.random.default_rng(0).integers(0, 256, shape, np.uint8), encoding)
    graphs, plain = pipeline(slots=1), pipeline(slots=1, graphs=False)
    for _ in range(3):
        same(graphs.segment(frame, ALL), plain.segment(frame, ALL))
    assert graphs.counters["fallbacks"] == 0


@pytest.mark.parametrize("mode", ["pad", "longest"])
def test_padded_frames(pipeline, street, same, mode) -> None:
    resize = Resize(mode, longest=200)
    graphs, plain = pipeline(slots=1, resize=resize), pipeline(slots=1, graphs=False, resize=resize)
    for frame in street(3, 120, 180):
        same(graphs.segment(frame, ALL), plain.segment(frame, ALL))
    assert graphs.counters["fallbacks"] == 0


def test_panoptic_segments_are_captured_too(pipeline, street) -> None:
    graphs, plain = pipeline(slots=1, precision="fp32"), pipeline(slots=1, precision="fp32", graphs=False)
    for frame in street(4):
        found, wanted = (pipe.segment(frame, {"panoptic"}) for pipe in (graphs, plain))
        assert [s.train_id for s in found.segments] == [s.train_id for s in wanted.segments]
        assert (found.ids != wanted.ids).mean() <= 1e-4
    assert graphs.counters["captures"] == 1
    assert graphs.counters["fallbacks"] == 0


def test_what_cannot_be_captured_goes_without_graphs(pipeline, street, same, caplog) -> None:
    pipe, plain = pipeline(), pipeline(graphs=False)
    network = pipe._backend.model
    forward = network.forward

    def waits(pixels, plan):
        pixels.sum().item()  # reads from the device
        return forward(pixels, plan)

    network.forward = waits
    frames = street(4)
    with caplog.at_level(logging.WARNING, "m2f_ros.pipeline"):
        for frame in frames:
            same(pipe.segment(frame, ALL), plain.segment(frame, ALL))
    assert pipe.counters["fallbacks"] == 1
    assert pipe.counters["captures"] == 0
    assert len(caplog.records) == 1


def test_a_failed_capture_leaves_the_process_as_it_was(pipeline, street, same) -> None:
    frames = street(4)
    before, spoiled, plain = pipeline(), pipeline(), pipeline(graphs=False)
    wanted = [plain.segment(frame, ALL) for frame in frames]
    for frame in frames:
        before.segment(frame, ALL)
    forward = spoiled._backend.model.forward

    def waits(pixels, plan):
        pixels.sum().item()
        return forward(pixels, plan)

    spoiled._backend.model.forward = waits
    for frame in frames:
        spoiled.segment(frame, ALL)
    assert spoiled.counters["fallbacks"] == 1
    # Random numbers, memory, older graphs, and new captures.
    torch.randn(1, device="cuda")
    torch.cuda.empty_cache()
    reserved = torch.cuda.memory_reserved()
    torch.empty(64 << 20, dtype=torch.uint8, device="cuda")
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= reserved
    after = pipeline()
    for frame, result in zip(frames, wanted, strict=True):
        same(before.segment(frame, ALL), result)
        same(after.segment(frame, ALL), result)
    assert before.counters["fallbacks"] == after.counters["fallbacks"] == 0
    assert after.counters["captures"] > 0


def test_graphs_go_on_when_all_were_evicted(pipeline, street, same) -> None:
    pipe, plain = pipeline(slots=1), pipeline(graphs=False, slots=1)
    captured, *others = (street(1, 64 + 32 * i, 96)[0] for i in range(MAX_KEYS + 1))
    for _ in range(3):
        pipe.segment(captured, ALL)
    for frame in others:
        pipe.segment(frame, ALL)
    for _ in range(STEADY + 1):
        result = pipe.segment(others[-1], ALL)
    same(result, plain.segment(others[-1], ALL))
    assert pipe.counters == {"captures": 2, "evictions": 1, "fallbacks": 0}
