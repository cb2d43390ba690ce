"""The interface of storage files of a rosbag2, MCAP or SQLite: topics, type definitions and messages."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

from m2f_ros.bags.bounds import EARLIEST, require_file
from m2f_ros.bags.mcap_file import Mcap
from m2f_ros.documents import parse_yaml
from m2f_ros.errors import words_of

SUFFIXES = (".mcap", ".db3")
# Most topics, as in MCAP; bytes of a topic's name, and of a message type's definition.
MOST_TOPICS, LONGEST_NAME, LONGEST_DEFINITION = 1 << 16, 1000, 1 << 16
MOST_FILES = 10_000  # files of a bag


@dataclass(frozen=True)
class Topic:
    """A topic of a bag.

    Attributes:
        type: message type, such as "sensor_msgs/msg/Image".
        count: number of messages.
        encoding: encoding of the messages, "cdr" in ROS 2.
    """

    type: str
    count: int
    encoding: str = "cdr"


class Definition(NamedTuple):
    """The definition of a message type in "ros2msg", "ros1msg" or another format."""

    format: str
    text: str


class Stored(NamedTuple):
    """A stored message: CDR, or compressed CDR. log_ns: nanoseconds since the Unix epoch."""

    topic: str
    type: str
    log_ns: int
    data: bytes


class UnreadableError(Exception):
    """A file without readable messages."""


class Storage(ABC):
    """One file.

    Attributes:
        topics: name -> topic.
        stated: topic -> number of messages according to the file, if it states them.
        definitions: message type -> definition in the file.
        first_ns: first log time.
        last_ns: last log time.
        finished: True if the writer closed the file.
        problem: one line on damage, or "". Complete only after `messages` has ended.
    """

    first_ns: int
    last_ns: int

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name  # for messages; the compressed file's name for an unpacked one
        self.topics: dict[str, Topic] = {}
        self.stated: Counter[str] = Counter()
        self.definitions: dict[str, Definition] = {}
        self.finished = True
        self._problem = ""

    @property
    def problem(self) -> str:
        return self._problem

    @abstractmethod
    def messages(self, topics: Collection[str], from_ns: int = EARLIEST) -> Iterator[Stored]:
        """Yield the messages of these topics by log time, from `from_ns` on; each call begins anew."""

    def _count(self, topic: str, kind: str, count: int, encoding: str) -> None:
        before = self.topics.get(topic)
        self.topics[topic] = replace(before, count=before.count + count) if before else Topic(kind, count, encoding)


def convert(path: Path) -> str:
    """Return advice for a ROS 1 bag. The command comes with rosbags."""
    bag = path.with_suffix(".bag")  # rosbags goes by the suffix
    rename = "" if bag == path else f"rename it to {bag.name}, and "
    command = f"rosbags-convert --src {quote(str(bag))} --dst {quote(str(bag.with_suffix('')))}"
    return f"{rename}`{command}` makes a rosbag2 of it"


def read_metadata(text: str) -> tuple[list[str], dict[str, Topic]]:
    """Return the files and topics in rosbag2's metadata.yaml. Raises ValueError if it is damaged."""
    try:
        bag = parse_yaml(text)["rosbag2_bagfile_information"]
        names, listed = bag["relative_file_paths"], bag.get("topics_with_message_count") or []
        if not (isinstance(names, list) and isinstance(listed, list)):
            raise ValueError("its files or topics are no list")
        files = [_text(name).replace("\\", "/") for name in names]  # separators of Windows
        topics = {}
        for topic in listed:
            known, count = topic["topic_metadata"], int(topic["message_count"])
            name, kind, encoding = (
                clean(_text(known[key])) if key in known else "cdr" for key in ("name", "type", "serialization_format")
            )
            if not 0 <= count < 1 << 63:
                raise ValueError(f"message_count {count}")
            topics[name] = Topic(type_name(kind), count, encoding)
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise ValueError(words_of(error)) from None
    if not files:
        raise ValueError("it lists no file")
    if len(topics) > MOST_TOPICS or len(files) > MOST_FILES:
        raise ValueError(f"it lists more than {MOST_TOPICS} topics or {MOST_FILES} files")
    return list(dict.fromkeys(files)), topics


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > LONGEST_NAME:
        raise ValueError(f"it has no name where one belongs: {value!r:.100}")
    return value


def clean(text: str) -> str:
    """Return a name from a file, shortened and on one line."""
    text = text[:LONGEST_NAME]
    return text if text.isprintable() else "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def type_name(name: str) -> str:
    """Return a message type in the form "sensor_msgs/msg/Image", from that of ROS 1, early ROS 2 or DDS."""
    package, *_, kind = re.split(r"/|::", name.replace("::dds_::", "::")) if re.search("/|::", name) else ("", name)
    return f"{package}/msg/{kind.removesuffix('_')}" if package else name


# Cached, since a run over several drives opens each twice, and a file without an index is scanned to open it.
@lru_cache(maxsize=16)
def _mcap(path: Path, size: int, changed_ns: int, packed: int | None) -> Mcap:
    return Mcap(path, packed)


class McapFile(Storage):
    """An MCAP file, whole or damaged."""

    def __init__(self, path: Path, packed: int | None = None) -> None:
        """packed: size of the compressed file, bytes; None if it was not compressed."""
        super().__init__(path)
        require_file(path)
        state = path.stat()
        self._mcap = _mcap(path.resolve(), state.st_size, state.st_mtime_ns, packed)
        self.finished = self._mcap.finished
        self.first_ns = min((block.first_ns for block in self._mcap.blocks), default=0)
        self.last_ns = max((block.last_ns for block in self._mcap.blocks), default=0)
        self._names: dict[int, tuple[str, str]] = {}
        for number, channel in self._mcap.channels.items():
            schema = self._mcap.schemas.get(channel.schema_id)
            topic, kind = clean(channel.topic), type_name(clean(schema.name)) if schema else ""
            self._names[number] = topic, kind
            self._count(topic, kind, self._mcap.counts[number], clean(channel.message_encoding) or "cdr")
            self.stated[topic] += self._mcap.stated[number]
            if schema and 0 < len(schema.data) <= LONGEST_DEFINITION:
                self.definitions[kind] = Definition(clean(schema.encoding), schema.data.decode(errors="replace"))

    @property
    def problem(self) -> str:
        return self._mcap.problem

    def messages(self, topics: Collection[str], from_ns: int = EARLIEST) -> Iterator[Stored]:
        wanted = {number for number, (topic, _) in self._names.items() if topic in topics}
        for channel, log_ns, data in self._mcap.messages(wanted, from_ns):
            yield Stored(*self._names[channel], log_ns, data)
