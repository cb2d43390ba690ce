"""Bags that are made to take all memory, all time, or other files: each is read in a process whose memory is measured,
gives what can be read of it, and says in a line what is wrong."""

import json
import os
import random
import sqlite3
import struct
import subprocess
import sys
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import lz4.frame
import pytest
from backports import zstd

from m2f_ros.bags.bounds import LARGEST, unpack
from m2f_ros.bags.definitions import Types
from m2f_ros.bags.mcap_records import MAGIC
from m2f_ros.bags.messages import IMAGE, LEGEND
from m2f_ros.bags.reader import Bag
from m2f_ros.bags.storage import Definition
from m2f_ros.bags.writer import BagWriter
from m2f_ros.errors import FrameError, M2fError, SourceError
from m2f_ros.sources.open import open_source

sys.path.insert(0, str(Path(__file__).parent))
from bag_fuzz import mutated, read_bag, repacked, seeds

MEMORY, SECONDS = 1 << 20, 100  # KiB; of the processor
# Reads bags, each in a process of its own; prints a line of JSON for each: peak of memory, messages, problem.
READER = f"""
import json, os, resource, sys
from m2f_ros.errors import M2fError
from m2f_ros.bags.reader import Bag
for path in sys.argv[1:]:
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        if status:
            print(json.dumps([0, 0, f"status {{status}}"]), flush=True)
        continue
    resource.setrlimit(resource.RLIMIT_CPU, ({SECONDS}, {SECONDS}))
    count = 0
    try:
        with Bag(path) as bag:
            for message in bag.messages():
                count += 1
            problem = bag.problem
    except M2fError as error:
        problem = str(error)
    print(json.dumps([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, count, problem]), flush=True)
    os._exit(0)
"""


def read_apart(folder, bags):
    """{name: messages} of bags, (bytes, a part of what is said) by name."""
    paths = []
    for number, (data, _) in enumerate(bags.values()):
        paths.append(folder / f"{number}")
        paths[-1].write_bytes(data)
    command = [sys.executable, "-c", READER, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr, done.stderr
    found = {}
    for line, (name, (_, says)) in zip(done.stdout.splitlines(), bags.items(), strict=True):
        memory, found[name], problem = json.loads(line)
        print(f"{name}: {memory >> 10} MiB, {found[name]} messages, {problem}")
        assert memory < MEMORY and says in problem, (name, memory, problem)
        assert len(problem) < 3000 and (problem.isprintable() or not problem), name
    return found


def zeros(size):
    """A zstd frame of so many MiB of zeros: 32 bytes for each."""
    last = struct.pack("<I", 1 | 1 << 1 | 1 << 17 << 3)[:3] + b"\0"
    block = struct.pack("<I", 1 << 1 | 1 << 17 << 3)[:3] + b"\0"
    return b"\x28\xb5\x2f\xfd\x00\x58" + block * (8 * size - 1) + last


def text(value):
    return struct.pack("<I", len(value)) + value.encode()


def record(opcode, content=b"", length=None):
    return struct.pack("<BQ", opcode, len(content) if length is None else length) + content


def message(log_ns, data=b"\0\1\0\0data", channel=7):
    return record(5, struct.pack("<HIQQ", channel, 0, log_ns, log_ns) + data)


def packed(data, compression, size, first=0, last=1):
    head = struct.pack("<QQQI", first, last, size, 0) + text(compression)
    return record(6, head + struct.pack("<Q", len(data)) + data)


TYPES = record(3, struct.pack("<H", 1) + text("a/msg/B") + text("ros2msg") + text("int32 x")) + record(
    4, struct.pack("<HH", 7, 1) + text("/x") + text("cdr") + struct.pack("<I", 0)
)
START = MAGIC + record(1, text("ros2") + text("a test"))
END = record(15, struct.pack("<I", 0)) + record(2, bytes(20)) + MAGIC
BEGIN = START + TYPES + message(1)
HEAD = struct.pack("<BQHIQQ", 5, 22 + (100 << 20), 7, 0, 5, 5)  # of a message of 100 MiB


def many_in_a_frame(piece, count):
    """zstd of a piece that is repeated, packed without having all of it in memory."""
    compressor = zstd.ZstdCompressor(level=1)
    piece, count = piece * 4096, count // 4096
    return b"".join(compressor.compress(piece) for _ in range(count)) + compressor.flush()


def chunk_indexes(count):
    """A summary that leads to the same chunk many times."""
    one = packed(zeros(100), "zstd", 100 << 20)
    place = struct.pack("<QQQQI", 0, 1, len(BEGIN), len(one), 10) + struct.pack("<HQ", 7, len(BEGIN) + len(one))
    index = record(8, place + struct.pack("<Q", 31) + text("zstd") + struct.pack("<QQ", len(one), 100 << 20))
    counts = record(11, struct.pack("<QHIIIIQQI", count, 1, 1, 0, 0, count, 0, 1, 10) + struct.pack("<HQ", 7, count))
    start = len(BEGIN) + len(one)
    return one + index * count + TYPES + counts + record(2, struct.pack("<QQI", start, 0, 0)) + MAGIC


SCHEMAS = b"".join(
    record(3, struct.pack("<H", i) + text("a/msg/B") + text("ros2msg") + text("x" * 60_000)) for i in range(1500)
)
# Bytes behind the first message, and what is said.
LONG = message(0) + message(1 << 60, bytes(60 << 20))  # from the first time that there is to the last
MCAPS = {
    "a chunk of 32 GiB": (packed(zeros(32 << 10), "zstd", 32 << 30) + message(2) + END, "more than 200 MiB"),
    "a chunk that declares 2^63": (packed(zeros(1), "zstd", 1 << 63) + message(2) + END, "of 9223372036854775808"),
    "many chunks": (packed(zeros(190), "zstd", 190 << 20) * 150 + message(2) + END, "unpacks to more than 2048 MiB"),
    "lz4": (packed(lz4.frame.compress(bytes(300 << 20)), "lz4", 1) + message(2) + END, "more than 200 MiB"),
    "empty frames": (packed(zstd.compress(b"") * 200_000, "zstd", 0) + message(2) + END, ""),
    "records without content": (packed(many_in_a_frame(record(0x80), 20 << 20), "zstd", 0) + END, "has more records"),
    "a message of 32 GiB": (message(2, zeros(32 << 10)) + END, "larger than 200 MiB"),
    "a length of 2^63": (record(9, b"x", 1 << 63) + message(2) + message(3) + END, "damaged from byte"),
    "schemas without end": (
        packed(many_in_a_frame(record(3, bytes(8000)), 20 << 10), "zstd", 0) + message(2) + END,
        "a chunk is damaged",
    ),
    "many large schemas": (packed(zstd.compress(SCHEMAS), "zstd", 0) + message(2) + END, "a chunk is damaged"),
    "a summary of all": (message(2) + record(2, struct.pack("<QQI", 8, 8, 0)) + MAGIC, ""),
    "a summary of itself": (message(2) + record(2, struct.pack("<QQI", len(BEGIN) + 39, 0, 0)) + MAGIC, ""),
    "an index of one chunk": (chunk_indexes(1000), "a chunk is damaged"),
    "chunks that overlap": (
        packed(zstd.compress(LONG), "zstd", len(LONG), 0, 1 << 60) * 30 + END,
        "out of order",
    ),
    "times": (message((1 << 64) - 1) + message(1 << 63) + message(0) + END, "after 2038"),
}


# Cheap ones, for every run of the tests; the others take minutes together.
QUICK = ("a chunk that declares 2^63", "a length of 2^63", "a summary of all", "a summary of itself", "times")


def with_beginning(names):
    return {name: (BEGIN + MCAPS[name][0], MCAPS[name][1]) for name in names}


@pytest.mark.process
def test_mcap(tmp_path):
    names = (*QUICK, "a chunk of 32 GiB")
    found = read_apart(tmp_path, with_beginning(names))
    assert list(found.values()) == [2, 3, 2, 2, 4, 2]


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_mcap_that_takes_long(tmp_path):
    read_apart(tmp_path, with_beginning(MCAPS.keys() - set(QUICK)))


def database(path, *statements, rows=200):
    """A bag of SQLite, and what somebody did to it."""
    with BagWriter(path, "sqlite3") as bag:
        for i in range(rows):
            bag.write("/x", IMAGE, struct.pack("<II", 256, i) + bytes(3000), i)
    (path / "metadata.yaml").unlink()
    with closing(sqlite3.connect(path / f"{path.name}.db3")) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()
        roots = dict(db.execute("SELECT name, rootpage FROM sqlite_master"))
    return bytearray((path / f"{path.name}.db3").read_bytes()), roots


ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"
# For each kind: the SQL that makes the file, the words of the error, and the number of messages read.
SQL = {
    "a view": (
        (
            "ALTER TABLE messages RENAME TO m",
            f"CREATE VIEW messages AS {ENDLESS} SELECT x id, 1 topic_id, x timestamp, x'00' data FROM c",
        ),
        "views, triggers or virtual tables",
        0,
    ),
    "a trigger": (
        ("CREATE TRIGGER t AFTER INSERT ON messages BEGIN DELETE FROM messages; END",),
        "views, triggers or virtual tables",
        0,
    ),
    "a virtual table": (("CREATE VIRTUAL TABLE v USING fts5(x)",), "views, triggers or virtual tables", 0),
    "a computed column": (
        (
            "DROP TABLE messages",
            "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, "
            "data BLOB AS (zeroblob(900000000)))",
            "INSERT INTO messages(topic_id, timestamp) VALUES (1, 1)",
        ),
        "computed",
        0,
    ),
    "a default of megabytes": (
        (
            "DROP TABLE messages",
            "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER)",
            "INSERT INTO messages WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 100000) "
            "SELECT x, 1, x FROM c",
            f"ALTER TABLE messages ADD COLUMN data BLOB DEFAULT x'{'00' * 20_000}'",
        ),
        "more bytes than the file",
        0,
    ),
    "many tables": (tuple(f"CREATE TABLE t{i}(x)" for i in range(200)), "more than 100 tables", 0),
    "many topics": (
        (
            "INSERT INTO topics WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 100000) "
            "SELECT x + 9, '/t' || x, 'a/msg/B', 'cdr', '', '' FROM c",
        ),
        "more than 65536 topics",
        0,
    ),
    "names of many lines": (
        ("UPDATE topics SET name = '/x' || char(10) || char(27) || '[2J', type = 5",),
        "",
        200,
    ),
    "times without sense": (
        ("UPDATE messages SET timestamp = -9223372036854775807 - 1 WHERE id = 1",),
        "before 1970",
        200,
    ),
    "text in place of data": (("UPDATE messages SET data = CAST(data AS TEXT) WHERE id = 2",), "1 rows without", 199),
    "numbers in place of data": (("UPDATE messages SET data = 7, timestamp = 'x'",), "200 rows without", 0),
}


def interior(page, children, last):
    """An interior page of a table, whose cells lead to these pages."""
    cells = b"".join(struct.pack(">I", child) + bytes([i + 1]) for i, child in enumerate(children))
    places = [4096 - len(cells) + 5 * i for i in range(len(children))]
    head = struct.pack(">BHHHBI", 5, 0, len(children), places[0], 0, last)
    head += b"".join(struct.pack(">H", place) for place in places)
    return head.ljust(4096 - len(cells), b"\0") + cells


@pytest.mark.process
def test_sqlite(tmp_path):
    bags, counts = {}, {}
    for number, (name, (statements, says, count)) in enumerate(SQL.items()):
        data, _ = database(tmp_path / f"sql{number}", *statements)
        bags[name], counts[name] = (bytes(data), says), count
    data, roots = database(tmp_path / "pages")
    root = 4096 * (roots["messages"] - 1)
    for name, leads in (("itself", [roots["messages"]] * 100), ("its parent", [roots["messages"], 1] * 50)):
        changed = bytearray(data)
        changed[root : root + 4096] = interior(roots["messages"], leads, roots["messages"])
        bags[f"a page that leads to {name}"], counts[f"a page that leads to {name}"] = (bytes(changed), "damaged"), 200
    changed, leaf = bytearray(data), next(page for page in range(50, 99) if data[4096 * page] == 13)
    changed[root : root + 4096] = interior(roots["messages"], [leaf + 1] * 100, leaf + 1)
    bags["a leaf many times"] = (bytes(changed), "damaged")
    levels = [roots["messages"], *range(leaf + 2, leaf + 10), leaf + 1]
    for page, below in pairwise(levels):
        changed[4096 * (page - 1) : 4096 * page] = interior(page, [below] * 100, below)
    bags["a leaf 10^18 times"] = (bytes(changed), "its pages lead in circles")
    index = 4096 * (roots["timestamp_idx"] - 1)
    changed = bytearray(data)
    changed[index] = 2
    changed[index + 8 : index + 12] = struct.pack(">I", roots["timestamp_idx"])
    bags["an index that leads to itself"], counts["an index that leads to itself"] = (bytes(changed), "damaged"), 200
    found = read_apart(tmp_path, bags)
    assert {name: found[name] for name in counts} == counts


METADATA = "rosbag2_bagfile_information:\n  relative_file_paths: [{}]\n  topics_with_message_count: {}\n"
ALIASES = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))


@pytest.mark.parametrize(
    "metadata",
    [
        ALIASES + METADATA.format("*a29", "[]"),
        METADATA.format("&a [*a]", "[]"),
        "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 40)),
        "[" * 100_000,
        "{a: " * 100_000,
        METADATA.format("x" * (5 << 20), "[]"),
        METADATA.format(", ".join(["a"] * 210_000), "[]"),
        METADATA.format("bag.mcap", "[{topic_metadata: {name: /x, type: a}, message_count: " + "9" * 5000 + "}]"),
        METADATA.format("bag.mcap", "[{topic_metadata: {name: /x, type: a}, message_count: -1}]"),
        METADATA.format("bag.mcap", "[{topic_metadata: {name: [/x], type: {a: b}}, message_count: 1}]"),
        METADATA.format("bag.mcap", "{a: b}"),
        METADATA.format("{a: b}", "[]"),
        "- " * 40_000,
        "!!python/object/apply:os.system [echo]",
        "\0",
    ],
    ids=range(15),
)
def test_metadata_is_not_followed(tmp_path, metadata):
    with BagWriter(tmp_path / "bag") as bag:
        bag.write("/x", IMAGE, b"\0\1\0\0", 1)
    (tmp_path / "bag" / "metadata.yaml").write_text(metadata)
    with Bag(tmp_path / "bag") as bag:
        assert [m.log_ns for m in bag.messages()] == [1]
        assert bag.problem == "metadata.yaml is damaged"


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..", ".", "../outside.mcap", "/dev/zero"])
def test_metadata_names_nothing_outside(tmp_path, name):
    with BagWriter(tmp_path / "bag") as bag:
        bag.write("/x", IMAGE, b"\0\1\0\0", 1)
    (tmp_path / "bag" / "bag.mcap").rename(tmp_path / "outside.mcap")
    (tmp_path / "bag" / "metadata.yaml").write_text(METADATA.format(name, "[]"))
    with pytest.raises(SourceError, match="not a rosbag2 that can be read"):
        Bag(tmp_path / "bag")


def test_what_is_no_file(tmp_path):
    """A pipe, a device and a loop in place of a bag's file, or beside one of SQLite."""
    for name, make in (
        ("pipe", os.mkfifo),
        ("device", lambda path: path.symlink_to("/dev/zero")),
        ("loop", lambda path: path.symlink_to(path.name)),
        ("folder", os.mkdir),
    ):
        folder = tmp_path / name
        with BagWriter(folder) as bag:
            bag.write("/x", IMAGE, b"\0\1\0\0", 1)
        make(folder / "y.mcap")
        (folder / "metadata.yaml").write_text(METADATA.format(f"{name}.mcap, y.mcap", "[]"))
        with Bag(folder) as bag:
            assert len([*bag.messages()]) == 1 and bag.problem.startswith("y.mcap: ")
        for open_it in (Bag, open_source, bag_or_error):
            with pytest.raises(SourceError):
                open_it(str(folder / "y.mcap"))
    database(tmp_path / "db")
    for suffix in ("wal", "journal"):
        os.mkfifo(tmp_path / "db" / f"db.db3-{suffix}")
    with Bag(tmp_path / "db") as bag:
        assert len([*bag.messages()]) == 200


def bag_or_error(path):
    (Path(path).parent / "metadata.yaml").unlink()
    return Bag(path)


def test_a_file_of_holes(tmp_path):
    path = tmp_path / "x.mcap"
    path.write_bytes(BEGIN)
    os.truncate(path, 1 << 40)
    with pytest.raises(SourceError, match="nearly all are holes"):
        Bag(path)


DEFINITIONS = {
    "elements": "string[1000000000] x",
    "elements of a type": "a/C[1000000000] x\n" + "=" * 80 + "\nMSG: a/C\nint32 x",
    "elements of elements": "".join(f"a/C{i}[400] x\n{'=' * 80}\nMSG: a/C{i}\n" for i in range(50)) + "uint8 x",
    "no elements": "a/C[] x\n" + "=" * 80 + "\nMSG: a/C\nuint8[0] x",
    "less than none": "uint8[-5] x",
    "itself": "a/msg/B x",
    "a list of itself": "a/msg/B[] x",
    "a chain": "".join(f"a/C{i} x\n{'=' * 80}\nMSG: a/C{i}\n" for i in range(150)) + "uint8 x",
    "many fields": "".join(f"int32 a{i}\n" for i in range(3000)),
    "quotes": 'string x "\n' * 5000,
    "length": "#" * 70_000 + "\nint32 x",
    "no text": "\xff{",
}


@pytest.mark.parametrize("definition", DEFINITIONS.values(), ids=DEFINITIONS)
def test_definitions(tmp_path, definition):
    data = START + record(3, struct.pack("<H", 1) + text("a/msg/B") + text("ros2msg") + text(definition)) + TYPES
    (tmp_path / "x.mcap").write_bytes(data + message(1) + message(2) + END)
    with Bag(tmp_path / "x.mcap") as bag:
        for found in bag.messages():
            with pytest.raises(M2fError) as error:
                found.decode()
            assert str(error.value).isprintable() and len(str(error.value)) < 1500


def test_idl_is_not_parsed():
    types = Types({"a/msg/B": Definition("ros2idl", "module a { const long A = ((((((((1)))))))); };")})
    with pytest.raises(SourceError, match="it is in IDL"):
        types.decode(b"\0\1\0\0", "a/msg/B", "/x")


def test_what_this_package_reads_has_its_own_fields(tmp_path):
    """A definition of the file's for Legend, with other fields, changes nothing."""
    data = START + record(3, struct.pack("<H", 1) + text(LEGEND) + text("ros2msg") + text("int32 x")) + TYPES
    (tmp_path / "x.mcap").write_bytes(data + message(1, b"\0\1\0\0\0\0\0\0") + END)
    with Bag(tmp_path / "x.mcap") as bag:
        (found,) = bag.messages()
        assert found.type == LEGEND
        with pytest.raises(FrameError):
            found.decode()


@pytest.mark.parametrize("kind", ["../../x/msg/Y", "/etc/msg/passwd", "a/msg/../B", "a b/msg/C"])
def test_types_are_no_paths(kind):
    with pytest.raises(SourceError, match=r"no name of a type|no definition"):
        Types({}).decode(b"\0\1\0\0", kind, "/x")


def test_unpacking_ends():
    assert unpack(zstd.compress(b"x" * 1000) * 3, "zstd") == (b"x" * 3000, "")
    assert unpack(lz4.frame.compress(b"x" * 1000) * 3, "lz4", 5) == (b"x" * 3000, "")
    found, problem = unpack(zeros(300), "zstd")
    assert (len(found), problem) == (LARGEST, "it unpacks to more than 200 MiB")
    whole = bytes(random.Random(0).choices(range(8), k=300_000))
    for compress, name in ((zstd.compress, "zstd"), (lz4.frame.compress, "lz4")):
        packed = compress(whole)
        found, problem = unpack(packed[: len(packed) // 2], name)
        assert whole.startswith(found) and len(found) > 50_000 and problem


@pytest.mark.parametrize("seed", range(2))
def test_damage_of_every_kind(tmp_path, seed):
    """`python test/bags/bag_fuzz.py` does the same for as long as one likes."""
    rng, bags = random.Random(seed), seeds()
    for _ in range(60):
        data = rng.choice(bags)
        data = repacked(data, rng) if data.startswith(MAGIC) and rng.random() < 0.2 else mutated(data, rng)
        read_bag(data, tmp_path, rng.random() < 0.2)


def test_damage_leaves_a_whole_bag_alone(tmp_path):
    assert [read_bag(data, tmp_path) for data in seeds()] == [""] * len(seeds())
