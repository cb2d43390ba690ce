"""Reads a rosbag2, whole or damaged, without ROS: its topics, and their messages in log order."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from heapq import merge
from itertools import accumulate
from pathlib import Path
from typing import Any
from weakref import finalize

from m2f_ros.bags.bounds import EARLIEST, LARGEST, Allowance, TooMuchError, unpack
from m2f_ros.bags.definitions import ENCAPSULATIONS, Types
from m2f_ros.bags.files import (
    METADATA,
    ZSTD_MAGIC,
    SeveralRecordingsError,
    bag_path,
    is_bag,
    is_storage,
    list_files,
    open_storage,
    recordings_of,
    unpacked,
)
from m2f_ros.bags.messages import COMPRESSED_IMAGE, IMAGE
from m2f_ros.bags.storage import Definition, Storage, Stored, Topic, UnreadableError
from m2f_ros.errors import SourceError, say_once, some, words_of

ENCODINGS = ("cdr", "ros1")  # supported encodings of messages
_REPUBLISH = "play it through image_transport's republish and record the raw images"
VIDEO = {
    "ffmpeg_image_transport_msgs/msg/FFMPEGPacket": _REPUBLISH,
    "theora_image_transport/msg/Packet": _REPUBLISH,
    "foxglove_msgs/msg/CompressedVideo": "decode it into sensor_msgs/msg/Image",
    "foxglove.CompressedVideo": "decode it into sensor_msgs/msg/Image",
}
_END_NS = (1 << 31) * 10**9  # end of ROS 2's time, with int32 seconds
_AT_ONCE = 2  # files read at the same time, since each keeps messages in memory


@dataclass(frozen=True)
class Message:
    """A message of a bag.

    Attributes:
        topic: name of the topic.
        type: message type, such as "sensor_msgs/msg/Image".
        log_ns: time of recording, nanoseconds since the Unix epoch.
        data: CDR.
        types: message types of the bag.
    """

    topic: str
    type: str
    log_ns: int
    data: bytes
    types: Types

    @property
    def stamp_ns(self) -> int:
        """Header stamp, nanoseconds since the Unix epoch, for types that begin with a header.

        0 for an unstamped or truncated message. Nothing else is decoded.
        """
        if len(self.data) < 12 or self.data[:2] not in ENCAPSULATIONS:
            return 0
        seconds, nanoseconds = struct.unpack_from("<iI" if self.data[1] & 1 else ">iI", self.data, 4)
        return seconds * 1_000_000_000 + nanoseconds

    @property
    def taken_ns(self) -> int:
        """`stamp_ns`, or the time of recording for an unstamped message."""
        return self.stamp_ns or self.log_ns

    def decode(self) -> Any:
        """Return rosbags' message object; its arrays are views of `data`.

        Raises FrameError if the message is damaged, SourceError if its type is unknown.
        """
        return self.types.decode(self.data, self.type, self.topic)


class Bag:
    """An open rosbag2: a folder or its metadata.yaml, a storage file alone, or several of one recording (`one,two`).

    Attributes:
        topics: name -> topic, with the number of readable messages.
        problem: one line on missing messages, or "". Complete only after `messages` has ended.
    """

    def __init__(self, path: str | Path) -> None:
        """Raises SourceError if there is no bag, nothing can be read, or the folder holds several recordings."""
        self.path = bag_path(path)
        self._problems: list[str] = []
        self._short: dict[str, str] = {}
        self._notes: dict[str, None] = {}  # problems found during reading, in order
        self._stack = ExitStack()
        self._closing = finalize(self, self._stack.close)
        self._storages: list[Storage] = []
        self._size = 0  # bytes on the disk
        self._stated: Counter[str] = Counter()
        topics: dict[str, Topic] = {}
        try:
            listed = self._open()
        except BaseException:
            self.close()
            raise
        definitions: dict[str, Definition] = {}
        for storage in self._storages:
            definitions |= storage.definitions
            self._stated += storage.stated
            for name, topic in storage.topics.items():
                before = topics.get(name, replace(topic, count=0))
                topics[name] = replace(before, count=before.count + topic.count)
        for name, topic in listed.items():
            topics.setdefault(name, replace(topic, count=0))
            self._stated[name] = max(self._stated[name], topic.count)
        for name, topic in topics.items():
            self._stated[name] = max(self._stated[name], topic.count)
        self.topics = dict(sorted(topics.items()))
        self.types = Types(definitions)

    @property
    def problem(self) -> str:
        damaged = (f"{storage.name}: {storage.problem}" for storage in self._storages if storage.problem)
        return some([*self._problems, *damaged, *self._notes, *self._short.values()], "; ")

    def type_of(self, topic: str) -> str:
        """Return the message type of a topic; "" for an unknown topic."""
        return self.topics[topic].type if topic in self.topics else ""

    def image_topics(self) -> dict[str, int]:
        """Return the number of messages of each non-empty topic of sensor_msgs Image and CompressedImage."""
        return {
            name: topic.count
            for name, topic in self.topics.items()
            if topic.type in (IMAGE, COMPRESSED_IMAGE) and topic.encoding in ENCODINGS and self._stated[name]
        }

    def messages(self, topics: Collection[str] | None = None, from_ns: int = EARLIEST) -> Iterator[Message]:
        """Yield the messages of these topics, or of all, by log time, from `from_ns` on; each call begins anew."""
        wanted = frozenset(self.topics if topics is None else topics)
        found: Counter[str] = Counter()
        allowance = Allowance(self._size)
        for topic, kind, log_ns, data in self._stored(wanted, from_ns):
            if not topic:
                continue
            if data[:4] == ZSTD_MAGIC:
                whole, problem = unpack(data, "zstd")
                try:
                    allowance.take(len(whole))
                except TooMuchError as error:
                    self._notes[f"{self.path.name}: {error}"] = None
                    break
                if len(whole) == LARGEST:
                    self._notes[f"{topic}: a message larger than {LARGEST >> 20} MiB is left out"] = None
                    continue
                data = data if problem else whole  # decoding reports the damage
            found[topic] += 1
            if not 0 <= log_ns < _END_NS:
                self._notes[f"{topic}: log times before 1970 or after 2038, which ROS 2 has not, are moved there"] = (
                    None
                )
                log_ns = min(max(log_ns, 0), _END_NS - 1)
            if self.topics[topic].encoding == "ros1":
                data = self.types.from_ros1(data, kind)
            yield Message(topic, kind, log_ns, data, self.types)
        if from_ns > EARLIEST:
            return
        for topic in sorted(wanted & self._stated.keys()):
            if found[topic] < self._stated[topic]:
                self._short[topic] = f"{topic}: {found[topic]} of {self._stated[topic]} messages are there"

    def _stored(self, topics: Collection[str], from_ns: int) -> Iterator[Stored]:
        """Yield the messages of all files by log time, as far as sorting fits into memory."""
        streams = (
            _opened_in_time(storage, topics, from_ns) for storage in self._storages if storage.last_ns >= from_ns
        )
        if _most_at_once(self._storages) <= _AT_ONCE:
            yield from merge(*streams, key=lambda stored: stored.log_ns)
            return
        self._notes[f"more than {_AT_ONCE} of its files overlap in time: they are read one after the other"] = None
        for stream in streams:
            yield from stream

    @property
    def unread(self) -> str:
        """One line on unreadable picture topics, with advice; "" if there are none."""
        pictures = [
            f"{name} ({topic.type}, {topic.count}) {why}"
            for name, topic in self.topics.items()
            if topic.count and (why := _why_unread(topic))
        ]
        return some(pictures, "; ")

    def forget(self) -> None:
        """Remove the damage found during reading from `problem`, before a new pass."""
        self._notes.clear()
        self._short.clear()

    def close(self) -> None:
        """Close the bag. Further calls do nothing; the garbage collector closes it, too."""
        self._closing()

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _open(self) -> dict[str, Topic]:
        """Open the storage files; return the topics in metadata.yaml."""
        listing = list_files(self.path)
        self._problems += [listing.problem] if listing.problem else []
        unreadable = {}
        for variants in listing.files:
            try:
                self._storages.append(self._opened(variants))
            except (OSError, UnreadableError) as error:
                unreadable[variants[0].name] = getattr(error, "strerror", None) or words_of(error)
        self._problems += [f"{name}: {why}" for name, why in unreadable.items()]
        if not self._storages:
            why = some(self._problems, "; ") or "it has no .mcap or .db3 file"
            raise SourceError(f"{self.path}: not a rosbag2 that can be read ({why})")
        if listing.topics is None:
            recordings = [[part.name for part in parts] for parts in recordings_of(self._storages)]
            if len(recordings) > 1:
                raise SeveralRecordingsError(self.path, recordings + [[name] for name in unreadable])
        if listing.topics is None and not all(storage.finished or storage.problem for storage in self._storages):
            self._problems.append("no metadata.yaml: the recording was not finished")
        return listing.topics or {}

    def _opened(self, variants: list[Path]) -> Storage:
        """Open a storage file: of its plain and compressed variants the whole one, or the one with more messages."""
        found: list[tuple[Storage, str]] = []
        for number, variant in enumerate(variants):
            try:
                file, problem = unpacked(variant, self._stack)
                size = variant.stat().st_size
                storage = open_storage(file, size)
                self._size += size
            except (OSError, UnreadableError):
                if not found and number == len(variants) - 1:
                    raise
                continue
            storage.name = variant.name
            found.append((storage, problem))
            if storage.finished and not (problem or storage.problem):
                break
        storage, problem = max(reversed(found), key=lambda one: sum(t.count for t in one[0].topics.values()))
        self._problems += [f"{storage.name}: {problem}"] if problem else []
        return storage


def _most_at_once(storages: Sequence[Storage]) -> int:
    """Return the largest number of files with messages of the same time."""
    times = [(storage.first_ns, storage.last_ns) for storage in storages if storage.first_ns < storage.last_ns]
    changes = sorted([(last, -1) for _, last in times] + [(first, 1) for first, _ in times])
    return max(accumulate(change for _, change in changes), default=0)


def _opened_in_time(storage: Storage, topics: Collection[str], from_ns: int) -> Iterator[Stored]:
    """Yield a placeholder without a topic, then the messages of a file, which is opened only when they are due."""
    yield Stored("", "", storage.first_ns, b"")
    yield from storage.messages(topics, from_ns)


def _why_unread(topic: Topic) -> str:
    """Return why a topic of pictures cannot be read, with advice; "" for other topics."""
    if topic.type in VIDEO:
        return f"is video, which is not read: {VIDEO[topic.type]}"
    if topic.type in (IMAGE, COMPRESSED_IMAGE) and topic.encoding in ENCODINGS:
        return ""
    if topic.type.rpartition("/")[2].rpartition(".")[2] in ("Image", "RawImage", "CompressedImage"):
        encoding = "" if topic.encoding in ENCODINGS else f" in {topic.encoding}"
        return (
            f"is of a type{encoding} that is not read: convert it into sensor_msgs/msg/Image or CompressedImage in CDR"
        )
    return ""


def bags_in(folder: Path) -> list[Path]:
    """Return the bags or recordings in a folder, sorted; none for a bag's own folder and other paths.

    Leaves out ROS 1 bags with a converted one beside them.
    """
    if not folder.is_dir() or (folder / METADATA).is_file():
        return []
    inside = sorted(folder.iterdir())
    folders = [path for path in inside if path.is_dir() and is_bag(path)]
    bags = [bag for path in folders for bag in bags_in(path) or [path]]
    bags += [path for path in inside if path.suffix == ".bag" and is_bag(path) and path.with_suffix("") not in folders]
    if any(map(is_storage, inside)):
        try:
            Bag(folder).close()
            if bags:
                bags.append(folder / ",".join(variants[0].name for variants in list_files(folder).files))
        except SeveralRecordingsError as error:
            say_once(f"{error.found}: taken as {len(error.recordings)} drives")
            bags += error.recordings
        except SourceError:  # reported when it is opened again
            return []
    return sorted(bags)
