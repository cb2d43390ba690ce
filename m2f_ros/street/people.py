"""People, bicycles and motorcycles as layered cut-outs that face the viewer.

A figure is posed in (forward, sideways, up) coordinates, turned by its heading and projected onto one
upright plane, so all its pixels share one depth. Heading 0 looks away from the viewer, pi towards the viewer;
+-pi/2 is a side view.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from m2f_ros.street.mesh import Mesh, MeshBuilder, circle, limb

PERSON, RIDER, MOTORCYCLE, BICYCLE = 11, 12, 17, 18
PHASES = 8
SKIN = [(224, 180, 150), (206, 158, 126), (166, 116, 84), (120, 80, 56), (88, 58, 42), (234, 196, 170)]
HAIR = [(40, 30, 24), (24, 22, 22), (96, 66, 40), (150, 116, 70), (130, 130, 130), (70, 44, 30)]
CLOTHES = [
    (30, 32, 38), (44, 50, 66), (120, 30, 34), (170, 166, 158), (60, 66, 58), (34, 60, 110), (196, 60, 50),
    (210, 206, 196), (90, 74, 60), (226, 180, 50), (50, 100, 90), (120, 120, 126), (150, 90, 110),
    (84, 100, 130), (236, 110, 40), (70, 40, 70),
]  # fmt: skip
TROUSERS = [(34, 38, 52), (44, 58, 88), (28, 28, 30), (88, 84, 78), (120, 106, 84), (60, 70, 92), (70, 56, 48)]


@dataclass(frozen=True)
class Look:
    """Body and clothes of one person; drawn once, then used for every pose."""

    scale: float
    build: float
    skin: tuple
    hair: tuple
    top: tuple
    trousers: tuple
    shoes: tuple
    coat: bool
    skirt: bool
    long_hair: bool
    bag: tuple | None
    helmet: tuple | None


def dress(rng: np.random.Generator) -> Look:
    def pick(colours):
        return tuple(np.clip(np.array(colours[rng.integers(len(colours))], float) * rng.uniform(0.75, 1.2), 0, 250))

    child = rng.random() < 0.08
    return Look(
        scale=rng.uniform(0.62, 0.78) if child else rng.uniform(0.91, 1.07),
        build=rng.uniform(0.88, 1.25),
        skin=pick(SKIN),
        hair=pick(HAIR),
        top=pick(CLOTHES),
        trousers=pick(TROUSERS),
        shoes=pick(TROUSERS),
        coat=rng.random() < 0.35,
        skirt=rng.random() < 0.18,
        long_hair=rng.random() < 0.4,
        bag=pick(CLOTHES) if rng.random() < 0.35 else None,
        helmet=pick(CLOTHES) if rng.random() < 0.5 else None,
    )


def _projector(heading: float, scale: float = 1.0) -> Callable[[float, float, float], tuple[float, float]]:
    sin, cos = math.sin(heading), math.cos(heading)
    return lambda forward, side, up: (scale * (forward * sin + side * cos), scale * up)


def _shade(colour, factor: float):
    return tuple(min(c * factor, 255) for c in colour)


def _head(
    mesh: MeshBuilder, look: Look, at, neck, shoulder_y_point, facing_away: float, sideways: float, helmet
) -> None:
    """Neck, head and hair or helmet. facing_away: 1 seen from behind .. -1 seen from in front."""
    s = look.scale
    mesh.flat(limb(shoulder_y_point, neck, 0.055 * s, 0.05 * s), _shade(look.skin, 0.8))
    x, y = at
    mesh.flat(circle(x, y, 0.092 * s, 0.125 * s, 12), look.skin)
    if helmet is not None:
        top = [
            (x + 0.115 * s * math.cos(a), y + 0.02 * s + 0.135 * s * math.sin(a)) for a in np.linspace(0, math.pi, 9)
        ]
        mesh.flat(top, helmet)
        if facing_away > 0.3:
            mesh.flat(circle(x, y + 0.01 * s, 0.108 * s, 0.13 * s, 12), helmet)
        return
    if facing_away > 0.3:
        mesh.flat(circle(x, y + 0.01 * s, 0.097 * s, 0.128 * s, 12), look.hair)
        if look.long_hair:
            mesh.flat(limb((x, y), (x, y - 0.2 * s), 0.095 * s, 0.08 * s), look.hair)
    else:
        cap = [
            (x - sideways * 0.02 + 0.1 * s * math.cos(a), y + 0.025 * s + 0.11 * s * math.sin(a))
            for a in np.linspace(0, math.pi, 8)
        ]
        mesh.flat(cap, look.hair)
        if look.long_hair:
            for k in (-1, 1):
                mesh.flat(
                    limb((x + k * 0.085 * s, y + 0.03 * s), (x + k * 0.09 * s, y - 0.14 * s), 0.03 * s, 0.025 * s),
                    look.hair,
                )
        if abs(sideways) > 0.6:
            mesh.flat(circle(x - sideways * 0.06 * s, y + 0.01 * s, 0.06 * s, 0.11 * s, 8), look.hair)


def walker(look: Look, heading: float, phase: float) -> Mesh:
    """A walking person; phase 0..1 through one double step."""
    at = _projector(heading, look.scale)
    mesh = MeshBuilder(PERSON)
    swing = math.sin(2 * math.pi * phase)
    away, sideways = math.cos(heading), math.sin(heading)
    w = look.build

    def leg(sign: float) -> None:
        angle = 0.42 * swing * sign
        bend = 0.15 + 0.55 * max(0.0, math.cos(2 * math.pi * phase) * sign)
        hip = (0.0, 0.085 * sign * w, 0.90)
        knee = (hip[0] + 0.43 * math.sin(angle), hip[1], hip[2] - 0.43 * math.cos(angle))
        foot = (knee[0] + 0.42 * math.sin(angle - bend), knee[1], max(knee[2] - 0.42 * math.cos(angle - bend), 0.05))
        toe = (foot[0] + 0.16, foot[1] * 1.15, max(foot[2] - 0.03, 0.03))
        tint = 0.88 if sign < 0 else 1.0
        bare = look.skirt
        s = look.scale
        mesh.flat(limb(at(*knee), at(*foot), 0.065 * s * (0.8 if bare else w), 0.048 * s),
                  _shade(look.skin if bare else look.trousers, tint))  # fmt: skip
        mesh.flat(limb(at(*foot), at(*toe), 0.05 * s, 0.04 * s), _shade(look.shoes, tint * 0.8))
        mesh.flat(limb(at(*hip), at(*knee), 0.098 * s * w, 0.068 * s * w), _shade(look.trousers, tint * 0.96))

    def arm(sign: float) -> None:
        angle = -0.5 * swing * sign
        shoulder = (0.0, 0.19 * sign * w, 1.42)
        elbow = (0.27 * math.sin(angle), shoulder[1] + 0.05 * sign, 1.42 - 0.27 * math.cos(angle))
        hand = (elbow[0] + 0.25 * math.sin(angle + 0.35), elbow[1], elbow[2] - 0.25 * math.cos(angle + 0.35))
        s = look.scale
        tint = 0.82 if sign < 0 else 0.92
        mesh.flat(circle(*at(*hand), 0.042 * s, n=7), look.skin)
        mesh.flat(limb(at(*elbow), at(*hand), 0.048 * s, 0.036 * s), _shade(look.top, tint))
        mesh.flat(limb(at(*shoulder), at(*elbow), 0.062 * s * w, 0.05 * s), _shade(look.top, tint))

    near = 1.0 if sideways >= 0 else -1.0  # the viewer is at -x of the heading's left or right
    arm(-near)
    leg(-near)
    leg(near)
    s = look.scale
    half = (0.20 * abs(away) + 0.125 * (1 - abs(away))) * w
    low = 0.62 if look.coat else 0.86
    lean = 0.03 * sideways
    torso = [(-half * 0.92, low), (half * 0.92, low), (half * 0.86, 1.12), (half, 1.36), (half * 0.72, 1.47),
             (-half * 0.72, 1.47), (-half, 1.36), (-half * 0.86, 1.12)]  # fmt: skip
    if look.skirt:
        mesh.flat(
            [
                (s * x, s * y)
                for x, y in [(-half * 1.25, 0.52), (half * 1.25, 0.52), (half * 0.9, 1.0), (-half * 0.9, 1.0)]
            ],
            look.trousers,
        )
    mesh.flat([(s * (x + lean), s * y) for x, y in torso], look.top)
    if away < -0.3:  # the open front of a jacket
        mesh.flat(
            [(s * x, s * y) for x, y in [(-0.035, low), (0.035, low), (0.06, 1.46), (-0.06, 1.46)]],
            _shade(look.top, 0.6),
        )
    if look.bag is not None and away > 0.3:
        mesh.flat([(s * x, s * y) for x, y in [(-0.15, 0.98), (0.15, 0.98), (0.14, 1.40), (-0.14, 1.40)]], look.bag)
    elif look.bag is not None and abs(sideways) > 0.6:
        mesh.flat(circle(-sideways * 0.2 * s, 1.2 * s, 0.1 * s, 0.2 * s, 10), look.bag)
    neck = at(0.05, 0, 1.54)
    _head(mesh, look, at(0.06, 0, 1.64), neck, at(0.0, 0, 1.42), away, sideways, None)
    arm(near)
    return mesh.finish()


def _bicycle(mesh: MeshBuilder, at, sideways: float, colour, *, motor: bool) -> None:
    """Adds wheels, frame and handlebar. Wheels are discs (spokes blur into grey), as data sets label them."""
    radius = 0.31 if motor else 0.345
    thick = 0.07 if motor else 0.028
    rims = []
    for forward in (-0.66, 0.68) if motor else (-0.52, 0.54):
        x, y = at(forward, 0, radius)
        rx = max(radius * abs(sideways), thick)
        mesh.flat(circle(x, y, rx, radius, 18), (26, 26, 28))
        if rx > 0.12:
            inner = radius - (0.085 if motor else 0.04)
            mesh.flat(circle(x, y, rx * inner / radius, inner, 16), (96, 98, 100) if not motor else (70, 72, 76))
            if not motor:
                for a in np.arange(5) * math.pi / 5 + 0.2:
                    dx, dy = rx * math.cos(a) * 0.88, radius * math.sin(a) * 0.88
                    mesh.flat(limb((x - dx, y - dy), (x + dx, y + dy), 0.005, 0.005)[:8:2], (150, 152, 156))
            mesh.flat(circle(x, y, rx * 0.3, radius * 0.3, 8), (50, 50, 54))
        rims.append((x, y))
    if motor:
        dark = (34, 34, 38)
        body = [
            (-0.78, 0.74),
            (-0.3, 0.70),
            (-0.1, 0.44),
            (0.3, 0.36),
            (0.42, 0.62),
            (0.46, 0.98),
            (0.2, 1.0),
            (-0.05, 0.84),
            (-0.6, 0.86),
        ]
        belly = [(-0.35, 0.28), (0.32, 0.26), (0.38, 0.6), (-0.3, 0.6)]
        wide = 0.17 * (1 - abs(sideways))
        if abs(sideways) > 0.35:
            mesh.flat([at(a, 0, b) for a, b in belly], dark)
            mesh.flat([at(a, 0, b) for a, b in body], colour)
            mesh.flat(limb(at(0.68, 0, radius), at(0.42, 0, 0.95), 0.04, 0.04), dark)
            mesh.flat(limb(at(-0.7, 0, 0.34), at(0.1, 0, 0.32), 0.05, 0.03), (150, 150, 154))
            mesh.flat([at(a, 0, b) for a, b in [(-0.72, 0.80), (-0.05, 0.82), (-0.08, 0.90), (-0.66, 0.92)]], dark)
        else:
            mesh.flat(
                [
                    (-wide - 0.04, 0.38),
                    (wide + 0.04, 0.38),
                    (wide + 0.1, 0.72),
                    (wide, 0.95),
                    (-wide, 0.95),
                    (-wide - 0.1, 0.72),
                ],
                colour,
            )
            mesh.flat(circle(0, 0.55, 0.085, 0.29, 12), (26, 26, 28))
            mesh.flat(
                circle(0, 0.84, 0.09, 0.06, 8), (250, 246, 224) if at(0, 1, 0)[0] < 0 else (190, 24, 24), glow=True
            )
        mesh.flat(limb(at(0.36, -0.36, 1.06), at(0.36, 0.36, 1.06), 0.03, 0.03), dark)
        return
    bracket, saddle, bar, head = at(-0.04, 0, 0.30), at(-0.2, 0, 0.88), at(0.36, 0, 1.02), at(0.38, 0, 0.80)
    w = 0.024
    for a, b in (
        (bracket, saddle),
        (bracket, head),
        (at(-0.19, 0, 0.80), head),
        (rims[0], bracket),
        (rims[0], at(-0.19, 0, 0.8)),
        (rims[1], bar),
    ):
        mesh.flat(limb(a, b, w, w), colour)
    mesh.flat(limb(at(0.36, -0.28, 1.03), at(0.36, 0.28, 1.03), 0.024, 0.024), (40, 40, 42))
    mesh.flat(limb(at(-0.32, 0, 0.92), at(-0.1, 0, 0.92), 0.05, 0.03), (30, 30, 32))
    mesh.flat(circle(bracket[0], bracket[1], 0.09 * abs(sideways) + 0.02, 0.09, 8), (60, 60, 62))


def parked_cycle(rng: np.random.Generator, motor: bool) -> Mesh:
    """A bicycle or motorcycle without a rider."""
    heading = rng.choice([-1, 1]) * rng.uniform(0.7, 1.57)
    mesh = MeshBuilder(MOTORCYCLE if motor else BICYCLE)
    colour = np.array(CLOTHES[rng.integers(len(CLOTHES))], float)
    _bicycle(mesh, _projector(heading), math.sin(heading), colour, motor=motor)
    return mesh.finish()


def rider(look: Look, heading: float, phase: float, motor: bool) -> Mesh:
    """A rider (part 0) on a bicycle or motorcycle (part 1); phase 0..1 turns the pedals."""
    at = _projector(heading)
    sideways, away = math.sin(heading), math.cos(heading)
    mesh = MeshBuilder(RIDER)
    top = look.top
    hip_up, hip_back = (0.90, -0.25) if motor else (0.97, -0.2)
    shoulder_f, shoulder_up = (0.06, 1.40) if motor else (0.08, 1.48)

    def leg(sign: float) -> None:
        turn = 2 * math.pi * phase + (math.pi if sign < 0 else 0)
        if motor:
            knee, foot = (0.22, 0.2 * sign, 0.78), (0.0, 0.19 * sign, 0.36)
        else:
            foot = (-0.04 + 0.17 * math.cos(turn), 0.11 * sign, 0.32 + 0.17 * math.sin(turn))
            knee = (foot[0] * 0.4 + 0.22, 0.13 * sign, (foot[2] + hip_up) / 2 + 0.10)
        tint = 0.85 if sign < 0 else 1.0
        mesh.flat(limb(at(*foot), at(foot[0] + 0.14, foot[1], foot[2] - 0.02), 0.05, 0.04), _shade(look.shoes, 0.8))
        mesh.flat(limb(at(*knee), at(*foot), 0.07, 0.05), _shade(look.trousers, tint))
        mesh.flat(limb(at(hip_back, 0.09 * sign, hip_up), at(*knee), 0.105, 0.075), _shade(look.trousers, tint * 0.95))

    def arm(sign: float) -> None:
        hand = at(0.34, 0.27 * sign, 1.06)
        elbow = at(0.16, 0.30 * sign, 1.20)
        mesh.flat(circle(*hand, 0.045, n=7), look.skin if not motor else (30, 30, 30))
        mesh.flat(limb(elbow, hand, 0.05, 0.04), _shade(top, 0.85))
        mesh.flat(limb(at(shoulder_f, 0.19 * sign, shoulder_up - 0.05), elbow, 0.065, 0.052), _shade(top, 0.88))

    def machine() -> None:
        mesh.label, mesh.part = (MOTORCYCLE if motor else BICYCLE), 1
        _bicycle(mesh, at, sideways, look.bag or (150, 40, 40) if motor else look.trousers, motor=motor)
        mesh.label, mesh.part = RIDER, 0

    def torso() -> None:
        half = (0.20 * abs(away) + 0.06) * look.build
        low, high = at(hip_back, 0, hip_up - 0.06), at(shoulder_f, 0, shoulder_up)
        if abs(sideways) > 0.5:
            mesh.flat(limb(low, high, 0.14 * look.build, 0.13 * look.build), top)
        else:
            mesh.flat(
                [
                    (low[0] - half * 0.8, low[1]),
                    (low[0] + half * 0.8, low[1]),
                    (high[0] + half, high[1] - 0.1),
                    (high[0] + half * 0.7, high[1]),
                    (high[0] - half * 0.7, high[1]),
                    (high[0] - half, high[1] - 0.1),
                ],
                top,
            )
        if look.bag is not None and away > 0.3:
            mesh.flat(
                [
                    (high[0] + dx, high[1] + dy)
                    for dx, dy in [(-0.14, -0.42), (0.14, -0.42), (0.13, -0.02), (-0.13, -0.02)]
                ],
                look.bag,
            )

    near = 1.0 if sideways >= 0 else -1.0
    helmet = look.helmet if look.helmet is not None or not motor else (30, 30, 34)
    leg(-near)
    if abs(sideways) > 0.5:
        machine()
        leg(near)
    else:
        leg(near)
        if away > 0:
            machine()
    arm(-near)
    torso()
    head = at(shoulder_f + 0.1, 0, shoulder_up + 0.2)
    _head(
        mesh,
        look,
        head,
        at(shoulder_f + 0.07, 0, shoulder_up + 0.1),
        at(shoulder_f, 0, shoulder_up - 0.04),
        away,
        sideways,
        helmet,
    )
    if abs(sideways) <= 0.5 and away < 0:
        machine()
    arm(near)
    return mesh.finish()
