"""The simulated street is an instrument: what it says of its pictures must be exactly true."""

from itertools import product

import numpy as np
import pytest

from m2f_ros.errors import M2fError
from m2f_ros.street import Street
from m2f_ros.street.raster import draw_order

FIRST_THING = 11


def same(a, b) -> bool:
    return all(np.array_equal(getattr(a, k), getattr(b, k)) for k in ("image", "label", "instance", "depth"))


@pytest.fixture(scope="module")
def street() -> Street:
    return Street(3, 320, 240)


def test_types_and_shapes(street):
    frame = street.frame(4)
    assert frame.image.shape == (240, 320, 3) and frame.image.dtype == np.uint8
    assert frame.label.shape == (240, 320) and frame.label.dtype == np.uint8
    assert frame.instance.shape == (240, 320) and frame.instance.dtype == np.uint16
    assert frame.depth.shape == (240, 320) and frame.depth.dtype == np.float32
    assert frame.label.max() <= 18
    assert all(array.flags.c_contiguous for array in (frame.image, frame.label, frame.instance, frame.depth))


def test_frames_do_not_depend_on_the_order_of_access(street):
    again = Street(3, 320, 240)
    indices = [0, 1, 37, 240, 9]
    forwards = [street.frame(i) for i in indices]
    backwards = [again.frame(i) for i in reversed(indices)][::-1]
    assert all(same(a, b) for a, b in zip(forwards, backwards, strict=True))


def test_a_crowded_cache_changes_nothing():
    small = Street(5, 160, 120)
    expected = Street(5, 160, 120).frame(3)
    for index in range(0, 4000, 250):
        small.frame(index)
    assert same(small.frame(3), expected)


def test_seeds_and_frames_differ(street):
    frame = street.frame(0)
    assert not np.array_equal(frame.image, Street(4, 320, 240).frame(0).image)
    assert not np.array_equal(frame.label, Street(4, 320, 240).frame(0).label)
    assert not np.array_equal(frame.image, street.frame(1).image)


def test_labels_depend_on_time_alone_not_on_the_rate():
    slow, quick = Street(2, 160, 120, rate=5), Street(2, 160, 120, rate=20)
    assert np.array_equal(slow.frame(6).label, quick.frame(24).label)


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(8))
def test_all_classes_within_the_first_ten_seconds(seed):
    street = Street(seed)
    pixels = np.zeros(256, dtype=np.int64)
    for index in range(0, 100, 6):
        pixels += np.bincount(street.frame(index).label.ravel(), minlength=256)
    assert (pixels[:19] > 50).all(), f"classes with too few pixels: {np.flatnonzero(pixels[:19] <= 50)}"
    assert pixels[19:].sum() == 0


@pytest.mark.parametrize("seed", [0, 1, 6])
def test_instances_are_things_of_one_class(seed):
    street = Street(seed, 320, 240)
    for index in (0, 33, 100, 10_000):
        frame = street.frame(index)
        assert np.array_equal(frame.instance > 0, frame.label >= FIRST_THING)
        for instance in np.unique(frame.instance[frame.instance > 0]):
            assert len(np.unique(frame.label[frame.instance == instance])) == 1, f"instance {instance}"


def test_an_object_keeps_its_instance(street):
    before, after = street.frame(20), street.frame(21)
    common = np.intersect1d(np.unique(before.instance), np.unique(after.instance))
    assert len(common) > 5
    for instance in common[common > 0]:
        assert before.label[before.instance == instance][0] == after.label[after.instance == instance][0]


@pytest.mark.parametrize("seed", [0, 2, 7])
def test_depth_is_infinite_in_the_sky_and_only_there(seed):
    frame = Street(seed, 320, 240).frame(50)
    assert np.array_equal(np.isinf(frame.depth), frame.label == 10)
    assert (frame.depth > 0).all()


@pytest.mark.parametrize("seed", [1, 3, 8])
def test_ground_depth_is_the_ray_meeting_the_plane(seed):
    street = Street(seed, 320, 240)
    frame, view, k = street.frame(12), street.view(12), street.camera.matrix()
    v, u = np.nonzero(np.isin(frame.label, (0, 1)))
    rays = np.linalg.inv(k) @ np.stack([u, v, np.ones_like(u)])
    down = view.rotation.T @ rays  # one metre ahead along the optical axis
    expected = view.position[1] / -down[1]
    near = expected < 60
    assert near.sum() > 2000
    np.testing.assert_allclose(frame.depth[v, u][near], expected[near], rtol=2e-3)


def boxes_of(street, index):
    """Instance id -> (8, 3) corners, in the camera's axes, of the upright box around each object, seen or not."""
    view, out = street.view(index), {}
    for o in street._scene.objects(view.position[2], index / street.rate):
        owner = np.repeat(o.mesh.part, o.mesh.counts)
        for part in np.unique(owner) if o.instance else ():
            points = o.mesh.vertices[owner == part]
            x, y, z = np.array(list(product(*zip(points.min(0), points.max(0), strict=True)))).T
            cos, sin = np.cos(o.yaw), np.sin(o.yaw)
            turned = np.column_stack([x * cos + z * sin + o.x, y, z * cos - x * sin + o.z])
            out[o.instance + int(part)] = (turned - view.position) @ view.rotation.T
    return out


@pytest.mark.parametrize("seed", [0, 4])
def test_camera_projects_boxes_onto_masks(seed):
    street = Street(seed)
    tight = 0
    for index in (0, 40, 80):
        frame, boxes, k = street.frame(index), boxes_of(street, index), street.camera.matrix()
        for instance in np.unique(frame.instance[frame.instance > 0]):
            corners = boxes[int(instance)]
            if corners[:, 2].min() < 0.5:
                continue
            pixels = corners @ k.T
            pixels = pixels[:, :2] / pixels[:, 2:]
            low, high = pixels.min(axis=0), pixels.max(axis=0)
            v, u = np.nonzero(frame.instance == instance)
            assert u.min() >= low[0] - 1.5 and u.max() <= high[0] + 1.5
            assert v.min() >= low[1] - 1.5 and v.max() <= high[1] + 1.5
            depth = frame.depth[v, u]
            assert depth.min() >= corners[:, 2].min() - 0.01 and depth.max() <= corners[:, 2].max() + 0.01
            seen = (u.max() - u.min()) * (v.max() - v.min())
            tight += len(u) > 300 and seen > 0.85 * np.prod(high - low)
    assert tight >= 5


@pytest.mark.parametrize("size", [(333, 217), (1242, 375), (64, 48), (16, 16), (48, 200)])
def test_any_size(size):
    street = Street(1, *size)
    frame = street.frame(7)
    assert frame.image.shape == (size[1], size[0], 3)
    assert frame.label.shape == frame.instance.shape == frame.depth.shape == (size[1], size[0])
    assert (street.camera.width, street.camera.height) == size


def test_it_goes_on_for_ever():
    frame = Street(0, 160, 120).frame(100_000)
    assert len(np.unique(frame.label)) > 8


@pytest.mark.parametrize(
    "arguments",
    [
        {"width": 0}, {"height": -3}, {"width": 10**6}, {"width": 64.5}, {"seed": -1}, {"seed": "x"},
        {"rate": 0}, {"rate": float("nan")},
    ],
)  # fmt: skip
def test_impossible_settings_are_one_line(arguments):
    with pytest.raises(M2fError) as error:
        Street(**arguments)
    assert "\n" not in str(error.value) and next(iter(arguments)) in str(error.value)


@pytest.mark.parametrize("index", [-1, 1.5, None])
def test_impossible_frames_are_one_line(street, index):
    with pytest.raises(M2fError, match="frame"):
        street.frame(index)


def test_draw_order_puts_a_long_thing_before_what_stands_in_front_of_it():
    tram, walker_behind, car_in_front = (-9, -7, 10, 40), (-11, -10.5, 20, 20.5), (-4, -2, 30, 34)
    order = draw_order(np.array([tram, walker_behind, car_in_front], dtype=float), 0.0, 0.0)
    assert order.index(1) < order.index(0) < order.index(2)
