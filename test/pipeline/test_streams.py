"""The calls to CUDA that capture a graph, with a CUDA that is not there."""

import contextlib
import gc
import weakref

import pytest
import torch

from m2f_ros.pipeline.streams import CaptureError, Cuda


class Graph:
    calls: list
    end_fails = False

    def capture_begin(self, **options):
        self.calls.append(("begin", options))

    def capture_end(self):
        self.calls.append("end")
        if self.end_fails:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture\nmore lines")

    def replay(self):
        self.calls.append("replay")


@pytest.fixture
def calls(monkeypatch):
    calls = []
    monkeypatch.setattr(Graph, "calls", calls, raising=False)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: object())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    return calls


def cuda():
    return Cuda(torch.device("cuda", 0))


def test_a_capture_shares_memory_and_bears_with_other_threads(calls):
    replay = cuda().capture(lambda: calls.append("work"))
    replay()
    begin = ("begin", {"pool": (0, 1), "capture_error_mode": "thread_local"})
    assert calls == [begin, "work", "end", "replay"]


def test_work_that_cannot_be_captured_ends_the_capture(calls):
    def work():
        raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors might be …")

    with pytest.raises(CaptureError, match=r"^operation not permitted when stream is capturing$"):
        cuda().capture(work)
    assert calls[-1] == "end"


def test_short_memory_stays_short_memory(calls):
    def work():
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        cuda().capture(work)
    assert calls[-1] == "end"


def test_a_capture_that_another_call_has_spoiled(calls, monkeypatch):
    monkeypatch.setattr(Graph, "end_fails", True)
    with pytest.raises(CaptureError, match=r"previous error during capture$"):
        cuda().capture(lambda: None)


def test_a_failed_graph_outlives_its_capture(calls, monkeypatch):
    # torch's allocator goes on to ask it whether memory is its own.
    made = []
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: made.append(weakref.ref(graph := Graph())) or graph)
    device = cuda()
    with pytest.raises(CaptureError):
        device.capture(lambda: 1 / 0)
    gc.collect()
    assert made[0]() is not None
