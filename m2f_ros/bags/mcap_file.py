"""Reads an MCAP file by its index if that is complete, else record by record.

The index may be missing (rosbag2's noMessageIndex, a killed writer), truncated or damaged. The file is then scanned
from the first record to the last, across damage to the next valid records (mcap.dev/spec).
"""

from __future__ import annotations

import struct
from binascii import crc32
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from heapq import heappop, heappush
from io import BytesIO
from itertools import pairwise
from mmap import ACCESS_READ, MADV_DONTNEED, mmap
from pathlib import Path
from typing import NamedTuple

from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Channel, ChunkIndex, Schema, Statistics

from m2f_ros.bags.bounds import COMPRESSIONS, EARLIEST, LARGEST, Allowance, TooMuchError, require_file, unpack
from m2f_ros.bags.mcap_records import CHUNK, FOOTER, HEAD, MAGIC, MESSAGE, REST, end_of, is_opcode, records

NAMELESS = "it has messages of topics that it does not name"
_FOOTER_BYTES = HEAD.size + FOOTER.size + len(MAGIC)
_DECLARED = (Opcode.SCHEMA, Opcode.CHANNEL, Opcode.STATISTICS)
# Most bytes of a schema, channel or statistics, and of all of them.
_DECLARATION, _DECLARATIONS = 1 << 20, 1 << 26
# Most bytes of unchunked messages in a block.
_RUN = 1 << 20
# Most bytes of messages kept for sorting, and overhead of one in bytes.
_KEPT, _PER_MESSAGE = 1 << 26, 300
_COUNTED = 1024  # records counted at a time
_STEP = 1 << 26  # bytes of the file after which its pages are released


class McapMessage(NamedTuple):
    """A message: channel id, log time in nanoseconds since the Unix epoch, and data in the channel's encoding."""

    channel: int
    log_ns: int
    data: bytes


class Block(NamedTuple):
    """A chunk, or a run of unchunked messages: log times, begin and end of the records, channel ids."""

    first_ns: int
    last_ns: int
    offset: int
    end: int
    channels: frozenset[int]


class Mcap:
    """The contents of the file.

    Attributes:
        schemas: id -> schema.
        channels: id -> channel.
        counts: channel id -> number of messages, for known channels.
        stated: number of messages by channel id according to the file, if it states them.
        blocks: blocks of messages.
        finished: True if the writer closed the file.
        problem: description of the damage, or "". Complete only after `messages` has ended.
    """

    def __init__(self, path: Path, size: int | None = None) -> None:
        """size: size of the compressed file, if it was compressed, bytes. Raises OSError if it is not a file."""
        require_file(path)
        self.path, self._size = path, path.stat().st_size if size is None else size
        self.schemas: dict[int, Schema] = {}
        self.channels: dict[int, Channel] = {}
        self.counts: Counter[int] = Counter()
        self.stated: Counter[int] = Counter()
        self.blocks: list[Block] = []
        self.problem = ""
        self._declared = 0
        with self._open() as data:
            self.finished = data[-len(MAGIC) :] == MAGIC
            if not self._take_summary(data):
                self._forget()
                try:
                    self._scan(data, Allowance(self._size))
                except TooMuchError as error:
                    self._leave_out(error)
                self._drop_unknown()

    def messages(self, channels: Collection[int], from_ns: int = EARLIEST) -> Iterator[McapMessage]:
        """Yield the messages of these channels by log time, from `from_ns` on; blocks before it are not read."""
        allowance, last_ns, kept = Allowance(self._size), 0, 0
        blocks = sorted(b for b in self.blocks if b.last_ns >= from_ns and not b.channels.isdisjoint(channels))
        waiting: list[tuple[int, int, int, McapMessage]] = []

        def due(before: tuple[int, ...] | None) -> Iterator[McapMessage]:
            """Yield waiting messages before this log time and position, and further ones if too many wait."""
            nonlocal last_ns, kept
            while waiting and (before is None or waiting[0] < before or kept > _KEPT):
                message = heappop(waiting)[-1]
                kept -= len(message.data) + _PER_MESSAGE
                if message.log_ns < last_ns:
                    self._note("its messages are too far out of order to be sorted in memory")
                last_ns = message.log_ns
                yield message

        with self._open() as data:
            released = 0
            try:
                for block in blocks:
                    yield from due((block.first_ns, block.offset))
                    for number, message in enumerate(self._messages_in(data, block, allowance)):
                        if message.channel in channels:
                            if message.log_ns < from_ns:
                                continue
                            heappush(waiting, (message.log_ns, block.offset, number, message))
                            kept += len(message.data) + _PER_MESSAGE
                            if kept > _KEPT and len(waiting) > 1:
                                yield from due(waiting[0][:3])
                        elif message.channel not in self.channels:
                            self._note(NAMELESS)
                    if block.end - released > _STEP:
                        data.madvise(MADV_DONTNEED)
                        released = block.end
            except TooMuchError as error:
                self._leave_out(error)
            yield from due(None)

    @contextmanager
    def _open(self) -> Iterator[mmap]:
        with open(self.path, "rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            yield data

    def _forget(self) -> None:
        self._declared = 0
        for found in (self.schemas, self.channels, self.counts, self.stated, self.blocks):
            found.clear()

    def _take_summary(self, data: mmap) -> bool:
        """Read the index; return False if it does not account for every message that the file states."""
        try:
            opcode, _ = HEAD.unpack_from(data, len(data) - _FOOTER_BYTES)
            start, _, checksum = FOOTER.unpack_from(data, len(data) - _FOOTER_BYTES + HEAD.size)
            if opcode != Opcode.FOOTER or not self.finished or not len(MAGIC) <= start < len(data) - _FOOTER_BYTES:
                return False
            if checksum and _checksum(data, start, len(data) - len(MAGIC) - 4) != checksum:
                return False
            return self._take_index(data, start)
        except Exception:  # mcap raises errors of any type for damaged bytes
            return False

    def _take_index(self, data: mmap, start: int) -> bool:
        sets: dict[frozenset[int], frozenset[int]] = {}
        counts: Counter[int] = Counter()
        total = None
        for opcode, begin, stop in records(data, start, len(data)):
            if opcode == Opcode.CHUNK_INDEX:
                chunk = ChunkIndex.read(ReadDataStream(BytesIO(data[begin : min(stop, begin + _DECLARATION)])))
                indexed = _indexed(chunk)
                counts += indexed
                channels = frozenset(+indexed)
                end = chunk.chunk_start_offset + chunk.chunk_length
                place = (chunk.message_start_time, chunk.message_end_time, chunk.chunk_start_offset, end)
                self.blocks.append(Block(*place, sets.setdefault(channels, channels)))
            elif opcode == Opcode.STATISTICS:
                statistics = Statistics.read(ReadDataStream(BytesIO(data[begin:stop])))
                self.stated, total = _stated(statistics), statistics.message_count
            elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                self._declare(opcode, data[begin : min(stop, begin + _DECLARATION)])
            elif opcode in (Opcode.CHUNK, Opcode.MESSAGE, REST):  # not part of a summary
                return False
        places = sorted((block.offset, block.end) for block in self.blocks)
        apart = all(end <= offset for (_, end), (offset, _) in pairwise(places))
        last = places[-1] if places else None
        placed = last is None or HEAD.unpack_from(data, last[0]) == (Opcode.CHUNK, last[1] - last[0] - HEAD.size)
        known = all(self.channels[c].schema_id in self.schemas for c in self.stated)
        self.counts = self.stated
        return counts == self.stated and counts.total() == total and placed and apart and known and not self.problem

    def _scan(self, data: mmap, allowance: Allowance) -> None:
        opcode = in_index = released = 0
        run: tuple[int, int] | None = None  # begin and end of unchunked messages
        for opcode, start, stop in records(data, len(MAGIC), len(data)):
            at = start - HEAD.size
            if run and (opcode != Opcode.MESSAGE or stop - run[0] > _RUN):
                self._add_block(data, *run, allowance)
                run = None
            if opcode == Opcode.MESSAGE:
                run = (run[0] if run else at, stop)
            elif opcode == Opcode.CHUNK:
                self._add_block(data, at, stop, allowance)
            elif opcode == Opcode.DATA_END:
                in_index = start
                stated = int.from_bytes(data[start:stop][:4], "little")  # 0: not computed
                if stated and _checksum(data, 0, at) != stated:
                    self._note("damaged (wrong checksum of its messages)")
            elif opcode == REST and stop < len(data):
                self._note(f"damaged from byte {start} to byte {stop}")
            elif opcode == REST and not in_index:
                cut = len(data) - start < HEAD.size or is_opcode(data[start])
                where = f"cut off after {len(data)} bytes, in what begins at byte" if cut else "damaged from byte"
                self._note(f"{where} {start}" + ("" if cut else " on"))
            elif opcode in _DECLARED:
                self._declare(opcode, data[start : min(stop, start + _DECLARATION)])
            if stop - released > _STEP:
                data.madvise(MADV_DONTNEED)
                released = stop
        if run:
            self._add_block(data, *run, allowance)
        if opcode != Opcode.FOOTER or not self.finished:
            self.finished = False
            self._note("cut off in its index" if in_index else f"cut off after {len(data)} bytes")

    def _drop_unknown(self) -> None:
        unknown = self.counts.keys() - self.channels.keys()
        if sum(self.counts.pop(channel) for channel in unknown):
            self._note(NAMELESS)

    def _add_block(self, data: mmap, offset: int, end: int, allowance: Allowance) -> None:
        first_ns, last_ns, counts = 1 << 64, 0, Counter[int]()
        block = Block(0, 0, offset, end, frozenset())
        try:
            for channel, log_ns, _ in self._messages_in(data, block, allowance, declare=True):
                counts[channel] += 1
                first_ns, last_ns = min(first_ns, log_ns), max(last_ns, log_ns)
        finally:  # also after TooMuchError
            if counts:
                self.counts.update(counts)
                self.blocks.append(Block(first_ns, last_ns, offset, end, frozenset(counts)))

    def _messages_in(
        self, data: mmap, block: Block, allowance: Allowance, declare: bool = False
    ) -> Iterator[McapMessage]:
        """Yield the messages of a block, in the order of the file. Raises TooMuchError.

        declare: True to read schemas and channels, and to leave out the messages' data.
        """
        at, end, cut = block.offset, min(block.end, len(data)), False
        found: mmap | bytes = data
        opcode = data[at]
        if opcode == Opcode.CHUNK:
            stop = end_of(data, at, len(data))
            cut = stop > len(data)
            found, at, end, problem = _open_chunk(data, at + HEAD.size, min(stop, len(data)))
            if found is not data:
                allowance.take(len(found))
            if problem and not cut:
                self._note(f"a chunk is damaged ({problem})")
        elif opcode != Opcode.MESSAGE:
            self._note(f"damaged at byte {at}")
            return
        number = 0
        for number, (opcode, start, stop) in enumerate(records(found, at, end), 1):
            if number % _COUNTED == 0:
                allowance.count(_COUNTED)
            if opcode == Opcode.MESSAGE:
                channel, _, log_ns, _ = MESSAGE.unpack_from(found, start)
                if stop - start - MESSAGE.size > LARGEST:
                    self._note(f"a message is larger than {LARGEST >> 20} MiB")
                else:
                    yield McapMessage(channel, log_ns, b"" if declare else found[start + MESSAGE.size : stop])
            elif opcode == REST and not cut:
                self._note("a chunk is damaged (it holds what is no record)")
            elif declare and opcode in _DECLARED:
                self._declare(opcode, found[start : min(stop, start + _DECLARATION)])
        allowance.count(number % _COUNTED)

    def _declare(self, opcode: int, content: bytes) -> None:
        """Read a schema or channel. content: content of the record, truncated and so unreadable if it is too long."""
        stream = ReadDataStream(BytesIO(content))
        try:
            if opcode == Opcode.STATISTICS:
                self.stated = _stated(Statistics.read(stream))
                return
            found = Schema.read(stream) if opcode == Opcode.SCHEMA else Channel.read(stream)
        except Exception:  # as above
            self._note("a schema or channel is damaged")
            return
        declared = self.schemas if opcode == Opcode.SCHEMA else self.channels
        if found.id not in declared:
            self._declared += len(content)
            if self._declared > _DECLARATIONS:
                self._note("its schemas and channels are too many to be read")
            else:
                declared[found.id] = found

    def _leave_out(self, error: TooMuchError) -> None:
        if str(error) not in self.problem:
            self.problem = f"{self.problem}; {error}" if self.problem else str(error)

    def _note(self, problem: str) -> None:
        """Set `problem`, unless an earlier one is set."""
        self.problem = self.problem or problem


def _checksum(data: mmap, start: int, stop: int) -> int:
    """Compute the CRC-32 of a part of the file, and release its pages on the way."""
    found = 0
    with memoryview(data) as whole:
        for at in range(start, stop, _STEP):
            with whole[at : min(at + _STEP, stop)] as part:
                found = crc32(part, found)
            if at + _STEP < stop:
                data.madvise(MADV_DONTNEED)
    return found


def _stated(statistics: Statistics) -> Counter[int]:
    return +Counter(statistics.channel_message_counts)


def _indexed(chunk: ChunkIndex) -> Counter[int]:
    """Count the messages of each channel in a chunk from the sizes of its message indexes, 15 + 16 bytes a message."""
    places = sorted((offset, channel) for channel, offset in chunk.message_index_offsets.items())
    ends = [offset for offset, _ in places[1:]]
    ends.append(chunk.chunk_start_offset + chunk.chunk_length + chunk.message_index_length)
    return Counter({channel: (end - at - 15) // 16 for (at, channel), end in zip(places, ends, strict=True)})


def _open_chunk(data: mmap, start: int, stop: int) -> tuple[mmap | bytes, int, int, str]:
    """Return the readable records of a chunk: their data, begin and end, and a description of the damage, or ""."""
    if stop - start < CHUNK.size:
        return b"", 0, 0, "it is too short"
    _, _, size, checksum, length = CHUNK.unpack_from(data, start)
    place = start + CHUNK.size + length
    if place + 8 > stop:
        return b"", 0, 0, "it is too short"
    compression = data[place - length : min(place, place - length + 20)].decode("latin-1")
    if compression not in COMPRESSIONS:
        return b"", 0, 0, f"compression {compression!r}"
    packed = place + 8
    whole = packed + struct.unpack_from("<Q", data, place)[0]
    end = min(stop, whole)
    found: mmap | bytes = data
    if compression:
        found, problem = unpack(data[packed:end], compression, size)
        if problem:
            return found, 0, len(found), problem
        sum_ = crc32(found) if checksum else 0
        packed, end = 0, len(found)
    else:
        sum_ = _checksum(data, packed, end) if checksum else 0
    if whole > stop:
        return found, packed, end, "it is too short"
    if end - packed != size:
        return found, packed, end, f"{end - packed} of {size} bytes"
    return found, packed, end, "wrong checksum" if sum_ != checksum else ""
