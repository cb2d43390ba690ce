"""Street furniture as cut-outs: lamps, bollards, traffic signs, traffic lights.

side 1: to the right of the road, -1: to its left.
"""

from __future__ import annotations

import numpy as np

from m2f_ros.street.mesh import Mesh, MeshBuilder, circle, limb

POLE, LIGHT, SIGN = 5, 6, 7


def lamp(rng: np.random.Generator, side: int) -> Mesh:
    """A street lamp whose arm reaches over the road."""
    height, reach = rng.uniform(6, 9), rng.uniform(0.6, 2.2)
    colour = np.array([(90, 94, 98), (52, 56, 58), (120, 124, 124), (60, 74, 64)][rng.integers(4)])
    mesh = MeshBuilder(POLE)
    mesh.flat([(-0.11, 0), (0.11, 0), (0.10, 1.0), (-0.10, 1.0)], colour * 0.9)
    mesh.flat([(-0.07, 0.9), (0.07, 0.9), (0.055, height), (-0.055, height)], colour)
    mesh.flat(limb((0, height), (-side * reach, height + 0.35), 0.05, 0.04), colour)
    mesh.flat(limb((-side * reach, height + 0.35), (-side * (reach + 0.6), height + 0.33), 0.10, 0.07), colour * 1.15)
    return mesh.finish()


def bollard(rng: np.random.Generator) -> Mesh:
    mesh = MeshBuilder(POLE)
    colour = np.array([(44, 46, 50), (120, 120, 118), (90, 30, 30)][rng.integers(3)])
    mesh.flat([(-0.07, 0), (0.07, 0), (0.06, 0.95), (-0.06, 0.95)], colour)
    mesh.flat([(-0.065, 0.72), (0.065, 0.72), (0.065, 0.84), (-0.065, 0.84)], (226, 224, 214))
    return mesh.finish()


def _ring(mesh, y, r, outer, inner, n=16) -> None:
    mesh.flat(circle(0, y, r, n=n), outer)
    mesh.flat(circle(0, y, r * 0.74, n=n), inner)


def sign(rng: np.random.Generator) -> Mesh:
    """A traffic sign on its pole: prohibition, warning, mandatory, stop, priority, crossing or direction."""
    mesh = MeshBuilder(POLE)
    y = rng.uniform(2.2, 2.7)
    mesh.flat([(-0.045, 0), (0.045, 0), (0.045, y), (-0.045, y)], (128, 130, 132))
    mesh.label = SIGN
    white, red, blue, black = (236, 236, 232), (190, 24, 30), (26, 72, 160), (28, 28, 28)
    kind, r = rng.integers(8), rng.uniform(0.34, 0.46)
    if kind == 0:
        _ring(mesh, y, r, red, white)
        mesh.flat([(-0.12, y - 0.12), (0.12, y - 0.12), (0.12, y + 0.12), (-0.12, y + 0.12)], black)
    elif kind == 1:
        for k, colour in ((1.15, red), (0.78, white)):
            mesh.flat([(-r * k, y - r * k * 0.6), (r * k, y - r * k * 0.6), (0, y + r * k * 1.05)], colour)
        mesh.flat([(-0.03, y - 0.12), (0.03, y - 0.12), (0.03, y + 0.14), (-0.03, y + 0.14)], black)
    elif kind == 2:
        _ring(mesh, y, r, white, blue)
        mesh.flat(
            [
                (-0.06, y - 0.2),
                (0.06, y - 0.2),
                (0.06, y + 0.05),
                (0.16, y + 0.05),
                (0, y + 0.24),
                (-0.16, y + 0.05),
                (-0.06, y + 0.05),
            ],
            white,
        )
    elif kind == 3:
        mesh.flat(circle(0, y, r * 1.05, n=8), red)
        mesh.flat([(-r * 0.7, y - 0.07), (r * 0.7, y - 0.07), (r * 0.7, y + 0.07), (-r * 0.7, y + 0.07)], white)
    elif kind == 4:
        mesh.flat(circle(0, y, r * 1.2, n=4), white)
        mesh.flat(circle(0, y, r * 0.85, n=4), (240, 190, 30))
    elif kind == 5:
        mesh.flat([(-r, y - r), (r, y - r), (r, y + r), (-r, y + r)], blue)
        mesh.flat([(-r * 0.7, y - r * 0.6), (r * 0.7, y - r * 0.6), (0, y + r * 0.75)], white)
        mesh.flat(limb((0, y - 0.14), (0, y + 0.05), 0.04, 0.04), black)
    elif kind == 6:
        mesh.flat(circle(0, y, r), red)
        mesh.flat([(-r * 0.72, y - 0.08), (r * 0.72, y - 0.08), (r * 0.72, y + 0.08), (-r * 0.72, y + 0.08)], white)
    else:
        colour = [(20, 100, 60), blue, (236, 236, 232)][rng.integers(3)]
        w, h = rng.uniform(0.7, 1.3), rng.uniform(0.4, 0.8)
        mesh.flat([(-w, y - h * 0.3), (w, y - h * 0.3), (w, y + h), (-w, y + h)], colour)
        ink = black if colour[0] > 200 else white
        for k in range(2):
            yy = y - h * 0.05 + k * h * 0.55
            mesh.flat(
                [(-w * 0.8, yy), (w * rng.uniform(0.2, 0.7), yy), (w * 0.5, yy + h * 0.22), (-w * 0.8, yy + h * 0.22)],
                ink,
            )
    if kind < 7 and rng.random() < 0.35:
        mesh.flat([(-0.3, y - 0.85), (0.3, y - 0.85), (0.3, y - 0.55), (-0.3, y - 0.55)], white)
        mesh.flat([(-0.2, y - 0.74), (0.2, y - 0.74), (0.2, y - 0.66), (-0.2, y - 0.66)], black)
    return mesh.finish()


def traffic_light(state: int, mast: bool, side: int) -> Mesh:
    """Lamps on a pole (and, with `mast`, a second set over the road). state 0 red, 1 amber, 2 green."""
    mesh = MeshBuilder(POLE)
    top = 5.6 if mast else 2.9
    grey = (70, 74, 76)
    mesh.flat([(-0.07, 0), (0.07, 0), (0.06, top), (-0.06, top)], grey)
    heads = [(0.0, 2.3)]
    if mast:
        mesh.flat(limb((0, 5.5), (-side * 3.4, 5.75), 0.07, 0.05), grey)
        heads.append((-side * 3.4, 5.0))
    mesh.label = LIGHT
    lamps = [((236, 40, 30), 0.78), ((250, 176, 40), 0.5), ((50, 224, 130), 0.22)]
    for x, y in heads:
        mesh.flat(
            [(x - 0.24, y - 0.08), (x + 0.24, y - 0.08), (x + 0.24, y + 1.08), (x - 0.24, y + 1.08)], (22, 24, 24)
        )
        for k, (colour, dy) in enumerate(lamps):
            lit = k == state
            mesh.flat(circle(x, y + dy, 0.115, n=10), colour if lit else tuple(c * 0.22 for c in colour), glow=lit)
    return mesh.finish()
