"""MCAP files: by their index, or record by record where that does not lead to everything; what is lost is said."""

import io
import struct
from binascii import crc32

import lz4.frame
import pytest
from backports import zstd
from mcap.writer import CompressionType, IndexType, Writer

from m2f_ros.bags.mcap_file import Mcap
from m2f_ros.bags.mcap_records import MAGIC
from m2f_ros.bags.reader import Bag
from m2f_ros.bags.storage import Topic

COMPRESS = {"": bytes, "lz4": lz4.frame.compress, "zstd": zstd.compress}


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
        found = Mcap(path)
        return [(found.channels[m.channel].topic, *m[1:]) for m in found.messages(found.channels)], found.problem

    return salvage


@pytest.mark.parametrize("compression", COMPRESS)
def test_messages_are_sorted_by_log_time(salvaged, compression):
    first = chunk(TYPES + message(3) + message(1), compression)
    index = record(7, bytes(30))
    found, problem = salvaged(first, index, chunk(message(2) + message(4), compression), END)
    assert [(topic, log_ns) for topic, log_ns, _ in found] == [("/x", ns) for ns in (1, 2, 3, 4)]
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
        (chunk(message(5), "snappy"), "a chunk is damaged (compression 'snappy')"),
        (record(6, bytes(32) + text("zstd")), "a chunk is damaged"),
        (record(6, b"short"), "damaged from byte 146 to byte 160"),
        (record(5, b"short"), "damaged from byte 146 to byte 160"),
        (record(4, b"short"), "a schema or channel is damaged"),
        (record(4, struct.pack("<HH", 9, 5) + text("/y") + text("cdr")), "a schema or channel is damaged"),
        (record(3, struct.pack("<HI", 9, 1 << 30)), "a schema or channel is damaged"),
    ],
)
def test_a_damaged_record_takes_no_other_with_it(salvaged, broken, says):
    found, problem = salvaged(TYPES, message(1), broken, message(2), END)
    assert [log_ns for _, log_ns, _ in found] == [1, 2]
    assert says in problem


@pytest.mark.parametrize(("broken", "says"), [({"checksum": 1}, "wrong checksum"), ({"size": 3}, "35 of 3 bytes")])
def test_what_a_damaged_chunk_holds_is_read(salvaged, broken, says):
    found, problem = salvaged(TYPES, message(1), chunk(message(5), **broken), message(7), END)
    assert [log_ns for _, log_ns, _ in found] == [1, 5, 7]
    assert problem == f"a chunk is damaged ({says})"


@pytest.mark.parametrize("hole", [bytes(100), bytes(range(256)) * 3, struct.pack("<BQ", 5, 1 << 62)])
def test_it_goes_on_behind_what_makes_no_sense(salvaged, hole):
    start = len(MAGIC + HEADER + TYPES + message(1))
    found, problem = salvaged(TYPES, message(1), hole, chunk(message(3), "zstd"), message(2), END)
    assert [log_ns for _, log_ns, _ in found] == [1, 2, 3]
    assert problem == f"damaged from byte {start} to byte {start + len(hole)}"
    found, problem = salvaged(TYPES, message(1), struct.pack("<BQ", 5, 1 << 62), b"x")
    assert [log_ns for _, log_ns, _ in found] == [1]
    assert f"in what begins at byte {start}" in problem
    assert salvaged(TYPES, message(1), bytes(100))[1] == f"damaged from byte {start} on"


def test_a_chunk_whose_length_is_damaged_is_read(salvaged):
    broken = bytearray(chunk(message(5), "zstd"))
    broken[1:9] = struct.pack("<Q", 1 << 40)
    found, problem = salvaged(TYPES, message(1), bytes(broken), message(7), END)
    assert ([log_ns for _, log_ns, _ in found], problem) == ([1, 5, 7], "")


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


def test_the_checksum_of_messages_in_no_chunk_is_compared(tmp_path):
    file = io.BytesIO()
    writer = Writer(file, use_chunking=False, enable_data_crcs=True)
    writer.start()
    channel = writer.register_channel("/x", "cdr", writer.register_schema("pkg/msg/X", "ros2msg", b"int32 x"))
    writer.add_message(channel, 1, b"abcdefgh", 1)
    writer.finish()
    for data, problem in (b"abcdefgh", ""), (b"abcd\0\0\0\0", "damaged (wrong checksum of its messages)"):
        path = tmp_path / f"{len(problem)}.mcap"
        path.write_bytes(file.getvalue().replace(b"abcdefgh", data))
        mcap = Mcap(path)
        assert [m.data for m in mcap.messages([channel])] == [data]
        assert mcap.problem == problem


def test_messages_of_no_channel_are_said(salvaged):
    found, problem = salvaged(TYPES, message(1, channel=8), message(2), END)
    assert found == [("/x", 2, b"data")]
    assert problem == "it has messages of topics that it does not name"


def test_a_summary_that_says_too_little(tmp_path):
    path = tmp_path / "x.mcap"
    path.write_bytes(written())
    mcap = Mcap(path)
    del mcap.channels[2]
    assert len([*mcap.messages([1])]) == 30
    assert mcap.problem == "it has messages of topics that it does not name"


def test_a_channel_that_only_the_summary_lists(salvaged):
    found, problem = salvaged(message(1), record(15, struct.pack("<I", 0)), TYPES, record(2, bytes(20)), MAGIC)
    assert (found, problem) == ([("/x", 1, b"data")], "")


# How the reference library writes the same messages, and whether its index leads to all of them.
WRITERS = {
    "whole": {},
    "no message index": {"index_types": IndexType.ALL & ~IndexType.MESSAGE},
    "no chunk index": {"index_types": IndexType.ALL & ~IndexType.CHUNK},
    "no index": {"index_types": IndexType.NONE},
    "no chunks": {"use_chunking": False},
    "no statistics": {"use_statistics": False},
    "channels not repeated": {"repeat_channels": False},
    "schemas not repeated": {"repeat_schemas": False},
    "nothing in the summary": {
        "index_types": IndexType.NONE,
        "use_statistics": False,
        "repeat_channels": False,
        "repeat_schemas": False,
        "use_summary_offsets": False,
    },
}


def written(count=60, **options):
    """Bytes of a file of two topics, whose log times go back here and there."""
    out = io.BytesIO()
    writer = Writer(out, chunk_size=1000, **options)
    writer.start("ros2", "a test")
    schema = writer.register_schema("pkg/msg/X", "ros2msg", b"int32 x")
    channels = [writer.register_channel(topic, "cdr", schema) for topic in ("/x", "/y")]
    for i in range(count):
        writer.add_message(channels[i % 2], log_time=i ^ 31, data=bytes([i]) * 100, publish_time=i)
    writer.finish()
    return out.getvalue()


@pytest.mark.parametrize("compression", CompressionType)
@pytest.mark.parametrize("options", WRITERS.values(), ids=WRITERS)
def test_every_message_by_log_time_whatever_is_in_the_summary(tmp_path, options, compression):
    path = tmp_path / "x.mcap"
    path.write_bytes(written(compression=compression, **options))
    with Bag(path) as bag:
        assert [(m.topic, m.log_ns, m.data) for m in bag.messages()] == [
            (("/x", "/y")[i % 2], i ^ 31, bytes([i]) * 100) for i in sorted(range(60), key=lambda i: i ^ 31)
        ]
        assert [m.log_ns for m in bag.messages(["/y"])] == sorted(i ^ 31 for i in range(1, 60, 2))
        assert bag.topics == {"/x": Topic("pkg/msg/X", 30), "/y": Topic("pkg/msg/X", 30)}
        assert bag.problem == ""


def test_fewer_messages_than_the_file_counts(tmp_path):
    data = written(compression=CompressionType.NONE)
    at = data.index(bytes([17]) * 100)  # of /y
    # In place of the message a record of an application.
    (tmp_path / "x.mcap").write_bytes(data[: at - 31] + b"\x80" + data[at - 30 :])
    with Bag(tmp_path / "x.mcap") as bag:
        assert len([*bag.messages(["/x"])]) == 30
        assert bag.problem == "x.mcap: a chunk is damaged (wrong checksum)"
        assert len([*bag.messages(["/y"])]) == 29
        assert bag.problem == "x.mcap: a chunk is damaged (wrong checksum); /y: 29 of 30 messages are there"


def test_a_summary_that_is_damaged_is_not_believed(tmp_path):
    data = written()
    at = data.rindex(b"/y")  # in the summary's channel
    (tmp_path / "x.mcap").write_bytes(data[:at] + b"/z" + data[at + 2 :])
    with Bag(tmp_path / "x.mcap") as bag:
        assert len([*bag.messages(["/y"])]) == 30


def test_a_file_that_lost_bytes_in_the_middle(tmp_path):
    data = written(compression=CompressionType.NONE)
    (tmp_path / "x.mcap").write_bytes(data[:2000] + data[2500:])
    with Bag(tmp_path / "x.mcap") as bag:
        assert 50 <= len([*bag.messages()]) < 60
        assert "of 30 messages are there" in bag.problem
