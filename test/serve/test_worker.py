"""Batches of requests."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))
from stub import frame, on_cpu

from m2f_ros.errors import ConfigError
from m2f_ros.pipeline.images import ImageSegmenter, Thresholds
from m2f_ros.serve.worker import BusyError, Worker

DEFAULT = Thresholds()


class Held:
    """A worker whose first batch is held until `go`, so that what is submitted meanwhile waits."""

    def __init__(self, **options):
        self.sizes, self.go, self.began = [], threading.Event(), threading.Event()
        self.worker = Worker(ImageSegmenter(on_cpu()), **{"batch": 3, "wait": 0, "waiting": 9} | options)
        self.worker.on_batch = self.note

    def note(self, size):
        self.sizes.append(size)
        self.began.set()
        assert self.go.wait(600)

    def first(self):
        future = self.worker.submit(frame(0), "semantic", DEFAULT)
        assert self.began.wait(600)
        return future


def label(future):
    return future.result(600).label


def test_waiting_images_become_batches_of_one_key():
    held = Held()
    futures = [held.first()]
    jobs = [
        (1, 64, DEFAULT),
        (2, 96, DEFAULT),
        (3, 64, DEFAULT),
        (4, 64, Thresholds(0.5)),
        (5, 64, DEFAULT),
        (6, 64, DEFAULT),
    ]
    pictures = [frame(0), *(frame(seed, 32, width) for seed, width, _ in jobs)]
    futures += [
        held.worker.submit(picture, "semantic", job[2]) for picture, job in zip(pictures[1:], jobs, strict=True)
    ]
    assert held.worker.waiting == 6
    held.go.set()
    for picture, future in zip(pictures, futures, strict=True):
        np.testing.assert_array_equal(label(future), on_cpu().segment(picture, {"label"}).label)
    held.worker.close()
    # Alone; the first, third and fifth; the second; the fourth; the sixth.
    assert sorted(held.sizes[1:]) == [1, 1, 1, 3] and held.worker.waiting == 0


def test_thresholds_are_each_requests_own():
    held = Held()
    held.first()
    futures = [held.worker.submit(frame(1), "panoptic", Thresholds(threshold)) for threshold in (0.9, 0.99999, 0.9)]
    held.go.set()
    assert [len(future.result(600).segments) for future in futures] == [3, 0, 3]
    held.worker.close()


def test_no_more_than_some_wait():
    held = Held(waiting=2)
    held.first()
    futures = [held.worker.submit(frame(1), None, DEFAULT) for _ in range(2)]
    with pytest.raises(BusyError, match="2 images wait already"):
        held.worker.submit(frame(1), None, DEFAULT)
    held.go.set()
    assert all(future.result(600) for future in futures)
    held.worker.close()


def test_what_nobody_waits_for_is_not_segmented():
    held = Held(batch=1)
    held.first()
    gone, wanted = (held.worker.submit(frame(1), None, DEFAULT) for _ in range(2))
    assert gone.cancel()
    held.go.set()
    wanted.result(600)
    held.worker.close()
    assert held.sizes == [1, 1]


def test_close_finishes_what_waits():
    held = Held()
    futures = [held.first(), *(held.worker.submit(frame(1, 32, 32 * n), None, DEFAULT) for n in (1, 2, 3))]
    closing = threading.Thread(target=held.worker.close)
    closing.start()
    held.go.set()
    closing.join(600)
    assert all(future.done() and not future.exception() for future in futures)
    with pytest.raises(BusyError, match="the server is stopping"):
        held.worker.submit(frame(1), None, DEFAULT)
    held.worker.close()


def test_an_error_reaches_every_request_of_the_batch_and_no_other(monkeypatch):
    held = Held(batch=2)
    held.go.set()
    really = held.worker.segmenter.pipeline.submit_batch

    def broken(*arguments):
        monkeypatch.setattr(held.worker.segmenter.pipeline, "submit_batch", really)
        raise RuntimeError("the device is broken")

    monkeypatch.setattr(held.worker.segmenter.pipeline, "submit_batch", broken)
    with pytest.raises(RuntimeError, match="the device is broken"):
        held.worker.submit(frame(1), None, DEFAULT).result(600)
    assert held.worker.submit(frame(1), None, DEFAULT).result(600).segments
    held.worker.close()


def test_parameters_are_checked_before_they_wait():
    held = Held()
    held.go.set()
    with pytest.raises(ConfigError, match="there is no subtask"):
        held.worker.submit(frame(1), "depth", DEFAULT)
    assert held.worker.waiting == 0
    held.worker.close()
