"""What stands where, and what moves: the street as a function of seed, place and time."""

from __future__ import annotations

import math

import numpy as np

from . import people, roadside, vehicles
from .layout import AHEAD, CROSSING, DECK, GARDEN, HOUSES, LOT, PARK, WALLED, Layout
from .mesh import Mesh
from .raster import Placed

_FLEET = {"car": 16, "truck": 4, "bus": 4, "tram": 4, "parked_bicycle": 8, "parked_motorcycle": 6}
_POSES = (0.0, 0.35, math.pi / 2, math.pi - 0.3, math.pi, -math.pi / 2)


class Scene:
    """Deterministic street: `objects(z, time)` depends on nothing but the seed and its arguments."""

    def __init__(self, seed: int):
        self.seed = seed
        self.layout = Layout(self._rng(1))
        self._meshes: dict[tuple, Mesh] = {}
        self._lots: dict[tuple[int, int], list[Placed]] = {}
        self._decks: dict[tuple[int, int], list[int]] = {}

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([self.seed, *(int(k) % (1 << 32) for k in key)]))

    def _mesh(self, key: tuple, make) -> Mesh:
        if key not in self._meshes:
            if len(self._meshes) > 3000:
                self._meshes.clear()
            self._meshes[key] = make()
        return self._meshes[key]

    # --- what stands ---

    def lot_kind(self, side: int, lot: int) -> int:
        """What lies behind the pavement on a side (1 right, -1 left) between lot * LOT and (lot + 1) * LOT."""
        if lot % DECK == self.layout.crossing:
            return CROSSING
        group = lot // DECK
        if (side, group) not in self._decks:
            rng = self._rng(2, side, group)
            kinds = [WALLED, GARDEN, PARK, HOUSES, HOUSES]
            kinds += list(rng.choice([HOUSES, GARDEN, PARK, WALLED], size=DECK - len(kinds),
                                     p=[1 - 0.6 * self.layout.greenery] + [0.2 * self.layout.greenery] * 3))  # fmt: skip
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
        rng, layout, z = self._rng(3, side, lot), self.layout, lot * LOT
        kerb, edge = (
            (layout.right_kerb, layout.right_walk) if side > 0 else (layout.left_kerb, layout.left_walk)
        )
        kind, out = self.lot_kind(side, lot), []
        floors = max(1, layout.floors + int(rng.integers(-1, 2)))

        def tree(x: float, at: float) -> None:
            index, bare = int(rng.integers(10)), bool(rng.random() < layout.bare)
            mesh = self._mesh(("tree", index, bare), lambda: roadside.tree(self._rng(4, index), bare))
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
                house = roadside.house(
                    rng, side, length, floors=max(0, floors - 1 + int(rng.integers(2))), shop=shop
                )
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
                            mesh,
                            edge + side * rng.uniform(1.2, setback - 1.4),
                            z + rng.uniform(1, LOT - 1),
                            thin=0.2,
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
                        Placed(
                            roadside.hedge(rng, LOT - 3),
                            boundary if side > 0 else boundary - 0.8,
                            z,
                            solid=True,
                        )
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
            lamp = self._mesh(("lamp", side, index), lambda: roadside.lamp(self._rng(5, index), side))
            out.append(Placed(lamp, curb, z + 9.0, thin=0.2))
        if rng.random() < 0.75:
            out.append(Placed(roadside.sign(rng), curb, z + rng.uniform(10.5, 13), thin=0.3))
        if rng.random() < 0.3:
            bollard = self._mesh(("bollard",), lambda: roadside.bollard(self._rng(6)))
            out += [Placed(bollard, kerb + side * 0.35, z + 0.5 + 1.6 * k, thin=0.1) for k in range(4)]
        slot = lot * 2 + (side > 0)
        if rng.random() < 0.6:
            for k in range(int(rng.integers(1, 4))):
                out.append(Placed(self._fleet("parked_bicycle", rng), edge - side * 0.6, z + 4 + 0.9 * k, thin=0.25,
                                  instance=_instance(0, slot * 8 + k)))  # fmt: skip
        if rng.random() < 0.55:
            out.append(Placed(self._fleet("parked_motorcycle", rng), kerb + side * 0.9, z + 14.5, thin=0.25,
                              instance=_instance(1, slot)))  # fmt: skip
        for k in range(2):  # people who stand and wait
            if rng.random() < layout.people * 0.35:
                mesh = self._walker(int(rng.integers(24)), int(rng.integers(len(_POSES))), 0)
                out.append(Placed(mesh, edge - side * rng.uniform(0.5, 1.2), z + 8 + 1.5 * k, thin=0.25,
                                  instance=_instance(2, slot * 8 + k)))  # fmt: skip
        return out

    # --- meshes that are used again and again ---

    def _fleet(self, kind: str, rng: np.random.Generator) -> Mesh:
        index = int(rng.integers(_FLEET[kind]))
        makers = {
            "car": vehicles.car, "truck": vehicles.truck, "bus": vehicles.bus, "tram": vehicles.tram,
            "parked_bicycle": lambda r: people.parked_cycle(r, False),
            "parked_motorcycle": lambda r: people.parked_cycle(r, True),
        }  # fmt: skip
        number = list(_FLEET).index(kind)
        return self._mesh((kind, index), lambda: makers[kind](self._rng(7, number, index)))

    def _walker(self, who: int, pose: int, phase: int) -> Mesh:
        return self._mesh(
            ("walker", who, pose, phase),
            lambda: people.walker(people.dress(self._rng(8, who)), _POSES[pose], phase / people.PHASES),
        )

    def _rider(self, who: int, heading: float, phase: int, motor: bool) -> Mesh:
        return self._mesh(
            ("rider", who, heading, phase, motor),
            lambda: people.rider(people.dress(self._rng(9, who)), heading, phase / people.PHASES, motor),
        )

    # --- what moves ---

    def _stream(
        self, number: int, spacing: float, velocity: float, z: float, time: float, ahead: float = AHEAD
    ):
        """Slots of a stream that moves at `velocity`: yields (slot, its generator, its place now)."""
        first = math.ceil((z - 8 - velocity * time) / spacing)
        last = math.floor((z + ahead - velocity * time) / spacing)
        for slot in range(first, last + 1):
            rng = self._rng(10, number, slot)
            yield slot, rng, slot * spacing + velocity * time + rng.uniform(-0.1, 0.1) * min(spacing, 16.0)

    def _traffic(self, z: float, time: float) -> list[Placed]:
        layout, out = self.layout, []
        for slot, rng, at in self._stream(1, 16.0, -layout.speed * 0.9, z, time):  # oncoming lane
            kind, turn = rng.random(), (slot + self.seed) % 12
            if kind > layout.traffic and turn not in (3, 9):
                continue
            x = layout.oncoming + rng.uniform(-0.25, 0.25)
            instance = _instance(3, slot)
            if turn == 9:
                out.append(Placed(self._fleet("bus", rng), x, at, math.pi, instance, solid=True))
            elif turn == 3:
                out.append(Placed(self._fleet("truck", rng), x, at, math.pi, instance, solid=True))
            elif kind < 0.14:
                mesh = self._rider(int(rng.integers(8)), math.pi - 0.1, 0, True)
                out.append(Placed(mesh, x + 0.3, at, 0.0, instance, thin=0.3))
            else:
                out.append(Placed(self._fleet("car", rng), x, at, math.pi, instance, solid=True))
        if layout.own_track:
            for slot, rng, at in self._stream(2, 84.0, -layout.speed * 0.35, z, time):
                out.append(
                    Placed(
                        self._fleet("tram", rng), layout.track_x, at, math.pi, _instance(4, slot), solid=True
                    )
                )
        else:
            out = self._tram_among(out, z, time)
        # the lane ahead: every 18 seconds another vehicle falls back towards the camera and pulls away again
        for offset, kinds in ((0.0, "ccbccmctc"), (9.0, "ctccmcbc")):
            epoch = math.floor((time + offset + self.seed % 7) / 18.0)
            share = (time + offset + self.seed % 7) / 18.0 - epoch
            rng = self._rng(11, int(offset), epoch)
            kind = kinds[(epoch + self.seed) % len(kinds)]
            nearest = rng.uniform(9, 22) if offset == 0.0 else rng.uniform(36, 50)
            if kind in "bt":
                nearest += 12
            gap = nearest + (AHEAD - nearest) * abs(2 * share - 1) ** 3
            if kind == "m":
                mesh = self._rider(int(rng.integers(8)), 0.1, 0, True)
                out.append(Placed(mesh, 0.3, z + gap, 0.0, _instance(5, epoch * 2 + (offset > 0)), thin=0.3))
            else:
                mesh = self._fleet({"c": "car", "b": "bus", "t": "truck"}[kind], rng)
                out.append(Placed(mesh, rng.uniform(-0.2, 0.2), z + gap + mesh.high[2], 0.0,
                                  _instance(5, epoch * 2 + (offset > 0)), solid=True))  # fmt: skip
        for number, velocity, x, heading in (
            (3, 4.6, layout.cycle_x, 0.12),
            (4, -4.2, layout.left_kerb + 0.8, math.pi - 0.15),
        ):
            if number == 4 and layout.own_track:
                x = layout.oncoming - layout.lane + 0.2
            for slot, rng, at in self._stream(number, 19.0, velocity, z, time, 90):
                if rng.random() < 0.66 and at > z + 1.5:
                    motor = bool(rng.random() < 0.25)
                    turn = 0 if motor else int((time * 1.3 + rng.random()) * people.PHASES) % people.PHASES
                    mesh = self._rider(int(rng.integers(8)), heading, turn, motor)
                    out.append(
                        Placed(
                            mesh,
                            x + rng.uniform(-0.15, 0.15),
                            at,
                            0.0,
                            _instance(6 + number - 3, slot),
                            thin=0.3,
                        )
                    )
        return out

    def _tram_among(self, traffic: list[Placed], z: float, time: float) -> list[Placed]:
        """Puts trams on the rails of the oncoming lane and takes away the vehicles they would run into."""
        velocity = -self.layout.speed * 0.9
        for slot, rng, at in self._stream(2, 96.0, velocity, z, time):
            at += -self.seed % 6 * 16.0 - (
                96.0 if self.seed % 6 else 0.0
            )  # every sixth slot of the lane's traffic
            tram = Placed(
                self._fleet("tram", rng), self.layout.track_x, at, math.pi, _instance(4, slot), solid=True
            )
            half = tram.mesh.high[2] + 1.5
            traffic = [
                o for o in traffic
                if abs(o.z - at) > half + max(o.mesh.high[2], 1) or _instance(3, 0) > o.instance or o.instance >= _instance(4, 0)
            ]  # fmt: skip
            traffic.append(tram)
        return traffic

    def _parked(self, z: float) -> list[Placed]:
        layout, out = self.layout, []
        rows = [(1, layout.parking_x, 0.0)] if layout.parking else []
        if layout.left_parking is not None:
            rows.append((-1, layout.left_parking, math.pi))
        for side, x, yaw in rows:
            for slot in range(math.floor((z - 6) / 6.0), math.floor((z + 110) / 6.0)):
                at = slot * 6.0 + 3.0
                if (
                    (at // LOT) % DECK == layout.crossing
                    or ((at - 4) // LOT) % DECK == layout.crossing
                    or ((at + 4) // LOT) % DECK == layout.crossing
                ):
                    continue
                if self._rng(15, side, slot // 6).random() > layout.parked:
                    continue
                rng = self._rng(12, side, slot)
                instance = _instance(8 if side > 0 else 9, slot)
                big = (slot + 7 * self.seed) % 26
                if big == 2:  # a lorry or bus fills two places
                    kind = "truck" if (slot // 26 + self.seed + (side > 0)) % 2 else "bus"
                    mesh = self._fleet(kind, rng)
                    out.append(Placed(mesh, x, at + 3.0, yaw, instance, solid=True))
                elif big in (1, 3, 4):
                    continue
                elif rng.random() < 0.9:
                    mesh = self._fleet("car", rng)
                    out.append(Placed(mesh, x + rng.uniform(-0.12, 0.12), at + rng.uniform(-0.3, 0.3),
                                      yaw + rng.uniform(-0.03, 0.03) + (math.pi if rng.random() < 0.15 else 0), instance, solid=True))  # fmt: skip
        return out

    def _walkers(self, z: float, time: float) -> list[Placed]:
        layout, out = self.layout, []
        lanes = [
            (layout.right_kerb + 1.3, layout.right_walk - 0.3), (layout.left_walk + 0.3, layout.left_kerb - 1.3),
        ]  # fmt: skip
        number = 20
        for low, high in lanes:
            middle = (low + high) / 2
            for velocity, a, b in ((1.35, low, middle), (-1.25, middle, high)):
                number += 1
                for slot, rng, at in self._stream(number, 5.5, velocity, z, time, 85):
                    if rng.random() > layout.people:
                        continue
                    pose = (0, 1)[int(rng.integers(2))] if velocity > 0 else (3, 4)[int(rng.integers(2))]
                    phase = int((time * 0.95 + rng.random()) * people.PHASES) % people.PHASES
                    who = int(rng.integers(24))
                    x = rng.uniform(a, max(b, a + 0.05))
                    out.append(
                        Placed(
                            self._walker(who, pose, phase),
                            x,
                            at,
                            0.0,
                            _instance(number - 10, slot),
                            thin=0.22,
                        )
                    )
                    if rng.random() < 0.25:
                        out.append(Placed(self._walker(int(rng.integers(24)), pose, (phase + 3) % people.PHASES), x + 0.55, at + 0.15,
                                          0.0, _instance(number - 6, slot), thin=0.22))  # fmt: skip
        # people who cross at the zebra while the camera is still away
        for crossing in range(math.floor(z / LOT / DECK), math.floor((z + AHEAD) / LOT / DECK) + 2):
            at = (crossing * DECK + layout.crossing) * LOT - 2.4
            gap = at - z
            if not 10 < gap < 90:
                continue
            for k in range(5):
                rng = self._rng(13, crossing, k)
                share = (78 - gap) / rng.uniform(42, 60) + rng.uniform(-0.35, 0.1)
                if not 0 <= share <= 1:
                    continue
                left, right = layout.left_kerb - 0.5, layout.right_kerb + 0.5
                rightwards = bool(rng.random() < 0.5)
                x = left + (right - left) * (share if rightwards else 1 - share)
                phase = int((time * 1.1 + rng.random()) * people.PHASES) % people.PHASES
                mesh = self._walker(int(rng.integers(24)), 2 if rightwards else 5, phase)
                out.append(
                    Placed(mesh, x, at + rng.uniform(-1, 1), 0.0, _instance(19, crossing * 8 + k), thin=0.25)
                )
        return out

    def _lights(self, z: float, time: float) -> list[Placed]:
        layout, out = self.layout, []
        for crossing in range(math.floor(z / LOT / DECK) - 1, math.floor((z + AHEAD) / LOT / DECK) + 2):
            at = (crossing * DECK + layout.crossing) * LOT
            state = (2, 2, 1, 0)[int(time / 4 + crossing * 3 + self.seed) % 4]
            mast = (crossing + self.seed) % 2 == 0
            for side, x, near in (
                (1, layout.right_kerb + 0.5, -4.2),
                (-1, layout.left_kerb - 0.5, -4.2),
                (1, layout.right_kerb + 0.5, LOT + 1),
            ):
                with_mast = mast and side > 0 and near < 0
                mesh = self._mesh(
                    ("light", state, with_mast, side),
                    lambda s=state, m=with_mast, d=side: roadside.traffic_light(s, m, d),
                )
                out.append(Placed(mesh, x, at + near, thin=0.2))
        # and between the crossings, at pedestrian lights
        for k in range(math.floor(z / 64), math.floor((z + AHEAD) / 64) + 1):
            side = 1 if k % 2 else -1
            x = layout.right_kerb + 0.4 if side > 0 else layout.left_kerb - 0.4
            state = (2, 0)[int(time / 6 + k) % 2]
            mesh = self._mesh(
                ("light", state, False, side), lambda s=state, d=side: roadside.traffic_light(s, False, d)
            )
            out.append(Placed(mesh, x, k * 64.0 + 30, thin=0.2))
        return out

    def objects(self, z: float, time: float) -> list[Placed]:
        """Everything that may be seen from z (metres along the road) at a time (seconds)."""
        out: list[Placed] = []
        for lot in range(math.floor((z - 14) / LOT), math.floor((z + AHEAD) / LOT) + 1):
            for side in (1, -1):
                out += self._lot(side, lot)
        green = self.layout.backdrop_green
        wide = self._mesh(("end", green), lambda: roadside.backdrop(self._rng(14), green, 150, 14))
        out.append(Placed(wide, 0.0, z + AHEAD + 12, thin=80))
        out += self._parked(z) + self._traffic(z, time) + self._walkers(z, time) + self._lights(z, time)
        return [o for o in out if z - 16 < o.z + abs(o.mesh.high[2]) and o.z - 20 < z + AHEAD + 15]


def _instance(block: int, slot: int) -> int:
    """Ids of a kind of object: 1400 slots of two (an object and the machine it rides) before they come round again."""
    return 1 + block * 2800 + (slot % 1400) * 2
