"""The two threads of the worker, with a pipeline that only notes what it gets."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from m2f_ros.errors import FrameError
from m2f_ros.node.counts import Counts
from m2f_ros.node.inbox import Inbox
from m2f_ros.pipeline import Frame

pytest.importorskip("rclpy", reason="rclpy is absent")
pytest.importorskip("m2f_ros.msg", reason="the messages of m2f_ros are not built")
from m2f_ros.node import worker as worker_module
from m2f_ros.node.camera import Arrival
from m2f_ros.node.worker import Worker

TIMEOUT = 30.0


class NotingPipeline:
    """Takes frames of any size; networks of equal size for frames of equal height. `gate` holds up every submission."""

    def __init__(self):
        self.resize = SimpleNamespace(fit=lambda height, width: SimpleNamespace(network=(height, 32)))
        self.batches: list[tuple[list[str], frozenset[str]]] = []
        self.resets: list[str] = []
        self.threads: set[str] = set()
        self.entered, self.gate = threading.Semaphore(0), threading.Semaphore(0)
        self.closed = False

    def submit_batch(self, frames, want, streams):
        self.threads.add(threading.current_thread().name)
        self.entered.release()
        assert self.gate.acquire(timeout=TIMEOUT)
        self.batches.append((list(streams), want))
        if "fails" in streams:
            raise FrameError("too little memory")
        return Results([SimpleNamespace(stages={"network": 1.0}) for _ in frames])

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


class NotingCamera:
    """Counts as Camera does; `answered` after so many frames that were published or failed."""

    def __init__(self, name: str, wanted=("label",)):
        self.name, self.active, self.counts = name, True, Counts()
        self.outputs = SimpleNamespace(wanted=lambda: frozenset(wanted))
        self.answered = threading.Semaphore(0)

    def publish(self, arrival, result, wanted, size, wait):
        assert wanted == self.outputs.wanted() and wait >= 0
        assert size == arrival.decode().size[::-1]
        self.counts.segment(1.0)
        self.answered.release()

    def fail(self, error):
        self.counts.fail(str(error))
        self.answered.release()


def arrival(camera: NotingCamera, stamp: float = 0.0, height: int = 32, epoch: int = 0, frame=None) -> Arrival:
    header = SimpleNamespace(stamp=SimpleNamespace(sec=int(stamp), nanosec=round(stamp % 1 * 1e9)))
    frame = Frame(np.zeros((height, 40), np.uint8), "mono8")
    return Arrival(camera, header, lambda: frame, 0.0, epoch)


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

    def put(self, *arrivals: Arrival) -> None:
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
    b.outputs = SimpleNamespace(wanted=lambda: frozenset({"overlay"}))
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

    setup.put(arrival(fails), Arrival(broken, arrival(broken).header, decode, 0.0, 0), arrival(good))
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


def test_the_first_frame_of_a_size_that_takes_long_is_said_once(made, monkeypatch):
    monkeypatch.setattr(worker_module, "SLOW", 0.0)
    a = NotingCamera("a")
    setup = made(a)
    setup.blocked()
    assert setup.spoke.acquire(timeout=TIMEOUT)
    setup.go(a)
    setup.blocked()
    setup.go(a)
    setup.put(arrival(a, height=64))
    assert setup.spoke.acquire(timeout=TIMEOUT)
    setup.go(a)
    line = "the model is being prepared for images of {0} (32x{1} in the network); what comes meanwhile is dropped"
    assert [said.removesuffix(" for newer images") for said in setup.said] == [
        line.format("40x32", 32),
        line.format("40x64", 64),
    ]


def test_a_pipeline_that_cannot_be_made_is_told():
    def load():
        raise FrameError("no memory for the model")

    worker = Worker(load, Inbox(["a"]), slots=2, batch=lambda _: 1, window=0.0, say=print)
    with pytest.raises(FrameError, match="no memory"):
        worker.loaded.result(TIMEOUT)
    assert worker.close(TIMEOUT)
