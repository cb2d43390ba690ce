"""Rasterises placed meshes into a buffer of face numbers: transform, cull, clip, order, fill.

Only numbers are drawn, at twice the image's resolution; colour, label, instance and depth are looked up
afterwards from the same buffer, so they always agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from m2f_ros.street.mesh import Mesh

NEAR = 0.5  # metres; distance of the near clipping plane
SKY, GROUND, FIRST = 0, 1, 2  # face numbers; faces of meshes follow
_SHIFT = 4  # fractional bits of the vertices handed to OpenCV


@dataclass(frozen=True, eq=False)
class Placed:
    """A mesh in the street: position (x right, z along the road), turn about the vertical, instance id.

    `yaw` 0 drives away from the viewer, pi towards. `footprint` (x0, x1, z0, z1) orders the objects.
    """

    mesh: Mesh
    x: float
    z: float
    yaw: float = 0.0
    instance: int = 0
    solid: bool = False  # casts the shadow of a box
    thin: float = 0.0  # half width in x of the footprint of a cut-out; 0: the mesh's own bounds

    def footprint(self) -> tuple[float, float, float, float]:
        low, high = self.mesh.low, self.mesh.high
        if self.thin:
            return self.x - self.thin, self.x + self.thin, self.z - 0.02, self.z + 0.02
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        xs = [x * c + z * s for x in (low[0], high[0]) for z in (low[2], high[2])]
        zs = [z * c - x * s for x in (low[0], high[0]) for z in (low[2], high[2])]
        return self.x + min(xs), self.x + max(xs), self.z + min(zs), self.z + max(zs)


@dataclass(frozen=True, eq=False)
class View:
    """The camera pose. rotation (3, 3): its rows are the camera's right, down, forward in world axes."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    rotation: np.ndarray
    position: np.ndarray


@dataclass(eq=False)
class Faces:
    """Per drawn face, in camera axes on the normalised image plane d = (x / z, y / z, 1).

    inverse_depth (F, 3): 1 / z = row . d. s, t (F, 4): coordinate = z * (row[:3] . d) + row[3].
    near, far (F,): depths that occur on the face. normal (F, 3) in world axes. outlines: of each face as it was drawn,
    (K, 2) int32, see `to_fixed`.
    """

    inverse_depth: np.ndarray
    s: np.ndarray
    t: np.ndarray
    near: np.ndarray
    far: np.ndarray
    normal: np.ndarray
    colour: np.ndarray
    layer: np.ndarray
    label: np.ndarray
    instance: np.ndarray
    glow: np.ndarray
    outlines: list[np.ndarray]


def to_fixed(pixels: np.ndarray) -> np.ndarray:
    """Turn pixels of the image, on one axis, into units of outlines: 1 << _SHIFT for each sub-pixel."""
    return (pixels * 2 + 0.5) * (1 << _SHIFT)


def draw_order(footprints: np.ndarray, eye_x: float, eye_z: float) -> list[int]:
    """Order axis-aligned ground rectangles (N, 4: x0, x1, z0, z1) from far to near, seen from (eye_x, eye_z).

    A is behind B if a plane separates A from B and the eye, and no plane separates B from A and the eye.
    """
    n = len(footprints)
    x0, x1, z0, z1 = footprints.T
    slack = 1e-6

    def behind(a0, a1, b0, b1, eye):
        return ((a0[:, None] >= b1[None] - slack) & (eye <= a0)[:, None]) | (
            (a1[:, None] <= b0[None] + slack) & (eye >= a1)[:, None]
        )

    farther = behind(x0, x1, x0, x1, eye_x) | behind(z0, z1, z0, z1, eye_z)
    first = farther & ~farther.T  # [a, b]: a must be drawn before b
    waits_for = first.sum(axis=0).astype(np.int64)
    distance = (z0 + z1) / 2 + np.maximum(np.abs(x0 - eye_x), np.abs(x1 - eye_x)) * 0.1
    by_distance = np.argsort(-distance, kind="stable")
    rank = np.empty(n, dtype=np.int64)
    rank[by_distance] = np.arange(n)
    order: list[int] = []
    keys = waits_for * n + rank  # fewest predecessors, then farthest: also breaks the rare cycle
    step = first.astype(np.int64) * n
    for _ in range(n):
        k = int(keys.argmin())
        order.append(k)
        keys -= step[k]
        keys[k] = np.iinfo(np.int64).max // 2
    return order


def clip_near(points: np.ndarray) -> np.ndarray:
    """Clip a polygon (K, 3), in camera axes, to the part beyond NEAR (Sutherland-Hodgman)."""
    out = []
    previous = points[-1]
    for point in points:
        if (previous[2] >= NEAR) != (point[2] >= NEAR):
            f = (NEAR - previous[2]) / (point[2] - previous[2])
            out.append(previous + f * (point - previous))
        if point[2] >= NEAR:
            out.append(point)
        previous = point
    return np.array(out).reshape(-1, 3)


def rasterise(objects: list[Placed], view: View) -> tuple[np.ndarray, Faces]:
    """Draw the objects over sky and ground.

    Returns numbers (2 height, 2 width) int32 - SKY, GROUND or FIRST + row of the faces - and the faces.
    Sub-pixel (2 v + j, 2 u + i) covers (u - 0.25 + i / 2, v - 0.25 + j / 2).
    """
    numbers = np.empty((2 * view.height, 2 * view.width), dtype=np.int32)
    # The camera never rolls: the horizon is a row.
    down = view.rotation[1, 1], view.rotation[2, 1]
    rows = (np.arange(2 * view.height) - 0.5) / 2
    falls = (rows - view.cy) / view.fy * down[0] + down[1] < -1e-4
    numbers[:] = np.where(falls, GROUND, SKY)[:, None]

    footprints = np.array([o.footprint() for o in objects]).reshape(-1, 4)
    order = draw_order(footprints, view.position[0], view.position[2])
    objects = [objects[k] for k in order]
    meshes = [o.mesh for o in objects]
    face_object = np.repeat(np.arange(len(objects)), [len(m.counts) for m in meshes])
    counts = np.concatenate([m.counts for m in meshes])
    vertex_object = np.repeat(face_object, counts)

    yaw = np.array([o.yaw for o in objects])
    turn = np.zeros((len(objects), 3, 3))
    turn[:, 0, 0] = turn[:, 2, 2] = np.cos(yaw)
    turn[:, 0, 2], turn[:, 2, 0], turn[:, 1, 1] = np.sin(yaw), -np.sin(yaw), 1.0
    to_camera = np.einsum("ij,njk->nik", view.rotation, turn)
    offset = np.array([(o.x, 0.0, o.z) for o in objects]) - view.position
    offset = np.einsum("ij,nj->ni", view.rotation, offset)

    def place(points, owner):
        return np.einsum("nij,nj->ni", to_camera.take(owner, axis=0), points) + offset.take(owner, axis=0)

    vertices = place(np.concatenate([m.vertices for m in meshes]), vertex_object)
    anchors = place(np.concatenate([m.anchors for m in meshes]), face_object)
    axes = to_camera.take(face_object, axis=0)
    world_normals = np.concatenate([m.normals for m in meshes])
    normals = np.einsum("nij,nj->ni", axes, world_normals)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    origin = vertices[starts]
    plane = np.einsum("ni,ni->n", normals, origin)  # negative: the face looks at the camera

    zs = vertices[:, 2]
    z_low, z_high = np.minimum.reduceat(zs, starts), np.maximum.reduceat(zs, starts)
    two_sided = np.concatenate([m.two_sided for m in meshes])
    pixels = np.empty((len(vertices), 2))
    safe = np.maximum(zs, NEAR)
    pixels[:, 0] = vertices[:, 0] / safe * view.fx + view.cx
    pixels[:, 1] = vertices[:, 1] / safe * view.fy + view.cy
    low, high = np.minimum.reduceat(pixels, starts), np.maximum.reduceat(pixels, starts)
    clipped = (z_low < NEAR) & (z_high > NEAR)
    on_screen = (high[:, 0] > -1) & (low[:, 0] < view.width) & (high[:, 1] > -1) & (low[:, 1] < view.height)
    extent = high - low
    seen = (z_high > NEAR) & (two_sided | (plane < -1e-9)) & (np.abs(plane) > 1e-6)
    seen &= clipped | (on_screen & (extent.max(axis=1) > 0.35) & (extent.min(axis=1) > 0.02))

    # Within an object: far faces first, decals straight after the face that carries them (equal anchors).
    distance = np.einsum("ni,ni->n", anchors, anchors)
    sequence = np.lexsort((np.arange(len(counts)), -distance, face_object))
    sequence = sequence[seen[sequence]]

    fixed = np.rint(to_fixed(pixels)).astype(np.int32)
    outlines = []
    start_list, end_list, clip_list = starts.tolist(), (starts + counts).tolist(), clipped.tolist()
    for number, k in enumerate(sequence.tolist(), start=FIRST):
        if clip_list[k]:
            part = clip_near(vertices[start_list[k] : end_list[k]])
            if len(part) < 3:
                outlines.append(fixed[:0])
                continue
            at = part[:, :2] / part[:, 2:] * (view.fx, view.fy) + (view.cx, view.cy)
            outline = np.rint(to_fixed(np.clip(at, -2e4, 2e4))).astype(np.int32)
        else:
            outline = fixed[start_list[k] : end_list[k]]
        cv2.fillPoly(numbers, [outline], number, cv2.LINE_8, _SHIFT)
        outlines.append(outline)

    k = sequence
    rows_s = _texture_rows(np.concatenate([m.s for m in meshes])[k], axes[k], offset[face_object[k]])
    rows_t = _texture_rows(np.concatenate([m.t for m in meshes])[k], axes[k], offset[face_object[k]])
    instance = np.array([o.instance for o in objects])[face_object] + np.concatenate([m.part for m in meshes])
    thing = np.array([o.instance > 0 for o in objects])[face_object]
    label = np.concatenate([m.label for m in meshes])
    facing = np.where(plane > 0, -1.0, 1.0)[:, None]
    return numbers, Faces(
        inverse_depth=(normals[k] / plane[k, None]).astype(np.float32),
        s=rows_s,
        t=rows_t,
        near=np.maximum(z_low[k], NEAR).astype(np.float32),
        far=np.maximum(z_high[k], NEAR).astype(np.float32),
        normal=(np.einsum("nij,nj->ni", turn.take(face_object, axis=0), world_normals) * facing)[k].astype(np.float32),
        colour=np.concatenate([m.colour for m in meshes])[k].astype(np.float32),
        layer=np.concatenate([m.layer for m in meshes])[k],
        label=label[k],
        instance=np.where(thing, instance, 0)[k].astype(np.uint16),
        glow=np.concatenate([m.glow for m in meshes])[k],
        outlines=outlines,
    )


def _texture_rows(rows: np.ndarray, axes: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Transform texture rows from object axes into camera axes."""
    turned = np.einsum("nij,nj->ni", axes, rows[:, :3])
    return np.column_stack([turned, rows[:, 3] - np.einsum("ni,ni->n", turned, offset)]).astype(np.float32)
