"""Cameras of a rosbag2 as a source of samples, with ground truth of the same header stamps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np

from m2f_ros.bags import topics as names
from m2f_ros.bags.image_topic import ImageDecoder, decode_label
from m2f_ros.bags.info_topic import CameraInfos
from m2f_ros.bags.reader import Bag, Message
from m2f_ros.datasets.ids import KnownIds
from m2f_ros.errors import FrameError, SourceError
from m2f_ros.files import distinct
from m2f_ros.frame.bgr import to_8_bits
from m2f_ros.sources.bag_space import BagSpace
from m2f_ros.sources.files import DEFAULT_RATE
from m2f_ros.sources.labels import OPTION, find_legend, taxonomy_of_topic
from m2f_ros.sources.sample import Header, Options, Sample, Source, log
from m2f_ros.sources.stamps import rate_of
from m2f_ros.taxonomy import Taxonomy

# Most messages to read for the rate.
PEEK = 20
# Command line options for a topic.
TOPIC, TOPICS = "--topic {0} (TOPIC={0} with make demo)", "--topics {}"
_NEVER = 1 << 80  # later than any stamp


class BagSource(Source):
    """Samples of the image topics of a bag, by log time."""

    def __init__(
        self,
        bag: Bag,
        name: str,
        cameras: Mapping[str, str],
        options: Options,
        *,
        rate: float | None = None,
        truth: tuple[str, Taxonomy] | None = None,
        note: str = "",
        keep_damaged: bool = False,
        space: BagSpace | None = None,
    ) -> None:
        """cameras: topic -> name of the camera.

        options: only frames and bit_depth are used. truth: label topic and taxonomy, for a single camera.
        note: warning at the start of reading. keep_damaged: see Source; True also keeps 16-bit frames.
        space: topics of depth, transforms and clouds; None to read none.
        """
        self._bag, self._cameras, self._note, self._space = bag, cameras, note, space
        self._bit_depth, self._label_topic = options.bit_depth, truth[0] if truth else None
        counts = bag.image_topics()
        super().__init__(
            name,
            rate or DEFAULT_RATE,
            sum(counts[topic] for topic in cameras),
            frames=options.frames,
            cameras=list(cameras.values()),
            taxonomy=truth[1] if truth else None,
            epoch=True,
            keep_damaged=keep_damaged,
        )
        self.topics = {camera: topic for topic, camera in cameras.items()}

    def _samples(self, first: int) -> Iterator[Sample]:
        if self._note:
            self._say(self._note, str(self._bag.path))
        for line in self._space.lines if self._space else ():
            self._say(line, str(self._bag.path))
        self._bag.forget()
        beside = self._space.reader() if self._space else None
        decoders: dict[str, ImageDecoder] = {}
        infos = CameraInfos(self._bag, self._cameras)
        truth = None
        if self._label_topic and self.taxonomy:
            truth = _GroundTruth(self._bag, self._label_topic, self.taxonomy)
        readable = labelled = 0
        for index, message in enumerate(self._bag.messages(self._cameras)):
            # The first image of each topic determines the encoding: it is decoded even before `first`.
            decoder = decoders.get(message.topic)
            if decoder is None:
                decoder = decoders[message.topic] = ImageDecoder(message.topic, self._bit_depth, self._say_of(message))
            elif index < first and not decoder.learns:
                if beside:
                    beside.skip(message)
                continue
            sample = self._decoded(index, message, decoder)
            if index < first:
                if beside:
                    beside.skip(message)
                continue
            if beside:
                beside.fill(sample, message)
            if sample.frame is not None:
                readable += 1
                sample.calibration = infos.at(message.topic, sample.stamp_ns)
                if truth:
                    sample.label, sample.instances = truth.of(sample)
                    labelled += sample.label is not None
            yield sample
        if truth:
            truth.read_on()
        lost = beside.end(lambda line: self._say(line)) if beside else []
        self._end(truth, readable, labelled, lost)

    def _say_of(self, message: Message) -> Callable[[str], None]:
        of = message.topic if self._keep_damaged else self.name
        return lambda line: self._say(line, of)

    def _decoded(self, index: int, message: Message, decode: ImageDecoder) -> Sample:
        """Decode a sample. Raises SourceError if its encoding has changed, or is not a camera's."""
        header = frame = None
        problem, stamp_ns, name = "", message.taken_ns, str(message.taken_ns)
        try:
            image = message.decode()
            header = Header(image.header.stamp.sec, image.header.stamp.nanosec, image.header.frame_id)
            frame = decode.frame(image)
        except FrameError as error:
            problem = f"{message.topic} at {stamp_ns}: {error}"
        if self._keep_damaged:
            name = f"{index:06d}_{name}"
        elif frame is not None:
            frame = to_8_bits(frame)
        camera = self._cameras[message.topic]
        return Sample(index, stamp_ns, name, frame, problem, camera, header, message.log_ns)

    def _end(self, truth: _GroundTruth | None, readable: int, labelled: int, lost: Sequence[str]) -> None:
        """Log and record missing frames and labels at the end of reading. lost: lines on what is missing of space."""
        problems = [self.problem, self._bag.problem, *lost]
        if self._bag.problem and not self._keep_damaged:
            log.warning("%s: %s", self._bag.path, self._bag.problem)
        if truth and labelled < readable:
            log.warning("%s: %d of %d frames have no label", self.name, readable - labelled, readable)
            if truth.damaged:
                problems.append(f"{truth.damaged} labels of {self._label_topic} are damaged")
            elif not labelled:
                problems.append(f"no stamp of a label of {self._label_topic} is that of an image")
        self.problem = "; ".join(filter(None, problems))


def one_camera(bag: Bag, options: Options) -> BagSource:
    """Open one camera of a bag, the requested topic or the only one, with the requested labels or the camera's ground
    truth, if it has a legend.

    Damaged frames are skipped, and 16-bit frames converted to 8. Raises SourceError if the topics do not exist.
    """
    images, labels = bag.image_topics(), options.labels
    if labels and not labels.startswith("/"):
        raise SourceError(f"labels {labels}: for a rosbag2, name its topic of label images, as in /label")
    if labels and labels not in images:
        raise SourceError(f"labels {labels}: no such image topic in {bag.path}; there is {names.listed(images)}")
    chosen = names.choose(bag, options.topics, TOPIC, {labels} if labels else ())
    topic = chosen.topics[0]
    if len(chosen.topics) > 1:
        several = names.listed({name: images[name] for name in chosen.topics})
        raise SourceError(
            f"{bag.path}: several image topics, choose one with --topic, or TOPIC= with make demo: {several}"
        )
    truth = names.truth_topic(topic)
    if labels is None and truth in images and find_legend(bag, truth):
        labels = truth
    found = (labels, taxonomy_of_topic(bag, labels, options.taxonomy, f"labels {labels}")[0]) if labels else None
    rate = options.rate or _measured_rate(bag, topic)
    cameras = {topic: ""}
    space = _space_of(bag, cameras, options)
    note = _left_out(chosen, space, TOPIC)
    return BagSource(bag, f"{bag.path} {topic}", cameras, options, rate=rate, truth=found, note=note, space=space)


def all_cameras(bag: Bag, name: str, options: Options) -> BagSource:
    """Open all cameras of a bag, or the requested topics, without ground truth, and with damaged frames.

    name: name of the source. Raises SourceError if the topics do not exist.
    """
    chosen = names.choose(bag, options.topics, TOPICS)
    cameras = camera_names(chosen.topics)
    space = _space_of(bag, cameras, options)
    note = _left_out(chosen, space, TOPICS)
    return BagSource(bag, name, cameras, options, note=note, keep_damaged=True, space=space)


def _space_of(bag: Bag, cameras: Mapping[str, str], options: Options) -> BagSpace | None:
    return BagSpace(bag, cameras, options.space) if options.space.asked else None


def _left_out(chosen: names.Cameras, space: BagSpace | None, option: str) -> str:
    """Return the line on topics that are left out: not those of depth that are read, nor the same ones compressed."""
    read = set(space.depth.values()) if space else set()
    left = {t: e for t, e in chosen.left_out.items() if not {t, t.removesuffix("/compressedDepth")} & read}
    return names.Cameras(chosen.topics, left).says(option)


class _GroundTruth:
    """Labels, and instances if the bag has them, by stamp. damaged: number of damaged labels so far."""

    def __init__(self, bag: Bag, topic: str, taxonomy: Taxonomy) -> None:
        self._topic, self._known = topic, KnownIds(taxonomy)
        self.damaged = 0
        self._things = np.array([c.id for c in taxonomy.classes if c.thing])
        # Separate cursors, since labels and instances advance independently.
        self._labels = _Cursor(bag.messages([topic]))
        ids, segments = f"{topic}/{names.PANOPTIC}", f"{topic}/{names.SEGMENTS}"
        panoptic = ids in bag.topics and segments in bag.topics
        self._panoptic = (_Cursor(bag.messages([ids])), _Cursor(bag.messages([segments]))) if panoptic else None

    def read_on(self) -> None:
        """Read the labels to their end, so that the bag finds damage."""
        self._labels.at(_NEVER)

    def of(self, sample: Sample) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Return the train ids and instance ids of an image, both None without a label.

        Raises SourceError for an id outside the taxonomy, or if label and image differ in size.
        """
        stamp_ns = sample.stamp_ns
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
        (height, width), (rows, columns) = sample.image.shape[:2], label.shape
        if (height, width) != (rows, columns):
            raise SourceError(
                f"{self._topic}: at stamp {stamp_ns} the label is {columns}x{rows} but the image is {width}x{height}"
            )
        return label, instances

    def _instances(self, stamp_ns: int) -> np.ndarray | None:
        """Return (H, W) uint16 ids of things, 0 elsewhere."""
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
    """Reads a topic alongside the images; the header stamps of both ascend."""

    def __init__(self, messages: Iterator[Message]) -> None:
        self._messages = messages
        self._current = next(messages, None)

    def at(self, stamp_ns: int) -> Message | None:
        """Return the message with exactly this header stamp, or None."""
        while self._current is not None and self._current.taken_ns < stamp_ns:
            self._current = next(self._messages, None)
        return self._current if self._current is not None and self._current.taken_ns == stamp_ns else None


def camera_names(topics: Collection[str]) -> dict[str, str]:
    """Return the camera name of each topic, in order: "" for a single topic, else the namespace, /front/image -> front.

    Names that would be equal are made from the whole topic, /front/image_raw -> front_image_raw, or else numbered. All
    are valid in ROS, even if the topics of a damaged bag are not.
    """
    if len(topics) == 1:
        return dict.fromkeys(topics, "")
    for found in zip(*map(names.names_of, topics), strict=True):
        if len({*found} - {""}) == len(found):
            return dict(zip(topics, found, strict=True))
    return dict(zip(topics, distinct((names.token(topic) or "camera" for topic in topics), between="_"), strict=True))


def _measured_rate(bag: Bag, topic: str) -> float | None:
    """Return Hz, by the median interval between the first stamps, or log times if the stamps are constant."""
    first = list(islice(bag.messages([topic]), PEEK))
    return rate_of([message.taken_ns for message in first]) or rate_of([message.log_ns for message in first])
