"""The CPU time of the node itself: to receive, decode, hand over, encode and publish. See `measure`.

Two processes over DDS: this module run as the node, with a pipeline that answers at once; and a camera that sends an
image when the outputs of the one before are here, and no sooner than its rate allows.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import rclpy
import torch
from builtin_interfaces.msg import Time
from nav_msgs.msg import OccupancyGrid
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image, LaserScan, PointCloud2
from std_msgs.msg import Header

from m2f_ros import taxonomy
from m2f_ros.errors import ConfigError
from m2f_ros.frame.calibration import Calibration
from m2f_ros.node.messages import encode
from m2f_ros.node.process import emit, run
from m2f_ros.node.recorder import stamp_of
from m2f_ros.node.segmentation.camera_info import message_of
from m2f_ros.node.segmentation_node import SegmentationNode
from m2f_ros.pipeline import Frame, Resize, Segmentation
from m2f_ros.pipeline.device import keep_freed_memory
from m2f_ros.pipeline.resize import Placement
from m2f_ros.processes.children import Child, ProcessError, environment, ros_arguments
from m2f_ros.sources.ground_truth import panoptic_truth
from m2f_ros.street.street import Street

SIZE = (1080, 1920)  # height, width
RATE = 30.0
ENCODING = "bgr8"
OUTPUTS = ("label", "overlay")
KINDS = {"label": Image, "overlay": Image, "points": PointCloud2, "grid": OccupancyGrid, "obstacles": LaserScan}
IN_SPACE = {"points", "grid", "obstacles"}
TOPIC, DEPTH, INFO = "/camera/image", "/camera/depth", "/camera/camera_info"
HEIGHT, PITCH = 1.4, 0.05  # of the camera: metres above the ground, radians down
WARM_UP = 30  # frames, in which memory is taken from the system
TIMEOUT = 60.0  # seconds without an answer until it gives up
AGAIN = 1.0  # seconds without one until an image is sent again: the first are sent before all know of each other


def measure(frames: int, size: tuple[int, int] = SIZE, outputs: Sequence[str] = OUTPUTS) -> dict[str, Any]:
    """Milliseconds of CPU time that the node takes for each of `frames` images, raw in and raw out.

    The time of a frame is that from its arrival at the pipeline to that of the next one, of the whole process. The
    pipeline's own work is left out, its copy of the frame included. The node has a core of its own where this process
    may use two.

    Args:
        size: (height, width) of the images.
        outputs: names of the outputs that are listened to. For "points" each image has a depth image (16UC1) and
            CameraInfo of the simulated street beside it, for "grid" and "obstacles" CameraInfo alone. Labels are the
            street's true ones.
    Returns:
        times_ms: of each frame. threads_ms: the same for each thread; those of DDS together are "others".
        frame_size, encoding, rate_hz, outputs: size, ENCODING, RATE, outputs. versions: of ROS.
    Raises:
        ProcessError: the package is not built, or the node ended or does not answer.
        ConfigError: there is no such output.
    """
    for name in outputs:
        if name not in KINDS:
            raise ConfigError(f"there is no output {name!r} to measure; there are {', '.join(KINDS)}")
    os.environ.update(environment())
    events: SimpleQueue = SimpleQueue()
    cores = os.sched_getaffinity(0)
    scene = Scene.of(size)
    parameters: dict[str, object] = {"extrinsics": scene.extrinsics, "fixed_frame": ""}
    remaps = {"~/image": TOPIC, "~/depth": DEPTH}
    command = [sys.executable, "-m", "m2f_ros.node.load.benchmark", *map(str, size)]
    command += ros_arguments(parameters, remaps)
    with tempfile.TemporaryDirectory(prefix="m2f_bench_node_") as folder:
        node = Child("the node", command, os.environ, Path(folder, "log"), events)
        try:
            os.sched_setaffinity(node.process.pid, {min(cores)})  # the threads to come inherit it
            os.sched_setaffinity(0, cores - {min(cores)} or cores)
            _play(WARM_UP + frames, node, scene, outputs)
        finally:
            os.sched_setaffinity(0, cores)
            node.interrupt()
            node.wait()
        event = events.get()[1]
        if event is None:
            raise ProcessError(f"the node ended without a word on its times: {node.complaint()}")
    laps = event["laps"][-frames:]
    return {
        "times_ms": [sum(lap.values()) for lap in laps],
        "threads_ms": {name: [lap[name] for lap in laps] for name in sorted(laps[0])},
        "frame_size": size,
        "encoding": ENCODING,
        "rate_hz": RATE,
        "outputs": tuple(outputs),
        "versions": {"rclpy": version(), "RMW": rclpy.get_rmw_implementation_identifier()},
    }


def version() -> str:
    """Version of rclpy."""
    for package in ("ros-rclpy", "rclpy"):  # of PyPI, of a distribution
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(package)
    return "unknown"


@dataclass(frozen=True, eq=False)
class Scene:
    """A frame of the simulated street.

    Attributes:
        label: (H, W) uint8 train ids of Cityscapes.
        instances: (H, W) uint16 ids of things.
        millimetres: (H, W) uint16 depth, 0 where unknown.
        calibration: of the camera.
        extrinsics: pose of the camera's body in base_link.
    """

    label: np.ndarray
    instances: np.ndarray
    millimetres: np.ndarray
    calibration: Calibration
    extrinsics: list[float]

    @classmethod
    def of(cls, size: tuple[int, int]) -> Scene:
        """Make the scene. size: (height, width)."""
        street = Street(width=size[1], height=size[0])
        frame = street.frame(0)
        depth = np.where(frame.depth < 65.0, frame.depth * 1000, 0).astype(np.uint16)
        return cls(frame.label, frame.instance, depth, street.camera, [0.0, 0.0, HEIGHT, 0.0, PITCH, 0.0])


def _play(count: int, node: Child, scene: Scene, outputs: Sequence[str]) -> None:
    """Send so many images, each once the one before it was answered."""
    context = rclpy.Context()
    rclpy.init(context=context)
    peer = rclpy.create_node("bench_node", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(peer)
    newest = dict.fromkeys(outputs, 0)

    def listen(name: str) -> None:
        def keep(message: bytes) -> None:
            newest[name] = stamp_of(message)

        peer.create_subscription(KINDS[name], f"/segmentation_node/{name}", keep, QoSProfile(depth=1), raw=True)

    for name in outputs:
        listen(name)
    camera = peer.create_publisher(Image, TOPIC, QoSProfile(depth=1))
    size = scene.label.shape
    message = encode(np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8), ENCODING, Header())
    beside = []
    if "points" in outputs:
        beside.append((peer.create_publisher(Image, DEPTH, 1), encode(scene.millimetres, "16UC1", message.header)))
    if set(outputs) & IN_SPACE:
        info = message_of(scene.calibration, message.header)
        beside.append((peer.create_publisher(CameraInfo, INFO, 1), info))
    try:
        for number in range(1, count + 1):
            message.header.stamp = Time(sec=number)
            begin = time.monotonic()
            due = begin
            while min(newest.values()) < number * 10**9:
                now = time.monotonic()
                if node.process.poll() is not None or now > begin + TIMEOUT:
                    raise ProcessError(f"the node does not answer: {node.complaint()}")
                if now >= due:
                    for topic, other in beside:
                        other.header = message.header
                        topic.publish(other)
                    camera.publish(message)
                    due = now + AGAIN
                executor.spin_once(timeout_sec=0.1)
            time.sleep(max(0.0, begin + 1 / RATE - time.monotonic()))
    finally:
        executor.shutdown()
        peer.destroy_node()
        context.shutdown()


class InstantPipeline:
    """Everything that the node wants of a Pipeline, without work: the same results for every frame.

    size: (height, width) of the images.
    """

    device, backend, precision = torch.device("cpu"), "none", "none"
    resize, tuning = Resize(), None
    counters: Mapping[str, int] = {}
    finds_segments = scores_classes = True

    def __init__(self, size: tuple[int, int] = SIZE) -> None:
        keep_freed_memory()
        self.taxonomy = taxonomy.get("cityscapes")
        scene, random = Scene.of(size), np.random.default_rng(0)
        ids, segments = panoptic_truth(scene.label, scene.instances, self.taxonomy)
        images = {
            "label": scene.label,
            "overlay": random.integers(0, 256, (*size, 3), np.uint8),
            "confidence": random.integers(0, 256, size, np.uint8),
            "panoptic": ids,
        }
        self._all = Segmentation(images, segments)
        self._times = ThreadTimes()
        self._laps: list[dict[str, float]] = []

    def ready(self, network: tuple[int, int], batch: int = 1) -> bool:
        return True

    def tidy(self, seconds: float) -> None:
        pass

    def check(self, tuning: object) -> None:
        pass

    def submit_batch(
        self, frames: Sequence[Frame], want: frozenset[str], streams: Sequence[str], placements: Sequence[Placement]
    ) -> Answer:
        self._laps.append(self._times.lap())
        images = {name: image for name, image in self._all.images.items() if name in want}
        return Answer(Segmentation(images, self._all.segments if "panoptic" in want else None))

    def close(self) -> None:
        emit("laps", laps=self._laps)


class Answer:
    """A ticket for one frame whose result is there."""

    def __init__(self, result: Segmentation) -> None:
        self._results = [result]

    def __enter__(self) -> list[Segmentation]:
        return self._results

    def __exit__(self, *error: object) -> None:
        pass


class ThreadTimes:
    """CPU time of this process by thread."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def lap(self) -> dict[str, float]:
        """Milliseconds since the last call; those of threads that are not Python's as "others"."""
        threads = [(thread.name, thread.ident) for thread in threading.enumerate() if thread.ident]
        now = {name: time.clock_gettime(time.pthread_getcpuclockid(ident)) for name, ident in threads}
        now["others"] = time.process_time() - sum(now.values())
        spent = {name: 1000 * (value - self._last.get(name, 0.0)) for name, value in now.items()}
        self._last = now
        return spent


if __name__ == "__main__":
    # InstantPipeline is as much of a Pipeline as the node uses.
    given = int(sys.argv.pop(1)), int(sys.argv.pop(1))
    sys.exit(run(lambda ending: SegmentationNode(ending, lambda _: InstantPipeline(given))))  # type: ignore
