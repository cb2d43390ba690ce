"""The measurement of the node's own share, for real and short."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="rclpy is absent")
pytest.importorskip("m2f_ros.msg", reason="the messages of m2f_ros are not built")
from m2f_ros.node.load.benchmark import ThreadTimes, measure


@pytest.mark.process
def test_each_frame_has_a_time_that_its_threads_add_up_to(ros_env):
    found = measure(3)
    threads = found["threads_ms"]
    assert {"executor", "pipeline", "publisher", "others"} <= set(threads)
    assert all(len(times) == 3 for times in threads.values())
    assert found["times_ms"] == pytest.approx([sum(times) for times in zip(*threads.values(), strict=True)])
    assert min(threads["executor"]) > 0 and min(threads["publisher"]) > 0


def test_a_lap_has_what_was_spent_since_the_last():
    times = ThreadTimes()
    times.lap()
    sum(i * i for i in range(200_000))
    spent = times.lap()
    assert spent["MainThread"] > 0
    assert times.lap()["MainThread"] < spent["MainThread"]
