"""Where camera and lidar of the street are, in right-handed frames as ROS has them (REP 103, REP 105).

    map -> odom -> base_link -> camera_link -> camera
                            \\-> lidar

map: x along the road, y to the left, z up, metres. odom is the same. base_link is on the ground below the camera,
level, its x axis ahead. camera_link is the camera's body (x ahead, y left, z up), whose height and pitch sway.
camera is its optical frame (x right, y down, z ahead), and the frame_id of the images. lidar is level, on the roof.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from m2f_ros.space.transforms import OPTICAL, inverse, pose

MAP, ODOM, BASE, BODY, CAMERA, LIDAR = "map", "odom", "base_link", "camera_link", "camera", "lidar"

# The street's world is left-handed (x right, y up, z along the road): one axis changes its direction on the way to
# map, x for traffic on the right. A mirrored street is shown in a mirror, and needs no other.
_RIGHT = np.array([[0.0, 0, 1], [-1, 0, 0], [0, 1, 0]])
_MIRRORED = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
# The lidar is so many metres ahead of the camera's nominal place, and above it.
_ROOF = (-0.5, 0.45)


class Transform(NamedTuple):
    """The pose of a frame in its parent, p_parent = matrix @ p_child, (4, 4). static: it never changes."""

    parent: str
    child: str
    matrix: np.ndarray
    static: bool


@dataclass(frozen=True, eq=False)
class Pose:
    """The poses of one moment, (4, 4) float64: p_a = a_from_b @ p_b, metres.

    Attributes:
        map_from_base: moves along the road.
        base_from_body: moves by 12 mm and 0.2 degrees about a constant pose.
        base_from_lidar: constant.
    """

    map_from_base: np.ndarray
    base_from_body: np.ndarray
    base_from_lidar: np.ndarray

    @property
    def base_from_camera(self) -> np.ndarray:
        return self.base_from_body @ OPTICAL

    @property
    def map_from_camera(self) -> np.ndarray:
        return self.map_from_base @ self.base_from_camera

    @property
    def map_from_lidar(self) -> np.ndarray:
        return self.map_from_base @ self.base_from_lidar

    @property
    def camera_from_lidar(self) -> np.ndarray:
        return inverse(self.base_from_camera) @ self.base_from_lidar

    def transforms(self) -> list[Transform]:
        """Return the transforms of this moment, those that never change first."""
        still = [(MAP, ODOM, np.eye(4)), (BODY, CAMERA, OPTICAL), (BASE, LIDAR, self.base_from_lidar)]
        moving = [(ODOM, BASE, self.map_from_base), (BASE, BODY, self.base_from_body)]
        return [Transform(*one, True) for one in still] + [Transform(*one, False) for one in moving]


def world_of(mirrored: bool) -> np.ndarray:
    """Return (3, 3), p_map = M @ p_street, for a street whose traffic is on the right, or mirrored, on the left."""
    return _MIRRORED if mirrored else _RIGHT


def pose_of(world: np.ndarray, rotation: np.ndarray, position: np.ndarray, heading: float, eye: float) -> Pose:
    """Make the poses of a moment.

    world: see `world_of`. rotation, position: of the camera, see View. heading: of the vehicle, radians in the street's
    world, positive to its x axis. eye: nominal height of the camera, metres.
    """
    map_from_camera = np.eye(4)
    map_from_camera[:3, :3] = world @ rotation.T
    map_from_camera[:3, 3] = world @ position
    x, y, _ = map_from_camera[:3, 3]
    map_from_base = pose([x, y, 0, 0, 0, heading * world[1, 0]])
    ahead, above = _ROOF
    return Pose(
        map_from_base,
        inverse(map_from_base) @ map_from_camera @ OPTICAL.T,
        pose([ahead, 0, eye + above, 0, 0, 0]),
    )
