"""The segmentation node: subscribes to the images of cameras; publishes labels, overlays and other outputs.

A lifecycle node. `configure` creates every topic and loads the model; `activate` starts to segment. Both happen at
start unless `autostart` is false.

Threads: the executor's thread takes messages and puts the newest one of each camera into the inbox. `Worker` has a
thread for the pipeline, one that publishes, and others that decode. `Space` has one for the outputs in space, and
`Transitions` one for the lifecycle.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn

from m2f_ros.errors import ConfigError
from m2f_ros.node.declare import Settings
from m2f_ros.node.entities import all_or_none
from m2f_ros.node.legend import Legends
from m2f_ros.node.parameters import NodeSettings
from m2f_ros.node.process import CLOSE_TIMEOUT, Ending, join, one_line, run
from m2f_ros.node.segmentation.bond import ManagerBond
from m2f_ros.node.segmentation.camera import Camera
from m2f_ros.node.segmentation.frame_job import FrameJob
from m2f_ros.node.segmentation.inbox import Inbox
from m2f_ros.node.segmentation.loading import load_pipeline, tuning_of
from m2f_ros.node.segmentation.monitor import Monitor
from m2f_ros.node.segmentation.space.inputs import depth_input
from m2f_ros.node.segmentation.space.worker import Space
from m2f_ros.node.segmentation.transitions import Transitions
from m2f_ros.node.segmentation.worker import Worker
from m2f_ros.node.throttle import Throttle, cut

if TYPE_CHECKING:
    from rclpy.lifecycle import LifecycleState

    from m2f_ros.pipeline import Pipeline

SUCCESS, FAILURE, ERROR = (
    TransitionCallbackReturn.SUCCESS,
    TransitionCallbackReturn.FAILURE,
    TransitionCallbackReturn.ERROR,
)
LONGEST = 500  # characters of the reason for a failed configuration
_LOGGERS = (logging.getLogger("m2f_ros"), logging.getLogger("py.warnings"))
T = TypeVar("T")


# Seconds to wait for each thread at the end: idle threads end at once, and busy ones cannot be interrupted.
BESIDE_TIMEOUT = 0.2


class SegmentationNode(LifecycleNode):
    """Segments the newest frame of each camera. Outputs that nobody listens to are not computed.

    Args:
        ending: end of the process.
        load: function that builds the pipeline from the parameters.
    """

    def __init__(self, ending: Ending, load: Callable[[NodeSettings], Pipeline] = load_pipeline) -> None:
        super().__init__("segmentation_node")
        self._ending, self._load = ending, load
        self._cameras: list[Camera] = []
        self._legends: Legends | None = None
        self._worker: Worker | None = None
        self._space: Space | None = None
        self._pipeline: Pipeline | None = None
        self._beside: list[threading.Thread] = []  # threads of closed workers that still run
        self._bond = ManagerBond(self)  # before what may refuse to start: rclpy then destroys the node
        self._settings = Settings(self, self._refuse, self._apply)
        self._log = _ToNode(self)
        # Warnings of the pipeline, such as CUDA graphs that failed, belong to this node's log.
        for logger in _LOGGERS:
            logger.addHandler(self._log)
        logging.captureWarnings(True)  # else Python prints a warning whose text changes with every frame
        self._trouble = ""  # why the last configure failed
        self._state = "unconfigured"
        self._monitor = Monitor(self, lambda: (self._state, self._trouble), self._settings)
        self._transitions = Transitions(self)
        if self._settings.node.autostart:
            # After the executor has started, since its thread creates and destroys the topics.
            starting = self.create_guard_condition(lambda: self._transitions.post(self._autostart))
            starting.trigger()

    def close(self, timeout: float) -> bool:
        """Finish the frames inside the pipeline. Return False if a thread still runs after `timeout` seconds."""
        for logger in _LOGGERS:
            logger.removeHandler(self._log)
        logging.captureWarnings(False)
        closed = self._close_worker(timeout) and self._close_space(timeout) and self._transitions.close(timeout)
        return closed and join(self._beside, BESIDE_TIMEOUT)

    def destroy_node(self) -> None:
        """Destroy the node, once the executor has ended. The lifecycle manager hears of it at once."""
        self._bond.end()
        super().destroy_node()

    # The transitions' thread

    def _autostart(self) -> None:
        if self.trigger_configure() != SUCCESS or self.trigger_activate() != SUCCESS:
            self._ending.ask(2)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Create every topic, then load the model. Return FAILURE, back to unconfigured, if either fails."""
        self._state, self._trouble = "configuring", ""
        start = time.monotonic()
        failed = "cannot create the topics"
        try:
            settings, worker = self._in_executor(self._create_topics)
            failed = "cannot load the model"
            # Loaded in the worker's thread, since CUDA graphs belong to the thread that captured them.
            pipeline = self._pipeline = worker.loaded.result()
            failed = "cannot make the outputs"
            assert self._space is not None
            self._space.begin(pipeline.taxonomy, pipeline.finds_segments)
            self._check_outputs(pipeline)
            self._in_executor(self._apply)  # parameters that were set while it loaded
        except Exception as error:
            self._release()
            self._trouble = cut(f"{failed}: {one_line(error)}", LONGEST)
            self.get_logger().fatal(self._trouble)
            return FAILURE
        self._state = "inactive"
        self.get_logger().info(
            f"model '{settings.model}' ({len(pipeline.taxonomy.classes)} classes of {pipeline.taxonomy.name}) "
            f"on {pipeline.device} ({pipeline.backend}, {pipeline.precision}) "
            f"after {time.monotonic() - start:.1f} s, for {', '.join(camera.topic for camera in self._cameras)}"
        )
        return SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        assert self._space is not None
        self._space.active = True
        for camera in self._cameras:
            camera.active = True
        # Published last: a camera that waits for the legend loses no image.
        settings = self._settings.node
        assert self._legends is not None and self._pipeline is not None
        self._legends.publish(settings.model, self._pipeline.taxonomy, settings.min_confidence)
        self._state = "active"
        if not self._settings.node.autostart:  # else no manager makes the transitions
            self._in_executor(self._bond.form)
        return SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Finish the frames inside the pipeline, and drop waiting ones. Return ERROR after a timeout."""
        self._in_executor(self._bond.end)
        for camera in self._cameras:
            camera.active = False
        self._state = "inactive"
        assert self._worker is not None and self._space is not None
        return SUCCESS if self._worker.drain(CLOSE_TIMEOUT) and self._space.drain(CLOSE_TIMEOUT) else ERROR

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Destroy the topics and free the device's memory. Return ERROR if the device does not finish its work."""
        return SUCCESS if self._release() else ERROR

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything. The process stays until it is asked to end, as with other managed nodes."""
        released = self._release()
        self._state = "finalized"
        return SUCCESS if released else ERROR

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything and go to unconfigured, or to finalized if the device does not finish its work."""
        if self._release():
            return SUCCESS
        self._state, self._trouble = "finalized", "the pipeline does not end: end the process"
        self.get_logger().fatal(self._trouble)
        return FAILURE

    def _in_executor(self, function: Callable[[], T]) -> T:
        return function() if self.executor is None else self.executor.call(function)

    def _close_worker(self, timeout: float) -> bool:
        if self._worker is None or not self._worker.close(timeout):
            return self._worker is None
        # A decoder, or a conversion of the network, cannot be interrupted and runs on.
        self._beside = [thread for thread in {*self._beside, *self._worker.others} if thread.is_alive()]
        return True

    def _close_space(self, timeout: float) -> bool:
        return self._space is None or self._space.close(timeout)

    def _release(self) -> bool:
        """Free everything but the parameters. Return False if the pipeline does not end."""
        self._in_executor(self._bond.end)
        if not (self._close_worker(CLOSE_TIMEOUT) and self._close_space(CLOSE_TIMEOUT)):
            return False
        self._in_executor(self._remove_topics)
        self._worker = self._pipeline = None
        self._state = "unconfigured"
        return True

    # The executor's thread

    def _create_topics(self) -> tuple[NodeSettings, Worker]:
        """Create all topics, or none if one fails, and begin to load the model, which may take a minute.

        Return the settings of the model and its worker.
        """
        self._settings.configured = True
        settings = self._settings.node
        names = list(self._settings.cameras)
        inbox: Inbox[FrameJob] = Inbox(names)
        with all_or_none(self):
            self._legends = Legends(self)
            space = self._space = Space(self, self._settings)
            self._cameras = [Camera(self, name, self._settings, inbox, space) for name in names]
            self._check_names()
        self.get_logger().info(f"loading model '{settings.model}' for {settings.device}")
        preparing = Throttle(lambda line: self.get_logger().info(line))
        worker = self._worker = Worker(
            lambda: self._load(settings),
            inbox,
            slots=settings.slots,
            batch=lambda pipeline: settings.batch or (len(names) if pipeline.device.type == "cuda" else 1),
            window=settings.batch_window,
            say=preparing,
        )
        self._monitor.watch(self._cameras, worker, space)
        return settings, worker

    def _remove_topics(self) -> None:
        self._monitor.watch((), None, None)
        cameras, self._cameras = self._cameras, []
        for camera in cameras:
            camera.close()
        if self._space is not None:
            self._space.remove()
            self._space = None
        if self._legends is not None:
            self._legends.close()
            self._legends = None
        self._settings.configured = False

    def _check_names(self) -> None:
        """Raise ConfigError if remapping puts two streams on one topic; warn if two cameras read one topic."""
        assert self._space is not None
        outputs = Counter(topic for camera in self._cameras for topic in camera.outputs.topics)
        outputs.update(self._space.outputs.topics)
        for topic, count in outputs.items():
            if count > 1:
                raise ConfigError(f"two outputs are remapped to {topic}: give each a topic of its own")
        if own := next((topic for topic in self._space.inputs.topics if topic in outputs), None):
            raise ConfigError(f"{own} is an output of this node and its input, too: name another topic")
        readers: dict[str, str] = {}
        depth = {self.resolve_topic_name(depth_input(camera.name)): camera.name for camera in self._cameras}
        for camera in self._cameras:
            rule = f"-r '~/{camera.name}/image:=TOPIC'" if camera.name else "-r '~/image:=TOPIC'"
            if own := next((topic for topic in camera.inputs if topic in outputs), None):
                raise ConfigError(f"{own} is an output of this node and its input, too: name the camera's, {rule}")
            if (of := depth.get(camera.inputs[0])) is not None and not self._settings.cameras[of].segment_depth:
                self.get_logger().warning(
                    f"{camera.inputs[0]} is the topic of images and of depth images: a picture is no depth; name that "
                    f"of the depth images, -r '{depth_input(of)}:=TOPIC'"
                )
            first = readers.setdefault(camera.inputs[0], camera.name)
            if first != camera.name:
                self.get_logger().warning(
                    f"the cameras {first} and {camera.name} both read {camera.inputs[0]}: name that of each, {rule}"
                )

    def _check_outputs(self, pipeline: Pipeline) -> None:
        """Say which outputs cannot be made. Raises ConfigError if the model cannot make one that `outputs` names."""
        assert self._space is not None
        asked = self._settings.given("outputs")
        if not pipeline.finds_segments:
            if named := sorted({"panoptic", "detections"} & asked):
                raise ConfigError(
                    f"parameter 'outputs' names {named[0]}, and {pipeline.no_segments}: leave it out, or take "
                    "another model"
                )
            self.get_logger().info(
                f"{pipeline.no_segments}: ~/panoptic, ~/segments and ~/detections stay silent, and points have no "
                "instance"
            )
        if not pipeline.scores_classes:
            if "confidence" in asked or self._settings.node.grid_min_confidence > 0:
                fault = "'outputs' names confidence" if "confidence" in asked else "'grid_min_confidence' is above 0"
                raise ConfigError(f"parameter {fault}, and the model gives labels alone: leave it out")
            self.get_logger().info(
                "the model gives labels alone: ~/confidence stays silent, and points have no confidence"
            )
        for name, package in self._space.outputs.absent.items():
            if name in asked:
                where = f"package ros-$ROS_DISTRO-{package.replace('_', '-')}"
                self.get_logger().warning(f"there is no ~/{name}: {package} is not installed ({where})")

    def _refuse(self, values: NodeSettings) -> None:
        """Raise ConfigError for values that do not suit the model."""
        if pipeline := self._pipeline:
            pipeline.check(tuning_of(values, pipeline.taxonomy))

    def _apply(self) -> None:
        """Use the present parameters from the next frame on."""
        if pipeline := self._pipeline:
            pipeline.tuning = tuning_of(self._settings.node, pipeline.taxonomy)


class _ToNode(logging.Handler):
    """Writes warnings of this package and of Python's libraries to the log of the node."""

    def __init__(self, node: LifecycleNode) -> None:
        super().__init__(logging.WARNING)
        self._say = Throttle(lambda line: node.get_logger().warning(line), kinds=16)

    def emit(self, record: logging.LogRecord) -> None:
        self._say(record.getMessage())


def main(args: Sequence[str] | None = None) -> int:
    # Set before torch is imported: by default its OpenMP threads spin for long while they wait, and delay the camera
    # and other processes. The value is GNU OpenMP's own for an oversubscribed machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    return run(SegmentationNode, args)
