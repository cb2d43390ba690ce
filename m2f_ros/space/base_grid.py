"""The grid of the ground around a base that moves, from the frames of all cameras."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from m2f_ros.errors import say_once
from m2f_ros.space.costs import read_costs
from m2f_ros.space.grid import GroundGrid
from m2f_ros.space.grid_settings import GridSettings
from m2f_ros.space.labelled import Labelled
from m2f_ros.space.obstacles import Scan, obstacles
from m2f_ros.space.poses import Poses, may_come
from m2f_ros.space.transforms import TransformError, inverse
from m2f_ros.taxonomy import Taxonomy

if TYPE_CHECKING:
    from m2f_ros.space.camera_model import CameraModel

JUMP = 10**9  # nanoseconds; a frame that is older than the newest by more comes after a jump of time


class BaseGrid:
    """The grid in the base frame of the newest frame. For use by one thread.

    Attributes:
        settings: of the grid.
    """

    def __init__(
        self,
        settings: GridSettings,
        costs: str,
        taxonomy: Taxonomy,
        poses: Poses,
        still: Callable[[TransformError], None],
        tell: Callable[[str], None] = say_once,
    ) -> None:
        """costs: YAML file, see `read_costs`. taxonomy: of the labels. still: takes why the motion is not taken out.
        tell: function that logs a line, once however often it is given.

        Raises ConfigError for costs that do not fit the classes.
        """
        self.settings, self._poses, self._still = settings, poses, still
        self._grid = GroundGrid(settings, read_costs(costs, taxonomy), tell=tell)
        self._tell = tell
        self._base_ns: int | None = None  # stamp of the base in which the grid is

    def may_come(self, camera: str, frame: str, stamp_ns: int) -> bool:
        """Return True if a transform that a frame needs is not there, and may come."""
        return may_come(lambda: self._poses.base_from_camera(camera, frame, stamp_ns)) or may_come(
            lambda: self._moved(stamp_ns)
        )

    def observe(self, labelled: Labelled, model: CameraModel) -> None:
        """Enter a frame. Raises SpaceError."""
        grid, stamp = self._grid, labelled.stamp_ns
        if self._base_ns is not None and stamp < self._base_ns - JUMP:
            self.clear()
        pose, motion = self._poses.base_from_camera(labelled.camera, labelled.frame_id, stamp), None
        grid.fixed = bool(self._poses.fixed_frame)
        try:
            motion = self._moved(stamp)
        except TransformError as error:
            grid.fixed = False
            self._still(error)
        if self._base_ns is None or stamp >= self._base_ns:
            self._base_ns = stamp
            if motion is not None:
                grid.move(motion)
        elif motion is not None:  # of another camera, and a little older: its view is brought to the grid's time
            pose = inverse(motion) @ pose
        if not grid.observe(labelled, model, pose):
            self._tell(
                f"{f'camera {labelled.camera}' if labelled.camera else 'the camera'}: a frame shows nothing within the "
                "grid; where all frames do, look at the extrinsics (radians), base_frame and the unit of the depth"
            )

    @property
    def stamp_ns(self) -> int:
        """Stamp of the newest frame, nanoseconds; 0 without one."""
        return self._grid.stamp_ns or 0

    @property
    def origin(self) -> tuple[float, float, float]:
        """x, y, z of the outer corner of cell (0, 0) in the base frame, metres."""
        return (*self._grid.origin, self.settings.ground_height)

    def occupancy(self) -> np.ndarray:
        """Return the costs at the stamp of the newest frame, (rows, columns) int8; see GroundGrid.occupancy."""
        return self._grid.occupancy(self.stamp_ns)

    def obstacles(self) -> Scan:
        """Return the nearest obstacles at the stamp of the newest frame."""
        return obstacles(self._grid, self.stamp_ns)

    def clear(self) -> None:
        """Forget all frames."""
        self._base_ns = None
        self._grid.clear()

    def state(self) -> dict[str, np.ndarray]:
        """Return copies of all that later calls depend on, for `restore`."""
        return self._grid.state() | {"base_ns": np.array(-1 if self._base_ns is None else self._base_ns)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Take the state of another one of the same settings."""
        self._base_ns = int(state["base_ns"]) if state["base_ns"] >= 0 else None
        self._grid.restore(state)

    def _moved(self, stamp_ns: int) -> np.ndarray | None:
        """Return the transform of points at rest from the grid's base to that of a stamp; None for none."""
        if self._base_ns is None or not self._poses.fixed_frame:
            return None
        return self._poses.motion(stamp_ns, self._base_ns)
