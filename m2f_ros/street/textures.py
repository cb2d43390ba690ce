"""Procedural texture tiles of the simulated street, with mip levels for far surfaces."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np

SIZE = 256
LEVELS = 8

# Layers. Facades carry their own colour; all others are grey around 128 (= 1.0) and tinted by the face.
FACADES, SHOPS = 10, 8
FACADE = 0
SHOP = FACADES
ROOF, BRICK, CONCRETE, LEAVES, HEDGE, PICKET, RAILING, GRAIN, GRASS, STONE = range(SHOP + SHOPS, SHOP + SHOPS + 10)
LAYERS = STONE + 1
SELF_COLOURED = (128.0, 128.0, 128.0)  # tint that shows a facade as it was drawn


def noise(rng: np.random.Generator, size: int, slope: float) -> np.ndarray:
    """Return periodic noise (size, size) float32 with an amplitude spectrum ~ 1/f**slope; mean 0, deviation 1."""
    spectrum = np.fft.rfft2(rng.standard_normal((size, size)))
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    radius = np.hypot(fx, fy)
    radius[0, 0] = 1.0
    field = np.fft.irfft2(spectrum / radius**slope, s=(size, size))
    field -= field.mean()
    return (field / field.std()).astype(np.float32)


class Atlas:
    """All tiles of one street in one flat array; `sample` looks up M points at once."""

    def __init__(self, tiles: np.ndarray):
        """tiles: (LAYERS, SIZE, SIZE, 3) uint8; row 0 is the bottom of the surface."""
        flat, self._base = [], np.zeros(LEVELS, dtype=np.int32)
        total = 0
        level = tiles
        for k in range(LEVELS):
            self._base[k] = total
            flat.append(level.reshape(-1, 3))
            total += flat[-1].shape[0]
            n = level.shape[1]
            wide = level.reshape(level.shape[0], n // 2, 2, n // 2, 2, 3).astype(np.uint16)
            level = ((wide.sum(axis=(2, 4)) + 2) >> 2).astype(np.uint8)
        self._texels = np.concatenate(flat)

    def sample(self, layer, s: np.ndarray, t: np.ndarray, footprint: np.ndarray) -> np.ndarray:
        """Return texels (M, 3) uint8 at tile coordinates s, t (any real). footprint: tiles a pixel."""
        # frexp's exponent is floor(log2) + 1: the level whose texel is about one pixel
        level = np.clip(np.frexp(footprint * (SIZE * 0.9))[1], 0, LEVELS - 1)
        shift = (8 - level).astype(np.int32)
        mask = (1 << shift) - 1
        scale = (mask + 1).astype(np.float32)
        column = np.floor(s * scale).astype(np.int32) & mask
        row = np.floor(t * scale).astype(np.int32) & mask
        index = self._base[level] + (((layer << shift) + row) << shift) + column
        return self._texels.take(index, axis=0)  # far faster than indexing rows

    def sample_grey(self, layer: int, s: np.ndarray, t: np.ndarray, footprint: np.ndarray) -> np.ndarray:
        """Return one channel of `sample` as float32, with mean 1.0."""
        return self.sample(np.int32(layer), s, t, footprint)[:, 0].astype(np.float32) * np.float32(1 / 128)


def _grey(field: np.ndarray) -> np.ndarray:
    return np.repeat(np.clip(field * 128, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def _bricks(rng: np.random.Generator, across: int, up: int, joint: float) -> np.ndarray:
    """Running bond, `across` x `up` bricks a tile, factors around 1."""
    v, u = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) / SIZE
    row = np.floor(v * up).astype(int)
    column_at = u * across + 0.5 * (row % 2)
    column = np.floor(column_at).astype(int) % across
    tone = rng.normal(1.0, 0.09, (up, across)).astype(np.float32)
    out = tone[row, column]
    edge = np.minimum(v * up % 1, (column_at % 1) * up / across * 0.5)
    return np.where(edge < 0.16, joint, out)


WALLS = [
    (196, 178, 150), (214, 204, 184), (172, 118, 92), (150, 92, 72), (186, 160, 120), (224, 220, 210),
    (160, 158, 152), (204, 170, 130), (128, 112, 100), (196, 148, 120), (178, 186, 184), (222, 196, 150),
    (120, 84, 66), (206, 214, 206), (108, 108, 112), (190, 132, 96), (232, 226, 190), (170, 150, 140),
    (164, 178, 196), (206, 160, 150),
]  # fmt: skip
SHOP_COLOURS = [
    (150, 30, 34), (28, 66, 130), (24, 96, 60), (40, 40, 44), (210, 160, 40), (120, 30, 90), (190, 84, 28),
    (230, 230, 224), (60, 110, 130), (96, 66, 44),
]  # fmt: skip


def _rect(tile, x0, x1, y0, y1, colour) -> None:
    """Fill a rectangle in tile fractions, y up."""
    n = tile.shape[0]
    tile[round(y0 * n) : max(round(y1 * n), round(y0 * n) + 1),
         round(x0 * n) : max(round(x1 * n), round(x0 * n) + 1)] = colour  # fmt: skip


def _glass(rng, tile, x0, x1, y0, y1) -> None:
    n = tile.shape[0]
    rows = slice(round(y0 * n), round(y1 * n))
    base = np.array([(44, 52, 62), (30, 34, 40), (70, 84, 98), (96, 110, 124)][rng.integers(4)], float)
    base *= rng.uniform(0.7, 1.25)
    ramp = np.linspace(0.75, 1.35, rows.stop - rows.start)[:, None, None]
    tile[rows, round(x0 * n) : round(x1 * n)] = np.clip(base * ramp, 0, 255)
    if rng.random() < 0.4:  # curtain or blind
        cloth = np.array([(206, 200, 188), (180, 172, 150), (150, 152, 158)][rng.integers(3)]) * rng.uniform(0.6, 1)
        if rng.random() < 0.5:
            _rect(tile, x0, x1, y0 + (y1 - y0) * rng.uniform(0.3, 0.8), y1, cloth)
        else:
            _rect(tile, x0, x0 + (x1 - x0) * 0.25, y0, y1, cloth)
            _rect(tile, x1 - (x1 - x0) * 0.25, x1, y0, y1, cloth)


def _wall_ground(rng: np.random.Generator, colour: np.ndarray) -> np.ndarray:
    stain = 1 + 0.05 * noise(rng, SIZE, 1.3) + 0.02 * noise(rng, SIZE, 0.2)
    style = rng.random()
    if style < 0.4:
        stain = stain * _bricks(rng, 24, 64, rng.uniform(0.78, 1.2))
    elif style < 0.5:
        stain = stain * _bricks(rng, 8, 16, rng.uniform(0.8, 0.92))
    return np.clip(colour * stain[..., None], 0, 255)


def _facade(rng: np.random.Generator) -> np.ndarray:
    """Two bays by two floors of an upper facade."""
    colour = np.array(WALLS[rng.integers(len(WALLS))], float) * rng.uniform(0.75, 1.1)
    tile = _wall_ground(rng, colour)
    trim = colour * rng.uniform(0.6, 0.9) if rng.random() < 0.4 else np.full(3, rng.uniform(190, 240))
    width, height = rng.uniform(0.16, 0.36), rng.uniform(0.24, 0.34)
    if rng.random() < 0.2:
        width = 0.44  # a band of windows, as on an office
    bottom = rng.uniform(0.09, 0.14)
    shutters = rng.random() < 0.25 and width < 0.28
    shutter = np.array([(70, 96, 70), (120, 60, 44), (60, 80, 110), (160, 150, 130)][rng.integers(4)])
    panes, bars = int(rng.integers(1, 4)), rng.random() < 0.5
    ledge, arch = rng.random() < 0.45, rng.random() < 0.2
    for floor in (0.0, 0.5):
        if ledge:
            _rect(tile, 0, 1, floor + 0.005, floor + 0.028, trim * 0.94)
            _rect(tile, 0, 1, floor, floor + 0.006, colour * 0.55)
        for bay in (0.0, 0.5):
            x0, x1 = bay + 0.25 - width / 2, bay + 0.25 + width / 2
            y0, y1 = floor + bottom, floor + bottom + height
            _rect(tile, x0 - 0.018, x1 + 0.018, y0 - 0.02, y1 + 0.02, trim)
            _glass(rng, tile, x0, x1, y0, y1)
            for k in range(1, panes):
                x = x0 + (x1 - x0) * k / panes
                _rect(tile, x - 0.006, x + 0.006, y0, y1, trim)
            if bars:
                _rect(tile, x0, x1, (y0 + 2 * y1) / 3 - 0.005, (y0 + 2 * y1) / 3 + 0.005, trim)
            _rect(tile, x0, x1, y1 - 0.012, y1, np.full(3, 24))  # the reveal's shadow
            _rect(tile, x0 - 0.03, x1 + 0.03, y0 - 0.03, y0 - 0.014, np.minimum(trim * 1.05, 250))
            _rect(tile, x0 - 0.03, x1 + 0.03, y0 - 0.042, y0 - 0.03, colour * 0.6)
            if arch:
                _rect(tile, x0 - 0.03, x1 + 0.03, y1 + 0.02, y1 + 0.036, trim * 0.8)
            if shutters:
                for a, b in ((x0 - 0.02 - width / 2, x0 - 0.02), (x1 + 0.02, x1 + 0.02 + width / 2)):
                    _rect(tile, a, b, y0 - 0.01, y1 + 0.01, shutter)
                    for y in np.arange(y0, y1, 0.022):
                        _rect(tile, a + 0.01, b - 0.01, y, y + 0.006, shutter * 0.7)
    return tile.astype(np.uint8)


def _shopfront(rng: np.random.Generator, shop: bool) -> np.ndarray:
    """Two bays of a ground floor: a shop with its sign band, or doors and windows."""
    colour = np.array(WALLS[rng.integers(len(WALLS))], float) * rng.uniform(0.7, 1.05)
    tile = _wall_ground(rng, colour)
    _rect(tile, 0, 1, 0, 0.09, colour * 0.55)
    frame = np.array(SHOP_COLOURS[rng.integers(len(SHOP_COLOURS))], float)
    if shop:
        _rect(tile, 0.02, 0.98, 0.0, 0.80, frame * 0.55)
        edges = np.linspace(0.05, 0.95, int(rng.integers(3, 5)))
        door = rng.integers(len(edges) - 1)
        for k, (a, b) in enumerate(pairwise(edges)):
            low = 0.03 if k == door else 0.16
            _glass(rng, tile, a + 0.015, b - 0.015, low, 0.74)
            for _ in range(6 if k != door else 1):  # goods
                x, y = rng.uniform(a + 0.02, b - 0.06), rng.uniform(low, 0.5)
                _rect(tile, x, min(x + rng.uniform(0.02, 0.08), b - 0.02), y, y + rng.uniform(0.04, 0.14),
                      rng.uniform(40, 220, 3))  # fmt: skip
        _rect(tile, 0.02, 0.98, 0.79, 0.97, frame)
        x, letter = 0.2, np.full(3, 235.0) if frame.mean() < 150 else np.full(3, 30.0)
        while x < 0.75:
            w = rng.uniform(0.02, 0.045)
            _rect(tile, x, x + w, 0.84, 0.84 + rng.uniform(0.05, 0.09), letter)
            x += w + rng.choice([0.012, 0.012, 0.04])
        _rect(tile, 0.02, 0.98, 0.775, 0.79, frame * 0.3)
    else:
        _rect(tile, 0.10, 0.34, 0.0, 0.76, np.full(3, 200.0) * rng.uniform(0.6, 1.15))
        _rect(tile, 0.125, 0.315, 0.02, 0.62, frame * 0.8)
        _glass(rng, tile, 0.14, 0.30, 0.645, 0.74)
        _rect(tile, 0.56, 0.90, 0.27, 0.78, np.full(3, 215.0))
        _glass(rng, tile, 0.58, 0.88, 0.30, 0.76)
        _rect(tile, 0.722, 0.738, 0.30, 0.76, np.full(3, 210.0))
        _rect(tile, 0, 1, 0.94, 0.97, colour * 0.7)
    return tile.astype(np.uint8)


def make_atlas(rng: np.random.Generator) -> Atlas:
    """Make the tiles of one street."""
    tiles = np.empty((LAYERS, SIZE, SIZE, 3), dtype=np.uint8)
    for k in range(FACADES):
        tiles[FACADE + k] = _facade(rng)
    for k in range(SHOPS):
        tiles[SHOP + k] = _shopfront(rng, shop=k % 2 == 0)
    v, u = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) / SIZE
    fine, broad = noise(rng, SIZE, 0.4), noise(rng, SIZE, 1.4)
    tiles[ROOF] = _grey((0.72 + 0.4 * (v * 12 % 1)) * _bricks(rng, 12, 12, 0.8) * (1 + 0.06 * broad))
    tiles[BRICK] = _grey(_bricks(rng, 10, 26, rng.uniform(0.72, 1.25)) * (1 + 0.05 * broad))
    panel = np.where((u * 2 % 1 < 0.03) | (v % 1 < 0.02), 0.75, 1.0)
    tiles[CONCRETE] = _grey(panel * (1 + 0.045 * broad + 0.03 * fine - 0.12 * (v < 0.12)))
    clumps = noise(rng, SIZE, 1.0)
    tiles[LEAVES] = _grey(1.05 + 0.32 * clumps + 0.13 * fine)
    tiles[HEDGE] = _grey(0.95 + 0.20 * noise(rng, SIZE, 0.8) + 0.13 * fine - 0.25 * (v < 0.15))
    slat = np.abs(u * 10 % 1 - 0.5)
    tiles[PICKET] = _grey(
        np.where(slat < 0.38, 1 + 0.06 * rng.standard_normal(11)[np.floor(u * 10).astype(int)], 0.30)
        * np.where((np.abs(v - 0.25) < 0.05) | (np.abs(v - 0.8) < 0.05), 0.85, 1.0) * (1 + 0.05 * broad)
    )  # fmt: skip
    bar = np.abs(u * 12 % 1 - 0.5) < 0.17
    rail = (v > 0.93) | (np.abs(v - 0.08) < 0.03)
    tiles[RAILING] = _grey(np.where(bar | rail, 0.45, 1.35 + 0.35 * clumps))
    tiles[GRAIN] = _grey(1 + 0.16 * fine + 0.05 * broad)
    tiles[GRASS] = _grey(1 + 0.17 * fine + 0.14 * clumps)
    tiles[STONE] = _grey(_bricks(rng, 5, 9, 0.7) * (1 + 0.12 * broad + 0.06 * fine))
    return Atlas(tiles)


def cloud_map(rng: np.random.Generator, cover: float, size: int = 512) -> np.ndarray:
    """Return periodic cloud opacity (size, size) float32 in 0..1. cover: 0 clear .. 1 overcast."""
    field = noise(rng, size, 1.7) + 0.25 * noise(rng, size, 0.9)
    cloud = np.clip((field - np.quantile(field, 1 - cover * 0.98)) * 0.9, 0, 1)
    return cv2.GaussianBlur(cloud, (0, 0), 1.5).astype(np.float32)
