"""The node: `~/image` in, `~/label`, `~/overlay`, `~/confidence`, `~/stats` and the latched `~/legend` out.

Three threads: the executor takes messages and leaves the newest in a mailbox; one thread owns model and
pipeline, since torch's graphs belong to the thread that made them; one waits for results and publishes them.
rclpy holds the interpreter lock while it takes and publishes, so more executor threads would gain nothing.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from m2f_ros import taxonomy as taxonomies
from m2f_ros.errors import ConfigError, FrameError, M2fError
from m2f_ros.msg import ClassInfo, Legend, Stats
from m2f_ros.node.mailbox import Closed, Mailbox
from m2f_ros.node.messages import decode, encode
from m2f_ros.node.parameters import SEGMENTATION, declare
from m2f_ros.node.process import Ending, join, run

if TYPE_CHECKING:
    from m2f_ros.model import ModelConfig
    from m2f_ros.pipeline import Frame, Pipeline, Segmentation, Ticket

# Newest frame only: a queue before the mailbox would hold stale frames.
INPUT_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
# The history is what a reader that missed a fragment can still be sent again. It adds no delay: what a reader
# sees first is decided by its own depth.
OUTPUT_QOS = QoSProfile(depth=4, reliability=ReliabilityPolicy.RELIABLE)
LATCHED_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
LOG_PERIOD = 5.0  # seconds between two lines about bad frames
CAMERA_PERIOD = 10.0  # seconds without a camera until it is said, again and again


@dataclass(frozen=True)
class Arrival:
    """A frame on its way: its header, the view of its pixels, when it came (time.monotonic, seconds)."""

    header: Header
    frame: Frame
    came: float


@dataclass(frozen=True)
class Work:
    """A frame inside the pipeline. wait: seconds it waited for its place."""

    arrival: Arrival
    ticket: Ticket
    wait: float


class SegmentationNode(Node):
    """Segments the newest frame of one camera. What nobody listens to is not computed."""

    def __init__(self, ending: Ending) -> None:
        super().__init__("segmentation_node")
        self._ending = ending
        self._settings = declare(self, SEGMENTATION)
        self._mailbox: Mailbox[Arrival] = Mailbox()
        self._slots = threading.Semaphore(self._settings.slots)
        self._work: SimpleQueue[Work | None] = SimpleQueue()
        self._counting = threading.Lock()
        self._segmented = self._bad = 0

        # All topics are there before the model: it may take a minute to load.
        self._label = self.create_publisher(Image, "~/label", OUTPUT_QOS)
        self._overlay = self.create_publisher(Image, "~/overlay", OUTPUT_QOS)
        self._confidence = self.create_publisher(Image, "~/confidence", OUTPUT_QOS)
        self._stats = self.create_publisher(Stats, "~/stats", OUTPUT_QOS)
        self._legend = self.create_publisher(Legend, "~/legend", LATCHED_QOS)
        self._image = self.create_subscription(Image, "~/image", self._receive, INPUT_QOS)
        self._threads = [
            threading.Thread(target=self._segment, name="pipeline", daemon=True),
            threading.Thread(target=self._publish, name="publisher", daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self.create_timer(CAMERA_PERIOD, self._look_for_camera)

    def close(self, timeout: float) -> bool:
        """Finish the frames inside the pipeline. False when a thread still runs after `timeout` s."""
        self._mailbox.close()
        return join(self._threads, timeout)

    # The executor's thread

    def _receive(self, message: Image) -> None:
        # No copy here: rclpy made `message.data` when it took the message, the frame is a view of it, and the
        # pipeline reads the view once, into its own memory.
        if not self._wanted():
            return
        try:
            frame = decode(message)
        except FrameError as error:
            self._count_bad(f"skipped a bad frame: {error}")
            return
        self._mailbox.put(Arrival(message.header, frame, time.monotonic()))

    def _look_for_camera(self) -> None:
        topic = self._image.topic_name
        if not self.count_publishers(topic):
            self.get_logger().warning(
                f"no camera publishes {topic}: start one, or name its topic: --ros-args -r '~/image:=TOPIC'"
            )

    # The pipeline's thread

    def _segment(self) -> None:
        try:
            pipeline = self._load()
        except Exception as error:
            kind = "" if isinstance(error, M2fError) else f"{type(error).__name__}: "
            self.get_logger().fatal(f"cannot load the model: {kind}{' '.join(str(error).split())}")
            self._ending.ask(2)
            self._work.put(None)
            return
        while True:
            # First a free place, then the newest frame: the other way round the frame would age in between.
            self._slots.acquire()
            try:
                arrival = self._mailbox.take()
            except Closed:
                break
            self._submit(pipeline, arrival)
        self._work.put(None)

    def _submit(self, pipeline: Pipeline, arrival: Arrival) -> None:
        wait = time.monotonic() - arrival.came
        try:
            ticket = pipeline.submit(arrival.frame, self._wanted())
        except Exception as error:
            self._slots.release()
            self._count_failure(error)
            return
        self._work.put(Work(arrival, ticket, wait))

    def _load(self) -> Pipeline:
        # Importing torch takes seconds; the topics need not wait for it.
        import torch

        from m2f_ros.model import load
        from m2f_ros.pipeline import Pipeline, Resize

        # What the pipeline has to say (a backend or CUDA graphs that it went on without) belongs to this node's log.
        logging.getLogger("m2f_ros").addHandler(_ToNode(self))
        settings = self._settings
        if settings.threads:
            torch.set_num_threads(settings.threads)
        start = time.monotonic()
        model = load(settings.model)
        taxonomy = taxonomy_of(settings.model, model.config, settings.taxonomy)
        pipeline = Pipeline(
            model,
            taxonomy,
            device=settings.device,
            precision=None if settings.precision == "auto" else settings.precision,
            backend=settings.backend,
            graphs=settings.graphs,
            slots=settings.slots,
            resize=Resize(
                settings.resize,
                shortest=settings.resize_shortest,
                longest=settings.resize_longest,
                height=settings.resize_height,
                width=settings.resize_width,
                max_pixels=settings.max_pixels or None,
            ),
            alpha=settings.alpha,
        )
        self._legend.publish(legend_of(settings.model, taxonomy))
        self.get_logger().info(
            f"model '{settings.model}' ({len(taxonomy.classes)} classes of {taxonomy.name}) "
            f"on {pipeline.device} ({pipeline.backend}, {pipeline.precision}) "
            f"after {time.monotonic() - start:.1f} s, for {self._image.topic_name}"
        )
        return pipeline

    # The publisher's thread

    def _publish(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                # Leaving the block gives the result's memory back: encoding has copied it by then.
                with work.ticket as result:
                    self._publish_one(work, result)
            except Exception as error:
                self._count_failure(error)
            finally:
                self._slots.release()

    def _publish_one(self, work: Work, result: Segmentation) -> None:
        header = work.arrival.header
        if result.label is not None:
            encoding = "mono8" if result.label.itemsize == 1 else "mono16"
            self._label.publish(encode(result.label, encoding, header))
        if result.overlay is not None:
            self._overlay.publish(encode(result.overlay, "bgr8", header))
        if result.confidence is not None:
            self._confidence.publish(encode(result.confidence, "mono8", header))
        age = self.get_clock().now().nanoseconds - (header.stamp.sec * 10**9 + header.stamp.nanosec)
        received, dropped = self._mailbox.counts()
        with self._counting:
            self._segmented += 1
            segmented, bad = self._segmented, self._bad
        self._stats.publish(
            Stats(
                header=header,
                received=received + bad,
                segmented=segmented,
                dropped=dropped,
                bad=bad,
                age_ms=age / 1e6,
                wait_ms=work.wait * 1e3,
                stages=list(result.stages),
                stage_ms=list(result.stages.values()),
            )
        )

    # Any thread

    def _wanted(self) -> frozenset[str]:
        outputs = {"label": self._label, "overlay": self._overlay, "confidence": self._confidence}
        return frozenset(name for name, output in outputs.items() if output.get_subscription_count())

    def _count_failure(self, error: Exception) -> None:
        kind = "" if isinstance(error, FrameError) else f"{type(error).__name__}: "
        self._count_bad(f"could not segment a frame: {kind}{' '.join(str(error).split())}")

    def _count_bad(self, line: str) -> None:
        with self._counting:
            self._bad += 1
            bad = self._bad
        self.get_logger().warning(f"{line} ({bad} so far)", throttle_duration_sec=LOG_PERIOD)


class _ToNode(logging.Handler):
    """Warnings of the package in the log of the node."""

    def __init__(self, node: Node) -> None:
        super().__init__(logging.WARNING)
        self._node = node

    def emit(self, record: logging.LogRecord) -> None:
        self._node.get_logger().warning(" ".join(record.getMessage().split()))


def taxonomy_of(model: str, config: ModelConfig, wanted: str = "") -> taxonomies.Taxonomy:
    """The classes of a model: those wanted (a name or a YAML file), or as its config.json says.

    Raises TaxonomyError when there is no such taxonomy, ConfigError when its number of classes is another.
    """
    name = wanted or config.taxonomy
    if not name:
        return taxonomies.match(config.labels) or taxonomies.from_names(model, config.labels)
    found = taxonomies.get(name)
    if len(found.classes) != config.num_classes:
        raise ConfigError(
            f"taxonomy '{name}' has {len(found.classes)} classes, model '{model}' has {config.num_classes}: "
            "set the parameter 'taxonomy' to the one that the model was trained on"
        )
    return found


def legend_of(model: str, taxonomy: taxonomies.Taxonomy) -> Legend:
    """The message that says what the values of the label image mean."""
    classes = [ClassInfo(id=c.id, name=c.name, color=c.colour, thing=c.thing) for c in taxonomy.classes]
    return Legend(model=model, taxonomy=taxonomy.name, unlabelled=taxonomy.unlabelled, classes=classes)


def main(args: Sequence[str] | None = None) -> int:
    # On a CPU torch's threads wait for each other by spinning for long, unless told before torch is imported.
    # Beside a camera and other processes that made frames take seconds in place of 0.1 s; so short a spin as GNU
    # OpenMP takes on a machine that it knows to be overcommitted costs next to nothing on a quiet one.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    return run(SegmentationNode, args)
