"""The camera model: points in space to pixels, and pixels to rays.

It reads a calibration as image_geometry's PinholeCameraModel does:

- A point is given in the camera's optical frame (x right, y down, z forward), which is the frame of the rectified
  image. The raw image is seen from a frame that R turns into it.
- The raw image is K and the distortion, the rectified image is P alone.
- A pixel of the image is (pixel of the sensor - offset of the region) / binning. `do_rectify` of the region changes
  nothing.
- Distortion coefficients that are all zero are no distortion, whatever the model.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import Protocol, TypeVar

import numpy as np
import torch

from m2f_ros.errors import SpaceError, say_once
from m2f_ros.frame.calibration import Calibration, Region, image_size, trouble

Array = TypeVar("Array", np.ndarray, torch.Tensor)

_POLYNOMIALS = ("plumb_bob", "rational_polynomial")
_COUNTS = (0, 4, 5, 8, 12, 14)  # of coefficients that OpenCV knows, in its order
_ROWS = 16
_STEPS = 20  # most steps of Newton's method
_EXACT = 1e-10  # of a distorted ray, where z is 1: far less than 1e-4 pixel


class CameraModel:
    """The geometry of the images of one camera. Does not change.

    Attributes:
        size: (width, height) of the images in pixels.
        centre: (3,) float64, the camera's optical centre in its optical frame, metres. Zeros, but for the second camera
            of a stereo pair, whose P has Tx or Ty.

    Pixel (0, 0) is the centre of the first pixel. Arrays are NumPy's, or torch's on any device; the results are of the
    same kind, type and device. float32 is exact to about 1e-3 pixel, float64 to 1e-9.
    """

    def __init__(
        self,
        size: tuple[int, int],
        matrix: np.ndarray,
        lens: Lens | None = None,
        turn: np.ndarray | None = None,
        centre: np.ndarray | None = None,
    ) -> None:
        """Make a model from its parts; `of` makes it from a calibration.

        Args:
            size: see the attributes.
            matrix: (3, 3) float64, pixel ~ matrix @ (x, y, 1) of a distorted ray.
            lens: None without distortion.
            turn: (3, 3) float64 rotation from the optical frame to that of the raw image; None: they are the same.
            centre: see the attributes; None: zeros.
        """
        self.size = size
        self.centre = np.zeros(3) if centre is None else centre
        self._lens, self._turn, self._plain = lens, turn, matrix
        self._matrix = matrix if lens is None else matrix @ lens.tilt
        self._inverse = np.linalg.inv(self._matrix)
        self._rays: dict[int, np.ndarray] = {}

    @classmethod
    def of(cls, calibration: Calibration, size: tuple[int, int], rectified: bool = False) -> CameraModel:
        """Return the model of a calibration; the same object for the same arguments.

        Args:
            calibration: of images of any size of the same shape.
            size: (width, height) of the images, or of outputs that are scaled from them.
            rectified: True for the rectified image, False for the raw one.
        Raises:
            SpaceError: the camera is not calibrated, the images have another shape, the distortion model is unknown,
                or a number is impossible.
        """
        return _model_of(calibration, size, rectified)

    def resized(self, size: tuple[int, int]) -> CameraModel:
        """Return the model of the same images at another size, (width, height), with all corners kept."""
        if size == self.size:
            return self
        x, y = (new / old for new, old in zip(size, self.size, strict=True))
        scale = np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])
        return CameraModel(size, scale @ self._plain, self._lens, self._turn, self.centre)

    def numbers(self) -> np.ndarray:
        """Return all numbers of the model, (N,) float64: models with the same ones are the same."""
        lens = () if self._lens is None else self._lens.numbers
        turn = np.eye(3) if self._turn is None else self._turn
        return np.concatenate([self.size, self.centre, self._plain.ravel(), turn.ravel(), lens])

    def project(self, points: Array) -> tuple[Array, Array]:
        """Return where the camera sees points.

        points: (..., 3), metres in the optical frame.

        Returns pixels (..., 2), x and y, inside the image or not, and depths (...,), metres along the optical axis.
        The pixel is NaN for a point that is not in front of the camera, or so far to the side that the distortion model
        does not hold.
        """
        given = _tensor(points)
        if self.centre.any():
            given = given - given.new_tensor(self.centre)
        x, y, z = given.unbind(-1)
        depth = z
        if self._turn is not None:
            x, y, z = (a * x + b * y + c * z for a, b, c in self._turn.tolist())
            z = torch.where(depth > 0, z, 0)
        z = torch.where(z > 0, z, torch.nan)
        x, y = x / z, y / z
        if self._lens is not None:
            x, y = self._lens.distort(x, y)
        return _like(points, _mapped(self._matrix, x, y)), _like(points, depth)

    def unproject(self, pixels: Array) -> Array:
        """Return the rays that fall on pixels.

        pixels: (..., 2), x and y, inside the image or not.

        Returns (..., 3): x, y, and 1. A point at depth d is d times the ray, plus `centre`. NaN where no ray falls on
        the pixel, as in the corners of a fisheye camera.
        """
        given = _tensor(pixels)
        x, y = _mapped(self._inverse, *given.double().unbind(-1)).unbind(-1)
        if self._lens is not None:
            x, y = self._lens.undistort(x, y)
        one = 1 + 0 * (x + y)  # NaN where there is no ray
        if self._turn is not None:
            x, y, z = (a * x + b * y + c * one for a, b, c in self._turn.T.tolist())
            z = torch.where(z > 0, z, torch.nan)
            x, y, one = x / z, y / z, z / z
        return _like(pixels, torch.stack([x, y, one], -1).to(given.dtype))

    def rays(self, stride: int = 1) -> np.ndarray:
        """Return the rays of the image's pixels, as `unproject`: (ceil(height / stride), ceil(width / stride), 3).

        Ray (i, j) is that of pixel (i * stride, j * stride). float32, read-only; kept, with each of x, y and z in one
        piece.
        """
        rays = self._rays.get(stride)
        if rays is None:
            columns, rows = (np.arange(0.0, side, stride) for side in self.size)
            planes = np.empty((3, len(rows), len(columns)), np.float32)
            for first in range(0, len(rows), _ROWS):  # a part at a time stays in the cache
                some = slice(first, first + _ROWS)
                pixels = np.stack(np.meshgrid(columns, rows[some]), -1)
                planes[:, some] = np.moveaxis(self.unproject(pixels), -1, 0)
            planes.flags.writeable = False
            rays = self._rays[stride] = np.moveaxis(planes, 0, -1)
        return rays


class Lens(Protocol):
    """A distortion. Rays and distorted rays are given by x and y at z = 1, float tensors of any shape."""

    tilt: np.ndarray  # (3, 3), turns the sensor's plane; applied after `distort`
    numbers: tuple[float, ...]  # of its kind, and its coefficients

    def distort(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the distorted rays; NaN where the model does not hold."""
        ...

    def undistort(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rays of distorted ones, float64; NaN where there is none."""
        ...


class Polynomial:
    """OpenCV's distortion: radial, tangential, of a thin prism, and by a tilted sensor.

    It holds up to the radius where the radial part stops growing: beyond, it would fold the scene back into the image.
    """

    def __init__(self, d: tuple[float, ...]) -> None:
        """d: k1, k2, p1, p2, k3, k4, k5, k6, s1, s2, s3, s4, tau x, tau y; missing ones are zero."""
        k1, k2, self.p1, self.p2, k3, k4, k5, k6, *prism, tau_x, tau_y = (*d, *(0.0,) * (14 - len(d)))
        self.numbers = (1.0, *d)
        self._above, self._below = (k1, k2, k3), (k4, k5, k6)
        self._prism = prism if any(prism) else None
        self.tilt = _tilt(tau_x, tau_y)
        radius = np.tan(np.linspace(0, math.radians(89.5), 4096))
        self._table = _Growing(radius, radius * self._radial(torch.from_numpy(radius) ** 2)[0].numpy())

    def distort(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        square = x * x + y * y
        if math.isfinite(self._table.limit):
            square = torch.where(square <= self._table.limit**2, square, torch.nan)
        return self._distorted(x, y, square, self._radial(square)[0])

    def undistort(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        goal_x, goal_y = x, y
        radius = torch.hypot(x, y)
        scale = torch.where(radius > 0, self._table.inverse(radius) / radius, 1.0)
        x, y = x * scale, y * scale
        for _ in range(_STEPS):
            square = x * x + y * y
            radial, slope = self._radial(square)
            found_x, found_y = self._distorted(x, y, square, radial)
            left_x, left_y = found_x - goal_x, found_y - goal_y
            (xx, xy), (yx, yy) = self._slopes(x, y, square, radial, slope)
            determinant = xx * yy - xy * yx
            error = torch.maximum(left_x.abs(), left_y.abs())
            if bool((~(error > _EXACT)).all()):  # NaN never gets better
                break
            x = x - (yy * left_x - xy * left_y) / determinant
            y = y - (xx * left_y - yx * left_x) / determinant
        good = (error <= _EXACT) & (determinant > 0) & (square <= self._table.limit**2)
        return torch.where(good, x, torch.nan), torch.where(good, y, torch.nan)

    def _radial(self, square: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the radial factor at squared radii, and its derivative by them."""
        (k1, k2, k3), (k4, k5, k6) = self._above, self._below
        above = 1 + square * (k1 + square * (k2 + square * k3))
        slope = k1 + square * (2 * k2 + square * 3 * k3)
        if any(self._below):
            below = 1 + square * (k4 + square * (k5 + square * k6))
            slope = (slope - above / below * (k4 + square * (2 * k5 + square * 3 * k6))) / below
            above = above / below
        return above, slope

    def _distorted(
        self, x: torch.Tensor, y: torch.Tensor, square: torch.Tensor, radial: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        p1, p2 = self.p1, self.p2
        out_x, out_y = x * radial, y * radial
        if p1 or p2:
            twice = 2 * x * y
            out_x = out_x + p1 * twice + p2 * (square + 2 * x * x)
            out_y = out_y + p2 * twice + p1 * (square + 2 * y * y)
        if self._prism:
            s1, s2, s3, s4 = self._prism
            out_x, out_y = out_x + square * (s1 + square * s2), out_y + square * (s3 + square * s4)
        return out_x, out_y

    def _slopes(
        self, x: torch.Tensor, y: torch.Tensor, square: torch.Tensor, radial: torch.Tensor, slope: torch.Tensor
    ) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
        """Return the derivatives of the distorted x, then y, each by x and y."""
        p1, p2 = self.p1, self.p2
        s1, s2, s3, s4 = self._prism or (0.0,) * 4
        prism_x, prism_y = 2 * (s1 + 2 * s2 * square), 2 * (s3 + 2 * s4 * square)
        mixed = 2 * x * y * slope + 2 * (p1 * x + p2 * y)
        return (
            (radial + 2 * x * x * slope + 2 * p1 * y + 6 * p2 * x + x * prism_x, mixed + y * prism_x),
            (mixed + x * prism_y, radial + 2 * y * y * slope + 6 * p1 * y + 2 * p2 * x + y * prism_y),
        )


class Equidistant:
    """OpenCV's fisheye model, up to 90 degrees off the optical axis, or to where it stops growing."""

    tilt = np.eye(3)

    def __init__(self, d: tuple[float, ...]) -> None:
        """d: k1 to k4."""
        self._k, self.numbers = d, (2.0, *d)
        angle = np.linspace(0, math.pi / 2, 4096)
        self._table = _Growing(angle, self._bent(torch.from_numpy(angle))[0].numpy())
        self._limit = min(self._table.limit, math.pi / 2)

    def distort(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        radius = torch.hypot(x, y)
        angle = torch.atan(radius)
        angle = torch.where(angle <= self._limit, angle, torch.nan)
        scale = torch.where(radius > 0, self._bent(angle)[0] / radius, 1.0)
        return x * scale, y * scale

    def undistort(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        radius = torch.hypot(x, y)
        angle = self._table.inverse(radius)
        for _ in range(_STEPS):
            found, slope = self._bent(angle)
            error = (found - radius).abs()
            if bool((~(error > _EXACT)).all()):
                break
            angle = angle - (found - radius) / slope
        good = (error <= _EXACT) & (slope > 0) & (angle <= self._limit) & (angle < math.pi / 2)
        scale = torch.where(radius > 0, torch.tan(angle) / radius, 1.0)
        scale = torch.where(good, scale, torch.nan)
        return x * scale, y * scale

    def _bent(self, angle: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the distance from the centre at angles off the axis, and its derivative."""
        k1, k2, k3, k4 = self._k
        square = angle * angle
        bent = angle * (1 + square * (k1 + square * (k2 + square * (k3 + square * k4))))
        return bent, 1 + square * (3 * k1 + square * (5 * k2 + square * (7 * k3 + square * 9 * k4)))


class _Growing:
    """A function as a table, as far as it grows.

    limit: the last argument up to which it grows; infinite if it grows over the whole table.
    """

    def __init__(self, arguments: np.ndarray, values: np.ndarray) -> None:
        grows = np.diff(values) > 0
        last = len(grows) if grows.all() else int(grows.argmin())
        self.limit = math.inf if grows.all() else float(arguments[last])
        self._arguments = torch.from_numpy(arguments[: last + 1].copy())
        self._values = torch.from_numpy(values[: last + 1].copy())

    def inverse(self, values: torch.Tensor) -> torch.Tensor:
        """Return arguments about where the function has these values, float64; the last one for larger values."""
        if len(self._values) < 2:
            return torch.full_like(values, torch.nan)
        known, arguments = self._values.to(values.device), self._arguments.to(values.device)
        above = torch.searchsorted(known, values.contiguous()).clamp(1, len(known) - 1)
        low, high = known[above - 1], known[above]
        share = ((values - low) / (high - low)).clamp(0, 1)
        return torch.lerp(arguments[above - 1], arguments[above], share)


@lru_cache(maxsize=32)
def _model_of(calibration: Calibration, size: tuple[int, int], rectified: bool) -> CameraModel:
    if (calibration.width, calibration.height) == size != image_size(calibration):
        # Images of the whole sensor's size are whole, in spite of a region or binning; see `size_to_fit`.
        calibration = replace(calibration, binning_x=0, binning_y=0, roi=Region())
    calibration = calibration.fitted(size, size)
    if problem := trouble(calibration, size):
        raise SpaceError(f"the calibration {problem}")
    numbers = (*calibration.k, *calibration.p, *calibration.r, *calibration.d)
    if not np.isfinite(numbers).all():
        raise SpaceError("the calibration holds numbers that are not finite: calibrate the camera anew")
    p = np.array(calibration.p).reshape(3, 4)
    known = bool(p[0, 0] and p[1, 1])
    if rectified and not known:
        raise SpaceError("the calibration has a P of zeros, which has to place the rectified image")
    centre = np.array([-p[0, 3] / p[0, 0], -p[1, 3] / p[1, 1], 0.0]) if known else None
    matrix = _in_image(p[:2, :3] if rectified else calibration.matrix()[:2], calibration)
    if rectified:
        return CameraModel(size, matrix, centre=centre)
    return CameraModel(size, matrix, _lens(calibration), _rotation(calibration), centre)


def _in_image(matrix: np.ndarray, calibration: Calibration) -> np.ndarray:
    """Return (3, 3) from the first two rows of K or P, for the pixels of the image instead of those of the sensor."""
    if not (matrix[0, 0] and matrix[1, 1]):
        raise SpaceError("the calibration has a focal length of zero: the camera is not calibrated")
    roi = calibration.roi
    binning = np.array([[calibration.binning_x or 1], [calibration.binning_y or 1]])
    offset = np.array([[0, 0, roi.x_offset], [0, 0, roi.y_offset]])
    return np.vstack([(matrix - offset) / binning, [0, 0, 1]])


def _lens(calibration: Calibration) -> Lens | None:
    """Return the distortion of a calibration, None for none. Raises SpaceError."""
    model, d = calibration.distortion_model, calibration.d
    if model not in (*_POLYNOMIALS, "equidistant") and (model or any(d)):
        known = ", ".join((*_POLYNOMIALS, "equidistant"))
        raise SpaceError(
            f"the calibration's distortion model {model[:40]!r} is not supported: calibrate for one of {known}, or "
            "rectify the images"
        )
    allowed = (0, 4) if model == "equidistant" else _COUNTS
    if len(d) not in allowed:
        raise SpaceError(
            f"the calibration has {len(d)} distortion coefficients, which {model or 'no distortion'} has not: it has "
            f"{', '.join(map(str, allowed[:-1]))} or {allowed[-1]}"
        )
    if not any(d):
        if model == "equidistant":
            say_once("a calibration says equidistant with coefficients of zero: taken as no distortion")
        return None
    return Equidistant(d) if model == "equidistant" else Polynomial(d)


def _rotation(calibration: Calibration) -> np.ndarray | None:
    """Return the rotation from the rectified to the raw frame; None for none, which zeros mean, too."""
    r = np.array(calibration.r).reshape(3, 3)
    if not r.any() or (r == np.eye(3)).all():
        return None
    if np.abs(r @ r.T - np.eye(3)).max() > 1e-3 or np.linalg.det(r) < 0:
        raise SpaceError("the calibration's R is no rotation: calibrate the camera anew")
    return r.T


def _tilt(tau_x: float, tau_y: float) -> np.ndarray:
    """Return the map of a tilted sensor's plane, (3, 3): OpenCV's computeTiltProjectionMatrix."""
    if not tau_x and not tau_y:
        return np.eye(3)
    cos_x, sin_x, cos_y, sin_y = math.cos(tau_x), math.sin(tau_x), math.cos(tau_y), math.sin(tau_y)
    turn_x = np.array([[1, 0, 0], [0, cos_x, sin_x], [0, -sin_x, cos_x]])
    turn_y = np.array([[cos_y, 0, -sin_y], [0, 1, 0], [sin_y, 0, cos_y]])
    turn = turn_y @ turn_x
    return np.array([[turn[2, 2], 0, -turn[0, 2]], [0, turn[2, 2], -turn[1, 2]], [0, 0, 1]]) @ turn


def _mapped(matrix: np.ndarray, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return (..., 2): x and y of matrix @ (x, y, 1)."""
    (a, b, c), (d, e, f), (g, h, i) = matrix.tolist()
    out_x, out_y = a * x + b * y + c if b else a * x + c, d * x + e * y + f if d else e * y + f
    if (g, h, i) != (0, 0, 1):
        scale = g * x + h * y + i
        out_x, out_y = out_x / scale, out_y / scale
    return torch.stack([out_x, out_y]).movedim(0, -1)  # each in one piece: mixing them would take as long as the rest


def _tensor(array: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Return a float tensor: of NumPy's memory where it can be."""
    if isinstance(array, torch.Tensor):
        return array if array.dtype in (torch.float32, torch.float64) else array.double()
    kind = np.float32 if array.dtype.newbyteorder("=") == np.float32 else np.float64
    return torch.from_numpy(np.require(array, kind, ("C", "W")))


def _like(given: Array, result: torch.Tensor) -> Array:
    return result.numpy() if isinstance(given, np.ndarray) else result
