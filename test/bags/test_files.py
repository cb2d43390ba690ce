"""Which files make up a bag, several bags or none, and bags as strangers have them: old, of ROS 1, half compressed."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from backports import zstd
from mcap.writer import Writer as McapWriter
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from m2f_ros import taxonomy
from m2f_ros.bags.files import bag_name, bag_path, is_bag
from m2f_ros.bags.messages import IMAGE, LEGEND, Messages
from m2f_ros.bags.reader import Bag, bags_in
from m2f_ros.bags.storage import convert
from m2f_ros.bags.writer import BagWriter
from m2f_ros.errors import FrameError, SourceError
from m2f_ros.sources.open import open_drive, open_source

TYPES = get_typestore(Stores.LATEST)
ROS1 = get_typestore(Stores.ROS1_NOETIC)
MAKE = Messages(TYPES)
SECOND = 10**9
START = 1_700_000_000 * SECOND
PICTURE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
SUFFIX = {"mcap": "mcap", "sqlite3": "db3"}


def image(stamp_ns=5, encoding="bgr8"):
    return MAKE.image(PICTURE, encoding, MAKE.header(stamp_ns, "cam"))


def cdr(stamp_ns=5):
    return bytes(TYPES.serialize_cdr(image(stamp_ns), IMAGE))


def record(folder, name, first_s, seconds=20.0, topic="/image", storage="mcap", count=5):
    """A file of a recording in a folder that has no metadata.yaml."""
    with BagWriter(folder.parent / "recorder", storage) as bag:
        for i in range(count):
            bag.write(topic, IMAGE, cdr(), START + round((first_s + i * seconds / (count - 1)) * SECOND))
    folder.mkdir(exist_ok=True)
    shutil.move(folder.parent / "recorder" / f"recorder.{SUFFIX[storage]}", folder / f"{name}.{SUFFIX[storage]}")
    shutil.rmtree(folder.parent / "recorder")


def times(path, topics=None):
    """Log times in seconds, and what is wrong with the bag."""
    with Bag(path) as bag:
        found = [(m.log_ns - START) / SECOND for m in bag.messages(topics)]
        return found, bag.problem


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
class TestSeveralRecordings:
    def test_parts_that_continue_each_other_are_one(self, tmp_path, storage):
        folder = tmp_path / "drive"
        for number, first in enumerate((0, 20.1, 40.05)):
            record(folder, f"drive_{number}", first, storage=storage)
        assert bags_in(folder) == []
        found, problem = times(folder)
        assert (len(found), found == sorted(found), problem) == (15, True, "")

    def test_a_little_overlap_is_put_in_order(self, tmp_path, storage):
        for number, first in enumerate((0, 19.9)):
            record(tmp_path / "drive", f"drive_{number}", first, storage=storage, count=401)
        found, problem = times(tmp_path / "drive")
        assert (len(found), found == sorted(found), problem) == (802, True, "")

    @pytest.mark.parametrize(("second", "topic"), [(0, "/image"), (10, "/image"), (3600, "/image"), (20.1, "/other")])
    def test_those_that_do_not_are_several(self, tmp_path, storage, second, topic):
        folder, suffix = tmp_path / "drives", SUFFIX[storage]
        record(folder, "monday", 0, storage=storage)
        record(folder, "tuesday", second, topic=topic, storage=storage)
        files = [folder / f"monday.{suffix}", folder / f"tuesday.{suffix}"]
        assert bags_in(folder) == files
        assert [len(times(file)[0]) for file in files] == [5, 5]
        with pytest.raises(SourceError, match=rf"2 recordings that .*: monday\.{suffix}; tuesday\.{suffix}; name one"):
            Bag(folder)

    def test_one_that_cannot_be_read_is_none_of_the_others(self, tmp_path, storage):
        folder, suffix = tmp_path / "drives", SUFFIX[storage]
        for name in ("monday", "tuesday"):
            record(folder, name, 0, storage=storage)
        (folder / f"empty.{suffix}").touch()
        assert bags_in(folder) == [folder / f"{name}.{suffix}" for name in ("empty", "monday", "tuesday")]
        (folder / f"tuesday.{suffix}").unlink()
        assert bags_in(folder) == []
        assert times(folder)[1] == f"empty.{suffix}: the file is empty"

    def test_beside_bags_in_folders(self, tmp_path, storage):
        folder, suffix = tmp_path / "drives", SUFFIX[storage]
        record(folder, "monday_0", 0, storage=storage)
        record(folder, "monday_1", 20.1, storage=storage)
        write(folder / "tuesday", storage)
        for name in ("tuesday", "wednesday"):
            (folder / f"{name}.bag").write_bytes(b"#ROSBAG V2.0\n")
        expected = (f"monday_0.{suffix},monday_1.{suffix}", "tuesday", "wednesday.bag")
        assert bags_in(folder) == [folder / name for name in expected]

    def test_in_a_folder_of_a_folder_of_bags(self, tmp_path, storage):
        suffix = SUFFIX[storage]
        for name in ("a", "b"):
            record(tmp_path / "drives" / "two", name, 0, storage=storage)
        record(tmp_path / "drives" / "one", "a", 0, storage=storage)
        assert bags_in(tmp_path / "drives") == [
            tmp_path / "drives" / name for name in ("one", f"two/a.{suffix}", f"two/b.{suffix}")
        ]

    def test_each_may_have_parts(self, tmp_path, storage):
        folder, suffix = tmp_path / "drives", SUFFIX[storage]
        for name, first in (("left", 0), ("right", 1)):
            for number in range(2):
                record(folder, f"{name}_{number}", first + number * 20.1, storage=storage)
        left, right = bags_in(folder)
        assert (left.name, right.name) == (f"left_0.{suffix},left_1.{suffix}", f"right_0.{suffix},right_1.{suffix}")
        assert is_bag(left) and (bag_name(left), bag_name(right)) == ("left_0", "right_0")
        found, problem = times(right)
        assert (len(found), found[0], found[-1], problem) == (10, 1.0, 41.1, "")
        assert open_drive(str(left)).length == open_source(str(left)).length == 10


def write(path, storage="mcap", count=5):
    with BagWriter(path, storage) as bag:
        for i in range(count):
            bag.write("/image", IMAGE, cdr(), START + i * SECOND)
    return path / f"{path.name}.{SUFFIX[storage]}"


def test_the_metadata_stands_for_its_folder(tmp_path):
    write(tmp_path / "drive")
    path = tmp_path / "drive" / "metadata.yaml"
    assert (bag_path(path), bag_name(path), is_bag(path)) == (tmp_path / "drive", "drive", True)
    assert len(times(path)[0]) == open_drive(str(path)).length == open_source(str(path)).length == 5
    (tmp_path / "metadata.yaml").write_text("{}")
    with pytest.raises(SourceError, match=r"not a rosbag2 that can be read \(metadata.yaml is damaged\)"):
        Bag(tmp_path / "metadata.yaml")


def test_a_bag_is_known_by_its_content(tmp_path):
    file = write(tmp_path / "drive").rename(tmp_path / "recording")
    assert is_bag(file) and len(times(file)[0]) == 5
    (tmp_path / "other").write_bytes(b"no bag")
    assert not is_bag(tmp_path / "other") and not is_bag(tmp_path / "nothing")


class TestMetadata:
    @pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
    def test_a_renamed_file_is_read(self, tmp_path, storage, caplog):
        file = write(tmp_path / "drive", storage)
        file.rename(file.with_stem("renamed"))
        assert times(tmp_path / "drive") == ([0, 1, 2, 3, 4], "")
        (said,) = caplog.messages
        assert f"renamed.{SUFFIX[storage]}: read in place of drive.{SUFFIX[storage]}" in said

    def test_a_file_that_it_does_not_list_is_left_out(self, tmp_path, caplog):
        file = write(tmp_path / "drive")
        shutil.copy(file, file.with_stem("copy"))
        assert times(tmp_path / "drive") == ([0, 1, 2, 3, 4], "")
        assert "copy.mcap: left out, since metadata.yaml does not list it" in caplog.text

    def test_paths_of_windows(self, tmp_path):
        write(tmp_path / "drive")
        path = tmp_path / "drive" / "metadata.yaml"
        path.write_text(path.read_text().replace("drive.mcap", r"C:\drive\drive.mcap"))
        assert times(tmp_path / "drive") == ([0, 1, 2, 3, 4], "")

    def test_more_others_than_are_missing(self, tmp_path):
        file = write(tmp_path / "drive")
        shutil.copy(file, file.with_stem("a"))
        file.rename(file.with_stem("b"))
        with pytest.raises(
            SourceError, match=r"metadata.yaml lists other files than there are \(a.mcap, b.mcap\): name"
        ):
            Bag(tmp_path / "drive")

    @pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
    def test_fewer_messages_than_it_counts(self, tmp_path, storage):
        write(tmp_path / "drive", storage)
        path = tmp_path / "drive" / "metadata.yaml"
        metadata = yaml.safe_load(path.read_text())
        (topic,) = metadata["rosbag2_bagfile_information"]["topics_with_message_count"]
        lost = {**topic, "topic_metadata": {**topic["topic_metadata"], "name": "/lost"}, "message_count": 3}
        topic["message_count"] = 7
        metadata["rosbag2_bagfile_information"]["topics_with_message_count"].append(lost)
        path.write_text(yaml.safe_dump(metadata))
        assert times(tmp_path / "drive", ["/image"])[1] == "/image: 5 of 7 messages are there"
        drive = open_drive(str(tmp_path / "drive"))
        assert drive.length == len([*drive.samples()]) == 5
        assert drive.problem == "/image: 5 of 7 messages are there; /lost: 0 of 3 messages are there"
        source = open_source(str(tmp_path / "drive"), topic="/image")
        assert len([*source]) == 5 and source.problem == "/image: 5 of 7 messages are there"
        with pytest.raises(SourceError, match=r"no frame can be read .*/lost: 0 of 3 messages are there"):
            open_source(str(tmp_path / "drive"), topic="/lost")


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
class TestHalfCompressed:
    @pytest.fixture
    def file(self, tmp_path, storage):
        """A bag's file, compressed once more, as a recorder that is killed meanwhile leaves it."""
        file = write(tmp_path / "drive", storage, 50)
        (tmp_path / "drive" / "metadata.yaml").unlink()
        Path(f"{file}.zstd").write_bytes(zstd.compress(file.read_bytes()))
        return file

    def test_both_are_there(self, file):
        assert times(file.parent) == (list(range(50)), "")

    @pytest.mark.parametrize("cut", ["", ".zstd"])
    def test_one_of_them_is_cut_off(self, file, cut):
        path = Path(f"{file}{cut}")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert times(file.parent) == (list(range(50)), "")

    def test_compressed_by_hand(self, file):
        Path(f"{file}.zstd").rename(f"{file}.zst")
        file.unlink()
        assert times(file.parent) == (list(range(50)), "")
        assert times(f"{file}.zst") == (list(range(50)), "")

    def test_metadata_with_the_other_name(self, file):
        write(file.parent.parent / "other", "mcap")
        metadata = (file.parent.parent / "other" / "metadata.yaml").read_text()
        (file.parent / "metadata.yaml").write_text(metadata.replace("other.mcap", f"{file.name}.zstd"))
        Path(f"{file}.zstd").unlink()
        assert times(file.parent) == (list(range(50)), "")


class TestRos1:
    def test_how_to_convert_it_is_said(self, tmp_path):
        path = tmp_path / "drive.bag"
        with Ros1Writer(path) as writer:
            connection = writer.add_connection("/image", IMAGE, typestore=ROS1)
            writer.write(connection, 1, ROS1.serialize_ros1(ros1_image(), IMAGE))
        says = rf"rosbags-convert --src {path} --dst {path.with_suffix('')}"
        assert is_bag(path) and bags_in(tmp_path) == [path]
        for opened in (Bag, open_drive, open_source):
            with pytest.raises(SourceError, match=says):
                opened(str(path))
        with pytest.raises(SourceError, match=says):
            open_source(str(tmp_path))

    def test_its_encoding_in_mcap_is_read(self, tmp_path):
        path = tmp_path / "x.mcap"
        definition = ROS1.generate_msgdef(IMAGE, ros_version=1)[0]
        message = ROS1.serialize_ros1(ros1_image(), IMAGE)
        write_mcap(path, "sensor_msgs/Image", "ros1msg", definition, "ros1", [bytes(message), b"short"])
        good, bad = open_drive(str(path)).samples()
        assert (good.header, good.frame.data.tolist()) == ((3, 4, "cam"), PICTURE.tolist())
        assert "a damaged message of 0 bytes" in bad.problem


def ros1_image():
    time = ROS1.types["builtin_interfaces/msg/Time"](3, 4)
    header = ROS1.types["std_msgs/msg/Header"](seq=258, stamp=time, frame_id="cam")
    return ROS1.types[IMAGE](header, 4, 6, "bgr8", 0, 18, PICTURE.ravel())


def write_mcap(path, kind, schema_encoding, definition, encoding, messages, topic="/image"):
    with open(path, "wb") as file:
        writer = McapWriter(file)
        writer.start("", "a test")
        schema = writer.register_schema(kind, schema_encoding, definition.encode())
        channel = writer.register_channel(topic, encoding, schema)
        for i, data in enumerate(messages):
            writer.add_message(channel, START + i, data, START + i)
        writer.finish()


@pytest.mark.parametrize(
    "kind",
    ["sensor_msgs/Image", "sensor_msgs/msg/Image", "sensor_msgs::msg::dds_::Image_", "sensor_msgs/msg/dds_/Image_"],
)
def test_old_names_of_types(tmp_path, kind):
    write_mcap(tmp_path / "x.mcap", kind, "ros2msg", TYPES.generate_msgdef(IMAGE)[0], "cdr", [cdr(7)])
    (sample,) = open_source(str(tmp_path / "x.mcap"))
    assert (sample.stamp_ns, sample.image.tolist()) == (7, PICTURE.tolist())
    with Writer(tmp_path / "bag", version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connection = writer.add_connection("/image", IMAGE, typestore=TYPES)
        writer.write(connection, START, cdr(7))
    import sqlite3

    with sqlite3.connect(tmp_path / "bag" / "bag.db3") as db:
        db.execute("UPDATE topics SET type = ?", (kind,))
    path = tmp_path / "bag" / "metadata.yaml"
    path.write_text(path.read_text().replace(IMAGE, kind))
    (sample,) = open_source(str(tmp_path / "bag"))
    assert (sample.stamp_ns, sample.image.tolist()) == (7, PICTURE.tolist())


VIDEO = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"


@pytest.mark.parametrize(
    ("kind", "encoding", "says"),
    [
        (VIDEO, "cdr", "is video, which is not read: play it through image_transport's republish"),
        ("foxglove.CompressedVideo", "protobuf", "is video, which is not read: decode it"),
        ("foxglove.RawImage", "protobuf", "is of a type in protobuf that is not read: convert it"),
        ("sensor_msgs/msg/Image", "json", "is of a type in json that is not read: convert it"),
    ],
)
def test_pictures_that_are_not_read(tmp_path, kind, encoding, says, caplog):
    write_mcap(tmp_path / "x.mcap", kind, "protobuf", "", encoding, [b"\0\1\0\0abcd"] * 3, "/front/video")
    for opened in (open_source, open_drive):
        with pytest.raises(SourceError) as error:
            opened(str(tmp_path / "x.mcap"))
        assert f"/front/video ({kind}, 3) {says}" in str(error.value)


def test_a_definition_that_cannot_be_read(tmp_path):
    """The definition of the environment is taken, where there is one."""
    store = get_typestore(Stores.LATEST)
    legend = store.serialize_cdr(Messages(store).legend(taxonomy.get("camvid")), LEGEND)
    write_mcap(tmp_path / "x.mcap", LEGEND, "ros2msg", "{", "cdr", [bytes(legend)], "/legend")
    with Bag(tmp_path / "x.mcap") as bag:
        (message,) = bag.messages()
        assert len(message.decode().classes) == 11
    write_mcap(tmp_path / "y.mcap", "a/msg/B", "ros2msg", "{", "cdr", [b"\0\1\0\0"])
    with Bag(tmp_path / "y.mcap") as bag:
        (message,) = bag.messages()
        with pytest.raises(SourceError, match=r"message type a/msg/B: no definition .*; that in the bag cannot be"):
            message.decode()


def test_pictures_beside_others_that_are_not_read(tmp_path, caplog):
    with open(tmp_path / "x.mcap", "wb") as file:
        writer = McapWriter(file)
        writer.start("ros2", "a test")
        for topic, kind, data in (
            ("/image", IMAGE, cdr()),
            ("/front/ffmpeg", VIDEO, b"\0\1\0\0"),
            ("/x", "a/msg/B", b""),
        ):
            schema = writer.register_schema(kind, "ros2msg", b"\xff no definition")
            writer.add_message(writer.register_channel(topic, "cdr", schema), START, data, START)
        writer.finish()
    assert len([*open_drive(str(tmp_path / "x.mcap")).samples()]) == 1
    (said,) = caplog.messages
    assert f"left out: /front/ffmpeg ({VIDEO}, 1) is video" in said
    with pytest.raises(SourceError, match=r"topic /front/ffmpeg: no such image topic .*is video"):
        open_source(str(tmp_path / "x.mcap"), topic="/front/ffmpeg")
    with Bag(tmp_path / "x.mcap") as bag:
        assert [m.topic for m in bag.messages()] == ["/image", "/front/ffmpeg", "/x"]


@pytest.mark.parametrize("encapsulation", [b"\0\6", b"\0\x07", b"\0\3", b"\xff\1"])
def test_another_encapsulation(tmp_path, encapsulation):
    other = encapsulation + cdr(9)[2:]
    write_mcap(tmp_path / "x.mcap", IMAGE, "ros2msg", "", "cdr", [other, cdr(9)])
    with Bag(tmp_path / "x.mcap") as bag:
        first, second = bag.messages()
        assert (first.stamp_ns, first.taken_ns, second.stamp_ns) == (0, START, 9)
        with pytest.raises(FrameError, match=rf"its encapsulation is 0x{encapsulation.hex()}"):
            first.decode()
    bad, good = open_drive(str(tmp_path / "x.mcap")).samples()
    assert (bad.frame, good.header.nanosec) == (None, 9)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a b.bag", "`rosbags-convert --src 'IN/a b.bag' --dst 'IN/a b'` makes a rosbag2 of it"),
        ("x", "rename it to x.bag, and `rosbags-convert --src IN/x.bag --dst IN/x` makes a rosbag2 of it"),
    ],
)
def test_the_command_for_a_bag_of_ros_1_can_be_typed(name, says):
    assert convert(Path("IN", name)) == says
