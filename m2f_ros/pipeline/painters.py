"""Outputs that are made of the head's results, each by a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from m2f_ros.model import heads
from m2f_ros.pipeline.colour import scaled
from m2f_ros.pipeline.overlay import blend, colour


class Canvas(NamedTuple):
    """A frame and what the head found in it, of which a painter makes an image.

    Attributes:
        label: (H, W) train ids, uint8, or int32 above 255 classes.
        confidence: (H, W) uint8; there for an output that needs "confidence", by the table of outputs.
        ids: (H, W) ids of the panoptic segments, uint8 or int32; there for an output that needs "panoptic".
        picture: (h, w, 3) uint8, the frame at its own size.
        bgr: True if the picture is BGR, not RGB.
        size: (H, W), of the image to make.
        palette, weight: as of Tables.
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


# By their names in the table of outputs (frame/outputs.py), in the order in which they are made.
PAINTERS: dict[str, Callable[[Canvas], Tensor]] = {"overlay": overlay, "color": color}


def _in_strips(size: tuple[int, int], make: Callable[[slice], Tensor]) -> Tensor:
    """Make an image in strips, each pixel of the strip's rows alone. make: makes some of its rows."""
    first, *others = heads.strips(*size)
    made = make(first)
    if not others:
        return made
    whole = made.new_empty((*size, *made.shape[2:]))
    whole[first] = made
    for rows in others:
        whole[rows] = make(rows)
    return whole
