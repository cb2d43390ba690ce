"""The lidar of the simulated street: against a search for the first face along each ray, and against the picture."""

import numpy as np
import pytest

from m2f_ros.errors import SourceError
from m2f_ros.space.transforms import inverse
from m2f_ros.street import Street
from m2f_ros.street.lidar import MAX_RANGE, MIN_RANGE, UNLABELLED, Lidar
from m2f_ros.street.pose import world_of

GROUND = (0, 1, 9)  # road, sidewalk, terrain
# Seeds of streets with traffic on the right and on the left.
RIGHT, LEFT = 5, 3


def moved(matrix, points):
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def faces_of(placed, origin):
    """Yield (vertices from the origin (K, 3), normal, label, instance) of the faces that look at the origin."""
    mesh, cos, sin = placed.mesh, np.cos(placed.yaw), np.sin(placed.yaw)
    turn = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    vertices = np.split(mesh.vertices @ turn.T + (placed.x, 0, placed.z) - origin, np.cumsum(mesh.counts)[:-1])
    for k, (face, normal) in enumerate(zip(vertices, mesh.normals @ turn.T, strict=True)):
        if mesh.two_sided[k] or normal @ face[0] < 0:
            yield face, normal, mesh.label[k], placed.instance + mesh.part[k] if placed.instance else 0


def first_hits(objects, origin, rays):
    """Range, label and instance of the nearest face along each ray (N, 3), by testing every face, in float64.

    The ground has the label -1. The last one of an object's faces at one range is taken, since it is drawn last.
    """
    falls = rays[:, 1] < 0
    best = np.where(falls, -origin[1] / np.where(falls, rays[:, 1], 1), np.inf)
    label, instance = np.where(falls, -1, UNLABELLED), np.zeros(len(rays), int)
    for placed in objects:
        own = np.full(len(rays), np.inf)
        for face, normal, of_class, of_object in faces_of(placed, origin):
            with np.errstate(divide="ignore", invalid="ignore"):
                at = (normal @ face[0]) / (rays @ normal)
            k = np.flatnonzero((at > 0) & (at <= np.minimum(best, own + 1e-5)))
            (x, y), flat = (at[k, None] * rays[k])[:, axes_of(normal)].T, face[:, axes_of(normal)]
            inside = np.zeros(len(k), bool)
            for (x0, y0), (x1, y1) in zip(flat, np.roll(flat, -1, axis=0), strict=True):
                inside ^= ((y0 > y) != (y1 > y)) & (x < x0 + (x1 - x0) * (y - y0) / ((y1 - y0) or 1))
            k = k[inside]
            own[k], label[k], instance[k] = at[k], of_class, of_object
        best = np.minimum(best, own)
    return best, label, instance


def axes_of(normal):
    """The two axes onto which a plane is projected."""
    return np.sort(np.argsort(np.abs(normal))[:2])


@pytest.mark.parametrize("seed, index", [(RIGHT, 30), (LEFT, 50)])
def test_every_ray_ends_at_the_first_face(seed, index):
    street, lidar = Street(seed, 64, 48), Lidar(16, 64)
    scan, view = street.scan(index, lidar), street.view(index)
    place = world_of(seed == LEFT).T @ street.pose(index).map_from_lidar[:3]
    objects = street._scene.objects(view.position[2], index / street.rate)
    reach, label, instance = first_hits(objects, place[:, 3], lidar.rays.reshape(-1, 3) @ place[:, :3].T)
    reach[(reach < MIN_RANGE) | (reach > MAX_RANGE)] = np.nan
    found, of_class = np.linalg.norm(scan.points.reshape(-1, 3), axis=1), scan.label.ravel()
    assert (np.isnan(found) == np.isnan(reach)).mean() > 0.997
    hit = ~np.isnan(found) & ~np.isnan(reach)
    error = np.abs(found - reach)[hit]
    assert np.median(error) < 1e-5
    # The rest is where faces are drawn in another order than they lie in space, as they are in the pictures.
    assert (error < 0.01).mean() > 0.985
    same = (of_class == label) | ((label == -1) & np.isin(of_class, GROUND))
    assert same[hit].mean() > 0.99
    assert (scan.instance.ravel() == instance)[hit].mean() > 0.99


@pytest.mark.parametrize("seed", [RIGHT, LEFT])
def test_the_camera_sees_the_same_things_at_the_same_places(seed):
    street = Street(seed, 640, 480)
    scan, frame, pose = street.scan(40, Lidar(32, 1024)), street.frame(40), street.pose(40)
    seen = moved(pose.camera_from_lidar, scan.points[scan.label < UNLABELLED].astype(np.float64))
    label = scan.label[scan.label < UNLABELLED]
    ahead = seen[:, 2] > 1
    u, v = np.rint((seen @ street.camera.matrix().T)[ahead, :2] / seen[ahead, 2:]).astype(int).T
    inside = (u > 0) & (v > 0) & (u < 639) & (v < 479)
    u, v, z, label = u[inside], v[inside], seen[ahead, 2][inside], label[ahead][inside]
    around = np.stack([frame.label[v + j, u + i] for i in (-1, 0, 1) for j in (-1, 0, 1)])
    shown = (around == around[0]).all(axis=0) & (z < frame.depth[v, u] * 1.02)  # neither at an edge nor hidden
    assert shown.sum() > 3000
    assert (around[4] == label)[shown].mean() > 0.99
    assert len(np.unique(label[shown])) >= 8


@pytest.mark.parametrize("seed", [RIGHT, LEFT])
def test_the_ground_behind_is_what_it_was_ahead(seed):
    street, lidar = Street(seed, 64, 48), Lidar(32, 512)
    places = {}
    for index in (100, 115):
        scan, pose = street.scan(index, lidar), street.pose(index)
        ground = np.isin(scan.label, GROUND) & (np.abs(scan.points[..., 0]) < 30)
        at = moved(pose.map_from_lidar, scan.points[ground].astype(np.float64))
        assert np.abs(at[:, 2]).max() < 1e-3
        cells = map(tuple, np.floor(at[:, :2] * 10).astype(int).tolist())  # 10 cm
        places[index] = dict(zip(cells, scan.label[ground].tolist(), strict=True))
    common = places[100].keys() & places[115].keys()
    assert len(common) > 100
    assert np.mean([places[100][cell] == places[115][cell] for cell in common]) > 0.97


def test_types_and_order_of_the_points():
    scan = Street(RIGHT, 64, 48).scan(3, Lidar(8, 36))
    assert scan.points.shape == (8, 36, 3) and scan.points.dtype == np.float32
    assert scan.label.shape == (8, 36) and scan.label.dtype == np.uint8
    assert scan.instance.shape == (8, 36) and scan.instance.dtype == np.uint16
    nothing = scan.label == UNLABELLED
    assert nothing.any() and np.array_equal(nothing, np.isnan(scan.points).any(axis=2))
    assert not scan.instance[nothing].any()
    x, y, z = np.moveaxis(scan.points[0], -1, 0)
    assert (np.diff(np.unwrap(np.arctan2(y, x))) < 0).all()  # clockwise from above
    assert x[0] < 0 and (z < 0).all()
    rise = np.degrees(np.arcsin(scan.points[..., 2] / np.linalg.norm(scan.points, axis=2)))
    assert np.nanmax(np.ptp(rise, axis=1)) < 1e-3 and (np.diff(np.nanmean(rise, axis=1)) > 5).all()


def test_scans_do_not_depend_on_what_was_drawn_before():
    street, lidar = Street(LEFT, 64, 48), Lidar(4, 90)
    before = street.scan(7, lidar)
    street.frame(200), street.scan(90, lidar)
    after = street.scan(7, lidar)
    for name in ("points", "label", "instance"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))


@pytest.mark.parametrize("size", [(0, 10), (10, 0), (257, 10), (10, 8193)])
def test_impossible_sizes_are_one_line(size):
    with pytest.raises(SourceError, match=f"lidar {size[0]}x{size[1]}"):
        Lidar(*size)


def test_a_single_ray_looks_ahead():
    street, lidar = Street(RIGHT, 64, 48), Lidar(1, 1)
    np.testing.assert_allclose(lidar.rays, [[[1, 0, 0]]], atol=1e-12)
    assert street.scan(0, lidar).points.shape == (1, 1, 3)
    assert np.allclose(inverse(street.pose(0).base_from_lidar)[:3, :3], np.eye(3))
