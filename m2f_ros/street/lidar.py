"""A spinning lidar on the roof of the simulated street's vehicle, with the true label and instance of every point.

The scene is drawn from the lidar's place in four directions, by the rasteriser of the camera's pictures, so that both
see the same world. Each ray then meets the plane of the face that it hits, so that its range does not depend on the
resolution of the drawing. Near an outline the ray is tested against the outlines around it, whose corners are rounded
by at most 1/64 of a pixel, 1.3 mm at 20 m.

Against a search for the first face in space, over 12,000 rays of four streets, the median error of the range is below
1 micrometre, 99.5 % are within 1 cm, and 99.8 % of the labels are equal. In the rest faces are drawn in another order
than they lie in space, as in the pictures. Things end 8 to 16 m behind the camera, and 150 m ahead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from m2f_ros.errors import SourceError
from m2f_ros.street.raster import FIRST, GROUND, SKY, Faces, Placed, View, rasterise, to_fixed
from m2f_ros.street.shade import Shader

UNLABELLED = 255
MIN_RANGE, MAX_RANGE = 1.0, 120.0  # metres
MAX_RINGS, MAX_COLUMNS = 256, 8192
_LOWEST, _HIGHEST = -25.0, 15.0  # degrees of the outer rings
_PIXELS = 512  # of a drawing's width, for 90 degrees
_BEHIND = MAX_RANGE + 8  # metres behind the camera from which the ground has its classes
# Directions of the drawings, (ahead, right) in the street's x and z.
_VIEWS = (((0, 1), (1, 0)), ((1, 0), (0, -1)), ((0, -1), (-1, 0)), ((-1, 0), (0, 1)))


@dataclass(frozen=True, eq=False)
class Scan:
    """One turn of the lidar, at one moment.

    Attributes:
        points: (rings, columns, 3) float32, metres in the lidar's frame (x ahead, y left, z up); NaN where a ray hits
            nothing within MIN_RANGE to MAX_RANGE. Ring 0 is the lowest; column 0 looks behind, the next ones clockwise.
        label: (rings, columns) uint8 train ids, UNLABELLED where a ray hits nothing.
        instance: (rings, columns) uint16 ids as in `StreetFrame`, 0 outside things.
    """

    points: np.ndarray
    label: np.ndarray
    instance: np.ndarray


class Lidar:
    """The rays of a lidar."""

    def __init__(self, rings: int = 32, columns: int = 1024) -> None:
        """rings: 1 to MAX_RINGS. columns: directions of a turn, 1 to MAX_COLUMNS. SourceError for others."""
        if not (1 <= rings <= MAX_RINGS and 1 <= columns <= MAX_COLUMNS):
            raise SourceError(
                f"lidar {rings}x{columns} is not possible; give RINGSxCOLUMNS, at most {MAX_RINGS}x{MAX_COLUMNS}"
            )
        self.rings, self.columns = rings, columns
        rise = np.radians(np.linspace(_LOWEST, _HIGHEST, rings) if rings > 1 else np.zeros(1))[:, None]
        turn = math.pi - (np.arange(columns) + 0.5) * (2 * math.pi / columns)
        self.rays = np.stack(
            np.broadcast_arrays(np.cos(rise) * np.cos(turn), np.cos(rise) * np.sin(turn), np.sin(rise)), -1
        )

    def scan(self, objects: list[Placed], shader: Shader, rotation: np.ndarray, position: np.ndarray) -> Scan:
        """Cast all rays.

        objects: all that stands in the street. rotation: (3, 3), d_street = rotation @ d_lidar. position: (3,) of the
        lidar in the street, metres.
        """
        rays = self.rays.reshape(-1, 3) @ rotation.T
        reach = np.full(len(rays), np.inf)
        label = np.full(len(rays), UNLABELLED, np.uint8)
        instance = np.zeros(len(rays), np.uint16)
        sides = np.stack([rays[:, 0] * x + rays[:, 2] * z for (x, z), _ in _VIEWS]).argmax(0)
        for side, ((x, z), (right_x, right_z)) in enumerate(_VIEWS):
            k = np.flatnonzero(sides == side)
            if not len(k):
                continue
            axes = np.array([[right_x, 0, right_z], [0, -1, 0], [x, 0, z]], float)
            seen = rays[k] @ axes.T
            seen /= seen[:, 2:]
            view = _view(axes, position, seen[:, 1].min(), seen[:, 1].max())
            ahead, label[k], instance[k] = _cast(seen, objects, shader, view)
            reach[k] = ahead * np.linalg.norm(seen, axis=1)
        missed = ~((reach >= MIN_RANGE) & (reach <= MAX_RANGE))
        reach[missed], label[missed], instance[missed] = np.nan, UNLABELLED, 0
        shape = self.rings, self.columns
        points = (self.rays * reach.reshape(shape)[..., None]).astype(np.float32)
        return Scan(points, label.reshape(shape), instance.reshape(shape))


def _view(axes: np.ndarray, position: np.ndarray, low: float, high: float) -> View:
    """A view of 90 degrees; low, high: least and most y / z of the rays in it."""
    focal, margin = _PIXELS / 2, 2
    top, bottom = math.floor(low * focal) - margin, math.ceil(high * focal) + margin
    centre = (_PIXELS - 1) / 2 + margin
    return View(_PIXELS + 2 * margin, bottom - top + 1, focal, focal, centre, -float(top), axes, position)


def _cast(
    seen: np.ndarray, objects: list[Placed], shader: Shader, view: View
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return depth along the view's axis, train id and instance of rays (N, 3), of depth 1 in the view's axes."""
    numbers, faces = rasterise(objects, view)
    u = seen[:, 0] * view.fx + view.cx
    v = seen[:, 1] * view.fy + view.cy
    column, row = np.rint(2 * u + 0.5).astype(int), np.rint(2 * v + 0.5).astype(int)
    around = np.stack([numbers[row + j, column + i] for j in (-1, 0, 1) for i in (-1, 0, 1)])
    hit = around[4].copy()
    mixed = np.flatnonzero((around != hit).any(axis=0))
    hit[mixed] = _topmost(around[:, mixed], u[mixed], v[mixed], seen[mixed, 1], faces)
    u, v = u.astype(np.float32), v.astype(np.float32)
    depth, label = shader.geometry(hit, u, v, view, faces)
    ground = np.flatnonzero(hit == GROUND)
    x, z = (view.position[k] + depth[ground] * (seen[ground] @ view.rotation)[:, k] for k in (0, 2))
    start = view.position[2] - _BEHIND
    label[ground] = shader.ground.label(x.astype(np.float32), (z - start).astype(np.float32), start)
    instance = np.zeros(len(hit), np.uint16)
    face = np.flatnonzero(hit >= FIRST)
    instance[face] = faces.instance[hit[face] - FIRST]
    return depth, label, instance


def _topmost(around: np.ndarray, u: np.ndarray, v: np.ndarray, fall: np.ndarray, faces: Faces) -> np.ndarray:
    """Return the number that each ray hits, of those in the drawing around it.

    around: (K, N) numbers. u, v: (N,) pixels of the rays. fall: (N,), above 0 for rays that meet the ground.
    """
    around = np.sort(around, axis=0)
    own = np.vstack([np.ones_like(around[:1], bool), around[1:] != around[:-1]]) & (around >= FIRST)
    ray, place = np.nonzero(own.T)
    face = around[place, ray] - FIRST
    hit = np.where(fall > 0, GROUND, SKY)
    if not len(ray):
        return hit
    # The outlines of these faces in a row, each corner with the next one.
    used, face = np.unique(face, return_inverse=True)
    outlines = [faces.outlines[k] for k in used]
    corners = np.concatenate(outlines).astype(np.float64)
    nexts = np.concatenate([np.roll(outline, -1, axis=0) for outline in outlines]).astype(np.float64)
    counts = np.array([len(outline) for outline in outlines])
    firsts = np.cumsum(counts) - counts
    # Crossings of each outline with the half line to the right of the ray: an odd number of them is inside.
    sizes = counts[face]
    begins = np.cumsum(sizes) - sizes
    edge = np.repeat(firsts[face] - begins, sizes) + np.arange(sizes.sum())
    x, y = np.repeat(to_fixed(u)[ray], sizes), np.repeat(to_fixed(v)[ray], sizes)
    (x0, y0), (x1, y1) = corners[edge].T, nexts[edge].T
    rises = (y0 > y) != (y1 > y)
    crosses = rises & (x < x0 + (x1 - x0) * (y - y0) / np.where(rises, y1 - y0, 1))
    inside = np.add.reduceat(crosses, begins, dtype=np.int64) % 2 == 1
    np.maximum.at(hit, ray[inside], used[face[inside]] + FIRST)
    return hit
