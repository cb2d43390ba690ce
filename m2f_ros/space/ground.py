"""Where a frame shows the ground and what stands on it, in the base frame.

Both ways work along the rays that leave the point of the ground below the camera. Each ray is cut into parts as long as
a cell.

- Flat ground, without depth: a part of a ray has its pixel, which a table holds. A class of the ground is where its
  pixels fall. A thing that stands there is at its foot, the first part of the ray that shows it. The parts behind the
  foot that show it are hidden by it, and unknown; ground that is seen over it is known. Farther things on the same ray
  are left out: their feet are seldom seen over the first one or between its legs.
- With depth each pixel is a point. A point of what stands counts between two heights above the ground. A point of the
  ground fills a part of its ray, and the parts up to the next such point if that is as near as the next row of the
  image on level ground.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from m2f_ros.errors import SpaceError
from m2f_ros.space.costs import UNKNOWN, Costs, looked_up
from m2f_ros.space.grid_settings import GridSettings
from m2f_ros.space.labelled import Labelled

if TYPE_CHECKING:
    from m2f_ros.space.camera_model import CameraModel

_NOTHING, _LIES, _STANDS = range(3)  # kinds of classes
_POINTS = 100_000  # about so many are taken of a depth image
_BRIDGE = 3.0  # metres between wheels or legs of one thing, such as a car
_APART = 1.25  # rows of the image; ground points farther apart have something else between them
_SWAY = 0.03  # radians that the camera turns until its rays are chosen anew


@dataclass(frozen=True, eq=False)
class Ground:
    """A frame on the cells of a grid.

    Attributes:
        lies: (cells,) labels of what lies on the ground; unlabelled where none is seen.
        x: (N,) float32 metres in the base frame, of points of what stands.
        y: the same.
        stands: (N,) their labels.
        together: least number of these in a cell and the eight around it; fewer are noise.
    """

    lies: np.ndarray
    x: np.ndarray
    y: np.ndarray
    stands: np.ndarray
    together: int = 1


class View:
    """The ground as one camera sees it. Keeps tables for its pixels until the camera or its pose changes."""

    def __init__(self, settings: GridSettings, costs: Costs):
        self._settings, self._unlabelled = settings, costs.unlabelled
        kinds = np.where(costs.table == UNKNOWN, _NOTHING, np.where(costs.flat, _LIES, _STANDS))
        self._kinds = kinds.astype(np.uint8)
        self._rays: _Rays | None = None
        self._flat: _Flat | None = None
        self._deep: _Deep | None = None
        self._before: dict[str, np.ndarray] = {}  # a state to go on from, at the next frame

    def state(self) -> dict[str, np.ndarray]:
        """Return copies of what the tables were chosen by, on which later results depend, for `restore`."""
        if self._before or self._rays is None:
            return {name: array.copy() for name, array in self._before.items()}
        arrays = {"model": self._rays.model.numbers(), "rays": self._rays.pose}
        if self._flat is not None and self._flat.rays is self._rays:
            arrays["flat"] = self._flat.pose
        if self._deep is not None and self._deep.rays is self._rays and self._deep.model is self._rays.model:
            arrays |= {"deep": self._deep.of_rays, "size": np.array(self._deep.size)}
        return {name: array.copy() for name, array in arrays.items()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Take the state of another view of the same settings."""
        self._rays = self._flat = self._deep = None
        self._before = {name: array.copy() for name, array in state.items()}

    def seen(self, labelled: Labelled, model: CameraModel, base_from_camera: np.ndarray) -> Ground:
        """Return what a frame shows. For arguments and errors see `GroundGrid.observe`."""
        try:
            pose = _checked(labelled, model, base_from_camera, self._settings)
            if self._before:
                self._go_on(model)
            if self._rays is None or self._rays.model is not model or self._rays.moved(pose):
                self._rays = _Rays(self._settings, model, pose)
            if labelled.depth is None:
                return self._seen_flat(labelled, self._rays, pose)
            return self._seen_deep(labelled, labelled.depth, self._rays, pose)
        except SpaceError as error:
            raise SpaceError(f"{f'camera {labelled.camera}' if labelled.camera else 'the camera'}: {error}") from None

    def _go_on(self, model: CameraModel) -> None:
        """Make the tables of the state that was restored, if the camera is still the same."""
        before, self._before = self._before, {}
        if not np.array_equal(before["model"], model.numbers()):
            return
        rays = self._rays = _Rays(self._settings, model, before["rays"])
        if "flat" in before:
            self._flat = _Flat(self._settings, rays, before["flat"])
        if "deep" in before:
            width, height = before["size"].tolist()
            self._deep = _Deep(model, model.resized((width, height)))
            self._deep.choose(before["deep"], rays)

    def _seen_flat(self, labelled: Labelled, rays: _Rays, pose: np.ndarray) -> Ground:
        if self._flat is None or self._flat.rays is not rays or _moved(self._flat.pose, pose, rays):
            self._flat = _Flat(self._settings, rays, pose)
        tables, unlabelled = self._flat, labelled.label.dtype.type(self._unlabelled)
        shown = np.where(tables.framed, labelled.label.ravel()[tables.pixels], unlabelled)
        kinds = looked_up(self._kinds, shown)
        if (least := self._settings.min_confidence) and labelled.confidence is not None:
            kinds[labelled.confidence.ravel()[tables.pixels] < least] = _NOTHING
        label, first, reach, hidden = tables.feet(shown, kinds == _STANDS)
        part = np.arange(rays.parts, dtype=np.int16)
        behind = part >= first[:, None]
        at = np.flatnonzero(behind & (part < reach[:, None]))
        lies = np.where((kinds == _LIES) & ~(behind & (part < hidden[:, None])), shown, unlabelled)
        x, y = rays.x.ravel()[at], rays.y.ravel()[at]
        return Ground(rays.on_cells(lies, unlabelled), x, y, label[at // rays.parts])

    def _seen_deep(self, labelled: Labelled, depth: np.ndarray, rays: _Rays, pose: np.ndarray) -> Ground:
        settings, model = self._settings, rays.model
        size = min(model.size[0], depth.shape[1]), min(model.size[1], depth.shape[0])
        if self._deep is None or self._deep.model is not model or self._deep.size != size:
            self._deep = _Deep(model, model.resized(size))
        tables = self._deep
        tables.move(pose, rays)
        label, z = tables.taken(labelled.label), tables.taken(depth)
        kinds = looked_up(self._kinds, label)
        if (least := settings.min_confidence) and labelled.confidence is not None:
            kinds[tables.taken(labelled.confidence) < least] = _NOTHING
        with np.errstate(invalid="ignore"):  # infinite depths
            height = z * tables.up
            height += np.float32(pose[2, 3] - settings.ground_height)
            distance = z * tables.along
        kinds *= (distance < settings.max_range) & (height <= settings.height)  # others show nothing

        at = np.flatnonzero((kinds == _STANDS) & (height >= settings.ground_tolerance))
        x, y = tables.placed(at, z[at], pose)
        stands = label[at]

        at = np.flatnonzero((kinds == _LIES) & (height >= -settings.height))
        part = (distance[at] * np.float32(1 / settings.resolution)).astype(np.int32)
        unlabelled = label.dtype.type(self._unlabelled)
        lies = np.full((rays.count + 1, rays.parts), unlabelled)  # the last ray is for points outside of the others
        lies.ravel()[tables.start[at] + part] = label[at]
        lies = _filled(lies[:-1], unlabelled, tables.gaps(rays, pose[2, 3] - settings.ground_height))
        return Ground(rays.on_cells(lies, unlabelled), x, y, stands, settings.min_points)


class _Rays:
    """Rays along the ground, from the point below a camera.

    Attributes:
        model: of the camera's images.
        parts: number of parts of a ray.
        count: number of rays.
        step: radians between rays.
        middle: radians, direction of the middle ray, or of the border between the two in the middle.
        x: (count, parts) float32 metres in the base frame, of the middle of each part.
        y: the same.
        reach: metres, their length.
        pose: (4, 4), of the optical centre in the base frame.
    """

    def __init__(self, settings: GridSettings, model: CameraModel, pose: np.ndarray):
        """pose: see the attributes."""
        self.model, self.pose, self._resolution = model, pose, settings.resolution
        self.reach, self.parts = settings.max_range, math.ceil(settings.max_range / settings.resolution)
        around = math.ceil(2 * math.pi * settings.max_range / settings.resolution)
        self.step = 2 * math.pi / around
        directions, below = _directions(settings, model, pose)
        # The shortest arc with all directions lies between the ends of the longest gap.
        hit = np.unique(np.floor((directions[below] if below.any() else directions) / self.step)).astype(int)
        gaps = np.diff(hit, append=hit[:1] + around)
        longest = int(gaps.argmax())
        margin = math.ceil(_SWAY / self.step)
        length = around if _sees_its_foot(model, pose) else around - int(gaps[longest]) + 1 + 2 * margin
        self.count = min(length, around)
        first = int(hit[(longest + 1) % len(hit)]) - margin
        self.middle = (first + length / 2) * self.step

        direction = self.middle + (np.arange(self.count)[:, None] + 0.5 - self.count / 2) * self.step
        distance = (np.arange(self.parts) + 0.5) * settings.resolution
        self.x = (pose[0, 3] + distance * np.cos(direction)).astype(np.float32)
        self.y = (pose[1, 3] + distance * np.sin(direction)).astype(np.float32)
        x, y = (centres - start for centres, start in zip(settings.centres(), pose[:2, 3], strict=True))
        c, s = math.cos(self.middle), math.sin(self.middle)
        part, ray = np.hypot(x, y) / settings.resolution, self.of(c * x + s * y, c * y - s * x)
        none = (part >= self.parts) | (ray >= self.count)
        self._of_cell = np.where(none, self.count * self.parts, ray * self.parts + part.astype(np.intp)).ravel()

    def of(self, ahead: np.ndarray, left: np.ndarray) -> np.ndarray:
        """Return the rays of directions, int32; `count` for none.

        ahead, left: their parts along `middle`, and to its left.
        """
        ray = np.arctan2(left, ahead)
        ray *= 1 / self.step
        ray += self.count / 2
        with np.errstate(invalid="ignore"):  # pixels without a ray
            inside = (ray >= 0) & (ray < self.count)
            return np.where(inside, ray, self.count).astype(np.int32)

    def moved(self, pose: np.ndarray) -> bool:
        """True where the camera moved so far that other rays, or others of their parts, are at the cells."""
        turn, shift = np.abs(self.pose - pose)[:3, :3].max(), np.abs(self.pose - pose)[:2, 3].max()
        return bool(turn > _SWAY / 2 or shift > self._resolution / 4)

    def on_cells(self, values: np.ndarray, none: np.generic) -> np.ndarray:
        """Return the values, given for (count, parts), at the centres of the cells: (cells,)."""
        return np.append(values.ravel(), none)[self._of_cell]

    def gaps(self, pixel: float, above: float) -> np.ndarray:
        """Return how many parts of a ray two rows of the image are apart on level ground: (parts,) int16.

        With a margin. pixel: radians between the rows. above: metres from the ground to the camera.
        """
        distance = (np.arange(self.parts) + 0.5) * self._resolution
        gap = pixel * (distance**2 + above**2) / above / self._resolution
        return np.minimum(_APART * gap + 1, self.parts).astype(np.int16)


class _Flat:
    """The pixels of a camera on its rays over flat ground.

    Attributes:
        rays: along the ground.
        pixels: (count, parts) index of the image's pixel that shows a part of a ray; 0 where none does.
        framed: (count, parts) bool, True where one does.
        pose: (4, 4), of the optical centre in the base frame.
    """

    def __init__(self, settings: GridSettings, rays: _Rays, pose: np.ndarray):
        """Raises SpaceError where the camera sees none of the ground."""
        self.rays, self.pose, model = rays, pose, rays.model
        turn = pose[:3, :3]
        offset = model.centre + turn.T @ (np.array([0, 0, settings.ground_height]) - pose[:3, 3])
        forward, left, start = np.array([turn[0], turn[1], offset], np.float32)
        pixels, _ = model.project(rays.x[..., None] * forward + rays.y[..., None] * left + start)
        (width, height), above = model.size, pose[2, 3] - settings.ground_height
        column, row = np.rint(pixels[..., 0]), np.rint(pixels[..., 1])
        self.framed = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        self.pixels = np.where(self.framed, row * width + column, 0).astype(np.intp)
        self._gaps = rays.gaps(_pixel(model), above)
        if not rays.on_cells(self.framed, np.False_).any():
            raise SpaceError(
                f"it sees no ground of the grid within {settings.max_range:g} m: it is {above:.2f} m above the ground "
                f"and looks {_pitch(pose)}; correct its extrinsics or tf, or the size of the grid"
            )

    def feet(self, shown: np.ndarray, stands: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return where the nearest thing on each ray stands.

        shown: (count, parts) labels. stands: the same, bool, True for what stands.

        Returns, (count,) each: its label; the first part of its foot; the part after the last one of its foot; the part
        after the last one that is hidden. Where nothing stands, the first part is after the last ones.
        """
        ray = np.arange(self.rays.count)
        seen = stands.argmax(axis=1)
        label, there = shown[ray, seen], stands[ray, seen]
        group = np.where(there, label.astype(np.int32), -1)
        first = np.where(there, seen, self.rays.parts).astype(np.int16)
        self._bridge(first, group)
        # The foot of a wall joins those on the next rays: it goes on behind the nearer of two.
        end, step = np.where(there, first + 1, 0), np.diff(first)
        joined = (group[1:] == group[:-1]) & there[1:]
        joined &= np.abs(step) <= self._gaps[np.maximum(seen[1:], seen[:-1])]
        for towards, nearer, farther in ((step > 0, 0, 1), (step < 0, 1, 0)):
            k = np.flatnonzero(joined & towards)
            end[k + nearer] = np.maximum(end[k + nearer], first[k + farther])
        return label, first, end, np.maximum(end, np.where(there, seen, 0))

    def _bridge(self, first: np.ndarray, group: np.ndarray) -> None:
        """Bring the foot of what stands on wheels or legs to the line between them. Changes `first`.

        group: (count,) label of what stands on a ray, -1 for nothing. Neighbours with the same one are taken for one
        thing.
        """
        rays = self.rays
        at = np.arange(rays.count), np.minimum(first, rays.parts - 1)
        x, y = rays.x[at], rays.y[at]
        most = int(math.pi / 2 / rays.step)  # rays that a tangent serves
        ends = np.flatnonzero(np.diff(group, prepend=-2, append=-2)).tolist()
        for low, high in pairwise(ends):
            if group[low] < 0:
                continue
            for begin in range(low, high, most):
                of = slice(begin, min(begin + most, high))
                # A straight line on the ground is straight in 1 / distance ahead over the tangent, too.
                turn = (np.arange(of.start, of.stop) - (of.start + of.stop) / 2) * rays.step
                u, w = np.tan(turn), 1 / ((first[of] + 0.5) * np.cos(turn))
                hull = _above(u.tolist(), w.tolist())
                for i, j in pairwise(hull):
                    a, b = begin + i, begin + j
                    if j - i < 2 or math.hypot(x[a] - x[b], y[a] - y[b]) > _BRIDGE:
                        continue
                    line = w[i] + (w[j] - w[i]) / (u[j] - u[i]) * (u[i + 1 : j] - u[i])
                    near = (1 / (line * np.cos(turn[i + 1 : j]))).astype(int)
                    inside = first[a + 1 : b]
                    np.copyto(inside, near, where=near + self._gaps[near] < inside)


class _Deep:
    """The directions of a camera's pixels in the base frame, of those that are taken of a depth image.

    Attributes:
        model: of the camera's images.
        size: (width, height) in pixels, the smaller of label and depth image; some of its pixels are taken.
        up: (N,) float32 metres towards z of the base frame for each metre of depth.
        along: (N,) float32 metres along the ground for each metre of depth.
        start: (N,) int32, index of the first part of the ray that each is on; after the last ray for none.
        rays: those of `start`; None before the first.
        of_rays: (3, 3), rotation of the camera that `start` was made for.
    """

    up: np.ndarray
    along: np.ndarray
    start: np.ndarray

    def __init__(self, model: CameraModel, taken: CameraModel):
        """taken: of images of `size`."""
        self.model, self.size = model, taken.size
        width, height = taken.size
        # Each of so many pixels, counted on from row to row: not those of the same columns in every row, so that narrow
        # things and flat ones are both met.
        self._step = max(1, round(width * height / _POINTS))
        while math.gcd(self._step, width) > 1:
            self._step += 1
        self._pixel = _pixel(taken)
        self._x, self._y = (np.ascontiguousarray(taken.rays()[..., k].ravel()[:: self._step]) for k in range(2))  # z: 1
        self._square = self._x * self._x + self._y * self._y + 1
        self._turn = self.of_rays = np.full((3, 3), np.nan)  # the first: that `up` and `along` are made for
        self.rays: _Rays | None = None

    def taken(self, image: np.ndarray) -> np.ndarray:
        """Return the pixels of an image, of any size, that are taken: (N,), in one piece."""
        (rows, columns), (width, height) = image.shape, self.size
        if (columns, rows) != self.size:
            row, column = (
                ((np.arange(n) + 0.5) * m / n).astype(np.intp) for n, m in ((height, rows), (width, columns))
            )
            image = image[row[:, None], column]
        return np.ascontiguousarray(image.ravel()[:: self._step])

    def gaps(self, rays: _Rays, above: float) -> np.ndarray:
        """Return how many parts of a ray two points of level ground are apart: see `_Rays.gaps`."""
        rows = math.ceil(self._step * self._pixel / rays.step)  # of which one has a point on each ray
        return rays.gaps(rows * self._pixel, above) + 1

    def move(self, pose: np.ndarray, rays: _Rays) -> None:
        """Bring the tables to another pose of the optical centre."""
        turn = pose[:3, :3]
        if not np.array_equal(turn, self._turn):
            self._turn = turn
            self.up = self._toward(turn[2])
            self.along = np.sqrt(np.maximum(self._square - self.up * self.up, 0))  # a turn keeps lengths
        if self.rays is not rays or not np.abs(self.of_rays - turn).max() < rays.step / 2:
            self.choose(turn, rays)

    def choose(self, turn: np.ndarray, rays: _Rays) -> None:
        """Find the ray of each pixel. turn: (3, 3), rotation of the camera."""
        self.rays, self.of_rays = rays, turn
        c, s = math.cos(rays.middle), math.sin(rays.middle)
        ray = rays.of(self._toward(c * turn[0] + s * turn[1]), self._toward(c * turn[1] - s * turn[0]))
        self.start = ray * np.int32(rays.parts)

    def placed(self, at: np.ndarray, z: np.ndarray, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return x and y in the base frame of the pixels `at`, for their depths."""
        x, y = self._x[at], self._y[at]
        (a, b, c, d), (e, f, g, h) = pose[:2].astype(np.float32)
        return (x * a + y * b + c) * z + d, (x * e + y * f + g) * z + h

    def _toward(self, direction: np.ndarray) -> np.ndarray:
        """Return the parts of the pixels' directions towards one, given in the axes of the camera."""
        a, b, c = direction.astype(np.float32)
        found = self._x * a
        found += self._y * b
        found += c
        return found


def _checked(
    labelled: Labelled, model: CameraModel, base_from_camera: np.ndarray, settings: GridSettings
) -> np.ndarray:
    """Return the pose of the optical centre, (4, 4) float64. Raises SpaceError: see `GroundGrid.observe`."""
    size = labelled.label.shape[::-1]
    if model.size != size:
        raise SpaceError(f"its camera model is of {model.size[0]}x{model.size[1]}, its labels are {size[0]}x{size[1]}")
    pose = np.array(base_from_camera, np.float64)
    if pose.shape != (4, 4) or not np.isfinite(pose).all():
        raise SpaceError("its pose in the base frame is not a matrix of 4 by 4 finite numbers")
    pose[:3, 3] += pose[:3, :3] @ model.centre
    above = pose[2, 3] - settings.ground_height
    if above <= 0:
        raise SpaceError(
            f"it is {abs(above):.2f} m below the ground: correct its height, in its extrinsics or in tf, or the "
            f"ground_height of the grid"
        )
    return pose


def _directions(settings: GridSettings, model: CameraModel, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return directions in the base frame, (N,) radians, of pixels all over the image, its edges included.

    The second array is True for those that fall on flat ground in range.
    """
    width, height = model.size
    row, column = (np.unique(np.linspace(0, n - 1, 33).astype(np.intp)) for n in (height, width))
    rays = model.rays()[row[:, None], column].reshape(-1, 3) @ pose[:3, :3].T
    rays = rays[np.isfinite(rays).all(axis=1)]
    falls = -rays[:, 2] / (pose[2, 3] - settings.ground_height)  # shares of the way to the ground
    below = np.hypot(rays[:, 0], rays[:, 1]) <= settings.max_range * falls
    return np.arctan2(rays[:, 1], rays[:, 0]), below


def _sees_its_foot(model: CameraModel, pose: np.ndarray) -> bool:
    """Return True if the point straight below the camera, or above it, is in the image: all directions are there, then.

    The directions of the pixels around the image's edge then go once round.
    """
    rays = model.rays()
    edge = np.concatenate([rays[0], rays[1:, -1], rays[-1, -2::-1], rays[-2:0:-1, 0]]) @ pose[:3, :3].T
    edge = edge[np.isfinite(edge).all(axis=1)]
    around = np.arctan2(edge[:, 1], edge[:, 0])
    turns = np.diff(around, append=around[:1])
    return bool(abs(((turns + math.pi) % (2 * math.pi) - math.pi).sum()) > math.pi)


def _moved(before: np.ndarray, now: np.ndarray, rays: _Rays) -> bool:
    """True where a camera moved so far that ground in range moved by half a pixel in its image."""
    half = _pixel(rays.model) / 2
    turn, lift = np.abs(before - now)[:3, :3].max(), abs(before[2, 3] - now[2, 3])
    return not (turn <= half and lift <= half * rays.reach)


def _pixel(model: CameraModel) -> float:
    """Return the angle between two rows in the middle of an image, radians."""
    width, height = model.size
    rays = model.rays()[max(0, height // 2 - 1) : height // 2 + 1, width // 2].astype(np.float64)
    return float(np.linalg.norm(rays[0] - rays[-1])) or 1e-3


def _pitch(pose: np.ndarray) -> str:
    """Say how far a camera looks up or down."""
    up = math.degrees(math.asin(max(-1.0, min(1.0, float(pose[2, 2])))))
    return f"{abs(up):.0f} degrees {'up' if up > 0 else 'down'}"


def _filled(values: np.ndarray, none: np.generic, gaps: np.ndarray) -> np.ndarray:
    """Fill the gaps along rays with the nearer of the values at their two ends.

    values: (rays, parts), `none` where there is none. gaps: (parts,) largest difference of the ends' parts.
    """
    flat, parts = values.ravel(), values.shape[1]
    at = np.flatnonzero(flat != none)
    gap = np.diff(at)
    wide = np.flatnonzero(gap > 1)
    begin, gap = at[wide], gap[wide]
    end = begin + gap
    part = end % parts
    fills = (gap <= gaps[part]) & (part >= gap)  # from one to another part of the same ray
    begin, gap, end = begin[fills], gap[fills], end[fills]
    between = gap - 1
    step = np.arange(between.sum()) - np.repeat(np.cumsum(between) - between, between)
    left = np.repeat(begin, between)
    filled = flat.copy()
    filled[left + 1 + step] = flat[np.where(step < np.repeat(gap // 2, between), left, np.repeat(end, between))]
    return filled.reshape(values.shape)


def _above(x: list[float], y: list[float]) -> list[int]:
    """Return the points of the concave line above points of growing x (Andrew's monotone chain)."""
    hull: list[int] = []
    for k in range(len(x)):
        while len(hull) > 1:
            i, j = hull[-2:]
            if (y[j] - y[i]) * (x[k] - x[i]) > (y[k] - y[i]) * (x[j] - x[i]):
                break
            hull.pop()
        hull.append(k)
    return hull
