"""Objects and their places: the street as a function of seed, place and time."""

from __future__ import annotations

import math

from m2f_ros.street import furniture, roadside
from m2f_ros.street.cast import POSES, Cast, instance_id
from m2f_ros.street.layout import AHEAD, CROSSING, DECK, GARDEN, HOUSES, LOT, PARK, WALLED, Layout
from m2f_ros.street.raster import Placed
from m2f_ros.street.traffic import Traffic


class Scene:
    """Deterministic street: `objects(z, time)` depends on nothing but the seed and its arguments."""

    def __init__(self, seed: int):
        self.cast = Cast(seed)
        self.layout = Layout(self.cast.rng(1))
        self.traffic = Traffic(self.layout, self.cast)
        self._lots: dict[tuple[int, int], list[Placed]] = {}
        self._decks: dict[tuple[int, int], list[int]] = {}

    def lot_kind(self, side: int, lot: int) -> int:
        """Return the kind of lot `lot`, behind the pavement on a side (1 right, -1 left), from lot * LOT on."""
        if lot % DECK == self.layout.crossing:
            return CROSSING
        group = lot // DECK
        if (side, group) not in self._decks:
            rng = self.cast.rng(2, side, group)
            kinds = [WALLED, GARDEN, PARK, HOUSES, HOUSES]
            kinds += list(
                rng.choice(
                    [HOUSES, GARDEN, PARK, WALLED],
                    size=DECK - len(kinds),
                    p=[1 - 0.6 * self.layout.greenery] + [0.2 * self.layout.greenery] * 3,
                )
            )
            if len(self._decks) > 256:
                self._decks.clear()
            self._decks[side, group] = [int(k) for k in rng.permutation(kinds)]
        return self._decks[side, group][lot % DECK]

    def _lot(self, side: int, lot: int) -> list[Placed]:
        if (side, lot) not in self._lots:
            if len(self._lots) > 128:
                self._lots.clear()
            self._lots[side, lot] = self._build_lot(side, lot)
        return self._lots[side, lot]

    def _build_lot(self, side: int, lot: int) -> list[Placed]:
        rng, layout, z = self.cast.rng(3, side, lot), self.layout, lot * LOT
        kerb, edge = (layout.right_kerb, layout.right_walk) if side > 0 else (layout.left_kerb, layout.left_walk)
        kind, out = self.lot_kind(side, lot), []
        floors = max(1, layout.floors + int(rng.integers(-1, 2)))

        def tree(x: float, at: float) -> None:
            index, bare = int(rng.integers(10)), bool(rng.random() < layout.bare)
            mesh = self.cast.mesh(("tree", index, bare), lambda: roadside.tree(self.cast.rng(4, index), bare))
            out.append(Placed(mesh, x, at, thin=0.25))

        if kind == CROSSING:
            if rng.random() < 0.7:
                tree(edge + side * 8, z + LOT - 1.0)
            return out
        if kind == HOUSES:
            split = rng.choice([LOT, LOT / 2, 10.0])
            start = 0.0
            while start < LOT - 0.1:
                length = min(split, LOT - start)
                shop = bool(rng.random() < layout.shops)
                house = roadside.house(rng, side, length, floors=max(0, floors - 1 + int(rng.integers(2))), shop=shop)
                out.append(Placed(house, edge, z + start, solid=True))
                start += length
        else:
            boundary = edge + (0.1 if side > 0 else -0.4)
            if kind == GARDEN:
                out.append(Placed(roadside.fence(rng, LOT - 2), boundary, z))
                setback = rng.uniform(3.5, 7)
                house = roadside.house(rng, side, rng.uniform(9, 13), floors=max(1, floors - 1), shop=False)
                out.append(Placed(house, edge + side * setback, z + 1.0, solid=True))
                for _ in range(int(rng.integers(1, 5))):
                    mesh = roadside.bush(rng)
                    out.append(
                        Placed(
                            mesh, edge + side * rng.uniform(1.2, setback - 1.4), z + rng.uniform(1, LOT - 1), thin=0.2
                        )
                    )
            elif kind == WALLED:
                out.append(Placed(roadside.wall(rng, LOT), boundary, z, solid=True))
                if rng.random() < 0.5:
                    house = roadside.house(rng, side, 12, floors=floors, shop=False)
                    out.append(Placed(house, edge + side * 9, z + 2, solid=True))
            else:
                border = rng.random()
                if border < 0.35:
                    out.append(
                        Placed(roadside.hedge(rng, LOT - 3), boundary if side > 0 else boundary - 0.8, z, solid=True)
                    )
                elif border < 0.7:
                    out.append(Placed(roadside.fence(rng, LOT), boundary, z))
                else:
                    out.append(Placed(roadside.wall(rng, LOT), boundary, z, solid=True))
            for _ in range(int(rng.integers(1, 3 + int(4 * layout.greenery)))):
                tree(edge + side * rng.uniform(2.5, 16), z + rng.uniform(0, LOT))
        far = roadside.backdrop(rng, bool(rng.random() < 0.7), LOT + 6, rng.uniform(6, 11))
        out.append(Placed(far, edge + side * 26, z + LOT * 0.5, thin=0.3))

        curb = kerb + side * 0.55
        if rng.random() < layout.trees:
            tree(curb + side * 0.2, z + rng.uniform(2, 7))
            if rng.random() < layout.trees * 0.6:
                tree(curb + side * 0.2, z + rng.uniform(13, 15.5))
        if (lot + (side > 0)) % 2 == 0:
            index = int(rng.integers(2))
            lamp = self.cast.mesh(("lamp", side, index), lambda: furniture.lamp(self.cast.rng(5, index), side))
            out.append(Placed(lamp, curb, z + 9.0, thin=0.2))
        if rng.random() < 0.75:
            out.append(Placed(furniture.sign(rng), curb, z + rng.uniform(10.5, 13), thin=0.3))
        if rng.random() < 0.3:
            bollard = self.cast.mesh(("bollard",), lambda: furniture.bollard(self.cast.rng(6)))
            out += [Placed(bollard, kerb + side * 0.35, z + 0.5 + 1.6 * k, thin=0.1) for k in range(4)]
        slot = lot * 2 + (side > 0)
        if rng.random() < 0.6:
            for k in range(int(rng.integers(1, 4))):
                out.append(
                    Placed(
                        self.cast.fleet("parked_bicycle", rng),
                        edge - side * 0.6,
                        z + 4 + 0.9 * k,
                        thin=0.25,
                        instance=instance_id(0, slot * 8 + k),
                    )
                )
        if rng.random() < 0.55:
            out.append(
                Placed(
                    self.cast.fleet("parked_motorcycle", rng),
                    kerb + side * 0.9,
                    z + 14.5,
                    thin=0.25,
                    instance=instance_id(1, slot),
                )
            )
        for k in range(2):  # people who stand and wait
            if rng.random() < layout.people * 0.35:
                mesh = self.cast.walker(int(rng.integers(24)), int(rng.integers(len(POSES))), 0)
                out.append(Placed(mesh, edge - side * rng.uniform(0.5, 1.2), z + 8 + 1.5 * k, thin=0.25,
                                  instance=instance_id(2, slot * 8 + k)))  # fmt: skip
        return out

    def objects(self, z: float, time: float) -> list[Placed]:
        """Return all objects visible from z (metres along the road) at a time (seconds)."""
        out: list[Placed] = []
        traffic = self.traffic
        for lot in range(math.floor((z - 14) / LOT), math.floor((z + AHEAD) / LOT) + 1):
            for side in (1, -1):
                out += self._lot(side, lot)
        green = self.layout.backdrop_green
        wide = self.cast.mesh(("end", green), lambda: roadside.backdrop(self.cast.rng(14), green, 150, 14))
        out.append(Placed(wide, 0.0, z + AHEAD + 12, thin=80))
        out += traffic.parked(z) + traffic.vehicles(z, time) + traffic.walkers(z, time) + traffic.lights(z, time)
        return [o for o in out if z - 16 < o.z + abs(o.mesh.high[2]) and o.z - 20 < z + AHEAD + 15]
