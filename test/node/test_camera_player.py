"""camera_player as a process: what comes of a folder of images, and what ends it."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from m2f_ros.bags.messages import CAMERA_INFO, IMAGE, Messages
from m2f_ros.bags.writer import BagWriter
from m2f_ros.frame.calibration import Calibration, Region
from m2f_ros.frame.compressed import decode_compressed
from m2f_ros.frame.raw import image_view
from m2f_ros.processes.children import PARTIAL
from m2f_ros.replay.make_bag import make_bag
from m2f_ros.sources.ground_truth import panoptic_truth
from m2f_ros.sources.open import open_source
from m2f_ros.sources.sample import START_NS

pytest.importorskip("rclpy", reason="rclpy is absent")
from rclpy.time import Time
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

pytestmark = pytest.mark.process

msg = pytest.importorskip("m2f_ros.msg", reason="the messages of m2f_ros are not built")


def write_images(folder, count: int) -> list[np.ndarray]:
    folder.mkdir(parents=True)
    images = [np.full((6, 8, 3), 10 * index, np.uint8) for index in range(count)]
    for index, image in enumerate(images):
        cv2.imwrite(str(folder / f"{index:03d}.png"), image)
    return images


def events(process) -> list[dict]:
    return [json.loads(line) for line in process.log.read_text().splitlines() if line.startswith("{")]


def test_images_and_labels_come_in_order_with_one_header(start, peer, tmp_path):
    images = write_images(tmp_path / "images", 5)
    (tmp_path / "labels").mkdir()
    for index in range(5):
        label = np.full((6, 8), index, np.uint8)
        label[0, 0] = 11  # CamVid's unlabelled
        cv2.imwrite(str(tmp_path / "labels" / f"{index:03d}.png"), label)
    # In this order: the player waits for the subscription to the image, and learns of it last.
    truth = peer.listen(Image, "/camera/ground_truth")
    got = peer.listen(Image, "/camera/image")
    player = start(
        "camera_player",
        *("--ros-args", "-r", "__ns:=/camera", "-p", f"source:={tmp_path / 'images'}", "-p", "rate:=50.0"),
        *("-p", f"labels:={tmp_path / 'labels'}", "-p", "taxonomy:=camvid"),
    )
    peer.until(lambda: player.process.poll() is not None and len(got) == len(truth) == 5, "all images")
    assert player.process.returncode == 0
    for index in range(5):
        np.testing.assert_array_equal(image_view(got[index]), images[index])
        label = image_view(truth[index])
        assert (label[0, 0], label[0, 1]) == (255, index)
        assert got[index].header == truth[index].header
    stamps = [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in got]
    assert stamps == sorted(stamps)
    end = events(player)[-1]
    assert end.pop("qos") == "/camera/image is sent by camera_player reliable; read by peer reliable"
    assert end == {"event": "end", "sent": 5, "last_stamp": stamps[-1]}


def test_images_that_are_missing_are_said(start, peer, tmp_path):
    write_images(tmp_path / "images", 3)
    damaged = tmp_path / "images" / "001.png"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    got = peer.listen(Image, "/camera/image")
    player = start("camera_player", "--ros-args", "-r", "__ns:=/camera", "-p", f"source:={tmp_path / 'images'}")
    peer.until(lambda: player.process.poll() is not None and len(got) == 2, "the others")
    *_, missing, end = events(player)
    assert (missing["event"], end["event"], end["sent"]) == ("missing", "end", 2)
    assert missing["why"].startswith("001.png is not a readable image: PNG is cut off after ")


def test_the_street_brings_its_camera(start, peer):
    info = peer.listen(CameraInfo, "/camera/camera_info")
    peer.listen(Image, "/camera/image")
    player = start("camera_player", "--ros-args", "-r", "__ns:=/camera", "-p", "frames:=2")
    peer.until(lambda: player.process.poll() is not None and info, "camera_info")
    assert player.process.returncode == 0
    assert (info[0].width, info[0].height) == (640, 480)
    assert info[0].k[0] == info[0].p[0] > 0 and info[0].k[2] == info[0].p[2] == 319.5


def test_camera_info_of_a_bag_is_played_unchanged(start, peer, tmp_path):
    info = Calibration(
        80,
        60,
        "equidistant",
        (0.1, 0.2, 0.3, 0.4),
        (50.0, 1.0, 4.0, 0.0, 51.0, 3.0, 0.0, 0.0, 1.0),
        (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0),
        (49.0, 0.0, 4.0, -60.25, 0.0, 50.0, 3.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        2,
        2,
        Region(3, 4, 12, 16, True),
        "optical",
    )
    with BagWriter(tmp_path / "drive") as bag:
        make = Messages(bag.types)
        for stamp, roi in ((5, info.roi), (6, Region())):  # the second fits the images no more
            header = make.header(stamp, "cam")
            bag.write("/left/camera_info", CAMERA_INFO, make.camera_info(replace(info, roi=roi), header), stamp)
            bag.write("/left/image", IMAGE, make.image(np.zeros((6, 8, 3), np.uint8), "bgr8", header), stamp)
    got = peer.listen(CameraInfo, "/camera/camera_info")
    images = peer.listen(Image, "/camera/image")
    player = start("camera_player", "--ros-args", "-r", "__ns:=/camera", "-p", f"source:={tmp_path / 'drive'}")
    peer.until(lambda: player.process.poll() is not None and len(got) == len(images) == 2, "both frames")
    assert player.process.returncode == 0
    assert [Calibration.of(message) for message in got] == [info, replace(info, roi=Region())]
    assert [message.header.stamp for message in got] == [message.header.stamp for message in images]
    assert player.says("warning: /camera/camera_info is of 40x30, the images are 8x6; it is passed on as it is")


def test_a_drive_is_played_by_its_own_time(start, peer, tmp_path):
    samples = list(open_source("street", frames=3))
    make_bag(open_source("street", frames=3), tmp_path / "drive")
    legend = peer.listen(msg.Legend, "/camera/ground_truth/legend", latched=True)
    truth, clock = peer.listen(Image, "/camera/ground_truth"), peer.listen(Clock, "/clock", depth=1000)
    got = peer.listen(Image, "/camera/image")
    player = start(
        "camera_player",
        *("--ros-args", "-r", "__ns:=/camera", "-p", f"source:={tmp_path / 'drive'}"),
        *("-p", "clock:=100.0", "-p", "speed:=0.5"),
    )
    stamps = [START_NS + n * 10**8 for n in range(3)]
    times: list[int] = []

    def is_over() -> bool:
        times[:] = [Time.from_msg(message.clock).nanoseconds for message in clock]
        return len(got) == len(truth) == 3 and bool(legend) and stamps[-1] in times

    peer.until(is_over, "all images and the time of the last")
    assert player.ends() == 0
    for sample, image, label, stamp in zip(samples, got, truth, stamps, strict=True):
        assert Time.from_msg(image.header.stamp).nanoseconds == stamp
        assert image.header == label.header
        np.testing.assert_array_equal(image_view(image), sample.image)
        np.testing.assert_array_equal(image_view(label), sample.label)
    assert (legend[0].taxonomy, len(legend[0].classes), legend[0].model) == ("cityscapes", 19, "")
    assert times == sorted(times) and set(stamps) < set(times)


def test_the_clock_runs_by_the_times_of_recording_and_missing_frames_are_said(start, peer, tmp_path):
    times = [(START_NS + n * 10**8, 10**9 - n) for n in range(3)]  # of recording, and of the header, which goes back
    with BagWriter(tmp_path / "drive") as bag:
        make = Messages(bag.types)
        for log_ns, stamp_ns in times:
            picture = make.image(np.zeros((6, 8, 3), np.uint8), "bgr8", make.header(stamp_ns, "front"))
            bag.write("/front/image", IMAGE, picture, log_ns)
    metadata = tmp_path / "drive" / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("message_count: 3", "message_count: 5"))
    clock = peer.listen(Clock, "/clock", depth=1000)
    got = peer.listen(Image, "/camera/image")
    player = start(
        "camera_player",
        *("--ros-args", "-r", "__ns:=/camera", "-p", f"source:={tmp_path / 'drive'}", "-p", "clock:=100.0"),
    )
    seen: list[int] = []

    def is_over() -> bool:
        seen[:] = [Time.from_msg(message.clock).nanoseconds for message in clock]
        return len(got) == 3 and times[-1][0] in seen

    peer.until(is_over, "all images and the time of the last")
    assert player.ends() == PARTIAL
    assert [Time.from_msg(image.header.stamp).nanoseconds for image in got] == [stamp_ns for _, stamp_ns in times]
    assert seen == sorted(seen) and {log_ns for log_ns, _ in times} < set(seen)
    assert player.says(f"error: {tmp_path}/drive: /front/image: 3 of 5 messages are there")


def test_compressed_images_and_panoptic_ground_truth(start, peer):
    (sample,) = open_source("street", frames=1)
    panoptic = peer.listen(Image, "/camera/ground_truth/panoptic")
    segments = peer.listen(msg.Segments, "/camera/ground_truth/segments")
    got = peer.listen(CompressedImage, "/camera/image/compressed")
    player = start(
        "camera_player",
        *("--ros-args", "-r", "__ns:=/camera", "-p", "frames:=1", "-p", "transport:=compressed"),
    )
    peer.until(lambda: player.process.poll() is not None and got and panoptic and segments, "the frame")
    frame = decode_compressed(got[0])
    assert frame.encoding == "bgr8"
    difference = frame.data[..., ::-1].astype(int) - sample.image
    assert np.abs(difference).mean() < 3
    ids, rows = panoptic_truth(sample.label, sample.instances, open_source("street").taxonomy)
    np.testing.assert_array_equal(image_view(panoptic[0]), ids)
    assert panoptic[0].header == segments[0].header == got[0].header
    assert [(s.id, s.class_id, s.area, (s.x, s.y, s.width, s.height)) for s in segments[0].segments] == [
        (row.id, row.train_id, row.area, row.box) for row in rows
    ]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("-p", "source:=/no/such/folder"), 2, ["/no/such/folder", "does not exist"]),
        (("-p", "frames:=1", "-p", "timeout:=0.0"), 1, ["0 of 1 subscribers", "/image", "'subscribers'"]),
        (
            ("-p", "frames:=1", "-p", "subscribers:=0", "-p", "truth_subscribers:=1", "-p", "timeout:=0.0"),
            *(1, ["0 of 1 subscribers", "/ground_truth", "'truth_subscribers'"]),
        ),
        (("-p", "rate:=-1.0"), 2, ["'rate'", "0.0 to 1000.0"]),
    ],
)
def test_what_cannot_work_is_one_line(start, arguments, status, words):
    player = start("camera_player", "--ros-args", *arguments)
    assert player.ends() == status
    last = player.log.read_text().strip().splitlines()[-1]
    assert all(word in last for word in words), last
    assert not player.says("Traceback")
