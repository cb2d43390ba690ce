"""The street in right-handed frames: what stands still in the world stands still in map."""

import numpy as np
import pytest

from m2f_ros.space.transforms import Transforms, inverse
from m2f_ros.street import Street
from m2f_ros.street.pose import BASE, CAMERA, LIDAR, MAP

ROAD, SIDEWALK, BUILDING = 0, 1, 2
# Seeds of streets with traffic on the right and on the left.
RIGHT, LEFT = 5, 3


def unprojected(street, frame, v, u):
    """Points (N, 3) in the camera's optical frame, by K and depth."""
    rays = np.linalg.inv(street.camera.matrix()) @ np.stack([u, v, np.ones_like(u)])
    return (rays * frame.depth[v, u]).T.astype(np.float64)


def moved(matrix, points):
    return points @ matrix[:3, :3].T + matrix[:3, 3]


@pytest.mark.parametrize("seed", [RIGHT, LEFT])
def test_a_point_that_stands_still_is_at_one_place_in_two_frames(seed):
    street = Street(seed, 320, 240)
    first, second, i, j = street.frame(20), street.frame(23), street.pose(20), street.pose(23)
    assert street._scene.layout.mirrored == (seed == LEFT)
    v, u = np.nonzero(np.isin(first.label, (ROAD, SIDEWALK, BUILDING)) & (first.depth < 40))
    world = moved(i.map_from_camera, unprojected(street, first, v, u))
    seen = moved(inverse(j.map_from_camera), world)
    pixels = seen @ street.camera.matrix().T
    x, y = pixels[:, :2].T / pixels[:, 2]
    inside = (seen[:, 2] > 1) & (x > 0) & (y > 0) & (x < 318) & (y < 238)
    x, y, expected = x[inside], y[inside], seen[inside, 2]
    # On a plane 1 / depth is linear in the pixels, so that interpolation is exact.
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    a, b = x - left, y - top
    near = 1 / second.depth.astype(np.float64)
    found = 1 / (
        (1 - b) * ((1 - a) * near[top, left] + a * near[top, left + 1])
        + b * ((1 - a) * near[top + 1, left] + a * near[top + 1, left + 1])
    )
    error = np.abs(found - expected)
    assert inside.sum() > 10_000
    # The others are at edges, or something else is before them now.
    assert (error < 2e-3).mean() > 0.8
    assert np.median(error) < 1e-5


@pytest.mark.parametrize("seed", [RIGHT, LEFT])
def test_the_ground_is_at_height_0_and_what_is_right_in_the_picture_is_right(seed):
    street = Street(seed, 320, 240)
    frame, pose = street.frame(9), street.pose(9)
    v, u = np.nonzero((frame.label == ROAD) & (frame.depth < 30))
    base = moved(pose.base_from_camera, unprojected(street, frame, v, u))
    assert np.abs(base[:, 2]).max() < 1e-3
    assert (base[:, 0] > 0).all()
    right = u > 250
    assert right.any() and (base[right, 1] < 0).all()  # y is to the left


@pytest.mark.parametrize("seed", [RIGHT, LEFT])
def test_the_frames_are_as_they_are_said(seed):
    street = Street(seed, 64, 48)
    poses = [street.pose(i) for i in range(0, 200, 7)]
    for pose in poses:
        for matrix in (pose.map_from_base, pose.base_from_body, pose.map_from_camera, pose.base_from_lidar):
            np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-12)
            assert np.linalg.det(matrix[:3, :3]) > 0
        np.testing.assert_allclose(pose.map_from_base[2], [0, 0, 1, 0], atol=1e-12)  # level, on the ground
        np.testing.assert_allclose(pose.base_from_body[:2, 3], 0, atol=1e-9)  # below the camera
        assert 1.2 < pose.base_from_body[2, 3] < 1.7
        assert pose.base_from_body[0, 0] > 0.99  # x ahead
        assert abs(pose.base_from_body[2, 1]) < 1e-12  # no roll
    # The vehicle drives ahead; only sway is left of the camera's pose in it.
    assert np.ptp([pose.map_from_base[0, 3] for pose in poses]) > 100
    assert np.ptp([pose.base_from_body for pose in poses], axis=0).max() < 0.03
    assert np.ptp([pose.base_from_lidar for pose in poses], axis=0).max() == 0


def test_the_pose_of_a_frame_agrees_with_its_view():
    street = Street(LEFT, 64, 48)
    view, pose = street.view(4), street.pose(4)
    corner = np.array([2.0, 3.0, view.position[2] + 10])  # in the street's world
    expected = view.rotation @ (corner - view.position)
    np.testing.assert_allclose(moved(inverse(pose.map_from_camera), corner[[2, 0, 1]][None])[0], expected, atol=1e-9)


def test_transforms_of_two_moments_are_one_tree():
    street, transforms = Street(RIGHT, 64, 48), Transforms()
    for index in (0, 1):
        for parent, child, matrix, static in street.pose(index).transforms():
            transforms.put(parent, child, matrix, index * 10**8, static)
    pose = street.pose(1)
    np.testing.assert_allclose(transforms.lookup(MAP, CAMERA, 10**8), pose.map_from_camera, atol=1e-12)
    np.testing.assert_allclose(transforms.lookup(CAMERA, LIDAR, 10**8), pose.camera_from_lidar, atol=1e-12)
    between = transforms.lookup(MAP, BASE, 5 * 10**7)
    assert street.pose(0).map_from_base[0, 3] < between[0, 3] < pose.map_from_base[0, 3]
