"""The nearest obstacles by direction: against each cell by hand, and against rays through the grid."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2f_ros import taxonomy
from m2f_ros.space.costs import read_costs
from m2f_ros.space.grid_settings import GridSettings
from m2f_ros.space.obstacles import obstacles

COSTS = read_costs("", taxonomy.get("cityscapes"))
ROAD, SIDEWALK, POLE, PERSON, CAR, NONE = 0, 1, 5, 11, 13, 255
AHEAD = GridSettings(x=(0.0, 8.0), y=(-4.0, 4.0))
AROUND = replace(AHEAD, x=(-4.0, 4.0))


def scan_of(chosen, cells, ground=ROAD):
    """Return the scan of a grid with these classes at places (x, y), and one class everywhere else."""
    classes = np.full(chosen.shape, ground, np.uint8)
    for (x, y), label in cells.items():
        classes[cell(x, y, chosen)] = label
    return obstacles(SimpleNamespace(settings=chosen, costs=COSTS, classes=lambda stamp_ns: classes), 0)


def cell(x, y, chosen):
    return tuple(
        math.floor((at - low) / chosen.resolution) for at, low in zip((y, x), chosen.origin[::-1], strict=True)
    )


def angles(scan):
    return scan.angle_min + np.arange(len(scan.ranges)) * scan.angle_increment


def at(scan, degrees):
    """Return the index of the range nearest to a direction."""
    turn = np.abs((angles(scan) - math.radians(degrees) + math.pi) % (2 * math.pi) - math.pi)
    return int(turn.argmin())


def test_an_obstacle_is_at_its_range_and_direction_with_its_class():
    scan = scan_of(AHEAD, {(5.05, 0.05): CAR, (3.05, 3.05): POLE})
    ahead, aside = at(scan, math.degrees(math.atan2(0.05, 5.05))), at(scan, 45)
    assert math.isclose(scan.ranges[ahead], math.hypot(5.05, 0.05), rel_tol=1e-6) and scan.classes[ahead] == CAR
    assert math.isclose(scan.ranges[aside], math.hypot(3.05, 3.05), rel_tol=1e-6) and scan.classes[aside] == POLE
    free = at(scan, -45)
    assert scan.ranges[free] == math.inf and scan.classes[free] == scan.unlabelled == NONE
    hit = np.flatnonzero(np.isfinite(scan.ranges))
    assert len(hit) < 12, "each takes up the directions that it covers alone"
    assert scan.ranges.dtype == np.float32 and scan.ranges.shape == scan.classes.shape


def test_the_nearest_of_several_stays():
    scan = scan_of(AHEAD, {(6.05, 0.05): CAR, (2.05, 0.05): PERSON, (4.05, 0.05): POLE})
    k = at(scan, 1.0)
    assert math.isclose(scan.ranges[k], 2.05, abs_tol=0.01) and scan.classes[k] == PERSON


def test_a_near_obstacle_covers_more_directions():
    near = scan_of(AHEAD, {(0.55, 0.05): CAR})
    covered = np.isfinite(near.ranges).sum() * near.angle_increment
    assert 0.9 * 0.1 / 0.6 < covered < 1.8 * 0.1 / 0.45


def test_pavement_is_no_obstacle_unless_its_cost_says_so():
    assert not np.isfinite(scan_of(AHEAD, {(3.05, 0.05): SIDEWALK}).ranges).any()
    strict = scan_of(replace(AHEAD, obstacle_cost=60), {(3.05, 0.05): SIDEWALK})
    assert math.isclose(strict.ranges[at(strict, 0.9)], 3.05, abs_tol=0.01)


def test_inf_is_seen_and_free_and_nan_is_not_known():
    scan = scan_of(AHEAD, {}, ground=NONE)
    assert np.isnan(scan.ranges).all() and (scan.classes == NONE).all()
    scan = scan_of(AHEAD, {(5.05, 0.05): ROAD, (4.05, -4 + 0.05): CAR}, ground=NONE)
    seen = at(scan, math.degrees(math.atan2(0.05, 5.05)))
    assert scan.ranges[seen] == math.inf
    assert np.isnan(scan.ranges[at(scan, 30)]) and np.isfinite(scan.ranges[at(scan, -44.3)])


def test_directions_span_the_grid():
    ahead, around = scan_of(AHEAD, {}), scan_of(AROUND, {})
    assert -math.pi / 2 - 0.05 < ahead.angle_min < -1.5 and 1.5 < ahead.angle_max < math.pi / 2 + 0.05
    assert math.isclose(around.angle_min, -math.pi)
    assert math.isclose(len(around.ranges) * around.angle_increment, 2 * math.pi)
    for scan in (ahead, around):
        last = scan.angle_min + (len(scan.ranges) - 1) * scan.angle_increment
        assert math.isclose(scan.angle_max, last) and (scan.ranges == math.inf).all()
        assert scan.range_min == 0.0 and scan.range_max > math.hypot(4, 4)


def test_an_obstacle_behind_lies_across_the_ends_of_the_scan():
    scan = scan_of(AROUND, {(-1.05, 0.05): CAR, (-1.05, -0.05): CAR})
    assert np.isfinite(scan.ranges[[0, 1, -1, -2]]).all() and (scan.classes[[0, -1]] == CAR).all()


def test_a_grid_beside_the_base():
    chosen = GridSettings(x=(-9.0, -1.0), y=(-2.0, 2.0))
    scan = scan_of(chosen, {(-5.05, 0.05): CAR})
    k = at(scan, 180 - math.degrees(math.atan2(0.05, 5.05)))
    assert math.isclose(scan.ranges[k], 5.05, abs_tol=0.01) and scan.angle_max - scan.angle_min < math.radians(160)


def test_an_obstacle_at_the_origin_is_in_every_direction():
    scan = scan_of(replace(AROUND, x=(-4.05, 3.95), y=(-4.05, 3.95)), {(0.0, 0.0): CAR})
    assert (scan.ranges < 0.1).all()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), chosen=st.sampled_from([AHEAD, AROUND]), count=st.integers(0, 60))
def test_no_direction_passes_an_obstacle(seed, chosen, count):
    """Each ray, followed in small steps, meets no obstacle before its range, and one there."""
    rng = np.random.default_rng(seed)
    low, high = zip(chosen.x, chosen.y, strict=True)
    scan = scan_of(chosen, {tuple(place): CAR for place in rng.uniform(low, high, (count, 2)).tolist()})
    occupied = np.zeros(chosen.shape, bool)
    rng = np.random.default_rng(seed)
    for x, y in rng.uniform(low, high, (count, 2)).tolist():
        occupied[cell(x, y, chosen)] = True
    step = np.arange(0.0, 12.0, 0.01)
    half = chosen.resolution / 2
    for turn, found in zip(angles(scan).tolist(), scan.ranges.tolist(), strict=True):
        place = chosen.cell_of(step * math.cos(turn), step * math.sin(turn))
        hit = np.flatnonzero((place >= 0) & occupied.ravel()[place])
        met = step[hit[0]] if len(hit) else math.inf
        # A cell is at its centre, and a direction that passes its edge may leave it out or not.
        if math.isfinite(met) and len(hit) > 4:
            assert found < met + 2 * half + 0.02
        if math.isfinite(found):
            corner = np.hypot(*(np.array(chosen.centres()[k]) for k in range(2)))
            assert np.isclose(corner[occupied], found, atol=1e-4).any()


def test_more_classes_than_a_byte_holds():
    many = taxonomy.from_names("many", ["road", "person", *(f"class {i}" for i in range(300))])
    costs = read_costs("", many)
    classes = np.full(AHEAD.shape, 0, np.uint16)
    classes[cell(3.05, 0.05, AHEAD)] = 1
    scan = obstacles(SimpleNamespace(settings=AHEAD, costs=costs, classes=lambda stamp_ns: classes), 0)
    assert scan.unlabelled == 65535 and set(scan.classes.tolist()) == {1, 65535}


@pytest.mark.parametrize("turn", range(0, 360, 30))
def test_an_obstacle_anywhere_around(turn):
    x, y = 3.0 * math.cos(math.radians(turn)), 3.0 * math.sin(math.radians(turn))
    scan = scan_of(AROUND, {(x, y): CAR})
    assert abs(scan.ranges[at(scan, turn)] - 3.0) < 0.08
