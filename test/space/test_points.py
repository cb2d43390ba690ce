"""Labelled points: their layout, their truth on the street, and what a reader such as Nav2's layer takes."""

import struct
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rosbags.typesys import Stores, get_typestore

from m2f_ros.errors import SpaceError
from m2f_ros.frame.calibration import Calibration
from m2f_ros.space.camera_model import CameraModel
from m2f_ros.space.cloud import Cloud, Field
from m2f_ros.space.labelled import Labelled
from m2f_ros.space.points import points, sampled

TYPES = get_typestore(Stores.ROS2_KILTED).types
WITHIN = 20.0  # metres


def noise(width, height, label=np.uint8):
    """Random values of every field; a tenth of the depth is unknown."""
    rng = np.random.default_rng(0)
    shape = (height, width)
    depth = rng.uniform(0.5, 30, shape).astype(np.float32)
    depth[rng.random(shape) < 0.1] = np.nan
    return Labelled(
        "front",
        7_000_000_005,
        "front_optical",
        Calibration.pinhole(width, height, 0.7 * width, 0.7 * width, (width - 1) / 2, (height - 1) / 2),
        rng.integers(0, 19, shape).astype(label),
        int(np.iinfo(label).max),
        rng.integers(0, 256, shape).astype(np.uint8),
        rng.integers(0, 400, shape).astype(np.uint16),
        (),
        rng.integers(0, 256, (*shape, 3)).astype(np.uint8),
        depth,
    )


def model_of(labelled):
    return CameraModel.of(labelled.calibration, labelled.label.shape[::-1])


@given(size=st.tuples(st.integers(1, 30), st.integers(1, 20)), stride=st.integers(1, 7))
def test_each_point_is_its_pixel(size, stride):
    labelled = noise(*size)
    cloud, every = points(labelled, stride, model_of(labelled)), np.s_[::stride, ::stride]
    assert (cloud.height, cloud.width) == labelled.label[every].shape
    assert (cloud.stamp_ns, cloud.frame_id) == (labelled.stamp_ns, labelled.frame_id)
    for name, image in (("label", "label"), ("confidence", "confidence"), ("instance", "ids")):
        np.testing.assert_array_equal(cloud.column(name), getattr(labelled, image)[every].ravel())
    xyz, depth = cloud.xyz(), labelled.depth[every].ravel()
    np.testing.assert_array_equal(np.isnan(xyz), np.isnan(depth)[:, None].repeat(3, 1))
    assert cloud.is_dense == np.isfinite(depth).all()
    seen = np.isfinite(depth)
    pixels, back = model_of(labelled).project(xyz.astype(np.float64))
    y, x = np.mgrid[: size[1] : stride, : size[0] : stride]
    np.testing.assert_allclose(pixels[seen], np.stack([x, y], -1).reshape(-1, 2)[seen], atol=1e-3)
    np.testing.assert_array_equal(back[seen], depth[seen])


def test_layout():
    labelled = noise(8, 6)
    cloud = points(labelled, 1, model_of(labelled))
    assert cloud.fields == (
        Field("x", 0, 7),
        Field("y", 4, 7),
        Field("z", 8, 7),
        Field("rgb", 12, 7),
        Field("label", 16, 2),
        Field("confidence", 17, 2),
        Field("instance", 18, 4),
    )
    assert (cloud.point_step, cloud.row_step) == (20, 160)
    wide = noise(8, 6, np.uint16)
    assert points(wide, 1, model_of(wide)).fields[4:] == (
        Field("label", 16, 4),
        Field("confidence", 18, 2),
        Field("instance", 20, 4),
    )
    bare = replace(labelled, picture=None, confidence=None, ids=None)
    assert [field.name for field in points(bare, 1, model_of(bare)).fields] == ["x", "y", "z", "label"]


def test_colours_are_packed_as_pcl_does():
    labelled = noise(8, 6)
    rgb = points(labelled, 1, model_of(labelled)).column("rgb").astype("=f4").view("=u4").reshape(6, 8)
    blue, green, red = np.moveaxis(labelled.picture.astype(np.uint32), -1, 0)
    np.testing.assert_array_equal(rgb, red << 16 | green << 8 | blue)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("seed", "index"), [(0, 30), (3, 30), (7, 12)])  # 3 is seen in a mirror
def test_points_lie_on_the_street(street_frame, seed, index, stride):
    labelled, street = street_frame(seed, index)
    cloud, view = points(labelled, stride, model_of(labelled)), street.view(index)
    xyz, label, instance = cloud.xyz().astype(np.float64), cloud.column("label"), cloud.column("instance")
    np.testing.assert_array_equal(label, labelled.label[::stride, ::stride].ravel())
    world = np.nan_to_num(xyz) @ view.rotation + view.position
    near = np.nan_to_num(xyz[:, 2], nan=np.inf) <= WITHIN

    ground = near & np.isin(label, (0, 1, 9)) & (instance == 0)
    assert ground.sum() > 10000 / stride**2 and np.abs(world[ground, 1]).max() < 0.001

    truth = street.frame(index).instance[::stride, ::stride].ravel()
    objects, seen = street._scene.objects(view.position[2], index / street.rate), 0
    off = [np.empty(0)]
    for placed in objects:
        cos, sin = np.cos(placed.yaw), np.sin(placed.yaw)
        turn = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
        first = np.concatenate([[0], np.cumsum(placed.mesh.counts)[:-1]])
        for part in np.unique(placed.mesh.part) if placed.instance else ():
            own = near & (truth == placed.instance + part)
            faces = placed.mesh.part == part
            on_face = placed.mesh.vertices[first[faces]] @ turn.T + (placed.x, 0, placed.z)
            normals = placed.mesh.normals[faces] @ turn.T
            off.append(np.abs(((world[own][:, None] - on_face) * normals).sum(-1)).min(1))
            seen += 1
    distances = np.concatenate(off)
    # The street draws edges of faces that it sees from the side up to a pixel too far out.
    assert seen and np.mean(distances < 0.01) > 0.998 and distances.max() < 0.02


def test_depth_and_picture_of_another_size():
    labelled = noise(8, 6)
    half = replace(labelled, depth=labelled.depth[1::2, 1::2], picture=labelled.picture[1::2, 1::2])
    cloud = points(half, 1, model_of(half))
    np.testing.assert_array_equal(cloud.column("z").reshape(6, 8), half.depth.repeat(2, 0).repeat(2, 1))
    twice = replace(labelled, depth=labelled.depth.repeat(2, 0).repeat(2, 1))
    np.testing.assert_array_equal(points(twice, 2, model_of(twice)).column("z"), labelled.depth[::2, ::2].ravel())


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 5))
def test_sampling_takes_the_pixel_at_the_same_spot(own, side, other, stride):
    image = np.arange(own, dtype=np.float32)[None].repeat(max(1, round(other * own / side)), 0)
    if 2 * abs(image.shape[0] * side - own * other) > max(*image.shape, side, other):
        with pytest.raises(SpaceError, match="which is another shape"):
            sampled(image, (other, side), stride, "the image")
        return
    found = sampled(image, (other, side), stride, "the image")[0]
    spot = (np.arange(0, side, stride) + 0.5) * own / side - 0.5
    assert (np.abs(found - spot) <= 0.5 + 1e-6).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"depth": None}, "no depth image: send one, registered to the camera"),
        ({"depth": np.ones((6, 7), np.float32)}, "the depth image is of 7x6, the labels are 8x6, which is another"),
        ({"picture": np.ones((8, 6, 3), np.uint8)}, "the picture is of 6x8, the labels are 8x6"),
        ({"label": np.ones((3, 4), np.uint8)}, "the camera model is of 8x6, the labels are 4x3"),
    ],
)
def test_frames_that_have_no_points(change, says):
    labelled = noise(8, 6)
    with pytest.raises(SpaceError, match=says):
        points(replace(labelled, **change), 1, model_of(labelled))


def test_the_second_camera_of_a_stereo_pair():
    labelled = noise(8, 6)
    p = list(labelled.calibration.p)
    p[3] = -0.12 * p[0]
    moved = replace(labelled, calibration=replace(labelled.calibration, p=tuple(p)))
    off = points(moved, 1, model_of(moved)).xyz() - points(labelled, 1, model_of(labelled)).xyz()
    np.testing.assert_allclose(off[~np.isnan(off[:, 0])].mean(0), [0.12, 0, 0], atol=1e-6)


def messages_of(labelled, cloud):
    """Mask, confidence and cloud, as they go over the wire."""
    header = TYPES["std_msgs/msg/Header"](TYPES["builtin_interfaces/msg/Time"](0, 0), labelled.frame_id)
    height, width = labelled.label.shape
    images = [
        TYPES["sensor_msgs/msg/Image"](header, height, width, "mono8", 0, width, image.ravel())
        for image in (labelled.label, labelled.confidence)
    ]
    empty = TYPES["sensor_msgs/msg/PointCloud2"](header, 0, 0, [], False, 0, 0, np.empty(0, np.uint8), False)
    return *images, cloud.fill(empty, header, TYPES["sensor_msgs/msg/PointField"])


def by_iterator(message, name):
    """Read a column as sensor_msgs::PointCloud2ConstIterator<float> does: first field of the name, point_step by
    point_step through all data, in this machine's byte order, whatever datatype and row_step say."""
    offset = next(field.offset for field in message.fields if field.name == name)
    order = "<" if sys.byteorder == "little" else ">"
    data = message.data.tobytes()
    return [struct.unpack_from(f"{order}f", data, at + offset)[0] for at in range(0, len(data), message.point_step)]


def test_the_contract_of_nav2s_semantic_segmentation_layer(street_frame):
    """github ros-navigation/semantic_segmentation_layer: syncSegmConfPointcloudCb and bufferSegmentation."""
    labelled, _ = street_frame(0, 30)
    # The cheap way to fewer points: outputs of a smaller size, and a point for each of their pixels.
    quarter = np.s_[::8, ::8]
    small = replace(
        labelled,
        calibration=labelled.calibration.fitted((640, 480), (80, 60)),
        label=np.ascontiguousarray(labelled.label[quarter]),
        confidence=np.ascontiguousarray(labelled.confidence[quarter]),
        ids=np.ascontiguousarray(labelled.ids[quarter]),
    )
    cloud = points(small, 1, model_of(small))
    mask, confidence, message = messages_of(small, cloud)
    # Mask and cloud have the same number of pixels, or the layer drops both; it takes all by the number of the pixel.
    assert mask.width * mask.height == message.width * message.height
    assert mask.encoding == confidence.encoding == "mono8"
    assert mask.step == mask.width and len(mask.data) == len(confidence.data) == mask.width * mask.height
    # One stamp for all three, in the frame that tf knows.
    assert mask.header == confidence.header == message.header and message.header.frame_id == "camera_optical"
    assert not message.is_bigendian and all(field.datatype == 7 for field in message.fields[:3])
    x, y, z = (np.array(by_iterator(message, name)) for name in "xyz")
    assert len(z) == mask.width * mask.height
    # It asks for a finite z alone: a point without one must have none, and no other may be infinite.
    np.testing.assert_array_equal(np.isfinite(z), np.isfinite(sampled(small.depth, (60, 80), 1, "").ravel()))
    assert np.isnan(z).any() and np.isnan(x[np.isnan(z)]).all() and np.isfinite(y[~np.isnan(z)]).all()
    pixels, _ = model_of(small).project(np.stack([x, y, z], -1))
    v, u = np.divmod(np.flatnonzero(np.isfinite(z)), mask.width)
    np.testing.assert_allclose(pixels[np.isfinite(z)], np.stack([u, v], -1), atol=1e-3)
    for name, image in (("label", mask), ("confidence", confidence)):
        np.testing.assert_array_equal(Cloud.of(message).column(name), image.data)


def test_as_sensor_msgs_py_reads_it(street_frame):
    reader = pytest.importorskip("sensor_msgs_py.point_cloud2", reason="sensor_msgs_py is absent")
    messages = pytest.importorskip("sensor_msgs.msg", reason="sensor_msgs is absent")
    header = pytest.importorskip("std_msgs.msg").Header()
    labelled, _ = street_frame(0, 30)
    cloud = points(labelled, 2, model_of(labelled))
    filled = cloud.fill(messages.PointCloud2(), header, messages.PointField)
    read = reader.read_points(filled)
    for field in cloud.fields:
        np.testing.assert_array_equal(read[field.name], cloud.column(field.name))
    seen = reader.read_points_numpy(filled, ["x", "y", "z"], skip_nans=True)
    xyz = cloud.xyz()
    np.testing.assert_array_equal(seen, xyz[~np.isnan(xyz[:, 0])])
