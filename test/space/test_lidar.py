"""Labels of a lidar's points: every field kept, the right pixel, the right camera, and nothing for what is not seen."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2f_ros.errors import SpaceError
from m2f_ros.frame.calibration import Calibration
from m2f_ros.space.camera_model import CameraModel
from m2f_ros.space.cloud import Cloud, Field
from m2f_ros.space.ignore import without
from m2f_ros.space.labelled import Labelled
from m2f_ros.space.lidar import View, label_cloud
from m2f_ros.space.transforms import OPTICAL, Transforms, inverse, pose
from m2f_ros.street.lidar import Lidar
from m2f_ros.street.street import Street

SIZE = WIDTH, HEIGHT = 64, 48
PINHOLE = Calibration.pinhole(*SIZE, 50.0, 50.0, 31.5, 23.5)
# Each pixel has a class of its own as far as these go.
CLASSES = (np.arange(WIDTH * HEIGHT) % 199).astype(np.uint8).reshape(HEIGHT, WIDTH)


def view(label=CLASSES, calibration=PINHOLE, camera_from_cloud=None, **more) -> View:
    """A camera at the origin that looks along the cloud's x axis."""
    size = label.shape[1], label.shape[0]
    more.setdefault("confidence", np.full(label.shape, 200, np.uint8))
    labelled = Labelled("", 0, "camera", calibration, label, 255 if label.itemsize == 1 else 65535, **more)
    matrix = inverse(OPTICAL) if camera_from_cloud is None else camera_from_cloud
    return View(labelled, CameraModel.of(calibration, size), matrix)


def cloud(points, **columns) -> Cloud:
    points = np.asarray(points, np.float32).reshape(-1, 3)
    xyz = dict(zip("xyz", np.ascontiguousarray(points.T), strict=True))
    return Cloud.of_columns(xyz | columns, (1, len(points)), "lidar", 5, is_dense=False)


def at(column: float, row: float, distance: float = 5.0) -> list[float]:
    """The point that falls on a place of the image: x ahead, y left, z up."""
    return [distance, -distance * (column - 31.5) / 50, -distance * (row - 23.5) / 50]


def results(cloud: Cloud) -> list[list[int]]:
    return [cloud.column(name).tolist() for name in ("label", "confidence", "camera")]


NONE = (255, 0, 255)


def test_a_point_takes_what_its_pixel_has():
    label = CLASSES.copy()
    confidence = np.arange(WIDTH * HEIGHT).astype(np.uint8).reshape(label.shape)
    found = label_cloud(cloud([at(7, 9), at(40.4, 30.6)]), [view(label, confidence=confidence)])
    assert results(found) == [[label[9, 7], label[31, 40]], [confidence[9, 7], confidence[31, 40]], [0, 0]]


def test_every_field_and_the_order_are_kept():
    rng = np.random.default_rng(0)
    points = rng.normal(0, 10, (500, 3)).astype(np.float32)
    given = cloud(points, intensity=rng.random(500), ring=np.arange(500, dtype=np.uint16))
    found = label_cloud(given, [view()])
    assert found.fields[:5] == given.fields and [field.name for field in found.fields[5:]] == [
        "label",
        "confidence",
        "camera",
    ]
    assert [found.column(name).dtype for name in ("label", "confidence", "camera")] == [np.uint8] * 3
    own = given.data.reshape(500, given.point_step)
    assert np.array_equal(found.data.reshape(500, found.point_step)[:, : given.point_step], own)
    assert (found.stamp_ns, found.frame_id, found.is_dense) == (5, "lidar", False)


def test_an_organised_cloud_with_padding_from_another_machine():
    """Fields in another order, bytes between them, the highest byte first, and rows with bytes at their end."""
    fields = (Field("ring", 1, 2), Field("z", 4, 8), Field("x", 16, 8), Field("y", 24, 8))
    data = np.random.default_rng(0).integers(0, 256, (2, 3 * 40 + 9), np.uint8)
    places = [[(1, 2), (3, 4), (5, 6)], [(7, 8), (9, 10), (200, 0)]]
    for row in range(2):
        for column in range(3):
            x, y, z = at(*places[row][column])
            for value, offset in ((x, 16), (y, 24), (z, 4)):
                start = 40 * column + offset
                data[row, start : start + 8] = np.frombuffer(np.array(value, ">f8").tobytes(), np.uint8)
    given = Cloud(2, 3, fields, True, 40, 129, data.ravel(), True, 0, "lidar")
    found = label_cloud(given, [view()])
    assert (found.height, found.width) == (2, 3)
    assert found.column("label").tolist() == [*(CLASSES[r, c] for c, r in [*places[0], *places[1][:2]]), 255]
    assert np.array_equal(found.column("ring"), given.column("ring"))


@pytest.mark.parametrize(
    "point",
    [
        at(7, 9, -5.0),
        [0.0, 0.0, 0.0],
        [0.0, 1.0, 0.0],
        at(-0.6, 20),
        at(63.6, 20),
        at(20, -0.6),
        at(20, 47.6),
        [np.nan] * 3,
        [5, np.nan, 0],
        [np.inf, 0, 0],
        [np.inf] * 3,
        [-np.inf] * 3,
        [5, np.inf, 0],
        [3e38, 3e38, 3e38],
        [1e-38, 1, 0],
    ],
)
def test_points_that_no_camera_sees(point):
    found = label_cloud(cloud([point, at(20, 20)]), [view()])
    assert [values[0] for values in results(found)] == list(NONE)
    assert found.column("label")[1] == CLASSES[20, 20]


@pytest.mark.parametrize(("column", "row"), [(-0.4, -0.4), (63.4, 47.4), (0, 47), (63, 0)])
def test_the_edge_of_the_image_is_half_a_pixel_outside(column, row):
    found = label_cloud(cloud([at(column, row)]), [view()])
    assert found.column("label")[0] == CLASSES[round(row), round(column)]


def test_no_return_hides_nothing():
    """The lidar in the middle of the image: its points of zeros are neither labelled nor in the way."""
    matrix = inverse(OPTICAL) @ pose([2, 0, 0, 0, 0, 0])
    label = np.full((HEIGHT, WIDTH), 3, np.uint8)
    found = label_cloud(cloud([[0, 0, 0]] * 50 + [[8, 0, 0]]), [view(label, camera_from_cloud=matrix)])
    assert found.column("label").tolist() == [255] * 50 + [3]


def test_what_is_behind_another_surface_is_hidden():
    """A wall of points 4 m ahead, some points behind it, others beside it."""
    label = np.full((HEIGHT, WIDTH), 3, np.uint8)
    wall = [at(column, row, 4.0) for row in range(10, 30, 3) for column in range(20, 41, 2)]
    behind, beside = [at(26.5, 20.5, 9.0), at(31, 14, 30.0)], [at(50, 20, 9.0), at(31, 44, 9.0)]
    found = label_cloud(cloud(wall + behind + beside), [view(label)]).column("label").tolist()
    assert found == [3] * len(wall) + [255] * 2 + [3] * 2


def test_a_depth_image_hides_what_no_point_does():
    """No other point is near; in the depth image a surface is, in the right half."""
    depth = np.full((HEIGHT, WIDTH), np.nan, np.float32)
    depth[:, 32:] = 4.0
    points = [at(10, 10, 9.0), at(50, 10, 9.0), at(50, 30, 4.3), at(50, 40, 2.0)]
    for seen in (depth, cv2.resize(depth, (128, 96), interpolation=cv2.INTER_NEAREST)):
        found = label_cloud(cloud(points), [view(depth=seen)]).column("camera").tolist()
        assert found == [0, 255, 0, 0]
    with pytest.raises(SpaceError, match="the depth image is of 48x48, the labels are 64x48, which is another shape"):
        label_cloud(cloud(points), [view(depth=depth[:, :48])])


def test_ignored_and_unlabelled_pixels():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[30:] = True
    label = CLASSES.copy()
    label[:, 50:] = 255
    seen = view(label)
    seen = replace(seen, labelled=without(seen.labelled, mask))
    found = label_cloud(cloud([at(10, 29), at(10, 30), at(55, 10)]), [seen])
    assert results(found) == [[label[29, 10], 255, 255], [200, 0, 0], [0, 255, 255]]


# Several cameras


def turned(yaw: float) -> np.ndarray:
    return inverse(pose([0, 0, 0, 0, 0, yaw]) @ OPTICAL)


def flat(kind: int) -> np.ndarray:
    return np.full((HEIGHT, WIDTH), kind, np.uint8)


def test_the_most_confident_camera_counts():
    low, high = (np.full((HEIGHT, WIDTH), value, np.uint8) for value in (100, 101))
    views = [view(flat(1), confidence=low), view(flat(2), confidence=high, camera_from_cloud=turned(0.4))]
    found = label_cloud(cloud([at(31, 23), [-5, 0, 0]]), views)
    assert results(found) == [[2, 255], [101, 0], [1, 255]]


@pytest.mark.parametrize("confident", [True, False])
def test_equally_confident_cameras_by_the_centre_of_their_images(confident):
    """At 0.2 to the left both see it as far off; a little more to the side of one it is that one's."""
    more = {} if confident else {"confidence": None}
    views = [view(flat(1)), view(flat(2), camera_from_cloud=turned(0.4), **more)]
    points = [[5 * np.cos(yaw), 5 * np.sin(yaw), 0] for yaw in (0.1, 0.19, 0.21, 0.3)]
    found = label_cloud(cloud(points), views)
    assert found.column("label").tolist() == [1, 1, 2, 2]
    assert ("confidence" in [field.name for field in found.fields]) == confident


def test_the_first_of_two_equal_cameras():
    assert results(label_cloud(cloud([at(31, 23)]), [view(flat(1)), view(flat(2))])) == [[1], [200], [0]]


def test_a_camera_that_knows_nothing_there_leaves_it_to_another():
    for views in ([view(flat(255)), view(flat(2))], [view(flat(2)), view(flat(255))]):
        found = results(label_cloud(cloud([at(31, 23)]), views))
        assert found[:2] == [[2], [200]]


def test_a_label_without_any_confidence_is_a_label():
    none = np.zeros((HEIGHT, WIDTH), np.uint8)
    for place in (at(31, 23), at(-0.49, -0.49), at(63.49, 47.49)):
        assert results(label_cloud(cloud([place]), [view(flat(0), confidence=none)])) == [[0], [0], [0]]


def test_many_cameras():
    views = [view(flat(k % 250), camera_from_cloud=turned(k * 2 * np.pi / 255)) for k in range(255)]
    found = label_cloud(cloud([[5 * np.cos(k), 5 * np.sin(k), 0] for k in np.arange(255) * 2 * np.pi / 255]), views)
    assert found.column("camera").tolist() == list(range(255))
    with pytest.raises(SpaceError, match="256 cameras look at the cloud; at most 255 can"):
        label_cloud(cloud([at(1, 1)]), [*views, views[0]])


def test_sixteen_bits():
    label = np.full((HEIGHT, WIDTH), 300, np.uint16)
    label[:, 32:] = 65535
    found = label_cloud(cloud([at(10, 10), at(50, 10), [-1, 0, 0]]), [view(label)])
    assert found.column("label").dtype == np.uint16
    assert results(found) == [[300, 65535, 65535], [200, 0, 0], [0, 255, 255]]


# Geometry

MODELS = {
    "plumb_bob": replace(PINHOLE, d=(-0.25, 0.06, 0.001, -0.002, 0.0)),
    "rational": replace(PINHOLE, distortion_model="rational_polynomial", d=(0.1, -0.05, 0, 0, 0.01, 0.2, 0, 0)),
    "fisheye": replace(
        PINHOLE, distortion_model="equidistant", d=(0.05, -0.01, 0.002, 0), k=(25, 0, 31.5, 0, 25, 23.5, 0, 0, 1)
    ),
    "all round": replace(
        PINHOLE, distortion_model="equidistant", d=(0.0, -1e-9, 0, 0), k=(12, 0, 31.5, 0, 12, 23.5, 0, 0, 1)
    ),
    "stereo": replace(PINHOLE, p=(50, 0, 31.5, -25, 0, 50, 23.5, 0, 0, 0, 1, 0)),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_camera_model(name):
    """All that the model projects onto the image has the label of that pixel, and nothing else has one."""
    calibration, rng = MODELS[name], np.random.default_rng(1)
    points = rng.normal(0, 1, (3000, 3)) * [4, 4, 3]
    points *= 5 / np.linalg.norm(points, axis=1)[:, None]  # as far as each other, so that none hides another
    model = CameraModel.of(calibration, SIZE)
    pixels, depth = model.project(points @ OPTICAL[:3, :3])
    column, row = np.floor(np.nan_to_num(pixels, nan=-9) + 0.5).astype(int).T
    inside = (column >= 0) & (column < WIDTH) & (row >= 0) & (row < HEIGHT) & (depth > 0)
    assert inside.sum() > 100
    unclear = np.abs(pixels - np.floor(pixels) - 0.5).min(1) < 1e-3  # on the border of two pixels
    found = label_cloud(cloud(points), [view(CLASSES, calibration)]).column("label")
    expected = np.where(inside, CLASSES[np.where(inside, row, 0), np.where(inside, column, 0)], 255)
    assert np.array_equal(found[~unclear], expected[~unclear])


def test_far_from_the_origin():
    """Coordinates in a map, of millions of metres, in float64."""
    far = pose([4_500_000, 600_000, 300, 0.1, -0.2, 2.5])
    points = np.random.default_rng(2).normal(0, 10, (2000, 3))
    near = label_cloud(cloud(points), [view()])
    moved = points.astype(np.float32).astype(np.float64) @ far[:3, :3].T + far[:3, 3]
    columns = dict(zip("xyz", np.ascontiguousarray(moved.T), strict=True))
    given = Cloud.of_columns(columns, (1, 2000), "map", 0)
    found = label_cloud(given, [view(camera_from_cloud=inverse(OPTICAL) @ inverse(far))])
    assert np.mean(found.column("label") == near.column("label")) > 0.998


# Bad input


def test_no_points_and_no_cameras():
    assert results(label_cloud(cloud([]), [view()])) == [[], [], []]
    assert results(label_cloud(cloud([at(1, 1)]), [])) == [[255], [0], [255]]


@pytest.mark.parametrize(
    ("given", "views", "says"),
    [
        (cloud([at(1, 1)], label=np.zeros(1, np.uint8)), [view()], "has a field label already"),
        (
            Cloud.of_columns({"x": np.zeros(1), "range": np.zeros(1)}, (1, 1), "", 0),
            [view()],
            "no field y and no field z",
        ),
        (
            cloud([at(1, 1)]),
            [replace(view(), model=CameraModel.of(PINHOLE, (32, 24)))],
            "is of 32x24, its labels are 64x48",
        ),
        (cloud([at(1, 1)]), [view(), view(flat(1).astype(np.uint16))], "use one model for all"),
    ],
)
def test_refusals_are_one_line(given, views, says):
    with pytest.raises(SpaceError, match=says) as caught:
        label_cloud(given, views)
    assert "\n" not in str(caught.value)


coordinates = st.floats(width=32) | st.sampled_from([0.0, 1.0, -0.0, np.nan, np.inf, -np.inf, 3e38, 1e-45])


@settings(max_examples=60)
@given(
    points=st.lists(st.tuples(coordinates, coordinates, coordinates), max_size=40),
    near=st.lists(st.tuples(st.integers(0, 63), st.integers(0, 47), st.floats(0.0625, 99, width=32)), max_size=40),
    seed=st.integers(0, 9),
)
def test_any_cloud(points, near, seed):
    """Labels of a camera that are those of a pixel, none for the rest, in any order of the points."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 4, (HEIGHT, WIDTH), np.uint8)
    label[label == 3] = 255
    views = [view(label, confidence=rng.integers(0, 256, label.shape, np.uint8)), view(label[::-1].copy())]
    values = np.array([*points, *(at(*place) for place in near)], np.float32).reshape(-1, 3)
    with np.errstate(all="raise", under="ignore"):
        found = label_cloud(cloud(values, n=np.arange(len(values), dtype=np.int32)), views)
    kind, sure, camera = (found.column(name) for name in ("label", "confidence", "camera"))
    assert np.array_equal(kind == 255, camera == 255) and not sure[camera == 255].any()
    assert set(kind.tolist()) <= {0, 1, 2, 255} and set(camera.tolist()) <= {0, 1, 255}
    assert np.array_equal(found.column("n"), np.arange(len(values)))
    order = rng.permutation(len(values))
    again = label_cloud(cloud(values[order]), views)
    assert all(
        np.array_equal(again.column(name), found.column(name)[order]) for name in ("label", "confidence", "camera")
    )


# The street


@pytest.fixture(scope="module")
def street() -> Street:
    return Street(3)


def scored(
    street: Street, image: int, scan: int, matrix: np.ndarray, depth: bool = False
) -> tuple[float, float, float]:
    """(share of the labels that are right, share of the seen points that are labelled, of the hidden ones that are)."""
    frame, lidar = street.frame(image), street.scan(scan, Lidar(32, 1024))
    seen_depth = np.where(np.isfinite(frame.depth), frame.depth, np.nan)
    labelled = Labelled("", 0, "camera", street.camera, frame.label, 255, depth=seen_depth if depth else None)
    model = CameraModel.of(street.camera, (640, 480))
    points = lidar.points.reshape(-1, 3)
    found = label_cloud(cloud(points), [View(labelled, model, matrix)]).column("label")
    pixels, ahead = model.project(points.astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3])
    inside = np.flatnonzero(((pixels >= 0) & (pixels < [639, 479])).all(1) & (ahead > 0))
    column, row = np.rint(pixels[inside]).astype(int).T
    around = cv2.dilate(np.where(np.isfinite(frame.depth), frame.depth, 1e6), np.ones((3, 3)))
    hidden = ahead[inside] > 1.02 * around[row, column] + 0.1
    seen = ahead[inside] < 1.02 * frame.depth[row, column] + 0.1
    given, true = found[inside], lidar.label.ravel()[inside]
    labels = given != 255
    assert hidden.sum() > 50
    return (given == true)[labels].mean(), labels[seen].mean(), labels[hidden].mean()


def test_true_labels_on_the_street(street):
    """With true labels what is wrong is at outlines, and behind things whose outline no point of the lidar tells."""
    right, seen, hidden = scored(street, 20, 20, street.pose(20).camera_from_lidar)
    assert right > 0.98 and seen > 0.97 and hidden < 0.35
    by_depth, _, hidden = scored(street, 20, 20, street.pose(20).camera_from_lidar, depth=True)
    assert by_depth > max(0.993, right) and hidden < 0.03


def test_motion_between_cloud_and_image_is_taken_out(street):
    """A cloud of 0.2 s before the image: its points are put where they stand when the image is taken."""
    tree = Transforms()
    for index in range(17, 22):
        for part in street.pose(index).transforms():
            tree.put(part.parent, part.child, part.matrix, index * 10**8, part.static)
    stamps = 20 * 10**8, 18 * 10**8
    still = scored(street, 20, 18, tree.lookup("camera", "lidar", stamps[0]))
    moved = scored(street, 20, 18, tree.lookup_between("camera", stamps[0], "lidar", stamps[1], "map"))
    assert moved[0] > 0.9 and moved[0] > still[0] + 0.05  # what is left is traffic, which moves by itself
