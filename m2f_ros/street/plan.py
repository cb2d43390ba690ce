"""The true grid of the ground around the camera, from the scene itself, and what a frame shows of it.

Nothing here is shared with m2f_ros.space.grid but the settings and the costs of the classes.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from m2f_ros.space.costs import LETHAL, UNKNOWN, Costs
from m2f_ros.space.grid import GridSettings
from m2f_ros.space.transforms import inverse
from m2f_ros.street.raster import Placed
from m2f_ros.street.street import Street

BEHIND = 8.0  # metres behind the base up to which the street exists
_PARTS = 4  # parts of a cell's side: a face occupies the cells that it comes within half a part of
_SHIFT = 4  # fractional bits of the vertices handed to OpenCV
_NEAR = 10.0  # metres, more than the camera is away from the base
_LEVEL = 0.05  # metres between the ground and what a pixel shows, where it shows the ground


def plan(street: Street, index: int, settings: GridSettings, costs: Costs) -> np.ndarray:
    """Return the cost of each cell around base_link at frame `index`, seen or not: (rows, columns) int8.

    A cell that a face of a standing class comes to between `ground_tolerance` and `height` has the cost of that class,
    the highest of several; others have the cost of their ground. UNKNOWN are cells within houses, walls and vehicles,
    those that lethal cells cut off from the base, and those more than BEHIND it.

    costs: of the street's taxonomy, cityscapes.
    """
    base = _base_from_street(street, index)
    x, y = _centres(settings)
    cost = costs.table[_ground(street, base, x, y)]
    rows, columns = settings.shape
    standing, solid = (np.zeros((rows * _PARTS, columns * _PARTS), np.uint8) for _ in range(2))
    band = settings.ground_height + settings.ground_tolerance, settings.ground_height + settings.height
    found = []
    for placed in _objects(street, index):
        x0, x1, z0, z1 = placed.footprint()
        outline = _moved(base, np.array([(x0, 0, z0), (x1, 0, z0), (x1, 0, z1), (x0, 0, z1)]))[:, :2]
        low, high = zip(settings.x, settings.y, strict=True)
        if (outline.max(0) < low).any() or (outline.min(0) > high).any():
            continue
        if placed.solid:
            _fill(solid, outline, 1, settings)
        for label, face in _faces(placed):
            if costs.table[label] > UNKNOWN and not costs.flat[label]:
                found.append((int(costs.table[label]), _between(_moved(base, face), *band)))
    for of_class, face in sorted(found, key=lambda one: one[0]):
        if len(face):
            _fill(standing, face[:, :2], of_class + 1, settings)
    highest = _parts(standing).max(axis=(1, 3))
    cost = np.where(highest, highest.astype(np.int8) - np.int8(1), cost)
    within = _parts(solid).all(axis=(1, 3)) & (highest == 0)
    blocked = within | (cost == LETHAL)
    cut_off = ~blocked & ~_joined(~blocked, np.hypot(x, y))
    return np.where(within | cut_off | (x < -BEHIND), np.int8(UNKNOWN), cost)


def seen(street: Street, index: int, settings: GridSettings, cost: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Return `cost` of the cells that frame `index` shows, UNKNOWN elsewhere: (rows, columns) int8.

    A lethal cell is seen where a pixel shows a point in it between `ground_tolerance` and `height`, another where a
    pixel shows the ground at its centre.

    cost: from `plan`. depth: (H, W) float32, metres along the optical axis, of the frame.
    """
    base = street.pose(index).base_from_camera
    fx, _, cx, _, fy, cy, *_ = street.camera.k
    v, u = np.nonzero(depth < np.abs([settings.x, settings.y]).max(axis=1).sum() + _NEAR)
    z = depth[v, u].astype(np.float64)
    points = _moved(base, np.stack([(u - cx) / fx * z, (v - cy) / fy * z, z], axis=-1))
    above = points[:, 2] - settings.ground_height
    rows, columns = settings.shape
    hit = points[(above >= settings.ground_tolerance) & (above <= settings.height)]
    row, column = (np.floor((hit[:, 1 - k] - settings.origin[1 - k]) / settings.resolution) for k in range(2))
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    shown = np.zeros((rows, columns), bool)
    shown[row[inside].astype(int), column[inside].astype(int)] = True

    x, y = _centres(settings)
    centres = _moved(inverse(base), np.stack([x, y, np.full(x.shape, settings.ground_height)], axis=-1))
    z = np.where(centres[..., 2] > 0, centres[..., 2], np.nan)
    at_u, at_v = np.rint(centres[..., 0] / z * fx + cx), np.rint(centres[..., 1] / z * fy + cy)
    framed = (at_u >= 0) & (at_u < street.width) & (at_v >= 0) & (at_v < street.height)
    on_ground = np.zeros(depth.shape, bool)
    on_ground[v, u] = np.abs(above) < _LEVEL
    level = np.zeros((rows, columns), bool)
    level[framed] = on_ground[at_v[framed].astype(int), at_u[framed].astype(int)]
    return np.where(np.where(cost == LETHAL, shown, level), cost, np.int8(UNKNOWN))


def _objects(street: Street, index: int) -> list[Placed]:
    return street._scene.objects(float(street.view(index).position[2]), index / street.rate)


def _centres(settings: GridSettings) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of the centre of each cell in base_link, (rows, columns) float64 each."""
    rows, columns = settings.shape
    x, y = ((np.arange(n) + 0.5) * settings.resolution + settings.origin[k] for k, n in enumerate((columns, rows)))
    return np.broadcast_to(x, (rows, columns)), np.broadcast_to(y[:, None], (rows, columns))


def _base_from_street(street: Street, index: int) -> np.ndarray:
    """Return (4, 4), from the street's own world to base_link."""
    turned = np.eye(4)
    turned[:3, :3] = street.world
    return inverse(street.pose(index).map_from_base) @ turned


def _moved(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return matrix @ points, (…, 3)."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _ground(street: Street, base: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the train ids of the ground at points of base_link."""
    world = _moved(inverse(base), np.stack([x, y, np.zeros(x.shape)], axis=-1).reshape(-1, 3))
    start = float(np.floor(world[:, 2].min()))
    across, along = world[:, 0].astype(np.float32), (world[:, 2] - start).astype(np.float32)
    return street._shader.ground.label(across, along, start).reshape(x.shape)


def _faces(placed: Placed) -> list[tuple[int, np.ndarray]]:
    """Return train id and (N, 3) vertices in the street's world of each face."""
    mesh, c, s = placed.mesh, math.cos(placed.yaw), math.sin(placed.yaw)
    turned = mesh.vertices @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]).T + (placed.x, 0.0, placed.z)
    return list(zip(mesh.label.tolist(), np.split(turned, np.cumsum(mesh.counts)[:-1]), strict=True))


def _between(face: np.ndarray, low: float, high: float) -> np.ndarray:
    """Clip a polygon, (N, 3), to z from low to high (Sutherland and Hodgman); (0, 3) where nothing is left."""
    for bound, side in ((low, 1), (high, -1)):
        over = side * (face[:, 2] - bound)
        if (over >= 0).all():
            continue
        out = []
        for a, b, at_a, at_b in zip(np.roll(face, 1, 0), face, np.roll(over, 1), over, strict=True):
            if (at_a >= 0) != (at_b >= 0):
                out.append(a + at_a / (at_a - at_b) * (b - a))
            if at_b >= 0:
                out.append(b)
        face = np.array(out).reshape(-1, 3)
    return face


def _fill(target: np.ndarray, outline: np.ndarray, value: int, settings: GridSettings) -> None:
    """Set the parts of cells that an outline comes to: (N, 2), convex, or on one line as of an upright face."""
    at = (outline - settings.origin) / (settings.resolution / _PARTS) - 0.5  # the centre of the first part is at 0
    fixed = np.rint(np.clip(at, -1e5, 1e5) * (1 << _SHIFT)).astype(np.int32)
    cv2.fillConvexPoly(target, fixed, value, cv2.LINE_8, _SHIFT)


def _parts(target: np.ndarray) -> np.ndarray:
    """Return the parts of each cell: (rows, _PARTS, columns, _PARTS)."""
    rows, columns = (side // _PARTS for side in target.shape)
    return target.reshape(rows, _PARTS, columns, _PARTS)


def _joined(way: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Return the cells of the way that a path joins to its nearest cell."""
    nearest = np.unravel_index(np.where(way, distance, np.inf).argmin(), way.shape)
    _, number = cv2.connectedComponents(way.astype(np.uint8), connectivity=4)
    return way & (number == number[nearest])
