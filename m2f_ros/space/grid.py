"""The ground around the base as a grid of classes and costs, seen by one or several cameras.

The base frame is right-handed: x forward, y left, z up, metres.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import cv2
import numpy as np

from m2f_ros.errors import SpaceError, say_once
from m2f_ros.space.cells import NOBODY, Cells, Memory, Pose
from m2f_ros.space.costs import Costs, looked_up
from m2f_ros.space.grid_settings import GridSettings
from m2f_ros.space.ground import Ground, View
from m2f_ros.space.labelled import Labelled

if TYPE_CHECKING:
    from m2f_ros.space.camera_model import CameraModel

_STILL = 0.02  # of a cell: motions of the base wait until they move a point so far


class GroundGrid:
    """The newest knowledge of each cell. Not thread-safe.

    A cell has the class that was seen there last. Where cameras disagree within `hold` seconds, the costlier class
    stands.
    """

    def __init__(
        self, settings: GridSettings, costs: Costs, fixed: bool = False, tell: Callable[[str], None] = say_once
    ) -> None:
        """fixed: True where every motion of the base is given to `move`; else a frame replaces all of its camera's
        earlier cells. tell: function that logs a line, once however often it is given."""
        self.settings, self.costs, self.fixed, self._tell = settings, costs, fixed, tell
        self._cost = costs.table
        self._lasts = np.where(costs.moves, settings.decay_moving, settings.decay) * 1e9  # nanoseconds, by label
        self._longest = max(settings.decay, settings.decay_moving) * 1e9
        self._views: dict[str, View] = {}
        self._newest: int | None
        self._seen: np.ndarray  # stamp of the newest frame, by camera; nanoseconds
        self._base: np.ndarray  # its pose in the frame of the memory
        self.clear()

    def observe(self, labelled: Labelled, model: CameraModel, base_from_camera: np.ndarray) -> int:
        """Enter a frame: its depth where it has a depth image, else as a view of flat ground.

        model: of images of the size of `labelled.label`.
        base_from_camera: (4, 4), the pose of the optical frame in the base frame at the frame's stamp.
        Returns the number of cells that the frame has changed or confirmed; 0 where all that it shows is unknown.
        Raises SpaceError, and changes nothing: another size, a camera that is not above the ground or sees none of it.
        """
        view = self._views.setdefault(labelled.camera, View(self.settings, self.costs))
        ground = view.seen(labelled, model, base_from_camera)
        stamp = labelled.stamp_ns
        if self._newest is not None and stamp < self._newest - self._longest:
            self._tell("the stamps of the images jumped back: the grid begins anew")
            self.clear()
        self._newest = stamp if self._newest is None else max(stamp, self._newest)
        if labelled.camera not in self._cameras and len(self._cameras) == NOBODY:
            raise SpaceError(f"camera {labelled.camera}: a grid takes {NOBODY} cameras at most")
        camera = self._cameras.setdefault(labelled.camera, len(self._cameras))
        self._seen[camera] = stamp
        self._settle()
        return self._enter(ground, camera, stamp)

    def move(self, base_now_from_base_before: np.ndarray) -> None:
        """Take the motion of the base since the last call, (4, 4): p_now = M @ p_before of a point at rest.

        The grid follows in the plane: translation in x and y, turn about z.
        Raises SpaceError for a matrix that is no motion.
        """
        motion = np.asarray(base_now_from_base_before, np.float64)
        if motion.shape != (4, 4) or not np.isfinite(motion).all() or abs(np.linalg.det(motion[:3, :3]) - 1) > 1e-3:
            raise SpaceError("the motion of the base is not a rigid one, a matrix of 4 by 4 finite numbers")
        self._base = self._base @ np.linalg.inv(motion)

    def occupancy(self, stamp_ns: int) -> np.ndarray:
        """Return the costs at a time, (rows, columns) int8 as in nav_msgs/OccupancyGrid: row = y, column = x.

        0 is free, 100 lethal, -1 unknown: never seen, or not seen for too long.
        """
        return looked_up(self._cost, self.classes(stamp_ns))

    def classes(self, stamp_ns: int) -> np.ndarray:
        """Return the class of each cell at a time, (rows, columns) train ids; `costs.unlabelled` where unknown."""
        self._settle()
        cells = self._cells
        lasts = looked_up(self._lasts, cells.label)
        in_newest = cells.stamp >= looked_up(self._seen, cells.camera)  # of its camera's frames
        alive = np.abs(cells.stamp - stamp_ns) <= np.where(in_newest, self._longest, lasts)
        unlabelled = cells.label.dtype.type(self.costs.unlabelled)
        return np.where(alive, cells.label, unlabelled).reshape(self.settings.shape)

    @property
    def origin(self) -> tuple[float, float]:
        """(x, y) of the outer corner of cell (0, 0) in the base frame, metres."""
        return self.settings.origin

    @property
    def stamp_ns(self) -> int | None:
        """Stamp of the newest frame that was entered; None if there is none."""
        return self._newest

    def clear(self) -> None:
        """Forget every cell, as when the time jumps."""
        self._newest = None
        self._cameras: dict[str, int] = {}
        self._seen = np.full(NOBODY + 1, np.inf)
        self._base = np.eye(4)
        self._placed = Pose()  # the pose for which the cells hold
        self._memory = Memory(self.settings, self.costs)
        self._cells = Cells.unknown(math.prod(self.settings.shape), self.costs)

    def state(self) -> dict[str, np.ndarray]:
        """Return copies of all that later calls depend on, for `restore`."""
        names = json.dumps(list(self._cameras)).encode()
        arrays = {
            "newest": np.array(-1 if self._newest is None else self._newest),
            "cameras": np.frombuffer(names, np.uint8),
            "seen": self._seen,
            "base": self._base,
            "placed": np.array([self._placed.x, self._placed.y, self._placed.turn]),
        }
        arrays |= {f"cells/{name}": array for name, array in vars(self._cells).items()}
        arrays |= {f"memory/{name}": array for name, array in self._memory.state().items()}
        arrays["views"] = np.frombuffer(json.dumps(list(self._views)).encode(), np.uint8)
        for number, view in enumerate(self._views.values()):
            arrays |= {f"view/{number}/{name}": array for name, array in view.state().items()}
        return {name: array.copy() for name, array in arrays.items()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Take the state of another grid of the same settings."""
        self._newest = None if state["newest"] < 0 else int(state["newest"])
        self._cameras = {name: number for number, name in enumerate(json.loads(state["cameras"].tobytes()))}
        self._seen, self._base = state["seen"].copy(), state["base"].copy()
        self._placed = Pose(*state["placed"].tolist())
        self._cells = Cells(**{name: array.copy() for name, array in _below("cells/", state).items()})
        self._memory.restore(_below("memory/", state))
        self._views = {}
        for number, name in enumerate(json.loads(state["views"].tobytes()) if "views" in state else ()):
            view = self._views[name] = View(self.settings, self.costs)
            view.restore(_below(f"view/{number}/", state))

    def _settle(self) -> None:
        """Bring the cells to where the base is now."""
        base, before = Pose.of(self._base), self._placed
        turn = abs(math.remainder(base.turn - before.turn, 2 * math.pi))
        way = math.hypot(base.x - before.x, base.y - before.y) + self.settings.radius * turn
        if way > _STILL * self.settings.resolution:
            self._memory.keep(self._cells, before, (self._newest or 0) - self._longest)
            self._cells, self._placed = self._memory.recall(base), base

    def _enter(self, ground: Ground, camera: int, stamp: int) -> int:
        """Enter what a frame shows; return the number of cells that take it."""
        cells, label = self._cells, ground.lies
        if not self.fixed:
            own = cells.camera == camera
            cells.label[own], cells.camera[own] = self.costs.unlabelled, NOBODY
        cell = self.settings.cell_of(ground.x, ground.y)
        at = np.flatnonzero(cell >= 0)
        if ground.together > 1:
            inside = cell[at]
            at = at[self._around(inside)[inside] >= ground.together]
        cost = self._cost[ground.stands[at]]
        if len(cost) and cost.min() < cost.max():  # the last one of a cell stays
            at = at[np.argsort(cost, kind="stable")]
        cell = cell[at]
        label[cell] = ground.stands[at]
        x, y = np.zeros((2, len(label)), np.float32)
        x[cell], y[cell] = ground.x[at], ground.y[at]

        old, new = looked_up(self._cost, cells.label), looked_up(self._cost, label)
        age = stamp - cells.stamp
        take = (cells.camera == camera) | (new >= old) | (age > round(self.settings.hold * 1e9))
        take &= label != self.costs.unlabelled
        for into, values in ((cells.label, label), (cells.x, x), (cells.y, y)):
            np.copyto(into, values, where=take)
        cells.stamp[take], cells.camera[take] = stamp, camera
        cells.fresh |= take
        return int(np.count_nonzero(take))

    def _around(self, cell: np.ndarray) -> np.ndarray:
        """Return how many of some cells are at each cell and the eight around it, (cells,) float32.

        A surface that is seen from its end has a single point in many of its cells, but others beside it.
        """
        rows, columns = self.settings.shape
        counts = np.bincount(cell, minlength=rows * columns).reshape(rows, columns).astype(np.float32)
        return cv2.boxFilter(counts, -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT).ravel()


def _below(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
