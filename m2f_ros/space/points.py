"""The depth image as a cloud of labelled points."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import cv2
import numpy as np

from m2f_ros.errors import SpaceError
from m2f_ros.space.cloud import Cloud
from m2f_ros.space.labelled import Labelled

if TYPE_CHECKING:
    from m2f_ros.space.camera_model import CameraModel


def points(labelled: Labelled, stride: int, model: CameraModel) -> Cloud:
    """Return the organised cloud of a frame: its point (i, j) is pixel (i * stride, j * stride) of the label image.

    Fields, in this order:

    - x, y, z: float32, metres in the camera's optical frame; all NaN where the depth is unknown.
    - rgb: float32 whose bytes are PCL's 0x00RRGGBB; left out without a picture.
    - label: as in the label image, uint8 or uint16.
    - confidence: uint8, see the output "confidence"; left out where it was not computed.
    - instance: uint16 id of the segment, 0 is none; left out where it was not computed.

    Rows and points follow each other without padding between rows, in this machine's byte order. With stride 1 it has
    the size of the label image, as a reader needs that takes both by the number of a pixel.

    Args:
        labelled: a frame with depth.
        stride: pixels from one point to the next, at least 1.
        model: of images of the size of `labelled.label`.
    Raises:
        SpaceError: no depth, depth or picture of another shape, or a model of another size.
    """
    height, width = labelled.label.shape
    depth = depth_at(labelled, stride, model)
    rays = model.rays(stride)
    columns = {}
    for k, name in enumerate("xyz"):
        columns[name] = rays[..., k] * depth
        if model.centre[k]:
            columns[name] += np.float32(model.centre[k])
    if labelled.picture is not None:
        columns["rgb"] = _packed(sampled(labelled.picture, (height, width), stride, "the picture"))
    columns["label"] = labelled.label[::stride, ::stride]
    if labelled.confidence is not None:
        columns["confidence"] = labelled.confidence[::stride, ::stride]
    if labelled.ids is not None:
        columns["instance"] = labelled.ids[::stride, ::stride].astype(np.uint16, copy=False)
    dense = not np.isnan(columns["x"]).any()
    return Cloud.of_columns(columns, depth.shape, labelled.frame_id, labelled.stamp_ns, dense)


def depth_at(labelled: Labelled, stride: int, model: CameraModel) -> np.ndarray:
    """Return the depth at every `stride`-th pixel of the label image, as the points of `points` lie: float32.

    Arguments and errors are those of `points`.
    """
    height, width = labelled.label.shape
    if model.size != (width, height):
        raise SpaceError(
            f"the camera model is of {model.size[0]}x{model.size[1]}, the labels are {width}x{height}: make it for "
            "images of their size"
        )
    if labelled.depth is None:
        raise SpaceError("the frame has no depth image: send one, registered to the camera")
    return sampled(labelled.depth, (height, width), stride, "the depth image")


def sampled(image: np.ndarray, shape: tuple[int, int], stride: int, name: str) -> np.ndarray:
    """Return the pixels of an image, of any size of the same shape, where every `stride`-th pixel of another one is.

    Args:
        image: (h, w, ...).
        shape: (height, width) of the other image.
        stride: at least 1.
        name: of the image, for errors.
    Returns:
        (ceil(height / stride), ceil(width / stride), ...): the nearest pixels, without mixing.
    Raises:
        SpaceError: another shape.
    """
    if image.shape[:2] == shape:
        return image[::stride, ::stride]
    (h, w), (height, width) = image.shape[:2], shape
    if 2 * abs(h * width - w * height) > max(h, w, height, width):
        raise SpaceError(f"{name} is of {w}x{h}, the labels are {width}x{height}, which is another shape")
    rows, columns = (
        np.minimum(((np.arange(0, side, stride) + 0.5) * (own / side)).astype(np.intp), own - 1)
        for side, own in ((height, h), (width, w))
    )
    return image[rows[:, None], columns]


def _packed(bgr: np.ndarray) -> np.ndarray:
    """Return colours (H, W, 3), uint8 BGR, as (H, W) float32 of the bytes 0x00RRGGBB."""
    four = cv2.cvtColor(np.ascontiguousarray(bgr), cv2.COLOR_BGR2BGRA).view("<u4")[..., 0] & 0xFFFFFF
    return (four if sys.byteorder == "little" else four.astype("=u4")).view(np.float32)
