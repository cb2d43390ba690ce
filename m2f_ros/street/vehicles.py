"""Cars, vans, trucks, buses and trams as meshes. The bow is at +z, wheels stand on y = 0."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from m2f_ros.street.mesh import Mesh, MeshBuilder, circle

CAR, TRUCK, BUS, TRAIN = 13, 14, 15, 16
GLASS = (38, 44, 52)
RUBBER = (22, 22, 24)
PAINTS = [
    (188, 190, 194), (146, 150, 156), (34, 36, 40), (24, 24, 28), (216, 216, 214), (120, 18, 24),
    (160, 30, 30), (28, 50, 104), (40, 74, 128), (22, 62, 48), (88, 92, 98), (196, 186, 160), (104, 84, 66),
    (210, 180, 50), (60, 100, 140), (150, 160, 150), (90, 24, 50), (232, 232, 232), (196, 92, 36),
]  # fmt: skip


def _wheels(mesh: MeshBuilder, side: int, x: float, axles: list[float], radius: float) -> None:
    """Wheels as decals of a side face, so that they show exactly when the side does."""
    for z in axles:
        mesh.face([(x, b, a) for a, b in circle(z, radius + 0.02, radius * 1.14)], (14, 14, 15), parent=side)
        mesh.face([(x, b, a) for a, b in circle(z, radius, radius)], RUBBER, parent=side)
        mesh.face([(x, b, a) for a, b in circle(z, radius, radius * 0.62)], (138, 140, 144), parent=side)
        mesh.face([(x, b, a) for a, b in circle(z, radius, radius * 0.22, n=8)], (60, 62, 66), parent=side)


def _tyres(mesh: MeshBuilder, half: float, ends: tuple[float, float], radius: float) -> None:
    """Tyres and the dark underside as seen from behind and from in front."""
    for z, toward in ((ends[0], -1), (ends[1], 1)):
        mesh.inside = (0, radius, 0)
        for x in (-half + 0.13, half - 0.13):
            mesh.face(
                [
                    (x - 0.07, 0, z),
                    (x + 0.07, 0, z),
                    (x + 0.1, 0.05, z),
                    (x + 0.1, 0.4, z),
                    (x - 0.1, 0.4, z),
                    (x - 0.1, 0.05, z),
                ],
                RUBBER,
            )
        y0, y1 = 0.17, 0.42
        mesh.face(
            [
                (-half + 0.2, y0, z + toward * 0.02),
                (half - 0.2, y0, z + toward * 0.02),
                (half - 0.2, y1, z + toward * 0.02),
                (-half + 0.2, y1, z + toward * 0.02),
            ],
            (16, 16, 18),
        )


# Side profiles from tail to bow over the roof: (z as a share of the length, y as a share of the height).
_PROFILES = {
    "hatchback": [
        (-.5, .20), (-.5, .42), (-.485, .64), (-.40, .985), (.08, 1.0), (.265, .66), (.48, .50), (.5, .20),
    ],
    "saloon": [
        (-.5, .22), (-.5, .45), (-.485, .66), (-.36, .70), (-.22, .98), (.06, 1.0), (.235, .68), (.475, .52),
        (.5, .22),
    ],
    "estate": [
        (-.5, .22), (-.5, .42), (-.485, .64), (-.445, .97), (.07, 1.0), (.24, .67), (.475, .52), (.5, .22),
    ],
    "suv": [
        (-.5, .22), (-.5, .42), (-.49, .62), (-.445, .985), (.07, 1.0), (.21, .66), (.485, .58), (.5, .22),
    ],
    "van": [
        (-.5, .16), (-.5, .30), (-.498, .50), (-.485, 1.0), (.24, 1.0), (.385, .56), (.49, .44), (.5, .16),
    ],
}  # fmt: skip
_SIZES = {  # length, width, height
    "hatchback": (3.95, 1.72, 1.48), "saloon": (4.6, 1.80, 1.44), "estate": (4.65, 1.80, 1.50),
    "suv": (4.6, 1.88, 1.74), "van": (5.1, 1.98, 2.15),
}  # fmt: skip


def car(rng: np.random.Generator) -> Mesh:
    """A passenger car or van: body, greenhouse, windows, wheels, lamps, plate."""
    kind = rng.choice(["hatchback", "saloon", "estate", "suv", "van"], p=[0.32, 0.25, 0.15, 0.18, 0.10])
    length, width, height = np.array(_SIZES[kind]) * rng.uniform(0.95, 1.06, 3)
    paint = np.array(PAINTS[rng.integers(len(PAINTS))], float) * rng.uniform(0.85, 1.1)
    if kind == "van" and rng.random() < 0.6:
        paint = np.array((226, 226, 224.0))
    paint = np.minimum(paint, 245)
    glass = np.array(GLASS) * rng.uniform(0.6, 1.6)
    trim = paint * 0.6 if rng.random() < 0.6 else np.full(3, 40.0)
    profile = [(z * length, y * height) for z, y in _PROFILES[kind]]
    waist = profile[2][1]
    half, roof = width / 2, width / 2 - (0.10 if kind == "van" else 0.19)

    def half_at(y: float) -> float:
        return half - (half - roof) * min(max((y - waist) / (height - waist), 0.0), 1.0)

    mesh = MeshBuilder(CAR, inside=(0, height * 0.45, 0))
    radius = 0.33 if kind not in ("suv", "van") else 0.37
    axles = [-length * 0.5 + length * 0.19, length * 0.5 - length * 0.20]
    _tyres(mesh, half, (axles[0] - radius * 0.9, axles[1] + radius * 0.9), radius)
    mesh.inside = (0, height * 0.4, 0)
    strips = []
    for (z0, y0), (z1, y1) in pairwise(profile):
        h0, h1 = half_at(y0), half_at(y1)
        shade = 1.0 if y1 > waist * 0.7 else 0.92
        strips.append(mesh.face([(-h0, y0, z0), (h0, y0, z0), (h1, y1, z1), (-h1, y1, z1)], paint * shade))
    saloon = kind == "saloon"
    rear_window, screen = (3, 5) if saloon else (2, 4)
    mesh.decal(strips[rear_window], (0.09, 0.91, 0.12, 0.90), glass)
    if kind == "van":
        mesh.decal(strips[rear_window], (0.485, 0.515, 0.0, 1.0), paint * 0.5)
    mesh.decal(strips[screen], (0.07, 0.93, 0.08, 0.93), glass * 1.25)
    mesh.decal(strips[screen], (0.12, 0.88, 0.12, 0.45), np.minimum(glass * 1.9 + 12, 200))  # the sky's reflection
    mesh.decal(strips[rear_window], (0.14, 0.86, 0.5, 0.84), np.minimum(glass * 1.5 + 8, 190))
    mesh.decal(strips[0], (0.0, 1.0, 0.0, 0.75), trim)  # rear bumper
    lamp_low = 0.0 if rng.random() < 0.5 else -0.1
    braking = rng.random() < 0.35
    for a in (0.03, 0.82):
        mesh.decal(
            strips[1],
            (a, a + 0.15, 0.1 + lamp_low + 0.1, 0.95),
            (235, 40, 30) if braking else (150, 18, 20),
            glow=braking,
        )
    mesh.decal(strips[1], (0.36, 0.64, 0.28, 0.72), (222, 220, 200) if rng.random() < 0.6 else (214, 190, 60))
    bow = strips[-1]  # runs downwards: b = 0 is its upper edge
    mesh.decal(bow, (0.0, 1.0, 0.62, 1.0), trim)
    mesh.decal(bow, (0.27, 0.73, 0.12, 0.45), (28, 28, 30))
    mesh.decal(bow, (0.38, 0.62, 0.58, 0.74), (224, 222, 210))
    lit = rng.random() < 0.4
    for a in (0.03, 0.77):
        mesh.decal(bow, (a, a + 0.2, 0.05, 0.36), (255, 250, 226) if lit else (206, 210, 214), glow=lit)
    for sign in (-1, 1):
        x = sign * half
        lower = [(x, y, z) for z, y in profile if y <= waist * 1.13]
        side = mesh.face(lower, paint * 0.97)
        sill = [
            (x, 0.2 * height, profile[0][0] * 0.99),
            (x, 0.2 * height, profile[-1][0] * 0.99),
            (x, 0.28 * height, profile[-1][0] * 0.99),
            (x, 0.28 * height, profile[0][0] * 0.99),
        ]
        mesh.face(sill, trim * 0.8, parent=side)
        belt = [
            (x, 0.48 * height, profile[1][0] * 0.98),
            (x, 0.48 * height, profile[-2][0] * 0.98),
            (x, 0.505 * height, profile[-2][0] * 0.98),
            (x, 0.505 * height, profile[1][0] * 0.98),
        ]
        mesh.face(belt, np.minimum(paint * 1.2 + 10, 250), parent=side)
        for z in (-0.12 * length, 0.13 * length):
            mesh.face(
                [(x, 0.3 * height, z), (x, 0.3 * height, z + 0.025), (x, waist, z + 0.025), (x, waist, z)],
                paint * 0.55,
                parent=side,
            )
        _wheels(mesh, side, x * 1.005, axles, radius)
        top = [p for p in profile if p[1] > height * 0.9]
        back, front = profile[2 + saloon], profile[screen + 1]
        upper = [(sign * half_at(back[1]), back[1], back[0]), (sign * half_at(front[1]), front[1], front[0]),
                 (sign * roof, top[-1][1], top[-1][0]), (sign * roof, top[0][1], top[0][0])]  # fmt: skip
        house = mesh.face(upper, paint)
        if kind == "van" and rng.random() < 0.7:
            mesh.decal(house, (0.68, 0.90, 0.1, 0.85), glass)
        else:
            mesh.decal(house, (0.07, 0.30 if kind != "saloon" else 0.24, 0.08, 0.86), glass)
            mesh.decal(house, (0.33 if kind != "saloon" else 0.28, 0.58, 0.08, 0.88), glass)
            mesh.decal(house, (0.61, 0.92, 0.08, 0.88), glass)
        mesh.face([(x, waist, front[0] - 0.35), (x + sign * 0.16, waist, front[0] - 0.32),
                   (x + sign * 0.16, waist + 0.14, front[0] - 0.32), (x, waist + 0.14, front[0] - 0.35)],
                  paint * 0.7, two_sided=True)  # fmt: skip
    return mesh.finish()


def _coach(
    mesh: MeshBuilder, size: tuple[float, float, float, float], paint, band, rng, *, panes: int, low=0.35
) -> dict[str, int]:
    """A body with window bands on both sides, windscreen and rear window: bus or tram section."""
    half, z0, z1, height = size
    faces = mesh.box((-half, half), (low, height), (z0, z1), paint)
    stripe = (rng.uniform(0.06, 0.16), rng.uniform(0.2, 0.34))
    glass = np.array(GLASS) * rng.uniform(0.7, 1.5)
    for name in ("left", "right"):
        side = faces[name]
        mesh.decal(side, (0, 1, *stripe), band)
        mesh.decal(side, (0, 1, 0, 0.06), np.array(paint) * 0.4)
        mesh.decal(side, (0.02, 0.98, 0.42, 0.80), (26, 28, 32))
        for k in range(panes):
            a = 0.03 + 0.94 * k / panes
            mesh.decal(side, (a, a + 0.94 / panes - 0.012, 0.44, 0.78), glass * rng.uniform(0.85, 1.3))
        for a in (0.12, 0.52):
            a = a if name == "right" else 0.86 - a
            mesh.decal(side, (a, a + 0.9 / panes, 0.05, 0.80), glass * 0.8)
            mesh.decal(side, (a + 0.44 / panes, a + 0.47 / panes, 0.05, 0.80), np.array(paint) * 0.8)
    for name in ("back", "front"):
        end = faces[name]
        mesh.decal(end, (0, 1, *stripe), band)
        mesh.decal(end, (0.06, 0.94, 0.40, 0.80), glass * (1.3 if name == "front" else 1.0))
        mesh.decal(end, (0.2, 0.8, 0.84, 0.94), (20, 20, 22))
        mesh.decal(end, (0.3, 0.7, 0.87, 0.92), (250, 170, 40), glow=True)
        mesh.decal(end, (0, 1, 0.0, 0.07), np.array(paint) * 0.35)
        lamp, glow = ((250, 246, 225), True) if name == "front" else ((170, 24, 22), False)
        for a in (0.04, 0.84):
            mesh.decal(end, (a, a + 0.12, 0.12, 0.20), lamp, glow=glow)
    mesh.decal(faces["top"], (0.2, 0.8, 0.3, 0.6), np.array(paint) * 0.8)
    return faces


COACH_PAINTS = [
    (190, 30, 34), (226, 200, 60), (232, 230, 224), (40, 92, 160), (60, 140, 90), (230, 120, 40),
    (150, 196, 210), (96, 34, 110), (214, 214, 206),
]  # fmt: skip


def bus(rng: np.random.Generator) -> Mesh:
    """A city bus, sometimes a double-decker."""
    length, half = rng.uniform(9.5, 12), 1.25
    double = rng.random() < 0.3
    paint = np.array(COACH_PAINTS[rng.integers(len(COACH_PAINTS))], float)
    band = np.array(COACH_PAINTS[rng.integers(len(COACH_PAINTS))], float)
    mesh = MeshBuilder(BUS)
    _tyres(mesh, half, (-length * 0.5 + 0.3, length * 0.5 - 0.3), 0.48)
    faces = _coach(mesh, (half, -length / 2, length / 2, 3.0), paint, band, rng, panes=int(rng.integers(6, 9)))
    for name, x in (("left", -half), ("right", half)):
        _wheels(mesh, faces[name], x, [-length * 0.27, length * 0.29], 0.48)
    if double:
        upper = mesh.box((-half, half), (3.0, 4.3), (-length / 2, length / 2), paint)
        for name in ("left", "right", "back", "front"):
            mesh.decal(upper[name], (0.03, 0.97, 0.28, 0.75), np.array(GLASS))
    return mesh.finish()


def tram(rng: np.random.Generator) -> Mesh:
    """A tram of two or three sections with bellows, skirts and pantograph (class train)."""
    sections, each, half = int(rng.integers(2, 4)), rng.uniform(7.5, 9.5), 1.22
    paint = np.array(COACH_PAINTS[rng.integers(len(COACH_PAINTS))], float)
    band = np.array(COACH_PAINTS[rng.integers(len(COACH_PAINTS))], float)
    mesh = MeshBuilder(TRAIN)
    z = -sections * each / 2
    for k in range(sections):
        _coach(mesh, (half, z + 0.25, z + each - 0.25, 3.25), paint, band, rng, panes=5, low=0.22)
        if k + 1 < sections:
            mesh.box((-half + 0.1, half - 0.1), (0.3, 3.1), (z + each - 0.25, z + each + 0.25), (44, 44, 46))
        z += each
    for x in (-0.6, 0.6):
        mesh.face(
            [(x - 0.04, 3.25, -0.8), (x + 0.04, 3.25, -0.8), (x * 0.9 + 0.04, 4.5, 0.4), (x * 0.9 - 0.04, 4.5, 0.4)],
            (50, 50, 54),
            two_sided=True,
        )
    mesh.face([(-0.8, 4.46, 0.4), (0.8, 4.46, 0.4), (0.8, 4.56, 0.4), (-0.8, 4.56, 0.4)], (40, 40, 44), two_sided=True)
    return mesh.finish()


def truck(rng: np.random.Generator) -> Mesh:
    """A lorry: cab with windscreen, box or tarpaulin body, chassis, wheels."""
    length, half, height = rng.uniform(6.5, 9.0), 1.22, rng.uniform(2.9, 3.6)
    cab_paint = np.array(PAINTS[rng.integers(len(PAINTS))], float)
    body = np.array(
        [(228, 228, 224), (190, 190, 188), (46, 82, 140), (150, 40, 36), (210, 170, 60), (70, 110, 80)][
            rng.integers(6)
        ],
        float,
    )
    cab = length / 2 - 1.9
    mesh = MeshBuilder(TRUCK)
    _tyres(mesh, half, (-length / 2 + 0.4, length / 2 - 0.4), 0.48)
    chassis = mesh.box((-half + 0.05, half - 0.05), (0.45, 0.95), (-length / 2 + 0.05, length / 2 - 0.1), (44, 44, 46))
    load = mesh.box((-half, half), (0.95, height), (-length / 2, cab - 0.15), body)
    front = mesh.box((-half + 0.03, half - 0.03), (0.5, 2.75), (cab, length / 2), cab_paint)
    mesh.decal(load["back"], (0.02, 0.98, 0.02, 0.98), body * 0.92)
    mesh.decal(load["back"], (0.49, 0.51, 0.0, 1.0), body * 0.5)
    for a in (0.2, 0.8):
        mesh.decal(load["back"], (a - 0.01, a + 0.01, 0.05, 0.95), body * 0.65)
    for a in (0.02, 0.84):
        mesh.decal(chassis["back"], (a, a + 0.14, 0.4, 0.8), (190, 26, 24))
    mesh.decal(chassis["back"], (0.4, 0.6, 0.3, 0.7), (222, 220, 200))
    logo = np.array(COACH_PAINTS[rng.integers(len(COACH_PAINTS))], float)
    for name, x in (("left", -half), ("right", half)):
        if rng.random() < 0.7:
            mesh.decal(load[name], (0.2, 0.8, 0.3, 0.65), logo)
        _wheels(mesh, chassis[name], x, [-length * 0.33, length / 2 - 1.1], 0.48)
        mesh.decal(front[name], (0.2, 0.8, 0.52, 0.88), GLASS)
        mesh.decal(front[name], (0.14, 0.16, 0.05, 0.9), cab_paint * 0.5)
    mesh.decal(front["front"], (0.06, 0.94, 0.50, 0.88), np.array(GLASS) * 1.3)
    mesh.decal(front["front"], (0.2, 0.8, 0.2, 0.42), (34, 34, 36))
    mesh.decal(front["front"], (0.0, 1.0, 0.0, 0.12), (60, 60, 62))
    for a in (0.04, 0.80):
        mesh.decal(front["front"], (a, a + 0.16, 0.14, 0.24), (240, 238, 220))
    return mesh.finish()
