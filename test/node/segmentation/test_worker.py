"""The two threads of the worker, with a pipeline that only notes what it gets."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from m2f_ros.errors import ConfigError, FrameError
from m2f_ros.node.segmentation.counts import Counts
from m2f_ros.node.segmentation.inbox import Inbox
from m2f_ros.pipeline import Frame
from m2f_ros.pipeline.resize import Placement

pytest.importorskip("rclpy", reason="rclpy is absent")
pytest.importorskip("m2f_ros.msg", reason="the messages of m2f_ros are not built")
from m2f_ros.node.segmentation import decoding, sizes, worker
from m2f_ros.node.segmentation.frame_job import FrameJob
from m2f_ros.node.segmentation.worker import Worker

TIMEOUT = 240.0


class NotingPipeline:
    """Takes frames of any size; networks of equal size for frames of equal height. `gate` holds up every submission.

    Sizes are ready but for `slow` ones, (network, batch): they become so with a permit of `permits`.
    """

    builds_in_background = finds_segments = scores_classes = True

    def __init__(self):
        self.slow: set[tuple[tuple[int, int], int]] = set()
        self.used: list[tuple[int, int]] = []
        self.preparing, self.permits = threading.Semaphore(0), threading.Semaphore(0)
        self.resize = SimpleNamespace(place=lambda height, width: Placement((height, 32), (height, 32)))
        self.batches: list[tuple[list[str], frozenset[str]]] = []
        self.resets: list[str] = []
        self.threads: set[str] = set()
        self.entered, self.gate = threading.Semaphore(0), threading.Semaphore(0)
        self.closed = False

    def ready(self, network, batch=1):
        return (network, batch) not in self.slow

    def ready_networks(self):
        return [(32, 32)] if ((32, 32), 1) not in self.slow else []

    def build_network(self, network, batch):
        assert threading.current_thread().name == "sizes"
        self.preparing.release()
        assert self.permits.acquire(timeout=TIMEOUT)
        if network[0] == 666:
            raise ConfigError("the network cannot be converted")
        self.slow.discard((network, batch))

    def submit_batch(self, frames, want, streams, placements):
        self.used += [placement.network for placement in placements]
        self.threads.add(threading.current_thread().name)
        self.entered.release()
        assert self.gate.acquire(timeout=TIMEOUT)
        self.batches.append((list(streams), want))
        if "fails" in streams:
            raise FrameError("too little memory")
        return Results([SimpleNamespace(stages={"network": 1.0}) for _ in frames])

    def tidy(self, seconds):
        pass

    def reset(self, stream):
        self.resets.append(stream)

    def close(self):
        self.threads.add(threading.current_thread().name)
        self.closed = True


class Results:
    def __init__(self, results):
        self._results = results

    def __enter__(self):
        return self._results

    def __exit__(self, *error):
        pass


def outputs(wanted) -> SimpleNamespace:
    return SimpleNamespace(wanted=wanted, needed=lambda names: names)


class NotingCamera:
    """Counts as Camera does; `answered` after so many frames that were published or failed."""

    def __init__(self, name: str, wanted=("label",)):
        self.name, self.active, self.counts = name, True, Counts()
        self.outputs = outputs(lambda: frozenset(wanted))
        self.answered = threading.Semaphore(0)
        self.stamps: list[float] = []

    def expect(self, job):
        assert job.wanted == job.needed

    def publish(self, job, result):
        assert job.wanted == self.outputs.wanted() and job.began >= job.came
        self.stamps.append(job.stamp / 1e9)
        self.counts.segment(1.0)
        self.answered.release()

    def fail(self, error):
        self.counts.fail(str(error))
        self.answered.release()


def arrival(camera: NotingCamera, stamp: float = 0.0, height: int = 32, epoch: int = 0, decode=None) -> FrameJob:
    """decode: called before the frame is there, in another thread than the pipeline's."""
    header = SimpleNamespace(stamp=SimpleNamespace(sec=int(stamp), nanosec=round(stamp % 1 * 1e9)))
    frame = Frame(np.zeros((height, 40), np.uint8), "mono8")

    def decoded() -> Frame:
        if decode is not None:
            assert threading.current_thread().name == f"decoder {camera.name}"
            decode()
        return frame

    return FrameJob(camera, header, decoded, 0.0, epoch, decode is not None)


class Setup:
    def __init__(self, *cameras: NotingCamera, batch: int = 4):
        self.cameras, self.pipeline = cameras, NotingPipeline()
        self.said: list[str] = []
        self.spoke = threading.Semaphore(0)
        self.inbox = Inbox([camera.name for camera in cameras])
        self.worker = Worker(
            lambda: self.pipeline, self.inbox, slots=1, batch=lambda _: batch, window=0.02, say=self._say
        )

    def _say(self, line: str) -> None:
        self.said.append(line)
        self.spoke.release()

    def blocked(self) -> None:
        """Put a frame of the first camera into the pipeline, where it stays: what comes next has to wait."""
        self.put(arrival(self.cameras[0]))
        assert self.pipeline.entered.acquire(timeout=TIMEOUT)

    def put(self, *arrivals: FrameJob) -> None:
        for one in arrivals:
            self.inbox.put(one.camera.name, one)

    def go(self, *cameras: NotingCamera) -> None:
        """Let the pipeline go on until each of these has had an answer."""
        for _ in range(10):
            self.pipeline.gate.release()
        for camera in cameras:
            assert camera.answered.acquire(timeout=TIMEOUT)

    def close(self) -> None:
        assert self.worker.close(TIMEOUT)


@pytest.fixture
def made():
    setups: list[Setup] = []

    def make(*cameras, **options) -> Setup:
        setups.append(Setup(*cameras, **options))
        return setups[-1]

    yield make
    for setup in setups:
        setup.go()
        setup.close()
        assert setup.pipeline.closed
        assert setup.pipeline.threads == {"pipeline"}


def test_frames_of_one_moment_and_size_go_together(made):
    a, b, c, d = (NotingCamera(name) for name in "abcd")
    b.outputs = outputs(lambda: frozenset({"overlay"}))
    setup = made(a, b, c, d)
    setup.blocked()
    setup.put(arrival(b, 5.00), arrival(c, 5.01), arrival(d, 5.01, height=64), arrival(a, 9.0))
    setup.go(a, a, b, c, d)
    batches = [(sorted(streams), want) for streams, want in setup.pipeline.batches]
    assert batches == [
        (["a"], {"label"}),
        (["b", "c"], {"label", "overlay"}),
        (["d"], {"label"}),
        (["a"], {"label"}),
    ]
    assert setup.worker.times.recent() == {"network": (1.0,) * 4}


def test_a_batch_has_at_most_so_many(made):
    cameras = [NotingCamera(name) for name in "abcde"]
    setup = made(*cameras, batch=2)
    setup.blocked()
    setup.put(*map(arrival, cameras))
    setup.go(cameras[0], *cameras)
    assert [len(streams) for streams, _ in setup.pipeline.batches] == [1, 2, 2, 1]


def test_a_frame_that_fails_harms_no_other(made):
    good, fails, broken = NotingCamera("good"), NotingCamera("fails"), NotingCamera("broken")
    setup = made(good, fails, broken, batch=1)
    setup.blocked()

    def decode():
        raise RuntimeError("no image")

    setup.put(arrival(fails), FrameJob(broken, arrival(broken).header, decode, 0.0, 0), arrival(good))
    setup.go(good, fails, broken, good)
    assert (good.counts.tally().segmented, good.counts.tally().bad) == (2, 0)
    assert fails.counts.tally().error == "too little memory"
    assert broken.counts.tally().error == "no image"


def test_what_nobody_wants_any_more_is_dropped(made):
    a, silent, inactive = NotingCamera("a"), NotingCamera("silent", wanted=()), NotingCamera("inactive")
    setup = made(a, silent, inactive)
    setup.blocked()
    inactive.active = False
    setup.put(arrival(silent), arrival(inactive), arrival(a))
    setup.go(a, a)
    assert silent.counts.tally().dropped == {"unwanted": 1}
    assert inactive.counts.tally().dropped == {"deactivated": 1}


def test_what_was_kept_of_a_camera_is_forgotten_when_its_time_jumps(made):
    a, b = NotingCamera("a"), NotingCamera("b")
    setup = made(a, b)
    for epoch in (0, 0, 1, 1):
        setup.put(arrival(a, epoch=epoch), arrival(b))
        setup.go(a, b)
    assert setup.pipeline.resets == ["a"]


def test_drained_means_that_nothing_is_inside(made):
    a = NotingCamera("a")
    setup = made(a)
    setup.blocked()
    assert not setup.worker.drain(0.01)
    setup.go()
    assert setup.worker.drain(TIMEOUT)
    assert a.counts.tally().segmented == 1


def test_a_size_that_is_not_ready_holds_up_nobody_else_and_the_newest_frame_waits_for_it(made, monkeypatch):
    monkeypatch.setattr(sizes, "SLOW", 0.0)
    a, b = NotingCamera("a"), NotingCamera("b")
    setup = made(a, b)
    setup.pipeline.slow = {((64, 32), 1), ((96, 32), 1)}
    for stamp in (1.0, 2.0, 3.0):
        setup.put(arrival(a, stamp, height=64))
        setup.put(arrival(b, stamp + 0.5))
        setup.go(b)
    assert setup.spoke.acquire(timeout=TIMEOUT)
    assert setup.worker.busy_since is not None
    setup.pipeline.permits.release()
    setup.go(a)
    assert (a.stamps, a.counts.tally().dropped, b.stamps) == ([3.0], {"newer": 2}, [1.5, 2.5, 3.5])
    setup.put(arrival(a, 4.0, height=64))
    setup.go(a)
    line = "the model is being prepared for images of 40x64 (32x64 in the network); what comes meanwhile is dropped"
    assert setup.said == [f"{line} for newer images"]
    assert setup.worker.busy_since is None


def test_one_that_waits_for_its_size_makes_way_for_a_newer_one_that_does_not(made):
    a = NotingCamera("a")
    setup = made(a)
    setup.pipeline.slow = {((64, 32), 1)}
    setup.put(arrival(a, 1.0, height=64))
    assert setup.pipeline.preparing.acquire(timeout=TIMEOUT)
    setup.put(arrival(a, 2.0))
    setup.go(a)
    setup.pipeline.permits.release()
    setup.put(arrival(a, 3.0, height=64))
    setup.go(a)
    assert a.stamps == [2.0, 3.0]


def test_a_camera_that_keeps_changing_its_size_is_stretched_to_one_that_is_ready(made):
    a, b = NotingCamera("a"), NotingCamera("b")
    setup = made(a, b)
    heights = range(64, 64 + 32 * (sizes.SIZES_OF_CAMERA + 5), 32)
    setup.pipeline.slow = {((height, 32), 1) for height in heights}
    for height in heights:
        setup.pipeline.permits.release()
        setup.put(arrival(a, height, height))
        setup.go(a)
        setup.put(arrival(b, height))
        setup.go(b)
    assert len(setup.pipeline.slow) == 5
    assert setup.pipeline.used[::2] == [*((h, 32) for h in heights[: sizes.SIZES_OF_CAMERA]), *[(32, 32)] * 5]
    assert setup.pipeline.used[1::2] == [(32, 32)] * len(heights)
    assert (a.counts.tally().stretched, b.counts.tally().stretched) == (5, 0)
    (line,) = setup.said
    assert line.startswith("a changes the size of its images more often")


def test_a_camera_may_have_another_size_after_a_while():
    allowance = sizes.Allowance()
    assert [allowance.take(100.0 + i) for i in range(3)] == [True, True, False]
    assert [allowance.take(t) for t in (159.9, 160.1, 160.2, 279.9, 280.1)] == [False, True, False, False, True]
    assert [allowance.take(t) for t in (9999.0, 9999.0, 9999.0)] == [True, True, False]
    # One that keeps asking gets one an hour in the end.
    assert 24 <= sum(allowance.take(10_000.0 + second) for second in range(0, 24 * 3600, 10)) <= 27


def test_a_size_that_cannot_be_made_ready_is_asked_for_once_and_its_frames_are_bad(made):
    a, b = NotingCamera("a"), NotingCamera("b")
    setup = made(a, b)
    setup.pipeline.slow = {((666, 32), 1)}
    setup.pipeline.permits.release()
    for stamp in range(3):
        setup.put(arrival(a, stamp, height=666))
        setup.put(arrival(b, stamp))
        setup.go(a, b)
    assert (a.counts.tally().bad, a.counts.tally().error) == (3, "the network cannot be converted")
    assert b.counts.tally().segmented == 3


def test_a_batch_that_is_not_ready_goes_one_by_one(made):
    a, b = NotingCamera("a"), NotingCamera("b")
    setup = made(a, b)
    setup.pipeline.slow = {((32, 32), 2)}
    setup.blocked()
    setup.put(arrival(a), arrival(b))
    setup.go(a, a, b)
    setup.pipeline.permits.release()
    assert [len(streams) for streams, _ in setup.pipeline.batches] == [1, 1, 1]


def test_a_decode_that_does_not_end_holds_up_its_camera_alone(made, monkeypatch):
    monkeypatch.setattr(decoding, "PATIENCE", 0.0)
    a, b, c = (NotingCamera(name) for name in "abc")
    setup = made(a, b, c)
    begun, end = threading.Event(), threading.Event()

    def decode():
        begun.set()
        assert end.wait(TIMEOUT)

    setup.put(arrival(a, 1.0, decode=decode))
    assert begun.wait(TIMEOUT)
    for stamp in range(2, 5):
        setup.put(arrival(b, stamp), arrival(c, stamp, decode=lambda: None), arrival(a, stamp, decode=lambda: None))
        setup.go(b, c)
    assert setup.worker.drain(TIMEOUT)
    end.set()
    setup.go(a, a)
    assert (a.stamps, b.stamps, c.stamps) == ([1.0, 4.0], [2.0, 3.0, 4.0], [2.0, 3.0, 4.0])


def test_compressed_frames_of_one_moment_go_together_once_all_are_decoded(made, monkeypatch):
    monkeypatch.setattr(decoding, "PATIENCE", TIMEOUT)
    a, b, c = (NotingCamera(name) for name in "abc")
    setup = made(a, b, c)
    setup.blocked()
    first = threading.Event()
    setup.put(arrival(b, decode=lambda: first.wait(TIMEOUT)), arrival(c, decode=first.set), arrival(a))
    setup.go(a, a, b, c)
    assert [sorted(streams) for streams, _ in setup.pipeline.batches] == [["a"], ["a", "b", "c"]]


def test_what_nobody_wants_is_not_decoded(made):
    a, b = NotingCamera("a"), NotingCamera("b")
    setup = made(a, b)
    b.active = False
    decoded = []
    setup.put(arrival(b, decode=lambda: decoded.append(1)), arrival(a))
    setup.go(a)
    assert b.counts.tally().dropped == {"deactivated": 1}
    assert not decoded


def test_a_frame_is_asked_once_which_outputs_are_wanted(made):
    a = NotingCamera("a")
    answers = iter([frozenset({"label"}), frozenset({"overlay"})])
    a.outputs = outputs(lambda: next(answers))
    a.publish = lambda job, result: a.answered.release()
    setup = made(a)
    for _ in range(2):
        setup.put(arrival(a, decode=lambda: None))
        setup.go(a)
    assert setup.pipeline.batches == [(["a"], {"label"}), (["a"], {"overlay"})]


def test_a_frame_that_was_being_decoded_when_its_camera_was_deactivated_is_dropped(made):
    a, b = NotingCamera("a"), NotingCamera("b")
    setup = made(a, b)
    begun, end = threading.Event(), threading.Event()

    def decode():
        begun.set()
        assert end.wait(TIMEOUT)

    setup.put(arrival(a, 1.0, decode=decode))
    assert begun.wait(TIMEOUT)
    a.active = False
    end.set()
    deadline = time.monotonic() + TIMEOUT
    while not a.counts.tally().dropped and time.monotonic() < deadline:
        setup.put(arrival(b, 2.0))
        setup.go(b)
    assert a.counts.tally().dropped == {"deactivated": 1} and not a.stamps


def test_a_frame_that_waited_for_its_size_is_asked_again(made):
    a, b = NotingCamera("a"), NotingCamera("b")
    setup = made(a, b)
    setup.pipeline.slow = {((64, 32), 1)}
    setup.put(arrival(a, 1.0, height=64))
    assert setup.pipeline.preparing.acquire(timeout=TIMEOUT)
    asked = threading.Semaphore(0)
    a.outputs = outputs(lambda: asked.release() or frozenset())
    setup.pipeline.permits.release()
    assert asked.acquire(timeout=TIMEOUT)
    setup.put(arrival(b, 2.0))
    setup.go(b)
    assert a.counts.tally().dropped == {"unwanted": 1} and not a.stamps


def test_a_worker_closes_while_a_frame_is_decoded_and_a_size_made_ready(made):
    a, b = NotingCamera("a"), NotingCamera("b")
    setup = made(a, b)
    setup.pipeline.slow = {((64, 32), 1)}
    end, begun = threading.Event(), threading.Event()

    def decode():
        begun.set()
        assert end.wait(TIMEOUT)

    setup.put(arrival(a, decode=decode), arrival(b, height=64))
    assert begun.wait(TIMEOUT) and setup.pipeline.preparing.acquire(timeout=TIMEOUT)
    setup.close()
    assert setup.pipeline.closed
    assert sorted(thread.name for thread in setup.worker.others if thread.is_alive()) == ["decoder a", "sizes"]
    end.set()
    setup.pipeline.permits.release()
    for thread in setup.worker.others:
        thread.join(TIMEOUT)
        assert not thread.is_alive()


def test_a_pipeline_that_cannot_be_made_is_told():
    def load():
        raise FrameError("no memory for the model")

    worker = Worker(load, Inbox(["a"]), slots=2, batch=lambda _: 1, window=0.0, say=print)
    with pytest.raises(FrameError, match="no memory"):
        worker.loaded.result(TIMEOUT)
    assert worker.close(TIMEOUT)


def test_memory_that_cannot_be_given_back_ends_nothing(made, monkeypatch):
    monkeypatch.setattr(worker, "TIDY_PERIOD", -1.0)
    camera = NotingCamera("")
    setup = made(camera)
    monkeypatch.setattr(setup.pipeline, "tidy", lambda seconds: 1 / 0)
    for _ in range(2):
        setup.put(arrival(camera))
        setup.go(camera)
    assert setup.spoke.acquire(timeout=TIMEOUT)
    assert "ZeroDivisionError" in setup.said[0] and camera.counts.tally().bad == 0
