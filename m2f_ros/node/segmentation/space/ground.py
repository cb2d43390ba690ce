"""The messages of the grid of the ground, from the frames of all cameras, and of the obstacles on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builtin_interfaces.msg import Time
from nav_msgs.msg import OccupancyGrid
from sensor_msgs.msg import LaserScan
from std_msgs.msg import Header

from m2f_ros.errors import ConfigError
from m2f_ros.node.messages import grid_message, scan_message
from m2f_ros.node.parameters import NodeSettings
from m2f_ros.node.segmentation.space.reports import GroundKinds, Reports
from m2f_ros.node.space_settings import grid_settings
from m2f_ros.space.base_grid import BaseGrid
from m2f_ros.space.labelled import Labelled
from m2f_ros.space.poses import Poses
from m2f_ros.taxonomy import Taxonomy

if TYPE_CHECKING:
    from m2f_ros.space.camera_model import CameraModel


class Ground:
    """The grid in the base frame of the newest frame. For use by one thread.

    Args:
        settings: parameters of the node.
        poses: poses of the cameras and of the base.
        reports: takes what keeps the base's motion away.
        kinds: takes which frames have depth.
    Raises:
        ConfigError: the size of the grid is not possible.
    """

    def __init__(self, settings: NodeSettings, poses: Poses, reports: Reports, kinds: GroundKinds) -> None:
        self._costs, self._settings = settings.grid_costs, grid_settings(settings)
        self._poses, self._reports, self._kinds = poses, reports, kinds
        self._taxonomy: Taxonomy | None = None
        self._grid: BaseGrid | None = None

    def begin(self, taxonomy: Taxonomy) -> None:
        """Take the classes of the model. Raises ConfigError for a file of costs that is wrong."""
        self._taxonomy = taxonomy
        if self._costs:  # else at the first frame, since most have no use for the grid
            self._made()

    def may_come(self, camera: str, frame: str, stamp_ns: int) -> bool:
        """Return True if a transform that a frame needs is not there, and may come."""
        try:
            return self._made().may_come(camera, frame, stamp_ns)
        except ConfigError:  # `observe` says it
            return False

    def observe(self, labelled: Labelled, model: CameraModel) -> None:
        """Enter a frame. Raises SpaceError, ConfigError."""
        self._made().observe(labelled, model)
        self._kinds.see(labelled.camera, labelled.stamp_ns, labelled.depth is not None)

    def grid(self) -> OccupancyGrid:
        """Make the message of the grid at the stamp of its newest frame."""
        grid = self._made()
        return grid_message(grid.occupancy(), self._settings.resolution, grid.origin, self._header())

    def obstacles(self) -> LaserScan:
        """Make the message of the obstacles at the stamp of the newest frame."""
        return scan_message(self._made().obstacles(), self._header())

    def clear(self) -> None:
        """Forget all frames."""
        self._kinds.clear()
        if self._grid is not None:
            self._grid.clear()

    def _made(self) -> BaseGrid:
        """Return the grid. Raises ConfigError for costs that do not fit the classes."""
        if self._grid is None:
            assert self._taxonomy is not None
            self._grid = BaseGrid(self._settings, self._costs, self._taxonomy, self._poses, self._reports.motion)
        return self._grid

    def _header(self) -> Header:
        seconds, nanoseconds = divmod(self._made().stamp_ns, 10**9)
        return Header(stamp=Time(sec=seconds, nanosec=nanoseconds), frame_id=self._poses.base_frame)
