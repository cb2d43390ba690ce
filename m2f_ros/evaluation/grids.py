"""Occupancy grids as arrays with a place, and the comparison of two of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from m2f_ros.errors import FrameError
from m2f_ros.metrics import CellScore

_LEVEL = 1e-3  # of the orientation's x and y, up to which a grid lies level
_UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class Grid:
    """An occupancy grid.

    Attributes:
        cost: (rows, columns) int8, a row has one y and a column one x.
        resolution: side of a cell, metres.
        origin: x and y of the outer corner of cell (0, 0) in `frame_id`, metres, and the turn of its axes, radians.
        frame_id: frame of the header.
    """

    cost: np.ndarray
    resolution: float
    origin: tuple[float, float, float]
    frame_id: str

    @classmethod
    def of(cls, message: Any) -> Grid:
        """Take a nav_msgs/OccupancyGrid of rclpy or rosbags. Raises FrameError for an impossible one."""
        info = message.info
        cost = np.asarray(message.data, np.int8)
        if cost.size != info.width * info.height:
            raise FrameError(f"a grid of {info.width} x {info.height} cells has {cost.size}")
        q, position = info.origin.orientation, info.origin.position
        numbers = (info.resolution, position.x, position.y, q.x, q.y, q.z, q.w)
        if not all(map(math.isfinite, numbers)) or info.resolution <= 0:
            raise FrameError(f"a grid has the resolution {info.resolution:g} m and its origin at {position.x:g}, …")
        if max(abs(q.x), abs(q.y)) > _LEVEL:
            raise FrameError("a grid does not lie level")
        yaw = 2 * math.atan2(q.z, q.w)
        place = float(position.x), float(position.y), yaw
        return cls(cost.reshape(info.height, info.width), float(info.resolution), place, message.header.frame_id)

    def centres(self) -> np.ndarray:
        """Return the centres of all cells in `frame_id`: (rows * columns, 2) float64 metres."""
        rows, columns = self.cost.shape
        row, column = np.divmod(np.arange(rows * columns), columns)
        x, y, yaw = self.origin
        along, across = (column + 0.5) * self.resolution, (row + 0.5) * self.resolution
        c, s = math.cos(yaw), math.sin(yaw)
        return np.stack([x + c * along - s * across, y + s * along + c * across], axis=1)

    def at(self, points: np.ndarray) -> np.ndarray:
        """Return the cost at points of `frame_id`, (N, 2) metres: (N,) int8, -1 outside of the grid."""
        x, y, yaw = self.origin
        c, s = math.cos(yaw), math.sin(yaw)
        dx, dy = points[:, 0] - x, points[:, 1] - y
        column = np.floor((c * dx + s * dy) / self.resolution).astype(np.int64)
        row = np.floor((c * dy - s * dx) / self.resolution).astype(np.int64)
        rows, columns = self.cost.shape
        inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        found = np.full(len(points), _UNKNOWN, np.int8)
        found[inside] = self.cost[row[inside], column[inside]]
        return found


def compare(score: CellScore, grid: Grid, truth: Grid, seen: Grid) -> None:
    """Add a grid to a score: its cells against all that is known, and what was in view against it.

    truth: what is there. seen: the same, unknown where nothing was to be seen. The three are of one frame_id, and may
    be of other places and resolutions. Distances are from the origin of the frame.
    """
    cells = grid.centres()
    in_view = seen.at(cells) != _UNKNOWN
    score.update_precision(grid.cost.ravel(), truth.at(cells), in_view, np.linalg.norm(cells, axis=1))
    cells = seen.centres()
    score.update_recall(seen.cost.ravel(), grid.at(cells), np.linalg.norm(cells, axis=1))
