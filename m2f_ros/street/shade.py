"""Light, weather and surfaces: from face numbers to colours."""

from __future__ import annotations

import math

import cv2
import numpy as np

from m2f_ros.street import textures as tx
from m2f_ros.street.ground import Ground
from m2f_ros.street.mesh import PLAIN
from m2f_ros.street.raster import FIRST, GROUND, NEAR, SKY, Faces, Placed, View, clip_near
from m2f_ros.street.scene import Scene

SKY_LABEL = 10


class Weather:
    """Sun, sky, haze and camera response of one street."""

    def __init__(self, rng: np.random.Generator):
        self.cover = float(rng.choice([rng.uniform(0.05, 0.5), rng.uniform(0.5, 0.9), 1.0], p=[0.4, 0.3, 0.3]))
        elevation, azimuth = math.radians(rng.uniform(16, 62)), rng.uniform(0, 2 * math.pi)
        self.sun = np.array(
            [math.cos(elevation) * math.sin(azimuth), math.sin(elevation), math.cos(elevation) * math.cos(azimuth)]
        )
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
        self.exposure = min(float(np.exp(rng.normal(0.15, 0.2))), 1.35)
        if rng.random() < 0.12:
            self.exposure = max(self.exposure * rng.uniform(0.45, 0.75), 0.58)  # dusk
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


def shadow_maps(objects: list[Placed], view: View, sun: np.ndarray, casts: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the light on the ground from the sky (contact shadows) and the sun, (H, W) uint8, 255 for all light."""
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
            points = clip_near(points)
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
    return cv2.GaussianBlur(contact, (0, 0), view.width / 400), cv2.GaussianBlur(sunlit, (0, 0), view.width / 700)


class Shader:
    """Colours for samples of a rasterised view."""

    def __init__(self, scene: Scene, weather: Weather, ground: Ground, atlas: tx.Atlas):
        self.scene, self.weather, self.ground, self.atlas = scene, weather, ground, atlas

    def geometry(self, numbers, u, v, view: View, faces: Faces) -> tuple[np.ndarray, np.ndarray]:
        """Return depth (M,) float32 (inf in the sky) and train ids (M,) uint8 of samples at pixels (u, v)."""
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

    def colours(self, numbers, u, v, z, label, view: View, faces: Faces, contact, sunlit, time: float) -> np.ndarray:
        """Return RGB (3, M) float32 before the camera's response, for samples with known geometry."""
        weather, f = self.weather, np.float32
        ambient, sunlight = (c.astype(np.float32)[:, None] for c in (weather.ambient, weather.sunlight))
        out = np.empty((3, len(numbers)), dtype=np.float32)
        xn, yn = _normalised(u, v, view)
        k = np.flatnonzero(numbers == SKY)
        _put(out, k, self._sky(xn[k], yn[k], view, time))

        k = np.flatnonzero(numbers == GROUND)
        _, x, ahead = _on_ground(xn[k], yn[k], view)
        depth = z[k]
        across, along = depth / f(view.fx), depth * depth / f(view.fy * view.position[1])
        albedo = self.ground.colour(x, ahead, view.position[2], label[k], across, along)
        row = np.clip(np.rint(v[k]).astype(np.int32), 0, view.height - 1)
        column = np.clip(np.rint(u[k]).astype(np.int32), 0, view.width - 1)
        pixel = row * view.width + column
        sky = contact.ravel().take(pixel) * f(1 / 255)
        sun = sunlit.ravel().take(pixel) * sky * f(1.3 / 255 * max(weather.sun[1], 0.35))
        _put(out, k, albedo * (ambient * sky + sunlight * sun))

        k = np.flatnonzero(numbers >= FIRST)
        face = numbers[k] - FIRST
        toward = np.maximum(faces.normal @ weather.sun.astype(np.float32), 0)
        light = ambient * (f(0.8) + f(0.2) * faces.normal[:, 1]) + sunlight * (f(0.1) + f(0.9) * toward)
        light[:, faces.glow] = 1.0
        colour = np.take(faces.colour.T * light, face, axis=1)
        textured = np.flatnonzero(faces.layer[face] != PLAIN)
        kt = k[textured]
        texels = self._texture(face[textured], xn[kt], yn[kt], z[kt], view, faces)
        _put(colour, textured, np.take(colour, textured, axis=1) * texels)
        _put(out, k, colour)

        fade = np.exp(z * f(-1 / weather.haze))
        fade[numbers == SKY] = 1
        fade[k[faces.glow[face]]] = 1
        haze = (weather.horizon * 0.97).astype(np.float32)[:, None]
        out -= haze
        out *= fade
        out += haze
        return out

    def _texture(self, face, xn, yn, z, view: View, faces: Faces) -> np.ndarray:
        f = np.float32
        rows_s, rows_t, plane = (rows.take(face, axis=0) for rows in (faces.s, faces.t, faces.inverse_depth))
        ds = rows_s[:, 0] * xn + rows_s[:, 1] * yn + rows_s[:, 2]
        dt = rows_t[:, 0] * xn + rows_t[:, 1] * yn + rows_t[:, 2]
        zz = -z * z
        zu, zv = zz * plane[:, 0] * f(1 / view.fx), zz * plane[:, 1] * f(1 / view.fy)
        zx, zy = z * f(1 / view.fx), z * f(1 / view.fy)
        step_s = np.maximum(np.abs(rows_s[:, 0] * zx + ds * zu), np.abs(rows_s[:, 1] * zy + ds * zv))
        step_t = np.maximum(np.abs(rows_t[:, 0] * zx + dt * zu), np.abs(rows_t[:, 1] * zy + dt * zv))
        footprint = np.sqrt(step_s * step_t) * f(0.5) + f(0.5) * np.maximum(step_s, step_t)
        texels = self.atlas.sample(faces.layer[face], z * ds + rows_s[:, 3], z * dt + rows_t[:, 3], footprint)
        return np.multiply(texels.T, f(1 / 128), dtype=np.float32)

    def _sky(self, xn, yn, view: View, time: float) -> np.ndarray:
        weather, f = self.weather, np.float32
        ray = _world_ray(xn, yn, view)
        rise = np.maximum(ray[1] / np.sqrt(ray[0] ** 2 + ray[1] ** 2 + ray[2] ** 2), f(0.004))
        mix = np.clip(rise * f(1.9), 0, 1) ** f(0.7)
        horizon, zenith, cloud = (
            c.astype(np.float32)[:, None] for c in (weather.horizon, weather.zenith, weather.cloud)
        )
        colour = horizon + mix * (zenith - horizon)
        scale = f(70) / np.maximum(ray[1], f(0.015))
        u = (ray[0] * scale + f(time * 3.0)).astype(np.int32) & 511
        v = (ray[2] * scale + f(time * 1.0)).astype(np.int32) & 511
        opacity = weather.clouds[v, u] * np.clip(rise * f(9), 0.0, 1)
        shade = f(0.84) + f(0.16) * opacity
        return colour + opacity * (cloud * shade - colour)


def _put(target: np.ndarray, k: np.ndarray, values: np.ndarray) -> None:
    """Set target[:, k] = values channel by channel, which is three times faster."""
    for channel, row in zip(target, values, strict=True):
        channel[k] = row


def _normalised(u, v, view: View):
    f = np.float32
    return (u - f(view.cx)) * f(1 / view.fx), (v - f(view.cy)) * f(1 / view.fy)


def _world_ray(xn, yn, view: View):
    r = view.rotation.astype(np.float32)
    return [r[0, k] * xn + r[1, k] * yn + r[2, k] for k in range(3)]


def _on_ground(xn, yn, view: View):
    """Return depth, world x and metres ahead of the camera at the intersections of rays with the plane y = 0."""
    ray = _world_ray(xn, yn, view)
    depth = np.float32(view.position[1]) / np.maximum(-ray[1], np.float32(1e-5))
    return depth, ray[0] * depth + np.float32(view.position[0]), ray[2] * depth


def _face_depth(face, xn, yn, faces: Faces) -> np.ndarray:
    """Return the depth of the face's plane, clamped to its vertices', since edge samples may lie just outside."""
    row = faces.inverse_depth.take(face, axis=0)
    inverse = row[:, 0] * xn + row[:, 1] * yn + row[:, 2]
    low, high = faces.near[face], faces.far[face]
    return np.clip(1 / np.maximum(inverse, 1 / high), low, high)
