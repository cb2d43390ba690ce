"""A camera of a rosbag2 as a source of samples: one image topic, with a topic of labels."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from m2f_ros.bags import topics as names
from m2f_ros.bags.image_topic import ImageDecoder, decode_label
from m2f_ros.bags.info_topic import CameraInfos
from m2f_ros.bags.messages import LEGEND
from m2f_ros.bags.reader import Bag, Message, say_unread
from m2f_ros.datasets.ids import KnownIds
from m2f_ros.errors import FrameError, SourceError
from m2f_ros.frame.bgr import to_8_bits
from m2f_ros.frame.bit_depth import AUTO
from m2f_ros.sources.files import DEFAULT_RATE
from m2f_ros.sources.labels import OPTION, taxonomy_of_ids, taxonomy_of_legend
from m2f_ros.sources.sample import Sample, Source, log
from m2f_ros.sources.stamps import rate_of
from m2f_ros.taxonomy import Taxonomy

# Messages looked at to find the rate.
PEEK = 20
_NEVER = 1 << 80  # later than any stamp


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
        bit_depth: int = AUTO,
    ) -> None:
        """labels: a topic of mono8 or mono16 images; None: the camera's ground truth, if there is any with a legend.

        Raises SourceError where the bag does not have them.
        """
        self._path, self._bit_depth = path, bit_depth
        if labels and not labels.startswith("/"):
            raise SourceError(f"labels {labels}: for a rosbag2, name its topic of label images, as in /label")
        with Bag(path) as bag:
            topics = bag.image_topics()
            if labels and labels not in topics:
                raise SourceError(f"labels {labels}: no such image topic in {path}; there is {listed(topics)}")
            self._topic = _choose(bag, topic, labels)
            truth = names.truth_topic(self._topic)
            if labels is None and truth in topics and find_legend(bag, truth):
                labels = truth
            self._label_topic = labels
            own_rate = _measured_rate(bag, self._topic)
            chosen = _label_taxonomy(bag, labels, taxonomy) if labels else None
        super().__init__(
            f"{path} {self._topic}",
            rate or own_rate or DEFAULT_RATE,
            topics[self._topic],
            frames=frames,
            taxonomy=chosen,
            epoch=True,
        )

    def _samples(self) -> Iterator[Sample]:
        index = labelled = 0
        decode = ImageDecoder(self._topic, self._bit_depth, self._say)
        with Bag(self._path) as bag:
            infos = CameraInfos(bag, [self._topic])
            truth = _GroundTruth(bag, self._label_topic, self.taxonomy) if self._label_topic else None
            for message in bag.messages([self._topic]):
                try:
                    decoded = message.decode()
                    frame = to_8_bits(decode.frame(decoded))
                except FrameError as error:
                    self._skip(str(error))
                    continue
                stamp_ns, image = message.taken_ns, frame.data
                label, instances = truth.at(stamp_ns) if truth else (None, None)
                if label is not None:
                    if label.shape != image.shape[:2]:
                        raise SourceError(
                            f"{self.name}: at stamp {stamp_ns} the label is "
                            f"{label.shape[1]}x{label.shape[0]} but the image is {image.shape[1]}x{image.shape[0]}"
                        )
                    labelled += 1
                yield Sample(
                    index,
                    stamp_ns,
                    str(stamp_ns),
                    image,
                    frame.encoding,
                    decoded.header.frame_id,
                    label,
                    infos.at(self._topic, stamp_ns),
                    instances,
                    log_ns=message.log_ns,
                )
                index += 1
            if truth:
                truth.read_on()
            if bag.problem:
                log.warning("%s: %s", self._path, bag.problem)
            problems = [self.problem, bag.problem]
        if truth is not None and labelled < index:
            log.warning("%s: %d of %d frames have no label", self.name, index - labelled, index)
            if truth.damaged:
                problems.append(f"{truth.damaged} labels of {self._label_topic} are damaged")
            elif not labelled:
                problems.append(f"no stamp of a label of {self._label_topic} is that of an image")
        self.problem = "; ".join(filter(None, problems))


class _GroundTruth:
    """Labels, and instances where they are below them, by stamp. damaged: how many so far."""

    def __init__(self, bag: Bag, topic: str, taxonomy: Taxonomy) -> None:
        self._topic, self._known = topic, KnownIds(taxonomy)
        self.damaged = 0
        self._things = np.array([c.id for c in taxonomy.classes if c.thing])
        # Each at a pace of its own.
        self._labels = _Cursor(bag.messages([topic]))
        ids, segments = f"{topic}/{names.PANOPTIC}", f"{topic}/{names.SEGMENTS}"
        panoptic = ids in bag.topics and segments in bag.topics
        self._panoptic = (_Cursor(bag.messages([ids])), _Cursor(bag.messages([segments]))) if panoptic else None

    def read_on(self) -> None:
        """To the end of the labels: the bag then knows whether all are there."""
        self._labels.at(_NEVER)

    def at(self, stamp_ns: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Train ids and ids of instances of the image with this stamp, both None without label.

        Raises LabelError for an id that the taxonomy has not.
        """
        message = self._labels.at(stamp_ns)
        if message is None:
            return None, None
        try:
            ids = decode_label(message.decode())
            instances = self._instances(stamp_ns)
        except FrameError as error:
            log.warning("skipped a label: %s", error)
            self.damaged += 1
            return None, None
        label = self._known.train_ids(ids, f"{self._topic} at stamp {stamp_ns}", f"say what its ids mean: {OPTION}")
        if instances is not None and instances.shape != label.shape:
            log.warning("skipped instances at stamp %d: another size than the label", stamp_ns)
            instances = None
        return label, instances

    def _instances(self, stamp_ns: int) -> np.ndarray | None:
        """(H, W) uint16: the ids of things, 0 elsewhere."""
        if self._panoptic is None:
            return None
        ids, segments = (cursor.at(stamp_ns) for cursor in self._panoptic)
        if ids is None or segments is None:
            return None
        things = np.zeros(65536, bool)
        things[[s.id for s in segments.decode().segments if s.class_id in self._things]] = True
        values = decode_label(ids.decode())
        return np.where(things[values], values, 0).astype(np.uint16)


class _Cursor:
    """Walks a topic alongside the images: both ascend in their header stamps."""

    def __init__(self, messages: Iterator[Message]) -> None:
        self._messages = messages
        self._current = next(messages, None)

    def at(self, stamp_ns: int) -> Message | None:
        """The message with exactly this header stamp, or None."""
        while self._current is not None and self._current.taken_ns < stamp_ns:
            self._current = next(self._messages, None)
        return self._current if self._current is not None and self._current.taken_ns == stamp_ns else None


def listed(topics: dict[str, int]) -> str:
    """Image topics and how many messages each holds, for people."""
    return ", ".join(f"{name} ({count})" for name, count in sorted(topics.items())) or "none"


def _choose(bag: Bag, topic: str | None, labels: str | None) -> str:
    images = {name: count for name, count in bag.image_topics().items() if name != labels}
    if not images:
        why = "; ".join(text for text in (bag.unread, bag.problem) if text)
        raise SourceError(
            f"{bag.path}: no images (sensor_msgs Image or CompressedImage) in this rosbag2" + (why and f" ({why})")
        )
    if topic is not None:
        if topic not in images:
            other = f"; {bag.unread}" if topic in bag.unread else ""
            raise SourceError(f"topic {topic}: no such image topic in {bag.path}; there is {listed(images)}{other}")
        return topic
    say_unread(bag)
    cameras = names.cameras(bag, {labels})
    left_out = cameras.says("--topic {0} (TOPIC={0} with make demo)")
    if not cameras.topics:
        raise SourceError(f"{bag.path}: no camera in this rosbag2; {left_out or f'image topics: {listed(images)}'}")
    if len(cameras.topics) > 1:
        several = listed({name: images[name] for name in cameras.topics})
        raise SourceError(
            f"{bag.path}: several image topics, choose one with --topic, or TOPIC= with make demo: {several}"
        )
    if left_out:
        log.warning("%s: %s", bag.path, left_out)
    return cameras.topics[0]


def _measured_rate(bag: Bag, topic: str) -> float | None:
    """Hz by the median interval between the first stamps, or log times where the stamps stand still."""
    first = list(islice(bag.messages([topic]), PEEK))
    return rate_of([message.taken_ns for message in first]) or rate_of([message.log_ns for message in first])


def _label_taxonomy(bag: Bag, topic: str, spec: str | None) -> Taxonomy:
    """Taxonomy of the label topic: as asked for, else by its legend, else by its first readable image."""
    what = f"labels {topic}"
    legend = find_legend(bag, topic)
    if spec is None and legend is not None:
        return taxonomy_of_legend(legend)
    for message in bag.messages([topic]):
        try:
            ids = decode_label(message.decode())
        except FrameError as error:
            raise SourceError(f"{what}: not a topic of label images: {error}") from None
        return taxonomy_of_ids(spec, set(np.unique(ids).tolist()), topic, what)
    raise SourceError(f"{what}: no message in it can be read")


def find_legend(bag: Bag, label_topic: str) -> Any | None:
    """The Legend message of a label topic (see `topics.legend_topics`), None where there is none that can be read."""
    for name in names.legend_topics(label_topic):
        if bag.topics.get(name, ("", 0))[0] == LEGEND:
            return _first(bag, name)
    return None


def _first(bag: Bag, topic: str) -> Any | None:
    """The first message of a topic, None where it cannot be read."""
    try:
        return next((message.decode() for message in bag.messages([topic])), None)
    except FrameError:
        return None
