"""Size and rules of the grid of the ground."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

from m2f_ros.errors import ConfigError
from m2f_ros.space.costs import LETHAL

_MOST_CELLS = 4_000_000


@dataclass(frozen=True)
class GridSettings:
    """Size and rules of the grid. Raises ConfigError for values that are not possible.

    Attributes:
        x: lowest and highest x of the grid in the base frame, metres.
        y: the same of y.
        resolution: side of a cell, metres.
        max_range: greatest distance from a camera, along the ground, at which it is trusted; metres.
        decay: seconds after which a cell that is not seen again is unknown.
        decay_moving: the same of classes that may move; what the newest frame of a camera shows lasts as the rest does.
        hold: seconds for which the view of another camera does not lower a cell's cost.
        min_confidence: least confidence of a pixel, 0 to 255; others are unknown.
        ground_height: z of the ground in the base frame, metres.
        ground_tolerance: height above the ground from which a point of something that stands counts, metres.
        height: height above the ground up to which points count: that of the robot, metres.
        min_points: points of a frame with depth in a cell and the eight around it from which what stands there counts.
        obstacle_cost: cost from which a cell is an obstacle, 1 to 100.
    """

    x: tuple[float, float] = (0.0, 20.0)
    y: tuple[float, float] = (-10.0, 10.0)
    resolution: float = 0.1
    max_range: float = 20.0
    decay: float = 2.0
    decay_moving: float = 0.3
    hold: float = 0.2
    min_confidence: int = 0
    ground_height: float = 0.0
    ground_tolerance: float = 0.15
    height: float = 2.0
    min_points: int = 2
    obstacle_cost: int = LETHAL

    def __post_init__(self) -> None:
        for axis in ("x", "y"):
            ends = tuple(getattr(self, axis))
            if len(ends) != 2 or not all(map(math.isfinite, ends)) or not ends[0] < ends[1]:
                raise ConfigError(f"grid: {axis} is {list(ends)}, expected the lower and the higher end, in metres")
            object.__setattr__(self, axis, ends)
        for field in fields(self)[2:]:
            if not math.isfinite(getattr(self, field.name)):
                raise ConfigError(f"grid: {field.name} is {getattr(self, field.name)}, expected a finite number")
        for name in ("resolution", "max_range", "decay", "decay_moving"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"grid: {name} is {getattr(self, name)}, expected a number above 0")
        if self.hold < 0:
            raise ConfigError(f"grid: hold is {self.hold}, expected seconds from 0 on")
        if not 0 <= self.min_confidence <= 255:
            raise ConfigError(f"grid: min_confidence is {self.min_confidence}, expected 0 to 255")
        if self.min_points < 1:
            raise ConfigError(f"grid: min_points is {self.min_points}, expected 1 or more")
        if not 1 <= self.obstacle_cost <= LETHAL:
            raise ConfigError(f"grid: obstacle_cost is {self.obstacle_cost}, expected 1 to {LETHAL}")
        if not self.ground_tolerance < self.height:
            raise ConfigError(f"grid: height {self.height} is not above ground_tolerance {self.ground_tolerance}")
        cells = math.prod((high - low) / self.resolution for low, high in (self.x, self.y))
        around = 2 * math.pi * (self.max_range / self.resolution) ** 2
        if max(cells, around) > _MOST_CELLS:
            raise ConfigError(
                f"grid: x, y and max_range come to {max(cells, around):.3g} cells of {self.resolution} m, at most "
                f"{_MOST_CELLS} are possible: make them smaller or the resolution coarser"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the grid: cells along y, along x."""
        rows, columns = (max(1, round((high - low) / self.resolution)) for low, high in (self.y, self.x))
        return rows, columns

    @property
    def origin(self) -> tuple[float, float]:
        """(x, y) of the outer corner of cell (0, 0), metres; cell (row, column) begins `resolution` farther each."""
        return self.x[0], self.y[0]

    def centres(self) -> tuple[np.ndarray, np.ndarray]:
        """Return x of the cells' centres, (1, columns), and y, (rows, 1), metres."""
        rows, columns = self.shape
        x, y = (
            low + (np.arange(n) + 0.5) * self.resolution for low, n in zip(self.origin, (columns, rows), strict=True)
        )
        return x[None], y[:, None]

    @property
    def radius(self) -> float:
        """Metres from the origin of the base frame to the farthest corner of the grid."""
        return math.hypot(*(max(map(abs, ends)) for ends in (self.x, self.y)))

    def cell_of(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the cells, counted row by row, of points in the base frame; -1: outside of the grid. intp."""
        rows, columns = self.shape
        column, row = (
            np.floor((at - start) * (1 / self.resolution)) for at, start in zip((x, y), self.origin, strict=True)
        )
        inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
        return np.where(inside, row * columns + column, -1).astype(np.intp)
