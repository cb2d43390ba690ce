"""camera_player as a process: what comes of a folder of images, and what ends it."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from m2f_ros.replay.compressed import decode_compressed
from m2f_ros.replay.ground_truth import panoptic_truth
from m2f_ros.replay.images import image_view
from m2f_ros.replay.make_bag import START_NS, make_bag
from m2f_ros.replay.sources import open_source

pytest.importorskip("rclpy", reason="rclpy is absent")
from rclpy.time import Time
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

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
    assert events(player)[-1] == {"event": "end", "sent": 5, "last_stamp": stamps[-1]}


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


def test_a_drive_is_played_by_its_own_time(start, peer, tmp_path):
    samples = list(open_source("street", frames=3))
    make_bag(open_source("street", frames=3), tmp_path / "drive")
    legend = peer.listen(msg.Legend, "/camera/ground_truth/legend", latched=True)
    truth, clock = peer.listen(Image, "/camera/ground_truth"), peer.listen(Clock, "/clock")
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
    assert player.process.wait(60) == 0
    for sample, image, label, stamp in zip(samples, got, truth, stamps, strict=True):
        assert Time.from_msg(image.header.stamp).nanoseconds == stamp
        assert image.header == label.header
        np.testing.assert_array_equal(image_view(image), sample.image)
        np.testing.assert_array_equal(image_view(label), sample.label)
    assert (legend[0].taxonomy, len(legend[0].classes), legend[0].model) == ("cityscapes", 19, "")
    assert times == sorted(times) and set(stamps) < set(times)


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
        (("-p", "frames:=1", "-p", "timeout:=0.0"), 1, ["0 of 1 subscribers", "/image"]),
        (("-p", "rate:=-1.0"), 2, ["'rate'", "0.0 to 1000.0"]),
    ],
)
def test_what_cannot_work_is_one_line(start, arguments, status, words):
    player = start("camera_player", "--ros-args", *arguments)
    assert player.process.wait(60) == status
    last = player.log.read_text().strip().splitlines()[-1]
    assert all(word in last for word in words), last
    assert not player.says("Traceback")
