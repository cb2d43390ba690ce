"""Several cameras and all outputs of segmentation_node, over real DDS."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
import torch

from m2f_ros import taxonomy
from m2f_ros.frame.raw import image_view
from m2f_ros.node.messages import encode
from m2f_ros.pipeline.device import hardware_name

pytest.importorskip("rclpy", reason="rclpy is absent")
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import GetParameters
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

pytestmark = pytest.mark.process

msg = pytest.importorskip("m2f_ros.msg", reason="the messages of m2f_ros are not built")

NAME = "/segmentation_node"


def picture(height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8: blocks of random colour."""
    blocks = np.random.default_rng(height).integers(0, 256, (height // 14, width // 14, 3), np.uint8)
    return blocks.repeat(14, 0).repeat(14, 1)


def header(stamp: int, frame: str) -> Header:
    return Header(stamp=Time(sec=stamp // 10**9, nanosec=stamp % 10**9), frame_id=frame)


def raw(image: np.ndarray, frame: str = "camera"):
    return lambda stamp: encode(image, "bgr8", header(stamp, frame))


def compressed(image: np.ndarray, kind: str, frame: str = "camera"):
    data = cv2.imencode(kind, image)[1].tobytes()
    return lambda stamp: CompressedImage(header=header(stamp, frame), format=f"bgr8; {kind[1:]}", data=data)


def stamp_of(message) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def newest_status(received: list, task: str):
    """(level, message, values) that /diagnostics last said of a task; before it did, None, "" and none."""
    said = (s for message in reversed(received) for s in message.status if s.name == f"/segmentation_node: {task}")
    if (status := next(said, None)) is None:
        return None, "", {}
    return status.level[0], status.message, {pair.key: pair.value for pair in status.values}


def test_three_cameras_of_different_sizes_and_transports(segment, peer):
    sizes = {"front": (56, 84), "left": (70, 98), "rear": (84, 56)}
    process = segment(
        {f"~/{name}/image": f"/{name}/image_raw" for name in sizes},
        cameras=list(sizes),
        camera__left__transport="compressed",
        camera__rear__outputs=["label"],
        camera__rear__reliability="reliable",
        batch=3,
        batch_window=1.0,
        resize="fixed",
        resize_height=64,
        resize_width=96,
    )
    labels = {name: peer.listen(Image, f"{NAME}/{name}/label") for name in sizes}
    overlays = peer.listen(Image, f"{NAME}/rear/overlay")
    peer.stream(Image, "/front/image_raw", raw(picture(*sizes["front"]), "front"))
    peer.stream(CompressedImage, "/left/image_raw/compressed", compressed(picture(*sizes["left"]), ".png", "left"))
    peer.stream(Image, "/rear/image_raw", raw(picture(*sizes["rear"]), "rear"))
    peer.until(lambda: all(len(got) >= 5 for got in labels.values()), f"labels of all: {process.log}")
    for name, got in labels.items():
        assert {(m.height, m.width, m.header.frame_id, m.encoding) for m in got} == {(*sizes[name], name, "mono8")}
        stamps = [stamp_of(m) for m in got]
        assert stamps == sorted(set(stamps))
    assert not overlays  # not among the outputs of this camera
    (refused,) = peer.set(NAME, max_rate=5.0)
    assert not refused.successful and "camera.front.max_rate" in refused.reason
    assert peer.set(NAME, camera__rear__outputs=["overlay"])[0].successful
    peer.until(lambda: overlays, "overlays")
    assert process.end() == 0


def test_all_outputs_agree_with_each_other(segment, peer):
    process = segment(jpeg_quality=100, score_threshold=0.0, overlap_threshold=0.0)
    info = CameraInfo(width=168, height=112, k=[200.0, 0.0, 84.0, 0.0, 200.0, 56.0, 0.0, 0.0, 1.0])
    images = ("label", "overlay", "color", "confidence", "panoptic")
    got = {name: peer.listen(Image, f"{NAME}/{name}") for name in images}
    for name in images:
        got[f"{name}/compressed"] = peer.listen(CompressedImage, f"{NAME}/{name}/compressed")
    got["segments"] = peer.listen(msg.Segments, f"{NAME}/segments")
    got["camera_info"] = peer.listen(CameraInfo, f"{NAME}/camera_info")
    got["stats"] = peer.listen(msg.Stats, f"{NAME}/stats")
    peer.stream(CameraInfo, "/camera/camera_info", lambda stamp: info)
    peer.stream(Image, "/camera/image", raw(picture(56, 84)), rate=5.0)

    def frames() -> list[int]:
        return sorted(set.intersection(*({stamp_of(m) for m in messages} for messages in got.values())))

    peer.until(lambda: len(frames()) > 1, f"a frame with every output: {process.log}")
    frame = {name: next(m for m in messages if stamp_of(m) == frames()[-1]) for name, messages in got.items()}
    assert all(m.header.frame_id == "camera" for m in frame.values())

    arrays = {name: image_view(frame[name]) for name in images}
    for name in images:
        data = np.frombuffer(frame[f"{name}/compressed"].data, np.uint8)
        decoded = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
        if name == "overlay":  # JPEG
            assert np.abs(decoded.astype(int) - arrays[name]).mean() < 4
        else:
            np.testing.assert_array_equal(decoded, arrays[name], name)
    palette = taxonomy.get("cityscapes").palette()[:, ::-1]
    np.testing.assert_array_equal(arrays["color"], palette[arrays["label"]])

    segments = {s.id: s for s in frame["segments"].segments}
    assert frame["panoptic"].encoding == "mono16" and len(segments) > 0
    assert set(np.unique(arrays["panoptic"])) - {0} == set(segments)
    for number, one in segments.items():
        rows, columns = np.nonzero(arrays["panoptic"] == number)
        assert one.area == len(rows)
        assert (one.x, one.y) == (columns.min(), rows.min())
        assert (one.x + one.width, one.y + one.height) == (columns.max() + 1, rows.max() + 1)
        assert 0 < one.score <= 1 and one.class_id < 19

    shares = frame["stats"].class_shares
    assert shares == pytest.approx([*(np.mean(arrays["label"] == i) for i in range(19)), 0.0], abs=1e-4)
    fitted = frame["camera_info"]
    assert (fitted.width, fitted.height) == (84, 56)
    assert fitted.k[0] == pytest.approx(100.0) and fitted.k[2] == pytest.approx((84 + 0.5) / 2 - 0.5)


def test_no_work_without_listeners(segment, peer):
    segment(diagnostics_period=0.2)
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics")
    peer.stream(Image, "/camera/image", raw(picture(56, 84)))

    def said(message: str) -> bool:
        return newest_status(diagnostics, "camera")[1] == message

    def is_idle() -> bool:
        """True if no frame is left that came while somebody listened."""
        values = {key: int(v) for key, v in newest_status(diagnostics, "camera")[2].items() if v.isdecimal()}
        ends = [count for key, count in values.items() if key in ("segmented", "bad") or key.startswith("dropped: ")]
        return said("nobody listens") and values["received"] == sum(ends)

    for _ in range(2):
        peer.until(is_idle, "it says that nobody listens")
        segmented = newest_status(diagnostics, "camera")[2]["segmented"]
        count = len(diagnostics)
        peer.until(lambda count=count: len(diagnostics) > count + 2, "more diagnostics")
        assert newest_status(diagnostics, "camera")[2]["segmented"] == segmented
        labels = peer.listen(Image, f"{NAME}/label")
        peer.until(lambda labels=labels: labels and said("segmenting"), "labels")
        # Those of a frame whose result was there.
        peer.until(lambda: "age p50 (ms)" in newest_status(diagnostics, "camera")[2], "ages")
        values = newest_status(diagnostics, "camera")[2]
        assert float(values["rate in (Hz)"]) > 0 and float(values["age p50 (ms)"]) > 0
        peer.mute(f"{NAME}/label")


def test_a_camera_that_dies_and_returns(segment, peer):
    process = segment(diagnostics_period=0.2, stale_after=0.5, late_after=100.0)
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics")
    labels = peer.listen(Image, f"{NAME}/label")

    def level() -> int | None:
        return newest_status(diagnostics, "camera")[0]

    for _ in range(2):
        camera = peer.stream(Image, "/camera/image", raw(picture(56, 84)))
        peer.until(
            lambda: labels and level() == 0 and newest_status(diagnostics, "camera")[1] == "segmenting", "labels"
        )
        camera.end()
        peer.until(lambda: level() == 1, "a warning")
        assert newest_status(diagnostics, "camera")[1].startswith("no image for")
        labels.clear()
    assert newest_status(diagnostics, "device")[1] == "active"
    ids = {status.name: status.hardware_id for status in diagnostics[-1].status}
    name = hardware_name(torch.device("cpu"))
    assert ids == {f"{NAME}: camera": "/camera/image", f"{NAME}: device": name, f"{NAME}: space": ""}
    assert process.end() == 0


def test_files_that_are_damaged_are_skipped(segment, peer):
    process = segment(transport="compressed", diagnostics_period=0.2)
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics")
    labels = peer.listen(Image, f"{NAME}/label")
    good = compressed(picture(56, 84), ".jpg")(0).data
    grey = compressed(picture(56, 84)[..., 0], ".jpg")(0).data
    hole = bytes(good[:-300]) + bytes(200) + bytes(good[-100:])
    broken = [b"", hole, b"\x89PNG\r\n\x1a\n", b"GIF89a" + bytes(50), good[: len(good) // 2]]

    def message(stamp: int, data: bytes) -> CompressedImage:
        return CompressedImage(header=header(stamp, "camera"), format="bgr8; jpeg compressed bgr8", data=data)

    files = itertools.cycle(data for one in broken for data in (one, good, one, grey))
    camera = peer.stream(CompressedImage, "/camera/image/compressed", lambda stamp: message(stamp, next(files)))
    peer.until(lambda: len(labels) > 10, f"labels of the good ones: {process.log}")
    peer.until(lambda: int(newest_status(diagnostics, "camera")[2].get("bad", 0)) > 5, "bad frames are counted")
    process.until(lambda: process.says("skipped a bad frame"))
    camera.end()
    peer.stream(CompressedImage, "/camera/image/compressed", lambda stamp: message(stamp, hole))
    peer.until(lambda: newest_status(diagnostics, "camera")[0] == 2, "an error, for nothing can be segmented")
    assert process.process.poll() is None


def test_a_camera_of_12_bits_is_not_black(segment, peer):
    process = segment(cameras=["auto", "told"], camera__told__bit_depth=10)
    overlays = {name: peer.listen(Image, f"{NAME}/{name}/overlay") for name in ("auto", "told")}
    ramp = np.linspace(0, 4095, 56 * 84).astype(np.uint16).reshape(56, 84)
    for name in overlays:
        peer.stream(Image, f"{NAME}/{name}/image", lambda stamp: encode(ramp, "mono16", header(stamp, "camera")))
    peer.until(lambda: all(overlays.values()), f"overlays: {process.log}")
    assert np.abs(image_view(overlays["auto"][-1]).mean() - image_view(overlays["told"][-1]).mean()) > 20
    process.until(lambda: process.says("the images of auto: 12 of the 16 bits are taken as used, by the values so far"))
    process.until(lambda: process.says("the images of told: values exceed bit_depth 10 and are white"))
    assert process.end() == 0


def test_time_that_jumps_is_said_once(segment, peer):
    process = segment()
    stats = peer.listen(msg.Stats, f"{NAME}/stats")
    image = picture(56, 84)
    # A bag of 40 frames that loops, with one frame in ten late.
    order = [i - 3 if i % 10 == 9 else i for i in range(40)]
    numbers = iter(order * 1000)
    peer.stream(
        Image, "/camera/image", lambda _: encode(image, "bgr8", header(10**9 * 100 + next(numbers) * 10**8, "c"))
    )
    peer.until(lambda: stats and "out_of_order" in stats[-1].drop_reasons, "late frames are dropped")
    peer.until(lambda: process.says("time jumped back"), "the loop")

    def jumps() -> int:
        stamps = [stamp_of(m) for m in stats]
        return sum(later < earlier for earlier, later in itertools.pairwise(stamps))

    peer.until(lambda: jumps() >= 2, "it goes on after each loop")
    text = process.log.read_text()
    assert text.count("time jumped back") == text.count("out of order") == 1
    assert process.end() == 0


def test_quality_of_service_is_as_documented_and_can_be_overridden(start, peer, small_model):
    from rclpy.qos import DurabilityPolicy, ReliabilityPolicy

    arguments = ["--ros-args", "-p", f"model:={small_model}", "-p", "device:=cpu", "-r", "~/image:=/camera/image"]
    arguments += ["-p", "cameras:=[front, left]", "-p", "camera.left.reliability:=reliable", "-p", "hidden:=[]"]
    arguments += ["-p", f"qos_overrides.{NAME}/front/label.publisher.depth:=7"]
    arguments += ["-p", f"qos_overrides.{NAME}/front/label.publisher.reliability:=best_effort"]
    start("segmentation_node", *arguments)

    def reliability(topic: str, publisher: bool = True) -> ReliabilityPolicy | None:
        found = peer.node.get_publishers_info_by_topic if publisher else peer.node.get_subscriptions_info_by_topic
        infos = found(f"{NAME}/{topic}")
        return infos[0].qos_profile.reliability if infos else None

    for topic in ("front/image", "left/image"):
        peer.until(lambda topic=topic: reliability(topic, publisher=False), f"{topic} is read")
    for topic in ("front/label", "left/label", "legend"):
        peer.until(lambda topic=topic: reliability(topic), f"{topic} is published")
    assert reliability("front/image", publisher=False) == ReliabilityPolicy.BEST_EFFORT
    assert reliability("left/image", publisher=False) == ReliabilityPolicy.RELIABLE
    assert reliability("front/label") == ReliabilityPolicy.BEST_EFFORT
    assert reliability("left/label") == ReliabilityPolicy.RELIABLE
    (legend,) = peer.node.get_publishers_info_by_topic(f"{NAME}/legend")
    assert legend.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
    names = [f"qos_overrides.{NAME}/{name}/label.publisher.depth" for name in ("front", "left")]
    request = GetParameters.Request(names=names)
    depths = peer.call(GetParameters, f"{NAME}/get_parameters", request).values
    assert [depth.integer_value for depth in depths] == [7, 1]


def test_bad_frames_of_two_cameras_are_both_said(segment, peer):
    process = segment(cameras=["one", "other"])
    labels = [peer.listen(Image, f"{NAME}/{name}/label") for name in ("one", "other")]

    def unknown(stamp: int) -> Image:
        message = raw(picture(56, 84))(stamp)
        message.encoding = "xyz"
        return message

    for name in ("one", "other"):
        peer.stream(Image, f"{NAME}/{name}/image", unknown, rate=50.0)
    peer.until(lambda: process.says("frame of one: ") and process.says("frame of other: "), f"both: {process.log}")
    said = [line for line in process.log.read_text().splitlines() if "skipped a bad frame of " in line]
    assert sum("(1 so far)" in line for line in said) == 2, said  # of each the first, whatever the other sent
    assert not any(labels)
