"""Statistics by hand; loops, open and closed, with a clock that moves only when told to."""

import threading

import numpy as np
import pytest
import torch

from m2f_ros.benchmark import measure as of
from m2f_ros.benchmark.measure import latency_at_rate, seconds_of
from m2f_ros.benchmark.result import Spread


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


@pytest.mark.parametrize("count, in_flight", [(0, 1), (1, 2), (5, 1), (7, 3)])
def test_so_many_are_in_flight_and_the_oldest_ends_first(count, in_flight):
    begun, ended, flying = [], [], []

    def start(i):
        begun.append(i)
        flying.append(len(begun) - len(ended))
        return f"ticket {i}"

    assert seconds_of(start, ended.append, count, in_flight) >= 0
    assert begun == list(range(count))
    assert ended == [f"ticket {i}" for i in begun]
    assert max(flying, default=0) == min(count, in_flight)


def test_spread_interpolates_between_neighbours():
    assert of.spread([40, 10, 20, 30]) == Spread(4, 10, 17.5, 25, 32.5, 40)
    assert of.spread([3.0]) == Spread(1, 3, 3, 3, 3, 3)


def test_agreement():
    labels = np.array([[[0, 1], [2, 3]]])
    assert of.agreement(labels, labels) == 1
    assert of.agreement(labels, np.array([[[0, 1], [2, 4]]])) == 0.75
    with pytest.raises(ValueError, match="different shapes"):
        of.agreement(labels, labels[0])


def test_logits_that_are_not_finite_have_no_error():
    reference = torch.tensor([1.0, 2.0])
    assert of.logit_error(torch.tensor([1.0, 2.5]), reference) == 0.5
    for value in (float("nan"), float("inf")):
        assert of.logit_error(torch.tensor([1.0, value]), reference) is None
