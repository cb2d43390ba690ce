"""Calibrations: the YAML files of ROS' camera_calibration, and what a camera_info message holds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import yaml

from m2f_ros.errors import SourceError
from m2f_ros.replay.camera import CameraModel

# Coefficients of each distortion model: sensor_msgs/distortion_models.hpp.
_MODELS = {"plumb_bob": (0, 4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,)}


@dataclass(frozen=True)
class Calibration:
    """The fields of sensor_msgs/CameraInfo that do not change: sizes in pixels, matrices row by row.

    d: coefficients of the distortion model; k (9), r (9) and p (12): intrinsics, rectification, projection.
    """

    width: int
    height: int
    model: str
    d: tuple[float, ...]
    k: tuple[float, ...]
    r: tuple[float, ...]
    p: tuple[float, ...]

    @classmethod
    def of_pinhole(cls, camera: CameraModel) -> Calibration:
        """That of a single camera: no rectification, P = [K|0]."""
        d = camera.distortion or (0.0,) * 5
        fx, fy, cx, cy = camera.fx, camera.fy, camera.cx, camera.cy
        k = (fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0)
        r = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
        p = (fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0)
        return cls(camera.width, camera.height, "plumb_bob", tuple(d), k, r, p)


def read_calibration(path: str | Path) -> Calibration:
    """From a YAML file as camera_calibration_parsers writes it (camera_info_manager reads it, too).

    Raises SourceError, naming file and field, for whatever is wrong in it.
    """
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"calibration {path}: cannot be read ({getattr(error, 'strerror', 'no text')})") from None
    except yaml.YAMLError as error:
        raise SourceError(f"calibration {path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise SourceError(f"calibration {path}: not a camera calibration; it has no image_width, camera_matrix, …")
    width, height = (_size(data, name, path) for name in ("image_width", "image_height"))
    model = data.get("distortion_model", "plumb_bob")
    d = _matrix(data, "distortion_coefficients", path)
    if isinstance(model, str) and model in _MODELS and len(d) not in _MODELS[model]:
        raise _wrong(path, "distortion_coefficients.data", f"{len(d)} numbers, which {model} has not")
    if not isinstance(model, str):
        raise _wrong(path, "distortion_model", f"{model!r}, expected a name")
    k, r, p = (
        _matrix(data, name, path, count)
        for name, count in (("camera_matrix", 9), ("rectification_matrix", 9), ("projection_matrix", 12))
    )
    return Calibration(width, height, model, d, k, r, p)


def _size(data: dict, name: str, path: str | Path) -> int:
    value = data.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _wrong(path, name, f"{value!r}, expected pixels")
    return value


def _matrix(data: dict, name: str, path: str | Path, count: int | None = None) -> tuple[float, ...]:
    matrix = data.get(name)
    values = matrix.get("data") if isinstance(matrix, dict) else None
    numbers = isinstance(values, list) and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values
    )
    if not numbers or count not in (None, len(values)):
        raise _wrong(path, f"{name}.data", f"{values!r}, expected {count or 'the'} numbers")
    return tuple(map(float, values))


def _wrong(path: str | Path, field: str, found: str) -> SourceError:
    return SourceError(f"calibration {path}: {field}: {found[:200]}")
