"""Bags that are read: every storage and compression, several files, and whatever is left of one that was cut off."""

import shutil
import sqlite3
import struct
from contextlib import closing
from functools import cache
from hashlib import sha1
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from m2f_ros import taxonomy
from m2f_ros.bags.messages import IMAGE, LEGEND, SEGMENTS, Messages
from m2f_ros.bags.reader import Bag, Message, Types
from m2f_ros.bags.storage import Topic
from m2f_ros.bags.writer import BagWriter
from m2f_ros.errors import FrameError, M2fError, SourceError

RNG = np.random.default_rng(0)
STORAGES = [("mcap", "none"), ("mcap", "chunk"), ("mcap", "message"), ("sqlite3", "none"), ("sqlite3", "message")]
SUFFIX = {"mcap": "mcap", "sqlite3": "db3"}
PICTURES = RNG.integers(0, 256, (12, 160, 240, 3), np.uint8)  # of 112 KiB: ten to a chunk of MCAP
ANYTHING = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def digest(data):
    return sha1(data).hexdigest()[:12]


def write(path, storage="mcap", compression="none", first=0, count=12):
    """A bag of pictures from this number on, and a legend: [(topic, log_ns, digest)] in the order of writing."""
    written = []
    with BagWriter(path, storage, compression) as bag:
        make = Messages(bag.types)

        def put(topic, kind, message, log_ns, **qos):
            if qos:
                bag.add_topic(topic, kind, **qos)
            data = bytes(bag.types.serialize_cdr(message, kind))
            bag.write(topic, kind, data, log_ns)
            written.append((topic, log_ns, digest(data)))

        if not first:
            put("/legend", LEGEND, make.legend(taxonomy.get("camvid")), 5, latched=True)
        for i in range(first, first + count):
            put("/image", IMAGE, make.image(PICTURES[i], "bgr8", make.header(10**9 + i, "front")), 10 + i)
    return written


def read(path, topics=None):
    """[(topic, log_ns, digest)] of a bag, and what is wrong with it."""
    with Bag(path) as bag:
        found = [(m.topic, m.log_ns, digest(m.data)) for m in bag.messages(topics)]
        return found, bag.problem


def left(path):
    """The same, nothing where nothing of it can be read."""
    try:
        return read(path)
    except SourceError as error:
        return [], str(error)


@cache
def whole(storage, compression):
    """Bytes of a bag's storage file, and the messages in it."""
    with TemporaryDirectory() as folder:
        written = write(Path(folder) / "bag", storage, compression)
        return (Path(folder) / "bag" / f"bag.{SUFFIX[storage]}").read_bytes(), written


@pytest.mark.parametrize(("storage", "compression"), STORAGES)
@pytest.mark.parametrize("as_file", [False, True])
def test_a_whole_bag(tmp_path, storage, compression, as_file):
    written = write(tmp_path / "bag", storage, compression)
    path = tmp_path / "bag"
    if as_file:
        path = next(p for p in path.iterdir() if p.suffix in (".mcap", ".db3"))
    assert read(path) == (written, "")
    assert read(path, ["/legend"]) == (written[:1], "")
    assert read(path, []) == ([], "")
    with Bag(path) as bag:
        assert bag.topics == {"/image": Topic(IMAGE, 12), "/legend": Topic(LEGEND, 1)}
        assert bag.image_topics() == {"/image": 12}
        for _ in range(2):  # from the beginning each time
            legend, *images = bag.messages()
            assert [c.name for c in legend.decode().classes] == list(taxonomy.get("camvid").names)
            assert [m.stamp_ns for m in images] == [10**9 + i for i in range(12)]
            assert images[3].type == IMAGE
            decoded = images[3].decode()
            assert decoded.header.frame_id == "front"
            assert (decoded.data == PICTURES[3].ravel()).all()


@pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_compressed_files_whole_and_cut_off(tmp_path, plugin):
    types = get_typestore(Stores.LATEST)
    writer = Writer(tmp_path / "bag", version=8, storage_plugin=plugin)
    writer.set_compression(CompressionMode.FILE, CompressionFormat.ZSTD)
    make = Messages(types)
    with writer:
        topic = writer.add_connection("/image", IMAGE, typestore=types)
        for i, picture in enumerate(PICTURES):
            message = make.image(picture, "bgr8", make.header(i, "front"))
            writer.write(topic, i, types.serialize_cdr(message, IMAGE))
    found, problem = read(tmp_path / "bag")
    assert ([log_ns for _, log_ns, _ in found], problem) == (list(range(12)), "")
    file = next(p for p in (tmp_path / "bag").iterdir() if p.suffix == ".zstd")
    data = file.read_bytes()
    file.write_bytes(data[: len(data) * 3 // 4])
    part, problem = read(tmp_path / "bag")
    assert 0 < len(part) < 12
    assert part == found[: len(part)]
    assert f"{file.name}: damaged or cut off" in problem


class TestSeveralFiles:
    @pytest.fixture(params=["mcap", "sqlite3"])
    def split(self, request, tmp_path):
        """A bag of three files, the last of them the tenth, as rosbag2 names them: its folder and messages."""
        folder, written = tmp_path / "bag", []
        folder.mkdir()
        suffix = SUFFIX[request.param]
        names = [f"bag_{i}.{suffix}" for i in (0, 9, 10)]
        for i, name in enumerate(names):
            written += write(tmp_path / f"part{i}", request.param, first=4 * i, count=4)
            shutil.move(tmp_path / f"part{i}" / f"part{i}.{suffix}", folder / name)
        metadata = yaml.safe_load((tmp_path / "part0" / "metadata.yaml").read_text())
        metadata["rosbag2_bagfile_information"]["relative_file_paths"] = names
        (folder / "metadata.yaml").write_text(yaml.safe_dump(metadata))
        return folder, written

    def test_by_metadata(self, split):
        folder, written = split
        assert read(folder) == (written, "")
        with Bag(folder) as bag:
            assert bag.topics["/image"].count == 12

    def test_without_metadata_by_their_numbers(self, split):
        folder, written = split
        (folder / "metadata.yaml").unlink()
        assert read(folder) == (written, "")
        (folder / "metadata.yaml").write_text("rosbag2_bagfile_information: {relative_file_paths: 3}")
        assert read(folder) == (written, "metadata.yaml is damaged")

    def test_a_missing_or_broken_file_takes_no_other_with_it(self, split):
        folder, written = split
        first, second, third = sorted(folder.glob("bag_*"), key=lambda p: int(p.stem[4:]))
        data = second.read_bytes()
        second.unlink()
        found, problem = read(folder)
        assert found == written[:5] + written[9:]
        assert problem == f"{second.name}: No such file or directory"
        second.write_bytes(b"")
        assert read(folder) == (written[:5] + written[9:], f"{second.name}: the file is empty")
        second.write_bytes(data[: len(data) * 3 // 4])
        found, problem = read(folder)
        assert [m for m in found if m in written[5:9]] == written[5 : len(found) - 4]
        assert len(found) > 9
        assert f"{second.name}: " in problem
        assert first.exists() and third.exists()


@cache
def places():
    """Where each message of the plain MCAP bag ends in its file."""
    data, _ = whole("mcap", "none")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "bag.mcap"
        path.write_bytes(data)
        with Bag(path) as bag:
            return [data.index(m.data) + len(m.data) for m in bag.messages()]


class TestCutOff:
    """A file that ends anywhere holds the messages that lie before."""

    @ANYTHING
    @given(end=st.integers(0, 10**9))
    def test_mcap_gives_every_message_that_is_whole(self, tmp_path, end):
        data, written = whole("mcap", "none")
        end %= len(data)
        (tmp_path / "x.mcap").write_bytes(data[:end])
        found, problem = left(tmp_path / "x.mcap")
        assert found == written[: sum(place <= end for place in places())]
        assert "\n" not in problem
        # Magic, and footer with magic: what lacks them was cut off.
        assert problem

    @pytest.mark.parametrize(("storage", "compression"), STORAGES[1:])
    @ANYTHING
    @given(end=st.integers(0, 10**9))
    def test_others_give_a_beginning(self, tmp_path, storage, compression, end):
        data, written = whole(storage, compression)
        end %= len(data)
        path = tmp_path / f"x.{ {'mcap': 'mcap', 'sqlite3': 'db3'}[storage] }"
        path.write_bytes(data[:end])
        found, problem = left(path)
        assert found == written[: len(found)]
        assert problem and "\n" not in problem
        # A chunk is given as far as its decompressor gets; SQLite writes the page of eight rows after them.
        if compression != "chunk":
            assert len(found) >= end / len(data) * len(written) - 8

    @pytest.mark.parametrize("size", [100, 3000, 6000])  # on a page of 4096 bytes: many, one, less than one
    def test_sqlite_gives_rows_that_its_root_does_not_lead_to(self, tmp_path, size):
        with BagWriter(tmp_path / "bag", "sqlite3") as bag:
            for i in range(2000):
                data = struct.pack("<II", 256, i) + bytes([i % 251]) * (size + i % 7)
                bag.write(f"/{i % 2}", IMAGE, data, i << i % 30)
        whole, _ = read(tmp_path / "bag")
        file = tmp_path / "bag" / "bag.db3"
        data = file.read_bytes()
        file.write_bytes(data[: len(data) * 6 // 10])
        found, problem = read(tmp_path / "bag")
        assert len(found) >= 1000  # of about 1200
        counts = [sum(topic == name for topic, *_ in found) for name in ("/0", "/1")]
        assert problem == (
            f"bag.db3: damaged or cut off: {len(data) * 6 // 10} of {len(data)} bytes are there; "
            f"/0: {counts[0]} of 1000 messages are there; /1: {counts[1]} of 1000 messages are there"
        )
        assert found == [message for message in whole if message in set(found)]

    @pytest.mark.parametrize(("storage", "compression"), STORAGES)
    @ANYTHING
    @given(at=st.integers(0, 10**9), garbage=st.binary(min_size=1, max_size=40))
    def test_damage_anywhere_is_an_error_of_this_package(self, tmp_path, storage, compression, at, garbage):
        data, _ = whole(storage, compression)
        # Half of them where the structure is, at the beginning and at the end.
        at = at // 2 % len(data) if at % 2 else (at // 2 % 4000 - 2000) % len(data)
        path = tmp_path / f"x.{ {'mcap': 'mcap', 'sqlite3': 'db3'}[storage] }"
        path.write_bytes((data[:at] + garbage + data[at + len(garbage) :])[: len(data)])
        try:
            with Bag(path) as bag:
                for message in bag.messages():
                    try:
                        message.decode()
                    except M2fError as error:
                        assert "\n" not in str(error)
        except SourceError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("damage", ["zeroed", "entries missing"])
def test_a_damaged_index_of_sqlite(tmp_path, damage):
    with BagWriter(tmp_path / "bag", "sqlite3") as bag:
        for i in range(3000):
            bag.write("/x", IMAGE, struct.pack("<II", 256, i), i)
    (tmp_path / "bag" / "metadata.yaml").unlink()
    file = tmp_path / "bag" / "bag.db3"
    data = bytearray(file.read_bytes())
    leaves = [at for at in range(0, len(data), 4096) if data[at] == 10]
    at = leaves[len(leaves) // 2]
    if damage == "zeroed":
        data[at : at + 4096] = bytes(4096)
    else:
        data[at + 3 : at + 5] = b"\0\1"  # the number of its cells
    file.write_bytes(data)
    found, problem = read(file)
    assert [log_ns for _, log_ns, _ in found] == sorted({log_ns for _, log_ns, _ in found})
    if damage == "zeroed":
        assert len(found) == 3000 and problem == "bag.db3: damaged: database disk image is malformed"
    else:
        assert problem == f"/x: {len(found)} of 3000 messages are there"


def test_a_row_of_sqlite_that_cannot_be_read_costs_no_other(tmp_path):
    with BagWriter(tmp_path / "bag", "sqlite3") as bag:
        for i in range(20):
            bag.write("/x", IMAGE, struct.pack("<II", 256, i) + bytes([i]) * 20000, i)
    file = tmp_path / "bag" / "bag.db3"
    data = bytearray(file.read_bytes())
    at = data.index(bytes([7]) * 4000) // 4096 * 4096
    data[at : at + 4] = struct.pack(">I", 1 << 30)  # the next page
    file.write_bytes(data)
    found, problem = read(tmp_path / "bag")
    assert [log_ns for _, log_ns, _ in found] == [i for i in range(20) if i != 7]
    assert problem == "bag.db3: damaged: database disk image is malformed; /x: 19 of 20 messages are there"


@pytest.mark.parametrize(
    "change, found, problem",
    [
        ("topic_id = 99", 1, "it has messages of topics that it does not name"),
        ("timestamp = 'x'", 2, "damaged or cut off: 1 rows without log time or data"),
        ("data = 5", 2, "damaged or cut off: 1 rows without log time or data"),
    ],
)
def test_rows_of_sqlite_that_are_no_message_are_said(tmp_path, change, found, problem):
    with BagWriter(tmp_path / "bag", "sqlite3") as bag:
        for i in range(3):
            bag.write("/x", IMAGE, struct.pack("<II", 256, i), i)
    file = tmp_path / "bag" / "bag.db3"
    with closing(sqlite3.connect(file)) as db:
        db.execute("DELETE FROM metadata")
        db.execute(f"UPDATE messages SET {change} WHERE id {'>' if found == 1 else '='} {found}")
        db.commit()
    assert [log_ns for _, log_ns, _ in read(file)[0]] == [0, 2][:found]
    assert read(file)[1] == f"bag.db3: {problem}"


def test_a_log_that_a_killed_writer_left_is_read(tmp_path):
    written = write(tmp_path / "whole", "sqlite3")
    db = sqlite3.connect(tmp_path / "whole" / "whole.db3", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("DELETE FROM metadata")
    (tmp_path / "bag").mkdir()
    db.execute("INSERT INTO messages SELECT id + 100, topic_id, timestamp + 100, data FROM messages WHERE id = 2")
    for suffix in ("db3", "db3-wal"):
        shutil.copy(tmp_path / "whole" / f"whole.{suffix}", tmp_path / "bag" / f"bag_0.{suffix}")
    db.close()
    found, problem = read(tmp_path / "bag")
    assert found == [*written, ("/image", 110, written[1][2])]
    assert problem == "no metadata.yaml: the recording was not finished"


def test_messages_are_in_log_order(tmp_path):
    for storage in ("mcap", "sqlite3"):
        with BagWriter(tmp_path / storage, storage) as bag:
            make = Messages(bag.types)
            for topic, log_ns in (("/a", 3), ("/b", 1), ("/a", 2), ("/b", 4)):
                bag.write(topic, IMAGE, make.image(PICTURES[0], "bgr8", make.header(9, "")), log_ns)
        found, _ = read(tmp_path / storage)
        assert [(topic, log_ns) for topic, log_ns, _ in found] == [("/b", 1), ("/a", 2), ("/a", 3), ("/b", 4)]


def test_types_come_from_the_bag(tmp_path, monkeypatch):
    monkeypatch.setenv("AMENT_PREFIX_PATH", "")
    types = get_typestore(Stores.LATEST)
    types.register(get_types_from_msg("std_msgs/Header header\nuint8 x\n", "elsewhere/msg/Own"))
    own = types.types["elsewhere/msg/Own"](Messages(types).header(7, "front"), 3)
    for plugin in (StoragePlugin.MCAP, StoragePlugin.SQLITE3):
        path = tmp_path / plugin.name
        with Writer(path, version=9, storage_plugin=plugin) as writer:
            topic = writer.add_connection("/own", "elsewhere/msg/Own", typestore=types)
            writer.write(topic, 1, types.serialize_cdr(own, "elsewhere/msg/Own"))
        with Bag(path) as bag:
            (message,) = bag.messages()
            assert (message.decode().x, message.stamp_ns) == (3, 7)
    unknown = Message("/x", "nowhere/msg/X", 0, b"\0\1\0\0", Types({}))
    with pytest.raises(SourceError, match="message type nowhere/msg/X: no definition"):
        unknown.decode()


def test_stamps_in_either_byte_order():
    types = Types({})
    for order, representation in (("<", b"\0\1\0\0"), (">", b"\0\0\0\0")):
        data = representation + struct.pack(f"{order}iI", 3, 5)
        assert Message("/x", IMAGE, 0, data, types).stamp_ns == 3_000_000_005
    assert Message("/x", IMAGE, 0, b"\0\1", types).stamp_ns == 0


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200), kind=st.sampled_from([IMAGE, SEGMENTS, LEGEND, "sensor_msgs/msg/CameraInfo"]))
def test_no_message_breaks_decoding(data, kind):
    try:
        Message("/x", kind, 0, data, TYPES).decode()
    except FrameError as error:
        assert str(error).startswith(f"/x: a damaged message of {len(data)} bytes")


TYPES = Types({})


def test_what_is_no_bag(tmp_path):
    for path, match in ((tmp_path, "it has no .mcap or .db3 file"), (tmp_path / "x.mcap", "neither MCAP nor SQLite")):
        (tmp_path / "x.mcap").write_bytes(b"no bag at all") if path.suffix else None
        with pytest.raises(SourceError, match=f"not a rosbag2 that can be read .*{match}"):
            Bag(path)
