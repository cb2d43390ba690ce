"""Depth images of a bag: the topic that belongs to a camera, and the image nearest to a picture in time."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from m2f_ros.bags.reader import Bag, Message
from m2f_ros.bags.topics import encoding_of, is_made, listed, names_of
from m2f_ros.errors import FrameError, SourceError, SpaceError
from m2f_ros.space.depth import decode_compressed_depth, decode_depth

OPTION = "--depth-topic"
ENCODINGS = ("16UC1", "mono16", "32FC1", "compressedDepth")
_NAMED_DEPTH = re.compile(r"depth", re.IGNORECASE)
_NAMED_OTHER = re.compile(r"disparity|confidence", re.IGNORECASE)
_REGISTERED = re.compile(r"registered|aligned", re.IGNORECASE)
_PEEK = 20  # messages to read for an encoding
_FAR_NS = 5 * 10**9  # times that lie so far apart do not belong together
_MOST = 256  # messages held, of a second


class Kind(NamedTuple):
    """The encoding and the frame_id of a topic's images; "" if no message can be read."""

    encoding: str
    frame_id: str


def choose_depth(bag: Bag, cameras: Mapping[str, str], asked: Sequence[str] = ()) -> tuple[dict[str, str], list[str]]:
    """Choose the depth topic of each camera. Return image topic -> depth topic, and lines on cameras without one.

    A depth topic has "depth" in its name and 16UC1, 32FC1 or compressedDepth in it. It belongs to the camera that has
    its frame_id; where one of them has no frame_id, to the one whose name begins alike. If there are several, the one
    whose name begins most alike is taken, then a registered or aligned one, and the raw one before the compressed.

    cameras: image topic -> name of the camera. asked: depth topics, TOPIC or CAMERA=TOPIC; these may have another
    frame_id.

    Raises SourceError if a topic that is asked for does not exist or is no depth, or several belong to a camera.
    """
    named, plain = _asked(bag, cameras, asked)
    kinds = {topic: _kind(bag, topic) for topic in plain or _depth_topics(bag)}
    found, lines = dict(named), [_elsewhere(bag, image, topic) for image, topic in named.items()]
    lines = [line for line in lines if line]
    for image in sorted(cameras.keys() - named.keys()):
        frame = _kind(bag, image).frame_id
        topics = _belonging(image, frame, {topic: kind.frame_id for topic, kind in kinds.items()})
        if len(topics) > 1:
            raise SourceError(f"{bag.path}: several depth topics for {image}, choose one with {OPTION}: {topics}")
        if topics:
            found[image] = topics[0]
        else:
            lines.append(f"{image} (frame {frame or 'unknown'}) has no depth topic")
    if not found:
        others = [f"{topic} (frame {kind.frame_id or 'unknown'})" for topic, kind in sorted(kinds.items())]
        others += [
            f"{topic} ({encoding[:40] or 'damaged'}, which is not read)"
            for topic in _named_depth(bag)
            if topic not in kinds and (encoding := _kind(bag, topic).encoding) not in ENCODINGS
        ]
        lines = [
            f"no depth image that is registered to a camera: {'; '.join(lines)}; depth topics: "
            f"{', '.join(others) or 'none'}; name one with {OPTION}"
        ]
    return found, lines


def _asked(bag: Bag, cameras: Mapping[str, str], asked: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return those asked for a camera, image topic -> depth topic, and the others."""
    named, plain = {}, []
    for item in asked:
        camera, _, topic = item.rpartition("=")
        images = bag.image_topics()
        if topic not in images:
            raise SourceError(f"{OPTION} {topic}: no such image topic in {bag.path}; there is {listed(images)}")
        if (encoding := _kind(bag, topic).encoding) not in ENCODINGS:
            raise SourceError(f"{OPTION} {topic}: its encoding is {encoding[:40]!r}, not one of {', '.join(ENCODINGS)}")
        if not camera:
            plain.append(topic)
            continue
        of = [image for image, name in cameras.items() if camera in (image, name)]
        of = of or [image for image in cameras if camera in names_of(image)]
        if len(of) != 1:
            there = ", ".join(name or image for image, name in cameras.items())
            wrong = "several cameras are" if of else "no camera is"
            raise SourceError(f"{OPTION} {item}: {wrong} named {camera}; there is {there}")
        named[of[0]] = topic
    if len(cameras) == len(plain) == 1 and not named:
        return {next(iter(cameras)): plain[0]}, []
    return named, plain


def _depth_topics(bag: Bag) -> list[str]:
    return [topic for topic in _named_depth(bag) if _kind(bag, topic).encoding in ENCODINGS]


def _named_depth(bag: Bag) -> list[str]:
    return [
        topic
        for topic in bag.image_topics()
        if _NAMED_DEPTH.search(topic) and not _NAMED_OTHER.search(topic) and not is_made(topic, bag.topics)
    ]


def _elsewhere(bag: Bag, image: str, depth: str) -> str:
    """Return the line on a depth topic of another frame than its camera's; "" for none."""
    here, there = (_kind(bag, topic).frame_id for topic in (image, depth))
    if not (here and there) or here == there:
        return ""
    return f"{depth} (frame {there}) is taken as registered to {image} (frame {here}), as {OPTION} says"


def _belonging(image: str, frame: str, topics: Mapping[str, str]) -> list[str]:
    """Return the topics, of topic -> frame_id, that belong to an image topic equally well."""
    alike = {topic: _alike(image, topic) for topic in topics}
    found = [topic for topic, of in topics.items() if of and of == frame]
    found = found or [topic for topic, of in topics.items() if not (of and frame) and alike[topic]]
    for mark in (alike.__getitem__, lambda topic: bool(_REGISTERED.search(topic))):
        most = max(map(mark, found), default=0)
        found = [topic for topic in found if mark(topic) == most]
    raw = [topic for topic in found if f"{topic}/compressedDepth" in found]
    return sorted(topic for topic in found if topic.removesuffix("/compressedDepth") not in raw or topic in raw)


def _alike(one: str, other: str) -> int:
    """Return the number of parts with which both names begin."""
    count = 0
    for a, b in zip(one.strip("/").split("/"), other.strip("/").split("/"), strict=False):
        if a != b:
            break
        count += 1
    return count


def _kind(bag: Bag, topic: str) -> Kind:
    """Return what the first readable messages of an image topic are."""
    for message in islice(bag.messages([topic]), _PEEK):
        try:
            image = message.decode()
        except FrameError:
            continue
        encoding = encoding_of(image)
        # As image_transport's other codecs, a plain picture of values is not read.
        if not hasattr(image, "encoding") and encoding != "compressedDepth":
            encoding = "compressedDepth" if topic.endswith("/compressedDepth") else encoding and "compressed"
        return Kind(encoding, image.header.frame_id.strip("/"))
    return Kind("", "")


class DepthImages:
    """The depth images of a camera, read alongside its pictures.

    Attributes:
        topic: of the depth images.
        paired: number of pictures with a depth image.
        missing: number of those without one.
        empty: number of those whose depth image knows no depth.
        damaged: number of depth images that could not be decoded, or are of another shape than their picture.
    """

    def __init__(self, bag: Bag, topic: str, slop: float) -> None:
        """slop: most seconds between the stamps of a picture and its depth image."""
        self.topic, self.slop = topic, slop
        self.paired = self.missing = self.empty = self.damaged = 0
        self._nearest = Nearest(bag.messages([topic]), round(slop * 1e9))
        self._last: tuple[Message, np.ndarray] | None = None

    def at(self, stamp_ns: int, log_ns: int, size: tuple[int, int]) -> np.ndarray | None:
        """Return the depth (h, w) float32, metres, NaN where unknown, nearest to a picture; None without one.

        size: of the picture, (height, width). Raises SpaceError for a damaged one, which is counted.
        """
        message = self._nearest.at(stamp_ns, log_ns)
        if message is None:
            self.missing += 1
            return None
        try:
            if self._last is None or self._last[0] is not message:
                self._last = message, _decoded(message)
            depth = self._last[1]
            (height, width), (h, w) = size, depth.shape
            if 2 * abs(h * width - w * height) > max(h, w, height, width):
                raise SpaceError(
                    f"it is {w}x{h}, another shape than the image's {width}x{height}: it is not registered"
                )
        except (FrameError, SpaceError) as error:
            self.damaged += 1
            raise SpaceError(f"{self.topic} at {message.taken_ns}: {error}") from None
        self.paired += 1
        self.empty += not np.isfinite(depth).any()
        return depth

    def read_on(self) -> None:
        """Read to the end, so that the bag finds damage."""
        self._nearest.read_on()


def _decoded(message: Message) -> np.ndarray:
    image = message.decode()
    return decode_depth(image) if hasattr(image, "encoding") else decode_compressed_depth(image)


class Nearest:
    """Finds the message of a topic that is nearest in time to each of ascending stamps."""

    def __init__(self, messages: Iterator[Message], slop_ns: int) -> None:
        self._messages, self._slop_ns = messages, slop_ns
        self._next = next(messages, None)
        self._held: deque[Message] = deque(maxlen=_MOST)  # by the time of recording

    def at(self, stamp_ns: int, log_ns: int) -> Message | None:
        """Return the message whose stamp is nearest, within the slop; None if there is none.

        log_ns: time of recording of what is asked for. It bounds the search where stamps stand still or jump back.
        """
        latest = stamp_ns + self._slop_ns
        while self._held and not self._may_be_near(self._held[0], stamp_ns, log_ns):
            self._held.popleft()
        while self._next is not None and self._next.log_ns <= log_ns + _FAR_NS:
            newest = self._held[-1].taken_ns if self._held else latest
            before_jump = newest > latest + _FAR_NS and self._next.log_ns <= log_ns
            if newest > latest and not before_jump:
                break
            self._held.append(self._next)
            self._next = next(self._messages, None)
        near = [m for m in self._held if abs(m.taken_ns - stamp_ns) <= self._slop_ns]
        return min(near, key=lambda m: (abs(m.taken_ns - stamp_ns), abs(m.log_ns - log_ns)), default=None)

    def _may_be_near(self, message: Message, stamp_ns: int, log_ns: int) -> bool:
        """Return True if this or a later stamp may still be near to the message's."""
        ahead = message.taken_ns - stamp_ns
        return -self._slop_ns <= ahead <= self._slop_ns + _FAR_NS and message.log_ns >= log_ns - _FAR_NS

    def read_on(self) -> None:
        """Read to the end."""
        self._next = None
        for _ in self._messages:
            pass
