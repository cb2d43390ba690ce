"""A bag's camera as a source: pictures, headers, camera_info and labels come back, damage is said in one line."""

import cv2
import numpy as np
import pytest

from m2f_ros import taxonomy
from m2f_ros.bags.messages import Messages
from m2f_ros.bags.writer import BagWriter
from m2f_ros.errors import SourceError
from m2f_ros.frame.calibration import Calibration
from m2f_ros.sources.open import open_source

RNG = np.random.default_rng(0)
IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"


def images(count, height=6, width=8):
    return RNG.integers(0, 256, (count, height, width, 3), np.uint8)


def refused(match, spec, **options):
    with pytest.raises(SourceError, match=match) as caught:
        open_source(str(spec), **options)
    assert "\n" not in str(caught.value)


def header(types, stamp_ns, frame_id="cam"):
    time = types.types["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return types.types["std_msgs/msg/Header"](time, frame_id)


def image_message(types, stamp_ns, image, encoding="bgr8", padding=0, bigendian=0):
    rows = image.reshape(image.shape[0], -1).view(np.uint8)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=99)
    return types.types[IMAGE](
        header(types, stamp_ns), *image.shape[:2], encoding, bigendian, padded.shape[1], padded.ravel()
    )


STAMPS = [1_000_000_000 + i * 50_000_000 for i in range(4)]


@pytest.fixture
def bag(tmp_path):
    """Writes a bag: bag(lambda write, types: …) -> its folder."""

    def write_bag(fill, storage="mcap"):
        with BagWriter(tmp_path / "bag", storage) as writer:

            def write(topic, msgtype, message, stamp_ns=10**18):
                writer.write(topic, msgtype, message, stamp_ns)

            fill(write, writer.types)
        return tmp_path / "bag"

    return write_bag


class TestBag:
    @pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
    @pytest.mark.parametrize("as_file", [False, True])
    def test_samples_carry_the_headers(self, bag, storage, as_file):
        pictures = images(4)

        def fill(write, types):
            for stamp, picture in zip(STAMPS, pictures, strict=True):
                write("/cam/image", IMAGE, image_message(types, stamp, picture, padding=5))

        path = bag(fill, storage)
        if as_file:
            path = next(p for p in path.iterdir() if p.suffix in (".mcap", ".db3"))
        source = open_source(str(path))
        assert (source.rate, source.length) == (20.0, 4)
        samples = list(source)
        assert [s.stamp_ns for s in samples] == STAMPS
        assert {(s.frame_id, s.encoding, s.calibration) for s in samples} == {("cam", "bgr8", None)}
        assert (np.stack([s.image for s in samples]) == pictures).all()
        assert open_source(str(path), rate=3, frames=2).length == 2
        assert open_source(str(path), rate=3).rate == 3

    @pytest.mark.parametrize(
        ("encoding", "shape"),
        [
            ("rgb8", (6, 8, 3)),
            ("bgra8", (6, 8, 4)),
            ("mono8", (6, 8)),
            ("bayer_rggb8", (6, 8)),
            ("yuv422", (6, 8, 2)),
        ],
    )
    def test_encodings_pass_unchanged(self, bag, encoding, shape):
        picture = RNG.integers(0, 256, shape, np.uint8)
        path = bag(lambda write, types: write("/i", IMAGE, image_message(types, 5, picture, encoding, padding=3)))
        (sample,) = open_source(str(path))
        assert sample.encoding == encoding
        assert sample.image.shape == shape
        assert (sample.image == picture).all()

    def test_compressed_images_and_camera_info(self, bag):
        picture = images(1)[0]

        def fill(write, types):
            data = cv2.imencode(".png", picture)[1].ravel()
            write("/cam/image/compressed", COMPRESSED, types.types[COMPRESSED](header(types, 7), "png", data))
            info = types.types["sensor_msgs/msg/CameraInfo"]
            roi = types.types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
            k, zeros = np.array([500.0, 0, 4, 0, 510, 3, 0, 0, 1]), np.zeros(12)
            message = info(
                header(types, 7),
                6,
                8,
                "plumb_bob",
                np.array([0.1, 0.2]),
                k,
                np.eye(3).ravel(),
                zeros,
                0,
                0,
                roi,
            )
            write("/cam/camera_info", "sensor_msgs/msg/CameraInfo", message)

        (sample,) = open_source(str(bag(fill)))
        assert sample.encoding == "bgr8"
        assert (sample.image == picture).all()
        k, identity = (500, 0, 4, 0, 510, 3, 0, 0, 1), (1, 0, 0, 0, 1, 0, 0, 0, 1)
        assert sample.calibration == Calibration(8, 6, "plumb_bob", (0.1, 0.2), k, identity, (0,) * 12, frame_id="cam")

    def test_it_is_opened_once(self, bag, opened_bags):
        path = bag(lambda write, types: write("/i", IMAGE, image_message(types, 5, images(1)[0])))
        source = open_source(str(path))
        assert len(list(source)) == len(list(source)) == 1 and opened_bags == [path]

    def test_images_without_a_stamp_have_the_time_of_recording(self, bag):
        path = bag(lambda write, types: write("/i", IMAGE, image_message(types, 0, images(1)[0]), 123))
        assert [s.stamp_ns for s in open_source(str(path))] == [123]

    def test_the_rate_where_stamps_stand_still(self, bag):
        def fill(write, types):
            for stamp in STAMPS:
                write("/i", IMAGE, image_message(types, 5, images(1)[0]), stamp)

        assert open_source(str(bag(fill))).rate == 20

    def test_several_topics_have_to_be_chosen_from(self, bag):
        def fill(write, types):
            for topic, count in (("/left", 2), ("/right", 1)):
                for i in range(count):
                    write(topic, IMAGE, image_message(types, STAMPS[i], images(1)[0]))

        path = bag(fill)
        refused(r"several image topics, choose one with --topic, .*: /left \(2\), /right \(1\)", path)
        refused(r"topic /top: no such image topic in .*; there is /left \(2\), /right \(1\)", path, topic="/top")
        assert open_source(str(path), topic="/left").length == 2

    @pytest.mark.parametrize("dtype", [np.uint8, np.dtype("<u2"), np.dtype(">u2")])
    def test_labels_from_a_topic_by_stamp(self, bag, dtype, caplog):
        encoding = "mono8" if dtype == np.uint8 else "mono16"

        def fill(write, types):
            # Labels of the first and third frame, and one that belongs to no frame, before all the images.
            for stamp, value in ((STAMPS[0], 1), (STAMPS[1] + 1, 2), (STAMPS[2], 11)):
                ids = np.full((6, 8), value, dtype)
                big = int(np.dtype(dtype).byteorder == ">")
                write("/gt", IMAGE, image_message(types, stamp, ids, encoding, padding=2, bigendian=big))
            for stamp, picture in zip(STAMPS, images(4), strict=True):
                write("/image", IMAGE, image_message(types, stamp, picture))

        source = open_source(str(bag(fill)), labels="/gt", taxonomy="camvid")
        assert source.taxonomy is taxonomy.get("camvid")
        assert [None if s.label is None else s.label[0, 0] for s in source] == [1, None, 255, None]
        assert {s.label.shape for s in source if s.label is not None} == {(6, 8)}
        assert "2 of 4 frames have no label" in caplog.text

    @pytest.mark.parametrize(
        ("shift", "damage", "problem"),
        [
            (0, "", ""),
            (1, "", "no stamp of a label of /gt is that of an image"),
            (0, "mono9", "1 labels of /gt are damaged"),
        ],
    )
    def test_labels_that_were_asked_for_and_are_lost_are_a_problem(self, bag, shift, damage, problem):
        def fill(write, types):
            for i, picture in enumerate(images(2)):
                ids = np.full((6, 8), 1, np.uint8)
                encoding = damage if damage and i else "mono8"
                write("/gt", IMAGE, image_message(types, STAMPS[i] + shift, ids, encoding))
                write("/image", IMAGE, image_message(types, STAMPS[i], picture))

        source = open_source(str(bag(fill)), topic="/image", labels="/gt", taxonomy="camvid")
        assert len(list(source)) == 2 and source.problem == problem

    @pytest.mark.parametrize("encoding, unknown", [("mono8", 12), ("mono16", 300)])
    def test_an_id_that_the_taxonomy_has_not_is_an_error(self, bag, encoding, unknown):
        def fill(write, types):
            for stamp, value, picture in zip(STAMPS, (11, unknown), images(2), strict=False):
                ids = np.full((6, 8), value, np.uint8 if encoding == "mono8" else np.uint16)
                write("/gt", IMAGE, image_message(types, stamp, ids, encoding))
                write("/image", IMAGE, image_message(types, stamp, picture))

        samples = iter(open_source(str(bag(fill)), labels="/gt", taxonomy="camvid"))
        assert next(samples).label[0, 0] == 255
        with pytest.raises(
            SourceError, match=f"/gt at stamp {STAMPS[1]}: holds the id {unknown}, which camvid has not"
        ):
            next(samples)

    def test_fewer_labels_than_the_bag_counts(self, bag):
        def fill(write, types):
            write("/image", IMAGE, image_message(types, 5, images(1)[0]))
            for stamp in (5, 6):
                write("/gt", IMAGE, image_message(types, stamp, np.ones((6, 8), np.uint8), "mono8"))

        path = bag(fill)
        metadata = (path / "metadata.yaml").read_text()
        (path / "metadata.yaml").write_text(metadata.replace("message_count: 2", "message_count: 3"))
        source = open_source(str(path), labels="/gt", taxonomy="camvid")
        assert [sample.label.max() for sample in source] == [1]
        assert source.problem == "/gt: 2 of 3 messages are there"

    def test_label_topics_that_do_not_fit(self, bag):
        def fill(write, types):
            write("/image", IMAGE, image_message(types, 5, images(1)[0]))
            write("/small", IMAGE, image_message(types, 5, np.full((3, 4), 3, np.uint8), "mono8"))
            write("/colour", IMAGE, image_message(types, 5, images(1)[0]))

        path = bag(fill)
        options = {"topic": "/image", "taxonomy": "camvid"}
        refused("at stamp 5 the label is 4x3 but the image is 8x6", path, labels="/small", **options)
        refused(
            "labels /colour: not a topic of label images: its encoding is 'bgr8'",
            path,
            labels="/colour",
            **options,
        )
        refused(r"labels /gt: no such image topic in .*; there is /colour \(1\)", path, labels="/gt", **options)
        refused("labels gt: for a rosbag2, name its topic", path, labels="gt", **options)
        refused("its ids 3 mean is not plain", path, labels="/small", topic="/image")

    def test_damaged_messages_are_skipped(self, bag, caplog):
        def fill(write, types):
            good = image_message(types, 9, images(1)[0])
            raw = bytes(types.serialize_cdr(good, IMAGE))
            short = image_message(types, 5, images(1)[0])
            short.height = 60
            empty = image_message(types, 6, images(1)[0])
            empty.width = 0
            for message in (short, empty, raw[:30], raw[:-20], b"", good):
                write("/i", IMAGE, message)

        samples = list(open_source(str(bag(fill))))
        assert [(s.index, s.stamp_ns) for s in samples] == [(0, 9)]
        for text in (
            "data has 144 bytes: 60 rows",
            "the image is empty: width 0, height 6",
            "/i: a damaged message of 30",
        ):
            assert text in caplog.text

    def test_topics_that_are_not_of_a_camera(self, bag):
        depth = np.ones((6, 8), np.float32)
        path = bag(lambda write, types: write("/depth", IMAGE, image_message(types, 5, depth, "32FC1")))
        refused(
            r"bag: no images of a camera in this rosbag2; left out .*: /depth \(32FC1\); they cannot be taken", path
        )
        says = "/depth: encoding '32FC1' is not that of a colour or grey camera; choose another topic"
        refused(says, path, topic="/depth")

    def test_compressed_images_that_are_none(self, bag):
        def fill(write, types):
            for data in (b"", b"no jpeg"):
                message = types.types[COMPRESSED](header(types, 7), "jpeg", np.frombuffer(data, np.uint8))
                write("/i/compressed", COMPRESSED, message)

        refused(
            r"\(2 frames cannot be read, the first: /i/compressed at 7: the picture is empty; its format is 'jpeg'\)",
            bag(fill),
        )

    def test_what_is_left_of_a_bag_is_used_and_the_rest_is_said(self, bag, caplog):
        pictures = images(4, 64, 64)

        def fill(write, types):
            for stamp, picture in zip(STAMPS, pictures, strict=True):
                write("/i", IMAGE, image_message(types, stamp, picture), stamp)

        path = bag(fill)
        (path / "metadata.yaml").unlink()
        assert open_source(str(path)).length == 4  # one storage file says it all
        assert not caplog.text
        storage = path / "bag.mcap"
        storage.write_bytes(storage.read_bytes()[:30000])
        source = open_source(str(path))
        samples = list(source)
        assert [s.stamp_ns for s in samples] == STAMPS[:2]
        assert (np.stack([s.image for s in samples]) == pictures[:2]).all()
        assert "bag.mcap: cut off after 30000 bytes" in source.problem
        assert source.problem in caplog.text

    def test_bags_of_which_nothing_is_left(self, bag, tmp_path):
        path = bag(lambda write, types: write("/i", IMAGE, image_message(types, 5, images(1)[0])))
        (path / "bag.mcap").write_bytes(b"")
        refused(r"bag: not a rosbag2 that can be read \(bag.mcap: the file is empty\)", path)
        (path / "bag.mcap").unlink()
        refused(r"bag: not a rosbag2 that can be read \(bag.mcap: No such file or directory\)", path)
        (path / "metadata.yaml").write_text("[")
        refused(r"not a rosbag2 that can be read \(metadata.yaml is damaged\)", path)
        (tmp_path / "x.db3").write_bytes(b"SQLite format 3\0 but no more")
        refused(r"x.db3: not a rosbag2 that can be read \(x.db3: file is not a database\)", tmp_path / "x.db3")

    def test_mixed_encodings_end_the_iteration(self, bag):
        def fill(write, types):
            write("/i", IMAGE, image_message(types, STAMPS[0], images(1)[0]))
            write("/i", IMAGE, image_message(types, STAMPS[1], images(1)[0], "rgb8"))

        source = open_source(str(bag(fill)))
        with pytest.raises(SourceError, match=r"/i: mixed encodings: bgr8 at first, but rgb8 at stamp 1\.050000000"):
            list(source)

    def test_ground_truth_beside_the_camera_needs_no_options(self, bag):
        legend_type = "m2f_ros/msg/Legend"

        def fill(write, types):
            write("/cam/ground_truth", IMAGE, image_message(types, 5, np.full((6, 8), 3, np.uint8), "mono8"))
            write("/cam/ground_truth/legend", legend_type, Messages(types).legend(taxonomy.get("camvid")))
            write("/cam/image", IMAGE, image_message(types, 5, images(1)[0]))

        path = bag(fill)
        source = open_source(str(path))
        assert source.taxonomy == taxonomy.get("camvid").with_train_ids()
        assert [s.label.tolist() for s in source] == [np.full((6, 8), 3).tolist()]
        assert next(iter(open_source(str(path), topic="/cam/ground_truth"))).encoding == "mono8"

    def test_a_bag_without_images(self, bag):
        string = "std_msgs/msg/String"
        path = bag(lambda write, types: write("/s", string, types.types[string](data="x")))
        refused("no images .* in this rosbag2", path)
