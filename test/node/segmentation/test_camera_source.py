"""segmentation_node finds its images over real DDS by what is published: transport, reliability, and 3840x2160."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest

from m2f_ros.node.messages import encode

pytest.importorskip("rclpy", reason="rclpy is absent")
pytest.importorskip("m2f_ros.msg", reason="the messages of m2f_ros are not built")
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from m2f_ros.msg import Stats
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String

from m2f_ros.node.segmentation.camera import SILENT_LOOKS

pytestmark = pytest.mark.process

NAME, TOPIC = "/segmentation_node", "/camera/image"
RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT
FRAMES, UNANSWERED = 12, 2
PICTURE = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8).repeat(14, 0).repeat(14, 1)


def raw(stamp: int) -> Image:
    return encode(PICTURE, "bgr8", Header(stamp=Time(sec=stamp // 10**9, nanosec=stamp % 10**9)))


def compressed(stamp: int) -> CompressedImage:
    header = Header(stamp=Time(sec=stamp // 10**9, nanosec=stamp % 10**9))
    return CompressedImage(header=header, format="jpeg", data=cv2.imencode(".jpg", PICTURE)[1].tobytes())


def subscribed(peer, topic: str = TOPIC) -> list[ReliabilityPolicy]:
    return [info.qos_profile.reliability for info in peer.node.get_subscriptions_info_by_topic(topic)]


def lines(process, text: str) -> list[str]:
    return [line.partition("]: ")[2] for line in process.log.read_text().splitlines() if text in line]


def test_every_image_above_16_mib_of_a_reliable_camera_arrives(segment, peer):
    process = segment(max_pixels=4096, depth=UNANSWERED, output_scale=0.1)
    stats = peer.listen(Stats, f"{NAME}/stats")
    camera = peer.node.create_publisher(Image, TOPIC, UNANSWERED)
    peer.settled(TOPIC, str(process.log))
    message = encode(np.zeros((2160, 3840, 3), np.uint8), "bgr8", Header())
    numbers = itertools.count(1)

    def send() -> int:
        message.header.stamp.sec = next(numbers)
        camera.publish(message)
        return message.header.stamp.sec

    # Each end of a connection learns of the other by itself, and what is sent before both know is lost.
    timer = peer.node.create_timer(0.5, send)
    peer.until(lambda: stats, f"the node answers: {process.log}")
    peer.node.destroy_timer(timer)
    begin = send()
    peer.until(lambda: stats[-1].header.stamp.sec == begin, "the last frame before those that count")
    before = stats[-1].received
    for count in range(1, FRAMES + 1):
        send()
        peer.until(lambda count=count: stats[-1].received - before > count - UNANSWERED, f"frame {count} arrives")
    peer.until(lambda: stats[-1].header.stamp.sec == begin + FRAMES, "the newest is segmented")
    assert stats[-1].received - before == FRAMES
    process.until(lambda: process.says("first result of"))
    process.until(lambda: process.says("first image on /camera/image: 3840x2160 'bgr8'"))
    assert len(lines(process, "first image on")) == len(lines(process, "first result of")) == 1


def test_reliability_and_transport_follow_the_publishers(segment, peer):
    process = segment()
    labels = peer.listen(Image, f"{NAME}/label")
    peer.until(lambda: subscribed(peer) == [BEST_EFFORT], f"the topic: {process.log}")

    def stream(kind: type, topic: str, make, reliability: ReliabilityPolicy) -> None:
        camera = peer.node.create_publisher(kind, topic, QoSProfile(depth=1, reliability=reliability))
        timer = peer.node.create_timer(0.05, lambda: camera.publish(make(peer.node.get_clock().now().nanoseconds)))
        peer.until(lambda: subscribed(peer, topic) == [reliability], f"{topic}, {reliability}: {process.log}")
        labels.clear()
        peer.until(lambda: labels, f"labels: {process.log}")
        if topic == TOPIC:
            peer.node.destroy_timer(timer)
            peer.node.destroy_publisher(camera)

    stream(Image, TOPIC, raw, RELIABLE)
    stream(Image, TOPIC, raw, BEST_EFFORT)
    stream(CompressedImage, f"{TOPIC}/compressed", compressed, RELIABLE)
    stream(Image, TOPIC, raw, RELIABLE)  # where both are
    process.until(lambda: len(lines(process, "the images come from")) > 2)
    assert [line.removeprefix("the images come from ") for line in lines(process, "the images come from")][:3] == [
        "/camera/image (Image, reliable)",
        "/camera/image (Image, best effort)",
        "/camera/image/compressed (CompressedImage, reliable)",
    ]
    assert not process.says("incompatible QoS")
    assert process.end() == 0


def test_another_reliability_of_a_camera_that_pauses_is_no_fault(segment, peer):
    process = segment(diagnostics_period=0.2)
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics")
    camera = peer.node.create_publisher(Image, TOPIC, QoSProfile(depth=1, reliability=BEST_EFFORT))
    timer = peer.node.create_timer(0.05, lambda: camera.publish(raw(peer.node.get_clock().now().nanoseconds)))
    peer.until(lambda: process.says("first image on /camera/image"), f"an image came: {process.log}")
    peer.node.destroy_timer(timer)
    peer.node.create_publisher(Image, TOPIC, 1)
    peer.node.destroy_publisher(camera)
    peer.settled(TOPIC, str(process.log))
    count = len(diagnostics)
    peer.until(lambda: len(diagnostics) > count + 5 * (SILENT_LOOKS + 2), "the looks that would find a silent camera")
    assert not process.says("no image has come")
    assert process.end() == 0


def test_an_override_of_the_reliability_holds_and_a_remapping_is_applied_once(segment, peer):
    override = {f"qos_overrides.{TOPIC}.subscription.reliability": "best_effort"}
    process = segment({"~/image": TOPIC, TOPIC: "/elsewhere"}, **override)
    labels = peer.listen(Image, f"{NAME}/label")
    peer.until(lambda: subscribed(peer) == [BEST_EFFORT], f"the topic: {process.log}")
    peer.stream(Image, TOPIC, raw)
    line = "the images come from /camera/image (Image, best effort)"
    peer.until(lambda: labels and process.says(line), f"the publisher was seen: {process.log}")
    assert subscribed(peer) == [BEST_EFFORT] and not subscribed(peer, "/elsewhere")


def test_why_no_image_comes_is_said_once_for_each_change(segment, peer):
    process = segment(transport="raw", reliability="reliable", diagnostics_period=0.2)
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics")

    def said(text: str) -> bool:
        return any(text in status.message for message in diagnostics[-1:] for status in message.status)

    peer.node.create_publisher(String, "/camera/name", 1)
    peer.node.create_publisher(Image, "/camera/image_raw", 1)
    peer.until(lambda: said("there is /camera/image_raw"), f"a similar name: {process.log}")
    camera = peer.stream(CompressedImage, f"{TOPIC}/compressed", compressed)
    peer.until(lambda: said("set transport to compressed, or to auto"), f"another transport: {process.log}")
    count = len(diagnostics)
    peer.until(lambda: len(diagnostics) > count + 15, "three more looks")
    process.until(lambda: process.says("set transport to compressed, or to auto"))
    found = [line.rpartition(" (-r '~/image:=TOPIC')")[0] for line in lines(process, "is published on")]
    # The node's first look may come before it has discovered the peer's topics.
    assert [line for line in found if "nor an image topic of another name" not in line] == [
        "no Image is published on /camera/image; there is /camera/image_raw: name one of them, or start the camera",
        "no Image is published on /camera/image, but CompressedImage on /camera/image/compressed: set transport to "
        "compressed, or to auto",
    ]
    camera.end()
    camera = peer.node.create_publisher(Image, TOPIC, QoSProfile(depth=1, reliability=BEST_EFFORT))
    line = (
        "/camera/image (Image) is published, but no image has come: it is read reliably and offered best effort; set "
    )
    peer.until(lambda: said(line), f"it does not match: {process.log}")
    peer.node.destroy_publisher(camera)
    peer.stream(Image, TOPIC, raw)
    peer.until(lambda: process.says("first image on /camera/image: 84x56 'bgr8'"), f"it comes: {process.log}")
    peer.until(lambda: said("nobody listens"), "the trouble is over")


def test_a_publisher_of_which_nothing_comes_is_said(segment, peer):
    process = segment(
        {f"~/{name}/image": f"/{name}/image" for name in ("idle", "strict", "broken")},
        cameras=["idle", "strict", "broken"],
        **{"qos_overrides./strict/image.subscription.reliability": "reliable"},
    )
    peer.node.create_publisher(Image, "/idle/image", 1)
    peer.stream(CompressedImage, "/idle/image/compressed", compressed)
    peer.node.create_publisher(Image, "/strict/image", QoSProfile(depth=1, reliability=BEST_EFFORT))
    peer.stream(Image, "/broken/image", lambda stamp: b"\0\1\0\0no message")  # bytes do come
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics")
    peer.until(lambda: len(lines(process, "no image has come")) == 2, f"both are said: {process.log}")
    count = len(diagnostics)
    peer.until(lambda: len(diagnostics) > count + 2, "three more looks")
    assert sorted(lines(process, "no image has come")) == [
        "/idle/image (Image) is published, but no image has come; there is CompressedImage on /idle/image/compressed, "
        "too: set transport to compressed if it sends that alone",
        "/strict/image (Image) is published, but no image has come: it is read reliably and offered best effort; set "
        "reliability, or qos_overrides, to best_effort",
    ]
    assert process.end() == 0
