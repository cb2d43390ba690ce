"""The storage files of a rosbag2, MCAP or SQLite, whole or not: topics, type definitions, and messages."""

from __future__ import annotations

import sqlite3
import struct
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from rosbags.interfaces import MessageDefinitionFormat
from rosbags.rosbag2 import Reader

from m2f_ros.replay.mcap_salvage import MAGIC, Salvage
from m2f_ros.replay.sqlite_salvage import SqlitePages

SUFFIXES = (".mcap", ".db3")


class Topic(NamedTuple):
    """Message type, as "sensor_msgs/msg/Image", and number of messages."""

    type: str
    count: int


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

    topics: by name. definitions: by message type, of those that the file brings. finished: whether its writer closed
    it. problem: what of it cannot be read; what only shows on the way is there when `messages` has come to its end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.topics: dict[str, Topic] = {}
        self.definitions: dict[str, Definition] = {}
        self.finished = True
        self.problem = ""

    @abstractmethod
    def messages(self, topics: Collection[str]) -> Iterator[Stored]:
        """The messages of these topics by log time; from the beginning each time."""

    def _count(self, topic: str, kind: str, count: int) -> None:
        before = self.topics.get(topic, Topic(kind, 0))
        self.topics[topic] = Topic(before.type, before.count + count)


def open_storage(path: Path) -> Storage:
    """The file, whole or what is left of it. Raises UnreadableError where nothing is, OSError as opening does."""
    with open(path, "rb") as file:
        begin = file.read(16)
    if not begin:
        raise UnreadableError("the file is empty")
    if begin.startswith(b"SQLite format 3\0"):
        return SqliteFile(path)
    if not begin.startswith(MAGIC):
        raise UnreadableError("neither MCAP nor SQLite")
    try:
        return McapFile(path)
    except Exception:  # rosbags lets through whatever a damaged file makes it stumble on
        return UnindexedMcapFile(path)


class McapFile(Storage):
    """A whole MCAP file, by its index."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with self._reader() as reader:
            for c in reader.connections:
                self._count(c.topic, c.msgtype, c.msgcount)
                if c.msgdef.format != MessageDefinitionFormat.NONE:
                    format = "ros2msg" if c.msgdef.format == MessageDefinitionFormat.MSG else "ros2idl"
                    self.definitions[c.msgtype] = Definition(format, c.msgdef.data)

    @contextmanager
    def _reader(self) -> Iterator[Reader]:
        reader = Reader(self.path)
        reader.open()
        try:
            yield reader
        finally:
            reader.close()

    def messages(self, topics: Collection[str]) -> Iterator[Stored]:
        with self._reader() as reader:
            connections = [c for c in reader.connections if c.topic in topics]
            messages = reader.messages(connections) if connections else iter(())  # rosbags reads none as all
            while True:
                try:
                    connection, log_ns, data = next(messages)
                except StopIteration:
                    return
                except Exception as error:  # as above
                    self.problem = f"damaged, nothing behind it is read ({one_line(error)})"
                    return
                yield Stored(connection.topic, connection.msgtype, log_ns, data)


class UnindexedMcapFile(Storage):
    """An MCAP file without index, cut off or not: read from end to end for its topics, and again for messages."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        salvage = Salvage(path)
        for channel, _, _ in salvage.messages():
            self._count(channel.topic, channel.schema.name, 1)
            self.definitions[channel.schema.name] = Definition(channel.schema.encoding, channel.schema.text)
        with open(path, "rb") as file:
            file.seek(-len(MAGIC), 2)
            self.finished = file.read() == MAGIC
        self.problem = salvage.problem or ("" if self.finished else "cut off in its index")

    def messages(self, topics: Collection[str]) -> Iterator[Stored]:
        for channel, log_ns, data in Salvage(self.path).messages():
            if channel.topic in topics:
                yield Stored(channel.topic, channel.schema.name, log_ns, data)


class SqliteFile(Storage):
    """An SQLite file: whole, left behind by a writer that was killed, or cut off."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            with closing(self._connect()) as db:
                self._read_topics(db)
                try:
                    self._check_size()
                    counts = dict(db.execute("SELECT topic_id, count(*) FROM messages GROUP BY topic_id"))
                    # Written when the file is closed; before Iron there was no such table.
                    self.finished = (
                        _has(db, "metadata") and db.execute("SELECT count(*) FROM metadata").fetchone()[0] > 0
                    )
                except sqlite3.DatabaseError as error:
                    counts = self._count_pages(error)
        except sqlite3.DatabaseError as error:
            raise UnreadableError(one_line(error)) from None
        for key, (name, kind) in self._names.items():
            self._count(name, kind, counts.get(key, 0))

    def messages(self, topics: Collection[str]) -> Iterator[Stored]:
        for key, log_ns, data in self._rows_of_pages() if self.problem else self._rows():
            name, kind = self._names.get(key, ("", ""))
            if name in topics:
                yield Stored(name, kind, log_ns, data)

    def _rows(self) -> Iterator[tuple[int, int, bytes]]:
        with closing(self._connect()) as db:
            try:
                yield from db.execute("SELECT topic_id, timestamp, data FROM messages ORDER BY timestamp, id")
            except sqlite3.DatabaseError as error:
                self.problem = f"damaged, nothing behind it is read ({one_line(error)})"

    def _rows_of_pages(self) -> Iterator[tuple[int, int, bytes]]:
        with SqlitePages(self.path) as pages:
            for row in pages.rows():
                yield row.topic, row.log_ns, pages.data(row)

    def _connect(self) -> sqlite3.Connection:
        """Read only. With the log that a writer left behind, where that can be used."""
        for options in ("mode=ro", "mode=ro&immutable=1"):
            db = sqlite3.connect(f"file:{quote(str(self.path.resolve()))}?{options}", uri=True)
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
                self.definitions = {kind: Definition(encoding, text) for kind, encoding, text in rows}
        rows = db.execute("SELECT id, name, type FROM topics").fetchall()
        self._names = {key: (name, kind) for key, name, kind in rows if isinstance(name, str) and isinstance(kind, str)}

    def _count_pages(self, error: sqlite3.DatabaseError) -> dict[int, int]:
        """Messages by topic, as far as there are any."""
        self.problem = f"damaged or cut off: {one_line(error)}"
        self.finished = False
        try:
            with SqlitePages(self.path) as pages:
                return dict(Counter(row.topic for row in pages.rows()))
        except (ValueError, struct.error):
            raise error from None


def _has(db: sqlite3.Connection, table: str) -> bool:
    return db.execute("SELECT count(*) FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0] > 0


def one_line(error: Exception) -> str:
    """What an error of a library says, or its name where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
