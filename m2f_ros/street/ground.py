"""The ground of the simulated street: its class, markings and colour, point by point."""

from __future__ import annotations

import math

import numpy as np

from m2f_ros.street import textures as tx
from m2f_ros.street.layout import AHEAD, CROSSING, DECK, HOUSES, LOT
from m2f_ros.street.scene import Scene

ROAD, SIDEWALK, TERRAIN = 0, 1, 9
_PERIOD = 1152.0  # metres; period of the patterns on the ground, which keeps float32 coordinates small


class Ground:
    """The plane y = 0: its materials and markings, point by point."""

    def __init__(self, rng: np.random.Generator, scene: Scene, atlas: tx.Atlas):
        self.scene, self.atlas = scene, atlas
        grey = rng.uniform(58, 112)
        self.asphalt = np.array([grey, grey * rng.uniform(0.98, 1.01), grey * rng.uniform(0.97, 1.06)])
        base = [(168, 164, 156), (142, 140, 138), (176, 156, 140), (124, 122, 120), (160, 140, 126), (190, 186, 176)]
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
        self.patches = np.where(rng.random((192, 16)) < 0.2, rng.uniform(0.78, 1.16, (192, 16)), 1.0).astype(np.float32)
        self.slabs = rng.uniform(0.95, 1.05, (64, 64)).astype(np.float32)
        self.solid_edge = bool(rng.random() < 0.5)

    def lots(self, z: float) -> tuple[int, np.ndarray, np.ndarray]:
        """Return the first lot, and the kinds of lots from there on, left and right."""
        first = math.floor((z - 8) / LOT)
        count = math.ceil(AHEAD / LOT) + 40
        kinds = [np.array([self.scene.lot_kind(side, first + k) for k in range(count)]) for side in (-1, 1)]
        return first, kinds[0], kinds[1]

    def label(self, x: np.ndarray, z: np.ndarray, z0: float) -> np.ndarray:
        """Return train ids at world (x, z0 + z): ROAD, SIDEWALK or TERRAIN."""
        layout, f = self.scene.layout, np.float32
        first, left, right = self.lots(z0)
        along = z + np.float32(z0 - first * LOT)
        lot = np.clip((along * np.float32(1 / LOT)).astype(np.int32), 0, len(left) - 1)
        cross = right == CROSSING
        crossing = cross[lot]
        out = np.full(x.shape, SIDEWALK, dtype=np.uint8)
        # Where no house stands at the pavement, grass begins a little before the fence.
        for kinds, beyond in ((right, x - f(layout.right_walk)), (left, f(layout.left_walk) - x)):
            out[(beyond > f(-0.9)) & ((kinds != HOUSES) & ~cross)[lot]] = TERRAIN
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
        """Return unlit RGB (3, M) float32 at world (x, z0 + z). across, along: metres a pixel."""
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
        base = np.array([self.asphalt, self.paving, self.grass], dtype=np.float32).T
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
            near_v = np.clip(f(0.012) / (along[k] + f(0.02)), 0, 1) * (edge_v < np.maximum(f(0.018), along[k] * f(0.6)))
            lines = np.maximum(near_u, near_v)
            own = self.slabs[row.astype(np.int32) & 63, np.floor(u).astype(np.int32) & 63]
            tone[k] *= (1 - f(1 - self.joint) * np.minimum(lines * 2, 1)) * own
        k = np.flatnonzero(green)
        if len(k):
            leaf = atlas.sample_grey(tx.GRASS, x[k] * f(0.6), z[k] * f(0.6), cover[k] * f(0.6))
            tone[k] = leaf * (f(0.4) + f(0.6) * broad[k])
        out = np.take(base, index, axis=1) * tone
        k = np.flatnonzero(label == ROAD)
        self._markings(out, k, x[k], z[k], across[k], along[k], grain[k])
        for kerb, outward in ((layout.right_kerb, 1), (layout.left_kerb, -1)):
            m = np.flatnonzero(np.abs(x - f(kerb)) < f(0.3) + across)
            d, wide = (x[m] - f(kerb)) * outward, across[m]
            stone = _band(d, 0.0, 0.15, wide) * paved[m]
            gutter = _band(d, -0.12, 0.0, wide) * (label[m] == ROAD)
            part = out[:, m]
            part += stone * (self.kerb.astype(np.float32)[:, None] * tone[m] - part)
            out[:, m] = part * (1 - f(0.45) * gutter)
        return out

    def _markings(self, out, k, x, z, across, along, grain) -> None:
        """Paint lane lines, zebras, stop lines and rails on the road points k, at x, z."""
        layout, f = self.scene.layout, np.float32
        white = np.zeros(len(x), dtype=np.float32)
        length = f(DECK * LOT)
        there = np.mod(z - f(layout.crossing * LOT), length)  # metres beyond the last crossing began

        def near(low: float, high: float) -> np.ndarray:
            return np.flatnonzero((x > f(low) - across) & (x < f(high) + across))

        def add(m, amount) -> None:
            white[m] = np.maximum(white[m], amount)

        lane = layout.lane
        lines = [(-lane, (9, 1.0, 4.5)), (lane + 0.05, None if self.solid_edge else (2, 0.4, 1.4))]
        lines.append((-3 * lane, None if layout.own_track else (2, 0.4, 1.4)))
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
            _band(there[m], length - 4.0, length - 0.9, along[m]), _band(there[m], LOT + 0.9, LOT + 4.0, along[m])
        )
        add(m, on * _dashes(x[m], 1, 0.0, 0.5, across[m]))
        add(m, _band(there[m], length - 5.4, length - 5.0, along[m]) * _band(x[m], -lane, lane, across[m]))
        m = np.flatnonzero(white > 0)
        white[m] *= np.clip(1 - f(self.wear) * np.abs(grain[m] - 1) * 6, 0.25, 1) * f(0.9)
        out[:, k[m]] += white[m] * (self.paint.astype(np.float32)[:, None] - out[:, k[m]])
        for at in (layout.track_x - 0.71, layout.track_x + 0.71):
            m = near(at - 0.05, at + 0.05)
            out[:, k[m]] *= 1 - f(0.55) * _band(x[m], at - 0.05, at + 0.05, across[m])


def _dashes(value, period: float, low: float, high: float, width) -> np.ndarray:
    """Return a periodic `_band`, or its mean if a pixel covers a whole period."""
    f = np.float32
    blur = np.clip(width * f(2 / period) - f(1), 0, 1)
    sharp = _band(np.mod(value, f(period)), low, high, width)
    return sharp * (1 - blur) + f((high - low) / period) * blur


def _band(value, low: float | np.floating, high: float | np.floating, width) -> np.ndarray:
    """Return the share of a pixel, of `width` around value, inside [low, high], 0..1."""
    f = np.float32
    soft = np.maximum(width, f(1e-4))
    return np.clip((value - f(low)) / soft + f(0.5), 0, 1) * np.clip((f(high) - value) / soft + f(0.5), 0, 1)
