"""Ignore masks: the parts of a camera's images that show the own vehicle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from m2f_ros.errors import FrameError, SpaceError
from m2f_ros.frame.pictures import read_picture
from m2f_ros.frame.segment import Segment
from m2f_ros.space.labelled import Labelled
from m2f_ros.space.points import sampled


def read_mask(path: str | Path) -> np.ndarray:
    """Read the mask of a camera from a PNG: (h, w) bool, True for pixels that are ignored, which are not black.

    Raises SpaceError, in one line with the path, if it cannot be read, or ignores every pixel.
    """
    try:
        image = read_picture(Path(path))
    except FrameError as error:
        raise SpaceError(f"ignore mask {path}: {error}") from None
    mask = np.asarray(image > 0 if image.ndim == 2 else image.any(-1))
    if mask.all():
        raise SpaceError(f"ignore mask {path}: it ignores every pixel; paint black what is to be labelled")
    return mask


def fitted(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a mask for images of another size of the same shape, by the nearest pixels: (height, width) bool.

    size: (width, height). Raises SpaceError for another shape.
    """
    return sampled(mask, (size[1], size[0]), 1, "the ignore mask")


def without(labelled: Labelled, mask: np.ndarray) -> Labelled:
    """Return a frame without the pixels of a mask: unlabelled, confidence 0, no segment, no depth there.

    mask: (H, W) bool of the labels' size. The arrays of `labelled` stay as they are. Segments keep the area and the box
    of what is left of them.
    """
    label, confidence, ids, depth = labelled.label.copy(), labelled.confidence, labelled.ids, labelled.depth
    label[mask] = labelled.unlabelled
    segments = labelled.segments
    if confidence is not None:
        confidence = np.where(mask, np.uint8(0), confidence)
    if ids is not None:
        ids = np.where(mask, ids.dtype.type(0), ids)
        segments = [left for segment in segments if (left := _left(segment, ids, mask))]
    if depth is not None:
        depth = np.where(fitted(mask, depth.shape[::-1]), np.float32(np.nan), depth)
    return replace(labelled, label=label, confidence=confidence, ids=ids, segments=segments, depth=depth)


def _left(segment: Segment, ids: np.ndarray, mask: np.ndarray) -> Segment | None:
    """Return what is left of a segment in `ids`, None for nothing."""
    x, y, width, height = segment.box
    box = slice(y, y + height), slice(x, x + width)
    if not mask[box].any():
        return segment
    own = ids[box] == segment.id
    rows, columns = np.flatnonzero(own.any(1)), np.flatnonzero(own.any(0))
    if not len(rows):
        return None
    top, left = int(rows[0]), int(columns[0])
    box_left = (x + left, y + top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1)
    return segment._replace(area=int(own.sum()), box=box_left)
