"""MCAP files without index, written here record by record: what is whole is given, in order, and the rest is said."""

import struct
from binascii import crc32

import lz4.frame
import pytest
from backports import zstd

from m2f_ros.replay.bag_reader import Bag
from m2f_ros.replay.mcap_salvage import MAGIC, Channel, Salvage, Schema
from m2f_ros.replay.storage import Topic

COMPRESS = {"": bytes, "lz4": lz4.frame.compress, "zstd": zstd.compress}
CHANNEL = Channel("/x", Schema("pkg/msg/X", "ros2msg", "int32 x"), "cdr")


def text(value):
    return struct.pack("<I", len(value)) + value.encode()


def record(opcode, content):
    return struct.pack("<BQ", opcode, len(content)) + content


HEADER = record(1, text("ros2") + text("a test"))
TYPES = record(3, struct.pack("<H", 1) + text("pkg/msg/X") + text("ros2msg") + text("int32 x")) + record(
    4, struct.pack("<HH", 7, 1) + text("/x") + text("cdr") + struct.pack("<I", 0)
)


def message(log_ns, data=b"data", channel=7):
    return record(5, struct.pack("<HIQQ", channel, 0, log_ns, log_ns) + data)


def chunk(records, compression="", checksum=None, size=None):
    checksum = crc32(records) if checksum is None else checksum
    packed = COMPRESS.get(compression, bytes)(records)
    head = struct.pack("<QQQI", 0, 0, len(records) if size is None else size, checksum)
    return record(6, head + text(compression) + struct.pack("<Q", len(packed)) + packed)


END = record(15, struct.pack("<I", 0)) + record(2, bytes(20)) + MAGIC


@pytest.fixture
def salvaged(tmp_path):
    def salvage(*records):
        path = tmp_path / "x.mcap"
        path.write_bytes(MAGIC + HEADER + b"".join(records))
        found = Salvage(path)
        return [(m.channel, m.log_ns, m.data) for m in found.messages()], found.problem

    return salvage


@pytest.mark.parametrize("compression", COMPRESS)
def test_chunks_are_sorted_by_log_time(salvaged, compression):
    first = chunk(TYPES + message(3) + message(1), compression)
    index = record(7, bytes(30))
    found, problem = salvaged(first, index, chunk(message(2) + message(4), compression), END)
    assert [(channel, log_ns) for channel, log_ns, _ in found] == [(CHANNEL, ns) for ns in (1, 3, 2, 4)]
    assert problem == ""


def test_messages_outside_chunks(salvaged):
    found, problem = salvaged(TYPES, message(1, b"a"), record(0x80, b"of an application"), message(2, b"b"), END)
    assert [(log_ns, data) for _, log_ns, data in found] == [(1, b"a"), (2, b"b")]
    assert problem == ""


@pytest.mark.parametrize("compression", COMPRESS)
def test_a_chunk_that_is_cut_off_gives_its_beginning(salvaged, compression):
    whole = chunk(TYPES + b"".join(message(i, bytes([i * 37 % 251]) * 5000) for i in range(64)), compression)
    ends = [len(salvaged(whole[:end])[0]) for end in range(0, len(whole), max(1, len(whole) // 50))]
    assert ends == sorted(ends)
    if compression == "":
        assert ends[25] == 31
    for end in (3, 20, 60, len(whole) - 1):
        problem = salvaged(whole[:end])[1]
        assert "cut off after" in problem or "a chunk is damaged" in problem
    assert len(salvaged(whole)[0]) == 64
    assert "cut off" in salvaged(whole)[1]  # no end of data


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (chunk(message(5), checksum=1), "wrong checksum"),
        (chunk(message(5), size=3), "wrong checksum"),
        (chunk(message(5), "snappy"), "a chunk is damaged"),
        (record(6, b"short"), "a chunk is damaged"),
        (record(5, b"short"), "a message is damaged"),
        (record(4, b"short"), "a schema or channel is damaged"),
        (record(4, struct.pack("<HH", 9, 5) + text("/y") + text("cdr")), "a schema or channel is damaged"),
        (record(3, struct.pack("<HI", 9, 1 << 30)), "a schema or channel is damaged"),
    ],
)
def test_a_damaged_record_takes_no_other_with_it(salvaged, broken, says):
    found, problem = salvaged(TYPES, message(1), broken, message(2), END)
    assert [log_ns for _, log_ns, _ in found] == [1, 2]
    assert says in problem


def test_it_stops_where_records_make_no_sense(salvaged):
    found, problem = salvaged(TYPES, message(1), bytes(100), message(2), END)
    assert [log_ns for _, log_ns, _ in found] == [1]
    start = len(MAGIC + HEADER + TYPES + message(1))
    assert problem == f"damaged from byte {start} on"
    found, problem = salvaged(TYPES, message(1), struct.pack("<BQ", 5, 1 << 62), b"x")
    assert [log_ns for _, log_ns, _ in found] == [1]
    assert f"in what begins at byte {start}" in problem


def test_a_whole_file_that_has_no_index_is_whole(tmp_path):
    path = tmp_path / "x.mcap"
    other = record(1, text("not ros2") + text("a test"))
    data = MAGIC + other + TYPES + message(1) + chunk(message(3) + message(2)) + END
    path.write_bytes(data)
    with Bag(path) as bag:
        assert [m.log_ns for m in bag.messages()] == [1, 2, 3]
        assert (bag.topics, bag.problem) == ({"/x": Topic("pkg/msg/X", 3)}, "")
    path.write_bytes(data[:-1])
    with Bag(path) as bag:
        assert [m.log_ns for m in bag.messages(["/x"])] == [1, 2, 3]
        assert bag.problem == "x.mcap: cut off in its index"


def test_messages_of_no_channel_are_left_out(salvaged):
    assert salvaged(TYPES, message(1, channel=8), message(2), END) == ([(CHANNEL, 2, b"data")], "")
