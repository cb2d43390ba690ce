"""Clouds of a lidar that wait for the frames of their time, and are labelled by them."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from sensor_msgs.msg import PointCloud2

from m2f_ros.node.declare import Settings
from m2f_ros.node.messages import cloud_message
from m2f_ros.node.segmentation.space.reports import Reports
from m2f_ros.space.cloud import Cloud
from m2f_ros.space.labelled import Labelled
from m2f_ros.space.poses import Poses
from m2f_ros.space.sightings import Sightings

if TYPE_CHECKING:
    from m2f_ros.node.segmentation.space.inputs import Arrived
    from m2f_ros.space.camera_model import CameraModel


class Lidar:
    """The newest labelled frames of each camera, and what they see of a cloud. For use by one thread.

    Args:
        settings: parameters of the node and the cameras.
        poses: poses of cameras and lidar.
        reports: takes what keeps a camera, or the base's motion, away.
    """

    def __init__(self, settings: Settings, poses: Poses, reports: Reports) -> None:
        self._settings = settings
        self._sightings = Sightings(
            list(settings.cameras),
            lambda: settings.node.lidar_slop,
            poses,
            reports.motion,
            partial(reports.miss, "lidar"),
        )

    def see(self, labelled: Labelled, model: CameraModel) -> None:
        """Keep a frame."""
        self._sightings.see(labelled, model)

    def clear(self) -> None:
        """Forget all frames."""
        self._sightings.clear()

    def is_due(self, stamp_ns: int, cloud: Arrived, patience: float) -> bool:
        """Return True if no frame that is nearer to a cloud is worth waiting for.

        Nor a transform, unless the cloud came more than `patience` seconds ago.
        """
        newest = [
            self._sightings.newest(name) for name, camera in self._settings.cameras.items() if "lidar" in camera.outputs
        ]
        there = [stamp for stamp in newest if stamp is not None]
        slop = round(self._settings.node.lidar_slop * 1e9)
        # A camera that has stopped holds the others up no longer than the slop.
        if not there or (max(there) < stamp_ns + slop and any(s is None or s < stamp_ns for s in newest)):
            return False
        if time.monotonic() >= cloud.came + patience:
            return True
        return not self._sightings.may_come(cloud.message.header.frame_id, stamp_ns)

    def label(self, message: object) -> PointCloud2 | None:
        """Make the message of a cloud with its labels; None if no frame is of its time.

        Raises SpaceError for a cloud that cannot be read or placed.
        """
        labels = self._sightings.label(Cloud.of(message))
        return None if labels is None else cloud_message(labels, message.header)  # type: ignore[attr-defined]
