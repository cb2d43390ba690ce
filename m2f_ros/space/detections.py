"""Boxes of things, with their place in space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from m2f_ros.space.labelled import Labelled
from m2f_ros.space.points import depth_at
from m2f_ros.taxonomy import Taxonomy

if TYPE_CHECKING:
    from m2f_ros.space.camera_model import CameraModel


@dataclass(frozen=True, eq=False)
class Detection:
    """A thing that the camera sees.

    Attributes:
        train_id: its class.
        score: of the class, 0..1.
        id: of the segment, as in the panoptic image; stays the same over frames while things are tracked.
        box: x and y of its left and top pixel, width, height, in the label image.
        centre: (3,) float64, median of its points' x, y and z, metres in the camera's optical frame; None without a
            point.
    """

    train_id: int
    score: float
    id: int
    box: tuple[int, int, int, int]
    centre: np.ndarray | None = None


def detections(labelled: Labelled, taxonomy: Taxonomy, model: CameraModel | None = None) -> list[Detection]:
    """Return the things of a frame, in the order of its segments.

    Args:
        labelled: a frame with ids and segments.
        taxonomy: says which classes are things.
        model: of images of the size of `labelled.label`; None: without places in space.

    Raises SpaceError for depth of another shape, or a model of another size.
    """
    things = {c.id for c in taxonomy.classes if c.thing}
    depth = None if model is None or labelled.depth is None else depth_at(labelled, 1, model)
    out = []
    for segment in labelled.segments:
        if segment.train_id not in things:
            continue
        centre = None
        if depth is not None and model is not None and labelled.ids is not None:
            x, y, width, height = segment.box
            box = slice(y, y + height), slice(x, x + width)
            own = (labelled.ids[box] == segment.id) & (depth[box] > 0)
            points = model.rays()[box][own] * depth[box][own, None]
            points = points[~np.isnan(points).any(-1)]
            if len(points):
                centre = np.median(points, 0).astype(np.float64) + model.centre
        out.append(Detection(segment.train_id, segment.score, segment.id, segment.box, centre))
    return out
