"""Images, and labels, from a rosbag2 (sqlite3 or MCAP), read without ROS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore

from m2f_ros.errors import SourceError
from m2f_ros.replay.camera import CameraModel
from m2f_ros.replay.files import DEFAULT_RATE
from m2f_ros.replay.labels import choose_taxonomy
from m2f_ros.replay.sample import Sample, Source, log
from m2f_ros.taxonomy import Taxonomy

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
STORAGE_SUFFIXES = (".mcap", ".db3")

# Bytes a pixel of the 8-bit encodings in sensor_msgs/image_encodings.hpp that cameras send.
BYTES_PER_PIXEL = {
    **dict.fromkeys(("rgb8", "bgr8", "8UC3"), 3),
    **dict.fromkeys(("rgba8", "bgra8", "8UC4"), 4),
    **dict.fromkeys(("mono8", "8UC1", "bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8"), 1),
    **dict.fromkeys(("yuv422", "uyvy", "yuv422_yuy2", "yuyv", "8UC2"), 2),
}
# Messages looked at to find the rate.
PEEK = 20

_types = get_typestore(Stores.LATEST)


class BadMessage(Exception):
    """A message that cannot be read; the reason is its text."""


class _Stamped(NamedTuple):
    stamp_ns: int
    frame_id: str
    message: object


def find_bag(path: Path) -> Path | None:
    """What to open if the path is a bag: the folder, or the storage file where it has no metadata; else None.

    Raises SourceError for a folder with several storage files and no metadata.yaml.
    """
    if path.is_file():
        return path if path.suffix in STORAGE_SUFFIXES else None
    if (path / "metadata.yaml").is_file():
        return path
    files = sorted(p for p in path.iterdir() if p.suffix in STORAGE_SUFFIXES)
    if len(files) > 1:  # an unfinished recording; the order of its files is in the file that is missing
        raise SourceError(f"{path}: a rosbag2 without metadata.yaml: run `ros2 bag reindex {path}` first")
    return files[0] if files else None


class BagSource(Source):
    """One image topic of a bag, optionally with a topic of label images that carry the same header stamps."""

    def __init__(
        self,
        path: Path,
        *,
        topic: str | None = None,
        labels: str | None = None,
        taxonomy: str | None = None,
        rate: float | None = None,
        frames: int | None = None,
    ) -> None:
        """labels: a topic of mono8 or mono16 images. Raises SourceError where the bag does not have them."""
        self._path = path
        if labels and not labels.startswith("/"):
            raise SourceError(f"LABELS {labels}: for a rosbag2, name its topic of label images, as in /label")
        with self._reader() as reader:
            topics = _image_topics(reader)
            if labels and labels not in topics:
                raise SourceError(f"LABELS {labels}: no such image topic in {path}; there is {_listed(topics)}")
            self._topic = _choose(topics, topic, labels, path)
            self._label_topic = labels
            self._camera = _camera_model(reader, self._topic)
        total, own_rate = topics[self._topic], self._measured_rate()
        chosen = self._label_taxonomy(taxonomy) if labels else None
        self._table = chosen.file_table() if chosen else None
        super().__init__(f"{path} {self._topic}", rate or own_rate, total, frames=frames, taxonomy=chosen)

    @contextmanager
    def _reader(self) -> Iterator[Reader]:
        """The open bag. Errors of opening it become SourceError."""
        try:
            reader = Reader(self._path)
            reader.open()
        except Exception as error:  # rosbags lets through whatever a damaged file makes it stumble on
            raise SourceError(
                f"{self._path}: not a whole rosbag2 ({_one_line(error)}); "
                "a recording that was cut off can be mended with `mcap recover` or `ros2 bag reindex`"
            ) from None
        try:
            yield reader
        finally:
            reader.close()

    def _messages(self, topic: str) -> Iterator[_Stamped | BadMessage]:
        """The messages of a topic, in the order of the bag; a BadMessage in place of one that is damaged."""
        with self._reader() as reader:
            connections = [c for c in reader.connections if c.topic == topic]
            messages = reader.messages(connections)
            while True:
                try:
                    connection, bag_ns, data = next(messages)
                except StopIteration:
                    return
                except Exception as error:  # as above; the rest of the file cannot be read either
                    yield BadMessage(f"the file is damaged from here on ({_one_line(error)})")
                    return
                yield _stamped(connection, bag_ns, data)

    def _measured_rate(self) -> float:
        """Hz by the median interval between the first stamps."""
        stamps = []
        for message in self._messages(self._topic):
            if isinstance(message, _Stamped):
                stamps.append(message.stamp_ns)
            if len(stamps) == PEEK:
                break
        intervals = np.diff(stamps)
        interval = np.median(intervals) if len(intervals) else 0
        return float(1e9 / interval) if interval > 0 else DEFAULT_RATE

    def _label_taxonomy(self, spec: str | None) -> Taxonomy:
        """Taxonomy of the label topic, by its first readable image."""
        what = f"LABELS {self._label_topic}"
        for message in self._messages(self._label_topic):
            if isinstance(message, _Stamped):
                try:
                    ids = decode_label(message.message)
                except BadMessage as error:
                    raise SourceError(f"{what}: not a topic of label images: {error}") from None
                return choose_taxonomy(spec, set(np.unique(ids).tolist()), self._label_topic, what)
        raise SourceError(f"{what}: no message in it can be read")

    def _samples(self) -> Iterator[Sample]:
        index = labelled = 0
        labels = _LabelCursor(self._messages(self._label_topic)) if self._label_topic else None
        for message in self._messages(self._topic):
            try:
                if isinstance(message, BadMessage):
                    raise message
                image, encoding = decode_image(message.message)
            except BadMessage as error:
                self._skip(str(error))
                continue
            label = None
            if labels is not None and (ids := labels.at(message.stamp_ns)) is not None:
                if ids.shape != image.shape[:2]:
                    raise SourceError(
                        f"{self.name}: at stamp {message.stamp_ns} the label is "
                        f"{ids.shape[1]}x{ids.shape[0]} but the image is {image.shape[1]}x{image.shape[0]}"
                    )
                label = self._table[ids]
                labelled += 1
            name, camera = str(message.stamp_ns), self._camera
            yield Sample(index, message.stamp_ns, name, image, encoding, message.frame_id, label, camera)
            index += 1
        if labels is not None and labelled < index:
            log.warning("%s: %d of %d frames have no label", self.name, index - labelled, index)


class _LabelCursor:
    """Walks the labels alongside the images: both topics ascend in their header stamps."""

    def __init__(self, messages: Iterator[_Stamped | BadMessage]) -> None:
        self._messages = (m for m in messages if isinstance(m, _Stamped))
        self._current = next(self._messages, None)

    def at(self, stamp_ns: int) -> np.ndarray | None:
        """The label ids with exactly this header stamp, or None."""
        while self._current is not None and self._current.stamp_ns < stamp_ns:
            self._current = next(self._messages, None)
        if self._current is None or self._current.stamp_ns != stamp_ns:
            return None
        try:
            return decode_label(self._current.message)
        except BadMessage as error:
            log.warning("skipped a label: %s", error)
            return None


def decode_image(message: object) -> tuple[np.ndarray, str]:
    """Image (H, W) or (H, W, C) uint8 and its encoding, from rosbags' sensor_msgs Image or CompressedImage.

    A view of the message without its row padding; a compressed one becomes "bgr8". Raises BadMessage for
    sizes that contradict each other, SourceError for an encoding that no colour or grey camera sends.
    """
    if not hasattr(message, "encoding"):
        try:
            image = cv2.imdecode(message.data, cv2.IMREAD_COLOR) if len(message.data) else None
        except cv2.error:
            image = None
        if image is None:
            raise BadMessage(f"compressed image of format {message.format!r} cannot be decoded")
        return image, "bgr8"
    channels = BYTES_PER_PIXEL.get(message.encoding)
    if channels is None:
        raise SourceError(
            f"encoding {message.encoding!r} of the chosen topic is not that of a colour or grey camera; "
            "choose another with TOPIC="
        )
    rows = _rows(message, message.width * channels)
    image = rows.reshape(message.height, message.width, channels)
    return (image[:, :, 0] if channels == 1 else image), message.encoding


def decode_label(message: object) -> np.ndarray:
    """(H, W) uint8 or uint16 ids from a mono8 or mono16 image. Raises BadMessage for anything else."""
    encoding = getattr(message, "encoding", "compressed")
    if encoding in ("mono8", "8UC1"):
        return _rows(message, message.width)
    if encoding in ("mono16", "16UC1"):
        order = ">" if message.is_bigendian else "<"
        return np.ascontiguousarray(_rows(message, message.width * 2)).view(f"{order}u2").astype(np.uint16)
    raise BadMessage(f"its encoding is {encoding}, not mono8 or mono16")


def _rows(message: object, row_bytes: int) -> np.ndarray:
    """(height, row_bytes) uint8 view: the pixels of an Image without padding."""
    height, step, data = message.height, message.step, message.data
    size = f"{message.width}x{height} {message.encoding}, step {step}, {len(data)} bytes"
    if height == 0 or row_bytes == 0:
        raise BadMessage(f"empty image: {size}")
    if step < row_bytes or len(data) < height * step:
        raise BadMessage(f"image with too little data: {size}")
    return data[: height * step].reshape(height, step)[:, :row_bytes]


def _stamped(connection: Connection, bag_ns: int, data: bytes) -> _Stamped | BadMessage:
    try:
        message = _types.deserialize_cdr(data, connection.msgtype)
    except SerdeError as error:
        return BadMessage(f"{connection.topic}: damaged message ({_one_line(error)})")
    header = message.header
    # A driver that does not stamp its images leaves the time of recording.
    stamp_ns = header.stamp.sec * 1_000_000_000 + header.stamp.nanosec or bag_ns
    return _Stamped(stamp_ns, header.frame_id, message)


def _image_topics(reader: Reader) -> dict[str, int]:
    """Image topics that hold messages, with their number."""
    topics: dict[str, int] = {}
    for c in reader.connections:
        if c.msgtype in (IMAGE, COMPRESSED_IMAGE) and c.msgcount:
            topics[c.topic] = topics.get(c.topic, 0) + c.msgcount
    return topics


def _choose(topics: dict[str, int], topic: str | None, labels: str | None, path: Path) -> str:
    candidates = {name: count for name, count in topics.items() if name != labels}
    if not candidates:
        raise SourceError(f"{path}: no images (sensor_msgs Image or CompressedImage) in this rosbag2")
    if topic is None:
        if len(candidates) > 1:
            raise SourceError(f"{path}: several image topics, choose with TOPIC=: {_listed(candidates)}")
        return next(iter(candidates))
    if topic not in candidates:
        raise SourceError(f"TOPIC {topic}: no such image topic in {path}; there is {_listed(candidates)}")
    return topic


def _listed(topics: dict[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in sorted(topics.items())) or "none"


def _camera_model(reader: Reader, image_topic: str) -> CameraModel | None:
    """From the first CameraInfo beside the image topic (image_transport's convention), None without one."""
    namespace = image_topic.removesuffix("/compressed").rpartition("/")[0]
    connections = [c for c in reader.connections if c.msgtype == CAMERA_INFO and c.topic == f"{namespace}/camera_info"]
    if not any(c.msgcount for c in connections):
        return None
    connection, bag_ns, data = next(reader.messages(connections))
    stamped = _stamped(connection, bag_ns, data)
    if isinstance(stamped, BadMessage):
        return None
    info = stamped.message
    fx, fy, cx, cy = (float(info.k[i]) for i in (0, 4, 2, 5))
    return CameraModel(info.width, info.height, fx, fy, cx, cy, tuple(float(d) for d in info.d))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
