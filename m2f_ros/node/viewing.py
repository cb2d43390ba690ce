"""A running segmentation node for the page of `m2f view`: its images, labels, statistics and parameters.

One thread owns the node and all its entities. Topics of frames have subscriptions only while a page looks, since the
node computes what has listeners.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import ParameterEvent
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_parameter_events
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from m2f_ros.errors import FrameError, M2fError
from m2f_ros.frame.bit_depth import AUTO, BitDepth
from m2f_ros.msg import Legend, Stats
from m2f_ros.node.entities import NO_EVENTS
from m2f_ros.node.legend import LATCHED
from m2f_ros.node.recorder import DIAGNOSTICS, stamp_of
from m2f_ros.node.segmentation.source import COMPRESSED
from m2f_ros.node.segmentation.wire import read_compressed, read_image
from m2f_ros.node.view_parameters import RemoteParameters
from m2f_ros.serve.page.feed import Feed, Tell, Want, legend_of
from m2f_ros.serve.page.frames import Content, packed
from m2f_ros.sources.labels import taxonomy_of_legend

NAME = "_m2f_view"  # names that begin with _ are hidden from ros2 node list
LOOK = 1.0  # seconds between two looks at the graph
STEP = 0.05  # seconds that a call from another thread waits at most
# Best effort suits publishers of both kinds, and never holds one up.
NEWEST = QoSProfile(depth=2, reliability=ReliabilityPolicy.BEST_EFFORT)
STATISTICS = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
WAITING_BYTES = 128 << 20  # most bytes of images of a camera that wait for their labels
ALONE = 2.0  # seconds without labels after which images are shown alone
TIMEOUT = 10.0  # seconds until the node's answer is taken for lost


@dataclass
class _Camera:
    """One camera of the node.

    Attributes:
        topic: of its images; "" until the node's diagnostics name it.
        images: stamp -> serialised image that waits for its label, and if it is compressed.
        held: stamp, label and image that wait for the confidence.
        scores: False once a label came without its confidence: the model gives labels alone.
        newest: number of the newest frame, and its serialised parts.
    """

    name: str
    topic: str = ""
    images: OrderedDict[int, tuple[bytes, bool]] = field(default_factory=OrderedDict)
    held: tuple[int, bytes, tuple[bytes, bool] | None] | None = None
    scores: bool = True
    labelled: float = 0.0
    newest: tuple[int, int, tuple[bytes, bool] | None, bytes | None, bytes | None] | None = None
    bits: BitDepth = field(default_factory=lambda: BitDepth(AUTO, lambda line: None))
    packed: tuple[int, bytes] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def show(self, stamp_ns: int, image: tuple[bytes, bool] | None, label: bytes | None, confidence: bytes | None):
        number = self.newest[0] + 1 if self.newest else 1
        self.newest = number, stamp_ns, image, label, confidence


class LiveFeed(Feed):
    """A running node.

    Args:
        name: full name of the node; "" for the only one that publishes a legend.
    """

    live = True

    def __init__(self, name: str = "") -> None:
        self._asked = "/" + name.strip("/") if name else ""
        self._found = ""  # full name of the node that is shown
        self._note = f"waiting for {self._asked or 'a segmentation node'}"
        self._legend: dict[str, Any] | None = None
        self._cameras: dict[str, _Camera] = {}
        self._wants: list[Want] = []
        self._tell: Tell = lambda news: None
        self._calls: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._topics: dict[tuple[str, str], Subscription] = {}
        self._told: dict[str, Any] | None = None
        self._ending = threading.Event()
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context)
        self._node = rclpy.create_node(NAME, context=self._context, enable_rosout=False, start_parameter_services=False)
        self._parameters = RemoteParameters(self._node, lambda news: self._tell(news))
        self._thread = threading.Thread(target=self._run, name="view", daemon=True)
        self._thread.start()

    # Calls of the server

    def state(self) -> dict[str, Any]:
        cameras = list(self._cameras.values())
        legends = [self._legend] if self._legend else []
        return {
            "type": "state",
            "live": True,
            "title": self._found,
            "note": self._note,
            "cameras": [
                {
                    "name": camera.name,
                    "topic": camera.topic,
                    "mixed": False,
                    "labels": [self._topic_of(camera.name, "label")],
                    "legends": legends,
                    "confidence": [True],
                }
                for camera in cameras
            ],
            "parameters": self._parameters.listed(),
        }

    def watch(self, wants: list[Want], tell: Tell) -> None:
        self._wants, self._tell = wants, tell
        self._calls.put(self._subscribe)

    def cameras(self) -> list[str]:
        return list(self._cameras)

    def frame(self, camera: str, want: Want, before: object) -> tuple[object, bytes] | None:
        of = self._cameras.get(camera)
        if of is None:
            return None
        with of.lock:  # two pages share what is encoded
            newest = of.newest
            if newest is None or newest[0] == before:
                return None
            if of.packed is None or of.packed[0] != newest[0]:
                of.packed = newest[0], _pack(of, *newest[1:])
            return of.packed

    def set(self, name: str, value: Any) -> str:
        done: SimpleQueue[str] = SimpleQueue()
        self._calls.put(partial(self._parameters.set, name, value, done.put))
        try:
            return done.get(timeout=TIMEOUT)
        except Empty:
            return f"no answer of {self._found or 'a node'} within {TIMEOUT:g} s"

    def close(self) -> None:
        self._ending.set()
        self._thread.join()

    # The thread of the node

    def _run(self) -> None:
        executor = SingleThreadedExecutor(context=self._context)
        executor.add_node(self._node)
        look = 0.0
        try:
            while not self._ending.is_set():
                while not self._calls.empty():
                    self._calls.get()()
                if (now := time.monotonic()) >= look:
                    look = now + LOOK
                    self._look()
                executor.spin_once(timeout_sec=STEP)
        finally:
            executor.shutdown()
            self._node.destroy_node()
            self._context.try_shutdown()

    def _look(self) -> None:
        """Find the node and its cameras in the graph."""
        found = set()
        topics = dict(self._node.get_topic_names_and_types())
        for topic, types in topics.items():
            if "m2f_ros/msg/Legend" in types:
                for info in self._node.get_publishers_info_by_topic(topic):
                    full = f"{info.node_namespace.rstrip('/')}/{info.node_name}"
                    if topic == f"{full}/legend":
                        found.add(full)
        if self._asked:
            found &= {self._asked}
        if self._found not in found:
            self._leave()
            if len(found) == 1:
                self._found = found.pop()
                self._parameters.follow(self._found)
                self._note = ""
            elif found:
                self._note = f"there are several nodes: choose one with --node {' or '.join(sorted(found))}"
            else:
                self._note = f"waiting for {self._asked or 'a segmentation node'}"
        if self._found:
            base = f"{self._found}/"
            names = sorted(
                topic[len(base) : -len("/label")] if topic != f"{base}label" else ""
                for topic in topics
                if topic.startswith(base) and topic.endswith("/label") and topic.count("/") - base.count("/") < 2
            )
            if names != list(self._cameras):
                self._cameras = {name: self._cameras.get(name) or _Camera(name) for name in names}
            self._parameters.look()
        self._subscribe()
        self._say_state()

    def _leave(self) -> None:
        """Forget a node that has gone."""
        self._found, self._legend, self._cameras = "", None, {}
        self._parameters.leave()

    def _say_state(self) -> None:
        state = self.state()
        shown = {name: value for name, value in state.items() if name != "parameters"}
        if shown != self._told:
            self._told = shown
            self._tell(state)

    def _topic_of(self, camera: str, output: str) -> str:
        return "/".join(filter(None, [self._found, camera, output]))

    def _subscribe(self) -> None:
        """Make the subscriptions that the open pages need, and end the others."""
        wanted: dict[tuple[str, str], tuple[Any, Any, QoSProfile, bool]] = {}
        if self._found and self._wants:
            looked = [want for want in self._wants if not want.paused]
            wanted[self._found, f"{self._found}/legend"] = Legend, self._take_legend, LATCHED, False
            wanted[self._found, DIAGNOSTICS] = DiagnosticArray, self._take_diagnostics, STATISTICS, False
            events = ParameterEvent, self._parameters.take_event, qos_profile_parameter_events, False
            wanted[self._found, "/parameter_events"] = events
            for camera in self._cameras.values() if looked else ():
                label, image = partial(self._take_label, camera), partial(self._take_image, camera)
                name = camera.name
                wanted[name, self._topic_of(name, "label")] = Image, label, NEWEST, True
                wanted[name, self._topic_of(name, "stats")] = Stats, partial(self._take_stats, name), STATISTICS, False
                if any(want.confidence for want in looked):
                    taken = partial(self._take_confidence, camera)
                    wanted[name, self._topic_of(name, "confidence")] = Image, taken, NEWEST, True
                if camera.topic:
                    types = dict(self._node.get_topic_names_and_types()).get(camera.topic, [])
                    packed_ = COMPRESSED in types
                    kind = CompressedImage if packed_ else Image
                    wanted[name, camera.topic] = kind, partial(image, packed_), NEWEST, True
        for key in self._topics.keys() - wanted.keys():
            self._node.destroy_subscription(self._topics.pop(key))
        for key, (kind, take, qos, raw) in wanted.items():
            if key not in self._topics:
                self._topics[key] = self._node.create_subscription(
                    kind, key[1], take, qos, event_callbacks=NO_EVENTS, raw=raw
                )

    def _confident(self, camera: _Camera) -> bool:
        return camera.scores and (camera.name, self._topic_of(camera.name, "confidence")) in self._topics

    def _take_legend(self, message: Legend) -> None:
        self._legend = legend_of(taxonomy_of_legend(message))
        self._say_state()

    def _take_image(self, camera: _Camera, is_compressed: bool, data: bytes) -> None:
        camera.images[stamp_of(data)] = data, is_compressed
        while len(camera.images) > 1 and sum(len(one) for one, _ in camera.images.values()) > WAITING_BYTES:
            camera.images.popitem(last=False)
        if time.monotonic() - camera.labelled > ALONE:
            stamp, image = camera.images.popitem()
            camera.images.clear()
            camera.images[stamp] = image
            camera.show(stamp, image, None, None)
            self._tell(None)

    def _take_label(self, camera: _Camera, data: bytes) -> None:
        camera.labelled = time.monotonic()
        stamp = stamp_of(data)
        image = camera.images.get(stamp)
        for older in [one for one in camera.images if one <= stamp]:
            del camera.images[older]
        if camera.held is not None:
            camera.scores = False
            self._release(camera)
        camera.held = stamp, data, image
        if not self._confident(camera):
            self._release(camera)

    def _take_confidence(self, camera: _Camera, data: bytes) -> None:
        camera.scores = True
        if camera.held is not None and camera.held[0] == stamp_of(data):
            self._release(camera, data)

    def _release(self, camera: _Camera, confidence: bytes | None = None) -> None:
        assert camera.held is not None
        (stamp, label, image), camera.held = camera.held, None
        camera.show(stamp, image, label, confidence)
        self._tell(None)

    def _take_stats(self, camera: str, message: Stats) -> None:
        self._tell(
            {
                "type": "stats",
                "camera": camera,
                "time": time.monotonic(),
                "age_ms": message.age_ms,
                **{name: getattr(message, name) for name in ("received", "segmented", "dropped", "bad")},
                "drops": dict(zip(message.drop_reasons, map(int, message.drops), strict=False)),
            }
        )

    def _take_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            full, _, task = status.name.partition(": ")
            camera = self._cameras.get("" if task == "camera" and task not in self._cameras else task)
            if full != self._found or camera is None:
                continue
            level = int.from_bytes(status.level, "little") if isinstance(status.level, bytes) else int(status.level)
            self._tell({"type": "level", "camera": camera.name, "level": level, "text": status.message})
            if status.hardware_id != camera.topic:
                camera.topic = status.hardware_id
                camera.images.clear()
                self._subscribe()
                self._say_state()


def _pack(
    camera: _Camera, stamp_ns: int, image: tuple[bytes, bool] | None, label: bytes | None, confidence: bytes | None
) -> bytes:
    """Read and encode the serialised parts of a frame."""
    note: list[str] = []

    def read(part: bytes | None, how: Callable[[bytes], Any] = read_image) -> Any | None:
        try:
            return None if part is None else how(part)
        except FrameError as error:
            note.append(str(error))
            return None

    if label is None:
        note.append("no labels come")
    elif image is None and camera.topic:
        note.append("these labels have no image")
    data, is_compressed = image or (None, False)
    found = read(data, read_compressed if is_compressed else read_image), read(label), read(confidence)
    try:
        return packed(Content(camera.name, stamp_ns, *found, bits=camera.bits, note="; ".join(note)))
    except M2fError as error:
        return packed(Content(camera.name, stamp_ns, note=str(error)))
