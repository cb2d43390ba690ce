"""The simulated street: an endless drive, with exact ground truth for every frame."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from m2f_ros.errors import SourceError
from m2f_ros.frame.calibration import Calibration
from m2f_ros.street import textures as tx
from m2f_ros.street.ground import Ground
from m2f_ros.street.lidar import Lidar, Scan
from m2f_ros.street.pose import Pose, pose_of, world_of
from m2f_ros.street.raster import FIRST, Faces, View, rasterise
from m2f_ros.street.scene import Scene
from m2f_ros.street.shade import Shader, Weather, shadow_maps

MIN_SIDE, MAX_SIDE = 16, 8192
_BLOCK = 32768  # samples shaded at once, to fit into a core's cache


@dataclass(frozen=True, eq=False)
class StreetFrame:
    """One picture and its ground truth.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        label: (H, W) uint8, Cityscapes train ids 0..18.
        instance: (H, W) uint16 id, 0 outside things; an object keeps its id while it is in view.
        depth: (H, W) float32, metres along the optical axis, inf in the sky.
    """

    image: np.ndarray
    label: np.ndarray
    instance: np.ndarray
    depth: np.ndarray


class Street:
    """A seeded street. `frame(i)` depends on seed, size, rate and i alone, not on the order of access."""

    def __init__(self, seed: int = 0, width: int = 640, height: int = 480, rate: float = 10.0):
        """width, height: pixels, 16 to 8192; rate: frames a second. SourceError for impossible values."""
        for name, value in (("width", width), ("height", height)):
            if not _whole(value) or not MIN_SIDE <= value <= MAX_SIDE:
                raise SourceError(
                    f"street: {name} {value!r} is not possible; give a whole number, {MIN_SIDE} to {MAX_SIDE}"
                )
        if not _whole(seed) or seed < 0:
            raise SourceError(f"street: seed {seed!r} is not possible; give a whole number from 0")
        if not (isinstance(rate, (int, float)) and math.isfinite(rate) and rate > 0):
            raise SourceError(f"street: rate {rate!r} is not possible; give frames a second above 0")
        self.seed, self.width, self.height, self.rate = int(seed), int(width), int(height), float(rate)
        rng = self._rng(0)
        fov = math.radians(rng.uniform(58, 70))
        focal = self.width / 2 / math.tan(fov / 2)
        centre = (self.width - 1) / 2, (self.height - 1) / 2
        self.camera = Calibration.pinhole(self.width, self.height, focal, focal, *centre)
        self._eye = rng.uniform(1.25, 1.65)
        self._pitch = math.radians(rng.uniform(-3.0, 2.5))
        self._yaw = math.radians(rng.uniform(-2.5, 2.5))
        self._sway = rng.uniform(0, 2 * math.pi, 3)
        self._scene = Scene(self.seed)
        atlas = tx.make_atlas(self._rng(1))
        self._weather = Weather(self._rng(2))
        self._shader = Shader(self._scene, self._weather, Ground(self._rng(3), self._scene, atlas), atlas)
        self._grain = (
            self._rng(4).normal(0, self._weather.noise, (self.height + 32, self.width + 32, 3)).astype(np.float32)
        )
        y, x = np.mgrid[-1 : 1 : self.height * 1j, -1 : 1 : self.width * 1j]
        self._gain = (self._weather.exposure * (1 - self._weather.vignette * (x**2 + y**2) / 2)).astype(np.float32)
        self._gain = cv2.merge([self._gain] * 3)
        v, u = np.mgrid[0 : self.height, 0 : self.width].astype(np.float32)
        self._u, self._v = u.ravel(), v.ravel()

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([self.seed, 77, *key]))

    @property
    def world(self) -> np.ndarray:
        """(3, 3), p_map = world @ p_street: from the street's own world to right-handed axes, see `Pose`."""
        return world_of(self._scene.layout.mirrored)

    def view(self, index: int) -> View:
        """Return the camera pose of frame `index` in the world (x right, y up, z along the road; metres)."""
        if not _whole(index) or index < 0:
            raise SourceError(f"street: frame {index!r} does not exist; frames are numbered from 0")
        return self._view(index / self.rate)

    def pose(self, index: int) -> Pose:
        """Return where camera, lidar and vehicle of frame `index` are, in right-handed frames. Errors as `view`."""
        view = self.view(index)
        heading = self._turn(index / self.rate)
        return pose_of(self.world, view.rotation, view.position, heading, self._eye)

    def _turn(self, time: float) -> float:
        """Return the heading of the vehicle, radians to the right of the road in the street's world."""
        return 0.012 * math.sin(0.31 * time + self._sway[1])

    def _view(self, time: float) -> View:
        a, _, c = self._sway
        pitch = self._pitch + 0.0035 * math.sin(2.1 * time + a)
        yaw = self._yaw + self._turn(time)
        position = np.array(
            [
                0.22 * math.sin(0.23 * time + c),
                self._eye + 0.012 * math.sin(3.3 * time + a),
                self._scene.layout.speed * time,
            ]
        )
        right = np.array([math.cos(yaw), 0.0, -math.sin(yaw)])
        forward = np.array([math.sin(yaw) * math.cos(pitch), -math.sin(pitch), math.cos(yaw) * math.cos(pitch)])
        down = np.cross(right, forward)  # x right, y up, z ahead is a left-handed world
        if self._scene.layout.mirrored:  # traffic on the left: the same world seen in a mirror
            right = -right
        fx, _, cx, _, fy, cy, *_ = self.camera.k
        return View(self.width, self.height, fx, fy, cx, cy, np.array([right, down, forward]), position)

    def scan(self, index: int, lidar: Lidar) -> Scan:
        """Cast the rays of a lidar, whose pose `pose` has, at the time of frame `index`. Errors as `view`."""
        view = self.view(index)
        time = index / self.rate
        objects = self._scene.objects(view.position[2], time)
        place = self.world.T @ self.pose(index).map_from_lidar[:3]
        return lidar.scan(objects, self._shader, place[:, :3], place[:, 3])

    def frame(self, index: int) -> StreetFrame:
        """Render frame `index` (from 0) at time index / rate. Raises SourceError for a negative or fractional index."""
        view = self.view(index)
        time = index / self.rate
        objects = self._scene.objects(view.position[2], time)
        numbers, faces = rasterise(objects, view)
        shape = self.height, self.width
        centre = np.ascontiguousarray(numbers[::2, ::2]).ravel()
        depth, label = self._shader.geometry(centre, self._u, self._v, view, faces)
        instance = np.zeros(len(centre), dtype=np.uint16)
        on_face = np.flatnonzero(centre >= FIRST)
        instance[on_face] = faces.instance[centre[on_face] - FIRST]
        image = self._develop(self._smooth(numbers, centre, depth, label, objects, view, faces, time), index)
        return StreetFrame(image, label.reshape(shape), instance.reshape(shape), depth.reshape(shape))

    def _smooth(self, numbers, centre, depth, label, objects, view: View, faces: Faces, time: float) -> np.ndarray:
        """Return colours (H, W, 3) float32, by one sample a pixel, or four if a pixel has several faces."""
        weather = self._weather
        contact, sunlit = shadow_maps(objects, view, weather.sun, weather.casts)
        quarters = [np.ascontiguousarray(numbers[j::2, i::2]).ravel() for j in (0, 1) for i in (0, 1)]
        mixed = (quarters[0] != quarters[1]) | (quarters[0] != quarters[2]) | (quarters[0] != quarters[3])
        edge = np.flatnonzero(mixed)
        all_numbers, all_u, all_v, all_z, all_label = [centre], [self._u], [self._v], [depth], [label]
        for quarter, (du, dv) in zip(
            quarters, ((-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25)), strict=True
        ):
            n = quarter[edge]
            u, v = self._u[edge] + np.float32(du), self._v[edge] + np.float32(dv)
            z, kind = self._shader.geometry(n, u, v, view, faces)
            for part, values in zip((all_numbers, all_u, all_v, all_z, all_label), (n, u, v, z, kind), strict=True):
                part.append(values)
        samples = [np.concatenate(part) for part in (all_numbers, all_u, all_v, all_z, all_label)]
        colours = np.empty((3, len(samples[0])), dtype=np.float32)
        for start in range(0, colours.shape[1], _BLOCK):
            some = slice(start, start + _BLOCK)
            n, u, v, z, kind = (values[some] for values in samples)
            colours[:, some] = self._shader.colours(n, u, v, z, kind, view, faces, contact, sunlit, time)
        image = colours[:, : len(centre)]
        image[:, edge] = colours[:, len(centre) :].reshape(3, 4, len(edge)).mean(axis=1)
        return cv2.merge([channel.reshape(self.height, self.width) for channel in image])

    def _develop(self, light: np.ndarray, index: int) -> np.ndarray:
        """Apply the camera's vignette, exposure, lens blur, sensor noise and response curve. Return uint8 RGB."""
        weather = self._weather
        light = cv2.GaussianBlur(light * self._gain, (3, 3), weather.blur)
        y, x = self._rng(5, int(index)).integers(0, 32, 2)
        light += self._grain[y : y + self.height, x : x + self.width]
        return cv2.LUT(cv2.convertScaleAbs(np.maximum(light, 0, out=light)), weather.response[None])


def _whole(value) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
