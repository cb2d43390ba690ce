"""Open-loop arrivals, with a clock that moves only when told to."""

import threading

import pytest

from m2f_ros.benchmark.arrivals import latency_at_rate


class Clock:
    """Moves when somebody sleeps or works."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def pass_by(self, seconds):
        self.now += seconds


def measure(work_s, rate, count):
    clock, taken = Clock(), []

    def start(index):
        taken.append(index)
        clock.pass_by(work_s[min(len(taken), len(work_s)) - 1])

    return latency_at_rate(start, lambda ticket: None, rate, count, 1, clock, clock.pass_by), taken


def test_quick_enough_drops_nothing():
    found, taken = measure([0.02], rate=8, count=16)
    assert taken == list(range(16))
    assert (found.arrived, found.done, found.dropped) == (16, 16, 0)
    assert found.p50_ms == found.p99_ms == pytest.approx(20)
    assert found.jitter_ms == pytest.approx(0, abs=1e-6)


def test_too_slow_takes_the_newest():
    # 0.5 s each at 8 Hz. Frame 0 is done at 0.5, when 4 arrives, which is done at 1.0, when 8 arrives, …
    found, taken = measure([0.5], rate=8, count=16)
    assert taken == [0, 4, 8, 12, 15]
    assert found.dropped == 11
    assert found.p50_ms == pytest.approx(500)
    # 12 is done at 2.0; the last, 15, came at 1.875.
    assert found.max_ms == pytest.approx(625)


def test_one_slow_frame_is_seen_in_the_tail_and_in_those_that_wait():
    # Frame 0 takes until 0.55: of 1 to 4 the newest, 4, has waited since 0.5.
    found, taken = measure([0.55, 0.01], rate=8, count=8)
    assert taken == [0, 4, 5, 6, 7]
    assert found.max_ms == pytest.approx(550)
    assert found.p50_ms == pytest.approx(10)
    assert found.dropped == 3


def test_several_in_flight_are_finished_by_another_thread():
    here, finished, most, flying = threading.get_ident(), [], [], []
    lock = threading.Lock()

    def start(index):
        with lock:
            flying.append(index)
            most.append(len(flying))
        return index

    def finish(ticket):
        assert threading.get_ident() != here
        with lock:
            flying.remove(ticket)
        finished.append(ticket)

    found = latency_at_rate(start, finish, rate=2000, count=40, in_flight=2)
    assert max(most) <= 2
    assert finished == sorted(finished) and finished[-1] == 39
    assert found.done == len(finished) and found.done + found.dropped == 40


def test_a_failure_of_the_other_thread_is_raised_here():
    def finish(ticket):
        raise RuntimeError("device lost")

    with pytest.raises(RuntimeError, match="device lost"):
        latency_at_rate(lambda index: index, finish, rate=2000, count=3, in_flight=2)
