"""Publishes the time of a playing recording on /clock."""

from __future__ import annotations

import time

from builtin_interfaces.msg import Time
from rclpy.node import Node
from rosgraph_msgs.msg import Clock

from m2f_ros.node.process import Ending

SECOND = 10**9


class SimTime:
    """A clock that runs from the first stamp on, `speed` times as fast as wall time.

    Args:
        rate: messages a second on /clock, also between two stamps.
        speed: speed of the recording, 1.0 for real time.
        ending: end of the process, which ends a wait early.
    """

    def __init__(self, node: Node, rate: float, speed: float, ending: Ending) -> None:
        # The QoS of `ros2 bag play --clock`.
        self._clock = node.create_publisher(Clock, "/clock", 10)
        self._period, self._speed, self._ending = 1.0 / rate, speed, ending
        self._start: tuple[int, float] | None = None

    def wait_until(self, stamp_ns: int) -> bool:
        """Wait until this time, nanoseconds. Return False if the process ends."""
        if self._start is None:
            self._start = stamp_ns, time.monotonic()
        first, begun = self._start
        due = begun + (stamp_ns - first) / SECOND / self._speed
        while (left := due - time.monotonic()) > 0:
            self._say(stamp_ns - round(left * self._speed * SECOND))
            if self._ending.wait(min(left, self._period)):
                return False
        self._say(stamp_ns)
        return not self._ending.wait(0)

    def _say(self, now_ns: int) -> None:
        seconds, nanoseconds = divmod(now_ns, SECOND)
        self._clock.publish(Clock(clock=Time(sec=seconds, nanosec=nanoseconds)))
