"""Which points a camera cannot see, since something nearer hides them: found from the points alone.

The points of a lidar are sparse: seen from a camera beside it, an object is some rows of points with gaps between them,
through which the points behind it show. A z-buffer of pixels, or of any fixed splats, lets them through or covers the
ground around the object. Here the spacing of the points in the picture is measured, and their z-buffer is filled in two
ways that leave an open surface alone, however slanted it is:

- Between two nearer points, on both sides, no further apart than neighbours are, nothing behind is seen.
- Beside one nearer point, no further than a neighbour, nothing is seen that lies so far behind it that a surface
  through both would be steeper than those in the picture are. In nearness, 1 / distance, a plane has the same slope all
  over the picture, the steeper, the closer it passes by the camera. So the slopes between neighbours tell the ground,
  wherever the camera is, and walls from the borders of objects, which most neighbours do not lie on.

The border of an object lies somewhere between its last point and the next one beside it. The picture knows where: a
point is hidden by a nearer one only where both fall on pixels of the same class.

On the simulated street with true labels, for a lidar of 16, 32, 64 or 128 rings, 98.4, 98.8, 99.0 or 99.2 % of the
labels are right, without it 95.7 to 96.1 %; 99 % of the points that are seen keep their label. With the depth image,
which `label_cloud` takes beside it, 99.5 % are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

# A z-buffer's cell holds the nearest point: 256 times its nearness (1 / metres) in steps, plus its kind. The largest
# is below 2^24: float32 holds it, and OpenCV filters float32.
_STEPS = 20_000  # of nearness; one is 0.5 % of the distance at 100 m
_MOST = 65_535  # at 0.3 m; all that is closer is taken to be there
_KINDS = 256

_CELLS = 4  # cells of the z-buffer to a point, about: in larger ones, points of the same surface would hide each other
_ENOUGH = 36_000  # cells; more of them find no more
_LINES = 12  # about so many lines of it are measured
_STEEPEST, _STEEPER = 0.9, 1.5  # the share of the slopes that are surfaces'; how much more is none
_COARSEST = 80  # cells across the picture
_RATIO, _OFFSET = 1.03, 0.1  # a point is behind another from 3 % and 0.1 m on: the lidar's noise, the cell's width


def hidden(
    row: np.ndarray, column: np.ndarray, distance: np.ndarray, kind: np.ndarray, size: tuple[int, int], slope: float
) -> np.ndarray:
    """Find the points that others hide.

    Args:
        row: (N,) int32, pixel of each point, inside of the image.
        column: the same.
        distance: (N,) float32 from the camera, metres, above 0.
        kind: (N,) uint8, class of the pixel.
        size: (width, height) of the image.
        slope: nearness (1 / metres) by which a surface may at least change from one pixel to the next.
    Returns:
        (N,) bool.
    """
    if not len(row):
        return np.zeros(0, bool)
    cells = min(_CELLS * len(row), _ENOUGH)
    cell = max(1, min(round(math.sqrt(size[0] * size[1] / cells)), size[0] // _COARSEST))
    width, height = (-(-side // cell) for side in size)
    at = (row // cell * width + column // cell).astype(np.intp)
    nearness = 1 / np.maximum(distance, np.float32(_STEPS / _MOST))
    nearest = np.zeros(width * height, np.float32)
    np.maximum.at(nearest, at, np.rint(nearness * _STEPS) * _KINDS + kind)
    buffer = nearest.reshape(height, width)
    reach, step = [0, 0], slope * cell * _STEPS
    for axis in (1, 0):
        reach[axis], steepness = _measured(buffer, axis)
        buffer = _closed(buffer, axis, 2 * reach[axis])
        step = max(step, _STEEPER * steepness)
    step = math.ceil(step) * _KINDS
    found = _sloped(buffer, reach, step).ravel()[at]
    # A point is beside the nearest of its cell, and not at the same place.
    found -= np.where(found == nearest[at], np.float32(step), np.float32(0))
    keys = found.astype(np.int32)
    nearer = (keys >> 8).astype(np.float32) / np.float32(_STEPS)
    return (keys.astype(np.uint8) == kind) & (nearness * (_RATIO + _OFFSET * nearer) < nearer)


def _measured(buffer: np.ndarray, axis: int) -> tuple[int, float]:
    """How points lie beside each other along an axis.

    Returns the cells from a filled one to the next, the median; and the steps of nearness from a cell to the next that
    most neighbours of the same kind do not exceed.
    """
    lines = buffer.T if axis == 0 else buffer
    lines = np.ascontiguousarray(lines[:: max(1, len(lines) // _LINES)])
    at, length = np.flatnonzero(lines), lines.shape[1]
    keys, line = lines.ravel()[at].astype(np.int32), at.astype(np.int32) // length
    apart, together = at[1:] - at[:-1], line[1:] == line[:-1]
    most = np.bincount(apart[together], minlength=1).cumsum()
    spacing = max(1, min(int(np.searchsorted(most, most[-1] / 2)), length // 8))
    alike = together & (apart <= 2 * spacing) & ((keys[1:] ^ keys[:-1]) & (_KINDS - 1) == 0)
    nearness = keys >> 8
    slopes = np.abs((nearness[1:] - nearness[:-1])[alike]) / apart[alike]
    if not len(slopes):
        return spacing, 0.0
    place = int(_STEEPEST * len(slopes))
    return spacing, float(np.partition(slopes, place)[place])


def _closed(buffer: np.ndarray, axis: int, gap: int) -> np.ndarray:
    """Fill the cells between two others, which are at most `gap` cells apart, with the farther one of these."""
    length = gap | 1  # a window without a middle would move the picture
    return cv2.morphologyEx(buffer, cv2.MORPH_CLOSE, np.ones((length, 1) if axis == 0 else (1, length), np.uint8))


def _sloped(buffer: np.ndarray, reach: Sequence[int], step: int) -> np.ndarray:
    """Raise the cells around others, up to `reach` away by each axis, to those less `step` for each cell on the way."""
    done, by = 0, 1
    while done < max(reach):
        by = min(by, max(reach) - done)
        rows, columns = (min(by, max(0, far - done)) for far in reach)
        raised = cv2.dilate(buffer, np.ones((2 * rows + 1, 2 * columns + 1), np.uint8))
        raised -= by * step
        buffer = np.maximum(buffer, raised)
        done, by = done + by, 2 * by
    return buffer
