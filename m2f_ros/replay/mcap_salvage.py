"""Messages of an MCAP file without index: one that was cut off, or whose writer was killed.

Reads record by record, as the MCAP specification lays them out (mcap.dev/spec), also those of the last chunk that are
there, and stops where the records stop to make sense.
"""

from __future__ import annotations

import struct
from binascii import crc32
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

from backports import zstd
from lz4.frame import LZ4FrameDecompressor

MAGIC = b"\x89MCAP0\r\n"
_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 2, 3, 4, 5, 6, 15
_LAST_OPCODE = _DATA_END  # beyond, from 0x80, are records of applications


class Schema(NamedTuple):
    """A message type: its name, and its definition in an encoding, "ros2msg" or "ros2idl"."""

    name: str
    encoding: str
    text: str


class Channel(NamedTuple):
    """A topic. encoding: of its messages, "cdr" from ROS 2."""

    topic: str
    schema: Schema
    encoding: str


class McapMessage(NamedTuple):
    """log_ns: nanoseconds since the Unix epoch. data: in the encoding of its channel."""

    channel: Channel
    log_ns: int
    data: bytes


@dataclass
class Salvage:
    """Reads what is there. problem: what is missing, once `messages` has come to its end; empty: nothing."""

    path: Path
    problem: str = ""
    _schemas: dict[int, Schema] = field(default_factory=dict)
    _channels: dict[int, Channel] = field(default_factory=dict)

    def messages(self) -> Iterator[McapMessage]:
        """In the order of the file; those of a chunk by log time."""
        self.problem = ""
        size = self.path.stat().st_size
        with open(self.path, "rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                self._note("not an MCAP file")
                return
            for opcode, body in self._records(file, size):
                if opcode == _MESSAGE:
                    yield from self._message(body)
                elif opcode == _CHUNK:
                    data = self._unpack(body)
                    records = self._records(BytesIO(data), len(data), in_chunk=True)
                    messages = (m for kind, record in records if kind == _MESSAGE for m in self._message(record))
                    yield from sorted(messages, key=lambda message: message.log_ns)

    def _records(self, stream: BinaryIO, size: int, in_chunk: bool = False) -> Iterator[tuple[int, bytes]]:
        """(opcode, content) of messages and chunks, of a last chunk what is there; schemas and channels are kept."""
        while True:
            at = stream.tell()
            head = stream.read(9)
            cut = f"cut off after {size} bytes, in what begins at byte {at}"
            if len(head) < 9:
                return None if in_chunk else self._note(cut)
            opcode, length = struct.unpack("<BQ", head)
            if opcode in (_DATA_END, _FOOTER):
                return None
            if opcode == 0 or _LAST_OPCODE < opcode < 0x80:
                return self._note(f"damaged from byte {at} on")
            there = min(length, size - at - 9)
            if opcode in (_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK):
                body = stream.read(there)
                if opcode == _CHUNK or (there == length and opcode == _MESSAGE):
                    yield opcode, body
                elif there == length:
                    self._declare(opcode, body)
            else:
                stream.seek(there, 1)
            if there < length:
                return None if in_chunk else self._note(cut)

    def _declare(self, opcode: int, body: bytes) -> None:
        try:
            if opcode == _SCHEMA:
                (number,) = struct.unpack_from("<H", body)
                name, at = _text(body, 2)
                encoding, at = _text(body, at)
                self._schemas[number] = Schema(name, encoding, _text(body, at)[0])
            else:
                number, schema = struct.unpack_from("<HH", body)
                topic, at = _text(body, 4)
                self._channels[number] = Channel(topic, self._schemas[schema], _text(body, at)[0])
        except (struct.error, UnicodeDecodeError, KeyError):
            self._note("a schema or channel is damaged")

    def _message(self, body: bytes) -> Iterator[McapMessage]:
        if len(body) < 22:
            return self._note("a message is damaged")
        number, _, log_ns = struct.unpack_from("<HIQ", body)
        if number in self._channels:
            yield McapMessage(self._channels[number], log_ns, body[22:])

    def _unpack(self, chunk: bytes) -> bytes:
        """The records of a chunk; of one that is cut off, what can be decompressed."""
        try:
            _, _, size, checksum = struct.unpack_from("<QQQI", chunk)
            compression, at = _text(chunk, 28)
            (packed,) = struct.unpack_from("<Q", chunk, at)
            data = _DECOMPRESS[compression](chunk[at + 8 : at + 8 + packed])
        except Exception as error:  # each library has its own
            self._note(f"a chunk is damaged ({' '.join(str(error).split()) or type(error).__name__})")
            return b""
        whole = len(chunk) - at - 8 >= packed
        if whole and (len(data) != size or (checksum and crc32(data) != checksum)):
            self._note("a chunk is damaged (wrong checksum)")
            return b""
        return data

    def _note(self, problem: str) -> None:
        """Keep the first of what is wrong."""
        self.problem = self.problem or problem


def _text(body: bytes, at: int) -> tuple[str, int]:
    """A string and where it ends."""
    (length,) = struct.unpack_from("<I", body, at)
    if at + 4 + length > len(body):
        raise struct.error("a string that is longer than its record")
    return body[at + 4 : at + 4 + length].decode(), at + 4 + length


# Of what is cut off these give what is there.
_DECOMPRESS = {
    "": lambda data: data,
    "zstd": lambda data: zstd.ZstdDecompressor().decompress(data),
    "lz4": lambda data: LZ4FrameDecompressor().decompress(data),
}
