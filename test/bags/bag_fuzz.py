"""Bags that are damaged on purpose: `read_bag` takes any bytes, `mutated` damages those of a bag where it hurts.

`python test/bags/bag_fuzz.py SECONDS [SEED]` goes on for so long and prints what it found.
"""

from __future__ import annotations

import io
import random
import resource
import struct
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import lz4.frame
from backports import zstd
from mcap.writer import CompressionType, IndexType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from m2f_ros.bags.messages import IMAGE, Messages
from m2f_ros.bags.reader import Bag
from m2f_ros.errors import M2fError

# Numbers on which lengths, offsets and counts trip.
NUMBERS = (0, 1, 0x7F, 0xFF, 1 << 15, (1 << 16) - 1, 1 << 31, (1 << 32) - 1, 1 << 62, 1 << 63, (1 << 64) - 1)


def read_bag(data: bytes, folder: Path, decode: bool = True) -> str:
    """Read all of a bag's file, decode every message if wanted, and return what is said to be wrong with it.

    No bytes raise anything but M2fError, whose text is one line.
    """
    path = folder / "x.mcap"
    path.write_bytes(data)
    said = []
    try:
        with Bag(path) as bag:
            for message in bag.messages():
                if not decode:
                    continue
                try:
                    message.decode()
                except M2fError as error:
                    said.append(str(error))
            said += [bag.problem, bag.unread]
    except M2fError as error:
        said.append(str(error))
    assert all(line.isprintable() for line in said), said
    return "; ".join(filter(None, said))


def seeds() -> list[bytes]:
    """Small bags of every storage, compression and index."""
    types = get_typestore(Stores.LATEST)
    make = Messages(types)
    images = [
        bytes(types.serialize_cdr(make.image(_picture(i), "bgr8", make.header(i, "cam")), IMAGE)) for i in range(6)
    ]
    found = []
    for compression in CompressionType:
        for options in ({}, {"use_chunking": False}, {"index_types": IndexType.NONE}, {"use_statistics": False}):
            out = io.BytesIO()
            writer = McapWriter(out, chunk_size=400, compression=compression, **options)
            writer.start("ros2", "a test")
            schema = writer.register_schema(IMAGE, "ros2msg", types.generate_msgdef(IMAGE)[0].encode())
            other = writer.register_schema("a/msg/B", "ros2msg", b"int32 a\nstring[2] b\nfloat64[] c\n")
            channels = [writer.register_channel(topic, "cdr", schema) for topic in ("/x/image", "/y/image")]
            channels.append(writer.register_channel("/b", "cdr", other))
            for i, image in enumerate(images):
                writer.add_message(channels[i % 2], i ^ 3, image, i)
                writer.add_message(channels[2], i, b"\0\1\0\0" + struct.pack("<6I", 5, 1, 0, 1, 0, 0), i)
            writer.finish()
            found.append(out.getvalue())
    for mode in (CompressionMode.NONE, CompressionMode.MESSAGE, CompressionMode.FILE):
        with TemporaryDirectory() as folder:
            writer = Writer(Path(folder) / "bag", version=9, storage_plugin=StoragePlugin.SQLITE3)
            writer.set_compression(mode, CompressionFormat.ZSTD)
            with writer:
                topic = writer.add_connection("/x/image", IMAGE, typestore=types)
                for i, image in enumerate(images * 4):
                    writer.write(topic, i, image)
            (file,) = (Path(folder) / "bag").glob("bag.db3*")
            found.append(file.read_bytes())
    return found


def _picture(i: int):
    import numpy as np

    return np.full((4, 6, 3), i, np.uint8)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one to four changes: bits, numbers, pieces cut out, repeated, swapped, or packed once more."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not changed:
            return b""
        # Half of them at the beginning or the end, where the structure is.
        at = rng.randrange(len(changed))
        if rng.random() < 0.5:
            at = rng.choice((min(at, rng.randrange(500)), len(changed) - 1 - min(at, rng.randrange(800))))
        at = max(at, 0)
        kind = rng.randrange(8)
        if kind == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind in (1, 2):
            size, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
            number = rng.choice((*NUMBERS, len(changed), at, at // 4096, rng.getrandbits(64))) % (1 << 8 * size)
            changed[at : at + size] = number.to_bytes(size, order)
        elif kind == 3:
            del changed[at : at + rng.choice((1, 8, 100, 4096))]
        elif kind == 4:
            size = rng.choice((1, 9, 31, 100, 4096))
            changed[at:at] = changed[at : at + size] * rng.choice((1, 2, 50))
        elif kind == 5:
            other, size = rng.randrange(len(changed)), rng.choice((4, 9, 100, 4096))
            changed[at : at + size] = changed[other : other + size]
        elif kind == 6:
            del changed[at:]
        elif kind == 7 and rng.random() < 0.05:
            changed = bytearray(zstd.compress(bytes(changed)))
    return bytes(changed)


def repacked(data: bytes, rng: random.Random) -> bytes:
    """An MCAP with a chunk whose records are damaged before they are packed, so that the checksum is right."""
    from binascii import crc32

    compression = rng.choice(("", "zstd", "lz4"))
    records = mutated(data[8:], rng)[: rng.randrange(1, 4000)]
    packed = {"": bytes, "zstd": zstd.compress, "lz4": lz4.frame.compress}[compression](records)
    size = rng.choice((len(records), len(records), *NUMBERS))
    head = struct.pack("<QQQII", 0, 1 << 40, size, crc32(records) * rng.randrange(2), len(compression))
    content = head + compression.encode() + struct.pack("<Q", len(packed)) + packed
    return data[: rng.choice((8, len(data) // 2))] + b"\x06" + struct.pack("<Q", len(content)) + content + data[8:]


def main() -> None:
    end, seed = time.monotonic() + float(sys.argv[1]), int((*sys.argv, "0")[2])
    rng, bags, said, slowest, number = random.Random(seed), seeds(), Counter(), (0.0, ""), 0
    keep = Path(f"/tmp/bag_fuzz_{seed}")
    with TemporaryDirectory(dir="/dev/shm") as folder:
        while time.monotonic() < end:
            data = rng.choice(bags)
            data = repacked(data, rng) if data[:1] == b"\x89" and rng.random() < 0.2 else mutated(data, rng)
            start = time.monotonic()
            try:
                problem = read_bag(data, Path(folder), rng.random() < 0.2)
            except BaseException:
                keep.with_suffix(".bag").write_bytes(data)
                print(f"input {number} of seed {seed}: {keep}.bag", flush=True)
                raise
            took = time.monotonic() - start
            if took > slowest[0]:
                keep.with_suffix(".slowest").write_bytes(data)
                slowest = (took, problem[:100])
            said[problem[:30]] += 1
            number += 1
            if number % 1000 == 0:
                rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
                print(f"{number} read, {len(said)} sorts of problems, slowest {slowest}, {rss} MiB", flush=True)
    print(f"{number} read; slowest {slowest}")


if __name__ == "__main__":
    main()
