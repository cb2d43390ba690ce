"""Depth, transforms and clouds of bags that other programs wrote."""

import struct
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2f_ros.bags.depth_topic import Nearest, choose_depth
from m2f_ros.bags.reader import Bag
from m2f_ros.errors import SourceError
from m2f_ros.sources.open import SpaceOptions, open_drive, open_source
from m2f_ros.space.transforms import TransformError

sys.path.insert(0, str(Path(__file__).parent))
import strangers
from strangers import MS, START, cloud, image, made, millimetres, picture, transforms, write

ALL = SpaceOptions(depth=True, transforms=True, clouds=True)
DEPTH, CLOUDS, TRANSFORMS = (SpaceOptions(**{name: True}) for name in ("depth", "clouds", "transforms"))
UPRIGHT = (0.0, 0.0, 0.0, 1.0)


def at(ms):
    return START + ms * MS


def depths(path, space=DEPTH, **options):
    """The depth in metres of the first pixel of each sample, None without."""
    source = open_source(str(path), space=space, **options)
    found = [None if s.depth is None else round(float(s.depth[0, 0]), 3) for s in source]
    return found, source.problem


@pytest.mark.parametrize("storage", ["MCAP", "SQLITE3"])
def test_two_cameras_a_lidar_and_transforms_at_rates_of_their_own(tmp_path, storage):
    messages = []
    for i in range(4):
        for name, offset in (("left", 0), ("right", 40)):
            stamp = at(100 * i + offset)
            messages.append((f"/{name}/color/image_raw", picture(stamp, f"{name}_optical"), stamp + 5 * MS))
        messages.append(("/velodyne_points", cloud(at(100 * i + 60), 3 + i), at(100 * i + 70)))
    for i in range(12):  # 30 Hz, 3 ms later than the images
        stamp = at(i * 33 + 3)
        messages.append(
            ("/left/aligned_depth_to_color/image_raw", millimetres(stamp, 1000 + i, "left_optical"), stamp + 20 * MS)
        )
    for i in range(-2, 30):  # 50 Hz
        messages.append(("/tf", transforms((at(20 * i), "odom", "base", (i, 0, 0), UPRIGHT)), at(20 * i + 1)))
    messages.append(("/tf_static", transforms((0, "base", "left_optical", (0, 1, 0), UPRIGHT)), at(-30)))
    drive = open_drive(str(write(tmp_path / "bag", messages, storage)), space=ALL)
    samples = list(drive)
    assert [s.camera for s in samples] == ["left_color", "right_color"] * 4 or [s.camera for s in samples][:2] == [
        "left_color",
        "right_color",
    ]
    left, right = samples[::2], samples[1::2]
    assert [round(float(s.depth[0, 0]), 3) for s in left] == [1.0, 1.003, 1.006, 1.009]
    assert {s.depth.dtype for s in left} == {np.dtype(np.float32)} and {s.depth for s in right} == {None}
    assert [[len(c) for c in s.clouds] for s in samples] == [[], [3], [], [4], [], [5], [], [6]]
    for s in samples:
        moment = (s.stamp_ns - START) / MS / 20
        assert s.transforms.lookup("odom", "left_optical", s.stamp_ns)[:2, 3].tolist() == pytest.approx([moment, 1])
    assert drive.problem == ""


COLOUR = {"/camera/color/image_raw": ("rgb8", "colour")}


class TestTheDepthTopicOfACamera:
    """The one of its frame_id; else nothing is taken in silence."""

    def choose(self, tmp_path, topics, cameras=None, asked=()):
        """topics: topic -> (encoding, frame_id) of depth topics and cameras."""
        messages = []
        for topic, (encoding, frame) in topics.items():
            kind = {"16UC1": np.uint16, "32FC1": np.float32, "mono8": np.uint8}.get(encoding)
            data = np.zeros((6, 8, 3), np.uint8) if kind is None else np.ones((6, 8), kind)
            if encoding == "compressedDepth":
                message = made(
                    strangers.COMPRESSED, strangers.header(START, frame), "16UC1; compressedDepth png", data.ravel()
                )
            else:
                message = image(START, data, encoding, frame)
            messages.append((topic, message, START))
        cameras = cameras or {"/camera/color/image_raw": ""}
        return choose_depth(Bag(write(tmp_path / "bag", messages)), cameras, asked)

    @pytest.mark.parametrize("name", ["/depth", "/camera/depth/image_raw", "/camera/aligned_depth_to_color/image_raw"])
    @pytest.mark.parametrize("encoding", ["16UC1", "32FC1", "compressedDepth"])
    def test_by_its_frame(self, tmp_path, name, encoding):
        others = {"/z/depth": ("16UC1", "depth"), "/zz/depth": ("mono8", "colour")}
        found, lines = self.choose(tmp_path, {**COLOUR, name: (encoding, "/colour"), **others})
        assert (found, lines) == ({"/camera/color/image_raw": name}, [])

    def test_one_in_another_frame_is_not_registered(self, tmp_path):
        found, lines = self.choose(tmp_path, {**COLOUR, "/camera/depth/image_rect_raw": ("16UC1", "depth")})
        assert found == {} and len(lines) == 1
        for text in (
            "no depth image that is registered",
            "/image_raw (frame colour)",
            "(frame depth)",
            "--depth-topic",
        ):
            assert text in lines[0]

    def test_one_in_another_frame_can_be_named(self, tmp_path):
        topics = {**COLOUR, "/camera/depth/image_rect_raw": ("16UC1", "depth")}
        found, lines = self.choose(tmp_path, topics, asked=["/camera/depth/image_rect_raw"])
        assert found == {"/camera/color/image_raw": "/camera/depth/image_rect_raw"}
        assert lines == [
            "/camera/depth/image_rect_raw (frame depth) is taken as registered to /camera/color/image_raw (frame "
            "colour), as --depth-topic says"
        ]

    def test_one_of_another_encoding_is_named(self, tmp_path):
        found, (line,) = self.choose(tmp_path, {**COLOUR, "/camera/depth": ("64FC1", "colour")})
        assert found == {} and "depth topics: /camera/depth (64FC1, which is not read)" in line

    def test_without_a_frame_by_the_name(self, tmp_path):
        cameras = {"/a/image": "a", "/b/image": "b", "/c/image": "c"}
        topics = {name: ("rgb8", "") for name in cameras}
        topics |= {"/a/depth/image_raw": ("32FC1", ""), "/b/depth": ("16UC1", "b_frame")}
        found, lines = self.choose(tmp_path, topics, cameras)
        assert found == {"/a/image": "/a/depth/image_raw", "/b/image": "/b/depth"}
        assert lines == ["/c/image (frame unknown) has no depth topic"]

    def test_disparity_and_confidence_are_no_depth(self, tmp_path):
        topics = {f"/camera/{name}": ("32FC1", "colour") for name in ("depth/disparity", "depth/confidence", "values")}
        found, (line,) = self.choose(tmp_path, {**COLOUR, **topics})
        assert found == {} and "depth topics: none" in line

    def test_the_raw_and_the_registered_one_first(self, tmp_path):
        topics = {
            "/camera/depth/image_raw": ("16UC1", "colour"),
            "/camera/depth_registered/image_raw": ("16UC1", "colour"),
            "/camera/depth_registered/image_raw/compressedDepth": ("compressedDepth", "colour"),
        }
        found, _ = self.choose(tmp_path, {**COLOUR, **topics})
        assert list(found.values()) == ["/camera/depth_registered/image_raw"]

    def test_several_have_to_be_chosen_from(self, tmp_path):
        topics = {f"/camera/{name}/depth": ("16UC1", "colour") for name in "ab"}
        with pytest.raises(SourceError, match=r"several depth topics for /camera/color/image_raw.*/a/depth.*/b/depth"):
            self.choose(tmp_path, {**COLOUR, **topics})

    def test_of_a_named_camera(self, tmp_path):
        cameras = {"/a/image": "a", "/b/image": "b"}
        topics = {name: ("rgb8", "one") for name in cameras} | {
            "/d/depth": ("32FC1", "x"),
            "/e/depth": ("32FC1", "one"),
        }
        found, _ = self.choose(tmp_path, topics, cameras, ["a=/d/depth"])
        assert found == {"/a/image": "/d/depth", "/b/image": "/e/depth"}

    @pytest.mark.parametrize("topic", ["/camera/depth", "/camera/depth/compressedDepth"])
    def test_with_an_empty_format(self, tmp_path, topic):
        values = np.full((6, 8), 2500, np.uint16)
        depth = made(
            strangers.COMPRESSED,
            strangers.header(START, "colour"),
            "",
            np.frombuffer(bytes(12) + cv2.imencode(".png", values)[1].tobytes(), np.uint8),
        )
        messages = [("/camera/color/image_raw", picture(START, "colour"), START), (topic, depth, START)]
        found, problem = depths(write(tmp_path / "bag", messages))
        assert (found, problem) == ([2.5], "")

    @pytest.mark.parametrize("name", ["left", "a_left", "a_left_image", "/a/left/image"])
    def test_for_a_camera_by_any_of_its_names(self, tmp_path, name):
        topics = {"/a/left/image": ("rgb8", "x"), "/b/left/image": ("rgb8", "y"), "/depth": ("16UC1", "z")}
        cameras = {"/a/left/image": "left", "/b/left/image": "b_left"}
        found, _ = self.choose(tmp_path, topics, cameras, [f"{name}=/depth"])
        assert found == {"/a/left/image": "/depth"}

    @pytest.mark.parametrize(
        "asked, match",
        [
            ("/no", "/no: no such image topic in"),
            ("/camera/color/image_raw", "its encoding is 'rgb8', not one of 16UC1"),
            ("x=/depth", "no camera is named x; there is /camera/color/image_raw"),
        ],
    )
    def test_impossible_choices_are_one_line(self, tmp_path, asked, match):
        with pytest.raises(SourceError, match=match):
            self.choose(tmp_path, {**COLOUR, "/depth": ("16UC1", "colour")}, asked=[asked])


class TestDepth:
    def bag(self, tmp_path, found, images=(0, 100, 200), topic="/camera/depth/image_raw"):
        """found: [(ms, message)] of depth."""
        messages = [("/camera/image", picture(at(ms)), at(ms)) for ms in images]
        return write(tmp_path / "bag", messages + [(topic, message, at(ms)) for ms, message in found])

    def test_the_nearest_in_time_within_the_slop(self, tmp_path):
        found = [(ms, millimetres(at(ms), 1000 + ms)) for ms in (-8, 5, 95, 103, 140, 260)]
        path = self.bag(tmp_path, found)
        assert depths(path) == ([1.005, 1.103, None], "")
        assert depths(path, SpaceOptions(depth=True, slop=0.06))[0] == [1.005, 1.103, 1.14]
        assert depths(path, SpaceOptions(depth=True, slop=0.003))[0] == [None, 1.103, None]

    def test_images_without_are_said(self, tmp_path, caplog):
        path = self.bag(tmp_path, [(0, millimetres(at(0), 1000))])
        assert depths(path) == ([1.0, None, None], "")
        assert "2 images of /camera/image have no depth image within 0.02 s" in caplog.text

    @pytest.mark.parametrize("known", [0, 1])
    def test_those_without_a_known_depth(self, tmp_path, caplog, known):
        path = self.bag(tmp_path, [(ms, millimetres(at(ms), known * (ms == 200))) for ms in (0, 100, 200)])
        _, problem = depths(path)
        assert problem == ("" if known else "no depth image of /camera/depth/image_raw has a depth that is known")
        assert ("2 depth images of /camera/depth/image_raw know no depth" in caplog.text) == bool(known)

    def test_none_that_pairs_is_a_problem(self, tmp_path):
        path = self.bag(tmp_path, [(50, millimetres(at(50), 1000))])
        assert depths(path) == (
            [None] * 3,
            "no stamp of a depth image of /camera/depth/image_raw is within 0.02 s of an image of /camera/image",
        )

    def test_damaged_ones_are_counted_and_said(self, tmp_path, caplog):
        cut = millimetres(at(100), 1000)
        cut.data = cut.data[:50]
        other = millimetres(at(200), 1000, size=(8, 8))
        path = self.bag(tmp_path, [(0, millimetres(at(0), 1000)), (100, cut), (200, other)])
        found, problem = depths(path)
        assert found == [1.0, None, None]
        assert problem == "2 depth images of /camera/depth/image_raw cannot be used"
        for text in ("data has 50 bytes", "8x8, another shape than the image's 8x6"):
            assert text in caplog.text

    def test_other_sizes_of_the_same_shape_pass(self, tmp_path):
        path = self.bag(tmp_path, [(0, millimetres(at(0), 1000, size=(3, 4)))], images=(0,))
        (sample,) = open_source(str(path), space=DEPTH)
        assert sample.depth.shape == (3, 4)

    def test_a_bag_without_depth(self, tmp_path, caplog):
        path = self.bag(tmp_path, [])
        with pytest.raises(SourceError, match="bag: no depth image that is registered to a camera"):
            open_source(str(path), space=DEPTH)
        assert depths(path, replace(DEPTH, needed=False)) == ([None] * 3, "")
        assert "no depth image that is registered to a camera" in caplog.text

    def test_metres_in_the_other_byte_order_with_padded_rows(self, tmp_path):
        values = np.array([[0.5, np.nan], [np.inf, 0]], ">f4")
        path = self.bag(tmp_path, [(0, image(at(0), values, "32FC1", padding=4))], images=(0,), topic="/depth")
        messages = [("/camera/image", picture(at(0), size=(2, 2)), at(0))]
        path = write(tmp_path / "small", [*messages, ("/depth", image(at(0), values, "32FC1", padding=4), at(0))])
        (sample,) = open_source(str(path), space=DEPTH)
        np.testing.assert_array_equal(sample.depth, np.array([[0.5, np.nan], [np.nan, np.nan]], np.float32))

    def test_compressed(self, tmp_path):
        values = np.full((6, 8), 2500, np.uint16)
        data = struct.pack("<iff", 0, 0, 0) + cv2.imencode(".png", values)[1].tobytes()
        message = made(
            strangers.COMPRESSED,
            strangers.header(at(0), "optical"),
            "16UC1; compressedDepth png",
            np.frombuffer(data, np.uint8),
        )
        path = self.bag(tmp_path, [(0, message)], images=(0,), topic="/camera/depth/image_raw/compressedDepth")
        assert depths(path) == ([2.5], "")

    def test_stamps_that_jump_back(self, tmp_path):
        """Two runs in one bag, the second with the stamps of the first."""
        messages = []
        for run in range(2):
            for i in range(100):
                log = at(run * 20_000 + 100 * i)
                messages.append(("/camera/image", picture(at(100 * i)), log))
                messages.append(("/depth", millimetres(at(100 * i), 1000 + 200 * run + i), log + MS))
        found, problem = depths(write(tmp_path / "bag", messages))
        assert found == [round(1 + i / 1000 + run / 5, 3) for run in range(2) for i in range(100)]
        assert problem == ""

    def test_stamps_that_stand_still(self, tmp_path):
        """The times of recording tell which belong together, and only some are held in memory."""
        messages = []
        for i in range(300):
            messages.append(("/camera/image", picture(at(0)), at(100 * i)))
            messages.append(("/depth", millimetres(at(0), 1000 + i), at(100 * i + 10)))
        source = open_source(str(write(tmp_path / "bag", messages)), space=DEPTH)
        assert [round(float(s.depth[0, 0]), 3) for s in source] == [round(1 + i / 1000, 3) for i in range(300)]

    def test_it_goes_on_from_any_image(self, tmp_path):
        path = self.bag(tmp_path, [(ms, millimetres(at(ms), 1000 + ms)) for ms in range(0, 300, 50)])
        drive = open_drive(str(path), space=DEPTH)
        whole = [s.depth[0, 0] for s in drive]
        assert [s.depth[0, 0] for s in drive.samples(1)] == whole[1:]

    def test_topics_that_are_read_are_not_left_out(self, tmp_path, caplog):
        path = self.bag(tmp_path, [(0, millimetres(at(0), 1000))])
        list(open_drive(str(path)))
        assert "left out (depth" in caplog.text
        caplog.clear()
        list(open_drive(str(path), space=DEPTH))
        assert "left out (depth" not in caplog.text


@given(
    st.lists(st.integers(0, 400), min_size=1, max_size=30),
    st.lists(st.integers(0, 400), max_size=30),
    st.integers(0, 60),
)
def test_nearest_is_the_nearest(wanted, there, slop):
    class Fake:
        def __init__(self, stamp_ns):
            self.taken_ns = self.log_ns = stamp_ns

    nearest = Nearest(map(Fake, sorted(there)), slop)
    for stamp in sorted(wanted):
        found = nearest.at(stamp, stamp)
        least = min((abs(other - stamp) for other in there), default=slop + 1)
        assert (found is None) == (least > slop)
        assert found is None or abs(found.taken_ns - stamp) == least


class TestClouds:
    def bag(self, tmp_path, found, images=(0, 100, 200), **other):
        """found: [(ms, message)] of /points."""
        messages = [("/image", message, log) for message, log in ((picture(at(ms)), at(ms)) for ms in images)]
        messages += [("/points", message, at(ms)) for ms, message in found]
        return write(tmp_path / "bag", messages + [(topic, message, at(0)) for topic, message in other.items()])

    def counts(self, source, first=0):
        return [[len(c) for c in s.clouds] for s in source.samples(first)]

    def test_each_is_given_once_with_the_first_image_behind_it(self, tmp_path, caplog):
        found = [(ms, cloud(at(ms), 1 + k)) for k, ms in enumerate((-30, 10, 100, 119, 130, 201, 290))]
        drive = open_drive(str(self.bag(tmp_path, found)), space=CLOUDS)
        assert self.counts(drive) == [[1, 2], [3, 4], [5, 6]]
        assert self.counts(drive, 1) == [[3, 4], [5, 6]]
        assert "1 clouds of /points are later than the last image" in caplog.text
        sample = next(iter(drive))
        assert [c.stamp_ns for c in sample.clouds] == [at(-30), at(10)]
        assert {c.frame_id for c in sample.clouds} == {"velodyne"}

    def test_stamps_that_jump_back(self, tmp_path):
        """Two runs in one bag, the second with the stamps of the first: each cloud comes with an image of its run."""
        messages = []
        for run in range(2):
            for i in range(30):
                log = at(run * 3000 + 100 * i)
                messages.append(("/image", picture(at(100 * i)), log + MS))
                messages.append(("/points", cloud(at(100 * i), 1 + i + 100 * run), log))
        drive = open_drive(str(write(tmp_path / "bag", messages)), space=CLOUDS)
        whole = [[1 + i + 100 * run] for run in range(2) for i in range(30)]
        assert self.counts(drive) == whole and self.counts(drive, 20) == whole[20:]

    def test_a_drive_whose_clouds_are_all_later_than_its_images_is_not_whole(self, tmp_path):
        drive = open_drive(str(self.bag(tmp_path, [(ms, cloud(at(ms))) for ms in (900, 1000)])), space=CLOUDS)
        assert self.counts(drive) == [[], [], []]
        assert drive.problem == (
            "all 2 clouds of /points are later than the last image: their stamps must be of one clock"
        )

    def test_the_bytes_are_those_of_the_message(self, tmp_path):
        path = self.bag(tmp_path, [(0, cloud(at(0), 5, big=True))], images=(0,))
        (sample,) = open_source(str(path), space=CLOUDS)
        (found,) = sample.clouds
        assert (found.is_bigendian, found.point_step) == (True, 20)
        assert found.xyz()[:, 0].tolist() == [0, 1, 2, 3, 4]

    def test_those_of_a_damaged_image_come_with_the_next_one(self, tmp_path):
        damaged = picture(at(100))
        damaged.height = 0
        messages = [("/image", m, at(ms)) for ms, m in ((0, picture(at(0))), (100, damaged), (200, picture(at(200))))]
        messages += [("/points", cloud(at(ms), 1 + ms // 100), at(ms)) for ms in (0, 100, 200)]
        path = str(write(tmp_path / "bag", messages))
        assert self.counts(open_source(path, space=CLOUDS)) == [[1], [2, 3]]
        assert self.counts(open_drive(path, space=CLOUDS)) == [[1], [2], [3]]

    def test_damaged_ones_are_counted_and_said(self, tmp_path, caplog):
        short = cloud(at(100))
        short.data = short.data[:10]
        cut = (strangers.CLOUD, strangers.TYPES.serialize_cdr(cloud(at(0)), strangers.CLOUD)[:40])
        path = self.bag(tmp_path, [(0, cut), (100, short), (200, cloud(at(200), 9))])
        drive = open_drive(str(path), space=CLOUDS)
        assert self.counts(drive) == [[], [], [9]]
        assert drive.problem == "2 clouds of /points are damaged"
        assert "data has 10 bytes" in caplog.text

    def test_the_topic_has_to_be_plain(self, tmp_path):
        path = str(self.bag(tmp_path, [(0, cloud(at(0)))], images=(0,), **{"/camera/depth/points": cloud(at(0), 7)}))
        with pytest.raises(SourceError, match=r"choose one with --cloud-topic: /camera/depth/points \(1\), /points"):
            open_drive(path, space=CLOUDS)
        chosen = SpaceOptions(clouds=True, cloud_topic="/camera/depth/points")
        assert self.counts(open_drive(path, space=chosen)) == [[7]]
        with pytest.raises(SourceError, match=r"--cloud-topic /x: no topic of clouds in .*there is"):
            open_drive(path, space=SpaceOptions(clouds=True, cloud_topic="/x"))

    def test_ground_truth_is_not_taken_for_a_lidar(self, tmp_path):
        path = self.bag(tmp_path, [(0, cloud(at(0)))], images=(0,), **{"/lidar/ground_truth": cloud(at(0), 7)})
        assert self.counts(open_drive(str(path), space=CLOUDS)) == [[3]]

    def test_a_bag_without_clouds(self, tmp_path, caplog):
        path = str(self.bag(tmp_path, []))
        with pytest.raises(SourceError, match="bag: no topic of sensor_msgs/msg/PointCloud2"):
            open_drive(path, space=CLOUDS)
        assert self.counts(open_drive(path, space=replace(CLOUDS, needed=False))) == [[], [], []]
        assert "no topic of sensor_msgs/msg/PointCloud2" in caplog.text


class TestTransforms:
    def bag(self, tmp_path, moving, still=(), images=(0, 100)):
        """moving, still: [(ms of recording, TFMessage)]."""
        messages = [("/image", picture(at(ms)), at(ms)) for ms in images]
        messages += [("/tf", message, at(ms)) for ms, message in moving]
        return write(tmp_path / "bag", messages + [("/tf_static", message, at(ms)) for ms, message in still])

    def x(self, sample, target="odom", source="base"):
        return sample.transforms.lookup(target, source, sample.stamp_ns)[0, 3]

    def test_windows_do_not_depend_on_where_reading_begins(self, tmp_path):
        images = range(0, 65_000, 3000)
        moving = [
            (ms + 5, transforms((at(ms), "odom", "base", (ms / 1000, 0, 0), UPRIGHT)))
            for ms in range(-500, 66_000, 500)
        ]
        drive = open_drive(str(self.bag(tmp_path, moving, images=images)), space=TRANSFORMS)
        samples = list(drive)
        assert [self.x(s) for s in samples] == pytest.approx([ms / 1000 for ms in images])
        assert [self.x(s) for s in drive.samples(13)] == [self.x(s) for s in samples[13:]]
        # A window does not hold the drive.
        with pytest.raises(TransformError):
            samples[0].transforms.lookup("odom", "base", at(60_000))
        assert len({id(s.transforms) for s in samples}) <= 8

    def test_slow_transforms_of_before_are_kept(self, tmp_path):
        moving = [(ms, transforms((at(ms), "map", "odom", (ms, 0, 0), UPRIGHT))) for ms in (-8000, 50)]
        (first, _) = open_drive(str(self.bag(tmp_path, moving)), space=TRANSFORMS)
        assert self.x(first, "map", "odom") == pytest.approx(0)

    def test_a_static_one_may_come_late(self, tmp_path):
        still = [(90, transforms((at(90), "base", "optical", (0.5, 0, 0), UPRIGHT)))]
        first, _ = open_drive(str(self.bag(tmp_path, [], still)), space=TRANSFORMS)
        assert self.x(first, "base", "optical") == 0.5

    def test_damaged_ones_are_counted_and_said(self, tmp_path, caplog):
        good = transforms((at(0), "odom", "base", (1, 0, 0), UPRIGHT))
        cut = (strangers.TF, strangers.TYPES.serialize_cdr(good, strangers.TF)[:50])
        long = transforms((at(0), "a", "b", (0, 0, 0), (0, 0, 0, 2.0)), (at(0), "odom", "base", (1, 0, 0), UPRIGHT))
        path = self.bag(tmp_path, [(0, cut), (1, long), (2, good)], images=(0,))
        (sample,) = drive = open_drive(str(path), space=TRANSFORMS)
        assert self.x(sample) == 1
        assert drive.problem == "2 transforms of /tf are damaged"
        assert "skipped a transform of /tf: a damaged message of 50 bytes" in caplog.text

    def test_loops_are_left_out_and_said(self, tmp_path, caplog):
        still = [(0, transforms((0, "a", "b", (1, 0, 0), UPRIGHT), (0, "b", "a", (2, 0, 0), UPRIGHT)))]
        first, _ = drive = open_drive(str(self.bag(tmp_path, [], still, images=(0, 20_000))), space=TRANSFORMS)
        assert self.x(first, "a", "b") == 1
        assert "a loop" in caplog.text
        assert drive.problem == "1 transforms of /tf_static fit no tree of frames"

    def test_a_frame_that_changes_its_parent_is_said(self, tmp_path, caplog):
        still = [(0, transforms((0, "a", "b", (1, 0, 0), UPRIGHT), (0, "c", "b", (2, 0, 0), UPRIGHT)))]
        first, _ = drive = open_drive(str(self.bag(tmp_path, [], still)), space=TRANSFORMS)
        assert self.x(first, "c", "b") == 2
        assert "is now static in c: the newer is taken" in caplog.text
        assert "1 transforms of /tf_static took the place of others" in caplog.text
        assert drive.problem == ""

    def test_a_bag_without_any_is_said(self, tmp_path, caplog):
        first, _ = open_drive(str(self.bag(tmp_path, [])), space=TRANSFORMS)
        assert "it has no transforms, neither /tf nor /tf_static" in caplog.text
        with pytest.raises(TransformError, match="there are none yet"):
            self.x(first)


def mutated(message, rng):
    """The type of a message and its bytes, some of which are changed, cut off or no number."""
    data = bytearray(strangers.TYPES.serialize_cdr(message, message.__msgtype__))
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(4, len(data)))
        kind = rng.integers(4)
        if kind == 0:
            data[at] = rng.integers(256)
        elif kind == 1:
            data[at : at + 4] = b"\xff" * 4
        elif kind == 2:
            data[at : at + 8] = struct.pack("<d", rng.choice([np.nan, np.inf, 1e300]))
        else:
            del data[max(at, 12) :]
    return message.__msgtype__, bytes(data)


@pytest.mark.parametrize("seed", range(6))
def test_no_damage_ends_the_reading(tmp_path, seed):
    rng, messages = np.random.default_rng(seed), []
    for i in range(20):
        stamp = at(100 * i)
        moving = transforms((stamp, "odom", "base", (1, 2, 3), UPRIGHT), (stamp, "base", "b", (1, 2, 3), UPRIGHT))
        messages.append(("/camera/image", picture(stamp), stamp))
        beside = {"/camera/depth": millimetres(stamp, 5), "/points": cloud(stamp), "/tf": moving, "/tf_static": moving}
        messages += [(topic, mutated(message, rng) if i else message, stamp) for topic, message in beside.items()]
    drive = open_drive(str(write(tmp_path / "bag", messages)), space=ALL)
    assert len(list(drive)) == 20
    assert "are damaged" in drive.problem


def test_nothing_is_read_that_is_not_asked_for(tmp_path, monkeypatch):
    messages = [("/image", picture(at(0)), at(0)), ("/depth", millimetres(at(0), 5), at(0))]
    messages += [("/points", cloud(at(0)), at(0)), ("/tf", transforms((at(0), "a", "b", (0, 0, 0), UPRIGHT)), at(0))]
    path, read = str(write(tmp_path / "bag", messages)), []
    plain = Bag.messages
    monkeypatch.setattr(Bag, "messages", lambda self, topics=None: read.append(set(topics)) or plain(self, topics))
    for open_one in (open_source, open_drive):
        drive = open_one(path)
        read.clear()
        (sample,) = drive
        assert (sample.depth, sample.transforms, sample.clouds, sample.tf) == (None, None, (), ())
        assert set().union(*read) == {"/image"}


@pytest.mark.parametrize("space", [DEPTH, CLOUDS, TRANSFORMS])
def test_sources_without_space_say_so(tmp_path, space, caplog):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(SourceError, match=f"{space.asked[0]}: not for .*only a rosbag2 and the simulated street"):
        open_source(str(tmp_path), space=space)
    (sample,) = open_source(str(tmp_path), space=replace(space, needed=False))
    assert sample.depth is sample.transforms is None and sample.clouds == ()
    assert f"{space.asked[0]}: not for" in caplog.text


def test_impossible_options_are_one_line():
    for slop in (-1, 1.1, float("nan"), float("inf")):
        with pytest.raises(SourceError, match="slop"):
            SpaceOptions(slop=slop)
    with pytest.raises(SourceError, match="no topics"):
        open_source("street", space=SpaceOptions(clouds=True, cloud_topic="/points"))
