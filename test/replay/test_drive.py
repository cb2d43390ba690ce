"""Samples of a drive: the images of its cameras, in order, with their own headers."""

import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from m2f_ros.bags.messages import CAMERA_INFO, Messages
from m2f_ros.bags.writer import BagWriter
from m2f_ros.errors import SourceError
from m2f_ros.frame.calibration import Calibration
from m2f_ros.sources.bag import camera_names
from m2f_ros.sources.open import open_drive, open_source
from m2f_ros.sources.sample import START_NS

sys.path.insert(0, str(Path(__file__).parent))
from drives import IMAGE, START, TYPES, frame, image_message, write_drive


def facts(images):
    return [(i.index, i.camera, i.name, i.log_ns, i.header, i.frame and i.frame.data.tobytes()) for i in images]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_images_of_all_cameras_in_the_order_of_recording(tmp_path, storage):
    drive = open_drive(str(write_drive(tmp_path / "d", ("/left/image", "/right/image"), 5, storage)))
    assert (drive.cameras, drive.length) == (("left", "right"), 5)
    images = list(drive.samples())
    assert drive.problem == ""
    assert [(i.index, i.camera, i.log_ns) for i in images] == [
        (n, ("left", "right")[n % 2], START + n * 10**8) for n in range(5)
    ]
    assert [i.header for i in images] == [(100 + n, 5 * n, f"cam{n % 2}") for n in range(5)]
    assert [i.name for i in images[:2]] == ["000000_100000000000", "000001_101000000005"]
    assert (images[4].frame.data == frame(0).data).all() and images[4].frame.encoding == "rgb8"


@pytest.mark.parametrize("first", [0, 1, 4, 5, 9])
def test_reading_may_begin_anywhere(tmp_path, first):
    drive = open_drive(str(write_drive(tmp_path / "d", ("/left/image", "/right/image"), 5, bad=(1,))))
    assert facts(drive.samples(first)) == facts(drive.samples())[first:]


def test_the_bits_that_a_camera_uses_are_the_same_wherever_reading_begins(tmp_path):
    limits = [2, 700, 600, 4096, 300, 4096]
    with BagWriter(tmp_path / "d") as bag:
        for i, limit in enumerate(limits):
            values = np.random.default_rng(i).integers(0, limit, (32, 64)).astype(np.uint16)
            bag.write(
                "/image", IMAGE, image_message(values.view(np.uint8).reshape(32, 64, 2), (1 + i, 0), "", "mono16"), i
            )
    drive = open_drive(str(tmp_path / "d"))
    taken = [(i.frame.encoding, i.frame.bits) for i in drive.samples()]
    assert taken == [("mono16", bits) for bits in (10, 10, 10, 12, 12, 12)]
    for first in range(7):
        assert [(i.frame.encoding, i.frame.bits) for i in drive.samples(first)] == taken[first:]
    assert {i.frame.bits for i in open_drive(str(tmp_path / "d"), bit_depth=14).samples()} == {14}


def test_a_jpeg_topic_may_turn_from_grey_to_colour_and_be_damaged(tmp_path):
    grey, colour = (cv2.imencode(".jpg", frame(i, 64, 64).data[..., :c].squeeze())[1] for i, c in ((0, 1), (1, 3)))
    hole = colour.copy()
    hole[-300:-100] = 0
    kind = "sensor_msgs/msg/CompressedImage"
    with BagWriter(tmp_path / "d") as bag:
        for i, data in enumerate((grey, colour, hole, grey)):
            header = image_message(frame().data, (1 + i, 0)).header
            bag.write("/i/compressed", kind, TYPES.types[kind](header, "jpeg", data), i)
    found = list(open_drive(str(tmp_path / "d")).samples())
    assert [i.frame and i.frame.encoding for i in found] == ["mono8", "bgr8", None, "mono8"]
    assert found[2].problem.startswith("/i/compressed at 3000000000: JPEG of 64x64 pixels, ")
    samples = list(open_source(str(tmp_path / "d")))
    assert [s.encoding for s in samples] == ["mono8", "bgr8", "mono8"]


def test_frames_and_topics_that_are_asked_for(tmp_path):
    path = str(write_drive(tmp_path / "d", ("/left/image", "/right/image"), 6))
    drive = open_drive(path, ("/right/image",), 2)
    assert (drive.cameras, drive.length) == (("",), 2)
    assert [i.header.frame_id for i in drive.samples()] == ["cam1"] * 2
    with pytest.raises(SourceError, match=r"/front: no such image topic in .*; there is /left/image \(3\), /right/im"):
        open_drive(path, ("/front",))


def test_only_images_of_cameras_and_of_each_once(tmp_path):
    legend = b"\0\1\0\0" + bytes(40)
    with BagWriter(tmp_path / "d") as bag:
        for topic in ("/camera/image", "/camera/image/compressed", "/camera/ground_truth", "/node/label"):
            bag.write(topic, IMAGE, image_message(frame().data), 1)
        bag.write("/node/legend", "m2f_ros/msg/Legend", legend, 1)
    drive = open_drive(str(tmp_path / "d"))
    assert [image.camera for image in drive.samples()] == [""] and drive.length == 1
    with pytest.raises(SourceError, match="no images of a camera"), BagWriter(tmp_path / "e") as bag:
        bag.write("/ground_truth", IMAGE, image_message(frame().data), 1)
        bag.close()
        open_drive(str(tmp_path / "e"))


def test_a_topic_of_an_unknown_encoding_costs_no_other_camera(tmp_path, caplog):
    with BagWriter(tmp_path / "d") as bag:
        for i in range(2):
            for topic, encoding in ("/cam/image", "rgb8"), ("/odd/image", "BGR8"):
                bag.write(topic, IMAGE, image_message(frame().data, (i, 0), encoding=encoding), i)
    drive = open_drive(str(tmp_path / "d"))
    assert [i.frame.encoding for i in drive.samples()] == ["rgb8", "rgb8"] and drive.problem == ""
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'd'}: left out (depth, other values, or no known encoding): /odd/image (BGR8); "
        "they cannot be taken as pictures"
    ]


def test_a_first_image_that_is_empty_is_a_damaged_one(tmp_path):
    with BagWriter(tmp_path / "d") as bag:
        bag.write("/cam/image", IMAGE, image_message(np.zeros((1, 0), np.uint8), (0, 0), encoding=""), 0)
        bag.write("/cam/image", IMAGE, image_message(frame().data, (1, 0)), 1)
    drive = open_drive(str(tmp_path / "d"))
    assert [i.problem or i.frame.encoding for i in drive.samples()] == [
        "/cam/image at 0: an image without encoding",
        "rgb8",
    ]


def test_depth_is_left_out_in_one_line_unless_it_is_asked_for(tmp_path, caplog):
    depth = np.ones((32, 64), np.float32)
    with BagWriter(tmp_path / "d") as bag:
        for i in range(2):
            bag.write(
                "/cam/depth/image", IMAGE, image_message(np.ones((32, 64), np.uint16), (i, 0), encoding="16UC1"), i
            )
            bag.write("/cam/image", IMAGE, image_message(frame().data, (i, 0)), i)
            bag.write("/cam/range", IMAGE, image_message(depth, (i, 0), encoding="32FC1"), i)
    path = str(tmp_path / "d")
    drive = open_drive(path)
    assert (drive.cameras, drive.length) == (("",), 2) and not caplog.records
    assert [i.frame.encoding for i in drive.samples()] == ["rgb8", "rgb8"] and drive.problem == ""
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: left out (depth, other values, or no known encoding): /cam/depth/image (16UC1), /cam/range (32FC1); "
        "--topics /cam/depth/image takes it as a grey picture"
    ]
    caplog.clear()
    asked = [i.frame for i in open_drive(path, ("/cam/depth/image",)).samples()]
    assert [(frame.encoding, frame.bits) for frame in asked] == [("16UC1", 10), ("16UC1", 10)]
    (record,) = caplog.records
    assert record.getMessage().startswith("/cam/depth/image: 10 of the 16 bits are taken as used")
    with pytest.raises(SourceError, match="/cam/range: encoding '32FC1' is not that of a colour or grey camera"):
        list(open_drive(path, ("/cam/range",)).samples())
    with BagWriter(tmp_path / "e") as bag:
        bag.write("/range", IMAGE, image_message(depth, encoding="32FC1"), 1)
    with pytest.raises(SourceError, match=r"e: no images of a camera in this rosbag2; left out .*/range \(32FC1\)"):
        open_drive(str(tmp_path / "e"))


@pytest.mark.parametrize("first", [0, 2])
def test_each_image_has_the_camera_info_of_its_camera_and_time(tmp_path, first):
    left = Calibration.pinhole(64, 32, 50.0, 51.0, 31.5, 15.5)
    right, zoomed = replace(left, width=65), replace(left, k=(90.0, *left.k[1:]))
    with BagWriter(tmp_path / "d") as bag:
        make = Messages(bag.types)
        for i, side in enumerate(("left", "right", "left", "right")):
            bag.write(f"/{side}/image", IMAGE, image_message(frame().data, (0, 1 + i)), i)
        # Recorded behind their images.
        for n, (side, stamp, info) in enumerate((("left", 1, left), ("left", 3, zoomed), ("right", 9, right))):
            bag.write(f"/{side}/camera_info", CAMERA_INFO, make.camera_info(info, make.header(stamp, "cam")), 100 + n)
    found = [image.calibration for image in open_drive(str(tmp_path / "d")).samples(first)]
    assert found == [replace(info, frame_id="cam") for info in (left, right, zoomed, right)][first:]


def test_a_bag_that_was_cut_off_before_its_first_image(tmp_path):
    (file,) = write_drive(tmp_path / "d").glob("*.mcap")
    (tmp_path / "tiny.mcap").write_bytes(file.read_bytes()[:100])
    with pytest.raises(SourceError, match=r"no images .*; image topics: none \(tiny\.mcap: cut off after 100 bytes"):
        open_drive(str(tmp_path / "tiny.mcap"))


def test_a_damaged_image_has_its_place_and_a_reason(tmp_path):
    images = list(open_drive(str(write_drive(tmp_path / "d", count=3, bad=(1,)))).samples())
    assert [image.frame is None for image in images] == [False, True, False]
    assert "/camera/image at 101000000005: data has 100 bytes" in images[1].problem


@pytest.mark.parametrize("first", [0, 1, 2])
def test_another_encoding_ends_it_wherever_reading_began(tmp_path, first):
    with BagWriter(tmp_path / "d") as bag:
        for i, encoding in enumerate(("rgb8", "rgb8", "bgr8")):
            bag.write("/camera/image", IMAGE, image_message(frame().data, (i, 0), encoding=encoding), i)
    images = open_drive(str(tmp_path / "d")).samples(first)
    assert [image.index for image in islice(images, 2 - first)] == list(range(first, 2))
    with pytest.raises(SourceError, match="/camera/image: mixed encodings: rgb8 at first, but bgr8 at stamp 2"):
        next(images)


def test_a_header_stays_as_it_is_and_without_a_stamp_the_name_has_the_log_time(tmp_path):
    with BagWriter(tmp_path / "d") as bag:
        bag.write("/camera/image", IMAGE, image_message(frame().data, (0, 0), ""), START)
        bag.write("/camera/image", IMAGE, image_message(frame().data, (-3, 2**32 - 1), "äöü"), START + 1)
    one, two = open_drive(str(tmp_path / "d")).samples()
    assert (one.header, one.name) == ((0, 0, ""), f"000000_{START}")
    assert two.header == (-3, 2**32 - 1, "äöü")


def test_a_folder_of_images(tmp_path):
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"f{i}.png"), np.full((4, 6, 3), i, np.uint8))
    (tmp_path / "f1.png").write_bytes(b"damaged")
    drive = open_drive(str(tmp_path))
    first, second = drive.samples()
    assert (drive.cameras, drive.length) == (("",), 3) and "f1.png" in drive.problem
    assert (first.name, first.log_ns, first.header) == ("f0", START_NS, (*divmod(START_NS, 10**9), "camera"))
    assert (second.name, second.frame.data[0, 0, 0]) == ("f2", 2)
    assert facts(drive.samples(1)) == facts([second])


def test_the_street_is_as_long_as_asked_for():
    assert (open_drive("street").length, open_drive("street:3", frames=7).length) == (100, 7)


@pytest.mark.parametrize(
    "spec, topics, reason",
    [
        ("/no/such/drive", (), "does not exist"),
        ("street", ("/image",), "only a rosbag2 has topics"),
        ("/dev/null", (), "live camera"),
    ],
)
def test_refusals(spec, topics, reason):
    with pytest.raises(SourceError, match=reason):
        open_drive(spec, topics)


@pytest.mark.parametrize(
    "topics, names",
    [
        (["/camera/image"], [""]),
        (["/front/image", "/rear/image_raw/compressed"], ["front", "rear"]),
        (["/a/front/image", "/b/front/image"], ["a_front", "b_front"]),
        (["/front/image", "/front/image_color"], ["front_image", "front_image_color"]),
        (["/image", "/other/image"], ["image", "other_image"]),
        (["/front/image", "/front/image/compressed"], ["front_image", "front_image_compressed"]),
        (["/a/b", "/a_b"], ["a_b", "a_b_2"]),
        (["/../image", "/x\n/0/image", "/-"], ["_image", "x_0_image", "_"]),
    ],
)
def test_names_of_cameras(topics, names):
    assert camera_names(topics) == dict(zip(topics, names, strict=True))
