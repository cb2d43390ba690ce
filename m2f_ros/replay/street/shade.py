"""Light, weather and surfaces: from face numbers to colours."""

from __future__ import annotations

import math

import cv2
import numpy as np

from . import textures as tx
from .mesh import PLAIN
from .raster import FIRST, GROUND, NEAR, SKY, Faces, Placed, View, _clip_near
from .scene import AHEAD, CROSSING, DECK, HOUSES, LOT, Scene

ROAD, SIDEWALK, TERRAIN, SKY_LABEL = 0, 1, 9, 10
_PERIOD = 1152.0  # metres after which every pattern on the ground repeats: keeps float32 coordinates small


class Weather:
    """Sun, sky, haze and camera response of one street."""

    def __init__(self, rng: np.random.Generator):
        self.cover = float(
            rng.choice([rng.uniform(0.05, 0.5), rng.uniform(0.5, 0.9), 1.0], p=[0.4, 0.3, 0.3])
        )
        elevation, azimuth = math.radians(rng.uniform(16, 62)), rng.uniform(0, 2 * math.pi)
        self.sun = np.array([
            math.cos(elevation) * math.sin(azimuth), math.sin(elevation), math.cos(elevation) * math.cos(azimuth)
        ])  # fmt: skip
        clear = max(0.0, 1 - self.cover * 1.1)
        warm = max(0.0, 1 - elevation / 0.7) * clear
        strength = 0.15 + 0.75 * clear
        self.sunlight = strength * np.array([1.05 + 0.1 * warm, 1.0 - 0.03 * warm, 0.92 - 0.25 * warm])
        self.ambient = (1.08 - 0.50 * strength) * np.array([1 - 0.06 * clear, 1.0, 1 + 0.08 * clear])
        self.casts = clear > 0.15
        tint = rng.uniform(-1, 1)
        grey = np.array([206, 212, 220.0]) * rng.uniform(0.75, 1.18)
        self.zenith = clear * np.array([96 + 26 * tint, 148 + 16 * tint, 216.0]) + (1 - clear) * grey * 0.92
        self.horizon = clear * np.array([214 + 26 * warm, 226.0, 238 - 50 * warm]) + (1 - clear) * grey * 1.05
        self.cloud = np.array([232, 232, 234.0]) * (1 - 0.22 * self.cover * rng.random())
        self.clouds = tx.cloud_map(rng, min(self.cover, 0.85))
        self.haze = rng.uniform(200, 900) if rng.random() < 0.8 else rng.uniform(70, 160)
        self.exposure = float(np.exp(rng.normal(0.06, 0.2)))
        if rng.random() < 0.15:
            self.exposure *= rng.uniform(0.4, 0.65)  # dusk
        gamma = rng.uniform(0.85, 1.2)
        gains = rng.normal(1.0, 0.025, 3)
        ramp = np.arange(256) / 255.0
        contrast = rng.uniform(0.0, 0.35)
        curve = ramp**gamma
        curve = (1 - contrast) * curve + contrast * (3 * curve**2 - 2 * curve**3)
        self.response = np.clip(curve[:, None] * gains * 255, 0, 255).astype(np.uint8)
        self.noise = rng.uniform(1.5, 5.5)
        self.blur = rng.uniform(0.3, 0.65)
        self.vignette = rng.uniform(0.0, 0.25)


class Ground:
    """What the plane y = 0 is made of, point by point."""

    def __init__(self, rng: np.random.Generator, scene: Scene, atlas: tx.Atlas):
        self.scene, self.atlas = scene, atlas
        grey = rng.uniform(58, 112)
        self.asphalt = np.array([grey, grey * rng.uniform(0.98, 1.01), grey * rng.uniform(0.97, 1.06)])
        base = [
            (168, 164, 156),
            (142, 140, 138),
            (176, 156, 140),
            (124, 122, 120),
            (160, 140, 126),
            (190, 186, 176),
        ]
        self.paving = np.array(base[rng.integers(len(base))], float) * rng.uniform(0.8, 1.1)
        greens = [(94, 116, 58), (120, 124, 66), (78, 104, 54), (140, 130, 82), (106, 112, 60), (70, 96, 44)]
        self.grass = np.array(greens[rng.integers(len(greens))], float) * rng.uniform(0.75, 1.15)
        self.paint = rng.uniform(170, 240) * np.array([1, 1, rng.uniform(0.9, 1.0)])
        self.wear = rng.uniform(0.05, 0.5)
        self.slab = rng.choice([0.5, 0.75, 1.0, 2.0])
        self.joint = rng.uniform(0.55, 0.85)
        self.kerb = np.array([176, 174, 168]) * rng.uniform(0.75, 1.1)
        self.verge = (
            float(rng.uniform(0.7, 1.3))
            if rng.random() < 0.6 and scene.layout.right_walk - scene.layout.right_kerb > 2.6
            else 0.0
        )
        self.patch = rng.uniform(0.1, 0.5)
        self.coarse = rng.uniform(0.2, 0.7)
        self.patches = np.where(rng.random((192, 16)) < 0.2, rng.uniform(0.78, 1.16, (192, 16)), 1.0).astype(
            np.float32
        )
        self.solid_edge = bool(rng.random() < 0.5)

    def lots(self, z: float) -> tuple[int, np.ndarray, np.ndarray]:
        """First lot, and the kinds from there on, left and right."""
        first = math.floor((z - 8) / LOT)
        count = math.ceil(AHEAD / LOT) + 40
        kinds = [np.array([self.scene.lot_kind(side, first + k) for k in range(count)]) for side in (-1, 1)]
        return first, kinds[0], kinds[1]

    def label(self, x: np.ndarray, z: np.ndarray, z0: float) -> np.ndarray:
        """Train ids at world (x, z0 + z): ROAD, SIDEWALK or TERRAIN."""
        layout = self.scene.layout
        first, left, right = self.lots(z0)
        along = z + np.float32(z0 - first * LOT)
        lot = np.clip((along * np.float32(1 / LOT)).astype(np.int32), 0, len(left) - 1)
        behind_left = np.where(left == HOUSES, SIDEWALK, TERRAIN).astype(np.uint8)
        behind_right = np.where(right == HOUSES, SIDEWALK, TERRAIN).astype(np.uint8)
        cross = right == CROSSING
        behind_left[cross] = behind_right[cross] = SIDEWALK
        out = np.full(x.shape, SIDEWALK, dtype=np.uint8)
        off = x > layout.right_walk
        out[off] = behind_right[lot[off]]
        off = x < layout.left_walk
        out[off] = behind_left[lot[off]]
        crossing = cross[lot]
        if self.verge:
            for a, b in (
                (layout.right_kerb + 0.16, layout.right_kerb + self.verge),
                (layout.left_kerb - self.verge, layout.left_kerb - 0.16),
            ):
                out[(x > a) & (x < b) & ~crossing] = TERRAIN
        on_road = (x > layout.left_kerb) & (x < layout.right_kerb)
        out[on_road] = ROAD
        if layout.grass_track:
            out[on_road & (x < np.float32(layout.track_edge)) & ~crossing] = TERRAIN
        within = along - lot * np.float32(LOT)
        out[crossing & (within > 2.5) & (within < 13.5)] = ROAD
        return out

    def colour(self, x, z, z0: float, label, across, along) -> np.ndarray:
        """Unlit RGB (M, 3) float32 at world (x, z0 + z); across, along: metres that one pixel covers."""
        layout, atlas = self.scene.layout, self.atlas
        f = np.float32
        z = z + f(z0 % _PERIOD)
        cover = np.sqrt(across * along)
        grain = atlas.sample_grey(tx.GRAIN, x * f(0.5), z * f(0.5), cover * f(0.5))
        jitter = (grain - 1) * f(0.02)  # hides the coarse texels of the broad stains
        broad = atlas.sample_grey(tx.GRASS, x * f(1 / 24) + jitter, z * f(1 / 24) + jitter, cover * f(1 / 24))
        paved, green = label == SIDEWALK, label == TERRAIN
        tone = 1 + (grain - 1) * f(self.coarse) + (broad - 1) * f(self.patch)
        tracks = 1 - f(0.06) * np.exp(-((np.abs(np.abs(x) - f(0.75))) ** 2) * f(9))
        out = np.empty((len(x), 3), dtype=np.float32)
        base = np.array([self.asphalt, self.paving, self.grass], dtype=np.float32)
        index = paved.astype(np.int8) + 2 * green.astype(np.int8)
        repaired = self.patches[
            np.mod(z * f(1 / 6), 192).astype(np.int32), np.clip(x * f(0.6) + 8, 0, 15).astype(np.int32)
        ]
        tone = np.where(label == ROAD, tone * tracks * repaired, tone)
        k = np.flatnonzero(paved)
        if len(k):
            slab = f(self.slab)
            u, v = x[k] / slab, z[k] / slab
            row = np.floor(v)
            u = u + f(0.5) * (row % 2)
            edge_u, edge_v = np.abs(u - np.rint(u)) * slab, np.abs(v - np.rint(v)) * slab
            near_u = np.clip(f(0.012) / (across[k] + f(0.02)), 0, 1) * (
                edge_u < np.maximum(f(0.018), across[k] * f(0.6))
            )
            near_v = np.clip(f(0.012) / (along[k] + f(0.02)), 0, 1) * (
                edge_v < np.maximum(f(0.018), along[k] * f(0.6))
            )
            lines = np.maximum(near_u, near_v)
            hashed = np.sin(np.floor(u) * f(12.9898) + row * f(78.233)) * f(43758.547)
            tone[k] *= (1 - f(1 - self.joint) * np.minimum(lines * 2, 1)) * (
                1 + f(0.10) * (hashed - np.floor(hashed) - f(0.5))
            )
        k = np.flatnonzero(green)
        if len(k):
            leaf = atlas.sample_grey(tx.GRASS, x[k] * f(0.6), z[k] * f(0.6), cover[k] * f(0.6))
            tone[k] = leaf * (f(0.4) + f(0.6) * broad[k])
        out = base[index] * tone[:, None]
        k = np.flatnonzero(label == ROAD)
        self._markings(out, k, x[k], z[k], across[k], along[k], grain[k])
        for kerb, outward in ((layout.right_kerb, 1), (layout.left_kerb, -1)):
            m = np.flatnonzero(np.abs(x - f(kerb)) < f(0.3) + across)
            d, wide = (x[m] - f(kerb)) * outward, across[m]
            stone = _band(d, 0.0, 0.15, wide) * paved[m]
            gutter = _band(d, -0.12, 0.0, wide) * (label[m] == ROAD)
            part = out[m]
            part += stone[:, None] * (self.kerb.astype(np.float32) * tone[m, None] - part)
            out[m] = part * (1 - f(0.45) * gutter)[:, None]
        return out

    def _markings(self, out, k, x, z, across, along, grain) -> None:
        """Paints lane lines, zebras, stop lines and rails on the road points k (x, z, ... are theirs)."""
        layout, f = self.scene.layout, np.float32
        white = np.zeros(len(x), dtype=np.float32)
        length = f(DECK * LOT)
        there = np.mod(z - f(layout.crossing * LOT), length)  # metres beyond the last crossing began

        def near(low: float, high: float) -> np.ndarray:
            return np.flatnonzero((x > f(low) - across) & (x < f(high) + across))

        def add(m, amount) -> None:
            white[m] = np.maximum(white[m], amount)

        lane = layout.lane
        dashed = -3 * lane if not layout.own_track else None
        lines = [(-lane, (9, 1.0, 4.5)), (lane + 0.05, None if self.solid_edge else (2, 0.4, 1.4))]
        lines.append((-3 * lane, (2, 0.4, 1.4) if dashed else None))
        for at, pattern in lines:
            m = near(at - 0.07, at + 0.07)
            amount = _band(x[m], at - 0.07, at + 0.07, across[m])
            amount *= (there[m] > LOT + 5) & (there[m] < length - 5.5)
            if pattern:
                amount *= _dashes(z[m], *pattern, along[m])
            add(m, amount)
        if layout.parking:
            m = near(layout.parking_x - 1.1, layout.right_kerb)
            open_road = (there[m] > LOT + 5) & (there[m] < length - 5.5)
            add(
                m,
                _dashes(z[m], 6, 0.0, 0.12, along[m])
                * _band(x[m], layout.parking_x - 1.1, layout.right_kerb, across[m])
                * open_road,
            )
        m = np.flatnonzero((there > length - f(6) - along) | ((there > LOT) & (there < LOT + f(5))))
        on = np.maximum(
            _band(there[m], length - 4.0, length - 0.9, along[m]),
            _band(there[m], LOT + 0.9, LOT + 4.0, along[m]),
        )
        add(m, on * _dashes(x[m], 1, 0.0, 0.5, across[m]))
        add(m, _band(there[m], length - 5.4, length - 5.0, along[m]) * _band(x[m], -lane, lane, across[m]))
        m = np.flatnonzero(white > 0)
        white[m] *= np.clip(1 - f(self.wear) * np.abs(grain[m] - 1) * 6, 0.25, 1) * f(0.9)
        out[k[m]] += white[m, None] * (self.paint.astype(np.float32) - out[k[m]])
        for at in (layout.track_x - 0.71, layout.track_x + 0.71):
            m = near(at - 0.05, at + 0.05)
            out[k[m]] *= (1 - f(0.55) * _band(x[m], at - 0.05, at + 0.05, across[m]))[:, None]


def _dashes(value, period: float, low: float, high: float, width) -> np.ndarray:
    """A repeated `_band`; where a pixel covers a whole period, its mean."""
    f = np.float32
    blur = np.clip(width * f(2 / period) - f(1), 0, 1)
    sharp = _band(np.mod(value, f(period)), low, high, width)
    return sharp * (1 - blur) + f((high - low) / period) * blur


def _band(value, low: float, high: float, width) -> np.ndarray:
    """How much of a pixel of `width` around value lies in [low, high], 0..1."""
    f = np.float32
    soft = np.maximum(width, f(1e-4))
    return np.clip((value - f(low)) / soft + f(0.5), 0, 1) * np.clip((f(high) - value) / soft + f(0.5), 0, 1)


def shadow_maps(
    objects: list[Placed], view: View, sun: np.ndarray, casts: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Light that reaches the ground, (H, W) uint8 255 = all of it: from the sky (contact shadows), from the sun."""
    contact = np.full((view.height, view.width), 255, dtype=np.uint8)
    sunlit = contact.copy()
    drift = -sun[[0, 2]] / sun[1]
    ring = np.array([(math.cos(a), math.sin(a)) for a in np.arange(10) * math.pi / 5])

    def fill(target, ground, value) -> None:
        world = np.column_stack([ground[:, 0], np.zeros(len(ground)), ground[:, 1]]) - view.position
        points = np.einsum("ij,nj->ni", view.rotation, world)
        if points[:, 2].max() < NEAR:
            return
        if points[:, 2].min() < NEAR:
            points = _clip_near(points)
        at = points[:, :2] / points[:, 2:] * (view.fx, view.fy) + (view.cx, view.cy)
        cv2.fillPoly(target, [np.rint(np.clip(at, -2e4, 2e4) * 16).astype(np.int32)], value, cv2.LINE_8, 4)

    for o in objects:
        x0, x1, z0, z1 = o.footprint()
        height = o.mesh.high[1]
        if z0 - view.position[2] > (90 if o.solid else 45):
            continue
        if o.solid:
            corners = np.array([(x0, z0), (x1, z0), (x1, z1), (x0, z1)])
            if x1 - x0 < 4:
                middle = corners.mean(axis=0)
                fill(contact, middle + (corners - middle) * (1.12, 1.06), 150)
                fill(contact, middle + (corners - middle) * (0.98, 0.97), 80)
            if casts:
                both = np.concatenate([corners, corners + drift * height * 0.92]).astype(np.float32)
                fill(sunlit, cv2.convexHull(both)[:, 0].astype(np.float64), 0)
        elif o.thin and o.thin < 0.5:
            spread = 0.35 if o.instance or height > 4 else 0.18
            fill(contact, np.array([o.x, o.z]) + ring * (spread, spread * 0.7), 120)
            if casts:
                wide = 0.05 if o.instance == 0 else 0.2
                foot, top = np.array([o.x, o.z]), np.array([o.x, o.z]) + drift * height * 0.95
                normal = np.array([-drift[1], drift[0]]) / (np.hypot(*drift) + 1e-9) * wide
                fill(sunlit, np.array([foot - normal, foot + normal, top + normal, top - normal]), 0)
                if o.mesh.label[-1] == 8 and height > 3:
                    crown = np.array([o.x, o.z]) + drift * height * 0.62
                    fill(sunlit, crown + ring * (height * 0.28, height * 0.28 + abs(drift[1]) * 0.2), 60)
    return cv2.GaussianBlur(contact, (0, 0), view.width / 400), cv2.GaussianBlur(
        sunlit, (0, 0), view.width / 700
    )


class Shader:
    """Colours for samples of a rasterised view."""

    def __init__(self, scene: Scene, weather: Weather, ground: Ground, atlas: tx.Atlas):
        self.scene, self.weather, self.ground, self.atlas = scene, weather, ground, atlas

    def geometry(self, numbers, u, v, view: View, faces: Faces) -> tuple[np.ndarray, np.ndarray]:
        """Depth (M,) float32 (inf in the sky) and train ids (M,) uint8 of samples at pixels (u, v)."""
        z = np.full(numbers.shape, np.inf, dtype=np.float32)
        label = np.full(numbers.shape, SKY_LABEL, dtype=np.uint8)
        xn, yn = _normalised(u, v, view)
        k = np.flatnonzero(numbers == GROUND)
        depth, x, ahead = _on_ground(xn[k], yn[k], view)
        z[k] = depth
        label[k] = self.ground.label(x, ahead, view.position[2])
        k = np.flatnonzero(numbers >= FIRST)
        face = numbers[k] - FIRST
        z[k] = _face_depth(face, xn[k], yn[k], faces)
        label[k] = faces.label[face]
        return z, label

    def colours(
        self, numbers, u, v, z, label, view: View, faces: Faces, contact, sunlit, time: float
    ) -> np.ndarray:
        """RGB (M, 3) float32 before the camera's response, for samples whose geometry is known."""
        weather = self.weather
        out = np.empty((len(numbers), 3), dtype=np.float32)
        xn, yn = _normalised(u, v, view)
        k = np.flatnonzero(numbers == SKY)
        out[k] = self._sky(xn[k], yn[k], view, time)

        k = np.flatnonzero(numbers == GROUND)
        _, x, ahead = _on_ground(xn[k], yn[k], view)
        depth = z[k]
        across, along = depth / np.float32(view.fx), depth * depth / np.float32(view.fy * view.position[1])
        albedo = self.ground.colour(x, ahead, view.position[2], label[k], across, along)
        row, column = np.rint(v[k]).astype(np.int32), np.rint(u[k]).astype(np.int32)
        np.clip(row, 0, view.height - 1, out=row)
        np.clip(column, 0, view.width - 1, out=column)
        sky = contact[row, column].astype(np.float32) * np.float32(1 / 255)
        sun = sunlit[row, column].astype(np.float32) * np.float32(1 / 255) * sky
        light = sky[:, None] * weather.ambient.astype(np.float32) + sun[:, None] * (
            weather.sunlight * max(weather.sun[1], 0.35) * 1.3
        ).astype(np.float32)
        out[k] = albedo * light

        k = np.flatnonzero(numbers >= FIRST)
        face = numbers[k] - FIRST
        toward = np.maximum(faces.normal @ weather.sun.astype(np.float32), 0)
        up = faces.normal[:, 1]
        light = (0.80 + 0.2 * up)[:, None] * weather.ambient.astype(np.float32) + (0.10 + 0.9 * toward)[
            :, None
        ] * weather.sunlight.astype(np.float32)
        light[faces.glow] = 1.0
        tint = (faces.colour * light).astype(np.float32)
        colour = tint[face]
        textured = np.flatnonzero(faces.layer[face] != PLAIN)
        kt = k[textured]
        colour[textured] *= self._texture(face[textured], xn[kt], yn[kt], z[kt], view, faces)
        out[k] = colour

        fade = np.exp(z * np.float32(-1 / weather.haze))
        fade[numbers == SKY] = 1
        fade[k[faces.glow[face]]] = 1
        haze = (weather.horizon * 0.97).astype(np.float32)
        out -= haze
        out *= fade[:, None]
        out += haze
        return out

    def _texture(self, face, xn, yn, z, view: View, faces: Faces) -> np.ndarray:
        f = np.float32
        rows_s, rows_t, plane = faces.s[face], faces.t[face], faces.inverse_depth[face]
        ds = rows_s[:, 0] * xn + rows_s[:, 1] * yn + rows_s[:, 2]
        dt = rows_t[:, 0] * xn + rows_t[:, 1] * yn + rows_t[:, 2]
        zz = -z * z
        zu, zv = zz * plane[:, 0] * f(1 / view.fx), zz * plane[:, 1] * f(1 / view.fy)
        zx, zy = z * f(1 / view.fx), z * f(1 / view.fy)
        step_s = np.maximum(np.abs(rows_s[:, 0] * zx + ds * zu), np.abs(rows_s[:, 1] * zy + ds * zv))
        step_t = np.maximum(np.abs(rows_t[:, 0] * zx + dt * zu), np.abs(rows_t[:, 1] * zy + dt * zv))
        footprint = np.sqrt(step_s * step_t) * f(0.5) + f(0.5) * np.maximum(step_s, step_t)
        texels = self.atlas.sample(faces.layer[face], z * ds + rows_s[:, 3], z * dt + rows_t[:, 3], footprint)
        return texels.astype(np.float32) * f(1 / 128)

    def _sky(self, xn, yn, view: View, time: float) -> np.ndarray:
        weather, f = self.weather, np.float32
        ray = _world_ray(xn, yn, view)
        rise = np.maximum(ray[1] / np.sqrt(ray[0] ** 2 + ray[1] ** 2 + ray[2] ** 2), f(0.004))
        mix = np.clip(rise * f(1.9), 0, 1)[:, None] ** f(0.7)
        colour = weather.horizon.astype(np.float32) * (1 - mix) + weather.zenith.astype(np.float32) * mix
        scale = f(70) / np.maximum(ray[1], f(0.015))
        u = (ray[0] * scale + f(time * 3.0)).astype(np.int32) & 511
        v = (ray[2] * scale + f(time * 1.0)).astype(np.int32) & 511
        opacity = weather.clouds[v, u] * np.clip(rise * f(9), 0.0, 1)
        shade = f(0.84) + f(0.16) * opacity
        return colour + opacity[:, None] * (weather.cloud.astype(np.float32) * shade[:, None] - colour)


def _normalised(u, v, view: View):
    f = np.float32
    return (u - f(view.cx)) * f(1 / view.fx), (v - f(view.cy)) * f(1 / view.fy)


def _world_ray(xn, yn, view: View):
    r = view.rotation.astype(np.float32)
    return [r[0, k] * xn + r[1, k] * yn + r[2, k] for k in range(3)]


def _on_ground(xn, yn, view: View):
    """Depth, world x and metres ahead of the camera where rays meet the plane y = 0."""
    ray = _world_ray(xn, yn, view)
    depth = np.float32(view.position[1]) / np.maximum(-ray[1], np.float32(1e-5))
    return depth, ray[0] * depth + np.float32(view.position[0]), ray[2] * depth


def _face_depth(face, xn, yn, faces: Faces) -> np.ndarray:
    """Depth of the face's plane, kept within the depths of its vertices (an edge sample may lie just outside)."""
    row = faces.inverse_depth[face]
    inverse = row[:, 0] * xn + row[:, 1] * yn + row[:, 2]
    low, high = faces.near[face], faces.far[face]
    return np.clip(1 / np.maximum(inverse, 1 / high), low, high)
