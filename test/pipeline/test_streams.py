"""The calls to CUDA that capture a graph, with a CUDA that is not there."""

import contextlib
import gc
import itertools
import weakref

import pytest
import torch

from m2f_ros.pipeline.streams import CaptureError, Cuda


class Graph:
    calls: list
    ends: list[bool]  # whether the next ends of captures succeed; later ones do

    def capture_begin(self, **options):
        self.calls.append(("begin", options.pop("pool", None), options))

    def capture_end(self):
        self.calls.append("end")
        if self.ends and not self.ends.pop(0):
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture\nmore lines")

    def replay(self):
        self.calls.append("replay")


@pytest.fixture
def calls(monkeypatch):
    calls, handles = [], itertools.count(1)
    monkeypatch.setattr(Graph, "calls", calls, raising=False)
    monkeypatch.setattr(Graph, "ends", [], raising=False)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: object())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, next(handles)))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("empty cache"))
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        monkeypatch.setattr(torch._C, name, lambda *of, name=name: calls.append((name, *of)), raising=False)
    return calls


def cuda():
    return Cuda(torch.device("cpu", 0))  # only tensors are made there


def pools(calls) -> list:
    """The pool of each capture."""
    return [call[1] for call in calls if call[0] == "begin"]


MODE = {"capture_error_mode": "thread_local"}


def test_a_capture_shares_memory_and_bears_with_other_threads(calls):
    device = cuda()
    replay, other = (device.capture(lambda: calls.append("work")) for _ in range(2))
    replay(), other()
    first, second = calls[:4], calls[4:8]
    assert first == second == ["empty cache", ("begin", pools(calls)[0], MODE), "work", "end"]
    assert calls[8:] == ["replay", "replay"]


def test_a_pool_ends_with_its_last_graph(calls):
    # torch refuses another capture into such a pool.
    device = cuda()
    kept = [device.capture(lambda: None)]
    device.capture(lambda: None)
    gc.collect()
    device.capture(lambda: None)
    kept.clear()
    gc.collect()
    kept.append(device.capture(lambda: None))
    device.capture(lambda: None)
    first, *same, other, last = pools(calls)
    assert same == [first, first] and other == last != first


@pytest.mark.parametrize("before", [True, False])
def test_nothing_is_collected_during_a_capture(calls, before):
    was = gc.isenabled()
    try:
        (gc.enable if before else gc.disable)()
        cuda().capture(lambda: calls.append(gc.isenabled()))
        with pytest.raises(CaptureError):
            cuda().capture(lambda: 1 / 0)
        assert False in calls and True not in calls
        assert gc.isenabled() is before
    finally:
        (gc.enable if was else gc.disable)()


def test_work_that_cannot_be_captured_ends_the_capture(calls):
    def work():
        raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors might be …")

    with pytest.raises(CaptureError, match=r"^operation not permitted when stream is capturing$"):
        cuda().capture(work)
    assert calls[-1] == "end"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), KeyboardInterrupt()])
def test_short_memory_and_interrupts_stay_such(calls, error):
    def work():
        raise error

    with pytest.raises(type(error)):
        cuda().capture(work)
    assert calls[-1] == "end"


def test_a_capture_that_another_call_has_spoiled(calls):
    # The first end is the capture's own, the second that of its failure.
    Graph.ends[:] = [False, False]
    device = cuda()
    with pytest.raises(CaptureError, match=r"previous error during capture$"):
        device.capture(lambda: None)
    pool = pools(calls)[0]
    assert calls[2:] == [
        *("end", "end"),
        *(("_cuda_endAllocateToPool", 0, pool), ("_cuda_releasePool", 0, pool)),
        *(("begin", None, MODE), "end"),  # which ends the generator's capture
    ]
    device.capture(lambda: None)
    assert pools(calls)[-1] != pool


def test_a_spoiled_capture_leaves_a_pool_to_the_graphs_in_it(calls):
    device = cuda()
    kept = device.capture(lambda: None)
    Graph.ends[:] = [False, False]
    with pytest.raises(CaptureError):
        device.capture(lambda: None)
    gc.collect()
    later = [device.capture(lambda: None) for _ in range(2)]
    first, spoiled, _, *new = pools(calls)
    assert first == spoiled and new[0] == new[1] != first
    del kept, later


def test_a_capture_that_did_not_begin_keeps_the_pool_s_count(calls, monkeypatch):
    def refuse(*of):
        raise RuntimeError("endAllocatePool: not currently recording to mempool_id")

    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", refuse)
    Graph.ends[:] = [False, False]
    with pytest.raises(CaptureError):
        cuda().capture(lambda: None)
    assert "_cuda_releasePool" not in [call[0] for call in calls]


def test_a_device_that_has_failed_reports_its_first_error(calls):
    Graph.ends[:] = [False, False, False]
    with pytest.raises(CaptureError, match="previous error during capture"):
        cuda().capture(lambda: None)


@pytest.mark.parametrize("spoiled", [True, False])
def test_a_spoiled_graph_outlives_its_pipeline(calls, monkeypatch, spoiled):
    # torch's allocator of pinned memory goes on to ask it whether memory is its own.
    made = []
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: made.append(weakref.ref(graph := Graph())) or graph)
    Graph.ends[:] = [False] if spoiled else []
    with pytest.raises(CaptureError):
        cuda().capture(lambda: 1 / 0)
    gc.collect()
    assert (made[0]() is not None) is spoiled
