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
from m2f_ros.sources import files
from m2f_ros.sources import open as sources
from m2f_ros.sources.open import open_source

RNG = np.random.default_rng(0)


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
            assert {(s.encoding, s.frame_id, s.label, s.calibration) for s in samples} == {
                ("bgr8", "camera", None, None)
            }

    def test_rate_and_frames(self, folder):
        source = open_source(str(folder[0]), rate=4, frames=2)
        assert (source.rate, source.length) == (4, 2)
        assert [s.stamp_ns for s in source] == [0, 250_000_000]
        assert open_source(str(folder[0]), frames=9).length == 3

    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".bmp", ".tif", ".webp", ".ppm", ".pgm"])
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
        assert "skipped a frame: f1.png is not a readable image: PNG is cut off" in caplog.text
        assert source.problem == "f1.png is not a readable image: PNG is cut off after 15 bytes"
        # Those behind it keep their times, too.
        assert [(s.index, s.name, s.stamp_ns) for s in samples] == [(0, "f2", 100_000_000), (1, "f10", 200_000_000)]
        assert (samples[0].label == 255).all()

    def test_how_many_are_damaged_is_said(self, folder):
        for name in ("f2.PNG", "f10.png"):
            whole = (folder[0] / name).read_bytes()
            (folder[0] / name).write_bytes(whole[:60] + b"\0\0" + whole[62:])
        source = open_source(str(folder[0]))
        for _ in range(2):
            assert [s.name for s in source] == ["f1"]
            assert source.problem.startswith(
                "2 frames cannot be read, the first: f2.PNG is not a readable image: PNG of"
            )

    def test_labels_by_order_are_a_guess_that_is_said(self, folder, tmp_path, caplog):
        path = tmp_path / "labels"
        path.mkdir()
        for name in ("a.png", "b.png", "c.png"):
            cv2.imwrite(str(path / name), np.full((6, 8), 3, np.uint8))
        open_source(str(folder[0]), labels=str(path), taxonomy="camvid")
        assert "no name is that of a frame: matched in their order, a.png to f1 and so on" in caplog.text
        (path / "c.png").unlink()
        refused("none of its 2 files .* and the numbers differ", folder[0], labels=str(path), taxonomy="camvid")

    @pytest.mark.parametrize(("bits", "setting"), [(10, 0), (12, 0), (16, 0), (12, 12)])
    def test_fewer_of_16_bits(self, tmp_path, bits, setting, caplog):
        ramp = np.arange(256, dtype=np.uint16).reshape(16, 16)
        low = np.random.default_rng(0).integers(0, 1 << (bits - 8), (16, 16), np.uint16)
        for i in range(2):
            cv2.imwrite(str(tmp_path / f"{i}.png"), ramp << (bits - 8) | low)
        found = list(open_source(str(tmp_path), bit_depth=setting))
        assert all((s.image == ramp[..., None]).all() for s in found)
        said = [r.getMessage() for r in caplog.records]
        line = f"{tmp_path}: {bits} of the 16 bits are taken as used, by the values so far; bit_depth sets another"
        assert said == ([] if setting else [line])

    def test_refusals(self, tmp_path, folder, labels):
        refused("does not exist; give a video", tmp_path / "absent")
        (tmp_path / "empty").mkdir()
        refused("no images .* and no rosbag2 in this folder", tmp_path / "empty")
        (tmp_path / "empty" / "a.png").write_text("no image")
        refused(
            r"can be read \(a\.png is not a readable image: it is none of png, jpg, .*webp.*\)",
            tmp_path / "empty",
        )
        refused("topic /image: not for .*: only a rosbag2 has topics", folder[0], topic="/image")
        refused("rate 0: must be more than 0 Hz", folder[0], rate=0.0)
        refused("rate nan: must be more than 0 Hz", folder[0], rate=float("nan"))
        refused("frames 0: must be at least 1", folder[0], frames=0)
        refused("labels .*/images: lie among the images", folder[0], labels=str(folder[0]), taxonomy="camvid")
        refused("labels .*/nowhere: no such folder", folder[0], labels=str(tmp_path / "nowhere"))
        refused("taxonomy camvid: .* give the labels as well", folder[0], taxonomy="camvid")
        with pytest.raises(TaxonomyError, match="unknown taxonomy 'nope'"):
            open_source(str(folder[0]), labels=str(labels), taxonomy="nope")


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


def write_with_b_frames(path, codec, shades, times=None):
    """Frames of one shade each, in tenths of a second, most of them B-frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options = {"bf": "2", "g": "12", "b_strategy": "0"}
        for time, shade in zip(times or range(len(shades)), shades, strict=True):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), shade, np.uint8), format="bgr24")
            frame.pts, frame.time_base = time, Fraction(1, 10)
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

    @pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
    @pytest.mark.parametrize("suffix", ["avi", "mp4", "mkv", "ts", "h264"])
    def test_frames_that_are_coded_in_another_order(self, tmp_path, suffix, codec, caplog):
        if (suffix, codec) == ("h264", "mpeg4"):
            pytest.skip("a .h264 holds H.264 alone")
        path, shades = tmp_path / f"drive.{suffix}", [20 + 18 * i for i in range(12)]
        write_with_b_frames(path, codec, shades)
        with av.open(str(path)) as container:
            assert container.streams.video[0].codec_context.has_b_frames
        samples = list(open_source(str(path)))
        assert [round((int(s.image[10, 10, 0]) - 20) / 18) for s in samples] == list(range(12))
        assert [s.stamp_ns for s in samples] == [100_000_000 * i for i in range(12)]
        guessed = f"{path}: frames without a time are taken as 10 Hz apart; --rate sets another"
        assert [r.getMessage() for r in caplog.records] == ([guessed] if suffix == "h264" else [])

    def test_times_of_a_varying_rate_are_kept(self, tmp_path):
        times = [0, 1, 4, 5, 11, 12, 13, 19]
        write_with_b_frames(tmp_path / "drive.mp4", "libx264", [20 + 18 * i for i in range(8)], times)
        assert [s.stamp_ns for s in open_source(str(tmp_path / "drive.mp4"))] == [100_000_000 * t for t in times]

    def test_time_never_goes_back(self):
        said = []
        clock = files._Clock(said.append, 10, Fraction(1, 1000))
        stamps = [clock.stamp(time) for time in (500, 600, 750, None, 950, 40, 140, 140, 240)]
        assert [stamp // 10**6 for stamp in stamps] == [0, 100, 250, 350, 450, 550, 650, 750, 850]
        assert [line[:27] for line in said] == ["frames without a time are t", *["a frame whose time goes bac"] * 2]

    def test_a_container_that_does_not_say_how_many_frames_it_has_is_no_endless_source(self, tmp_path):
        path = tmp_path / "drive.mkv"
        write_video(path, images(4, 32, 48))
        with av.open(str(path)) as container:
            assert container.streams.video[0].frames == 0
        assert open_source(str(path)).length == 4
        assert open_source(str(path), frames=3).length == 3
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        assert open_source(str(path)).length == len(list(open_source(str(path)))) < 4

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

    @pytest.mark.parametrize(("codec", "bad"), [("mpeg4", [5, 6, 7]), ("mjpeg", [5])])
    @pytest.mark.parametrize("rate", [None, 5])
    def test_a_damaged_frame_costs_all_that_is_made_of_it(self, tmp_path, codec, bad, rate):
        path = tmp_path / "drive.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=10)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.options = {"bf": "0", "g": "4", "sc_threshold": "1000000000"}
            wide = images(1, 64, 120)[0]
            for i in range(12):
                picture = np.ascontiguousarray(wide[:, i : i + 96])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
            container.mux(stream.encode(None))
        with av.open(str(path)) as container:
            packet = [packet for packet in container.demux(video=0) if packet.size][5]
        data = bytearray(path.read_bytes())
        data[packet.pos + 12 : packet.pos + packet.size] = b"\xff" * (packet.size - 12)
        path.write_bytes(data)
        source = open_source(str(path), rate=rate)
        samples = list(source)
        left = [i for i in range(12) if i not in bad]
        assert [s.name for s in samples] == [f"drive_{i:06d}" for i in left]
        assert [s.stamp_ns for s in samples] == [i * 10**9 // (rate or 10) for i in left]
        assert source.problem

    def test_frames_that_are_not_there_are_said(self, tmp_path):
        with av.open(str(tmp_path / "drive.avi"), "w") as container:
            stream = container.add_stream("mjpeg", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
            for picture in images(6, 48, 64):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
            container.mux(stream.encode(None))
        data = (tmp_path / "drive.avi").read_bytes()
        (tmp_path / "drive.avi").write_bytes(data[: len(data) * 2 // 3])
        source = open_source(str(tmp_path / "drive.avi"))
        assert 1 < len(list(source)) < 6
        assert source.problem.startswith("2 frames cannot be read, the first: it cannot be decoded")

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


class FakeCapture:
    """Stands in for cv2.VideoCapture: three frames, then nothing."""

    released = 0
    opens = True

    frames = tuple(np.full((2, 3, 3), left, np.uint8) for left in (2, 1, 0))
    format = "YUYV"

    def __init__(self, name, backend):
        self.name, self.left = name, list(self.frames)
        self.properties = {cv2.CAP_PROP_FPS: 15.0, cv2.CAP_PROP_FOURCC: cv2.VideoWriter.fourcc(*self.format)}

    def isOpened(self):
        return self.opens

    def get(self, key):
        return self.properties[key]

    def set(self, key, value):
        self.properties[key] = value
        return True

    def read(self):
        assert (self.properties.get(cv2.CAP_PROP_CONVERT_RGB) == 0) == (self.format == "MJPG")
        return (True, self.left.pop(0)) if self.left else (False, None)

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

    def test_jpegs_of_a_camera_are_decoded_here(self, monkeypatch, caplog):
        grey = np.full((1, 8, 8), 77, np.uint8)[0]
        padding = np.zeros(2, np.uint8)
        good = [np.append(cv2.imencode(".jpg", image)[1], padding) for image in (images(1)[0], grey)]
        frames = [data[None] for data in (good[0], good[0][:-40], good[0][:-40], good[1])]
        monkeypatch.setattr(FakeCapture, "frames", frames)
        monkeypatch.setattr(FakeCapture, "format", "MJPG")
        found = [s.image for s in open_source("/dev/video7", frames=2)]
        assert (found[0] == cv2.imdecode(good[0], cv2.IMREAD_COLOR)).all()
        assert found[1].shape == (8, 8, 3) and abs(int(found[1].mean()) - 77) <= 1
        assert [r.getMessage() for r in caplog.records if "cut off" in r.getMessage()] != []
        monkeypatch.setattr(FakeCapture, "frames", frames[1:2] * 200)
        with pytest.raises(SourceError, match="/dev/video7: 100 damaged frames, the last: JPEG is cut off"):
            list(open_source("/dev/video7"))

    def test_a_camera_that_is_unplugged(self):
        with pytest.raises(SourceError, match="/dev/video7: the camera gives no more frames"):
            list(open_source("/dev/video7"))
        assert FakeCapture.released == 2

    def test_a_camera_that_cannot_be_opened(self, monkeypatch):
        monkeypatch.setattr(FakeCapture, "opens", False)
        refused("/dev/video7: cannot be opened as a camera", "/dev/video7")

    def test_options_that_a_camera_has_not(self):
        refused("labels x: not for /dev/video7: a live camera has none", "/dev/video7", labels="x")


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
        assert (first.calibration.width, first.calibration.height) == (640, 480)
        assert (first.image != second.image).any()
        assert open_source("street").length is None

    def test_reading_begins_anywhere(self):
        source = open_source("street:3", frames=3)
        whole, (last,) = list(source), source.samples(2)
        assert (last.index, last.name, last.header) == (2, whole[2].name, whole[2].header)
        assert (last.image == whole[2].image).all() and list(source.samples(3)) == []

    def test_refusals(self):
        refused("street:x: the seed behind street: must be a whole number from 0", "street:x")
        refused("street:-1: the seed behind street: must be a whole number from 0", "street:-1")
        refused("the seed behind street: must be a whole number from 0, of at most 18 digits", "street:" + "9" * 5000)
        refused("labels x: not for street: the simulated street has labels of its own", "street", labels="x")


def test_every_refusal_is_an_m2f_error():
    assert issubclass(SourceError, M2fError)
