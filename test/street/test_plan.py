"""The true grid of the street agrees with the pictures' own depth and labels, pixel by pixel."""

import numpy as np
import pytest

from m2f_ros import taxonomy
from m2f_ros.space.costs import LETHAL, UNKNOWN, read_costs
from m2f_ros.space.grid import GridSettings
from m2f_ros.street import Street
from m2f_ros.street.plan import plan, seen

COSTS = read_costs("", taxonomy.get("cityscapes"))
SETTINGS = GridSettings()
# Traffic on the right, and, in a mirrored street, on the left.
FRAMES = [(2004, 40), (3, 10), (7, 12)]


class Shot:
    """A frame with its grids, and the points of its pixels within the grid: place, height, label, row, column."""

    def __init__(self, seed, index):
        street = Street(seed)
        frame = street.frame(index)
        self.plan = plan(street, index, SETTINGS, COSTS)
        self.seen = seen(street, index, SETTINGS, self.plan, frame.depth)
        fx, _, cx, _, fy, cy, *_ = street.camera.k
        v, u = np.nonzero(np.isfinite(frame.depth))
        z = frame.depth[v, u]
        points = np.stack([(u - cx) / fx * z, (v - cy) / fy * z, z, np.ones(len(z))])
        x, y, self.z, _ = street.pose(index).base_from_camera @ points
        self.label = frame.label[v, u]
        place = np.stack([y - SETTINGS.y[0], x - SETTINGS.x[0]]) / SETTINGS.resolution
        inside = (place >= 0).all(axis=0) & (place < np.array(SETTINGS.shape)[:, None]).all(axis=0)
        self.z, self.label, place = self.z[inside], self.label[inside], place[:, inside]
        self.row, self.column = np.floor(place).astype(int)
        self.off_centre = np.abs(place - np.floor(place) - 0.5).max(axis=0)


@pytest.fixture(scope="module", params=FRAMES, ids=str)
def shot(request):
    return Shot(*request.param)


def test_what_stands_in_a_picture_is_occupied_and_seen(shot):
    # A pixel is drawn where its centre is up to half a pixel outside of a face: not of the cells' outermost tenth.
    stands = (COSTS.table[shot.label] == LETHAL) & (shot.z >= 0.15) & (shot.z <= 2.0) & (shot.off_centre < 0.4)
    assert stands.sum() > 1000
    assert (shot.plan[shot.row[stands], shot.column[stands]] == LETHAL).all()
    assert (shot.seen[shot.row[stands], shot.column[stands]] == LETHAL).all()


def test_ground_in_a_picture_has_the_cost_of_its_class_and_is_seen(shot):
    ground = (np.abs(shot.z) < 1e-3) & (shot.off_centre < 0.05)
    cost = shot.plan[shot.row[ground], shot.column[ground]]
    free = (cost >= 0) & (cost < LETHAL)
    assert free.mean() > 0.95 and free.sum() > 500
    assert (cost[free] == COSTS.table[shot.label[ground]][free]).mean() > 0.999
    assert (shot.seen[shot.row[ground], shot.column[ground]] == cost)[free].mean() > 0.99


def test_a_frame_shows_a_part_of_the_plan(shot):
    known = shot.seen != UNKNOWN
    assert (shot.seen[known] == shot.plan[known]).all()
    assert 0.1 < known.mean() < (shot.plan != UNKNOWN).mean()
    # The cells right below the camera are out of the picture.
    assert not known[:, : round(1.0 / SETTINGS.resolution)].any()
