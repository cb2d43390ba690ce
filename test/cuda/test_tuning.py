"""Tuning, smoothing and scaled outputs: graphs follow, and nothing waits. A closed pipeline frees its memory."""

import gc

import numpy as np
import pytest
import torch

from m2f_ros import taxonomy
from m2f_ros.model import load
from m2f_ros.pipeline import Frame, Pipeline, Tuning
from m2f_ros.street import Street

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

ALL = {"label", "overlay", "color", "confidence", "shares", "panoptic"}


def pipeline(**options):
    return Pipeline(load("street"), taxonomy.get("cityscapes"), device="cuda", **options)


def frames(count, height=480, width=640, seed=3):
    street = Street(seed=seed, width=width, height=height)
    return [Frame(street.frame(i).image, "rgb8") for i in range(0, 10 * count, 10)]


def arrays(result):
    return {
        name: value.copy()
        for name, value in {**result.images, "shares": result.shares}.items()
        if isinstance(value, np.ndarray)
    }


@pytest.mark.parametrize("options", [{}, {"smoothing": 0.5}, {"output_scale": 0.5}])
def test_a_graph_gives_what_its_operations_give(options):
    eager, graphs = pipeline(graphs=False, **options), pipeline(slots=1, **options)
    for i, frame in enumerate(frames(6)):
        eager.tuning = graphs.tuning = Tuning(alpha=i / 6, hidden={i}, score_threshold=i / 6)
        expected, found = arrays(eager.segment(frame, ALL)), arrays(graphs.segment(frame, ALL))
        assert expected.keys() == found.keys() == ALL
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, name)
    assert graphs.counters == {"captures": 1, "evictions": 0, "fallbacks": 0}


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
