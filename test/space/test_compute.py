"""The outputs of frames and clouds together: motion, late frames, faults of one output, and a state that goes on."""

from dataclasses import replace

import numpy as np
import pytest

from m2f_ros import taxonomy
from m2f_ros.frame.calibration import Calibration
from m2f_ros.space.cloud import Cloud
from m2f_ros.space.compute import Space, SpaceSettings
from m2f_ros.space.grid import GridSettings
from m2f_ros.space.labelled import Labelled
from m2f_ros.space.transforms import OPTICAL, Transforms, pose

CITYSCAPES = taxonomy.get("cityscapes")
ROAD, CAR = 0, 13
SECOND = 10**9
INFO = Calibration.pinhole(64, 48, 40.0, 40.0, 31.5, 23.5)
GRID = GridSettings(x=(0.0, 12.0), y=(-6.0, 6.0), resolution=0.25, decay_moving=2.0)
ALL = ("points", "detections", "grid", "obstacles", "lidar")


def labelled(stamp_ns=SECOND, camera="", wall=6.0, calibration=INFO, frame_id="cam"):
    """A wall of cars ahead, which is seen from 1.5 metres above the road."""
    v = np.arange(48)[:, None] * np.ones(64)
    with np.errstate(divide="ignore"):
        ground = np.where(v > 23.5, 1.5 * 40 / (v - 23.5), np.inf)
    depth = np.minimum(ground, wall).astype(np.float32)
    label = np.where(ground < wall, ROAD, CAR).astype(np.uint8)
    return Labelled(
        camera, stamp_ns, frame_id, calibration, label, 255, np.full(label.shape, 200, np.uint8), depth=depth
    )


def tree(odom=True, until=4 * SECOND, speed=1.0):
    """tf of a base that moves ahead, a metre a second."""
    found = Transforms()
    found.put("base_link", "cam", pose((0, 0, 1.5, 0, 0, 0)) @ OPTICAL, 0, static=True)
    found.put("base_link", "lidar", pose((0, 0, 1.5, 0, 0, 0)), 0, static=True)
    for stamp in range(0, until + 1, SECOND // 10) if odom else ():
        found.put("odom", "base_link", pose((speed * stamp / SECOND, 0, 0, 0, 0, 0)), stamp)
    return found


class Tried:
    """A Space with what could not be made."""

    def __init__(self, **settings):
        self.missed = []
        self.told = []
        chosen = SpaceSettings(**{"grid": GRID, **settings})
        self.space = Space(
            chosen, CITYSCAPES, lambda name, error: self.missed.append((name, str(error))), self.told.append
        )

    def frame(self, labelled, transforms, want=ALL):
        return {found.name: found for found in self.space.frame(labelled, transforms, want)}


def cloud(stamp_ns=SECOND):
    x = np.array([5.9, 3.0], np.float32)  # before the wall, and the ground
    z = np.array([0.0, -1.5], np.float32)
    return Cloud.of_columns({"x": x, "y": 0 * x, "z": z}, (1, 2), "lidar", stamp_ns)


def column_of(wall, moved=0.0):
    return int((wall - moved) / GRID.resolution)


def test_a_frame_gives_all_that_is_wanted():
    tried = Tried()
    found = tried.frame(labelled(), tree())
    assert list(found) == ["points", "detections", "grid", "obstacles"] and tried.missed == []
    assert [one.frame_id for one in found.values()] == ["cam", "cam", "base_link", "base_link"]
    assert {one.stamp_ns for one in found.values()} == {SECOND}
    grid = found["grid"].value
    assert grid[24, column_of(6.0)] == 100 and (grid[24, column_of(2.0) : column_of(5.0)] == 0).any()
    made = tried.space.cloud(cloud(), tree())
    assert made.value.column("label").tolist() == [CAR, ROAD]
    assert list(tried.frame(labelled(), tree(), ("grid",))) == ["grid"]


def test_the_grid_moves_with_the_base():
    tried = Tried()
    tried.frame(labelled(wall=6.0), tree())
    nothing = labelled(2 * SECOND)
    nothing.label[:] = 255
    grid = tried.frame(nothing, tree())["grid"].value
    assert grid[24, column_of(6.0, moved=1.0)] == 100 and grid[24, column_of(6.0)] != 100


def test_a_late_frame_of_another_camera_is_entered_where_it_was():
    """Its wall, 6 metres before the base of then, is 5 metres before that of now."""
    tried = Tried(cameras=("front", "other"))
    nothing = labelled(2 * SECOND, "front")
    nothing.label[:] = 255
    tried.frame(nothing, tree())
    found = tried.frame(labelled(SECOND, "other", wall=6.0), tree())["grid"]
    assert found.stamp_ns == 2 * SECOND
    assert found.value[24, column_of(6.0, moved=1.0)] == 100 and found.value[24, column_of(6.0)] != 100


def test_motion_that_tf_does_not_know_is_not_taken_out():
    tried = Tried()
    tried.frame(labelled(), tree())
    for until in (0, SECOND // 2):  # no odom, and one that is too old
        found = tried.frame(labelled(2 * SECOND), tree(odom=until > 0, until=until))
        assert list(found) == ["points", "detections", "grid", "obstacles"] and tried.missed == []
        assert found["grid"].value[24, column_of(6.0)] == 100


def test_a_camera_that_cannot_be_placed_keeps_the_ground_alone_away():
    tried = Tried()
    assert list(tried.frame(labelled(frame_id="nowhere"), tree())) == ["points", "detections"]
    assert [name for name, _ in tried.missed] == ["grid", "obstacles"]
    assert tried.missed[0][1].startswith("transform from nowhere to base_link: no frame nowhere")


def test_extrinsics_count_more_than_tf():
    tried = Tried(extrinsics={"": (0, 0, 1.5, 0, 0, 0)}, lidar_extrinsics=(0, 0, 1.5, 0, 0, 0))
    assert "grid" in tried.frame(labelled(), Transforms())
    assert tried.space.cloud(cloud(), Transforms()).value.column("label").tolist() == [CAR, ROAD]
    assert tried.missed == []


def test_the_depth_image_of_a_frame_hides_points_and_stays_in_the_state():
    """A wall 4 metres ahead, of the same class: no point of the cloud is on it."""
    one, other = Tried(), Tried()
    one.frame(labelled(), tree(), ("lidar",))
    assert one.space.cloud(cloud(), tree()).value.column("label").tolist() == [CAR, ROAD]
    one.space.clear()
    one.frame(labelled(SECOND, wall=4.0), tree(), ("lidar",))
    other.space.restore({name: array.copy() for name, array in one.space.state().items()})
    for tried in (one, other):
        assert tried.space.cloud(cloud(), tree()).value.column("label").tolist() == [255, ROAD]


@pytest.mark.parametrize("by_hand", [False, True])
def test_motion_between_cloud_and_image_is_taken_out(by_hand):
    """A cloud of half a second before: what was 6.4 metres ahead of it is 5.9 before the camera."""
    extrinsics = {"extrinsics": {"": (0, 0, 1.5, 0, 0, 0)}, "lidar_extrinsics": (0, 0, 1.5, 0, 0, 0)}
    tried = Tried(lidar_slop=1.0, **(extrinsics if by_hand else {}))
    tried.frame(labelled(2 * SECOND), tree(), ("lidar",))
    early = cloud(3 * SECOND // 2)
    early.column("x")[:] += 0.5
    out = tried.space.cloud(early, tree()).value
    assert out.column("label").tolist() == [CAR, ROAD] and np.array_equal(out.xyz(), early.xyz())


def test_a_cloud_without_a_frame_of_its_time():
    tried = Tried()
    tried.frame(labelled(), tree(), ("lidar",))
    assert tried.space.cloud(cloud(2 * SECOND), tree()) is None
    assert tried.missed == [("lidar", "no frame within lidar.slop (0.1 s) of a cloud of lidar")]


def test_a_camera_that_is_left_out_keeps_the_numbers_of_the_others():
    tried = Tried(cameras=("none", "front"))
    tried.frame(labelled(camera="none", frame_id="nowhere"), tree(), ("lidar",))
    tried.frame(labelled(camera="front"), tree(), ("lidar",))
    assert tried.space.cloud(cloud(), tree()).value.column("camera").tolist() == [1, 1]
    assert [name for name, _ in tried.missed] == ["lidar"]


def test_without_calibration_boxes_are_left():
    tried = Tried()
    assert list(tried.frame(labelled(calibration=None), tree())) == ["detections"]
    assert {name for name, _ in tried.missed} == set(ALL)
    assert "no camera_info came" in tried.missed[0][1]


def test_a_state_goes_on_as_the_original():
    one, other = Tried(lidar_slop=1.0), Tried(lidar_slop=1.0)
    for i in range(3):
        one.frame(labelled(SECOND + i * SECOND // 5, wall=6.0 - i), tree())
    other.space.restore({name: array.copy() for name, array in one.space.state().items()})
    for tried in (one, other):
        tried.after = tried.frame(labelled(2 * SECOND, wall=9.0), tree())
        tried.cloud = tried.space.cloud(cloud(SECOND), tree())
    assert np.array_equal(one.after["grid"].value, other.after["grid"].value)
    assert np.array_equal(one.cloud.value.data, other.cloud.value.data)
    assert one.space.state().keys() == other.space.state().keys()
    for name, array in one.space.state().items():
        assert np.array_equal(array, other.space.state()[name]), name


def test_each_drive_of_a_process_is_told_its_own_lines():
    for _ in range(2):
        tried = Tried()
        for i in range(3):
            sky = replace(labelled(SECOND + i * SECOND // 5), depth=np.full((48, 64), np.nan, np.float32))
            tried.frame(sky, tree(odom=False))
        assert len(tried.told) == 2 and tried.missed == []
        assert "a frame shows nothing within the grid" in tried.told[0]
        assert "the base's motion is not taken out" in tried.told[1]


def test_nothing_is_left_after_a_jump_of_the_time():
    tried = Tried()
    tried.frame(labelled(), tree())
    tried.space.clear()
    assert tried.space.cloud(cloud(), tree()) is None and [name for name, _ in tried.missed] == ["lidar"]
    assert not any(name.startswith("frame") for name in tried.space.state())


def test_a_frame_that_shows_nothing_within_the_grid_is_said():
    tried, other = Tried(base_frame="/base_link"), Tried()
    found = tried.frame(labelled(wall=5.0), tree(), ("grid",))["grid"]
    assert found.frame_id == "base_link" and (found.value >= 0).any() and not tried.told
    far = replace(labelled(camera="far"), depth=labelled().depth * np.float32(1000))  # millimetres that say metres
    assert (other.frame(far, tree(), ("grid",))["grid"].value == -1).all()
    assert len(other.told) == 1 and "camera far: a frame shows nothing within the grid" in other.told[0]
