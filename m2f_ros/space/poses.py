"""Poses of cameras and lidar, by their extrinsics or by tf."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from m2f_ros.errors import say_once
from m2f_ros.space.transforms import OPTICAL, TransformError, Transforms, inverse, pose

_HALF_TURN = 3.15  # radians; 3.1416 is meant as half a turn


class Poses:
    """Looks up transforms, (4, 4) with p_target = M @ p_source. Safe to use from several threads.

    Every lookup raises TransformError if tf has no such transform; its kind "stale" says that it may come yet.

    Attributes:
        base_frame: frame of the extrinsics: x forward, y left, z up.
        fixed_frame: frame that stands still; "" where no motion is taken out.
        transforms: the tree of tf.
    """

    def __init__(
        self,
        base_frame: str,
        fixed_frame: str,
        cameras: Mapping[str, Sequence[float]],
        lidar: Sequence[float],
        transforms: Transforms,
    ) -> None:
        """cameras: name -> extrinsics, x, y, z, roll, pitch, yaw of its body. lidar: its own. Empty ones: tf says it.

        Raises TransformError for extrinsics that are none, and for a base without a name.
        """
        # tf2 knows no leading slash, also not in the headers of outputs.
        self.base_frame, self.fixed_frame = base_frame.removeprefix("/"), fixed_frame.removeprefix("/")
        if not self.base_frame:
            raise TransformError("base_frame is empty: name the frame of the robot's base, such as base_link")
        self.transforms = transforms
        self._lidar = pose(lidar) if len(lidar) else None
        _say_doubts({f"camera {name}" if name else "the camera": values for name, values in cameras.items()})
        _say_doubts({"the lidar": lidar})
        self._cameras = {name: pose(values) @ OPTICAL for name, values in cameras.items() if len(values)}

    def base_from_camera(self, camera: str, frame: str, stamp_ns: int) -> np.ndarray:
        """Return the pose of a camera's optical frame in the base frame. frame: of its images."""
        known = self._cameras.get(camera)
        return self.transforms.lookup(self.base_frame, frame, stamp_ns) if known is None else known

    def motion(self, later_ns: int, earlier_ns: int) -> np.ndarray:
        """Return the transform of points at rest from the base frame at one stamp to the base frame at another."""
        if later_ns == earlier_ns:
            return np.eye(4)
        return self.transforms.lookup_between(self.base_frame, later_ns, self.base_frame, earlier_ns, self.fixed_frame)

    def camera_from_cloud(
        self, camera: str, frame: str, stamp_ns: int, cloud: str, cloud_ns: int, moving: bool
    ) -> np.ndarray:
        """Return the transform of a cloud's points to a camera's optical frame.

        Args:
            camera: name of the camera.
            frame: of its images.
            stamp_ns: of its image.
            cloud: frame of the cloud.
            cloud_ns: stamp of the cloud.
            moving: False to take the base to stand still between the two stamps.
        """
        if camera not in self._cameras and self._lidar is None:  # tf alone, which may know no base
            if moving:
                return self.transforms.lookup_between(frame, stamp_ns, cloud, cloud_ns, self.fixed_frame)
            return self.transforms.lookup(frame, cloud, cloud_ns)
        lidar = self.transforms.lookup(self.base_frame, cloud, cloud_ns) if self._lidar is None else self._lidar
        if moving:
            lidar = self.motion(stamp_ns, cloud_ns) @ lidar
        return inverse(self.base_from_camera(camera, frame, stamp_ns)) @ lidar


def _say_doubts(given: Mapping[str, Sequence[float]]) -> None:
    """Say which extrinsics are hardly meant: angles beyond half a turn, and the same pose of two sensors.

    Neither is refused: -4.71 is a right angle, and two topics of one camera share its pose.
    given: sensor -> extrinsics, none where they are empty.
    """
    for sensor, values in given.items():
        for axis, angle in zip(("roll", "pitch", "yaw"), values[3:], strict=False):
            if abs(angle) > _HALF_TURN:
                say_once(
                    f"extrinsics of {sensor}: {axis} is {angle:g} rad = {math.degrees(angle):.1f} degrees; if "
                    f"{angle:g} degrees are meant, write {math.radians(angle):.4g}"
                )
    sensors: dict[tuple[float, ...], list[str]] = {}
    for sensor, values in given.items():
        if len(values):
            sensors.setdefault(tuple(values), []).append(sensor)
    for same in sensors.values():
        if len(same) > 1:
            say_once(
                f"{' and '.join(same)} have the same extrinsics, as if they were in one place and looked one way: give "
                "each its own, camera.NAME.extrinsics"
            )


def may_come(look_up: Callable[[], object]) -> bool:
    """Return True if a transform that is looked up is not there yet, and may come."""
    try:
        look_up()
    except TransformError as error:
        return error.kind == "stale"
    return False
