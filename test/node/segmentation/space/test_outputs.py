"""Outputs in space of segmentation_node, over real DDS: depth to points, tf, lidar, grid, obstacles and bad inputs."""

from __future__ import annotations

import struct
from array import array

import cv2
import numpy as np
import pytest

from m2f_ros import taxonomy
from m2f_ros.frame.calibration import Calibration
from m2f_ros.frame.raw import image_view
from m2f_ros.node.messages import cloud_message, encode
from m2f_ros.space.camera_model import CameraModel
from m2f_ros.space.cloud import Cloud
from m2f_ros.space.costs import read_costs
from m2f_ros.space.grid import GridSettings, GroundGrid
from m2f_ros.space.labelled import Labelled
from m2f_ros.space.lidar import View, label_cloud
from m2f_ros.space.obstacles import obstacles
from m2f_ros.space.transforms import OPTICAL, inverse, pose, quaternion

pytest.importorskip("rclpy", reason="rclpy is absent")
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from nav_msgs.msg import OccupancyGrid
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, LaserScan, PointCloud2
from std_msgs.msg import Header

try:
    from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
    from tf2_msgs.msg import TFMessage
except ImportError:
    TFMessage = None

try:
    from vision_msgs.msg import Detection2DArray, LabelInfo
except ImportError:
    Detection2DArray = None

pytestmark = pytest.mark.process
with_vision = pytest.mark.skipif(Detection2DArray is None, reason="vision_msgs is absent")
with_tf = pytest.mark.skipif(TFMessage is None, reason="tf2_msgs is absent")

msg = pytest.importorskip("m2f_ros.msg", reason="the messages of m2f_ros are not built")

NAME = "/segmentation_node"
HEIGHT, WIDTH = 56, 84
FX, FY, CX, CY = 60.0, 62.0, 41.0, 27.0
PICTURE = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8).repeat(14, 0).repeat(14, 1)
INFO = CameraInfo(
    width=WIDTH,
    height=HEIGHT,
    distortion_model="plumb_bob",
    d=[0.0] * 5,
    k=[FX, 0.0, CX, 0.0, FY, CY, 0.0, 0.0, 1.0],
    r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
    p=[FX, 0.0, CX, 0.0, 0.0, FY, CY, 0.0, 0.0, 0.0, 1.0, 0.0],
)
MILLIMETRES = np.random.default_rng(1).integers(500, 20_000, (HEIGHT, WIDTH)).astype(np.uint16)
MILLIMETRES[::7, ::5] = 0  # unknown


def header(stamp: int, frame: str = "camera") -> Header:
    return Header(stamp=Time(sec=stamp // 10**9, nanosec=stamp % 10**9), frame_id=frame)


def stamp_of(message) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def depth_image(values: np.ndarray, frame: str = "camera", late: int = 0):
    """A function of the image's stamp that returns its depth image. late: nanoseconds."""
    if values.dtype == np.uint16:
        return lambda stamp: encode(values, "16UC1", header(stamp + late, frame))
    data = array("B", np.ascontiguousarray(values, np.float32).tobytes())
    height, width = values.shape
    fields = {"height": height, "width": width, "encoding": "32FC1", "step": 4 * width, "data": data}
    return lambda stamp: Image(header=header(stamp + late, frame), **fields)


def compressed_depth(values: np.ndarray):
    data = struct.pack("<iff", 0, 0.0, 0.0) + cv2.imencode(".png", values)[1].tobytes()
    return lambda stamp: CompressedImage(header=header(stamp), format="16UC1; compressedDepth png", data=data)


class Rig:
    """A camera of the peer: images, and beside each of them messages of the same stamp, which go first.

    beside: topic -> (type, function of the stamp that returns a message, or None).
    """

    def __init__(self, peer, beside=None, image="/camera/image", frame="camera", info=INFO, rate=5.0) -> None:
        self._frame = frame
        beside = dict(beside or {})
        if info is not None:
            beside[f"{image.rpartition('/')[0]}/camera_info"] = (CameraInfo, lambda stamp: info)
        self._beside = [(peer.node.create_publisher(kind, topic, 10), make) for topic, (kind, make) in beside.items()]
        peer.stream(Image, image, self._make, rate)

    def _make(self, stamp: int) -> Image:
        for publisher, make in self._beside:
            if (message := make(stamp)) is not None:
                publisher.publish(message)
        return encode(PICTURE, "bgr8", header(stamp, self._frame))


def same_frame(*received: list):
    """The newest messages of one stamp, one of each list; None as long as there are none."""
    common = set.intersection(*({stamp_of(m) for m in messages} for messages in received))
    return [next(m for m in some if stamp_of(m) == max(common)) for some in received] if common else None


def space_status(diagnostics: list):
    """(level, message, values) that /diagnostics last said of the outputs in space."""
    status = next(s for s in diagnostics[-1].status if s.name == f"{NAME}: space")
    return status.level, status.message, {pair.key: pair.value for pair in status.values}


@pytest.mark.parametrize(
    ("depth", "metres"),
    [
        ((Image, depth_image(MILLIMETRES)), MILLIMETRES / np.float32(1000)),
        ((Image, depth_image(MILLIMETRES / np.float32(500))), MILLIMETRES / np.float32(500)),
        ((CompressedImage, compressed_depth(MILLIMETRES)), MILLIMETRES / np.float32(1000)),
    ],
    ids=["16UC1", "32FC1", "compressedDepth"],
)
@pytest.mark.parametrize("stride", [1, 2])
def test_depth_becomes_points_of_the_labels_pixels(segment, peer, depth, metres, stride):
    topic = "/camera/depth/compressedDepth" if depth[0] is CompressedImage else "/camera/depth"
    process = segment({"~/image": "/camera/image", "~/depth": "/camera/depth"}, points__stride=stride)
    labels, confidences, ids = (peer.listen(Image, f"{NAME}/{name}") for name in ("label", "confidence", "panoptic"))
    clouds = peer.listen(PointCloud2, f"{NAME}/points")
    Rig(peer, beside={topic: depth})
    peer.until(lambda: same_frame(labels, confidences, ids, clouds), f"points of a frame: {process.log}")
    label, confidence, panoptic, message = same_frame(labels, confidences, ids, clouds)
    cloud = Cloud.of(message)
    rows, columns = np.mgrid[:HEIGHT:stride, :WIDTH:stride]
    assert (message.header, cloud.height, cloud.width) == (label.header, *rows.shape)
    z = np.where(metres > 0, metres, np.nan)[::stride, ::stride]
    expected = np.stack([(columns - CX) / FX * z, (rows - CY) / FY * z, z], -1).reshape(-1, 3)
    np.testing.assert_allclose(cloud.xyz(), expected, rtol=1e-5, atol=1e-5)
    for name, image in (("label", label), ("confidence", confidence), ("instance", panoptic)):
        pixels = image_view(image)[::stride, ::stride]
        np.testing.assert_array_equal(cloud.column(name).reshape(pixels.shape), pixels)
    packed = cloud.column("rgb").astype("<f4").view(np.uint32).reshape(rows.shape)
    b, g, r = (PICTURE[::stride, ::stride, k].astype(np.uint32) for k in range(3))
    np.testing.assert_array_equal(packed, r << 16 | g << 8 | b)
    assert process.end() == 0


EXTRINSICS = [0.3, 0.1, 1.2, 0.01, 0.2, -0.05]  # of the camera: looks down a little
LIDAR = [0.0, 0.2, 1.6, 0.0, 0.0, 0.1]
GRID = {"grid__x": [0.0, 8.0], "grid__y": [-4.0, 4.0], "grid__resolution": 0.2}
SETTINGS = GridSettings(x=(0.0, 8.0), y=(-4.0, 4.0), resolution=0.2)
CITYSCAPES = taxonomy.get("cityscapes")


def labelled(label: Image, confidence: Image | None = None, depth: np.ndarray | None = None) -> Labelled:
    calibration = Calibration.of(INFO)
    sure = None if confidence is None else image_view(confidence)
    frame = label.header.frame_id
    return Labelled("", stamp_of(label), frame, calibration, image_view(label), 255, sure, depth=depth)


def model() -> CameraModel:
    return CameraModel.of(Calibration.of(INFO), (WIDTH, HEIGHT))


@pytest.mark.parametrize("with_depth", [False, True])
def test_the_ground_by_extrinsics(segment, peer, with_depth):
    process = segment(
        {"~/image": "/camera/image", "~/depth": "/camera/depth"}, extrinsics=EXTRINSICS, fixed_frame="", **GRID
    )
    labels = peer.listen(Image, f"{NAME}/label")
    grids = peer.listen(OccupancyGrid, f"{NAME}/grid", latched=True)
    scans = peer.listen(LaserScan, f"{NAME}/obstacles")
    Rig(peer, beside={"/camera/depth": (Image, depth_image(MILLIMETRES))} if with_depth else None)
    depth = np.where(MILLIMETRES, MILLIMETRES / np.float32(1000), np.nan).astype(np.float32) if with_depth else None

    def expected_of(label: Image) -> GroundGrid:
        ground = GroundGrid(SETTINGS, read_costs("", CITYSCAPES))
        ground.observe(labelled(label, depth=depth), model(), pose(EXTRINSICS) @ OPTICAL)
        return ground

    def is_exact() -> bool:
        """The node looks for depth images once a second: the first grids are of flat ground."""
        if not (found := same_frame(labels, grids, scans)):
            return False
        label, grid, _ = found
        cells = expected_of(label).occupancy(stamp_of(label))
        return np.array_equal(np.array(grid.data, np.int8).reshape(cells.shape), cells)

    peer.until(is_exact, f"the grid of a frame: {process.log}")
    label, grid, scan = same_frame(labels, grids, scans)
    ground = expected_of(label)
    cells = ground.occupancy(stamp_of(label))
    assert (cells >= 0).any()
    assert (grid.header.frame_id, grid.info.resolution) == ("base_link", pytest.approx(0.2))
    assert (grid.info.height, grid.info.width) == cells.shape == (40, 40)
    assert (grid.info.origin.position.x, grid.info.origin.position.y, grid.info.origin.orientation.w) == (0, -4, 1)
    expected = obstacles(ground, stamp_of(label))
    assert (scan.header, len(scan.ranges)) == (grid.header, len(expected.ranges))
    np.testing.assert_array_equal(np.array(scan.ranges, np.float32), expected.ranges)
    np.testing.assert_array_equal(np.array(scan.intensities, np.float32), expected.classes.astype(np.float32))
    assert (scan.angle_min, scan.angle_increment, scan.range_max) == pytest.approx(
        (expected.angle_min, expected.angle_increment, expected.range_max)
    )
    # A reader that comes later gets the last one, as of a map.
    later = peer.listen(OccupancyGrid, f"{NAME}/grid", latched=True)
    peer.until(lambda: later, "a grid for a late reader")


def test_depth_that_stops_is_said_and_the_grid_goes_on_by_flat_ground(segment, peer):
    process = segment(
        {"~/image": "/camera/image", "~/depth": "/camera/depth"}, extrinsics=EXTRINSICS, fixed_frame="", **GRID
    )
    grids = peer.listen(OccupancyGrid, f"{NAME}/grid", latched=True)
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics")
    sends, make = [True], depth_image(MILLIMETRES)
    Rig(peer, beside={"/camera/depth": (Image, lambda stamp: make(stamp) if sends else None)})

    def ground() -> str:
        return space_status(diagnostics)[2].get("ground", "") if diagnostics else ""

    peer.until(lambda: ground() == "by depth images", f"a grid by depth images: {process.log}")
    sends.clear()
    line = "grid: the depth images of /camera/depth have stopped: the ground is taken to be flat"
    peer.until(lambda: space_status(diagnostics)[:2] == (DiagnosticStatus.WARN, line), "diagnostics warn")
    assert process.log.read_text().count(line) == 1
    before = len(grids)
    peer.until(lambda: len(grids) > before, "grids go on")
    sends.append(True)
    peer.until(lambda: ground() == "by depth images", "depth is taken again")
    assert space_status(diagnostics)[0] == DiagnosticStatus.OK


def test_one_topic_for_images_and_depth_is_said(segment, peer):
    process = segment({"~/image": "/camera/image", "~/depth": "/camera/image"})
    labels = peer.listen(Image, f"{NAME}/label")
    Rig(peer)
    peer.until(lambda: labels, f"labels: {process.log}")
    line = "/camera/image is the topic of images and of depth images: a picture is no depth; name that of the depth"
    assert process.log.read_text().count(line) == 1


def points_around(count: int = 4000) -> np.ndarray:
    """(N, 3) float32 in front of the lidar, with some that are none."""
    random = np.random.default_rng(2)
    points = (random.uniform((1, -6, -2), (9, 6, 1), (count, 3))).astype(np.float32)
    points[::50] = np.nan
    return points


def lidar(points: np.ndarray, frame: str = "lidar", late: int = 0):
    """A function of an image's stamp that returns a cloud."""
    columns = {"x": points[:, 0], "y": points[:, 1], "z": points[:, 2], "ring": np.arange(len(points), dtype=np.uint16)}

    def make(stamp: int) -> PointCloud2:
        cloud = Cloud.of_columns(columns, (1, len(points)), frame, stamp + late, False)
        return cloud_message(cloud, header(stamp + late, frame))

    return make


def test_a_cloud_is_labelled_by_the_cameras_that_see_it(segment, peer):
    cameras = {"front": EXTRINSICS, "rear": [-0.3, 0.0, 1.2, 0.0, 0.2, 3.14159], "left": EXTRINSICS}
    parameters = {f"camera__{name}__extrinsics": values for name, values in cameras.items()}
    process = segment(
        {**{f"~/{name}/image": f"/{name}/image" for name in cameras}, "~/cloud": "/points"},
        cameras=list(cameras),
        lidar__extrinsics=LIDAR,
        fixed_frame="",
        **parameters,
    )
    # rear sends nothing: it holds nobody up, and left keeps its number. The clouds come with the front camera's images.
    got = {
        (name, what): peer.listen(Image, f"{NAME}/{name}/{what}")
        for name in ("front", "left")
        for what in ("label", "confidence")
    }
    clouds = peer.listen(PointCloud2, f"{NAME}/lidar")
    points = points_around()
    Rig(peer, {"/points": (PointCloud2, lidar(points, late=3_000_000))}, image="/front/image")
    Rig(peer, image="/left/image")

    def nearest(messages: list, stamp: int):
        return min(messages, key=lambda message: abs(stamp_of(message) - stamp))

    peer.until(lambda: len(clouds) > 3, f"labelled clouds: {process.log}")
    stamp = stamp_of(clouds[-1])
    peer.until(lambda: all(stamp_of(m[-1]) > stamp + 10**9 for m in got.values()), "the frames after it")
    views = []
    for name in ("front", "left"):
        label, confidence = (nearest(got[name, what], stamp) for what in ("label", "confidence"))
        camera = inverse(pose(cameras[name]) @ OPTICAL) @ pose(LIDAR)
        views.append(View(labelled(label, confidence), model(), camera))
    (message,) = (m for m in clouds if stamp_of(m) == stamp)
    expected, cloud = label_cloud(Cloud.of(lidar(points)(stamp)), views), Cloud.of(message)
    assert [field.name for field in cloud.fields] == ["x", "y", "z", "ring", "label", "confidence", "camera"]
    assert message.header.frame_id == "lidar"
    for name in ("x", "y", "z", "ring", "label", "confidence"):
        np.testing.assert_array_equal(cloud.column(name), expected.column(name))
    assert {*np.unique(cloud.column("camera"))} == {0, 255} | ({2} if 1 in expected.column("camera") else set())
    assert (cloud.column("label") < 255).sum() > 50


def test_a_depth_image_hides_points_of_a_cloud_though_nobody_listens_to_points(segment, peer):
    process = segment(
        {"~/image": "/camera/image", "~/depth": "/camera/depth", "~/cloud": "/points"},
        extrinsics=EXTRINSICS,
        lidar__extrinsics=LIDAR,
        fixed_frame="",
    )
    clouds = peer.listen(PointCloud2, f"{NAME}/lidar")
    near = np.full((HEIGHT, WIDTH), 100, np.uint16)  # millimetres
    sends: list[bool] = []
    make = depth_image(near)
    beside = {"/points": (PointCloud2, lidar(points_around(), late=3_000_000))}
    Rig(peer, {**beside, "/camera/depth": (Image, lambda stamp: make(stamp) if sends else None)})

    def labels() -> int:
        return (Cloud.of(clouds[-1]).column("label") < 255).sum() if clouds else -1

    peer.until(lambda: labels() > 50, f"labelled points: {process.log}")
    sends.append(True)
    peer.until(lambda: labels() == 0, "points behind the depth image are unlabelled")


def test_what_cannot_be_placed_is_one_line_and_the_others_go_on(segment, peer):
    """A camera for each fault, and a good one."""
    depths = {
        "good": depth_image(MILLIMETRES, "good"),
        "shape": depth_image(MILLIMETRES[:30], "shape"),
        "other": depth_image(MILLIMETRES, "somewhere"),
        "encoding": lambda stamp: encode(PICTURE, "bgr8", header(stamp, "encoding")),
        "late": depth_image(MILLIMETRES, "late", late=40_000_000),
        "short": lambda stamp: Image(header=header(stamp, "short"), height=9, width=9, encoding="16UC1", step=18),
        "none": None,
        "silent": depth_image(MILLIMETRES, "silent"),
        "zeros": depth_image(MILLIMETRES, "zeros"),
        "lens": depth_image(MILLIMETRES, "lens"),
    }
    infos = {
        "silent": None,
        "zeros": CameraInfo(width=WIDTH, height=HEIGHT),
        "lens": CameraInfo(width=WIDTH, height=HEIGHT, k=INFO.k, p=INFO.p, r=INFO.r, distortion_model="odd", d=[1.0]),
    }
    lines = {
        "shape": "the depth image is of 84x30, the labels are 84x56, which is another shape",
        "other": "the depth image is of the frame 'somewhere', the image of 'other'",
        "encoding": "the depth image has the encoding 'bgr8'",
        "late": "no depth image of /late/depth within points.slop (0.02 s) of the image",
        "short": "the depth image cannot be read: data has 0 bytes",
        "none": "no depth image has come on /none/depth (-r '~/none/depth:=TOPIC')",
        "silent": "no CameraInfo has come on /silent/camera_info",
        "zeros": "the calibration has a K of zeros",
        "lens": "odd",
    }
    remaps = {f"~/{name}/{kind}": f"/{name}/{kind}" for name in depths for kind in ("image", "depth")}
    process = segment(remaps, cameras=list(depths), batch=8, batch_window=1.0)
    labels = {name: peer.listen(Image, f"{NAME}/{name}/label") for name in depths}
    clouds = {name: peer.listen(PointCloud2, f"{NAME}/{name}/points") for name in depths}
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics")
    for name, make in depths.items():
        beside = {f"/{name}/depth": (Image, make)} if make else {}
        Rig(peer, beside, image=f"/{name}/image", frame=name, info=infos.get(name, INFO), rate=4.0)
    peer.until(lambda: all(len(some) > 8 for some in (*labels.values(), clouds["good"])), f"labels: {process.log}")
    peer.until(lambda: all(process.says(line) for line in lines.values()), f"lines: {process.log}")
    assert [name for name, some in clouds.items() if some] == ["good"]
    warned = [line for line in process.log.read_text().splitlines() if "[WARN]" in line]
    for name, line in lines.items():
        assert len([one for one in warned if line in one and f" of {name}: " in one]) == 1, (name, warned)

    def trouble() -> bool:
        level, text, values = space_status(diagnostics)
        return level == DiagnosticStatus.WARN and all(
            f"points of {name}: " in text or f"missed: points of {name}" in values for name in lines
        )

    peer.until(trouble, "diagnostics with each fault")
    values = space_status(diagnostics)[2]
    assert int(values["published: points of good"]) > 0 and "missed: points of good" not in values
    assert process.end() == 0


def test_bad_clouds_are_one_line_each_and_good_ones_are_labelled(segment, peer):
    points = points_around(500)
    good = lidar(points)

    def without_z(stamp: int) -> PointCloud2:
        cloud = Cloud.of_columns({"x": points[:, 0], "y": points[:, 1]}, (1, 500), "lidar", stamp)
        return cloud_message(cloud, header(stamp, "lidar"))

    def changed(**fields):
        def make(stamp: int) -> PointCloud2:
            message = good(stamp)
            for name, value in fields.items():
                setattr(message, name, value)
            return message

        return make

    kinds = {
        "z": (without_z, "the cloud has no field z"),
        "data": (changed(data=array("B", b"1234")), "the cloud's data has 4 bytes"),
        "step": (changed(point_step=0), "the cloud has points and a point_step of 0"),
        "nan": (lidar(np.full((500, 3), np.nan, np.float32)), ""),
        "empty": (lidar(points[:0]), ""),
        "good": (good, ""),
    }
    sent: dict[int, str] = {}

    def next_cloud(stamp: int) -> PointCloud2:
        name = list(kinds)[len(sent) % len(kinds)]
        sent[stamp] = name
        return kinds[name][0](stamp)

    process = segment(
        {"~/image": "/camera/image", "~/cloud": "/points"},
        extrinsics=EXTRINSICS,
        lidar__extrinsics=LIDAR,
        fixed_frame="",
    )
    clouds = peer.listen(PointCloud2, f"{NAME}/lidar")
    labels = peer.listen(Image, f"{NAME}/label")
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics")
    Rig(peer, {"/points": (PointCloud2, next_cloud)}, rate=10.0)
    peer.until(lambda: all(process.says(line) for _, line in kinds.values() if line), f"lines: {process.log}")
    peer.until(lambda: {"nan", "empty", "good"} <= {sent[stamp_of(m)] for m in clouds}, "the good clouds")
    for message in clouds:
        name, cloud = sent[stamp_of(message)], Cloud.of(message)
        assert name in ("nan", "empty", "good") and len(cloud) == (0 if name == "empty" else 500)
        assert (cloud.column("label") < 255).any() == (name == "good")
    assert labels
    warned = [line for line in process.log.read_text().splitlines() if "[WARN]" in line and "lidar: " in line]
    # On a busy machine the image of a cloud may come too late, and the first are lost where the node subscribes anew.
    unpaired = [line for line in warned if "no frame within lidar.slop" in line]
    assert len(warned) - len(unpaired) == 3 and len(unpaired) <= 1, warned
    peer.until(lambda: diagnostics and int(space_status(diagnostics)[2].get("missed: lidar", 0)) > 2, "counts")


def test_clouds_that_never_pair_are_one_line(segment, peer):
    process = segment(
        {"~/image": "/camera/image", "~/cloud": "/points"}, extrinsics=EXTRINSICS, lidar__extrinsics=LIDAR
    )
    clouds, labels = peer.listen(PointCloud2, f"{NAME}/lidar"), peer.listen(Image, f"{NAME}/label")
    # An hour: a busy node still has frames of the last seconds.
    Rig(peer, {"/points": (PointCloud2, lidar(points_around(9), late=-3600 * 10**9))}, rate=10.0)
    line = "no frame within lidar.slop (0.1 s) of a cloud of /points"
    peer.until(lambda: process.says(line) and len(labels) > 30, f"a line: {process.log}")
    assert not clouds and process.log.read_text().count(line) == 1


def test_ignored_pixels_are_in_no_output(segment, peer, tmp_path):
    mask = np.zeros((HEIGHT // 2, WIDTH // 2), np.uint8)
    mask[20:, 10:] = 255
    ignored = mask.repeat(2, 0).repeat(2, 1) > 0
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    process = segment(
        {"~/image": "/camera/image", "~/depth": "/camera/depth"},
        ignore_mask=str(tmp_path / "mask.png"),
        points__stride=1,
    )
    got = {name: peer.listen(Image, f"{NAME}/{name}") for name in ("label", "confidence", "panoptic", "color")}
    clouds, stats = peer.listen(PointCloud2, f"{NAME}/points"), peer.listen(msg.Stats, f"{NAME}/stats")
    Rig(peer, {"/camera/depth": (Image, depth_image(np.full((HEIGHT, WIDTH), 2000, np.uint16)))})
    peer.until(lambda: same_frame(*got.values(), clouds, stats), f"a frame: {process.log}")
    *images, cloud, stat = same_frame(*got.values(), clouds, stats)
    label, confidence, panoptic, color = map(image_view, images)
    assert (label[ignored] == 255).all() and not (label[~ignored] == 255).any()
    assert not confidence[ignored].any() and not panoptic[ignored].any() and not color[ignored].any()
    np.testing.assert_array_equal(np.isnan(Cloud.of(cloud).xyz()).any(1).reshape(ignored.shape), ignored)
    shares = np.bincount(label[~ignored], minlength=20) / (~ignored).sum()
    np.testing.assert_allclose(stat.class_shares, shares, atol=1e-6)


@pytest.mark.parametrize(
    ("parameter", "value", "line"),
    [
        ("ignore_mask", "/nowhere/mask.png", "ignore mask /nowhere/mask.png"),
        ("grid__x", [5.0, 1.0], "x is [5.0, 1.0]"),
        ("grid__costs", "/nowhere/costs.yaml", "/nowhere/costs.yaml: cannot be read"),
        ("extrinsics", [1.0, 2.0], "parameter 'extrinsics' must be a list of 6 numbers, or [0.0] for none"),
    ],
)
def test_a_wrong_setting_ends_the_start(segment, parameter, value, line):
    process = segment(**{parameter: value})
    assert process.ends() == 2
    assert process.says(line)


def transform(parent: str, child: str, matrix: np.ndarray, stamp: int = 0) -> TransformStamped:
    x, y, z, w = map(float, quaternion(matrix))
    translation = Vector3(**dict(zip("xyz", map(float, matrix[:3, 3]), strict=True)))
    rotation = Quaternion(x=x, y=y, z=z, w=w)
    return TransformStamped(
        header=header(stamp, parent),
        child_frame_id=child,
        transform=Transform(translation=translation, rotation=rotation),
    )


def broadcast(peer, *transforms) -> None:
    """Publish static transforms, latched."""
    from rclpy.qos import DurabilityPolicy, QoSProfile

    qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    peer.statics = peer.node.create_publisher(TFMessage, "/tf_static", qos)
    peer.statics.publish(TFMessage(transforms=list(transforms)))


def drive(peer, where, rate: float = 30.0) -> None:
    """Publish the base's pose in odom on /tf. where: function of the stamp that returns (4, 4)."""
    peer.stream(
        TFMessage,
        "/tf",
        lambda stamp: TFMessage(transforms=[transform("odom", "base_link", where(stamp), stamp)]),
        rate,
    )


@with_tf
def test_motion_between_cloud_and_image_is_taken_out(segment, peer):
    """The base drives 2 m/s and turns; the clouds are 60 ms older than the images."""
    start = peer.node.get_clock().now().nanoseconds
    late = -60_000_000

    def where(stamp: int) -> np.ndarray:
        seconds = (stamp - start) / 1e9
        return pose([2.0 * seconds, 0.5, 0.0, 0.0, 0.0, 0.3])

    broadcast(
        peer,
        transform("base_link", "camera", pose(EXTRINSICS) @ OPTICAL),
        transform("base_link", "lidar", pose(LIDAR)),
    )
    drive(peer, where)
    process = segment({"~/image": "/camera/image", "~/cloud": "/points"})
    got = {what: peer.listen(Image, f"{NAME}/{what}") for what in ("label", "confidence")}
    clouds = peer.listen(PointCloud2, f"{NAME}/lidar")
    points = points_around(20_000)
    Rig(peer, {"/points": (PointCloud2, lidar(points, late=late))})

    def pair():
        """A labelled cloud, and the label and confidence of its time."""
        for message in reversed(clouds):
            image = stamp_of(message) - late
            found = [next((m for m in some if stamp_of(m) == image), None) for some in got.values()]
            if all(found):
                return message, *found
        return None

    peer.until(lambda: len(clouds) > 3 and pair(), f"labelled clouds: {process.log}")
    message, label, confidence = pair()
    camera, source = (pose(EXTRINSICS) @ OPTICAL, pose(LIDAR))
    moved = inverse(where(stamp_of(label))) @ where(stamp_of(message))
    matches = []
    for motion in (moved, np.eye(4)):
        view = View(labelled(label, confidence), model(), inverse(camera) @ motion @ source)
        expected = label_cloud(Cloud.of(lidar(points)(0)), [view]).column("label")
        matches.append(np.mean(expected == Cloud.of(message).column("label")))
    assert matches[0] > 0.999 > 0.99 > matches[1]
    assert not [line for line in process.log.read_text().splitlines() if "[WARN]" in line]


@with_tf
def test_the_ground_by_tf_stays_where_it_is_while_the_base_turns(segment, peer, tmp_path):
    """All that is seen is ground. The base turns on the spot: what it no longer sees stays beside what it sees."""
    costs = tmp_path / "costs.yaml"
    costs.write_text(f"ground: {{{', '.join(f'{name}: 0' for name in CITYSCAPES.names)}}}")
    start = peer.node.get_clock().now().nanoseconds
    broadcast(peer, transform("base_link", "camera", pose(EXTRINSICS) @ OPTICAL))
    drive(peer, lambda stamp: pose([0.0, 0.0, 0.0, 0.0, 0.0, 0.4 * (stamp - start) / 1e9]))
    process = segment(
        {"~/image": "/camera/image"}, grid__decay=60.0, grid__costs=str(costs), **(GRID | {"grid__x": [-8.0, 8.0]})
    )
    grids = peer.listen(OccupancyGrid, f"{NAME}/grid", latched=True)
    Rig(peer)

    def known(grid: OccupancyGrid) -> int:
        return int((np.array(grid.data) >= 0).sum())

    # Without the motion a frame would replace the cells of the one before.
    peer.until(lambda: grids and known(grids[-1]) > 2 * known(grids[0]), f"a growing grid: {process.log}")
    assert not [line for line in process.log.read_text().splitlines() if "[WARN]" in line]


@with_tf
def test_troubles_of_tf_are_one_line_each_and_on_diagnostics(segment, peer):
    loop = [transform(a, b, np.eye(4)) for a, b in (("a", "b"), ("b", "c"), ("c", "a"))]
    broken = transform("base_link", "x", np.eye(4))
    broken.transform.rotation.w = float("nan")
    broadcast(peer, *loop, broken, transform("base_link", "front", pose(EXTRINSICS) @ OPTICAL))
    names = ("front", "rear")
    process = segment(
        {f"~/{name}/image": f"/{name}/image" for name in names}, cameras=list(names), fixed_frame="map", **GRID
    )
    grids = peer.listen(OccupancyGrid, f"{NAME}/grid", latched=True)
    labels = peer.listen(Image, f"{NAME}/rear/label")
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics")
    for name in names:
        Rig(peer, image=f"/{name}/image", frame=name)
    lines = (
        "transforms: transform: a loop, a in c in b in a",
        "transforms: transform: NaN or infinity",
        "grid of rear: transform from rear to base_link: no frame rear",
        "the base's motion is not taken out: transform from map to base_link: no frame map",
    )
    peer.until(lambda: all(map(process.says, lines)) and len(labels) > 20, f"lines: {process.log}")
    assert grids  # of the front camera
    for line in lines:
        assert process.log.read_text().count(line) == 1
    peer.until(
        lambda: diagnostics and "grid of rear" in space_status(diagnostics)[1] and space_status(diagnostics)[0], "WARN"
    )
    values = space_status(diagnostics)[2]
    assert int(values["published: grid"]) > 0 and int(values["missed: grid of rear"]) > 0


@with_vision
def test_detections_are_the_things_of_the_panoptic_image(segment, peer):
    process = segment(
        {"~/image": "/camera/image", "~/depth": "/camera/depth"}, score_threshold=0.0, overlap_threshold=0.0
    )
    ids, segments = peer.listen(Image, f"{NAME}/panoptic"), peer.listen(msg.Segments, f"{NAME}/segments")
    found = peer.listen(Detection2DArray, f"{NAME}/detections")
    info = peer.listen(LabelInfo, f"{NAME}/label_info", latched=True)
    depth = np.full((HEIGHT, WIDTH), 3000, np.uint16)
    Rig(peer, {"/camera/depth": (Image, depth_image(depth))})

    def with_centres() -> bool:
        frame = same_frame(ids, segments, found)
        return bool(frame and any(d.results[0].pose.pose.position.z for d in frame[2].detections))

    peer.until(lambda: info and with_centres(), f"detections of a frame: {process.log}")
    panoptic, segment_list, message = same_frame(ids, segments, found)
    things = {c.id for c in CITYSCAPES.classes if c.thing}
    expected = [one for one in segment_list.segments if one.class_id in things]
    assert expected and [int(d.id) for d in message.detections] == [one.id for one in expected]
    names = {c.class_id: c.class_name for c in info[0].class_map}
    pixels = image_view(panoptic)
    for one, detection in zip(expected, message.detections, strict=True):
        (result,) = detection.results
        assert detection.header == message.header == panoptic.header
        assert names[int(result.hypothesis.class_id)] == CITYSCAPES.names[one.class_id]
        assert result.hypothesis.score == pytest.approx(one.score)
        box = detection.bbox
        assert (box.size_x, box.size_y) == (one.width, one.height)
        assert (box.center.position.x - box.size_x / 2, box.center.position.y - box.size_y / 2) == (one.x, one.y)
        rows, columns = np.nonzero(pixels == one.id)
        where = result.pose.pose.position
        assert where.z == pytest.approx(3.0)
        assert where.x == pytest.approx(float(np.median((columns - CX) / FX * 3)), abs=1e-4)
        assert where.y == pytest.approx(float(np.median((rows - CY) / FY * 3)), abs=1e-4)


@pytest.mark.skipif(Detection2DArray is not None, reason="vision_msgs is there")
def test_an_output_whose_messages_are_absent_is_said_when_it_is_named(segment):
    process = segment(outputs=["label", "detections"])
    line = "there is no ~/detections: vision_msgs is not installed (package ros-$ROS_DISTRO-vision-msgs)"
    process.until(lambda: process.says(line))
