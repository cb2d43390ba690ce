"""Sources: what is written as video, folder or bag comes back; what cannot be read is said in one line."""

import logging
import struct
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from m2f_ros import taxonomy
from m2f_ros.errors import M2fError, SourceError, TaxonomyError
from m2f_ros.replay import sources
from m2f_ros.replay.bag import BagWriter
from m2f_ros.replay.camera import CameraModel
from m2f_ros.replay.sources import open_source

RNG = np.random.default_rng(0)
IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"


def images(count, height=6, width=8):
    return RNG.integers(0, 256, (count, height, width, 3), np.uint8)


def refused(match, spec, **options):
    with pytest.raises(SourceError, match=match) as caught:
        open_source(str(spec), **options)
    assert "\n" not in str(caught.value)


@pytest.fixture
def folder(tmp_path):
    """Three PNGs whose natural order is not the alphabetical one; the images in that order beside it."""
    path = tmp_path / "images"
    path.mkdir()
    pictures = images(3)
    for name, picture in zip(("f1.png", "f2.PNG", "f10.png"), pictures, strict=True):
        cv2.imwrite(str(path / name), picture)
    return path, pictures


@pytest.fixture
def labels(tmp_path):
    """CamVid labels for the folder's images, the last one without."""
    path = tmp_path / "camvid_labels"
    path.mkdir()
    for name, value in (("f1", 3), ("f2", 11)):
        cv2.imwrite(str(path / f"{name}.png"), np.full((6, 8), value, np.uint8))
    return path


class TestFolder:
    def test_samples(self, folder):
        path, pictures = folder
        (path / "notes.txt").write_text("not an image")
        (path / ".hidden.png").write_text("not an image")
        source = open_source(str(path))
        assert (source.rate, source.length, source.taxonomy) == (10.0, 3, None)
        for _ in range(2):  # every iteration starts from the beginning
            samples = list(source)
            assert [s.name for s in samples] == ["f1", "f2", "f10"]
            assert [s.index for s in samples] == [0, 1, 2]
            assert [s.stamp_ns for s in samples] == [0, 100_000_000, 200_000_000]
            assert (np.stack([s.image for s in samples]) == pictures).all()
            assert {(s.encoding, s.frame_id, s.label, s.camera) for s in samples} == {("bgr8", "camera", None, None)}

    def test_rate_and_frames(self, folder):
        source = open_source(str(folder[0]), rate=4, frames=2)
        assert (source.rate, source.length) == (4, 2)
        assert [s.stamp_ns for s in source] == [0, 250_000_000]
        assert open_source(str(folder[0]), frames=9).length == 3

    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".bmp", ".tif", ".ppm", ".pgm"])
    def test_every_format_and_mixed_sizes(self, tmp_path, suffix):
        channels = () if suffix == ".pgm" else (3,)
        for i, shape in enumerate([(6, 8, *channels), (5, 7, *channels), (9, 4, *channels)]):
            cv2.imwrite(str(tmp_path / f"{i}{suffix}"), np.full(shape, 40 * i, np.uint8))
        found = list(open_source(str(tmp_path)))
        assert [s.image.shape for s in found] == [(6, 8, 3), (5, 7, 3), (9, 4, 3)]
        assert all(abs(int(s.image[0, 0, 0]) - 40 * s.index) <= 2 for s in found)

    def test_one_image_is_a_source_too(self, folder):
        assert [s.name for s in open_source(str(folder[0] / "f2.PNG"))] == ["f2"]

    def test_labels_are_matched_by_name_and_guessed_by_folder(self, folder, labels, caplog):
        with caplog.at_level(logging.WARNING):
            source = open_source(str(folder[0]), labels=str(labels))
        assert "1 of 3 frames have no label" in caplog.text
        assert source.taxonomy is taxonomy.get("camvid")
        values = [None if s.label is None else set(s.label.ravel().tolist()) for s in source]
        assert values == [{3}, {255}, None]

    def test_label_of_another_size_ends_the_iteration(self, folder, labels):
        cv2.imwrite(str(labels / "f2.png"), np.full((3, 4), 3, np.uint8))
        source = open_source(str(folder[0]), labels=str(labels), taxonomy="camvid")
        with pytest.raises(SourceError, match=r"f2\.png: the label is 4x3 but its image f2\.PNG is 8x6"):
            list(source)

    def test_a_damaged_image_is_skipped_and_labels_keep_their_images(self, folder, labels, caplog):
        (folder[0] / "f1.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
        source = open_source(str(folder[0]), labels=str(labels), taxonomy="camvid")
        caplog.clear()
        samples = list(source)
        assert "skipped a frame: f1.png is not a readable image" in caplog.text
        assert [(s.index, s.name) for s in samples] == [(0, "f2"), (1, "f10")]
        assert (samples[0].label == 255).all()

    def test_refusals(self, tmp_path, folder, labels):
        refused("does not exist; give a video", tmp_path / "absent")
        (tmp_path / "empty").mkdir()
        refused("no images .* and no rosbag2 in this folder", tmp_path / "empty")
        (tmp_path / "empty" / "a.png").write_text("no image")
        refused(r"no frame can be read \(a\.png is not a readable image\)", tmp_path / "empty")
        refused("TOPIC /image: not for .*: only a rosbag2 has topics", folder[0], topic="/image")
        refused("RATE 0: must be more than 0 Hz", folder[0], rate=0.0)
        refused("RATE nan: must be more than 0 Hz", folder[0], rate=float("nan"))
        refused("FRAMES 0: must be at least 1", folder[0], frames=0)
        refused("LABELS .*/nowhere: no such folder", folder[0], labels=str(tmp_path / "nowhere"))
        refused("TAXONOMY camvid: .* give LABELS as well", folder[0], taxonomy="camvid")
        with pytest.raises(TaxonomyError, match="unknown taxonomy 'nope'"):
            open_source(str(folder[0]), labels=str(folder[0]), taxonomy="nope") if False else taxonomy.get("nope")


def write_video(path, pictures, rate=25):
    """Lossless, with the given pictures and a gap of one frame after the first."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.width, stream.height = pictures[0].shape[1], pictures[0].shape[0]
        stream.pix_fmt = "bgr0"
        stream.codec_context.time_base = Fraction(1, rate)
        for i, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24").reformat(format="bgr0")
            frame.pts = i + (i > 0)
            frame.time_base = Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


class TestVideo:
    def test_samples_are_stamped_with_their_presentation_time(self, tmp_path):
        pictures = images(4, 32, 48)
        write_video(tmp_path / "drive.mkv", pictures)
        source = open_source(str(tmp_path / "drive.mkv"))
        assert source.rate == 25
        samples = list(source)
        assert [s.stamp_ns for s in samples] == [0, 80_000_000, 120_000_000, 160_000_000]
        assert [s.name for s in samples] == [f"drive_{i:06d}" for i in range(4)]
        assert (np.stack([s.image for s in samples]) == pictures).all()
        assert {s.encoding for s in samples} == {"bgr8"}

    def test_rate_and_frames(self, tmp_path):
        write_video(tmp_path / "drive.mp4", images(4, 32, 48))
        assert open_source(str(tmp_path / "drive.mp4")).length == 4
        source = open_source(str(tmp_path / "drive.mp4"), rate=2, frames=3)
        assert (source.rate, source.length) == (2, 3)
        assert [s.stamp_ns for s in source] == [0, 500_000_000, 1_000_000_000]

    @pytest.mark.parametrize(("matrix", "quarters"), [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
    def test_a_video_that_a_phone_turned_is_upright(self, tmp_path, matrix, quarters):
        path = tmp_path / "drive.mp4"
        pictures = images(2, 32, 48)
        write_video(path, pictures)
        data = bytearray(path.read_bytes())
        # ISO 14496-12: the 3x3 matrix begins 44 bytes into the track header; 16.16 and 2.30 fixed point.
        a, b, c, d = (value << 16 for value in matrix)
        struct.pack_into(">9i", data, data.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
        path.write_bytes(data)
        turned = [np.rot90(picture, quarters) for picture in pictures]
        assert (np.stack([s.image for s in open_source(str(path))]) == turned).all()

    @pytest.mark.parametrize("suffix", ["mkv", "mp4"])
    def test_labels_by_order(self, tmp_path, suffix):
        write_video(tmp_path / f"drive.{suffix}", images(3, 32, 48))
        folder = tmp_path / "labels"
        folder.mkdir()
        for i in (2, 8, 10):
            cv2.imwrite(str(folder / f"{i}.png"), np.full((32, 48), i, np.uint8))
        source = open_source(str(tmp_path / f"drive.{suffix}"), labels=str(folder), taxonomy="camvid")
        assert [int(s.label[0, 0]) for s in source] == [2, 8, 10]
        (folder / "10.png").unlink()
        refused("and the numbers differ", tmp_path / f"drive.{suffix}", labels=str(folder), taxonomy="camvid")

    def test_what_is_readable_of_a_truncated_video_is_used(self, tmp_path):
        path = tmp_path / "drive.mkv"
        write_video(path, images(10, 64, 64))
        whole = list(open_source(str(path)))
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
        part = list(open_source(str(path)))
        assert 2 <= len(part) < 10
        assert all((a.image == b.image).all() for a, b in zip(part[:-1], whole, strict=False))

    def test_refusals(self, tmp_path):
        path = tmp_path / "file.mp4"
        for content in (b"", b"some text\n" * 100, RNG.bytes(5000)):
            path.write_bytes(content)
            refused(r"file\.mp4: (not a video that FFmpeg can read|no frame can be read)", path)
        text = tmp_path / "notes.txt"
        text.write_text("hello\n" * 50)
        refused(r"notes\.txt: not a video", text)


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
        assert {(s.frame_id, s.encoding, s.camera) for s in samples} == {("cam", "bgr8", None)}
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
        assert sample.camera == CameraModel(8, 6, 500.0, 510.0, 4.0, 3.0, (0.1, 0.2))

    def test_images_without_a_stamp_have_the_time_of_recording(self, bag):
        path = bag(lambda write, types: write("/i", IMAGE, image_message(types, 0, images(1)[0]), 123))
        assert [s.stamp_ns for s in open_source(str(path))] == [123]

    def test_several_topics_have_to_be_chosen_from(self, bag):
        def fill(write, types):
            for topic, count in (("/left", 2), ("/right", 1)):
                for i in range(count):
                    write(topic, IMAGE, image_message(types, STAMPS[i], images(1)[0]))

        path = bag(fill)
        refused(r"several image topics, choose with TOPIC=: /left \(2\), /right \(1\)", path)
        refused(r"TOPIC /top: no such image topic in .*; there is /left \(2\), /right \(1\)", path, topic="/top")
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

    def test_label_topics_that_do_not_fit(self, bag):
        def fill(write, types):
            write("/image", IMAGE, image_message(types, 5, images(1)[0]))
            write("/small", IMAGE, image_message(types, 5, np.full((3, 4), 3, np.uint8), "mono8"))
            write("/colour", IMAGE, image_message(types, 5, images(1)[0]))

        path = bag(fill)
        options = {"topic": "/image", "taxonomy": "camvid"}
        refused("at stamp 5 the label is 4x3 but the image is 8x6", path, labels="/small", **options)
        refused(
            "LABELS /colour: not a topic of label images: its encoding is bgr8",
            path,
            labels="/colour",
            **options,
        )
        refused(r"LABELS /gt: no such image topic in .*; there is /colour \(1\)", path, labels="/gt", **options)
        refused("LABELS gt: for a rosbag2, name its topic", path, labels="gt", **options)
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
        for text in ("too little data: 8x60", "empty image: 0x6", "damaged message"):
            assert text in caplog.text

    def test_topics_that_are_not_of_a_camera(self, bag):
        depth = np.ones((6, 8), np.float32)
        path = bag(lambda write, types: write("/depth", IMAGE, image_message(types, 5, depth, "32FC1")))
        refused("encoding '32FC1' of the chosen topic is not that of a colour or grey camera", path)

    def test_compressed_images_that_are_none(self, bag):
        def fill(write, types):
            for data in (b"", b"no jpeg"):
                message = types.types[COMPRESSED](header(types, 7), "jpeg", np.frombuffer(data, np.uint8))
                write("/i/compressed", COMPRESSED, message)

        refused(r"no frame can be read \(compressed image of format 'jpeg' cannot be decoded\)", bag(fill))

    def test_bags_that_are_not_whole(self, bag, tmp_path):
        def fill(write, types):
            for stamp, picture in zip(STAMPS, images(4, 64, 64), strict=True):
                write("/i", IMAGE, image_message(types, stamp, picture))

        path = bag(fill)
        storage = path / "bag.mcap"
        (path / "metadata.yaml").rename(tmp_path / "metadata.yaml")
        assert open_source(str(path)).length == 4  # one storage file says it all
        (path / "second.mcap").write_bytes(b"")
        refused("a rosbag2 without metadata.yaml: run `ros2 bag reindex", path)
        storage.write_bytes(storage.read_bytes()[:20000])
        refused("not a whole rosbag2 .* `mcap recover` or `ros2 bag reindex`", storage)
        refused("not a whole rosbag2", path / "second.mcap")
        (path / "metadata.yaml").write_text("[")
        refused("not a whole rosbag2", path)
        (tmp_path / "x.db3").write_bytes(b"SQLite format 3\0 but no more")
        refused("not a whole rosbag2", tmp_path / "x.db3")

    def test_a_bag_without_images(self, bag):
        string = "std_msgs/msg/String"
        path = bag(lambda write, types: write("/s", string, types.types[string](data="x")))
        refused("no images .* in this rosbag2", path)


class FakeCapture:
    """Stands in for cv2.VideoCapture: three frames, then nothing."""

    released = 0
    opens = True

    def __init__(self, name):
        self.name, self.left, self.properties = name, 3, {cv2.CAP_PROP_FPS: 15.0}

    def isOpened(self):
        return self.opens

    def get(self, key):
        return self.properties[key]

    def set(self, key, value):
        self.properties[key] = value

    def read(self):
        self.left -= 1
        return (True, np.full((2, 3, 3), self.left, np.uint8)) if self.left >= 0 else (False, None)

    def release(self):
        FakeCapture.released += 1


class TestCamera:
    @pytest.fixture(autouse=True)
    def camera(self, monkeypatch):
        monkeypatch.setattr(sources.cv2, "VideoCapture", FakeCapture)
        monkeypatch.setattr(sources.Path, "exists", lambda path: True)
        monkeypatch.setattr(FakeCapture, "released", 0)

    def test_samples(self):
        source = open_source("/dev/video7", frames=2)
        assert (source.rate, source.length, source.name) == (15.0, 2, "/dev/video7")
        samples = list(source)
        assert [s.name for s in samples] == ["video7_000000", "video7_000001"]
        assert [s.image[0, 0, 0] for s in samples] == [2, 1]
        assert samples[0].stamp_ns == 0 <= samples[1].stamp_ns
        assert open_source("/dev/video7", rate=5).length is None

    def test_a_camera_that_is_unplugged(self):
        with pytest.raises(SourceError, match="/dev/video7: the camera gives no more frames"):
            list(open_source("/dev/video7"))
        assert FakeCapture.released == 2

    def test_a_camera_that_cannot_be_opened(self, monkeypatch):
        monkeypatch.setattr(FakeCapture, "opens", False)
        refused("/dev/video7: cannot be opened as a camera", "/dev/video7")

    def test_options_that_a_camera_has_not(self):
        refused("LABELS x: not for /dev/video7: a live camera has none", "/dev/video7", labels="x")


def test_a_camera_that_does_not_exist():
    refused("/dev/video999: no such camera; there is ", "/dev/video999")


class TestStreet:
    def test_samples(self):
        source = open_source("street:3", rate=5, frames=2)
        assert (source.rate, source.length, source.name) == (5, 2, "street:3")
        assert source.taxonomy is taxonomy.get("cityscapes")
        first, second = source
        assert (first.index, first.stamp_ns, first.encoding) == (0, 0, "rgb8")
        assert (second.index, second.stamp_ns) == (1, 200_000_000)
        assert first.image.shape == (480, 640, 3)
        assert first.label.shape == (480, 640)
        assert (first.camera.width, first.camera.height) == (640, 480)
        assert (first.image != second.image).any()
        assert open_source("street").length is None

    def test_refusals(self):
        refused("street:x: the seed behind street: must be a whole number", "street:x")
        refused("LABELS x: not for street: the simulated street has labels of its own", "street", labels="x")


def test_every_refusal_is_an_m2f_error():
    assert issubclass(SourceError, M2fError)
