"""Salvages messages from the pages of a damaged or truncated SQLite storage file.

SQLite reaches the rows of a table from its root, through pages that are written late: in a truncated file it may find
no row. This module scans all leaf pages instead (sqlite.org/fileformat2.html, 1.6 and 2.1).
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import NamedTuple

import numpy as np

from m2f_ros.bags.bounds import LARGEST

_LEAF = 0x0D  # type of a table's leaf page
_CELL = 8  # least bytes of a message's cell
# Bytes of the serial types 0 to 9: NULL, six integers, a float, and the constants 0 and 1.
_BYTES = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)


class Row(NamedTuple):
    """A row of the table of messages: key, topic's key, log time, position and size of the payload."""

    key: int
    topic: int
    log_ns: int
    at: int
    size: int


class SqlitePages:
    """A file with rows of rosbag2's table messages(id INTEGER PRIMARY KEY, topic_id, timestamp, data BLOB)."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> SqlitePages:
        self._file = open(self._path, "rb")
        self._data = mmap(self._file.fileno(), 0, access=ACCESS_READ)
        (page,) = struct.unpack_from(">H", self._data, 16)
        self._page = 65536 if page == 1 else page
        self._usable = self._page - self._data[20]
        if self._page < 512 or self._usable < 480:
            raise ValueError("its header is damaged")
        return self

    def __exit__(self, *exc: object) -> None:
        self._data.close()
        self._file.close()

    def rows(self) -> Iterator[Row]:
        """Yield the complete rows by log time."""
        found = self._found()
        # Keeps the first row of each key, sorted by log time and key.
        _, first = np.unique(found[:, 0], return_index=True)
        found = found[np.sort(first)]
        for place in np.lexsort((found[:, 0], found[:, 2])):
            yield Row(*found[place].tolist())

    def _found(self) -> np.ndarray:
        """Return (rows, 5) int64, columns as in Row, of all pages. Payloads share no byte, which bounds their size."""
        found, left = array("q"), len(self._data)
        for page in range(self._page, len(self._data) - self._page + 1, self._page):  # the first page holds the schema
            if self._data[page] == _LEAF:
                for row in self._rows_of(page):
                    left -= row.size
                    if left < 0:
                        break
                    found.extend(row)
        return np.frombuffer(found, np.int64).reshape(-1, len(Row._fields))

    def data(self, row: Row) -> bytes:
        """Return the data of a message."""
        payload = b"".join(self._data[at : at + length] for at, length in self._pieces(row.size, row.at))
        kinds, at = _record(payload)
        return payload[at + sum(map(_size, kinds[:-1])) :]

    def _rows_of(self, page: int) -> Iterator[Row]:
        (count,) = struct.unpack_from(">H", self._data, page + 3)
        left = self._page  # cells that do not overlap fit into the page
        for i in range(min(count, (self._page - 8) // 2)):
            (offset,) = struct.unpack_from(">H", self._data, page + 8 + 2 * i)
            try:
                row = self._row(page + offset)
            except (IndexError, ValueError, struct.error):  # not a row
                continue
            if row:
                left -= min(row.size, _CELL)
                if left < 0:
                    return
                yield row

    def _row(self, at: int) -> Row | None:
        size, at = _varint(self._data, at)
        if size > min(len(self._data), LARGEST):
            return None
        key, at = _varint(self._data, at)
        head = self._data[at : at + self._pieces(size, at)[0][1]]
        kinds, values = _record(head)
        # id, the key, is stored as NULL; the other columns are two integers and bytes.
        if len(kinds) != 4 or kinds[0] or not all(1 <= k <= 9 for k in kinds[1:3]) or kinds[3] < 12 or kinds[3] % 2:
            return None
        if values + sum(map(_size, kinds)) != size:
            return None
        second = values + _size(kinds[1])
        return Row(key, _integer(head, values, kinds[1]), _integer(head, second, kinds[2]), at, size)

    def _pieces(self, size: int, at: int) -> list[tuple[int, int]]:
        """Return the pieces of a payload, in its cell and overflow pages. Raises ValueError if one is missing."""
        least = (self._usable - 12) * 32 // 255 - 23
        local = size
        if size > self._usable - 35:
            local = least + (size - least) % (self._usable - 4)
            local = local if local <= self._usable - 35 else least
        pieces, left = [(at, local)], size - local
        link = at + local
        while left > 0:
            (number,) = struct.unpack_from(">I", self._data, link)
            link = (number - 1) * self._page
            length = min(left, self._usable - 4)
            if number < 2 or link + 4 + length > len(self._data):
                raise ValueError("an overflow page is missing")
            pieces.append((link + 4, length))
            left -= length
        return pieces


def _record(payload: bytes) -> tuple[list[int], int]:
    """Return the serial type of each column of a record, and the position of the values."""
    end, at = _varint(payload, 0)
    kinds = []
    while at < end:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    return kinds, end


def _size(kind: int) -> int:
    return _BYTES[kind] if kind < 10 else (kind - 12) // 2


def _integer(payload: bytes, at: int, kind: int) -> int:
    return kind - 8 if kind in (8, 9) else int.from_bytes(payload[at : at + _size(kind)], "big", signed=True)


def _varint(data: bytes | mmap, at: int) -> tuple[int, int]:
    """Return an integer of one to nine bytes, and its end."""
    value = 0
    for i in range(8):
        byte = data[at + i]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + i + 1
    return value << 8 | data[at + 8], at + 9
