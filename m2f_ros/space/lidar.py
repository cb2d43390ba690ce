"""Labels for the points of a lidar, from the cameras that see them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from m2f_ros.errors import SpaceError
from m2f_ros.space.cloud import Cloud
from m2f_ros.space.labelled import Labelled
from m2f_ros.space.occlusion import hidden
from m2f_ros.space.points import sampled

if TYPE_CHECKING:
    from m2f_ros.space.camera_model import CameraModel

NO_CAMERA = 255

# Places of bits, see `_see`.
_CAMERA, _CENTRE, _CONFIDENCE = 16, 24, 36
_CENTRED = 2 ** (_CONFIDENCE - _CENTRE) - 1

_CLOSEST = 1.0  # metres: ground and walls may pass by a camera as close as this, or closer where points show it
_SIDE = 1e6  # metres to the side at z = 1: all
_FAR = 1000.0  # metres from the origin, from where on float32 would lose millimetres
_DEPTH_RATIO, _DEPTH_OFFSET = 1.1, 0.1  # a point is behind the depth image from 10 % and 0.1 m on: a stereo's noise


@dataclass(frozen=True, eq=False)
class View:
    """A camera that looks at a cloud.

    Attributes:
        labelled: its segmented frame.
        model: of images of the size of the labels.
        camera_from_cloud: (4, 4) float64, p_optical = M @ p_cloud. Where the stamps of image and cloud differ and the
            vehicle moves, `Transforms.lookup_between` makes it.
    """

    labelled: Labelled
    model: CameraModel
    camera_from_cloud: np.ndarray


def label_cloud(cloud: Cloud, views: Sequence[View]) -> Cloud:
    """Append what cameras see at the points of a cloud.

    New fields, after those of the cloud:

    - label: of the pixel that the point falls on, uint8 or uint16 as in the label images (uint8 without a view).
    - confidence: uint8 of this pixel; left out where a view has none.
    - camera: uint8, index into `views` of the camera that the label is from.

    A point that no camera labels has the value for unlabelled, confidence 0 and camera 255. Such are points outside of
    all images, behind the cameras or hidden from them by nearer ones (see `occlusion`; where the frame has a depth
    image, also by that), on pixels that are unlabelled, as under an ignore mask; and points that are none: NaN,
    infinity, or all zeros, which drivers send where nothing came back.

    The most confident of several cameras that label a point counts; of equally confident ones, and where a view has no
    confidence, the one in whose image the point is nearest to the centre, where lenses are sharp and networks see the
    most around it.

    All points are taken to be of the cloud's stamp. A lidar that turns while the vehicle moves has to be straightened
    out before: fields with the time of a point differ from driver to driver, and nothing says if it has been done.

    Raises SpaceError: a cloud without x, y and z or with one of the new fields, labels of different types, a model of
    another size, more than 255 views.
    """
    if len(views) > NO_CAMERA:
        raise SpaceError(f"{len(views)} cameras look at the cloud; at most {NO_CAMERA} can")
    for view in views:
        _check(view, views[0].labelled)
    dtype, unlabelled = (views[0].labelled.label.dtype, views[0].labelled.unlabelled) if views else (np.uint8, 255)
    confident = all(view.labelled.confidence is not None for view in views)
    points = np.ascontiguousarray(cloud.xyz().T)
    best = np.full(len(cloud), unlabelled, np.int64)
    for camera, view in enumerate(views):
        point, found = _see(view, points, camera, confident)
        best[point] = np.maximum(best[point], found)
    columns = {"label": best.astype(dtype)}  # its lowest bits
    if confident:
        columns["confidence"] = (best >> _CONFIDENCE).astype(np.uint8)
    columns["camera"] = NO_CAMERA - (best >> _CAMERA).astype(np.uint8)
    return cloud.appended(columns)


def _see(view: View, points: np.ndarray, camera: int, confident: bool) -> tuple[np.ndarray, np.ndarray]:
    """Find what a camera sees of points, (3, N).

    Returns indices of points, and for each of them a number that is the greater, the better the camera sees it, 0 if
    not at all. From its highest bits: the confidence (if `confident`), how near it is to the centre of the image, 255
    less `camera`, and the label.
    """
    model, labelled = view.model, view.labelled
    width, height = model.size
    point, x, y, z = _in_view(view, points)
    u, v = np.ascontiguousarray(model.project(np.stack((x, y, z), -1))[0].T)
    inside = np.flatnonzero((u >= -0.5) & (u < width - 0.5) & (v >= -0.5) & (v < height - 0.5))
    with np.errstate(over="ignore"):
        distance = np.sqrt(x * x + y * y + z * z)
    point, distance, u, v = (values[inside] for values in (point, distance, u, v))
    column, row = ((values + np.float32(0.5)).astype(np.int32) for values in (u, v))
    pixel = (row * width + column).astype(np.intp)
    label = labelled.label.ravel()[pixel]
    slope = 1 / (_CLOSEST * _field(model).focal)
    sees = ~hidden(row, column, distance, label.astype(np.uint8), model.size, slope)
    sees &= label != labelled.unlabelled
    if labelled.depth is not None:
        depth = sampled(labelled.depth, (height, width), 1, "the depth image").ravel()[pixel]
        sees &= ~(z[inside] > _DEPTH_RATIO * depth + _DEPTH_OFFSET)
    u -= np.float32((width - 1) / 2)
    v -= np.float32((height - 1) / 2)
    corner = (width**2 + height**2) / 4
    found = (_CENTRED - (u * u + v * v) * np.float32((_CENTRED - 1) / corner)).astype(np.int64)
    if confident:
        found += labelled.confidence.ravel()[pixel].astype(np.int64) << (_CONFIDENCE - _CENTRE)  # type: ignore[union-attr]
    found <<= _CENTRE
    found += label + np.int64((NO_CAMERA - camera) << _CAMERA)
    found *= sees
    return point, found


def _in_view(view: View, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The points in front of a camera and not far to its side: indices, and x, y, z in its frame, float32."""
    matrix, field = view.camera_from_cloud[:3], _field(view.model)
    if np.abs(matrix[:, 3]).max() > _FAR:  # as in a map: the difference of large numbers
        points = points.astype(np.float64, copy=False)
    # Most points of a lidar are behind the camera or beside its image, where abs(x - middle * z) >= half * z. The
    # optical centre may be off the origin of the camera's frame.
    right, _, ahead = matrix - np.multiply.outer(view.model.centre, (0, 0, 0, 1))
    aside = np.abs(_along(right - field.middle * ahead, points))
    point = np.flatnonzero(aside < _along(field.half * ahead, points))
    there = points.take(point, 1)
    with np.errstate(over="ignore"):
        x, y, z = (_along(row, there).astype(np.float32, copy=False) for row in matrix)
    # Neither no return, which is all zeros, nor endless.
    kept = (there[0] != 0) | (there[1] != 0) | (there[2] != 0)
    kept &= z < np.inf
    return (point, x, y, z) if kept.all() else (point[kept], x[kept], y[kept], z[kept])


def _along(row: np.ndarray, points: np.ndarray) -> np.ndarray:
    """A row of a transform times points (3, N): (N,)."""
    if not points.size:
        return np.empty(0, points.dtype)
    a, b, c, d = row.tolist()
    x, y, z = points[:, None]  # images of one row: OpenCV takes a few numbers alone for a scalar
    return cv2.scaleAdd(z, c, cv2.addWeighted(x, a, y, b, d))[0]


class _Field(NamedTuple):
    """A camera sees x = middle - half to middle + half at z = 1; `focal` is in pixels, in the middle of the image."""

    middle: float
    half: float
    focal: float


@lru_cache(maxsize=64)
def _field(model: CameraModel) -> _Field:
    width, height = model.size
    pixels = np.meshgrid(np.linspace(-0.5, width - 0.5, 33), np.linspace(-0.5, height - 0.5, 33))
    x = model.unproject(np.stack(pixels, -1))[..., 0]
    first, second = model.unproject(np.array([[width / 2 - 1, height / 2], [width / 2, height / 2]]))
    focal = 1 / float(np.linalg.norm(second - first))
    if not math.isfinite(focal):
        raise SpaceError("the camera model has no ray in the middle of its image: calibrate the camera anew")
    if np.isnan(x).any():  # the corners of a fisheye; beside them it may see all that is ahead
        return _Field(0.0, _SIDE, focal)
    half = 0.52 * float(x.max() - x.min())  # and some more, as between the pixels of the grid
    return _Field(float(x.max() + x.min()) / 2, half, focal)


def _check(view: View, first: Labelled) -> None:
    labelled, model = view.labelled, view.model
    name = f"camera {labelled.camera}" if labelled.camera else "the camera"
    height, width = labelled.label.shape
    if model.size != (width, height):
        raise SpaceError(f"the model of {name} is of {model.size[0]}x{model.size[1]}, its labels are {width}x{height}")
    if (labelled.label.dtype, labelled.unlabelled) != (first.label.dtype, first.unlabelled):
        raise SpaceError(
            f"the labels of {name} are {labelled.label.dtype}, unlabelled {labelled.unlabelled}, those of the first "
            f"camera {first.label.dtype}, unlabelled {first.unlabelled}: use one model for all"
        )
