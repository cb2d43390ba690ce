"""Things beside the road: houses, walls, fences, trees, the far backdrop.

Meshes of a row are built for the right-hand side (side = 1: the road lies at -x) or the left (side = -1) and
start at z = 0.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from m2f_ros.street import textures as tx
from m2f_ros.street.mesh import Mesh, MeshBuilder, limb

BUILDING, WALL, FENCE, VEGETATION = 2, 3, 4, 8


def house(rng: np.random.Generator, side: int, length: float, *, floors: int, shop: bool) -> Mesh:
    """A house of `length` metres along the road: ground floor, upper floors, roof, chimneys, gable walls."""
    floor, depth = rng.uniform(2.7, 3.5), rng.uniform(8, 12)
    ground = rng.uniform(3.2, 4.2) if shop else floor
    bays = max(1, round(length / rng.uniform(2.6, 4.2)))
    bay = length / bays / 2  # a texture tile holds two bays
    upper = tx.FACADE + int(rng.integers(tx.FACADES))
    lower = tx.SHOP + 2 * int(rng.integers(tx.SHOPS // 2)) + (0 if shop else 1)
    if not shop and rng.random() < 0.5:
        lower = upper
    tint = np.array(tx.SELF_COLOURED) * rng.uniform(0.75, 1.2) * rng.uniform(0.93, 1.07, 3)
    height = ground + floors * floor
    mesh = MeshBuilder(BUILDING, inside=(side * depth / 2, height / 2, length / 2))

    def wall(x, y0, y1, layer, tile_height) -> int:
        return mesh.face([(x, y0, 0), (x, y0, length), (x, y1, length), (x, y1, 0)], tint, layer=layer,
                         s=(0, 0, 0.5 / bay, 0), t=(0, 1 / tile_height, 0, -y0 / tile_height))  # fmt: skip

    wall(0.0, 0.0, ground, lower, ground if lower != upper else 2 * floor)
    if floors:
        front = wall(0.0, ground, height, upper, 2 * floor)
        mesh.decal(front, (0, 1, 0.0, 0.02), tint * 1.3)
    gable_layer = [tx.BRICK, tx.CONCRETE][int(rng.integers(2))]
    brick = np.array(tx.WALLS[rng.integers(len(tx.WALLS))], float) * 0.8
    roof_colour = np.array(
        [(150, 78, 56), (96, 88, 86), (120, 66, 50), (78, 80, 88), (130, 108, 90)][rng.integers(5)], float
    )
    pitched = rng.random() < 0.65
    rise = rng.uniform(2.0, 3.8) if pitched else 0.0
    windows = rng.random() < 0.5 and floors > 0
    for z in (0.0, length):
        outline = [(0, 0, z), (side * depth, 0, z), (side * depth, height, z)]
        outline += [(side * depth / 2, height + rise, z)] if pitched else []
        outline += [(0, height, z)]
        if windows:
            mesh.face(
                outline, tint, layer=upper, s=(0.5 / bay, 0, 0, 0.5), t=(0, 0.5 / floor, 0, -ground * 0.5 / floor)
            )
        else:
            mesh.face(outline, brick, layer=gable_layer, s=(0.4, 0, 0, 0), t=(0, 0.4, 0, 0))
    if pitched:
        over = 0.35
        mesh.face([(-side * over, height - 0.2, 0), (-side * over, height - 0.2, length),
                   (side * depth / 2, height + rise, length), (side * depth / 2, height + rise, 0)],
                  roof_colour, layer=tx.ROOF, s=(0, 0, 0.25, 0), t=(0, 0.4, 0, 0))  # fmt: skip
        mesh.face(
            [
                (-side * over, height - 0.2, 0),
                (-side * over, height - 0.2, length),
                (side * 0.1, height - 0.2, length),
                (side * 0.1, height - 0.2, 0),
            ],
            tint * 0.5,
            two_sided=True,
        )
        for _ in range(int(rng.integers(0, 3))):
            z = rng.uniform(1, max(length - 2, 1.1))
            x = sorted((side * depth * 0.36, side * (depth * 0.36 + 0.8)))
            mesh.box((x[0], x[1]), (height + rise * 0.4, height + rise + 0.9), (z, z + 0.8), brick,
                     layer=tx.BRICK, s=(0.5, 0, 0.5, 0), t=(0, 0.5, 0, 0))  # fmt: skip
        if rng.random() < 0.4:  # dormers
            for z in np.arange(1.5, length - 2, 4.0):
                x = sorted((side * 0.8, side * 2.4))
                faces = mesh.box((x[0], x[1]), (height + 0.3, height + 1.7), (z, z + 1.4), tint)
                mesh.decal(faces["left" if side > 0 else "right"], (0.2, 0.8, 0.2, 0.8), (50, 58, 66))
    else:
        x = sorted((-side * 0.25, side * 0.6))
        mesh.box(
            (x[0], x[1]), (height - 0.55, height + rng.uniform(0.3, 0.7)), (0, length), tint * rng.uniform(0.8, 1.2)
        )
    if shop and rng.random() < 0.5:
        colour = np.array(tx.SHOP_COLOURS[rng.integers(len(tx.SHOP_COLOURS))], float)
        z0, z1 = length * 0.1, length * rng.uniform(0.4, 0.9)
        mesh.inside = (0, 0, length / 2)
        awning = mesh.face([(0, 2.95, z0), (0, 2.95, z1), (-side * 1.1, 2.45, z1), (-side * 1.1, 2.45, z0)], colour)
        for k in range(0, 10, 2):
            mesh.decal(awning, (k / 10, (k + 1) / 10, 0, 1), np.minimum(colour * 0.5 + 120, 250))
        mesh.face(
            [(-side * 1.1, 2.45, z0), (-side * 1.1, 2.45, z1), (-side * 1.1, 2.25, z1), (-side * 1.1, 2.25, z0)],
            colour * 0.8,
            two_sided=True,
        )
    return mesh.finish()


def wall(rng: np.random.Generator, length: float) -> Mesh:
    """A free-standing wall with coping."""
    height, layer = rng.uniform(1.6, 2.8), [tx.BRICK, tx.CONCRETE, tx.STONE][int(rng.integers(3))]
    colour = np.array(
        [(168, 104, 80), (170, 168, 160), (150, 142, 126), (196, 190, 178), (128, 84, 66)][rng.integers(5)]
    )
    mesh = MeshBuilder(WALL)
    size = 0.4 if layer == tx.BRICK else 0.3
    mesh.box(
        (0, 0.3),
        (0, height),
        (0, length),
        colour * rng.uniform(0.75, 1.1),
        layer=layer,
        s=(size, 0, size, 0),
        t=(0, size, 0, 0),
    )
    mesh.box((-0.05, 0.35), (height, height + 0.1), (0, length), colour * 0.9)
    return mesh.finish()


def fence(rng: np.random.Generator, length: float) -> Mesh:
    """A picket fence or railing; the gaps between its bars belong to the fence."""
    picket = rng.random() < 0.55
    height = rng.uniform(0.9, 1.9)
    woods = [(168, 128, 88), (214, 210, 200), (110, 84, 62), (90, 110, 84), (140, 130, 120)]
    greens = [(62, 74, 60), (60, 62, 66), (84, 84, 80)]
    colour = np.array(woods[rng.integers(5)] if picket else greens[rng.integers(3)], float)
    mesh = MeshBuilder(FENCE)
    mesh.face(
        [(0, 0, 0), (0, 0, length), (0, height, length), (0, height, 0)],
        colour,
        two_sided=True,
        layer=tx.PICKET if picket else tx.RAILING,
        s=(0, 0, 0.7, 0),
        t=(0, 0.999 / height, 0, 0),
    )
    for z in np.arange(0, length + 0.1, length / 5):
        mesh.box((-0.05, 0.05), (0, height + 0.08), (z - 0.05, z + 0.05), colour * 0.8)
    return mesh.finish()


def _blob(rng: np.random.Generator, x: float, y: float, rx: float, ry: float, n: int) -> list[tuple[float, float]]:
    """An irregular, leafy outline."""
    angle = np.arange(n) * 2 * math.pi / n
    wave = sum(rng.uniform(0.02, 0.09) * np.sin(k * angle + rng.uniform(0, 6.3)) for k in (2, 3, 5, 7))
    radius = 1 + wave + rng.normal(0, 0.07, n)
    return list(zip(x + rx * radius * np.cos(angle), y + ry * radius * np.sin(angle), strict=True))


GREENS = [
    (66, 92, 44),
    (52, 78, 40),
    (84, 104, 52),
    (96, 106, 44),
    (60, 84, 58),
    (112, 104, 52),
    (124, 92, 46),
    (48, 66, 40),
]


def _foliage(mesh: MeshBuilder, rng, x, y, rx, ry, colour, blobs: int, n: int = 84) -> None:
    """Dark blobs below, lighter ones above, together one crown."""
    shift = rng.uniform(0, 1, 2)
    look: dict[str, Any] = dict(layer=tx.LEAVES, s=(0.35, 0, 0, shift[0]), t=(0, 0.35, 0, shift[1]))
    mesh.flat(_blob(rng, x, y, rx * 0.86, ry * 0.86, n), colour * 0.62, **look)
    for k in range(blobs):
        angle = rng.uniform(0, 2 * math.pi)
        dx, dy = 0.62 * rx * math.cos(angle), 0.6 * ry * math.sin(angle)
        light = 0.78 + 0.26 * dy / ry + 0.12 * k / blobs
        size = rng.uniform(0.3, 0.5)
        mesh.flat(_blob(rng, x + dx, y + dy, rx * size, ry * size * 0.9, n // 2), colour * light, **look)


def tree(rng: np.random.Generator, bare: bool = False) -> Mesh:
    """A street tree; trunk and crown are vegetation, as Cityscapes has it."""
    height = rng.uniform(5, 11)
    bark = np.array([(74, 62, 50), (92, 84, 74), (60, 52, 44)][rng.integers(3)], float)
    mesh = MeshBuilder(VEGETATION)
    fork = height * rng.uniform(0.26, 0.4)
    mesh.flat(
        limb((0, 0), (0, fork + 0.6), 0.17 + height * 0.008, 0.12),
        bark,
        layer=tx.GRAIN,
        s=(0.5, 0, 0, 0),
        t=(0, 0.2, 0, 0),
    )

    def branch(x, y, angle, size, width, depth) -> None:
        x1, y1 = x + size * math.sin(angle), y + size * math.cos(angle)
        mesh.flat(
            limb((x, y), (x1, y1), width, width * 0.62)[0::3] if depth else limb((x, y), (x1, y1), width, width * 0.6),
            bark * 0.9,
        )
        if depth < (4 if bare else 2):
            for spread in (-1, 1) if depth else (-1.1, 0.1, 1):
                branch(
                    x1,
                    y1,
                    angle + spread * rng.uniform(0.22, 0.55),
                    size * rng.uniform(0.66, 0.86),
                    width * 0.6,
                    depth + 1,
                )

    branch(0, fork, rng.uniform(-0.1, 0.1), height * 0.2, 0.12, 0)
    if not bare:
        colour = np.array(GREENS[rng.integers(len(GREENS))], float) * rng.uniform(0.75, 1.25)
        ry = (height - fork) / 2
        shape = rng.random()
        if shape < 0.15:  # a conifer: tiers of boughs
            for k in range(5):
                y, w = 1.0 + (height - 1.0) * k / 5, (1 - k / 5.5) * height * 0.2
                _foliage(mesh, rng, 0, y + height * 0.08, w, height * 0.13, colour * (0.7 + 0.08 * k), 4, 60)
        elif shape < 0.3:  # a slender poplar
            _foliage(mesh, rng, 0, fork + ry, ry * rng.uniform(0.28, 0.4), ry, colour, 14)
        elif shape < 0.6:  # a loose crown: several clumps with sky between them
            for _ in range(int(rng.integers(6, 11))):
                a, r = rng.uniform(0, 2 * math.pi), rng.uniform(0.2, 0.9)
                size = ry * rng.uniform(0.26, 0.45)
                _foliage(mesh, rng, ry * 0.95 * r * math.cos(a), fork + ry * (1.05 + 0.8 * r * math.sin(a)),
                         size * 1.15, size * 0.85, colour * rng.uniform(0.8, 1.15), 5, 50)  # fmt: skip
        else:
            _foliage(mesh, rng, 0, fork + ry, ry * rng.uniform(0.65, 1.0), ry, colour, int(rng.integers(9, 16)))
    return mesh.finish()


def bush(rng: np.random.Generator) -> Mesh:
    mesh = MeshBuilder(VEGETATION)
    width, height = rng.uniform(0.7, 1.6), rng.uniform(0.5, 1.1)
    colour = np.array(GREENS[rng.integers(len(GREENS))], float)
    _foliage(mesh, rng, 0, height * 0.75, width, height, colour, 6, 36)
    return mesh.finish()


def hedge(rng: np.random.Generator, length: float) -> Mesh:
    height, width = rng.uniform(0.9, 2.2), rng.uniform(0.6, 1.2)
    colour = np.array(GREENS[rng.integers(len(GREENS))], float) * rng.uniform(0.7, 1.1)
    mesh = MeshBuilder(VEGETATION)
    mesh.box((0, width), (0, height), (0, length), colour, layer=tx.HEDGE, s=(0.4, 0, 0.4, 0), t=(0, 0.4, 0, 0))
    return mesh.finish()


def backdrop(rng: np.random.Generator, green: bool, width: float, height: float) -> Mesh:
    """A far row of tree tops or roofs across the end of the view."""
    mesh = MeshBuilder(VEGETATION if green else BUILDING)
    x = -width / 2
    while x < width / 2:
        w = rng.uniform(5, 12)
        h = height * rng.uniform(0.55, 1.1)
        if green:
            colour = np.array(GREENS[rng.integers(len(GREENS))], float)
            mesh.flat(
                [(x - 1, 0), (x + w + 1, 0), *_blob(rng, x + w / 2, h * 0.6, w * 0.62, h * 0.45, 24)[:13]],
                colour * 0.9,
                layer=tx.LEAVES,
                s=(0.15, 0, 0, 0),
                t=(0, 0.15, 0, 0),
            )
        else:
            wall_colour = np.array(tx.WALLS[rng.integers(len(tx.WALLS))], float) * 0.9
            mesh.flat(
                [(x, 0), (x + w, 0), (x + w, h), (x, h)],
                tx.SELF_COLOURED,
                layer=tx.FACADE + int(rng.integers(tx.FACADES)),
                s=(0.16, 0, 0, 0),
                t=(0, 0.16, 0, 0),
            )
            mesh.flat([(x - 0.3, h), (x + w + 0.3, h), (x + w / 2, h + rng.uniform(1, 4))], wall_colour * 0.55)
        x += w
    return mesh.finish()
