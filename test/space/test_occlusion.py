"""Points hidden by others, in scenes where ray casting says what a camera sees."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2f_ros.space.occlusion import hidden

WIDTH, HEIGHT, FOCAL = 640, 480, 500.0
SLOPE = 1 / FOCAL  # of a plane one metre beside the camera
GROUND, WALL, BOX = 0, 1, 2


class Scene:
    """Boxes on the ground before a wall. Coordinates are the camera's: x right, y down, z ahead."""

    def __init__(self, *boxes: tuple, height: float = 1.4, wall: float = 30.0) -> None:
        """boxes: (x0, x1, y0, y1, z0, z1). height: of the camera. wall: metres ahead."""
        self.boxes, self.height, self.wall = np.array(boxes, float).reshape(-1, 6), height, wall

    def cast(self, eye: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances along rays (N, 3), and what they hit."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ground = (self.height - eye[1]) / rays[:, 1]
            wall = (self.wall - eye[2]) / rays[:, 2]
            ways = [np.where(way > 0, way, np.inf) for way in (ground, wall)]
            for x0, x1, y0, y1, z0, z1 in self.boxes:
                one, other = ((corner - eye) / rays for corner in (np.array([x0, y0, z0]), np.array([x1, y1, z1])))
                near, far = np.minimum(one, other).max(1), np.maximum(one, other).min(1)
                ways.append(np.where((near <= far) & (near > 0), near, np.inf))
        return np.min(ways, 0), np.minimum(np.argmin(ways, 0), BOX)

    def scanned(self, lidar: tuple, rings: int = 48, columns: int = 1024) -> "Seen":
        """The points of a lidar at this place that fall on the camera's image."""
        rise = np.radians(np.linspace(-25, 15, rings))[:, None]
        turn = np.linspace(-math.pi, math.pi, columns, endpoint=False)
        axes = np.cos(rise) * np.sin(turn), -np.sin(rise) + 0 * turn, np.cos(rise) * np.cos(turn)
        rays, eye = np.stack(axes, -1).reshape(-1, 3), np.array(lidar, float)
        way, _ = self.cast(eye, rays)
        points = eye + rays * way[:, None]
        return Seen(self, points[np.isfinite(way) & (points[:, 2] > 0.1)])


class Seen:
    def __init__(self, scene: Scene, points: np.ndarray) -> None:
        pixels = FOCAL * points[:, :2] / points[:, 2:] + [(WIDTH - 1) / 2, (HEIGHT - 1) / 2]
        inside = ((pixels >= -0.5) & (pixels < [WIDTH - 0.5, HEIGHT - 0.5])).all(1)
        self.points, pixels = points[inside], pixels[inside]
        self.column, self.row = np.floor(pixels + 0.5).astype(np.int32).T
        self.distance = np.linalg.norm(self.points, axis=1).astype(np.float32)
        # The label image: what is seen at the centre of each pixel.
        centres = np.stack([self.column, self.row], 1) - [(WIDTH - 1) / 2, (HEIGHT - 1) / 2]
        _, kind = scene.cast(np.zeros(3), np.c_[centres / FOCAL, np.ones(len(centres))])
        self.kind = kind.astype(np.uint8)
        way, _ = scene.cast(np.zeros(3), self.points)
        self.visible = way > 0.98  # of the way to the point

    def hidden(self) -> np.ndarray:
        return hidden(self.row, self.column, self.distance, self.kind, (WIDTH, HEIGHT), SLOPE)


CAR = (-1, 1, 0.0, 1.4, 8, 12)
POST = (0.4, 0.6, -2, 1.4, 6, 6.2)
PEOPLE = [(x, x + 0.5, -0.3, 1.4, z, z + 0.4) for x, z in ((-2, 7), (0.5, 9), (2, 12))]


@pytest.mark.parametrize("rings", [16, 32, 64, 128])
@pytest.mark.parametrize("lidar", [(0, -0.6, -1), (-0.8, -0.3, 0), (1.5, -0.5, -2)], ids=["above", "beside", "far off"])
@pytest.mark.parametrize("boxes", [[CAR], PEOPLE, [POST]], ids=["car", "people", "post"])
def test_hidden_points_are_found_and_others_are_not(boxes, lidar, rings):
    seen = Scene(*boxes).scanned(lidar, rings)
    found = seen.hidden()
    assert (~seen.visible).sum() >= 5
    assert found[seen.visible].mean() < 0.03
    wrong = ~seen.visible & (seen.kind == BOX)  # behind a box, on its pixels: these would take its label
    assert (wrong & ~found).sum() <= 0.25 * wrong.sum()


@pytest.mark.parametrize("rings", [16, 32, 64, 128])
@pytest.mark.parametrize("height", [0.25, 0.6, 1.4, 3.0])
def test_an_open_ground_hides_nothing(rings, height):
    """Its rows of points lie above each other in the picture, at distances that differ by more than any margin."""
    seen = Scene(height=height, wall=60).scanned((0, -0.3, 0), rings)
    assert seen.visible.all()
    assert seen.hidden().mean() < 0.02


@pytest.mark.parametrize("side", [0.6, 2.0, 5.0])
def test_a_wall_along_the_way_hides_nothing(side):
    seen = Scene((side, side + 1, -4, 1.4, 0, 100), wall=100).scanned((-0.3, -0.4, -0.5), 64)
    assert (seen.kind == BOX).sum() > 1000
    assert seen.hidden()[seen.visible].mean() < 0.02


def grid(columns: range, rows: range, distance: float, kind: int) -> list[tuple]:
    return [(row, column, distance, kind) for row in rows for column in columns]


def found(points: list[tuple], size: tuple[int, int] = (320, 240), slope: float = SLOPE) -> np.ndarray:
    row, column, distance, kind = np.array(points).T
    return hidden(
        row.astype(np.int32), column.astype(np.int32), distance.astype(np.float32), kind.astype(np.uint8), size, slope
    )


def test_between_two_nearer_points():
    """A lattice 20 m ahead: what is 40 m ahead shows through it, where the picture shows something else as well."""
    near = grid(range(100, 201, 4), range(50, 151, 10), 20.0, BOX)
    assert found([*near, (95, 130, 40.0, BOX), (95, 130, 40.0, WALL), (95, 130, 20.5, BOX)])[len(near) :].tolist() == [
        True,
        False,
        False,
    ]
    assert not found(near).any()


def test_beside_a_nearer_point():
    """Half way to the next point the lattice goes on; two points away it has ended."""
    near = grid(range(100, 201, 4), range(50, 151, 10), 4.0, BOX)
    assert found([*near, (155, 150, 40.0, BOX), (175, 150, 40.0, BOX)])[len(near) :].tolist() == [True, False]


def test_points_at_no_distance_at_all_and_far_away():
    distances = [1e-38, 1e-3, 0.2, 0.31, 1.0, 1e3, 1e6, 3e38]
    points = [(10 * k, 10 * k, distance, WALL) for k, distance in enumerate(distances)]
    assert not found(points).any()
    assert found([(5, 5, 1e-38, WALL), (5, 5, 3e38, WALL)]).tolist() == [False, True]


def test_few_points_and_small_pictures():
    assert found([(0, 0, 5.0, WALL)], (1, 1)).tolist() == [False]
    assert found([(0, 0, 5.0, WALL), (0, 0, 50.0, WALL), (0, 0, 50.0, BOX)], (1, 1)).tolist() == [False, True, False]
    nothing = np.zeros(0, np.int32)
    assert hidden(nothing, nothing, np.zeros(0, np.float32), np.zeros(0, np.uint8), (9, 9), SLOPE).shape == (0,)


points = st.lists(
    st.tuples(st.integers(0, 47), st.integers(0, 63), st.floats(0.0625, 200, width=32), st.integers(0, 255)),
    min_size=1,
    max_size=80,
)


@given(points, st.randoms(use_true_random=False))
def test_the_order_of_points_changes_nothing(points, random):
    order = list(range(len(points)))
    random.shuffle(order)
    first = found(points, (64, 48))
    assert np.array_equal(first[order], found([points[k] for k in order], (64, 48)))


@given(points)
def test_only_nearer_points_of_the_same_class_hide(points):
    """So the nearest one of each class never is."""
    result = found(points, (64, 48))
    for kind in {kind for *_, kind in points}:
        assert not result[min((distance, k) for k, (*_, distance, of) in enumerate(points) if of == kind)[1]]


def test_planes_at_random_points_hide_next_to_nothing():
    """Planes of any slant and way past the camera, without the rings of a lidar."""
    rng, lost = np.random.default_rng(0), []
    for _ in range(200):
        row, column = rng.integers(0, 240, 2000), rng.integers(0, 320, 2000)
        rays = np.stack([(column - 159.5) / 250, (row - 119.5) / 250, np.ones(2000)], -1)
        normal, away = rng.normal(size=3), rng.uniform(0.2, 10)
        towards = rays @ normal / np.linalg.norm(normal)
        ahead = towards > away / 100  # nearer than 100 m
        distance = away / towards[ahead] * np.linalg.norm(rays[ahead], axis=1)
        if len(distance) > 300:
            points = np.c_[row[ahead], column[ahead], distance, np.zeros(len(distance))]
            lost.append(found(points, (320, 240), 1 / 250).mean())
    assert len(lost) > 100 and np.mean(lost) < 0.02 and max(lost) < 0.15
