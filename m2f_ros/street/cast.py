"""The cast of a simulated street: reusable meshes, built once, and seeded generators."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from m2f_ros.street import people, vehicles
from m2f_ros.street.mesh import Mesh

_FLEET = {"car": 16, "truck": 4, "bus": 4, "tram": 4, "parked_bicycle": 8, "parked_motorcycle": 6}
POSES = (0.0, 0.35, math.pi / 2, math.pi - 0.3, math.pi, -math.pi / 2)  # headings of walkers


class Cast:
    """Meshes of one street by key. The mesh of a key depends on the seed alone, not on earlier requests."""

    def __init__(self, seed: int):
        self.seed = seed
        self._meshes: dict[tuple, Mesh] = {}

    def rng(self, *key: int) -> np.random.Generator:
        """Return a separate generator for each key."""
        return np.random.Generator(np.random.PCG64([self.seed, *(int(k) % (1 << 32) for k in key)]))

    def mesh(self, key: tuple, make: Callable[[], Mesh]) -> Mesh:
        """Return the mesh of a key, built at the first request."""
        if key not in self._meshes:
            if len(self._meshes) > 3000:
                self._meshes.clear()
            self._meshes[key] = make()
        return self._meshes[key]

    def fleet(self, kind: str, rng: np.random.Generator) -> Mesh:
        """Return one of the street's vehicles of a kind (a key of _FLEET), chosen with rng."""
        index = int(rng.integers(_FLEET[kind]))
        makers = {
            "car": vehicles.car, "truck": vehicles.truck, "bus": vehicles.bus, "tram": vehicles.tram,
            "parked_bicycle": lambda r: people.parked_cycle(r, False),
            "parked_motorcycle": lambda r: people.parked_cycle(r, True),
        }  # fmt: skip
        number = list(_FLEET).index(kind)
        return self.mesh((kind, index), lambda: makers[kind](self.rng(7, number, index)))

    def walker(self, who: int, pose: int, phase: int) -> Mesh:
        """Return person `who` at step `phase` of PHASES. pose: index of POSES."""
        return self.mesh(
            ("walker", who, pose, phase),
            lambda: people.walker(people.dress(self.rng(8, who)), POSES[pose], phase / people.PHASES),
        )

    def rider(self, who: int, heading: float, phase: int, motor: bool) -> Mesh:
        """Return rider `who` on a bicycle or, with `motor`, a motorcycle."""
        return self.mesh(
            ("rider", who, heading, phase, motor),
            lambda: people.rider(people.dress(self.rng(9, who)), heading, phase / people.PHASES, motor),
        )


def instance_id(block: int, slot: int) -> int:
    """Return the id of an object of a kind: 1400 slots of two ids (an object, its machine), then they repeat."""
    return 1 + block * 2800 + (slot % 1400) * 2
