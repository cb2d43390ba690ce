"""Polygon meshes of the simulated street.

Object coordinates are metres: x to the right, y up, z forward (the way a vehicle drives), origin on the
ground.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PLAIN = -1  # texture layer of an untextured face
TOWARDS_VIEWER = (0.0, 0.0, -1.0)
Point = tuple[float, float, float]
Colour = Sequence[float] | np.ndarray  # RGB, 0..255


@dataclass(frozen=True, eq=False)
class Mesh:
    """Planar polygons (F of them, V vertices together), each with its look and its label.

    vertices (V, 3); counts (F,) vertices of each face; normals (F, 3) outward; anchors (F, 3) the point
    whose distance orders the face among those of its mesh; s, t (F, 4): texture coordinate =
    row[:3] . p + row[3], in tiles; colour (F, 3) RGB 0..255; layer (F,) texture layer or PLAIN; label (F,)
    train id; part (F,) is added to the instance id; two_sided (F,) bool, never culled; glow (F,) bool, shown
    without light or haze; low, high (3,) bounds.
    """

    vertices: np.ndarray
    counts: np.ndarray
    normals: np.ndarray
    anchors: np.ndarray
    s: np.ndarray
    t: np.ndarray
    colour: np.ndarray
    layer: np.ndarray
    label: np.ndarray
    part: np.ndarray
    two_sided: np.ndarray
    glow: np.ndarray
    low: np.ndarray
    high: np.ndarray


def _normal(points: Sequence[Point]) -> Point:
    """Return the unit normal by Newell's method; the winding gives its sign."""
    nx = ny = nz = 0.0
    x0, y0, z0 = points[-1]
    for x1, y1, z1 in points:
        nx += (y0 - y1) * (z0 + z1)
        ny += (z0 - z1) * (x0 + x1)
        nz += (x0 - x1) * (y0 + y1)
        x0, y0, z0 = x1, y1, z1
    length = math.sqrt(nx * nx + ny * ny + nz * nz) or 1.0
    return nx / length, ny / length, nz / length


class MeshBuilder:
    """Collects faces. inside: point inside the solid; normals point away from it."""

    def __init__(self, label: int, inside: Point = (0.0, 0.5, 0.0)):
        self.label = label
        self.part = 0
        self.inside = inside
        self._points: list[list[Point]] = []
        self._rows: list[tuple] = []

    def face(
        self,
        points: Sequence[Point],
        colour: Colour,
        *,
        parent: int | None = None,
        layer: int = PLAIN,
        s: Sequence[float] = (0, 0, 0, 0),
        t: Sequence[float] = (0, 0, 0, 0),
        normal: Point | None = None,
        two_sided: bool = False,
        glow: bool = False,
        label: int | None = None,
    ) -> int:
        """Add a planar polygon and return its index.

        A face with a `parent` is a decal: drawn straight after it and with its normal.
        """
        points = [(float(x), float(y), float(z)) for x, y, z in points]
        count = len(points)
        x, y, z = (sum(p[k] for p in points) / count for k in range(3))
        centre = x, y, z
        if parent is not None:
            normal, anchor = self._rows[parent][0], self._rows[parent][1]
        else:
            anchor = centre
            if normal is None:
                normal = _normal(points)
                if sum(n * (c - i) for n, c, i in zip(normal, centre, self.inside, strict=True)) < 0:
                    normal = (-normal[0], -normal[1], -normal[2])
        self._points.append(points)
        self._rows.append(
            (normal, anchor, tuple(s), tuple(t), tuple(colour), layer, self.label if label is None else label,
             self.part, two_sided, glow)
        )  # fmt: skip
        return len(self._rows) - 1

    def decal(self, face: int, box: tuple[float, float, float, float], colour: Colour, **look) -> int:
        """Add a rectangle (a0, a1, b0, b1) in the unit square of quad `face`: a along edge 0-1, b along 0-3."""
        p0, p1, p2, p3 = self._points[face][:4]
        a0, a1, b0, b1 = box

        def at(a: float, b: float) -> Point:
            x, y, z = (
                (1 - a) * (1 - b) * p0[k] + a * (1 - b) * p1[k] + a * b * p2[k] + (1 - a) * b * p3[k] for k in range(3)
            )
            return x, y, z

        return self.face([at(a0, b0), at(a1, b0), at(a1, b1), at(a0, b1)], colour, parent=face, **look)

    def flat(self, outline: Sequence[tuple[float, float]], colour: Colour, z: float = 0.0, **look) -> int:
        """Add an upright cut-out (x, y) in the plane z, facing the viewer. Cut-outs keep their order."""
        return self.face(
            [(x, y, z) for x, y in outline], colour, normal=TOWARDS_VIEWER, two_sided=True,
            parent=None if not self._rows else look.pop("parent", 0), **look,
        )  # fmt: skip

    def box(
        self, x: tuple[float, float], y: tuple[float, float], z: tuple[float, float], colour: Colour, **look
    ) -> dict[str, int]:
        """Add an axis-aligned box without its bottom. Return side -> quad, whose corners begin at the bottom left."""
        (x0, x1), (y0, y1), (z0, z1) = x, y, z
        inside, self.inside = self.inside, ((x0 + x1) / 2, (y0 + y1) / 2, (z0 + z1) / 2)
        sides = {
            "back": [(x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0)],
            "front": [(x1, y0, z1), (x0, y0, z1), (x0, y1, z1), (x1, y1, z1)],
            "left": [(x0, y0, z1), (x0, y0, z0), (x0, y1, z0), (x0, y1, z1)],
            "right": [(x1, y0, z0), (x1, y0, z1), (x1, y1, z1), (x1, y1, z0)],
            "top": [(x0, y1, z0), (x1, y1, z0), (x1, y1, z1), (x0, y1, z1)],
        }
        faces = {name: self.face(points, colour, **look) for name, points in sides.items()}
        self.inside = inside
        return faces

    def finish(self) -> Mesh:
        vertices = np.array([p for points in self._points for p in points], dtype=np.float64)
        columns = list(zip(*self._rows, strict=True))
        kinds = [np.float64] * 5 + [np.int32, np.uint8, np.int32, bool, bool]
        normals, anchors, s, t, colour, layer, label, part, two_sided, glow = map(np.array, columns, kinds)
        counts = np.array([len(points) for points in self._points], dtype=np.int64)
        return Mesh(
            vertices, counts, normals, anchors, s, t, colour, layer, label, part, two_sided, glow,
            low=vertices.min(0), high=vertices.max(0),
        )  # fmt: skip


def circle(x: float, y: float, rx: float, ry: float | None = None, n: int = 14) -> list[tuple[float, float]]:
    """Return the outline of an ellipse, (x, y) pairs."""
    ry = rx if ry is None else ry
    return [(x + rx * math.cos(2 * math.pi * k / n), y + ry * math.sin(2 * math.pi * k / n)) for k in range(n)]


def limb(a: tuple[float, float], b: tuple[float, float], wa: float, wb: float) -> list[tuple[float, float]]:
    """Return the outline of a tapered limb from a to b with half widths wa and wb and rounded ends."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    length = math.hypot(dx, dy)
    if length < 1e-6:
        dx, dy, length = 0.0, -1.0, 1.0
    dx, dy = dx / length, dy / length
    nx, ny = -dy, dx
    return [
        (a[0] + nx * wa, a[1] + ny * wa), (b[0] + nx * wb, b[1] + ny * wb),
        (b[0] + (nx + dx) * 0.7 * wb, b[1] + (ny + dy) * 0.7 * wb), (b[0] + dx * wb, b[1] + dy * wb),
        (b[0] + (dx - nx) * 0.7 * wb, b[1] + (dy - ny) * 0.7 * wb), (b[0] - nx * wb, b[1] - ny * wb),
        (a[0] - nx * wa, a[1] - ny * wa), (a[0] - (nx + dx) * 0.7 * wa, a[1] - (ny + dy) * 0.7 * wa),
        (a[0] - dx * wa, a[1] - dy * wa), (a[0] + (nx - dx) * 0.7 * wa, a[1] + (ny - dy) * 0.7 * wa),
    ]  # fmt: skip
