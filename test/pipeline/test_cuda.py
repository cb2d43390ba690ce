"""The pipeline on a real CUDA device: graphs, streams, precision, memory."""

import gc
import threading

import numpy as np
import pytest
import torch

from m2f_ros import taxonomy
from m2f_ros.errors import FrameError
from m2f_ros.model import load
from m2f_ros.pipeline import Frame, Pipeline, Resize, Tuning
from m2f_ros.replay.street import Street

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

ALL = {"label", "overlay", "color", "confidence", "shares", "panoptic"}


def pipeline(**options):
    return Pipeline(load("street"), taxonomy.get("cityscapes"), device="cuda", **options)


def frames(count, height=480, width=640, seed=3):
    street = Street(seed=seed, width=width, height=height)
    return [Frame(street.frame(i).image, "rgb8") for i in range(0, 10 * count, 10)]


def arrays(result):
    return {name: value.copy() for name, value in vars(result).items() if isinstance(value, np.ndarray)}


@pytest.mark.parametrize("options", [{}, {"smoothing": 0.5}, {"output_scale": 0.5}])
def test_a_graph_gives_what_its_operations_give(options):
    eager, graphs = pipeline(graphs=False, **options), pipeline(slots=1, **options)
    for i, frame in enumerate(frames(6)):
        eager.tuning = graphs.tuning = Tuning(alpha=i / 6, hidden={i}, score_threshold=i / 6)
        expected, found = arrays(eager.segment(frame, ALL)), arrays(graphs.segment(frame, ALL))
        assert expected.keys() == found.keys() == ALL - {"panoptic"} | {"ids"}
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, name)
    assert graphs.counters == {"captures": 1, "evictions": 0, "fallbacks": 0}


def test_frames_in_flight_keep_apart_while_another_thread_reads():
    # Sizes change under way, so that graphs are captured while the other thread waits for results.
    pipe, alone = pipeline(slots=3), pipeline(graphs=False, slots=1)
    stream = [frame for pair in zip(frames(12), frames(12, 240, 320), strict=True) for frame in pair]
    tickets, found = [], {}

    def read():
        for i in range(len(stream)):
            ready.acquire()
            with tickets[i] as result:
                found[i] = arrays(result)

    ready = threading.Semaphore(0)
    reader = threading.Thread(target=read)
    reader.start()
    for frame in stream:
        tickets.append(pipe.submit(frame))
        ready.release()
    reader.join()
    for i, frame in enumerate(stream):
        np.testing.assert_array_equal(found[i]["label"], alone.segment(frame).label, str(i))
    assert pipe.counters["captures"] == 6
    assert pipe.counters["fallbacks"] == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_nothing_waits_for_the_device_between_submit_and_result(smoothing):
    pipe, (frame,) = pipeline(slots=2, smoothing=smoothing, tuning=Tuning(min_confidence=0.5)), frames(1)
    for i in range(6):
        pipe.tuning = Tuning(alpha=i / 6, min_confidence=0.5)
        pipe.segment(frame, ALL)
    with torch.profiler.profile() as profile:
        torch.cuda.set_sync_debug_mode("error")
        try:
            tickets = []
            for alpha in (0.2, 0.8):
                pipe.tuning = Tuning(alpha=alpha, min_confidence=0.4)
                tickets.append(pipe.submit(frame, ALL))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        with torch.profiler.record_function("results"):
            pass
        for ticket in tickets:
            ticket.release()
    events = sorted(profile.events(), key=lambda event: event.time_range.start)
    end = next(event.time_range.start for event in events if event.name == "results")
    called = {event.name for event in events if event.time_range.start < end}
    assert "cudaGraphLaunch" in called
    assert not {name for name in called if "Synchronize" in name}


def test_memory_is_flat_over_2000_frames():
    pipe, stream = pipeline(), frames(4)
    taken = []
    for i in range(2000):
        pipe.segment(stream[i % 4])
        if i in (100, 1999):
            taken.append((torch.cuda.memory_allocated(), torch.cuda.memory_reserved()))
    assert taken[0] == taken[1]


def test_a_closed_pipeline_gives_its_memory_back():
    pipe = pipeline(smoothing=0.5)
    for frame in frames(4):
        pipe.segment(frame, ALL)
    gc.collect()
    before = torch.cuda.memory_allocated()
    weights = sum(p.numel() * p.element_size() for p in pipe._backend.model.parameters())
    pipe.close()
    gc.collect()
    # Not all of it: libraries keep work space of each stream.
    assert torch.cuda.memory_allocated() < before - weights


def test_half_precision_agrees_with_float32():
    half, full = pipeline(), pipeline(precision="fp32")
    equal = [(half.segment(f).label == full.segment(f).label).mean() for f in frames(10)]
    assert np.mean(equal) >= 0.995


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_other_precisions(precision):
    other, full = pipeline(precision=precision), pipeline(precision="fp32")
    equal = [(other.segment(f).label == full.segment(f).label).mean() for f in frames(5)]
    assert np.mean(equal) >= 0.98


def test_cuda_agrees_with_the_cpu():
    cuda = pipeline(precision="fp32")
    cpu = Pipeline(load("street"), taxonomy.get("cityscapes"), device="cpu", backend="eager")
    equal = [(cuda.segment(f).label == cpu.segment(f).label).mean() for f in frames(5)]
    assert np.mean(equal) >= 0.995  # levels beside each other where the frame is shrunk


def test_a_batch_of_cameras():
    resize = Resize("fixed", height=352, width=480)
    pipe, cameras = pipeline(resize=resize, precision="fp32"), [*frames(3), *frames(1, 240, 320)]
    for _ in range(3):
        with pipe.submit_batch(cameras, {"label"}) as results:
            labels = [result.label.copy() for result in results]
    for label, camera in zip(labels, cameras, strict=True):
        assert (label == pipe.segment(camera).label).mean() >= 0.999


def test_memory_that_does_not_suffice_falls_back_and_recovers(caplog):
    pipe, (frame,) = pipeline(), frames(1)
    for _ in range(4):
        label = pipe.segment(frame).label
    total = torch.cuda.get_device_properties(pipe.device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved() + (8 << 20)) / total))
    try:
        large = Frame(np.zeros((8192, 8192, 3), np.uint8), "rgb8")
        with pytest.raises(FrameError, match=r"too little memory for a frame of 8192x8192 .*: lower max_pixels"):
            pipe.submit(large)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "CUDA graphs are given up" in caplog.text
    np.testing.assert_array_equal(pipe.segment(frame).label, label)
