"""The plan of a simulated street: its cross-section and density of use."""

from __future__ import annotations

import numpy as np

LOT = 16.0  # metres of roadside planned at a time
DECK = 8  # period of the kinds of lots on a side
AHEAD = 150.0  # metres of street that exist in front of the camera
HOUSES, GARDEN, WALLED, PARK, CROSSING = range(5)  # kinds of lot


class Layout:
    """The cross-section and mood of one street. Metres, x to the right of the camera's lane."""

    def __init__(self, rng: np.random.Generator):
        self.mirrored = bool(rng.random() < 0.35)
        self.speed = rng.uniform(6.5, 10.0)
        self.lane = rng.uniform(1.5, 1.9)
        self.oncoming = -2 * self.lane
        self.cycle_x = self.lane + 0.65
        self.parking_x = self.lane + 2.3
        self.parking = bool(rng.random() < 0.5)
        self.right_kerb = self.lane + (3.5 if self.parking else rng.uniform(0.25, 1.1))
        if not self.parking:
            self.cycle_x = self.right_kerb - 0.45
        self.right_walk = self.right_kerb + rng.uniform(2.4, 5.5)
        self.track_edge: float | None = None
        self.left_parking: float | None = None
        self.own_track = bool(rng.random() < 0.55)  # a tram track beside the road, else rails in the oncoming lane
        if self.own_track:
            self.track_edge = -3 * self.lane - 0.3
            self.track_x = self.track_edge - 1.8
            self.left_kerb = self.track_edge - 3.6
            self.grass_track = bool(rng.random() < 0.5)
        else:
            self.track_x = self.oncoming
            self.grass_track = False
            self.left_parking = -3 * self.lane - 1.2 if rng.random() < 0.5 else None
            self.left_kerb = -3 * self.lane - (0.3 if self.left_parking is None else 2.5)
        self.left_walk = self.left_kerb - rng.uniform(2.4, 5.5)
        self.trees = rng.uniform(0.2, 1.0)
        self.bare = rng.uniform(0, 1) if rng.random() < 0.5 else 0.0
        self.people = rng.uniform(0.25, 0.75)
        self.parked = rng.uniform(0.55, 1.0)
        self.traffic = rng.uniform(0.5, 0.95)
        self.floors = int(rng.integers(1, 5))
        self.shops = rng.uniform(0.15, 0.9)
        self.greenery = rng.uniform(0, 1)
        self.crossing = int(rng.integers(DECK))
        self.backdrop_green = bool(rng.random() < 0.5)
