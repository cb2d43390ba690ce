"""CameraInfo for outputs of another size than the camera's image."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from m2f_ros.errors import FrameError

if TYPE_CHECKING:
    from sensor_msgs.msg import CameraInfo


def image_size(info: CameraInfo) -> tuple[int, int]:
    """(width, height) of the images that a CameraInfo belongs to: its region of interest after binning, in pixels.

    Raises FrameError when it names no size.
    """
    width = (info.roi.width or info.width) // max(1, info.binning_x)
    height = (info.roi.height or info.height) // max(1, info.binning_y)
    if not width or not height:
        raise FrameError(
            f"camera_info has no size: width {info.width}, height {info.height}, region of interest "
            f"{info.roi.width}x{info.roi.height}, binning {info.binning_x}x{info.binning_y}"
        )
    return width, height


def fit_camera_info(info: CameraInfo, width: int, height: int) -> CameraInfo:
    """The CameraInfo of the camera's image resized to width x height pixels.

    Of the image's own size it is `info` itself. Else K and P are those of the resized image, whole: region of interest
    and binning are worked into them (as image_geometry's PinholeCameraModel::fromCameraInfo does it) and then left
    empty, so that `width` and `height` are the output's in any case. Header, distortion and R stay: they do not depend
    on pixels. A matrix of zeros, by which a camera says that it is not calibrated, stays as well.

    The centre of the first pixel is at 0, its corner at -0.5, and resizing keeps corners: c' = s (c + 0.5) - 0.5.

    Raises FrameError when `info` names no size.
    """
    old_width, old_height = image_size(info)
    if (width, height) == (old_width, old_height):
        return info
    fitted = copy.copy(info)
    fitted.width, fitted.height = width, height
    fitted.k = _fit(info, info.k, 3, width / old_width, height / old_height)
    fitted.p = _fit(info, info.p, 4, width / old_width, height / old_height)
    fitted.binning_x = fitted.binning_y = 0
    fitted.roi = type(info.roi)()
    return fitted


def _fit(info: CameraInfo, matrix: object, columns: int, *scale: float) -> list[float]:
    """K (3 columns) or P (4), row by row, with its first two rows in pixels of the resized image."""
    values = [float(value) for value in matrix]
    if not values[0]:
        return values
    offsets, binnings = (info.roi.x_offset, info.roi.y_offset), (info.binning_x, info.binning_y)
    for i, (offset, binning, s) in enumerate(zip(offsets, binnings, scale, strict=True)):
        row = i * columns
        values[row + 2] -= offset
        for j in range(row, row + columns):
            values[j] *= s / max(1, binning)
        values[row + 2] += (s - 1) / 2
    return values
