"""Makes the messages of outputs in space for a bag, without ROS; the same as the node's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from rosbags.typesys.store import Typestore

from m2f_ros.bags.writer import register_type

if TYPE_CHECKING:
    from m2f_ros.space.detections import Detection
    from m2f_ros.space.obstacles import Scan

GRID = "nav_msgs/msg/OccupancyGrid"
SCAN = "sensor_msgs/msg/LaserScan"
DETECTIONS = "vision_msgs/msg/Detection2DArray"


class SpaceMessages:
    """Makes messages of the classes in a type store."""

    def __init__(self, types: Typestore) -> None:
        register_type(types, DETECTIONS)
        self._types: dict[str, Any] = types.types

    def grid(self, cells: np.ndarray, resolution: float, origin: tuple[float, float, float], header: Any) -> Any:
        """Make a nav_msgs/OccupancyGrid.

        cells: (rows, columns) int8, row = y, column = x. resolution: metres. origin: x, y, z of the outer corner of
        cell (0, 0), metres.
        """
        rows, columns = cells.shape
        info = self._types["nav_msgs/msg/MapMetaData"](
            header.stamp, resolution, columns, rows, self._pose(*map(float, origin))
        )
        return self._types[GRID](header, info, np.ascontiguousarray(cells, np.int8).ravel())

    def scan(self, scan: Scan, header: Any) -> Any:
        """Make a sensor_msgs/LaserScan, with the classes as intensities."""
        ranges, classes = (np.ascontiguousarray(values, np.float32) for values in (scan.ranges, scan.classes))
        angles = scan.angle_min, scan.angle_max, scan.angle_increment
        return self._types[SCAN](header, *angles, 0.0, 0.0, scan.range_min, scan.range_max, ranges, classes)

    def detections(self, found: Iterable[Detection], header: Any) -> Any:
        """Make a vision_msgs/Detection2DArray: boxes with the train id of their class as text.

        A centre in space is the position of the hypothesis' pose, in the frame of the header.
        """
        return self._types[DETECTIONS](header, [self._detection(one, header) for one in found])

    def _detection(self, one: Detection, header: Any) -> Any:
        types = self._types
        x, y, width, height = one.box
        centre = types["vision_msgs/msg/Point2D"](x + width / 2, y + height / 2)  # as vision_msgs' createAABB2D
        box = types["vision_msgs/msg/BoundingBox2D"](
            types["vision_msgs/msg/Pose2D"](centre, 0.0), float(width), float(height)
        )
        place = (0.0, 0.0, 0.0) if one.centre is None else map(float, one.centre)
        pose = types["geometry_msgs/msg/PoseWithCovariance"](self._pose(*place), np.zeros(36))
        hypothesis = types["vision_msgs/msg/ObjectHypothesis"](str(one.train_id), float(one.score))
        result = types["vision_msgs/msg/ObjectHypothesisWithPose"](hypothesis, pose)
        return types["vision_msgs/msg/Detection2D"](header, [result], box, str(one.id))

    def _pose(self, x: float, y: float, z: float) -> Any:
        types = self._types
        return types["geometry_msgs/msg/Pose"](
            types["geometry_msgs/msg/Point"](x, y, z), types["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0)
        )
