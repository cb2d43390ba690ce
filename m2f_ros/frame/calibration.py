"""Calibrations of cameras, from camera_info messages and from YAML files."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from m2f_ros.documents import read_yaml
from m2f_ros.errors import DocumentError, SourceError

# Coefficients of each distortion model: sensor_msgs/distortion_models.hpp.
_MODELS = {"plumb_bob": (0, 4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,)}
_UINT32 = 2**32 - 1


@dataclass(frozen=True)
class Region:
    """sensor_msgs/RegionOfInterest, in pixels of the whole sensor; of width and height 0: all of it."""

    x_offset: int = 0
    y_offset: int = 0
    height: int = 0
    width: int = 0
    do_rectify: bool = False


@dataclass(frozen=True)
class Calibration:
    """The fields of sensor_msgs/CameraInfo under the same names, without the stamp.

    Attributes:
        width: of the whole sensor in pixels, before binning; images are of `image_size`.
        height: the same.
        d: coefficients of the distortion model.
        k: intrinsic matrix, 9 numbers, row by row.
        r: rectification matrix, 9 numbers.
        p: projection matrix, 12 numbers.
        frame_id: of its header; None: that of the image.
    """

    width: int
    height: int
    distortion_model: str
    d: tuple[float, ...]
    k: tuple[float, ...]
    r: tuple[float, ...]
    p: tuple[float, ...]
    binning_x: int = 0
    binning_y: int = 0
    roi: Region = Region()
    frame_id: str | None = None

    @classmethod
    def pinhole(cls, width: int, height: int, fx: float, fy: float, cx: float, cy: float) -> Calibration:
        """A single camera without distortion, in pixels; the centre of the top-left pixel is (0, 0)."""
        k = (fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0)
        r = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
        p = (fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0)
        return cls(width, height, "plumb_bob", (0.0,) * 5, k, r, p)

    @classmethod
    def of(cls, message: Any) -> Calibration:
        """Take the fields of a sensor_msgs/CameraInfo of rclpy or rosbags."""
        roi = message.roi
        d, k, r, p = (tuple(map(float, values)) for values in (message.d, message.k, message.r, message.p))
        return cls(
            int(message.width),
            int(message.height),
            message.distortion_model,
            d,
            k,
            r,
            p,
            int(message.binning_x),
            int(message.binning_y),
            Region(int(roi.x_offset), int(roi.y_offset), int(roi.height), int(roi.width), bool(roi.do_rectify)),
            message.header.frame_id,
        )

    def matrix(self) -> np.ndarray:
        """K, (3, 3) float64: pixel ~ K @ (x right, y down, z forward)."""
        return np.array(self.k, np.float64).reshape(3, 3)

    def fitted(self, image: tuple[int, int], output: tuple[int, int]) -> Calibration:
        """Scale the calibration of images to that of outputs of another size; return itself where it fits.

        image, output: sizes, (width, height).

        Sizes, K, P and the region of interest are scaled. Binning, distortion and R stay, since they do not depend on
        the size. So does a matrix of zeros, which means that the camera is not calibrated. As image_geometry reads it
        (a pixel of the image is (pixel of the sensor - offset) / binning), each point falls on the same spot of the
        picture. The centre of the first pixel is at 0, its corner at -0.5, and resizing keeps corners: without region
        and binning c' = s (c + 0.5) - 0.5.
        """
        base = size_to_fit(self, image)
        if base == output:
            return self
        roi, size = self.roi, image_size(self)
        k, p = list(self.k), list(self.p)
        x = (self.width, roi.x_offset, roi.width, self.binning_x or 1)
        y = (self.height, roi.y_offset, roi.height, self.binning_y or 1)
        scaled = []
        for axis, (side, offset, length, binning) in enumerate((x, y)):
            scale = output[axis] / base[axis]
            start = _uint32(offset * scale)
            seen = round(size[axis] * scale) * binning if size else 0  # of the sensor, by an image
            if length:
                scaled.append((_uint32(max(side * scale, start + seen)), start, _uint32(seen)))
            else:
                scaled.append((_uint32(seen or side * scale), start, 0))
            for matrix, columns in ((k, 3), (p, 4)):
                if matrix[0]:
                    row = columns * axis
                    matrix[row : row + columns] = [value * scale for value in matrix[row : row + columns]]
                    # The offset is a whole number; the centre takes what rounding it took away.
                    matrix[row + 2] += binning * (scale - 1) / 2 + start - offset * scale
        (width, left, seen_width), (height, top, seen_height) = scaled
        region = Region(left, top, seen_height, seen_width, roi.do_rectify)
        return replace(self, width=width, height=height, k=tuple(k), p=tuple(p), roi=region)


def image_size(info: Any) -> tuple[int, int] | None:
    """Return the size of the images of a Calibration or CameraInfo, (width, height); None where it names none.

    The images have the size of the region of interest after binning.
    """
    width = (info.roi.width or info.width) // max(1, info.binning_x)
    height = (info.roi.height or info.height) // max(1, info.binning_y)
    return (width, height) if width and height else None


def size_to_fit(info: Any, image: tuple[int, int]) -> tuple[int, int]:
    """Return the size, (width, height), from which a Calibration or CameraInfo is scaled to the size of outputs.

    This is its own size. It is `image`, the size of the images, where the calibration has no size or another shape, or
    gives `image` as the size of the sensor in spite of a region or binning.
    """
    size = image_size(info)
    return size if size and _one_shape(size, image) and (info.width, info.height) != image else image


def trouble(info: Any, image: tuple[int, int]) -> str:
    """Say what is wrong with a Calibration or CameraInfo for images of this size, (width, height); "": nothing."""
    size = image_size(info)
    if size is None:
        return f"has no size ({info.width}x{info.height}): the camera is not calibrated"
    if size != image:
        reason = " by its region of interest and binning" if (info.width, info.height) == image else ""
        what = f"is of {size[0]}x{size[1]}{reason}, the images are {image[0]}x{image[1]}"
        return what if _one_shape(size, image) else f"{what}, which is another shape"
    return "" if info.k[0] else "has a K of zeros: the camera is not calibrated"


def _one_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """True where one size is the other, resized: its smaller side rounded to a whole number of pixels."""
    return 2 * abs(size[0] * other[1] - size[1] * other[0]) <= max(*size, *other)


def _uint32(value: float) -> int:
    return min(round(value), _UINT32)


def read_calibration(path: str | Path) -> Calibration:
    """Read a YAML file of camera_calibration_parsers, or a camera_info message as `ros2 topic echo` prints it.

    Both may have binning and a region of interest. Raises SourceError with the file and the field.
    """
    try:
        # `ros2 topic echo` ends each message with a line of its own.
        data = read_yaml(path, first=True)
    except OSError as error:
        raise SourceError(f"calibration {path}: cannot be read ({error.strerror})") from None
    except DocumentError as error:
        raise SourceError(f"calibration {path}: {error}") from None
    if not isinstance(data, dict):
        raise SourceError(f"calibration {path}: not a camera calibration; it has no image_width, camera_matrix, …")
    names = _OF_MESSAGE if "k" in data else _OF_FILE
    width, height = (_number(data, names[side], path, 1) for side in ("width", "height"))
    model = data.get("distortion_model", "plumb_bob")
    d = _matrix(data, names["d"], path)
    if isinstance(model, str) and model in _MODELS and len(d) not in _MODELS[model]:
        raise _wrong(path, _field(data, names["d"]), f"{len(d)} numbers, which {model} has not")
    if not isinstance(model, str):
        raise _wrong(path, "distortion_model", f"{model!r}, expected a name")
    k, r, p = (_matrix(data, names[name], path, count) for name, count in (("k", 9), ("r", 9), ("p", 12)))
    x, y = (_number(data, name, path, 0) for name in ("binning_x", "binning_y"))
    return Calibration(width, height, model, d, k, r, p, x, y, _region(data, path))


_OF_MESSAGE = {name: name for name in ("width", "height", "d", "k", "r", "p")}
_OF_FILE = {
    "width": "image_width",
    "height": "image_height",
    "d": "distortion_coefficients",
    "k": "camera_matrix",
    "r": "rectification_matrix",
    "p": "projection_matrix",
}


def _region(data: dict, path: str | Path) -> Region:
    found = data.get("roi", {})
    if not isinstance(found, dict):
        raise _wrong(path, "roi", f"{found!r}, expected x_offset, y_offset, width and height")
    numbers = {name: _number(found, name, path, 0) for name in ("x_offset", "y_offset", "height", "width")}
    return Region(**numbers, do_rectify=found.get("do_rectify") is True)


def _number(data: dict, name: str, path: str | Path, least: int) -> int:
    """A whole number of pixels; 0 where it is not there, unless it has to be."""
    value = data.get(name, None if least else 0)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _UINT32:
        raise _wrong(path, name, f"{value!r}, expected pixels")
    return value


def _matrix(data: dict, name: str, path: str | Path, count: int | None = None) -> tuple[float, ...]:
    values = data.get(name)
    if isinstance(values, dict):
        values = values.get("data")
    elif name in _OF_FILE.values():
        values = None
    if (
        not isinstance(values, list)
        or not all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values)
        or count not in (None, len(values))
    ):
        raise _wrong(path, _field(data, name), f"{values!r}, expected {count or 'the'} numbers")
    return tuple(map(float, values))


def _field(data: dict, name: str) -> str:
    return name if "k" in data else f"{name}.data"


def _wrong(path: str | Path, field: str, found: str) -> SourceError:
    return SourceError(f"calibration {path}: {field}: {found[:200]}")
