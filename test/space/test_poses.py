"""Poses by extrinsics and by tf, against points that are placed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from m2f_ros import errors
from m2f_ros.space.poses import Poses
from m2f_ros.space.transforms import OPTICAL, TransformError, Transforms, pose

FRONT, LIDAR = (1.0, 0.0, 2.0, 0.0, 0.0, 0.0), (0.5, 0.0, 1.0, 0.0, 0.0, np.pi / 2)
S = 10**9


def seen(matrix: np.ndarray, point) -> list[float]:
    return [round(float(value), 9) + 0.0 for value in (matrix @ [*point, 1.0])[:3]]


def poses(transforms: Transforms | None = None, lidar=(), **cameras) -> Poses:
    known = {name: values for name, values in cameras.items() if values}
    return Poses("base_link", "odom", known, lidar, transforms or Transforms())


def driving(speed: float = 2.0) -> Transforms:
    """The base drives along x of odom; a camera and a lidar are fixed to it."""
    transforms = Transforms()
    for second in range(5):
        transforms.put("odom", "base_link", pose((speed * second, 0, 0, 0, 0, 0)), second * S)
    transforms.put("base_link", "optical", pose(FRONT) @ OPTICAL, 0, static=True)
    transforms.put("base_link", "velodyne", pose(LIDAR), 0, static=True)
    return transforms


def test_extrinsics_are_of_the_cameras_body():
    matrix = poses(front=FRONT).base_from_camera("front", "anything", 0)
    # 3 m ahead of the camera, 1 m to the right, 2 m down: the ground.
    assert seen(matrix, (1, 2, 3)) == [4, -1, 0]


def test_without_extrinsics_tf_is_asked_at_the_stamp():
    of = poses(driving(), front=())
    assert seen(of.base_from_camera("front", "optical", S), (1, 2, 3)) == [4, -1, 0]
    with pytest.raises(TransformError) as error:
        poses(front=()).base_from_camera("front", "optical", S)
    assert error.value.kind == "missing"


def test_motion_of_the_base():
    of = poses(driving())
    # After a second and 2 m, what was 10 m ahead is 8 m ahead.
    assert seen(of.motion(2 * S, S), (10, 0, 0)) == [8, 0, 0]
    assert seen(of.motion(S, 2 * S), (8, 0, 0)) == [10, 0, 0]
    np.testing.assert_array_equal(poses().motion(7, 7), np.eye(4))
    with pytest.raises(TransformError) as error:
        of.motion(9 * S, S)
    assert error.value.kind == "stale"


@pytest.mark.parametrize("camera", [FRONT, ()], ids=["camera by extrinsics", "camera by tf"])
@pytest.mark.parametrize("lidar", [LIDAR, ()], ids=["lidar by extrinsics", "lidar by tf"])
def test_a_point_of_the_lidar_in_the_camera(camera, lidar):
    of = poses(driving(), lidar, front=camera)
    # The lidar looks to the left: 4 m ahead of it is 4 m to the left of the base, at x 0.5 and z 1.
    still = of.camera_from_cloud("front", "optical", S, "velodyne", S, moving=False)
    assert seen(still, (4, 0, 0)) == [-4, 1, -0.5]
    # The image is a second younger: the base drove 2 m on, so that the point is 2 m farther back.
    moved = of.camera_from_cloud("front", "optical", 2 * S, "velodyne", S, moving=True)
    assert seen(moved, (4, 0, 0)) == [-4, 1, -2.5]


def test_camera_and_lidar_need_no_base_where_tf_connects_them():
    transforms = Transforms()
    transforms.put("velodyne", "optical", OPTICAL, 0, static=True)
    matrix = poses(transforms, front=()).camera_from_cloud("front", "optical", S, "velodyne", S, moving=False)
    assert seen(matrix, (5, 0, 0)) == [0, 0, 5]


def test_the_base_has_a_name():
    assert Poses("/base_link", "/odom", {}, (), Transforms()).base_frame == "base_link"
    with pytest.raises(TransformError, match="base_frame is empty: name the frame of the robot's base"):
        Poses("/", "odom", {}, (), Transforms())


def said(caplog, lidar=(), **cameras) -> list[str]:
    errors.say_once.cache_clear()
    caplog.clear()
    poses(lidar=lidar, **cameras)
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("yaw", [0.0, -1.5708, 3.1416, -3.1416])
def test_angles_up_to_half_a_turn_are_taken(caplog, yaw):
    assert said(caplog, front=(1, 0, 2, 0, 0, yaw)) == []


def test_an_angle_beyond_half_a_turn_is_said(caplog):
    line = "extrinsics of {}: {} is {} degrees; if {} degrees are meant, write {}"
    assert said(caplog, front=(1, 0, 2, 0, 5, 0)) == [
        line.format("camera front", "pitch", "5 rad = 286.5", "5", "0.08727")
    ]
    assert said(caplog, lidar=(0, 0, 2, -6, 0, 0)) == [
        line.format("the lidar", "roll", "-6 rad = -343.8", "-6", "-0.1047")
    ]


def test_the_same_extrinsics_of_two_cameras_are_said(caplog):
    found = said(caplog, front=FRONT, left=(0, 1, 2, 0, 0, 1.5), rear=list(FRONT))
    assert len(found) == 1 and found[0].startswith("camera front and camera rear have the same extrinsics")
    assert said(caplog, front=FRONT, rear=(), lidar=FRONT) == []
