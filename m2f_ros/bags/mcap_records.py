"""Finds the records of MCAP (mcap.dev/spec) in bytes that may be damaged."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from mmap import mmap

import numpy as np
from mcap.opcode import Opcode

from m2f_ros.bags.bounds import COMPRESSIONS

MAGIC = b"\x89MCAP0\r\n"
HEAD = struct.Struct("<BQ")  # opcode and length of the content of a record
MESSAGE = struct.Struct("<HIQQ")  # channel, sequence number, log time, time of publication
CHUNK = struct.Struct("<QQQII")  # first and last log time, size, checksum, length of the compression's name
FOOTER = struct.Struct("<QQI")  # positions of the summary and of its offsets, checksum
REST = 0  # pseudo-opcode of bytes outside records

_LEAST: dict[int, int] = {Opcode.MESSAGE: MESSAGE.size, Opcode.CHUNK: CHUNK.size, Opcode.FOOTER: FOOTER.size}
_RECORDS = {code.value for code in Opcode}
_APPLICATION = 0x80  # first opcode of private records
_WINDOW = 1 << 20  # bytes searched at a time


def records(data: mmap | bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (opcode, begin, end) of the content of each record, up to the footer; the opcode is REST between records.

    A chunk without its end is yielded, too, and then again as the last REST.
    """
    while end - at >= HEAD.size:
        opcode, length = HEAD.unpack_from(data, at)
        stop = end_of(data, at, end)
        if opcode == Opcode.CHUNK and stop > end and _chunk_end(data, at, end):
            yield opcode, at + HEAD.size, end
            break
        if _is_record(opcode, length) and stop <= end:
            yield opcode, at + HEAD.size, stop
            if opcode == Opcode.FOOTER:
                return
            at = stop
            continue
        following = next((place for place in _candidates(data, at + 1, end) if _makes_sense(data, place, end)), None)
        if following is None:
            break
        yield REST, at, following
        at = following
    if at < end:
        yield REST, at, end


def _candidates(data: mmap | bytes, at: int, end: int) -> Iterator[int]:
    """Yield positions where a record shorter than 4 GiB may begin."""
    for begin in range(at, end, _WINDOW):
        size = min(_WINDOW + 8, end - begin)
        if size < HEAD.size:
            return
        part = np.frombuffer(data, np.uint8, size, begin)
        zero = part == 0
        found = zero[5:-3] & zero[6:-2] & zero[7:-1] & zero[8:] & (part[:-8] - np.uint8(1) < 15)
        places = (np.flatnonzero(found) + begin).tolist()
        del part  # a mapped file cannot be closed while arrays refer to it
        yield from places


def _makes_sense(data: mmap | bytes, at: int, end: int) -> bool:
    """Return True if three records, or all up to the footer, follow each other here."""
    for _ in range(3):
        if end - at < HEAD.size:
            return False
        opcode, length = HEAD.unpack_from(data, at)
        at += HEAD.size + length
        if not _is_record(opcode, length) or at > end:
            return False
        if opcode == Opcode.FOOTER:
            return True
    return True


def _is_record(opcode: int, length: int) -> bool:
    return is_opcode(opcode) and length >= _LEAST.get(opcode, 0)


def is_opcode(opcode: int) -> bool:
    return opcode in _RECORDS or opcode >= _APPLICATION


def end_of(data: mmap | bytes, at: int, end: int) -> int:
    """Return the end of a record by its length, or of a chunk by its content if the length exceeds `end`."""
    opcode, length = HEAD.unpack_from(data, at)
    stop = at + HEAD.size + length
    return (_chunk_end(data, at, end) or stop) if opcode == Opcode.CHUNK and stop > end else stop


def _chunk_end(data: mmap | bytes, at: int, end: int) -> int | None:
    """Return the end of a chunk by the size of its compressed records; None if its content is invalid."""
    start = at + HEAD.size
    if end - start < CHUNK.size:
        return None
    first_ns, last_ns, _, _, length = CHUNK.unpack_from(data, start)
    place = start + CHUNK.size + length
    if first_ns > last_ns or length > 4 or end - place < 8:
        return None
    if data[place - length : place].decode("latin-1") not in COMPRESSIONS:
        return None
    return place + 8 + struct.unpack_from("<Q", data, place)[0]
