"""An MCAP file, whole or not: by its index where that accounts for every message, else record by record.

The index may be missing (rosbag2's noMessageIndex, a writer that was killed), cut off or damaged. Then the records are
followed from the first to the last, over damage to the next that make sense (mcap.dev/spec).
"""

from __future__ import annotations

import re
import struct
from binascii import crc32
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from heapq import heapify, heappop, heappush
from io import BytesIO
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import BinaryIO, NamedTuple

import lz4.frame
from backports import zstd
from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.reader import SeekingReader
from mcap.records import Channel, Chunk, ChunkIndex, Schema, Statistics
from mcap.summary import Summary

MAGIC = b"\x89MCAP0\r\n"
_HEAD = struct.Struct("<BQ")  # of a record: opcode, length of the content
_MESSAGE = struct.Struct("<HIQQ")  # channel, sequence number, log time, time of publication
_CHUNK = struct.Struct("<QQQII")  # first and last log time, size, checksum, length of the compression's name
_FOOTER_CONTENT = 20
_FOOTER_BYTES = _HEAD.size + _FOOTER_CONTENT + len(MAGIC)
_RECORDS = {code.value for code in Opcode}
_DECLARED = (Opcode.SCHEMA, Opcode.CHANNEL, Opcode.STATISTICS)
_APPLICATION = 0x80  # from here on are records of applications
# The bytes that can begin a record shorter than 4 GiB.
_CANDIDATE = re.compile(rb"(?=[\x01-\x0f].{4}\0{4})", re.DOTALL)
NAMELESS = "it has messages of topics that it does not name"
_REST = 0  # opcode of bytes that are no records

_DECOMPRESS = {"": bytes, "zstd": zstd.decompress, "lz4": lz4.frame.decompress}
# These decompressors give the bytes before a cut or damage.
_BEGIN = {"zstd": zstd.ZstdDecompressor, "lz4": lz4.frame.LZ4FrameDecompressor}
_STEP = 4096  # bytes that they get at a time


class McapMessage(NamedTuple):
    """channel: its id. log_ns: nanoseconds since the Unix epoch. data: in the encoding of the channel."""

    channel: int
    log_ns: int
    data: bytes


class Block(NamedTuple):
    """A chunk, or a message that is in none: its log times, where its record begins, and the ids of its channels."""

    first_ns: int
    last_ns: int
    offset: int
    channels: frozenset[int]


class Mcap:
    """The contents of the file.

    schemas, channels: by id. counts: messages by channel id, as far as channels are known. stated: how many the file
    says that it has, where it does. blocks: of the messages. finished: whether its writer closed it. problem: what of
    it cannot be read; what only shows on the way is there when `messages` has come to its end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.schemas: dict[int, Schema] = {}
        self.channels: dict[int, Channel] = {}
        self.counts: Counter[int] = Counter()
        self.stated: Counter[int] = Counter()
        self.blocks: list[Block] = []
        self.problem = ""
        with self._open() as (file, data):
            self.finished = data[-len(MAGIC) :] == MAGIC
            summary = _complete_summary(file, data)
            if summary:
                self._take(summary)
            else:
                self._scan(data)

    def messages(self, channels: Collection[int]) -> Iterator[McapMessage]:
        """The messages of these channels by log time."""
        with self._open() as (_, data):
            waiting = [(b.first_ns, b.offset, 0, b) for b in self.blocks if not b.channels.isdisjoint(channels)]
            heapify(waiting)
            while waiting:
                *_, item = heappop(waiting)
                if isinstance(item, McapMessage):
                    yield item
                    continue
                for number, message in enumerate(self._messages_in(data, item.offset), 1):
                    if message.channel in channels:
                        heappush(waiting, (message.log_ns, item.offset, number, message))
                    elif message.channel not in self.channels:
                        self._note(NAMELESS)

    @contextmanager
    def _open(self) -> Iterator[tuple[BinaryIO, mmap]]:
        with open(self.path, "rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            yield file, data

    def _take(self, summary: Summary) -> None:
        self.schemas, self.channels = summary.schemas, summary.channels
        self.counts = self.stated = _stated(summary.statistics)
        for chunk in summary.chunk_indexes:
            found = frozenset(+_indexed(chunk))
            self.blocks.append(Block(chunk.message_start_time, chunk.message_end_time, chunk.chunk_start_offset, found))

    def _scan(self, data: mmap) -> None:
        opcode = in_index = 0
        for opcode, start, stop in _records(data, len(MAGIC), len(data)):
            if opcode in (Opcode.MESSAGE, Opcode.CHUNK):
                self._add_block(data, start - _HEAD.size)
            elif opcode == Opcode.DATA_END:
                in_index = start
                with memoryview(data) as whole, whole[: start - _HEAD.size] as before:
                    stated = int.from_bytes(data[start:stop], "little")  # 0: its writer computed none
                    if stated and crc32(before) != stated:
                        self._note("damaged (wrong checksum of its messages)")
            elif opcode == _REST and stop < len(data):
                self._note(f"damaged from byte {start} to byte {stop}")
            elif opcode == _REST and not in_index:
                cut = len(data) - start < _HEAD.size or _is_opcode(data[start])
                where = f"cut off after {len(data)} bytes, in what begins at byte" if cut else "damaged from byte"
                self._note(f"{where} {start}" + ("" if cut else " on"))
            elif opcode in _DECLARED:
                self._declare(opcode, data[start:stop])
        if opcode != Opcode.FOOTER or not self.finished:
            self.finished = False
            self._note("cut off in its index" if in_index else f"cut off after {len(data)} bytes")
        unknown = self.counts.keys() - self.channels.keys()
        if sum(self.counts.pop(channel) for channel in unknown):
            self._note(NAMELESS)

    def _add_block(self, data: mmap, offset: int) -> None:
        found = [(message.channel, message.log_ns) for message in self._messages_in(data, offset, declare=True)]
        if found:
            channels, times = zip(*found, strict=True)
            self.counts.update(channels)
            self.blocks.append(Block(min(times), max(times), offset, frozenset(channels)))

    def _messages_in(self, data: mmap, offset: int, declare: bool = False) -> Iterator[McapMessage]:
        """The messages of the chunk or message record that begins here, in the order of the file.

        declare: take schemas and channels, and leave out the messages' data.
        """
        opcode = data[offset]
        end = _end_of(data, offset, len(data))
        records, at, cut = data, offset, end > len(data)
        if opcode == Opcode.CHUNK:
            records, problem = _unpack(data[offset + _HEAD.size : end])
            at, end = 0, len(records)
            if problem and not cut:
                self._note(f"a chunk is damaged ({problem})")
        elif opcode != Opcode.MESSAGE:
            self._note(f"damaged at byte {offset}")
            return
        for opcode, start, stop in _records(records, at, end):
            if opcode == Opcode.MESSAGE:
                channel, _, log_ns, _ = _MESSAGE.unpack_from(records, start)
                yield McapMessage(channel, log_ns, b"" if declare else records[start + _MESSAGE.size : stop])
            elif opcode == _REST and not cut:
                self._note("a chunk is damaged (it holds what is no record)")
            elif declare and opcode in _DECLARED:
                self._declare(opcode, records[start:stop])

    def _declare(self, opcode: int, content: bytes) -> None:
        stream = ReadDataStream(BytesIO(content))
        try:
            if opcode == Opcode.SCHEMA:
                schema = Schema.read(stream)
                self.schemas.setdefault(schema.id, schema)
            elif opcode == Opcode.CHANNEL:
                channel = Channel.read(stream)
                self.channels.setdefault(channel.id, channel)
            elif opcode == Opcode.STATISTICS:
                self.stated = _stated(Statistics.read(stream))
        except Exception:  # mcap lets through whatever damaged bytes make it stumble on
            self._note("a schema or channel is damaged")

    def _note(self, problem: str) -> None:
        """Keep the first of what is wrong."""
        self.problem = self.problem or problem


def _complete_summary(file: BinaryIO, data: mmap) -> Summary | None:
    """The index of the file, None where it does not lead to every message that the file says it has."""
    try:
        summary = SeekingReader(file).get_summary()
        if summary is None or summary.statistics is None or not _is_intact(data):
            return None
        counts: Counter[int] = Counter()
        for chunk in summary.chunk_indexes:
            counts += _indexed(chunk)
        stated, channels = _stated(summary.statistics), summary.channels
        known = all(channels[c].schema_id in summary.schemas for c in stated)
        last = max(summary.chunk_indexes, key=lambda chunk: chunk.chunk_start_offset, default=None)
        placed = last is None or _HEAD.unpack_from(data, last.chunk_start_offset) == (
            Opcode.CHUNK,
            last.chunk_length - _HEAD.size,
        )
    except Exception:  # as above; KeyError: a channel that is not listed
        return None
    counted = counts == stated and counts.total() == summary.statistics.message_count
    return summary if counted and known and placed else None


def _is_intact(data: mmap) -> bool:
    """True where the file ends as it should and its summary has the footer's checksum, if there is one."""
    opcode, _, start, _, checksum = struct.unpack_from("<BQQQI", data, len(data) - _FOOTER_BYTES)
    if opcode != Opcode.FOOTER or data[-len(MAGIC) :] != MAGIC:
        return False
    return not checksum or crc32(data[start : len(data) - len(MAGIC) - 4]) == checksum


def _stated(statistics: Statistics) -> Counter[int]:
    return +Counter(statistics.channel_message_counts)


def _indexed(chunk: ChunkIndex) -> Counter[int]:
    """Messages of each channel in a chunk, by the lengths of its message indexes: 15 bytes, and 16 for each."""
    places = sorted((offset, channel) for channel, offset in chunk.message_index_offsets.items())
    ends = [offset for offset, _ in places[1:]]
    ends.append(chunk.chunk_start_offset + chunk.chunk_length + chunk.message_index_length)
    return Counter({channel: (end - at - 15) // 16 for (at, channel), end in zip(places, ends, strict=True)})


def _records(data: mmap | bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(opcode, begin, end) of the content of each record, up to the footer; of bytes that are none, _REST.

    A chunk is also given where its end is missing, and then again as the last _REST.
    """
    while end - at >= _HEAD.size:
        opcode, length = _HEAD.unpack_from(data, at)
        stop = _end_of(data, at, end)
        if opcode == Opcode.CHUNK and stop > end and _chunk_end(data, at, end):
            yield opcode, at + _HEAD.size, end
            break
        if _is_record(opcode, length) and stop <= end:
            yield opcode, at + _HEAD.size, stop
            if opcode == Opcode.FOOTER:
                return
            at = stop
            continue
        found = (match.start() for match in _CANDIDATE.finditer(data, at + 1, end))
        following = next((place for place in found if _makes_sense(data, place, end)), None)
        if following is None:
            break
        yield _REST, at, following
        at = following
    if at < end:
        yield _REST, at, end


def _makes_sense(data: mmap | bytes, at: int, end: int) -> bool:
    """True where three records, or all up to the footer, follow each other here."""
    for _ in range(3):
        if end - at < _HEAD.size:
            return False
        opcode, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size + length
        if not _is_record(opcode, length) or at > end:
            return False
        if opcode == Opcode.FOOTER:
            return True
    return True


def _is_record(opcode: int, length: int) -> bool:
    least = {Opcode.MESSAGE: _MESSAGE.size, Opcode.CHUNK: _CHUNK.size, Opcode.FOOTER: _FOOTER_CONTENT}
    return _is_opcode(opcode) and length >= least.get(opcode, 0)


def _is_opcode(opcode: int) -> bool:
    return opcode in _RECORDS or opcode >= _APPLICATION


def _end_of(data: mmap | bytes, at: int, end: int) -> int:
    """Where a record ends by its length, or a chunk by its content where the length leads behind `end`."""
    opcode, length = _HEAD.unpack_from(data, at)
    stop = at + _HEAD.size + length
    return (_chunk_end(data, at, end) or stop) if opcode == Opcode.CHUNK and stop > end else stop


def _chunk_end(data: mmap | bytes, at: int, end: int) -> int | None:
    """Where a chunk's record ends by the size of what is packed in it; None where its content makes no sense."""
    start = at + _HEAD.size
    if end - start < _CHUNK.size:
        return None
    first_ns, last_ns, _, _, length = _CHUNK.unpack_from(data, start)
    place = start + _CHUNK.size + length
    if first_ns > last_ns or length > 4 or end - place < 8:
        return None
    if data[place - length : place].decode("latin-1") not in _DECOMPRESS:
        return None
    return place + 8 + struct.unpack_from("<Q", data, place)[0]


def _unpack(content: bytes) -> tuple[bytes, str]:
    """The records of a chunk, as far as they can be decompressed, and what is wrong with it."""
    try:
        chunk = Chunk.read(ReadDataStream(BytesIO(content)))
        decompress = _DECOMPRESS[chunk.compression]
    except KeyError as error:
        return b"", f"compression {error}"
    except Exception:  # as above
        return b"", "it is too short"
    try:
        data = decompress(chunk.data)
    except Exception as error:  # each library has its own
        return _beginning(chunk), " ".join(str(error).split()) or type(error).__name__
    if len(data) != chunk.uncompressed_size:
        return data, f"{len(data)} of {chunk.uncompressed_size} bytes"
    if chunk.uncompressed_crc and crc32(data) != chunk.uncompressed_crc:
        return data, "wrong checksum"
    return data, ""


def _beginning(chunk: Chunk) -> bytes:
    decompressor, found = _BEGIN[chunk.compression](), []
    with suppress(Exception):  # as above
        for at in range(0, len(chunk.data), _STEP):
            found.append(decompressor.decompress(chunk.data[at : at + _STEP]))
    return b"".join(found)
