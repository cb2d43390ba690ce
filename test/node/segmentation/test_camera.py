"""Messages of cameras beside good images, over real DDS: camera_info of all kinds, and depth."""

from __future__ import annotations

import numpy as np
import pytest

from m2f_ros.node.messages import encode

pytest.importorskip("rclpy", reason="rclpy is absent")
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image, RegionOfInterest
from std_msgs.msg import Header

pytestmark = pytest.mark.process

msg = pytest.importorskip("m2f_ros.msg", reason="the messages of m2f_ros are not built")

NAME = "/segmentation_node"
PICTURE = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8).repeat(14, 0).repeat(14, 1)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
FISHEYE = CameraInfo(
    width=168,
    height=112,
    distortion_model="equidistant",
    d=[0.1, 0.2, 0.3, 0.4],
    k=[90.0, 0.0, 84.0, 0.0, 91.0, 56.0, 0.0, 0.0, 1.0],
    r=[0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0],
    p=[95.0, 0.0, 84.0, -11.5, 0.0, 96.0, 56.0, 0.0, 0.0, 0.0, 1.0, 0.0],
    binning_x=2,
    binning_y=2,
    header=Header(stamp=Time(sec=7), frame_id="optical"),
)
UNCALIBRATED = CameraInfo(width=84, height=56)
WIDE = CameraInfo(width=84, height=40, k=FISHEYE.k)
HALF = CameraInfo(width=42, height=28, k=[90.0, 0.0, 42.0, 0.0, 91.0, 28.0, 0.0, 0.0, 1.0])
REGION = CameraInfo(width=84, height=56, k=FISHEYE.k, roi=RegionOfInterest(x_offset=2, y_offset=4, width=42, height=28))


def image(array: np.ndarray, encoding: str = "bgr8"):
    return lambda stamp: encode(
        array, encoding, Header(stamp=Time(sec=stamp // 10**9, nanosec=stamp % 10**9), frame_id="camera")
    )


def when(message) -> tuple[int, int]:
    return message.header.stamp.sec, message.header.stamp.nanosec


def test_labels_flow_whatever_camera_info_is_like(segment, peer):
    infos = {
        "fisheye": FISHEYE,
        "empty": CameraInfo(),
        "zeros": UNCALIBRATED,
        "wide": WIDE,
        "region": REGION,
        "half": HALF,
        "latched": FISHEYE,
    }
    latched = peer.node.create_publisher(CameraInfo, "/latched/camera_info", LATCHED)
    latched.publish(FISHEYE)
    process = segment({f"~/{name}/image": f"/{name}/image" for name in infos}, cameras=list(infos))
    for name, info in infos.items():
        if name != "latched":
            peer.stream(CameraInfo, f"/{name}/camera_info", lambda stamp, info=info: info)
        peer.stream(Image, f"/{name}/image", image(PICTURE), rate=5.0)
    got = {name: peer.listen(CameraInfo, f"{NAME}/{name}/camera_info") for name in infos}
    labels = {name: peer.listen(Image, f"{NAME}/{name}/label") for name in infos}
    stats = {name: peer.listen(msg.Stats, f"{NAME}/{name}/stats") for name in infos}
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics")
    peer.until(lambda: all(len(some) > 2 for some in got.values()), f"camera_info of all: {process.log}")
    peer.until(lambda: all(some and some[-1].segmented > 2 for some in stats.values()), "counts")
    peer.until(
        lambda: all(len({*map(when, labels[n])} & {*map(when, got[n])}) > 1 for n in infos), "both of the same frames"
    )
    for name, info in infos.items():
        of_label, of_info = ({when(m): m.header for m in messages} for messages in (labels[name], got[name]))
        assert all(of_label[stamp] == of_info[stamp] for stamp in of_label.keys() & of_info.keys())
        message = got[name][-1]
        message.header = info.header
        if name == "half":  # the same picture, at half the size
            assert (message.width, message.height) == (84, 56)
            assert list(message.k) == [180.0, 0.0, 84.5, 0.0, 182.0, 56.5, 0.0, 0.0, 1.0]
        else:
            assert message == info, name
        assert stats[name][-1].bad == 0
    troubles = {
        "empty": "has no size (0x0): the camera is not calibrated",
        "zeros": "has a K of zeros: the camera is not calibrated",
        "wide": "is of 84x40, the images are 84x56, which is another shape",
        "region": "is of 42x28 by its region of interest and binning, the images are 84x56",
        "half": "is of 42x28, the images are 84x56",
    }
    process.until(lambda: all(process.says(f"/{name}/camera_info ") for name in troubles))
    log = process.log.read_text()
    for name, trouble in troubles.items():
        assert log.count(f"/{name}/camera_info ") == log.count(f"/{name}/camera_info {trouble};") == 1, log
    assert "/fisheye/camera_info" not in log and "/latched/camera_info" not in log
    levels = {s.name: s.level for s in diagnostics[-1].status}
    assert DiagnosticStatus.ERROR not in levels.values(), levels
    assert process.end() == 0


def test_depth_is_no_picture_unless_that_is_asked_for(segment, peer):
    process = segment({"~/image": "/camera/depth/image_raw"})
    labels, stats = peer.listen(Image, f"{NAME}/label"), peer.listen(msg.Stats, f"{NAME}/stats")
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics")

    def bad() -> int:
        values = [pair for m in diagnostics for s in m.status if s.name.endswith(": camera") for pair in s.values]
        return max((int(pair.value) for pair in values if pair.key == "bad"), default=0)

    metres = peer.stream(Image, "/camera/depth/image_raw", image(np.ones((56, 336), np.uint8), "mono8"))
    peer.until(lambda: bad() > 2, f"bad frames: {process.log}")
    metres.end()
    millimetres = np.arange(56 * 84, dtype=np.uint16).reshape(56, 84)
    peer.stream(Image, "/camera/depth/image_raw", image(millimetres, "16UC1"))
    seen = bad()
    peer.until(lambda: bad() > seen + 2, f"more of them: {process.log}")
    assert not labels and not stats
    line = (
        "skipped a bad frame: /camera/depth/image_raw sends depth or other values ('mono8'), no pictures: name the "
        "camera's topic, or set segment_depth to take them as grey pictures"
    )
    process.until(lambda: process.says(line))
    (result,) = peer.set(NAME, segment_depth=True)
    assert result.successful
    peer.until(lambda: labels, f"a label: {process.log}")
    assert (labels[-1].width, labels[-1].height) == (84, 56)
    assert process.end() == 0
