"""The grid of the ground, against scenes whose geometry is known: planes and boxes, and the simulated street."""

import logging
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from m2f_ros import errors, taxonomy
from m2f_ros.errors import ConfigError, SpaceError
from m2f_ros.frame.calibration import Calibration
from m2f_ros.space.camera_model import CameraModel
from m2f_ros.space.costs import LETHAL, UNKNOWN, read_costs
from m2f_ros.space.grid import GroundGrid
from m2f_ros.space.grid_settings import GridSettings
from m2f_ros.space.labelled import Labelled
from m2f_ros.space.transforms import OPTICAL, inverse, pose
from m2f_ros.street import Street
from m2f_ros.street.plan import plan, seen

COSTS = read_costs("", taxonomy.get("cityscapes"))
ROAD, SIDEWALK, BUILDING, POLE, SIGN, TERRAIN, SKY, PERSON, CAR = 0, 1, 2, 5, 7, 9, 10, 11, 13
NONE = 255
SECOND = 10**9
SETTINGS = GridSettings(x=(0.0, 12.0), y=(-6.0, 6.0), max_range=12.0)
INFO = Calibration.pinhole(320, 240, 240.0, 240.0, 159.5, 119.5)
FISHEYE = replace(INFO, distortion_model="equidistant", d=(0.05, -0.01, 0.002, 0.0))
LENS = replace(INFO, d=(-0.2, 0.05, 0.001, -0.001, 0.0))


def all_road(x, y):
    return np.full(x.shape, ROAD, np.uint8)


def kerb(x, y):
    """Road, and from one metre to the left on a pavement."""
    return np.where(y > 1.0, SIDEWALK, ROAD).astype(np.uint8)


def shoot(base_from_camera, ground=all_road, boxes=(), info=INFO, camera="", stamp_ns=SECOND, deep=True, level=0.0):
    """Return the frame of a scene, by a ray for each pixel; sky where nothing is.

    ground: function of x and y to labels. boxes: ((x0, x1), (y0, y1), (z0, z1), label). level: z of the ground.
    """
    model = CameraModel.of(info, (info.width, info.height))
    rays = model.rays().astype(np.float64)
    to = rays @ base_from_camera[:3, :3].T
    start = base_from_camera[:3, 3] + base_from_camera[:3, :3] @ model.centre
    depth = np.full(rays.shape[:2], np.inf)
    label = np.full(rays.shape[:2], SKY, np.uint8)
    with np.errstate(all="ignore"):
        falls = (level - start[2]) / to[..., 2]
        hit = falls > 0
        x, y = (start[k] + falls * to[..., k] for k in range(2))
        depth[hit], label[hit] = falls[hit], ground(x[hit], y[hit])
        for *sides, of in boxes:
            ends = [[(end - start[k]) / to[..., k] for end in sides[k]] for k in range(3)]
            enter = np.max([np.minimum(*pair) for pair in ends], axis=0)
            leave = np.min([np.maximum(*pair) for pair in ends], axis=0)
            hit = (enter <= leave) & (enter > 0) & (enter < depth)
            depth[hit], label[hit] = enter[hit], of
    label[np.isnan(rays[..., 0])] = NONE
    deep_image = np.where(np.isfinite(depth), depth, np.nan).astype(np.float32) if deep else None
    return Labelled(camera, stamp_ns, "camera", info, label, NONE, depth=deep_image), model


def camera_at(height=1.4, down=10.0, turn=0.0, x=0.0, y=0.0, roll=0.0):
    """Return the pose of an optical frame in the base frame; degrees."""
    return pose([x, y, height, *np.radians([roll, down, turn])]) @ OPTICAL


def grid_of(where, *scene, settings=SETTINGS, **shot):
    labelled, model = shoot(where, *scene, **shot)
    grid = GroundGrid(settings, COSTS)
    grid.observe(labelled, model, where)
    return grid


def cell(x, y, settings=SETTINGS):
    column, row = (
        math.floor((at - start) / settings.resolution) for at, start in zip((x, y), settings.origin, strict=True)
    )
    return row, column


def centres(settings=SETTINGS):
    return np.broadcast_arrays(*settings.centres())


def footprint(where, x, y, info=INFO):
    """Metres that a pixel covers along the ground at places."""
    height = where[2, 3]
    return (height**2 + (x - where[0, 3]) ** 2 + (y - where[1, 3]) ** 2) / height / info.k[0]


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("info", [INFO, LENS, FISHEYE], ids=["pinhole", "plumb_bob", "equidistant"])
def test_ground_has_the_class_that_is_seen_there(deep, info):
    where = camera_at(turn=15.0, x=0.3, y=-0.2)
    grid = grid_of(where, kerb, info=info, deep=deep)
    found = grid.classes(SECOND)
    x, y = centres()
    # The edge may be off by what a pixel covers, and by half a cell.
    clear = np.abs(y - 1.0) > footprint(where, x, y) * 0.6 + 0.1
    known = found != NONE
    assert known.sum() > 2000 and set(np.unique(found)) == {ROAD, SIDEWALK, NONE}
    assert (found == kerb(x, y))[known & clear].all()
    assert (grid.occupancy(SECOND)[known] == COSTS.table[found[known]]).all()
    assert (grid.occupancy(SECOND)[~known] == UNKNOWN).all()


@pytest.mark.parametrize("deep", [False, True])
@settings(deadline=None, max_examples=25)
@given(
    height=st.floats(0.2, 4.0),
    down=st.floats(-5.0, 90.0),
    turn=st.floats(-180.0, 180.0),
    roll=st.floats(-180.0, 180.0),
    x=st.floats(-1.0, 3.0),
    level=st.floats(-0.5, 0.5),
)
@example(height=4.0, down=70.0, turn=32.0, roll=0.0, x=0.0, level=0.0)  # its foot is near the image's edge
def test_the_ground_is_where_any_camera_sees_it(deep, height, down, turn, roll, x, level):
    """No pose, not even a camera on its side or one that looks straight down, brings a class to a wrong place."""
    where = camera_at(height + level, down, turn, x, 0.0, roll)
    chosen = replace(SETTINGS, x=(-8.0, 8.0), y=(-8.0, 8.0), max_range=8.0, ground_height=level, resolution=0.2)
    labelled, model = shoot(where, kerb, deep=deep, level=level)
    grid = GroundGrid(chosen, COSTS)
    try:
        grid.observe(labelled, model, where)
    except SpaceError as error:
        assert "sees no ground" in str(error)
        return
    found = grid.classes(SECOND)
    at_x, at_y = centres(chosen)
    distance = np.hypot(at_x - x, at_y)
    covers = ((height**2 + distance**2) / height) / 240.0
    clear = np.abs(at_y - 1.0) > 2 * covers + 0.3
    known = found != NONE
    assert (found == kerb(at_x, at_y))[known & clear].all()
    # Each place within the picture is known, if it is in range, but for the parts of a row that pixels leave out.
    pixels, _ = model.project((np.stack([at_x, at_y, np.full(at_x.shape, level)], -1) - where[:3, 3]) @ where[:3, :3])
    margin = 240 * 0.3 / max(height, 0.5)
    inside = ((pixels > margin) & (pixels < np.array([319, 239]) - margin)).all(-1) & (distance < 7.7)
    if deep:  # right below the camera rays are finer than pixels, and one may have none
        inside &= distance > 0.5
    if inside.sum() > 20:
        assert known[inside & (covers < 0.2)].all()


def test_flat_ground_knows_a_thing_by_its_foot_alone():
    """Its upper part is not smeared over the ground behind it."""
    post = ((4.0, 4.2), (-0.3, 0.3), (0.0, 3.0), POLE)
    grid = grid_of(camera_at(), all_road, [post], deep=False)
    found = grid.occupancy(SECOND)
    row = cell(4.0, 0.0)[0]
    foot = np.flatnonzero(found[row] == LETHAL)
    assert abs((foot[0] + 0.5) * 0.1 - 4.0) < 0.15 and len(foot) == 1
    assert (found[row, foot[0] + 1 :] == UNKNOWN).all(), "hidden, not occupied"
    assert (found[row, foot[0] - 10 : foot[0]] == 0).all()
    assert (found[cell(4.0, 1.5)] == 0) and (found == LETHAL).sum() < 12


def test_flat_ground_is_seen_over_a_low_thing():
    box = ((4.0, 4.5), (-0.3, 0.3), (0.0, 0.4), CAR)
    row = grid_of(camera_at(), all_road, [box], deep=False).occupancy(SECOND)[cell(4.0, 0.0)[0]]
    shadow = 4.5 * 1.4 / (1.4 - 0.4)  # where the ray over its farther upper edge meets the ground
    assert row[cell(shadow + 0.3, 0)[1]] == 0 and row[cell(5.2, 0)[1]] == UNKNOWN
    assert (row == LETHAL).sum() == 1


def test_flat_ground_joins_wheels():
    """The body of a car, seen from behind, hangs over the road; its foot is the line between its wheels."""
    body = ((5.0, 8.0), (-0.9, 0.9), (0.35, 1.6), CAR)
    wheels = [((5.0, 5.2), (a, a + 0.2), (0.0, 0.4), CAR) for a in (-0.9, 0.7)]
    found = grid_of(camera_at(), all_road, [body, *wheels], deep=False).occupancy(SECOND)
    for y in np.arange(-0.75, 0.8, 0.1):
        row = found[cell(5.0, y)[0]]
        assert abs((np.flatnonzero(row == LETHAL)[0] + 0.5) * 0.1 - 5.0) < 0.25
        assert (row[cell(5.4, 0)[1] : cell(8.0, 0)[1]] != 0).all(), "the road below the car is hidden"


def test_flat_ground_keeps_a_wall_whole():
    wall = ((2.0, 12.0), (3.0, 3.3), (0.0, 2.5), BUILDING)
    found = grid_of(camera_at(down=5.0), all_road, [wall], deep=False).occupancy(SECOND)
    band = found[cell(0, 2.6)[0] : cell(0, 3.4)[0], cell(5.5, 0)[1] : cell(11.0, 0)[1]]
    hit = (band == LETHAL).any(axis=0)
    assert hit.mean() > 0.85 and (hit[1:] | hit[:-1]).all()


def test_depth_places_all_surfaces_of_a_thing():
    box = ((4.0, 5.0), (-0.5, 0.5), (0.0, 1.0), CAR)
    found = grid_of(camera_at(2.5, 25.0), all_road, [box]).occupancy(SECOND)
    top = found[cell(0, -0.45)[0] : cell(0, 0.45)[0] + 1, cell(4.05, 0)[1] : cell(4.95, 0)[1] + 1]
    assert (top == LETHAL).mean() > 0.95
    occupied = found == LETHAL
    x, y = centres()
    assert ((x > 3.9) & (x < 5.1) & (np.abs(y) < 0.6))[occupied].all()
    assert found[cell(5.5, 0.0)] == UNKNOWN and found[cell(3.5, 0.0)] == 0


@pytest.mark.parametrize(
    "low, high, counts", [(0.0, 0.1, False), (0.0, 0.4, True), (1.8, 2.3, True), (2.1, 2.5, False)]
)
def test_depth_counts_what_stands_between_two_heights(low, high, counts):
    """A kerb can be driven over, a sign above the robot can be driven under."""
    thing = ((5.0, 5.3), (-1.0, 1.0), (low, high), SIGN)
    found = grid_of(camera_at(down=0.0), all_road, [thing]).occupancy(SECOND)
    assert (found == LETHAL).any() == counts


@pytest.mark.parametrize(
    ("pixels", "least", "occupied"), [(1, 1, True), (1, 2, False), (2, 2, True), (2, 3, False), (3, 3, True)]
)
def test_points_that_are_too_few_are_noise(pixels, least, occupied):
    """Pixels of a car whose depth is half of that of the road: points between the camera and the road."""
    where = camera_at()
    labelled, model = shoot(where)
    noise = slice(120, 121), slice(160, 160 + pixels)
    labelled.label[noise] = CAR
    labelled.depth[noise] *= 0.5
    grid = GroundGrid(replace(SETTINGS, min_points=least), COSTS)
    grid.observe(labelled, model, where)
    assert (grid.occupancy(SECOND) == LETHAL).any() == occupied


def test_a_point_counts_with_those_of_the_cells_around_it():
    """A wall that is seen from its end, with a point in each cell, stays; a point outside of the grid is none."""
    grid = GroundGrid(replace(SETTINGS, min_points=2), COSTS)
    rows, columns = SETTINGS.shape
    wall = np.array([5 * columns + 7, 5 * columns + 8, 5 * columns + 9])
    around = grid._around(np.append(wall, [0, rows * columns - 1]))
    assert around[wall].tolist() == [2, 3, 2]
    assert around[[0, 1, columns, columns - 1, -1]].tolist() == [1, 1, 1, 0, 1]  # edges do not join


@pytest.mark.parametrize("deep", [False, True])
def test_lethal_ground_is_where_it_is(deep):
    """Water lies flat: no foot, no smear, and a pavement behind it is seen."""
    costs = read_costs("", taxonomy.get("ade20k"))
    names = taxonomy.get("ade20k").names
    road, water, walk = (names.index(name) for name in ("road", "water", "sidewalk"))
    where = camera_at()

    def ground(x, y):
        return np.select([x < 3.0, x < 4.0], [road, water], walk).astype(np.uint8)

    labelled, model = shoot(where, ground, deep=deep)
    labelled.label[labelled.label == SKY] = NONE
    grid = GroundGrid(SETTINGS, costs)
    grid.observe(labelled, model, where)
    row = grid.occupancy(SECOND)[cell(0, 0.0)[0]]
    assert (row[cell(3.15, 0)[1] : cell(3.9, 0)[1]] == LETHAL).all()
    assert row[cell(2.8, 0)[1]] == 0 and row[cell(4.4, 0)[1]] == 60


def test_depth_of_ground_between_rows_of_the_image_is_known():
    """Far rows are metres apart; the ground between them is known, but not across what hides it."""
    found = grid_of(camera_at(0.5, 2.0), kerb).occupancy(SECOND)
    row = found[cell(0, 0.05)[0]]
    assert (row[cell(2.0, 0)[1] : cell(11.0, 0)[1]] == 0).all()
    box = ((3.0, 3.2), (-0.5, 0.5), (0.0, 0.2), CAR)
    row = grid_of(camera_at(0.5, 2.0), kerb, [box]).occupancy(SECOND)[cell(0, 0.05)[0]]
    assert row[cell(4.0, 0)[1]] == UNKNOWN and row[cell(3.05, 0)[1]] == LETHAL and row[cell(6.5, 0)[1]] == 0


@pytest.mark.parametrize("factor", [2, 0.5])
def test_a_depth_image_of_another_size(factor):
    where, box = camera_at(), ((4.0, 4.5), (-0.5, 0.5), (0.0, 1.0), CAR)
    labelled, model = shoot(where, kerb, [box])
    other = Calibration.pinhole(*(round(n * factor) for n in (320, 240)), 240 * factor, 240 * factor,
                                *(factor * (n + 0.5) - 0.5 for n in (159.5, 119.5)))  # fmt: skip
    resized, _ = shoot(where, kerb, [box], info=other)
    grid = GroundGrid(SETTINGS, COSTS)
    grid.observe(replace(labelled, depth=resized.depth), model, where)
    same = grid_of(where, kerb, [box]).classes(SECOND)
    known = (grid.classes(SECOND) != NONE) & (same != NONE)
    assert known.sum() > 1000 and (grid.classes(SECOND) == same)[known].mean() > 0.98


def test_a_second_camera_of_a_stereo_pair():
    """Its optical frame is that of the first one; Tx of P says where its centre is."""
    p = list(INFO.p)
    p[3] = -240.0 * 0.5  # half a metre to the right
    where = camera_at()
    for deep in (False, True):
        post = ((4.0, 4.2), (0.5, 0.7), (0.0, 3.0), POLE)
        found = grid_of(where, all_road, [post], info=replace(INFO, p=tuple(p)), deep=deep).occupancy(SECOND)
        x, y = (axis[found == LETHAL] for axis in centres())
        assert len(x) and ((np.abs(x - 4.0) < 0.25) & (y > 0.4) & (y < 0.8)).all()


@pytest.mark.parametrize("deep", [False, True])
def test_pixels_of_little_confidence_are_unknown(deep):
    where = camera_at()
    labelled, model = shoot(where, kerb, deep=deep)
    confidence = np.full(labelled.label.shape, 200, np.uint8)
    confidence[labelled.label == SIDEWALK] = 99
    grid = GroundGrid(replace(SETTINGS, min_confidence=100), COSTS)
    grid.observe(replace(labelled, confidence=confidence), model, where)
    assert set(np.unique(grid.occupancy(SECOND))) == {0, UNKNOWN}
    grid = GroundGrid(SETTINGS, COSTS)
    grid.observe(replace(labelled, confidence=confidence), model, where)
    assert set(np.unique(grid.occupancy(SECOND))) == {0, 60, UNKNOWN}


@pytest.mark.parametrize("deep", [False, True])
def test_a_frame_of_unknown_classes_changes_nothing(deep):
    where = camera_at()
    labelled, model = shoot(where, deep=deep)
    labelled.label[:] = NONE
    grid = GroundGrid(SETTINGS, COSTS)
    assert grid.observe(labelled, model, where) == 0
    assert (grid.occupancy(SECOND) == UNKNOWN).all() and grid.stamp_ns == SECOND


def test_more_than_255_classes():
    many = taxonomy.from_names("many", ["road", "person", *(f"class {i}" for i in range(300))])
    where = camera_at()
    labelled, model = shoot(where, boxes=[((4.0, 5.0), (-0.5, 0.5), (0.0, 2.0), 1)])
    for deep in (True, False):
        wide = replace(labelled, label=labelled.label.astype(np.uint16), unlabelled=65535)
        grid = GroundGrid(SETTINGS, read_costs("", many), fixed=True)
        grid.observe(wide if deep else replace(wide, depth=None), model, where)
        grid.move(pose([0.01, 0, 0, 0, 0, 0]))
        found = grid.classes(SECOND)
        assert found.dtype == np.uint16 and set(np.unique(found)) == {0, 1, 65535}


# Time and several cameras


def test_cells_decay_and_what_may_move_sooner():
    where = camera_at()
    boxes = [((4.0, 4.5), (-1.0, -0.5), (0.0, 2.0), PERSON), ((4.0, 4.5), (0.5, 1.0), (0.0, 2.0), POLE)]
    labelled, model = shoot(where, kerb, boxes)
    grid = GroundGrid(replace(SETTINGS, decay=2.0, decay_moving=0.5), COSTS, fixed=True)
    grid.observe(labelled, model, where)
    at = SECOND + SECOND  # only one frame of this camera came: it lasts
    assert {PERSON, POLE, ROAD} <= set(np.unique(grid.classes(at)))
    away, _ = shoot(where, kerb, stamp_ns=SECOND + SECOND // 10)
    away.label[:] = NONE
    grid.observe(away, model, where)
    assert {PERSON, POLE, ROAD} <= set(np.unique(grid.classes(SECOND + SECOND // 2)))
    assert {POLE, ROAD} <= set(np.unique(grid.classes(SECOND + SECOND // 2 + 1000))) - {PERSON}
    assert PERSON not in grid.classes(SECOND + SECOND // 2 + 1000)
    assert (grid.occupancy(3 * SECOND) >= 0).any() and (grid.occupancy(3 * SECOND + 1000) == UNKNOWN).all()


def test_the_costlier_view_stands_for_a_while():
    where = camera_at()
    box = ((4.0, 4.5), (-0.5, 0.5), (0.0, 1.0), CAR)
    hit, model = shoot(where, boxes=[box], camera="left", stamp_ns=SECOND)
    middle = cell(4.05, 0.0)

    def free(stamp_ns, camera="right"):
        return shoot(where, camera=camera, stamp_ns=stamp_ns)[0]

    grid = GroundGrid(replace(SETTINGS, hold=0.2), COSTS, fixed=True)
    grid.observe(free(SECOND - SECOND // 10), model, where)
    grid.observe(hit, model, where)
    assert grid.occupancy(SECOND)[middle] == LETHAL
    grid.observe(free(SECOND + SECOND // 10), model, where)
    assert grid.occupancy(SECOND + SECOND // 10)[middle] == LETHAL, "the other camera sees it free"
    grid.observe(free(SECOND + SECOND // 10, "left"), model, where)
    assert grid.occupancy(SECOND + SECOND // 10)[middle] == 0, "the same camera does"
    grid.observe(hit, model, where)  # late, but within the time
    assert grid.occupancy(SECOND)[middle] == LETHAL
    grid.observe(free(SECOND + SECOND // 4), model, where)
    assert grid.occupancy(SECOND + SECOND // 4)[middle] == 0


def test_cameras_all_around_fill_one_grid():
    chosen = replace(SETTINGS, x=(-6.0, 6.0), y=(-6.0, 6.0), max_range=6.0)
    grid = GroundGrid(chosen, COSTS)
    for turn in (0, 90, 180, -90):
        where = camera_at(down=30.0, turn=turn)
        grid.observe(*shoot(where, kerb, camera=str(turn)), where)
    found = grid.classes(SECOND)
    x, y = centres(chosen)
    known = found != NONE
    assert all(known[cell(4 * c, 4 * s, chosen)] for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1)))
    assert (found == kerb(x, y))[known & (np.abs(y - 1.0) > 0.3)].all()


def test_without_a_fixed_frame_a_frame_replaces_those_of_its_camera():
    where = camera_at()
    box = ((4.0, 4.5), (-0.5, 0.5), (0.0, 1.0), CAR)
    labelled, model = shoot(where, boxes=[box])
    later = replace(shoot(where, stamp_ns=2 * SECOND)[0], label=np.full(labelled.label.shape, NONE, np.uint8))
    for fixed, remains in ((False, False), (True, True)):
        grid = GroundGrid(replace(SETTINGS, decay_moving=2.0), COSTS, fixed=fixed)
        grid.observe(labelled, model, where)
        grid.observe(later, model, where)
        assert (grid.occupancy(2 * SECOND) >= 0).any() == remains


# Motion


@settings(deadline=None, max_examples=30)
@given(
    steps=st.lists(st.tuples(st.floats(-0.7, 0.7), st.floats(-0.7, 0.7), st.floats(-0.5, 0.5)), min_size=1, max_size=8),
    seed=st.integers(0, 100),
)
def test_what_stands_stays_in_its_very_cell(steps, seed):
    """A post that is seen once: however the base moves, its cell is the one that a point of the post is in."""
    x, y = np.random.default_rng(seed).uniform((3.0, -0.8), (6.0, 0.8))
    post = ((x, x + 0.05), (y, y + 0.05), (0.0, 1.0), POLE)
    where = camera_at(down=15.0)
    labelled, model = shoot(where, boxes=[post])
    chosen = replace(SETTINGS, x=(-12.0, 12.0), y=(-12.0, 12.0))
    grid = GroundGrid(chosen, COSTS, fixed=True)
    grid.observe(labelled, model, where)
    corners = np.array([(a, b, 0.0, 1.0) for a in (x, x + 0.05) for b in (y, y + 0.05)]).T
    unseen, _ = shoot(where, stamp_ns=SECOND)
    unseen.label[:] = NONE
    now = np.eye(4)
    for step in steps:
        motion = pose([step[0], step[1], 0, 0, 0, step[2]])
        grid.move(motion)
        now = motion @ now
        grid.observe(unseen, model, where)
        found = grid.occupancy(SECOND) == LETHAL
        at = now @ corners
        rows, columns = ((at[1 - k] - chosen.origin[1 - k]) / chosen.resolution for k in range(2))
        spread = (
            slice(math.floor(rows.min()), math.floor(rows.max()) + 1),
            slice(math.floor(columns.min()), math.floor(columns.max()) + 1),
        )
        assert found.any() and found[spread].sum() == found.sum()


def test_ground_moves_along_and_is_forgotten_behind():
    where = camera_at()
    labelled, model = shoot(where, kerb)
    grid = GroundGrid(replace(SETTINGS, decay=60.0), COSTS, fixed=True)
    grid.observe(labelled, model, where)
    _, y = centres()
    forward = pose([-2.0, 0, 0, 0, 0, 0])  # the base drives ahead: what rests comes nearer
    before = grid.classes(SECOND)
    grid.move(forward)
    after = grid.classes(SECOND)
    assert (after[:, :-20] == before[:, 20:]).mean() > 0.99
    # In a circle and back.
    grid.move(inverse(forward))
    for _ in range(36):
        grid.move(pose([-0.5, 0, 0, 0, 0, math.radians(10)]))
        grid.classes(SECOND)
    known = (grid.classes(SECOND) != NONE) & (before != NONE)
    assert known.sum() > 0.95 * (before != NONE).sum()
    assert (grid.classes(SECOND) == before)[known & (np.abs(y - 1) > 0.2)].all()
    # Far away.
    grid.move(pose([-500.0, 0, 0, 0, 0, 0]))
    assert (grid.classes(SECOND) == NONE).all()


def test_small_motions_add_up():
    where = camera_at()
    post = ((5.0, 5.05), (0.0, 0.05), (0.0, 1.0), POLE)
    labelled, model = shoot(where, boxes=[post])
    grid = GroundGrid(replace(SETTINGS, decay=60.0), COSTS, fixed=True)
    grid.observe(labelled, model, where)
    for _ in range(1000):
        grid.move(pose([-0.001, 0, 0, 0, 0, 0]))
        grid.classes(SECOND)
    x = centres()[0][grid.occupancy(SECOND) == LETHAL]
    assert len(x) and (np.abs(x - 4.05) < 0.1).all()


# Tables


class Counted(CameraModel):
    """A camera model that counts its projections of whole tables."""

    count = 0

    def project(self, points):
        self.count += 1
        return super().project(points)


def test_tables_are_made_anew_only_when_the_camera_moves():
    model = Counted((320, 240), INFO.matrix())
    grid = GroundGrid(SETTINGS, COSTS)
    where = camera_at()
    labelled, _ = shoot(where, deep=False)
    pixel = 1 / 240
    for turn, lift, times in ((0, 0, 1), (0, 0, 1), (0.2, 0, 1), (-0.2, 0.2, 1), (1.5, 0, 2), (1.5, 0, 2), (1.5, 1, 3)):
        moved = where.copy()
        moved[2, 3] += lift * pixel * SETTINGS.max_range
        grid.observe(labelled, model, moved @ pose([0, 0, 0, turn * pixel, 0, 0]))
        assert model.count == times


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("rock", [0.1, 0.4, 1.0])
def test_a_grid_goes_on_as_the_original_while_the_camera_rocks(deep, rock):
    """The tables of a camera stay for small turns: those of an earlier frame hold at a later one."""
    model, grids = CameraModel.of(INFO, (320, 240)), []
    for k in range(6):
        where = camera_at(turn=rock * k, down=10.0 + rock * k)
        labelled, _ = shoot(where, kerb, boxes=[((4.0, 4.5), (-0.5, 0.5), (0.0, 1.0), CAR)], deep=deep)
        grids.append(GroundGrid(SETTINGS, COSTS, fixed=True))
        if k:
            grids[k].restore(grids[0].state())
            assert all(np.array_equal(array, grids[k].state()[name]) for name, array in grids[0].state().items())
        for grid in grids:
            grid.observe(labelled, model, where)
    for grid in grids[1:]:
        assert np.array_equal(grid.classes(SECOND), grids[0].classes(SECOND))


def test_a_grid_goes_on_with_another_calibration():
    where, other = camera_at(), CameraModel.of(LENS, (320, 240))
    one, two = GroundGrid(SETTINGS, COSTS), GroundGrid(SETTINGS, COSTS)
    one.observe(*shoot(where, kerb), where)
    two.restore(one.state())
    for grid in (one, two):
        grid.observe(shoot(camera_at(turn=0.2), kerb, info=LENS)[0], other, camera_at(turn=0.2))
    assert np.array_equal(one.classes(SECOND), two.classes(SECOND))


@pytest.mark.parametrize("by", [1, 2])
def test_a_rectified_camera_with_a_smaller_depth_image(by):
    """P alone holds, for the pixels of the depth image, too; K and the distortion place them elsewhere."""
    where = camera_at()
    seen, _ = shoot(where, kerb, boxes=[((4.03, 4.5), (-0.5, 0.5), (0.0, 1.0), CAR)])
    info = replace(INFO, k=(120.0, 0.0, 60.0, 0.0, 120.0, 50.0, 0.0, 0.0, 1.0), d=(-0.2, 0.05, 0.001, -0.001, 0.0))
    grid = GroundGrid(SETTINGS, COSTS)
    depth = seen.depth[by - 1 :: by, by - 1 :: by]  # of the pixels whose labels are taken
    grid.observe(replace(seen, calibration=info, depth=depth), CameraModel.of(info, (320, 240), True), where)
    found, (x, y) = grid.classes(SECOND), centres()
    known = found != NONE
    assert grid.occupancy(SECOND)[cell(4.05, 0.0)] == LETHAL
    beside = known & (x < 3.8) & (np.abs(y - 1.0) > 0.2)
    assert beside.sum() > 500 and (found == kerb(x, y))[beside].all()


# Faults


def wrong(text, where=None, labelled=None, model=None, **chosen):
    where = camera_at() if where is None else where
    made, known = shoot(where if np.shape(where) == (4, 4) and np.isfinite(where).all() else camera_at(), deep=False)
    grid = GroundGrid(replace(SETTINGS, **chosen), COSTS)
    with pytest.raises(SpaceError) as error:
        grid.observe(labelled or made, model or known, where)
    assert str(error.value).startswith("the camera: ") and text in str(error.value)
    assert (grid.occupancy(SECOND) == UNKNOWN).all() and grid.stamp_ns is None


def test_a_camera_at_or_below_the_ground():
    wrong("it is 0.20 m below the ground", camera_at(height=-0.2))
    wrong("it is 0.00 m below the ground", camera_at(height=0.0))
    wrong("it is 0.10 m below the ground", ground_height=1.5)


def test_a_camera_that_sees_no_ground_of_the_grid():
    wrong(
        "sees no ground of the grid within 12 m: it is 1.40 m above the ground and looks 40 degrees up",
        camera_at(down=-40),
    )
    wrong("sees no ground of the grid", camera_at(turn=180.0))
    wrong("looks 10 degrees down", camera_at(height=300.0))


def test_a_model_of_another_size_or_a_pose_that_is_none():
    other = CameraModel.of(INFO, (160, 120))
    wrong("its camera model is of 160x120, its labels are 320x240", model=other)
    wrong("not a matrix of 4 by 4 finite numbers", np.eye(3))
    wrong("not a matrix of 4 by 4 finite numbers", np.full((4, 4), np.nan))


def test_the_name_of_the_camera_is_in_the_line():
    labelled, model = shoot(camera_at(), camera="rear")
    with pytest.raises(SpaceError, match=r"^camera rear: it is 1\.00 m below"):
        GroundGrid(SETTINGS, COSTS).observe(labelled, model, camera_at(height=-1.0))


def test_a_motion_that_is_none():
    grid = GroundGrid(SETTINGS, COSTS, fixed=True)
    for motion in (np.eye(3), np.full((4, 4), np.inf), np.diag([2.0, 2, 2, 1])):
        with pytest.raises(SpaceError, match="motion of the base"):
            grid.move(motion)


def test_time_that_jumps_back_begins_anew_and_is_said(caplog):
    errors.say_once.cache_clear()
    where = camera_at()
    labelled, model = shoot(where, boxes=[((4.0, 4.5), (-0.5, 0.5), (0.0, 1.0), CAR)], stamp_ns=100 * SECOND)
    grid = GroundGrid(SETTINGS, COSTS, fixed=True)
    grid.observe(labelled, model, where)
    with caplog.at_level(logging.WARNING, logger="m2f_ros"):
        grid.observe(shoot(where, stamp_ns=SECOND)[0], model, where)
    assert [record.getMessage() for record in caplog.records] == [
        "the stamps of the images jumped back: the grid begins anew"
    ]
    assert grid.stamp_ns == SECOND and set(np.unique(grid.occupancy(SECOND))) == {0, UNKNOWN}


def test_clear_forgets_everything():
    grid = grid_of(camera_at(), kerb)
    grid.clear()
    assert (grid.occupancy(SECOND) == UNKNOWN).all() and grid.stamp_ns is None


@pytest.mark.parametrize(
    "chosen, fault",
    [
        ({"x": (1.0, 1.0)}, "x is [1.0, 1.0]"),
        ({"y": (2.0, -2.0)}, "y is [2.0, -2.0]"),
        ({"x": (0.0, math.inf)}, "x is"),
        ({"x": (0.0, 1.0, 2.0)}, "x is"),
        ({"resolution": 0.0}, "resolution is 0.0"),
        ({"resolution": math.nan}, "resolution is nan"),
        ({"max_range": -1.0}, "max_range is -1.0"),
        ({"decay": 0.0}, "decay is 0.0"),
        ({"decay_moving": 0.0}, "decay_moving is 0.0"),
        ({"hold": -0.1}, "hold is -0.1"),
        ({"min_confidence": 256}, "min_confidence is 256"),
        ({"obstacle_cost": 0}, "obstacle_cost is 0"),
        ({"height": 0.1}, "height 0.1 is not above ground_tolerance 0.15"),
        ({"resolution": 0.001}, "at most 4000000 are possible"),
    ],
)
def test_settings_that_are_not_possible(chosen, fault):
    with pytest.raises(ConfigError) as error:
        GridSettings(**chosen)
    assert str(error.value).startswith("grid: ") and fault in str(error.value)


def test_the_shape_of_the_grid():
    assert SETTINGS.shape == (120, 120) and SETTINGS.origin == (0.0, -6.0)
    grid = GroundGrid(GridSettings(x=(-1.0, 2.0), y=(0.0, 1.0), resolution=0.25), COSTS)
    assert grid.occupancy(0).shape == (4, 12) and grid.occupancy(0).dtype == np.int8 and grid.origin == (-1.0, 0.0)


# The simulated street. Traffic on the right, and, in a mirrored street, on the left.


def counts(grid, truth, shown, near):
    """Cells that are rightly occupied, occupied and known, found of those shown, shown; then the same of free ones."""
    free, true_free, free_shown = ((cost >= 0) & (cost < LETHAL) & near for cost in (grid, truth, shown))
    taken, true_taken, taken_shown = ((cost == LETHAL) & near for cost in (grid, truth, shown))
    known = truth != UNKNOWN
    parts = [(taken, true_taken, taken_shown), (free, true_free, free_shown)]
    return np.array([n.sum() for a, b, c in parts for n in (a & b, a & known, a & c, c)])


def test_the_street_with_true_labels_and_depth():
    """The truth is of the scene's faces; a cell counts for recall where a pixel shows a point in it."""
    total, near = np.zeros(8), np.hypot(*GridSettings().centres()) < 20
    for seed, index in ((2004, 40), (3, 10), (7, 12)):
        street = Street(seed)
        frame, where = street.frame(index), street.pose(index).base_from_camera
        truth = plan(street, index, GridSettings(), COSTS)
        shown = seen(street, index, GridSettings(), truth, frame.depth)
        labelled = Labelled("", SECOND, "camera", street.camera, frame.label, NONE, depth=frame.depth)
        grid = GroundGrid(GridSettings(), COSTS)
        grid.observe(labelled, CameraModel.of(street.camera, (640, 480)), where)
        total += counts(grid.occupancy(SECOND), truth, shown, near)
    precision, recall, free_precision, free_recall = total[[0, 2, 4, 6]] / total[[1, 3, 5, 7]]
    assert total[3] > 500
    assert precision >= 0.99 and recall >= 0.95 and free_precision >= 0.95 and free_recall >= 0.95


@pytest.mark.heavy
def test_the_street_while_the_base_drives():
    total, near = np.zeros(8), np.hypot(*GridSettings().centres()) < 20
    street = Street(3)
    grid, before = GroundGrid(GridSettings(), COSTS, fixed=True), None
    model = CameraModel.of(street.camera, (640, 480))
    for index in range(10, 25):
        frame, poses = street.frame(index), street.pose(index)
        if before is not None:
            grid.move(inverse(poses.map_from_base) @ before)
        before = poses.map_from_base
        stamp = round(index / street.rate * SECOND)
        grid.observe(
            Labelled("", stamp, "camera", street.camera, frame.label, NONE, depth=frame.depth),
            model,
            poses.base_from_camera,
        )
        if index % 5 == 4:
            truth = plan(street, index, GridSettings(), COSTS)
            shown = seen(street, index, GridSettings(), truth, frame.depth)
            total += counts(grid.occupancy(stamp), truth, shown, near)
    precision, recall, free_precision, free_recall = total[[0, 2, 4, 6]] / total[[1, 3, 5, 7]]
    assert precision >= 0.95 and recall >= 0.90 and free_precision >= 0.95 and free_recall >= 0.95
