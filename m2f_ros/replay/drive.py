"""A recorded drive: the images of all its cameras in the order of recording, with their headers."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from m2f_ros.bags.files import bag_path, is_bag
from m2f_ros.bags.image_topic import ImageDecoder
from m2f_ros.bags.info_topic import CameraInfos
from m2f_ros.bags.reader import Bag, Message, say_unread
from m2f_ros.bags.topics import cameras
from m2f_ros.errors import FrameError, SourceError
from m2f_ros.files import distinct
from m2f_ros.frame.bit_depth import AUTO
from m2f_ros.frame.calibration import Calibration
from m2f_ros.pipeline import Frame
from m2f_ros.replay.make_bag import START_NS
from m2f_ros.sources.bag import listed
from m2f_ros.sources.open import ENDLESS_FRAMES, open_source

log = logging.getLogger("m2f_ros.replay")

_MOST_TOKEN = 100  # of the 255 that a topic's name may have in all


class Header(NamedTuple):
    """Of an image's message, untouched."""

    sec: int
    nanosec: int
    frame_id: str


@dataclass(frozen=True)
class Recorded:
    """One image of a drive.

    Attributes:
        index: 0, 1, 2, … in the drive, over all its cameras.
        camera: one of `Drive.cameras`.
        name: what to call a file of it.
        log_ns: when it was recorded, ns since the Unix epoch; from START_NS on where the drive does not say.
        header: None where the message is too damaged to have one.
        frame: None where it cannot be decoded.
        problem: why not.
        info: what is known of the camera; None: nothing.
    """

    index: int
    camera: str
    name: str
    log_ns: int
    header: Header | None
    frame: Frame | None
    problem: str = ""
    info: Calibration | None = None


class Drive:
    """The images of a bag, a video, a folder or the simulated street.

    Attributes:
        name: as the user gave it.
        cameras: names for the topics of each camera's outputs; "" for the only camera.
        total: how many images there are; None: not known before the end.
        problem: why images are missing, once `images` has come to its end; else empty.
    """

    def __init__(self, name: str, cameras: Sequence[str], total: int | None) -> None:
        self.name, self.cameras, self.total = name, tuple(cameras), total
        self.problem = ""

    def images(self, first: int = 0) -> Iterator[Recorded]:
        """The images from this number on. Raises SourceError where nothing can be read."""
        raise NotImplementedError


def open_drive(spec: str, topics: Sequence[str] = (), frames: int | None = None, bit_depth: int = AUTO) -> Drive:
    """Open what the user named: a rosbag2 folder or file, a video, an image or folder of them, street or street:SEED.

    Args:
        topics: image topics of a bag; none: all of its cameras'.
        frames: at most so many, all cameras together; None: all, of the street ENDLESS_FRAMES.
        bit_depth: see BitDepth.
    Raises:
        SourceError: there is no such drive or topic, or it cannot be read.
    """
    path = bag_path(spec)
    if is_bag(path):
        return BagDrive(spec, path, topics, frames, bit_depth)
    if topics:
        raise SourceError(f"--topics {','.join(topics)}: not for {spec}: only a rosbag2 has topics")
    if path.is_char_device():
        raise SourceError(f"{spec}: a live camera cannot be replayed; record it, or run segmentation_node")
    return SourceDrive(spec, frames, bit_depth)


class SourceDrive(Drive):
    """One camera that is not a bag's. Frames before `first` are read, too."""

    def __init__(self, spec: str, frames: int | None, bit_depth: int) -> None:
        if frames is None and re.fullmatch(r"street(:.*)?", spec):
            frames = ENDLESS_FRAMES
        self._source = open_source(spec, frames=frames, bit_depth=bit_depth)
        super().__init__(spec, [""], self._source.length)

    def images(self, first: int = 0) -> Iterator[Recorded]:
        for sample in islice(self._source, first, None):
            stamp_ns = sample.stamp_ns + (0 if self._source.epoch else START_NS)
            header = Header(*divmod(stamp_ns, 1_000_000_000), sample.frame_id)
            frame = Frame(sample.image, sample.encoding)
            yield Recorded(sample.index, "", sample.name, stamp_ns, header, frame, info=sample.camera)
        self.problem = self._source.problem


class BagDrive(Drive):
    """Image topics of a rosbag2, in the order of their log times. What is before `first` is not decoded."""

    def __init__(self, spec: str, path: Path, topics: Sequence[str], frames: int | None, bit_depth: int) -> None:
        self._path, self._frames, self._bit_depth = path, frames, bit_depth
        with Bag(path) as bag:
            counts = bag.image_topics()
            chosen, self._left_out = _choose(bag, topics, spec)
            if not topics:
                say_unread(bag)
        self._cameras = camera_names(chosen)
        total = sum(counts[topic] for topic in chosen)
        super().__init__(spec, self._cameras.values(), total if frames is None else min(total, frames))

    def images(self, first: int = 0) -> Iterator[Recorded]:
        if self._left_out:
            log.warning("%s: %s", self.name, self._left_out)
        decoders: dict[str, ImageDecoder] = {}
        index = -1
        with Bag(self._path) as bag:
            infos = CameraInfos(bag, self._cameras)
            for index, message in enumerate(islice(bag.messages(self._cameras), self._frames)):
                # Of what comes before, the first image of each topic tells the encoding of all.
                decoder = decoders.get(message.topic)
                if decoder is None:
                    decoder = decoders[message.topic] = ImageDecoder(message.topic, self._bit_depth)
                elif index < first and not decoder.learns:
                    continue
                image = self._recorded(index, message, decoder)
                if index >= first:
                    yield replace(image, info=infos.at(message.topic, message.taken_ns))
            # What was left out on purpose is not missing.
            self.problem = bag.problem if self._frames is None or index + 1 < self._frames else ""

    def _recorded(self, index: int, message: Message, decode: ImageDecoder) -> Recorded:
        """Raises SourceError for an encoding that is another than before, or not a camera's."""
        header = frame = None
        problem = ""
        stamp_ns = message.taken_ns
        try:
            image = message.decode()
            header = Header(image.header.stamp.sec, image.header.stamp.nanosec, image.header.frame_id)
            frame = decode.frame(image)
        except FrameError as error:
            problem = f"{message.topic} at {stamp_ns}: {error}"
        name = f"{index:06d}_{stamp_ns}"
        return Recorded(index, self._cameras[message.topic], name, message.log_ns, header, frame, problem)


def camera_names(topics: Collection[str]) -> dict[str, str]:
    """Topic -> name of its camera, in the order given: "" for one alone, else the namespace, /front/image -> front.

    Where two would be the same, the whole topic makes the name: /front/image_raw -> front_image_raw; where that is no
    help, a number. All of them are names that ROS takes, whatever a damaged bag calls its topics.
    """
    if len(topics) == 1:
        return dict.fromkeys(topics, "")
    raw = {topic: topic.removesuffix("/compressed").strip("/") for topic in topics}
    namespaces = [_token(name.rpartition("/")[0]) for name in raw.values()]
    wholes = [_token(name) for name in raw.values()]
    for names in (namespaces, wholes):
        if len({*names} - {""}) == len(names):
            return dict(zip(topics, names, strict=True))
    names = distinct((_token(topic) or "camera" for topic in topics), between="_")
    return dict(zip(topics, names, strict=True))


def _token(topic: str) -> str:
    """A topic as one part of a topic's name: letters, digits and single underscores, and no digit first."""
    return re.sub(r"^(?=\d)", "_", re.sub(r"[\W_]+", "_", topic.strip("/"), flags=re.ASCII))[:_MOST_TOKEN]


def _choose(bag: Bag, asked: Sequence[str], spec: str) -> tuple[list[str], str]:
    """The topics asked for, sorted; else those of all cameras, and a line that says what is left out."""
    counts = bag.image_topics()
    trouble = "; ".join(text for text in (bag.unread, bag.problem) if text)
    there = listed(counts) + (f" ({trouble})" if trouble else "")
    missing = [topic for topic in asked if topic not in counts]
    if missing:
        raise SourceError(f"--topics {missing[0]}: no such image topic in {spec}; there is {there}")
    if asked:
        return sorted(set(asked)), ""
    found = cameras(bag)
    left_out = found.says("--topics {}")
    if not found.topics:
        raise SourceError(f"{spec}: no images of a camera in this rosbag2; {left_out or f'image topics: {there}'}")
    return found.topics, left_out
