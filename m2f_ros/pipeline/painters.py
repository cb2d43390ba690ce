"""Functions that paint outputs from the results of the head."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from m2f_ros.model import heads
from m2f_ros.pipeline.colour import scaled
from m2f_ros.pipeline.overlay import blend, colour


class Canvas(NamedTuple):
    """The frame and the results of the head, the input of a painter.

    Attributes:
        label: (H, W) train ids, uint8, or int32 above 255 classes.
        confidence: (H, W) uint8; there for an output that needs "confidence", by the table of outputs.
        ids: (H, W) ids of the panoptic segments, uint8 or int32; there for an output that needs "panoptic".
        picture: (h, w, 3) uint8, the frame at its own size.
        bgr: True if the picture is BGR, not RGB.
        size: (H, W), of the image to make.
        palette, weight: see Tables.
    """

    label: Tensor
    confidence: Tensor | None
    ids: Tensor | None
    picture: Tensor
    bgr: bool
    size: tuple[int, int]
    palette: Tensor
    weight: Tensor


def overlay(of: Canvas) -> Tensor:
    """Blend the classes' colours with the picture: (H, W, 3) uint8 BGR."""
    picture = scaled(of.picture, of.size)
    return _in_strips(of.size, lambda rows: blend(picture[rows], of.label[rows], of.palette, of.weight, of.bgr))


def color(of: Canvas) -> Tensor:
    """Give each pixel the colour of its class: (H, W, 3) uint8 BGR."""
    return _in_strips(of.size, lambda rows: colour(of.label[rows], of.palette))


# Output name (see frame/outputs.py) -> painter, in the order of painting.
PAINTERS: dict[str, Callable[[Canvas], Tensor]] = {"overlay": overlay, "color": color}


def _in_strips(size: tuple[int, int], make: Callable[[slice], Tensor]) -> Tensor:
    """Paint an image in strips. make: function that paints a slice of rows."""
    first, *others = heads.strips(*size)
    made = make(first)
    if not others:
        return made
    whole = made.new_empty((*size, *made.shape[2:]))
    whole[first] = made
    for rows in others:
        whole[rows] = make(rows)
    return whole
