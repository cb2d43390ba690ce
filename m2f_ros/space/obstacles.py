"""The nearest obstacle in each direction around the base, of the grid of the ground."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from m2f_ros.space.costs import UNKNOWN, looked_up
from m2f_ros.space.grid import GroundGrid
from m2f_ros.space.grid_settings import GridSettings

_EDGE = 1e-6  # of a direction; one along the edge of a cell is taken up by it


@dataclass(frozen=True, eq=False)
class Scan:
    """Ranges around the origin of the base frame, as in sensor_msgs/LaserScan.

    Attributes:
        angle_min: direction of the first range, radians, counter-clockwise from x forward.
        angle_max: direction of the last.
        angle_increment: radians between them.
        range_min: metres; no obstacle is nearer.
        range_max: metres; every obstacle is nearer.
        ranges: (N,) float32 metres to the centre of the nearest obstacle's cell; inf: ground is seen in this direction,
            and no obstacle; NaN: nothing is known of it.
        classes: (N,) train ids of the obstacles; unlabelled where there is none.
        unlabelled: value of `classes` without an obstacle.
    """

    angle_min: float
    angle_max: float
    angle_increment: float
    range_min: float
    range_max: float
    ranges: np.ndarray
    classes: np.ndarray
    unlabelled: int


def obstacles(grid: GroundGrid, stamp_ns: int) -> Scan:
    """Return the nearest cell in each direction whose cost is at least `obstacle_cost`, at a time."""
    polar = _polar_of(grid.settings)
    classes = grid.classes(stamp_ns).ravel()
    cost = looked_up(grid.costs.table, classes)
    ranges = np.full(polar.count, np.nan, np.float32)
    known = cost != UNKNOWN
    for seen in (polar.direction, polar.end):
        ranges[seen[known]] = np.inf
    found = np.full(polar.count, grid.costs.unlabelled, classes.dtype)
    # From far to near: the nearest stays.
    cell = polar.far_to_near[(cost >= grid.settings.obstacle_cost)[polar.far_to_near]]
    width = polar.width[cell]
    cell, begin = np.repeat(cell, width), np.repeat(polar.begin[cell], width)
    at = (begin + np.arange(len(cell)) - np.repeat(np.cumsum(width) - width, width)) % polar.around
    inside = at < polar.count
    cell, at = cell[inside], at[inside]
    ranges[at], found[at] = polar.distance[cell], classes[cell]
    last = polar.first + (polar.count - 1) * polar.step
    return Scan(polar.first, last, polar.step, 0.0, polar.farthest, ranges, found, grid.costs.unlabelled)


class _Polar:
    """The cells of a grid as seen from the origin of the base frame; (cells,) each.

    Attributes:
        step: radians between directions.
        around: number of directions of a whole turn.
        count: number of directions, from `first` radians on.
        direction: intp, that of each cell's centre.
        begin: intp, first of the directions that a cell takes up.
        end: intp, the last of them; `direction` where that is outside of the scan.
        width: intp, number of directions that it takes up.
        distance: float32 metres to its centre.
        far_to_near: the cells, the farthest first.
        farthest: metres, more than every distance.
    """

    def __init__(self, settings: GridSettings):
        half, reach = settings.resolution / 2, settings.radius
        self.around = max(8, math.ceil(2 * math.pi * reach / settings.resolution))
        self.step, self.farthest = 2 * math.pi / self.around, reach + settings.resolution
        x, y = (axis.ravel() for axis in np.broadcast_arrays(*settings.centres()))
        self.distance = np.hypot(x, y).astype(np.float32)
        self.far_to_near = np.argsort(-self.distance, kind="stable")
        turn = np.arctan2(y, x)
        corners = [np.arctan2(y + b, x + a) - turn for a in (-half, half) for b in (-half, half)]
        aside = (np.array(corners) + math.pi) % (2 * math.pi) - math.pi
        low, high = turn + aside.min(axis=0), turn + aside.max(axis=0)
        around_origin = (np.abs(x) < half) & (np.abs(y) < half)
        low[around_origin], high[around_origin] = -math.pi, math.pi

        inside = all(low < 0 < high for low, high in (settings.x, settings.y))
        middle = math.atan2(sum(settings.y), sum(settings.x))
        spread = np.abs((turn - middle + math.pi) % (2 * math.pi) - math.pi).max()
        self.count = self.around if inside else min(self.around, 2 * round(spread / self.step) + 1)
        self.first = -math.pi if inside else middle - (self.count - 1) / 2 * self.step
        centre = (turn - self.first) / self.step
        self.direction = np.rint(centre).astype(np.intp) % self.around
        # At least the direction of its centre, and those whose middle it covers.
        begin, end = (low - self.first) / self.step - _EDGE, (high - self.first) / self.step + _EDGE
        begin, end = np.minimum(np.ceil(begin), np.rint(centre)), np.maximum(np.floor(end), np.rint(centre))
        self.begin = begin.astype(np.intp)
        self.width = np.minimum(end - begin + 1, self.around).astype(np.intp)
        end = end % self.around
        self.end = np.where(end < self.count, end, self.direction).astype(np.intp)


@lru_cache(maxsize=8)
def _polar_of(settings: GridSettings) -> _Polar:
    return _Polar(settings)
