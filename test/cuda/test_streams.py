"""Uploads, work and downloads overlap, and the host waits for nothing but a frame's own result."""

import re
import time
from collections import Counter

import numpy as np
import pytest
import torch
from torch.autograd import DeviceType

from m2f_ros import taxonomy
from m2f_ros.model import MaskClassification, load
from m2f_ros.pipeline import Frame, Pipeline

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
ALL = frozenset({"label", "overlay", "confidence"})
LONG = 200_000_000  # clock cycles: about a tenth of a second


class Slow:
    """A backend whose work on the device takes long and on the host nothing."""

    name, dtype = "slow", torch.float32

    def __init__(self, config):
        self.config = config
        generator = torch.Generator("cuda").manual_seed(0)
        shapes = (20, config.num_classes + 1), (20, 64, 64)
        self._logits = [torch.randn(1, *shape, device="cuda", generator=generator) for shape in shapes]

    def build(self, size, batch=1):
        pass

    def __call__(self, pixels):
        torch.cuda._sleep(LONG)
        return MaskClassification(*self._logits)


@pytest.fixture
def slow(small_model):
    model = load(small_model)
    return Pipeline(model, taxonomy.get("cityscapes"), device="cuda", backend=Slow(model.config))


def picture(seed=0, size=(512, 512)):
    return Frame(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8), "rgb8")


def runtime_calls(profiler, region):
    """CUDA's functions that the host called inside the regions of a name (record_function), and how often."""
    events = list(profiler.events())
    regions = [e.time_range for e in events if e.name == region and e.device_type == DeviceType.CPU]
    return Counter(
        event.name
        for event in events
        if re.match(r"cu(da)?[A-Z]", event.name) and any(r.start <= event.time_range.start <= r.end for r in regions)
    )


def warm(pipe, frame, want=ALL):
    for _ in range(3 * len(pipe._slots)):
        pipe.segment(frame, want)


@pytest.mark.parametrize("graphs", [True, False])
def test_the_next_frame_goes_up_while_this_one_is_computed(small_model, graphs) -> None:
    model = load(small_model)
    pipe = Pipeline(
        model, taxonomy.get("cityscapes"), device="cuda", backend=Slow(model.config), graphs=graphs, slots=2
    )
    warm(pipe, picture())
    first, second = pipe.submit(picture(1), ALL), pipe.submit(picture(2), ALL)
    slots = first._slot, second._slot
    for ticket in (first, second):
        ticket.result()
    # Milliseconds from the one event to the other, on the device's clock.
    assert slots[1]._uploaded.elapsed_time(slots[0]._computed) > 0
    # The work itself is in order, and the first result came down while the second frame was computed.
    assert slots[0]._computed.elapsed_time(slots[1]._computed) > 0
    assert slots[0]._done.elapsed_time(slots[1]._computed) > 0
    first.release()
    second.release()


def test_submit_returns_while_the_device_works(slow) -> None:
    warm(slow, picture())
    ticket = slow.submit(picture(1), ALL)
    assert not ticket._slot._done.query()
    with ticket as result:
        assert ticket._slot._done.query()
        assert result.label.shape == (512, 512)


def test_a_result_waits_for_its_own_frame_only(slow) -> None:
    warm(slow, picture())
    first, second = slow.submit(picture(1), ALL), slow.submit(picture(2), ALL)
    with first:
        assert not second._slot._done.query()
    with second:
        pass


@pytest.mark.parametrize("want", [{"label"}, ALL, {"panoptic"}], ids=lambda want: "+".join(sorted(want)))
@pytest.mark.parametrize("graphs", [True, False])
def test_submit_does_not_wait_for_the_device_as_torch_sees_it(pipeline, street, want, graphs) -> None:
    pipe = pipeline(graphs=graphs)
    frames = street(4)
    warm(pipe, frames[0], want)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for frame in frames:
            ticket = pipe.submit(frame, want)
            ticket.result()
            ticket.release()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_no_synchronise_in_steady_state_as_the_profiler_sees_it(pipeline, street) -> None:
    pipe = pipeline()
    frames = street(6)
    warm(pipe, frames[0])
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    flying = []
    with torch.profiler.profile(activities=activities) as profiler:
        for i in range(12):
            if len(flying) == 2:
                with torch.profiler.record_function("m2f result"), flying.pop(0):
                    pass
            with torch.profiler.record_function("m2f submit"):
                flying.append(pipe.submit(frames[i % 6], ALL))
        for ticket in flying:
            with torch.profiler.record_function("m2f result"), ticket:
                pass
    submit, result = (runtime_calls(profiler, name) for name in ("m2f submit", "m2f result"))
    assert submit["cudaGraphLaunch"] == 12, dict(submit)
    waits = ("Synchronize", "Malloc", "HostAlloc", "Free", "GraphInstantiate", "BeginCapture")
    assert not [name for name in submit if any(wait in name for wait in waits)], dict(submit)
    assert not {"cudaMemcpy", "cudaMemset"} & (set(submit) | set(result))
    # The host waits for the frame's own event.
    assert {name for name in result if "Synchronize" in name} <= {"cudaEventSynchronize"}, dict(result)
    assert result["cudaEventSynchronize"] >= 12


def test_a_thread_may_wait_while_another_captures(pipeline, street) -> None:
    import threading

    pipe = pipeline(slots=2)
    frames = street(4)
    warm(pipe, frames[0])
    ticket = pipe.submit(frames[1], ALL)
    labels = []

    def wait() -> None:
        for _ in range(100):
            labels.append(ticket.result().label.copy())
            time.sleep(0)

    waiting = threading.Thread(target=wait)
    waiting.start()
    other = street(1, 96, 160)[0]
    for _ in range(3):  # the second one is captured, on the slot that is free
        pipe.segment(other, ALL)
    waiting.join()
    ticket.release()
    assert pipe.counters["fallbacks"] == 0
    assert all(np.array_equal(label, labels[0]) for label in labels)
