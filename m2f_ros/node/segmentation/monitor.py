"""Publishes /diagnostics during the whole life of the node."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from m2f_ros.node.declare import Settings
from m2f_ros.node.segmentation.camera import Camera
from m2f_ros.node.segmentation.counts import SpaceTally, Tally
from m2f_ros.node.segmentation.diagnostics import (
    ERROR,
    OK,
    WARN,
    camera_level,
    camera_values,
    device_values,
    space_level,
    space_values,
    status,
)
from m2f_ros.node.segmentation.space.worker import Space
from m2f_ros.node.segmentation.worker import Worker


class Monitor:
    """Publishes the diagnostics of each camera, the device and the outputs in space.

    Args:
        state: function that returns the label of the lifecycle state, and the reason of a failed configuration, or "".
        settings: parameters of the node.
    """

    def __init__(self, node: Node, state: Callable[[], tuple[str, str]], settings: Settings) -> None:
        self._node, self._state, self._settings = node, state, settings
        self._cameras: Sequence[Camera] = ()
        self._worker: Worker | None = None
        self._space: Space | None = None
        self._space_before = SpaceTally()
        self._before: dict[Camera, tuple[float, Tally]] = {}
        self._failures = 0  # number of failed callbacks in the last log line
        self._topic = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # Steady, since simulated time may stand still.
        self._timer = node.create_timer(
            settings.node.diagnostics_period, self._publish, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def watch(self, cameras: Sequence[Camera], worker: Worker | None, space: Space | None) -> None:
        """Report on these from now on. Thread-safe."""
        self._cameras, self._worker, self._space = tuple(cameras), worker, space
        self._timer.timer_period_ns = round(self._settings.node.diagnostics_period * 1e9)

    def _publish(self) -> None:
        state, trouble = self._state()
        cameras, worker = self._cameras, self._worker
        message = DiagnosticArray(status=[self._device(worker, state, trouble)])
        message.status += [self._camera(camera, worker, state) for camera in cameras]
        message.status += self._of_space(self._space, state)
        self._before = {camera: before for camera, before in self._before.items() if camera in cameras}
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._topic.publish(message)

    def _device(self, worker: Worker | None, state: str, trouble: str) -> DiagnosticStatus:
        values: dict[str, object] = {"state": state, "model": self._settings.node.model}
        hardware = self._settings.node.device
        if worker is not None and worker.loaded.done() and worker.loaded.exception() is None:
            from m2f_ros.pipeline.device import hardware_name

            pipeline = worker.loaded.result()
            values |= device_values(pipeline, worker.times.recent())
            hardware = hardware_name(pipeline.device)
        text = trouble or ("loading the model" if state == "configuring" else state)
        level = ERROR if trouble else OK
        executor = self._node.executor
        if failures := executor.failures:
            values |= {"failed callbacks": failures, "last failure": executor.last_failure}
            if failures > self._failures and not trouble:
                level, text = WARN, executor.last_failure
            self._failures = failures
        return status(self._task("device"), hardware, level, text, values)

    def _of_space(self, space: Space | None, state: str) -> list[DiagnosticStatus]:
        if space is None:
            return []
        tally, before = space.reports.counts.tally(), self._space_before
        self._space_before = tally
        level, text = space_level(tally, before, state)
        return [status(self._task("space"), "", level, text, space_values(tally, space.times.recent()))]

    def _task(self, name: str) -> str:
        """Return the name of a task, with the namespace: aggregators tell two robots apart by it."""
        return f"{self._node.get_fully_qualified_name()}: {name}"

    def _camera(self, camera: Camera, worker: Worker | None, state: str) -> DiagnosticStatus:
        since = worker.busy_since if worker else None  # before `now`, or it could be later
        now, tally = time.monotonic(), camera.counts.tally()
        then, before = self._before.get(camera, (now, tally))
        self._before[camera] = now, tally
        settings = self._settings.node
        busy = 0.0 if since is None else now - since
        level, text = camera_level(tally, before, now, state, busy, settings.stale_after, settings.late_after)
        if level == WARN and camera.absence:
            text += f": {camera.absence}"
        return status(
            self._task(camera.name or "camera"),
            camera.topic,
            level,
            text,
            camera_values(tally, before, max(now - then, 1e-3)),
        )
