"""The pinhole camera model that travels with every frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CameraModel:
    """Pinhole intrinsics in pixels; the centre of the top-left pixel is (0, 0), as in sensor_msgs/CameraInfo.

    `distortion` holds plumb_bob coefficients (k1, k2, p1, p2, k3); empty means none.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...] = ()

    def matrix(self) -> np.ndarray:
        """K, (3, 3) float64: pixel ~ K @ (x right, y down, z forward)."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]], dtype=np.float64)
