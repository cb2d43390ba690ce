"""The storage files of a rosbag2, MCAP or SQLite, whole or not: topics, type definitions, and messages."""

from __future__ import annotations

import re
import sqlite3
import struct
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, suppress
from functools import lru_cache
from pathlib import Path
from shlex import quote
from typing import NamedTuple
from urllib.parse import quote as quote_url

import yaml

from m2f_ros.replay.mcap_file import NAMELESS, Mcap
from m2f_ros.replay.mcap_records import MAGIC
from m2f_ros.replay.sqlite_salvage import SqlitePages

SUFFIXES = (".mcap", ".db3")
SQLITE, ROS1 = b"SQLite format 3\0", b"#ROSBAG V"


class Topic(NamedTuple):
    """Message type, as "sensor_msgs/msg/Image", number of messages, and their encoding, "cdr" in ROS 2."""

    type: str
    count: int
    encoding: str = "cdr"


class Definition(NamedTuple):
    """Of a message type: in "ros2msg" or "ros2idl"."""

    format: str
    text: str


class Stored(NamedTuple):
    """A message as it is stored: CDR, or compressed CDR. log_ns: nanoseconds since the Unix epoch."""

    topic: str
    type: str
    log_ns: int
    data: bytes


class UnreadableError(Exception):
    """A file that holds no messages that can be read; its text says why."""


class Storage(ABC):
    """One file.

    topics: by name. stated: how many messages of each the file says that it has, where it does. definitions: by message
    type, of those that the file brings. first_ns, last_ns: log times. finished: whether its writer closed it. problem:
    what of it cannot be read; what only shows on the way is there when `messages` has come to its end.
    """

    problem: str
    first_ns: int
    last_ns: int

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name  # for people: of what is unpacked, that of the file
        self.topics: dict[str, Topic] = {}
        self.stated: Counter[str] = Counter()
        self.definitions: dict[str, Definition] = {}
        self.finished = True

    @abstractmethod
    def messages(self, topics: Collection[str]) -> Iterator[Stored]:
        """The messages of these topics by log time; from the beginning each time."""

    def _count(self, topic: str, kind: str, count: int, encoding: str) -> None:
        before = self.topics.get(topic)
        self.topics[topic] = before._replace(count=before.count + count) if before else Topic(kind, count, encoding)


def open_storage(path: Path) -> Storage:
    """The file, whole or what is left of it. Raises UnreadableError where nothing is, OSError as opening does."""
    with open(path, "rb") as file:
        begin = file.read(16)
    if not begin:
        raise UnreadableError("the file is empty")
    if begin.startswith(SQLITE):
        return SqliteFile(path)
    if begin.startswith(ROS1):
        raise UnreadableError(f"it is of ROS 1: {convert(path)}")
    if not begin.startswith(MAGIC):
        raise UnreadableError("neither MCAP nor SQLite")
    return McapFile(path)


def convert(path: Path) -> str:
    """Say what to do with a ROS 1 bag. The command comes with rosbags."""
    bag = path.with_suffix(".bag")  # rosbags goes by the name
    rename = "" if bag == path else f"rename it to {bag.name}, and "
    command = f"rosbags-convert --src {quote(str(bag))} --dst {quote(str(bag.with_suffix('')))}"
    return f"{rename}`{command}` makes a rosbag2 of it"


def read_metadata(text: str) -> tuple[list[str], dict[str, Topic]]:
    """Files and topics that rosbag2's metadata.yaml lists. Raises ValueError where it is damaged."""
    try:
        bag = yaml.safe_load(text)["rosbag2_bagfile_information"]
        files = [str(name).replace("\\", "/") for name in bag["relative_file_paths"]]  # Windows has its own
        topics = {
            topic["topic_metadata"]["name"]: Topic(
                type_name(topic["topic_metadata"]["type"]),
                int(topic["message_count"]),
                topic["topic_metadata"].get("serialization_format", "cdr"),
            )
            for topic in bag.get("topics_with_message_count") or ()
        }
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(one_line(error)) from None
    if not files:
        raise ValueError("it lists no file")
    return files, topics


def type_name(name: str) -> str:
    """A message type as "sensor_msgs/msg/Image", also where it is written as ROS 1, early ROS 2 or DDS had it."""
    package, *_, kind = re.split(r"/|::", name.replace("::dds_::", "::")) if re.search("/|::", name) else ("", name)
    return f"{package}/msg/{kind.removesuffix('_')}" if package else name


# A drive is opened several times, and without an index each time would take as long as reading it.
@lru_cache(maxsize=16)
def _mcap(path: Path, size: int, changed_ns: int) -> Mcap:
    return Mcap(path)


class McapFile(Storage):
    """An MCAP file, whole or not."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        state = path.stat()
        self._mcap = _mcap(path.resolve(), state.st_size, state.st_mtime_ns)
        self.finished = self._mcap.finished
        self.first_ns = min((block.first_ns for block in self._mcap.blocks), default=0)
        self.last_ns = max((block.last_ns for block in self._mcap.blocks), default=0)
        self._names: dict[int, tuple[str, str]] = {}
        for number, channel in self._mcap.channels.items():
            schema = self._mcap.schemas.get(channel.schema_id)
            kind = type_name(schema.name) if schema else ""
            self._names[number] = channel.topic, kind
            self._count(channel.topic, kind, self._mcap.counts[number], channel.message_encoding or "cdr")
            self.stated[channel.topic] += self._mcap.stated[number]
            if schema and schema.data:
                self.definitions[kind] = Definition(schema.encoding, schema.data.decode(errors="replace"))

    @property
    def problem(self) -> str:
        return self._mcap.problem

    def messages(self, topics: Collection[str]) -> Iterator[Stored]:
        wanted = {number for number, (topic, _) in self._names.items() if topic in topics}
        for channel, log_ns, data in self._mcap.messages(wanted):
            yield Stored(*self._names[channel], log_ns, data)


class SqliteFile(Storage):
    """An SQLite file: whole, left behind by a writer that was killed, or cut off."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.problem = ""
        self._damaged = False  # so that only its pages lead to the messages
        try:
            with closing(self._connect()) as db:
                self._read_topics(db)
                try:
                    self._check_size()
                    counts = self._count_rows(db)
                    first, last = db.execute(
                        "SELECT (SELECT min(timestamp) FROM messages), (SELECT max(timestamp) FROM messages)"
                    ).fetchone()
                    self.first_ns, self.last_ns = first or 0, last or 0
                    self._read_metadata(db)
                except sqlite3.DatabaseError as error:
                    counts = self._count_pages(error)
        except sqlite3.DatabaseError as error:
            raise UnreadableError(one_line(error)) from None
        for key, (name, kind, encoding) in self._names.items():
            self._count(name, kind, counts.get(key, 0), encoding)
        if counts.keys() - self._names.keys():
            self.problem = self.problem or NAMELESS

    def messages(self, topics: Collection[str]) -> Iterator[Stored]:
        for key, log_ns, data in self._rows_of_pages() if self._damaged else self._rows():
            name, kind, _ = self._names.get(key, ("", "", ""))
            if name in topics:
                yield Stored(name, kind, log_ns, data)

    def _rows(self) -> Iterator[tuple[int, int, bytes]]:
        last = (-(1 << 63), 0)
        with closing(self._connect()) as db:
            try:
                for key, *row in db.execute(
                    "SELECT id, topic_id, timestamp, data FROM messages ORDER BY timestamp, id"
                ):
                    last = (row[1], key)
                    yield row
            except sqlite3.DatabaseError as error:
                self.problem = f"damaged: {one_line(error)}"
                self._damaged = True
        if self._damaged:
            with suppress(ValueError, struct.error):
                yield from self._rows_of_pages(last)

    def _rows_of_pages(self, behind: tuple[int, int] = (-(1 << 63), 0)) -> Iterator[tuple[int, int, bytes]]:
        """behind: log time and key of the last row that is not wanted."""
        with SqlitePages(self.path) as pages:
            for row in pages.rows():
                if (row.log_ns, row.key) > behind:
                    yield row.topic, row.log_ns, pages.data(row)

    def _connect(self) -> sqlite3.Connection:
        """Read only. With the log that a writer left behind, where that can be used."""
        for options in ("mode=ro", "mode=ro&immutable=1"):
            db = sqlite3.connect(f"file:{quote_url(str(self.path.resolve()))}?{options}", uri=True)
            db.text_factory = lambda text: text.decode(errors="replace")
            # Else SQLite does not open a file that is shorter than its header says.
            db.execute("PRAGMA writable_schema = ON")
            try:
                db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            except sqlite3.OperationalError:
                db.close()
                continue
            return db
        raise sqlite3.DatabaseError("it cannot be opened")

    def _check_size(self) -> None:
        """DatabaseError for a file that is shorter than it says; SQLite only finds out on the way."""
        with open(self.path, "rb") as file:
            header = file.read(100)
        page, pages = struct.unpack_from(">H", header, 16)[0], struct.unpack_from(">I", header, 28)[0]
        size, there = pages * (65536 if page == 1 else page), self.path.stat().st_size
        if there < size:
            raise sqlite3.DatabaseError(f"{there} of {size} bytes are there")

    def _read_topics(self, db: sqlite3.Connection) -> None:
        if _has(db, "message_definitions"):  # from Iron on
            with suppress(sqlite3.DatabaseError):  # rosbags and this environment know most types, too
                rows = db.execute("SELECT topic_type, encoding, encoded_message_definition FROM message_definitions")
                self.definitions = {type_name(row[0]): Definition(*row[1:]) for row in rows if _is_text(row)}
        rows = db.execute("SELECT id, name, type, serialization_format FROM topics").fetchall()
        self._names = {
            key: (name, type_name(kind), encoding or "cdr")
            for key, name, kind, encoding in rows
            if _is_text((name, kind))
        }

    def _count_rows(self, db: sqlite3.Connection) -> dict[int, int]:
        """Messages by topic. DatabaseError where some row cannot be one: SQLite keeps any type in any column."""
        (wrong,) = db.execute(
            "SELECT count(*) FROM messages WHERE typeof(timestamp) <> 'integer' OR typeof(data) <> 'blob'"
        ).fetchone()
        if wrong:
            raise sqlite3.DatabaseError(f"{wrong} rows without log time or data")
        return dict(db.execute("SELECT topic_id, count(*) FROM messages GROUP BY topic_id"))

    def _read_metadata(self, db: sqlite3.Connection) -> None:
        """Written when the file is closed; before Iron there was no such table."""
        rows = db.execute("SELECT metadata FROM metadata ORDER BY id").fetchall() if _has(db, "metadata") else []
        self.finished = bool(rows)
        if rows:
            with suppress(ValueError):
                files, topics = read_metadata(rows[-1][0])
                if len(files) == 1:  # else its counts are of all files so far
                    self.stated.update({name: topic.count for name, topic in topics.items()})

    def _count_pages(self, error: sqlite3.DatabaseError) -> dict[int, int]:
        """Messages by topic, as far as there are any."""
        self.problem = f"damaged or cut off: {one_line(error)}"
        self._damaged = True
        self.finished = False
        try:
            with SqlitePages(self.path) as pages:
                rows = pages.rows()
        except (ValueError, struct.error):
            raise error from None
        self.first_ns, self.last_ns = (rows[0].log_ns, rows[-1].log_ns) if rows else (0, 0)
        return dict(Counter(row.topic for row in rows))


def _has(db: sqlite3.Connection, table: str) -> bool:
    return db.execute("SELECT count(*) FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0] > 0


def _is_text(values: Sequence[object]) -> bool:
    return all(isinstance(value, str) for value in values)


def one_line(error: Exception) -> str:
    """What an error of a library says, or its name where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
