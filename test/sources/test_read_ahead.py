"""Samples come in order, none is lost, and no more than the budget is held."""

import threading

import numpy as np
import pytest

from m2f_ros.errors import SourceError
from m2f_ros.frame.frame import Frame
from m2f_ros.sources.open import Sample
from m2f_ros.sources.read_ahead import ReadAhead


def samples(count, read=None):
    for index in range(count):
        if read is not None:
            read.append(index)
        yield Sample(index, 0, str(index), Frame(np.zeros((10, 10), np.uint8), "mono8"))


@pytest.mark.parametrize("budget", [0, 1, 250, 10_000])
def test_all_samples_come_in_order(budget):
    assert [sample.index for sample in ReadAhead(samples(20), budget)] == list(range(20))


def test_fill_reads_up_to_the_budget():
    read, told = [], []
    ahead = ReadAhead(samples(20, read), budget=250)
    ahead.fill(told.append)
    assert read == [0, 1, 2]
    assert told[-1] == 3
    ahead.stop()


def test_what_is_no_sample_has_a_size_of_its_own():
    read = []
    numbers = (read.append(i) or i for i in range(20))
    ahead = ReadAhead(numbers, budget=30, size=lambda number: 10)
    ahead.fill(lambda n: None)
    assert read == [0, 1, 2]
    assert list(ahead) == list(range(20))


def test_fill_ends_with_the_source():
    told = []
    ReadAhead(samples(2), budget=10_000).fill(told.append)
    assert told[-1] == 2


def test_an_error_comes_after_the_samples_before_it():
    def broken():
        yield from samples(2)
        raise SourceError("damaged")

    ahead = iter(ReadAhead(broken(), budget=10_000))
    assert [next(ahead).index, next(ahead).index] == [0, 1]
    with pytest.raises(SourceError, match="damaged"):
        next(ahead)


def test_stop_ends_the_iteration():
    ahead = ReadAhead(samples(10**9), budget=300)
    ahead.fill(lambda n: None)
    ahead.stop()
    assert [sample.index for sample in ahead] == [0, 1, 2]


def test_whoever_ends_can_wait_for_the_sample_that_is_being_read():
    reading, go_on = threading.Event(), threading.Event()

    def slow():
        reading.set()
        go_on.wait()
        yield from samples(2)

    ahead = ReadAhead(slow(), budget=10_000)
    assert reading.wait(240)
    ahead.stop()
    assert not ahead.join(0.01)
    go_on.set()
    assert ahead.join(240)
    assert list(ahead) == []
