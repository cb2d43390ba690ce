"""The closed loop behind frames a second."""

import pytest

from m2f_ros.benchmark.throughput import seconds_of


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
