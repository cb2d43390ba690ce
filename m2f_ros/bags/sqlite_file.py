"""Reads an SQLite storage file of a rosbag2, whole or damaged.

Its schema and pages are untrusted: only tables and indexes are allowed, the work is bounded by the size of the file,
and apsw brings a newer SQLite than Python's.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote as quote_url

import apsw

from m2f_ros.bags.bounds import EARLIEST, LARGEST, require_file
from m2f_ros.bags.mcap_file import NAMELESS
from m2f_ros.bags.sqlite_salvage import SqlitePages
from m2f_ros.bags.storage import (
    LONGEST_DEFINITION,
    LONGEST_NAME,
    MOST_TOPICS,
    Definition,
    Storage,
    Stored,
    UnreadableError,
    clean,
    read_metadata,
    type_name,
)
from m2f_ros.errors import words_of

# Statements of rosbag2's schema; others can run code of the file.
_PLAIN = re.compile(r"CREATE\s+(TABLE|(UNIQUE\s+)?INDEX)\s", re.IGNORECASE)
_TABLES = 100  # most tables and indexes
_HEAP = 1 << 29  # most bytes of SQLite's heap, for all connections of the process
# Bound on instructions of SQLite's virtual machine: a row takes at least about 60 bytes and 40 instructions.
_INSTRUCTIONS, _PER_BYTE, _STEP = 10**7, 8, 10**5
_SMALL = {
    apsw.SQLITE_LIMIT_LENGTH: LARGEST + (1 << 16),
    apsw.SQLITE_LIMIT_SQL_LENGTH: 1 << 16,
    apsw.SQLITE_LIMIT_COLUMN: 100,
    apsw.SQLITE_LIMIT_EXPR_DEPTH: 100,
    apsw.SQLITE_LIMIT_ATTACHED: 0,
    apsw.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    apsw.SQLITE_LIMIT_WORKER_THREADS: 0,
}


class _DamagedError(Exception):
    """Damage that SQLite does not report."""


_ERRORS = (apsw.Error, _DamagedError, UnicodeDecodeError)


class SqliteFile(Storage):
    """An SQLite file: whole, truncated, or left behind by a killed writer."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        require_file(path)
        self._damaged = False  # True if messages are salvaged from pages
        beside = [Path(f"{path}{suffix}") for suffix in ("-wal", "-journal", "-shm")]
        # SQLite would block on a pipe in place of its log.
        self._logs = all(stat.S_ISREG(os.stat(log).st_mode) for log in beside if log.exists())
        self._size = path.stat().st_size + sum(log.stat().st_size for log in beside[:1] if self._logs and log.exists())
        try:
            with closing(self._connect()) as db:
                self._check_tables(db)
                self._read_topics(db)
                try:
                    self._check_size()
                    counts = self._count_rows(db)
                    self._read_metadata(db)
                except _ERRORS as error:
                    counts = self._count_pages(error)
        except _ERRORS as error:
            raise UnreadableError(_says(error)) from None
        for key, (name, kind, encoding) in self._names.items():
            self._count(name, kind, counts.get(key, 0), encoding)
        if counts.keys() - self._names.keys():
            self._problem = self.problem or NAMELESS

    def messages(self, topics: Collection[str], from_ns: int = EARLIEST) -> Iterator[Stored]:
        for key, log_ns, data in self._rows_of_pages((from_ns, -1)) if self._damaged else self._rows(from_ns):
            name, kind, _ = self._names.get(key, ("", "", ""))
            if name in topics:
                yield Stored(name, kind, log_ns, data)

    def _rows(self, from_ns: int) -> Iterator[tuple[int, int, bytes]]:
        last, left = (from_ns, -1), self._size
        with closing(self._connect()) as db:
            try:
                for key, topic, log_ns, data in db.execute(
                    "SELECT id, topic_id, timestamp, data FROM messages WHERE timestamp >= ? ORDER BY timestamp, id",
                    (from_ns,),
                ):
                    left -= len(data)
                    # Cyclic pages give the same rows, or the same bytes, again.
                    if (log_ns, key) <= last or left < 0:
                        raise _DamagedError("its pages lead in circles")
                    last = (log_ns, key)
                    yield topic, log_ns, data
            except (*_ERRORS, TypeError) as error:
                self._problem = f"damaged: {_says(error)}"
                self._damaged = True
        if self._damaged:
            with suppress(ValueError, struct.error):
                yield from self._rows_of_pages(last)

    def _rows_of_pages(self, behind: tuple[int, int]) -> Iterator[tuple[int, int, bytes]]:
        """Yield the salvaged rows after log time and key `behind`."""
        with SqlitePages(self.path) as pages:
            for row in pages.rows():
                if (row.log_ns, row.key) > behind:
                    yield row.topic, row.log_ns, pages.data(row)

    def _connect(self) -> apsw.Connection:
        """Open the file read-only, with a killed writer's log if usable. Raises apsw.Error."""
        apsw.hard_heap_limit(_HEAP)
        options = ("mode=ro", "mode=ro&immutable=1")
        for number, option in enumerate(options if self._logs else options[1:], 1 if self._logs else 2):
            name = f"file:{quote_url(str(self.path.resolve()))}?{option}"
            db = apsw.Connection(name, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
            try:
                self._bound(db)
                db.execute("SELECT count(*) FROM sqlite_master").fetchall()
            except apsw.Error:
                db.close()
                if number == len(options):
                    raise
                continue
            return db
        raise AssertionError("one of them returns or raises")

    def _bound(self, db: apsw.Connection) -> None:
        for limit, most in _SMALL.items():
            db.limit(limit, most)
        for setting in ("TRUSTED_SCHEMA", "ENABLE_VIEW", "ENABLE_TRIGGER", "ENABLE_LOAD_EXTENSION"):
            db.config(getattr(apsw, f"SQLITE_DBCONFIG_{setting}"), 0)
        # Without it SQLite does not open a truncated file.
        db.config(apsw.SQLITE_DBCONFIG_WRITABLE_SCHEMA, 1)
        left = (_INSTRUCTIONS + _PER_BYTE * self._size) // _STEP

        def is_too_long() -> bool:
            nonlocal left
            left -= 1
            return left < 0

        db.set_progress_handler(is_too_long, _STEP)

    def _check_tables(self, db: apsw.Connection) -> None:
        """Raise _DamagedError for views, triggers, virtual tables and generated columns: they run code of the file."""
        rows = db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL LIMIT ?", (_TABLES + 1,)).fetchall()
        if len(rows) > _TABLES:
            raise _DamagedError(f"it has more than {_TABLES} tables")
        if not all(isinstance(sql, str) and _PLAIN.match(sql) for (sql,) in rows):
            raise _DamagedError("it has views, triggers or virtual tables, which no bag has")
        for table in ("topics", "messages", "message_definitions", "metadata"):
            columns = db.execute(f"SELECT hidden FROM pragma_table_xinfo('{table}')").fetchall()
            if any(hidden for (hidden,) in columns):
                raise _DamagedError(f"its table {table} has columns that are computed, which no bag has")

    def _check_size(self) -> None:
        """Raise _DamagedError for a truncated file, which SQLite notices only during reading."""
        with open(self.path, "rb") as file:
            header = file.read(100)
        page, pages = struct.unpack_from(">H", header, 16)[0], struct.unpack_from(">I", header, 28)[0]
        size, there = pages * (65536 if page == 1 else page), self.path.stat().st_size
        if there < size:
            raise _DamagedError(f"{there} of {size} bytes are there")

    def _read_topics(self, db: apsw.Connection) -> None:
        if _has(db, "message_definitions"):  # from Iron on
            with suppress(*_ERRORS):  # rosbags and this environment know most types, too
                self.definitions = {
                    type_name(kind): Definition(encoding, text)
                    for kind, encoding, text in _texts(
                        db,
                        "message_definitions",
                        "topic_type",
                        "encoding",
                        "encoded_message_definition",
                        longest=LONGEST_DEFINITION,
                    )
                }
        self._names: dict[int, tuple[str, str, str]] = {}
        for key, name, kind, encoding in _texts(db, "topics", "name", "type", "serialization_format", key="id"):
            self._names[key] = clean(name), type_name(clean(kind)), clean(encoding) or "cdr"
        if len(self._names) > MOST_TOPICS:
            raise _DamagedError(f"it has more than {MOST_TOPICS} topics")

    def _count_rows(self, db: apsw.Connection) -> dict[int, int]:
        """Count the messages by topic. Raises _DamagedError for an invalid row: SQLite allows any type in a column."""
        # LIMIT keeps SQLite from sorting the data itself.
        rows: Any = db.execute(
            "SELECT topic, count(*), sum(size), min(time), max(time), sum(wrong) FROM (SELECT topic_id AS topic, "
            "octet_length(data) AS size, timestamp AS time, "
            "typeof(timestamp) <> 'integer' OR typeof(data) <> 'blob' AS wrong FROM messages LIMIT -1) GROUP BY topic"
        ).fetchall()
        if wrong := sum(row[5] for row in rows):
            raise _DamagedError(f"{wrong} rows without log time or data")
        if sum(row[2] for row in rows) > self._size:
            raise _DamagedError("its messages have more bytes than the file")
        self.first_ns, self.last_ns = min((r[3] for r in rows), default=0), max((r[4] for r in rows), default=0)
        return {topic: count for topic, count, *_ in rows}

    def _read_metadata(self, db: apsw.Connection) -> None:
        """Read the metadata that a writer adds when it closes the file, from Iron on."""
        query = "SELECT CAST(metadata AS BLOB) FROM metadata ORDER BY id DESC LIMIT 1"
        rows: Any = db.execute(query).fetchall() if _has(db, "metadata") else []
        self.finished = bool(rows)
        if rows:
            with suppress(ValueError):
                files, topics = read_metadata((rows[0][0] or b"").decode(errors="replace"))
                if len(files) == 1:  # in a split bag the counts are of all files so far
                    self.stated.update({name: topic.count for name, topic in topics.items()})

    def _count_pages(self, error: Exception) -> dict[int, int]:
        """Count the salvaged messages by topic."""
        self._problem = f"damaged or cut off: {_says(error)}"
        self._damaged = True
        self.finished = False
        try:
            with SqlitePages(self.path) as pages:
                rows = pages.rows()
                counts, self.first_ns, self.last_ns = Counter[int](), 1 << 63, 0
                for row in rows:
                    counts[row.topic] += 1
                    self.first_ns, self.last_ns = min(self.first_ns, row.log_ns), row.log_ns
        except (ValueError, struct.error):
            raise error from None
        return dict(counts)


def _texts(db: apsw.Connection, table: str, *columns: str, longest: int = LONGEST_NAME, key: str = "0") -> Iterator:
    """Yield (key, *columns) of the rows whose columns are text of at most `longest` bytes."""
    values = ", ".join(f"CAST({column} AS BLOB)" for column in columns)
    wanted = " AND ".join(
        f"typeof({column}) IN ('text', 'null') AND octet_length(coalesce({column}, '')) <= {longest}"
        for column in columns
    )
    rows: Any = db.execute(f"SELECT {key}, {values} FROM {table} WHERE {wanted} LIMIT {MOST_TOPICS + 1}")
    for number, *row in rows:
        texts = [(value or b"").decode(errors="replace") for value in row]
        if texts[0]:
            yield (number, *texts) if key != "0" else tuple(texts)


def _has(db: apsw.Connection, table: str) -> bool:
    return bool(db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchall())


def _says(error: Exception) -> str:
    if isinstance(error, apsw.InterruptError):
        return "its pages lead in circles"
    return words_of(error)
