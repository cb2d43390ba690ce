"""The cells of a grid, and their memory while the base moves.

The memory stands still. It holds what lies on the ground as cells, and what stands there as points: each point falls
into its right cell of the grid however the base turns, where cells would fall between cells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from m2f_ros.space.costs import Costs, looked_up
from m2f_ros.space.grid_settings import GridSettings

NOBODY = 255  # number of no camera
_MARGIN = 3.0  # metres that the base moves until the memory's cells move along


@dataclass(frozen=True)
class Pose:
    """The base in the frame of the memory, in the plane: metres, and radians about z."""

    x: float = 0.0
    y: float = 0.0
    turn: float = 0.0

    @classmethod
    def of(cls, matrix: np.ndarray) -> Pose:
        """Take a pose in space, (4, 4), into the plane."""
        return cls(float(matrix[0, 3]), float(matrix[1, 3]), math.atan2(matrix[1, 0], matrix[0, 0]))

    def placed(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return points of the base in the frame of the memory."""
        c, s = math.cos(self.turn), math.sin(self.turn)
        return self.x + (c * x - s * y), self.y + (s * x + c * y)

    def seen(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return points of the memory in the base frame."""
        c, s = math.cos(self.turn), math.sin(self.turn)
        x, y = x - self.x, y - self.y
        return c * x + s * y, c * y - s * x


@dataclass(eq=False)
class Cells:
    """Cells in the base frame, (cells,) each, row by row.

    Attributes:
        label: train ids; unlabelled where unknown.
        stamp: float64 nanoseconds, when it was seen last; minus infinity where it never was.
        camera: uint8, number of the camera that saw it; NOBODY for none.
        x: float32 metres in the base frame, of a point of what stands there.
        y: the same.
        fresh: bool, True where a frame was entered since the base moved.
    """

    label: np.ndarray
    stamp: np.ndarray
    camera: np.ndarray
    x: np.ndarray
    y: np.ndarray
    fresh: np.ndarray

    @classmethod
    def unknown(cls, count: int, costs: Costs) -> Cells:
        """Make cells of which nothing is known."""
        x, y = np.zeros((2, count), np.float32)
        return cls(*_unknown((count,), costs), x, y, np.zeros(count, bool))


@dataclass(frozen=True, eq=False)
class _Points:
    """Points of what stands in the frame of the memory: x and y float64 metres, the rest as in Cells; (N,) each."""

    x: np.ndarray
    y: np.ndarray
    label: np.ndarray
    stamp: np.ndarray
    camera: np.ndarray

    def parts(self) -> tuple[np.ndarray, ...]:
        return self.x, self.y, self.label, self.stamp, self.camera


class Memory:
    """The ground as it was seen, in a frame that stands still."""

    def __init__(self, settings: GridSettings, costs: Costs):
        self._settings, self._costs = settings, costs
        self._stands = ((costs.table >= 0) & ~costs.flat).view(np.uint8)  # by label
        self._side = 2 * math.ceil((settings.radius + _MARGIN) / settings.resolution) + 2
        self._corner = np.full(2, -self._side // 2)  # numbers of the first column and row, from the frame's origin
        self._kept = _unknown((self._side, self._side), costs)  # label, stamp and camera of what lies on the ground
        self._points = _Points(np.zeros(0), np.zeros(0), *_unknown((0,), costs))
        self._cell = np.zeros(0, np.intp)  # of each point in the cells that were recalled last; -1: outside of them

    def state(self) -> dict[str, np.ndarray]:
        """Return copies of all that later calls depend on, for `restore`."""
        arrays = {"corner": self._corner, "cell": self._cell}
        arrays |= {f"kept/{number}": array for number, array in enumerate(self._kept)}
        arrays |= {f"points/{number}": array for number, array in enumerate(self._points.parts())}
        return {name: array.copy() for name, array in arrays.items()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Take the state of another memory of the same settings."""
        self._corner, self._cell = state["corner"].copy(), state["cell"].copy()
        label, stamp, camera = (state[f"kept/{number}"].copy() for number in range(3))
        self._kept = label, stamp, camera
        self._points = _Points(*(state[f"points/{number}"].copy() for number in range(5)))

    def keep(self, cells: Cells, base: Pose, oldest: float) -> None:
        """Take over the fresh cells of a grid.

        cells: those recalled last, with what was entered since.
        base: the pose for which they hold.
        oldest: nanoseconds; points that were seen before are forgotten.
        """
        turn, start = self._map_from_grid(base)
        rows, columns = self._settings.shape
        corners = np.array([(x, y) for x in (0, columns) for y in (0, rows)]) - 0.5
        ends = corners @ turn.T + start
        low, high = (
            np.clip(np.rint(end), 0, self._side).astype(int) for end in (ends.min(axis=0), ends.max(axis=0) + 1)
        )
        block = slice(low[1], high[1]), slice(low[0], high[0])

        stands = looked_up(self._stands, cells.label).view(bool)
        lies = np.where(stands, cells.label.dtype.type(self._costs.unlabelled), cells.label)
        to_grid = np.column_stack([turn.T, turn.T @ (low - start)])
        fresh, *found = (
            _warped(values.reshape(rows, columns), to_grid, high - low)
            for values in (cells.fresh.view(np.uint8), lies, cells.stamp, cells.camera)
        )
        for kept, new in zip(self._kept, found, strict=True):
            np.copyto(kept[block], new, where=fresh.view(bool))

        stay = ~((self._cell >= 0) & cells.fresh[self._cell]) & (self._points.stamp >= oldest)
        new = np.flatnonzero(stands & cells.fresh)
        x, y = base.placed(cells.x[new], cells.y[new])
        more = x, y, cells.label[new], cells.stamp[new], cells.camera[new]
        self._points = _Points(
            *(np.concatenate([old[stay], added]) for old, added in zip(self._points.parts(), more, strict=True))
        )

    def recall(self, base: Pose) -> Cells:
        """Return the cells of the grid for a pose of the base."""
        self._follow(base)
        settings = self._settings
        rows, columns = settings.shape
        to_map = np.column_stack(self._map_from_grid(base))
        label, stamp, camera = (_warped(kept, to_map, (columns, rows)).ravel() for kept in self._kept)
        x, y = np.zeros((2, rows * columns), np.float32)
        cells = Cells(label, stamp, camera, x, y, np.zeros(rows * columns, bool))

        points = self._points
        at_x, at_y = base.seen(points.x, points.y)
        self._cell = settings.cell_of(at_x, at_y)
        # The last one of a cell stays: the costliest, then the newest.
        order = np.lexsort((points.stamp, self._costs.table[points.label]))
        order = order[self._cell[order] >= 0]
        at = self._cell[order]
        label[at], stamp[at], camera[at] = (part[order] for part in points.parts()[2:])
        x[at], y[at] = at_x[order], at_y[order]
        return cells

    def _map_from_grid(self, base: Pose) -> tuple[np.ndarray, np.ndarray]:
        """Return (2, 2) and (2,): from the column and row of a cell of the grid to those of a cell of the memory."""
        resolution, (c, s) = self._settings.resolution, (math.cos(base.turn), math.sin(base.turn))
        turn = np.array([[c, -s], [s, c]])
        first = turn @ (np.array(self._settings.origin) + resolution / 2) + (base.x, base.y)
        return turn, first / resolution - 0.5 - self._corner

    def _follow(self, base: Pose) -> None:
        """Move the cells of the memory along with the base, by whole cells."""
        resolution = self._settings.resolution
        corner = np.floor(np.array([base.x, base.y]) / resolution).astype(int) - self._side // 2
        by = corner - self._corner
        if np.abs(by).max() * resolution <= _MARGIN:
            return
        old, self._corner = self._kept, corner
        self._kept = _unknown((self._side, self._side), self._costs)
        if np.abs(by).max() < self._side:
            (to_column, from_column), (to_row, from_row) = (_overlap(int(n)) for n in by)
            for new, kept in zip(self._kept, old, strict=True):
                new[to_row, to_column] = kept[from_row, from_column]


def _unknown(shape: tuple[int, ...], costs: Costs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return label, stamp and camera of unknown cells."""
    kind = np.uint8 if costs.unlabelled == 255 else np.uint16
    return np.full(shape, costs.unlabelled, kind), np.full(shape, -np.inf), np.full(shape, NOBODY, np.uint8)


def _warped(values: np.ndarray, source: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Return (height, width) of the nearest values; 0 outside of them.

    source: (2, 3), from column and row of the result to those of the values. size: (width, height).
    """
    return cv2.warpAffine(values, source, tuple(map(int, size)), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)


def _overlap(by: int) -> tuple[slice, slice]:
    """Return where a row goes to and comes from, when a block moves by so many rows."""
    return (slice(None, -by or None), slice(by, None)) if by >= 0 else (slice(-by, None), slice(None, by))
