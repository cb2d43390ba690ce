"""The thread that makes the outputs in space: of labelled frames, depth images, clouds and transforms.

The publisher's thread hands a copy of a frame's results over once its labels are published, and only for outputs that
have listeners. A frame waits here for its depth image and for transforms that may still come, as long as PATIENCE; of
the frames of a camera that are ready the newest one is taken.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from m2f_ros.errors import SpaceError
from m2f_ros.frame.bgr import to_bgr
from m2f_ros.frame.segment import Segment
from m2f_ros.node.declare import Settings
from m2f_ros.node.messages import cloud_message, detections_message
from m2f_ros.node.process import join
from m2f_ros.node.segmentation.counts import StageTimes
from m2f_ros.node.segmentation.frame_job import FrameJob
from m2f_ros.node.segmentation.inbox import Closed
from m2f_ros.node.segmentation.space.ground import Ground
from m2f_ros.node.segmentation.space.handed import Geometry, Handed
from m2f_ros.node.segmentation.space.inputs import WITH_DEPTH, SpaceInputs, depth_input
from m2f_ros.node.segmentation.space.lidar import Lidar
from m2f_ros.node.segmentation.space.outputs import GROUND, SpaceOutputs
from m2f_ros.node.segmentation.space.reports import GroundKinds, Reports, of
from m2f_ros.space.detections import detections
from m2f_ros.space.labelled import Labelled
from m2f_ros.space.points import points
from m2f_ros.space.poses import Poses
from m2f_ros.taxonomy import Taxonomy

if TYPE_CHECKING:
    from m2f_ros.pipeline import Segmentation
    from m2f_ros.space.camera_model import CameraModel

LOOK_PERIOD = 1.0  # seconds between two looks for listeners, which decide what is subscribed to
PATIENCE = 0.5  # seconds that a frame, or a cloud, waits for what may still come
WAITING = 8  # most frames of a camera that wait


class Space:
    """Makes and publishes the outputs in space of all cameras.

    Its creation, `begin` and `remove` belong to the executor's thread; all other calls may come from any thread.

    Args:
        settings: parameters of the node and the cameras.
    Attributes:
        outputs: the publishers.
        reports: counts and faults.
        times: durations of each output.
        active: False while nothing may be published.
    Raises:
        ConfigError: the size of the grid is not possible.
    """

    def __init__(self, node: Node, settings: Settings) -> None:
        self._node, self._settings = node, settings
        self.active, self.times = False, StageTimes()
        self.reports = Reports(
            lambda line: node.get_logger().warning(line),
            lambda line: node.get_logger().info(line),  # on a line of its own: rclpy takes one line for one severity
            lambda: self.inputs.are_new,
        )
        self.outputs = SpaceOutputs(node, settings)
        self.inputs = SpaceInputs(node, settings, self._wake, self.reports.miss)
        poses = Poses(
            settings.node.base_frame,
            settings.node.fixed_frame,
            {name: camera.extrinsics for name, camera in settings.cameras.items()},
            settings.node.lidar_extrinsics,
            self.inputs.transforms,
        )
        kinds = GroundKinds(
            self.reports,
            lambda: settings.node.stale_after,
            lambda camera: node.resolve_topic_name(depth_input(camera)),
        )
        self._ground = Ground(settings.node, poses, self.reports, kinds)
        self._due: set[str] = set()  # outputs of the ground that wait for the end of a round
        self._lidar = Lidar(settings, poses, self.reports)
        self._epochs: dict[str, int] = {}
        self._waiting: dict[str, deque[Handed]] = {name: deque() for name in settings.cameras}
        self._changed = threading.Condition()
        self._changes, self._closed = 0, False
        self._busy = threading.Lock()  # held while the thread works
        self._thread: threading.Thread | None = None
        self._look_now = node.create_guard_condition(self._look)
        self._looking = node.create_timer(LOOK_PERIOD, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def begin(self, taxonomy: Taxonomy, finds_segments: bool) -> None:
        """Start the thread, once the model is known. Raises ConfigError for a wrong file of costs."""
        self._taxonomy = taxonomy
        if not finds_segments:
            self.outputs.silence("detections")
        self._ground.begin(taxonomy)
        self._thread = threading.Thread(target=self._run, name="space", daemon=True)
        self._thread.start()

    def expect(self, job: FrameJob) -> None:
        """Keep the messages of a frame's time until its results are handed over."""
        settings = self._settings.node
        if self.inputs.lack(job.camera.name, job.wanted):
            self._look_now.trigger()
        if job.wanted & WITH_DEPTH:
            self.inputs.depth[job.camera.name].expect(job.stamp, _ns(settings.points_slop))
        if "lidar" in job.wanted:
            self.inputs.clouds.expect(job.stamp, _ns(settings.lidar_slop))

    def hand_over(
        self,
        job: FrameJob,
        result: Segmentation,
        panoptic: tuple[np.ndarray, Sequence[Segment]] | None,
        geometry: Geometry,
    ) -> None:
        """Take a copy of a frame's results. panoptic: ids, which must not change, and their segments."""
        ids, segments = panoptic or (None, ())
        if result.label is not None:
            label = result.label.copy()
        else:  # detections alone need no classes of pixels
            assert ids is not None
            label = np.broadcast_to(np.uint8(0), ids.shape)
        confidence = None if result.confidence is None else result.confidence.copy()
        handed = Handed(job, label, confidence, ids, segments, geometry, time.monotonic())
        with self._changed:
            waiting = self._waiting[handed.camera]
            waiting.append(handed)
            lost = max(0, len(waiting) - WAITING)
            for _ in range(lost):
                waiting.popleft()
            self._changes += 1
            self._changed.notify()
        self.reports.counts.drop(lost)

    def drain(self, timeout: float) -> bool:
        """Drop what waits, and wait for the work in progress. Return False if it goes on after `timeout` seconds."""
        self.active = False
        self._drop_all()
        if not self._busy.acquire(timeout=timeout):
            return False
        self._busy.release()
        return True

    def close(self, timeout: float) -> bool:
        """End the thread. Return False if it still runs after `timeout` seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        return self._thread is None or join([self._thread], timeout)

    def remove(self) -> None:
        """Destroy the topics."""
        self._node.destroy_timer(self._looking)
        self._node.destroy_guard_condition(self._look_now)
        self.inputs.close()
        self.outputs.close()

    def _drop_all(self) -> None:
        with self._changed:
            for waiting in self._waiting.values():
                waiting.clear()
        self.inputs.clouds.clear()

    def _look(self) -> None:
        """Subscribe to what is needed now. In the executor's thread."""
        cameras = self._settings.cameras
        self.inputs.look({name: self.outputs.heard(name, cameras[name].outputs) for name in cameras})

    def _wake(self) -> None:
        """Wake the thread, if anything waits for what has come."""
        with self._changed:
            if len(self.inputs.clouds) or any(self._waiting.values()):
                self._changes += 1
                self._changed.notify()

    # The thread

    def _run(self) -> None:
        seen = -1
        with suppress(Closed):
            while True:
                seen = self._wait(seen)
                with self._busy:
                    if self.active:
                        self._round_or_drop()

    def _wait(self, seen: int) -> int:
        """Sleep until something has come since change number `seen`, or a frame has waited long enough.

        Return the number of the newest change. Raises Closed.
        """
        with self._changed:
            oldest = min((one.came for waiting in self._waiting.values() for one in waiting), default=None)
            timeout = None if oldest is None else max(0.0, oldest + PATIENCE - time.monotonic())
            self._changed.wait_for(lambda: self._closed or self._changes != seen, timeout)
            if self._closed:
                raise Closed
            return self._changes

    def _round_or_drop(self) -> None:
        try:
            self._round()
        except Exception as error:  # a fault of this package: the thread lives on, and does not try again at once
            self.reports.miss("outputs in space", error)
            self._drop_all()

    def _round(self) -> None:
        for camera in self._waiting:
            if (handed := self._next(camera)) is not None:
                self._guarded(sorted(handed.wanted), camera, partial(self._place, handed))
        for stamp, cloud in self.inputs.clouds.items():
            if self._lidar.is_due(stamp, cloud, PATIENCE):
                self.inputs.clouds.remove(stamp)
                self._attempt("lidar", "", partial(self._label, cloud.message))
        # Once for the frames of all cameras.
        due, self._due = self._due, set()
        if "grid" in due:
            self._attempt("grid", "", self._ground.grid)
        if "obstacles" in due:
            self._attempt("obstacles", "", self._ground.obstacles)

    def _next(self, camera: str) -> Handed | None:
        """Take the newest frame of a camera that is ready, and drop those before it."""
        with self._changed:
            waiting = list(self._waiting[camera])
        ready = next((number for number in reversed(range(len(waiting))) if self._is_ready(waiting[number])), None)
        if ready is None:
            return None
        with self._changed:
            left = [one for one in self._waiting[camera] if one not in waiting[: ready + 1]]
            self._waiting[camera] = deque(left)
        self.reports.counts.drop(ready)
        return waiting[ready]

    def _is_ready(self, handed: Handed) -> bool:
        if time.monotonic() >= handed.came + PATIENCE:
            return True
        camera, wanted, job = handed.camera, handed.wanted, handed.job
        if wanted & WITH_DEPTH and self.inputs.depth[camera].may_come(job.stamp):
            return False
        return not (wanted & GROUND and self._ground.may_come(camera, job.header.frame_id, job.stamp))

    def _place(self, handed: Handed) -> None:
        """Make the outputs of a frame."""
        camera, wanted, epoch = handed.camera, handed.wanted, handed.job.epoch
        if epoch != self._epochs.setdefault(camera, epoch):
            self._epochs[camera] = epoch
            self._begin_anew()
        model: CameraModel | SpaceError
        try:
            calibration, model = handed.calibration(), handed.model()
        except SpaceError as error:
            calibration, model = None, error
        depth = self._depth(handed) if wanted & WITH_DEPTH else None
        known = depth if isinstance(depth, np.ndarray) else None
        labelled = handed.labelled(self._taxonomy.unlabelled, calibration, known)
        if "points" in wanted:
            self._attempt("points", camera, lambda: self._points(handed, labelled, _known(model), depth))
        if "detections" in wanted:
            self._attempt("detections", camera, lambda: self._detections(handed, labelled, model))
        if ground := sorted(wanted & GROUND):
            self._guarded(ground, camera, lambda: self._observe(ground, labelled, _known(model)))
        if "lidar" in wanted:
            self._guarded(["lidar"], camera, lambda: self._lidar.see(labelled, _known(model)))

    def _begin_anew(self) -> None:
        """Forget everything, after a jump of the time."""
        self.inputs.transforms.clear()
        self._ground.clear()
        self._lidar.clear()

    def _attempt(self, output: str, camera: str, make: Callable[[], Any]) -> None:
        """Publish the message that `make` returns, unless it is None, or count the output as missed."""

        def publish() -> None:
            began = time.monotonic()
            message = make()
            if message is not None:
                self.outputs.publish(output, camera, message)
                self.reports.counts.publish(of(output, camera))
                self.times.note({output: 1e3 * (time.monotonic() - began)})

        self._guarded([output], camera, publish)

    def _guarded(self, outputs: Sequence[str], camera: str, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # whatever a sensor sends: the other outputs go on
            for output in outputs:
                self.reports.miss(output, error, camera)

    def _depth(self, handed: Handed) -> np.ndarray | SpaceError | None:
        """Return the depth image of a frame, (h, w) float32 metres; its fault if it is bad; None if there is none."""
        slop = _ns(self._settings.node.points_slop)
        message = self.inputs.depth[handed.camera].nearest(handed.job.stamp, slop)
        if message is None:
            return None
        try:
            return handed.decoded(message)
        except SpaceError as error:
            self.reports.miss("depth images", error, handed.camera)
            return error

    def _points(
        self, handed: Handed, labelled: Labelled, model: CameraModel, depth: np.ndarray | SpaceError | None
    ) -> Any:
        if isinstance(depth, SpaceError):
            raise depth
        if depth is None:
            if self.inputs.are_new:  # its first depth image may be on the way
                return None
            raise SpaceError(self._why_no_depth(handed.camera))
        labelled = replace(labelled, picture=to_bgr(handed.job.frame))
        return cloud_message(points(labelled, self._settings.node.points_stride, model), handed.job.header)

    def _why_no_depth(self, camera: str) -> str:
        topic = self._node.resolve_topic_name(depth_input(camera))
        if not len(self.inputs.depth[camera]):
            return f"no depth image has come on {topic} (-r '{depth_input(camera)}:=TOPIC')"
        return f"no depth image of {topic} within points.slop ({self._settings.node.points_slop} s) of the image"

    def _detections(self, handed: Handed, labelled: Labelled, model: CameraModel | SpaceError) -> Any:
        known = None if isinstance(model, SpaceError) else model
        return detections_message(detections(labelled, self._taxonomy, known), handed.job.header)

    def _observe(self, wanted: Sequence[str], labelled: Labelled, model: CameraModel) -> None:
        self._ground.observe(labelled, model)
        self._due.update(wanted)

    def _label(self, message: Any) -> Any:
        labels = self._lidar.label(message)
        if labels is None:
            raise self.inputs.unpaired()
        return labels


def _known(model: CameraModel | SpaceError) -> CameraModel:
    if isinstance(model, SpaceError):
        raise model
    return model


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
