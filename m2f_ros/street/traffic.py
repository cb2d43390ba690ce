"""Moving and parked traffic of a simulated street, and its lights: functions of place and time."""

from __future__ import annotations

import math
from functools import partial

from m2f_ros.street import furniture, people
from m2f_ros.street.cast import Cast, instance_id
from m2f_ros.street.layout import AHEAD, DECK, LOT, Layout
from m2f_ros.street.raster import Placed


class Traffic:
    """Traffic in streams, each a row of slots with constant speed, so that any moment can be computed directly."""

    def __init__(self, layout: Layout, cast: Cast):
        self.layout, self.cast, self.seed = layout, cast, cast.seed

    def _stream(self, number: int, spacing: float, velocity: float, z: float, time: float, ahead: float = AHEAD):
        """Yield (slot, generator, position) of a stream that moves at `velocity`."""
        first = math.ceil((z - 8 - velocity * time) / spacing)
        last = math.floor((z + ahead - velocity * time) / spacing)
        for slot in range(first, last + 1):
            rng = self.cast.rng(10, number, slot)
            yield slot, rng, slot * spacing + velocity * time + rng.uniform(-0.1, 0.1) * min(spacing, 16.0)

    def vehicles(self, z: float, time: float) -> list[Placed]:
        layout, out = self.layout, []
        for slot, rng, at in self._stream(1, 16.0, -layout.speed * 0.9, z, time):  # oncoming lane
            kind, turn = rng.random(), (slot + self.seed) % 12
            if kind > layout.traffic and turn not in (3, 9):
                continue
            x = layout.oncoming + rng.uniform(-0.25, 0.25)
            instance = instance_id(3, slot)
            if turn == 9:
                out.append(Placed(self.cast.fleet("bus", rng), x, at, math.pi, instance, solid=True))
            elif turn == 3:
                out.append(Placed(self.cast.fleet("truck", rng), x, at, math.pi, instance, solid=True))
            elif kind < 0.14:
                mesh = self.cast.rider(int(rng.integers(8)), math.pi - 0.1, 0, True)
                out.append(Placed(mesh, x + 0.3, at, 0.0, instance, thin=0.3))
            else:
                out.append(Placed(self.cast.fleet("car", rng), x, at, math.pi, instance, solid=True))
        if layout.own_track:
            for slot, rng, at in self._stream(2, 84.0, -layout.speed * 0.35, z, time):
                out.append(
                    Placed(self.cast.fleet("tram", rng), layout.track_x, at, math.pi, instance_id(4, slot), solid=True)
                )
        else:
            out = self._tram_among(out, z, time)
        # the lane ahead: every 18 seconds another vehicle falls back towards the camera and pulls away again
        for offset, kinds in ((0.0, "ccbccmctc"), (9.0, "ctccmcbc")):
            epoch = math.floor((time + offset + self.seed % 7) / 18.0)
            share = (time + offset + self.seed % 7) / 18.0 - epoch
            rng = self.cast.rng(11, int(offset), epoch)
            kind = kinds[(epoch + self.seed) % len(kinds)]
            nearest = rng.uniform(9, 22) if offset == 0.0 else rng.uniform(36, 50)
            if kind in "bt":
                nearest += 12
            gap = nearest + (AHEAD - nearest) * abs(2 * share - 1) ** 3
            if kind == "m":
                mesh = self.cast.rider(int(rng.integers(8)), 0.1, 0, True)
                out.append(Placed(mesh, 0.3, z + gap, 0.0, instance_id(5, epoch * 2 + (offset > 0)), thin=0.3))
            else:
                mesh = self.cast.fleet({"c": "car", "b": "bus", "t": "truck"}[kind], rng)
                out.append(Placed(mesh, rng.uniform(-0.2, 0.2), z + gap + mesh.high[2], 0.0,
                                  instance_id(5, epoch * 2 + (offset > 0)), solid=True))  # fmt: skip
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
                    mesh = self.cast.rider(int(rng.integers(8)), heading, turn, motor)
                    out.append(
                        Placed(mesh, x + rng.uniform(-0.15, 0.15), at, 0.0, instance_id(6 + number - 3, slot), thin=0.3)
                    )
        return out

    def _tram_among(self, traffic: list[Placed], z: float, time: float) -> list[Placed]:
        """Add trams on the rails of the oncoming lane, and remove vehicles in their way."""
        velocity = -self.layout.speed * 0.9
        for slot, rng, at in self._stream(2, 96.0, velocity, z, time):
            at += -self.seed % 6 * 16.0 - (96.0 if self.seed % 6 else 0.0)  # every sixth slot of the lane's traffic
            tram = Placed(
                self.cast.fleet("tram", rng), self.layout.track_x, at, math.pi, instance_id(4, slot), solid=True
            )
            half = tram.mesh.high[2] + 1.5
            traffic = [
                o
                for o in traffic
                if abs(o.z - at) > half + max(o.mesh.high[2], 1)
                or instance_id(3, 0) > o.instance
                or o.instance >= instance_id(4, 0)
            ]
            traffic.append(tram)
        return traffic

    def parked(self, z: float) -> list[Placed]:
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
                if self.cast.rng(15, side, slot // 6).random() > layout.parked:
                    continue
                rng = self.cast.rng(12, side, slot)
                instance = instance_id(8 if side > 0 else 9, slot)
                big = (slot + 7 * self.seed) % 26
                if big == 2:  # a lorry or bus fills two places
                    kind = "truck" if (slot // 26 + self.seed + (side > 0)) % 2 else "bus"
                    mesh = self.cast.fleet(kind, rng)
                    out.append(Placed(mesh, x, at + 3.0, yaw, instance, solid=True))
                elif big in (1, 3, 4):
                    continue
                elif rng.random() < 0.9:
                    mesh = self.cast.fleet("car", rng)
                    out.append(
                        Placed(
                            mesh,
                            x + rng.uniform(-0.12, 0.12),
                            at + rng.uniform(-0.3, 0.3),
                            yaw + rng.uniform(-0.03, 0.03) + (math.pi if rng.random() < 0.15 else 0),
                            instance,
                            solid=True,
                        )
                    )
        return out

    def walkers(self, z: float, time: float) -> list[Placed]:
        layout, out = self.layout, []
        lanes = [(layout.right_kerb + 1.3, layout.right_walk - 0.3), (layout.left_walk + 0.3, layout.left_kerb - 1.3)]
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
                            self.cast.walker(who, pose, phase), x, at, 0.0, instance_id(number - 10, slot), thin=0.22
                        )
                    )
                    if rng.random() < 0.25:
                        out.append(
                            Placed(
                                self.cast.walker(int(rng.integers(24)), pose, (phase + 3) % people.PHASES),
                                x + 0.55,
                                at + 0.15,
                                0.0,
                                instance_id(number - 6, slot),
                                thin=0.22,
                            )
                        )
        # people who cross at the zebra while the camera is still away
        for crossing in range(math.floor(z / LOT / DECK), math.floor((z + AHEAD) / LOT / DECK) + 2):
            at = (crossing * DECK + layout.crossing) * LOT - 2.4
            gap = at - z
            if not 10 < gap < 90:
                continue
            for k in range(5):
                rng = self.cast.rng(13, crossing, k)
                share = (78 - gap) / rng.uniform(42, 60) + rng.uniform(-0.35, 0.1)
                if not 0 <= share <= 1:
                    continue
                left, right = layout.left_kerb - 0.5, layout.right_kerb + 0.5
                rightwards = bool(rng.random() < 0.5)
                x = left + (right - left) * (share if rightwards else 1 - share)
                phase = int((time * 1.1 + rng.random()) * people.PHASES) % people.PHASES
                mesh = self.cast.walker(int(rng.integers(24)), 2 if rightwards else 5, phase)
                out.append(Placed(mesh, x, at + rng.uniform(-1, 1), 0.0, instance_id(19, crossing * 8 + k), thin=0.25))
        return out

    def lights(self, z: float, time: float) -> list[Placed]:
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
                mesh = self.cast.mesh(
                    ("light", state, with_mast, side), partial(furniture.traffic_light, state, with_mast, side)
                )
                out.append(Placed(mesh, x, at + near, thin=0.2))
        # and between the crossings, at pedestrian lights
        for k in range(math.floor(z / 64), math.floor((z + AHEAD) / 64) + 1):
            side = 1 if k % 2 else -1
            x = layout.right_kerb + 0.4 if side > 0 else layout.left_kerb - 0.4
            state = (2, 0)[int(time / 6 + k) % 2]
            light = partial(furniture.traffic_light, state, False, side)
            mesh = self.cast.mesh(("light", state, False, side), light)
            out.append(Placed(mesh, x, k * 64.0 + 30, thin=0.2))
        return out
