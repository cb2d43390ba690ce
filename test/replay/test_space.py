"""Outputs in space of a replay: exact places, the same bytes however often it was interrupted, and what may lack."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from m2f_ros.bags.messages import CAMERA_INFO, IMAGE, POINT_CLOUD, TF_MESSAGE, Messages
from m2f_ros.bags.reader import Bag
from m2f_ros.bags.writer import BagWriter
from m2f_ros.errors import ConfigError, SourceError, SpaceError
from m2f_ros.frame.calibration import Calibration
from m2f_ros.replay.folder import Folder
from m2f_ros.replay.replay import IN_FLIGHT, replay
from m2f_ros.replay.settings import Settings
from m2f_ros.replay.space import of_drive, open_for
from m2f_ros.space.cloud import Cloud
from m2f_ros.space.compute import SpaceSettings
from m2f_ros.space.grid import GridSettings
from m2f_ros.space.transforms import OPTICAL, pose

sys.path.insert(0, str(Path(__file__).parent))
from drives import messages

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))
from stub import frame, on_cpu

SECOND = 10**9
START = 1_700_000_000 * SECOND
STEP = SECOND // 10
HEIGHT, WIDTH = 32, 64
EYE = 1.5  # metres of the cameras above the ground
INFO = Calibration.pinhole(WIDTH, HEIGHT, 40.0, 40.0, 31.5, 15.5)
ALL = ("label", "points", "detections", "lidar", "grid", "obstacles")
NODE = "/segmentation_node"
POSES = {"left": (0.5, 0.2, EYE, 0, 0.2, 0.3), "right": (0.5, -0.2, EYE, 0, 0.2, -0.3)}


def stamp(i):
    return START + i * STEP


def depth_of(i):
    """Metres: a wall that comes nearer, with a hole."""
    depth = np.full((HEIGHT, WIDTH), 6 - i / 10, np.float32)
    depth[4:8, 4:8] = np.nan
    return depth


def points_of(i):
    """A lidar's points ahead of it, one of them behind."""
    y, z = np.meshgrid(np.linspace(-3, 3, 12), np.linspace(-1, 1, 5))
    ahead = np.stack([np.full(y.shape, 6 - i / 10), y, z], axis=-1).reshape(-1, 3)
    return np.vstack([ahead, [[-3, 0, 0]]]).astype(np.float32)


def write(
    path, count=12, cameras=("left", "right"), depth=True, tf=True, clouds=True, info=True, bad=(), lost=(), cut=()
):
    """A drive whose base moves ahead; its lidar is later than its images.

    bad: images, lost: depth images left out. cut: depth images, and clouds, without their last bytes.
    """
    with BagWriter(path) as bag:
        make = Messages(bag.types)
        if tf:
            static = [("base_link", f"cam_{name}", pose(POSES[name]) @ OPTICAL, True) for name in cameras]
            static.append(("base_link", "lidar", pose((0, 0, 1, 0, 0, 0)), True))
            parts = [one[:3] for one in static]
            bag.add_topic("/tf_static", TF_MESSAGE, latched=True)
            bag.write("/tf_static", TF_MESSAGE, make.transforms(parts, START), START)
            moves = [("odom", "base_link", pose((i / 10, 0, 0, 0, 0, i / 100))) for i in range(-2, count + 3)]
            for i, one in enumerate(moves, start=-2):
                bag.write("/tf", TF_MESSAGE, make.transforms([one], stamp(i)), stamp(i))
        for i in range(count):
            name = cameras[i % len(cameras)]
            header = make.header(stamp(i), f"cam_{name}")
            picture = frame(i // 3, HEIGHT, WIDTH).data
            image = make.image(picture, "rgb8", header)
            if i in bad:
                image.data = image.data[:100]
            if info:
                bag.write(f"/{name}/camera_info", CAMERA_INFO, make.camera_info(INFO, header), stamp(i))
            if depth and i not in lost:
                found = make.depth(depth_of(i), header)
                if ("depth", i) in cut:
                    found.data = found.data[:100]
                bag.write(f"/{name}/depth/image_raw", IMAGE, found, stamp(i))
            bag.write(f"/{name}/image", IMAGE, image, stamp(i))
            if clouds and i % 2:
                columns = dict(zip("xyz", points_of(i).T, strict=True))
                cloud = Cloud.of_columns(columns, (1, len(points_of(i))), "lidar", stamp(i) - STEP // 3)
                found = make.cloud(cloud)
                if ("cloud", i) in cut:
                    found.data = found.data[:100]
                bag.write("/lidar/points", POINT_CLOUD, found, stamp(i))
    return path


@pytest.fixture
def settings(tmp_path):
    """For the stub's classes: the first lies on the ground, the second stands."""
    costs = tmp_path / "costs.yaml"
    costs.write_text("ground: {a: 0}\nstanding: {b: 100}\nunknown: [c]\n")
    grid = GridSettings(x=(0.0, 10.0), y=(-5.0, 5.0), resolution=0.25)
    return Settings(outputs=ALL, part=4, space=SpaceSettings(grid=grid, grid_costs=str(costs)))


def run(drive, out, settings, stop_after=None):
    """One replay by the stub; stop_after: batches. Returns true at the drive's end, and the progress."""
    asked = iter(range(10**6 if stop_after is None else stop_after))
    with Folder(out, settings.record()) as folder:
        source = open_for(str(drive), settings)
        pipeline = on_cpu(slots=IN_FLIGHT)
        return replay(source, pipeline, folder, settings, lambda: next(asked, None) is None), folder.progress


def decoded(bag, topic):
    with Bag(bag) as reader:
        return [message.decode() for message in reader.messages([topic])]


def test_every_output_has_its_topic_and_header(tmp_path, settings):
    done, progress = run(write(tmp_path / "d"), tmp_path / "out", settings)
    assert done and progress.lack == "" and progress.missed == {}
    with Bag(tmp_path / "out") as bag:
        counts = {name: topic.count for name, topic in bag.topics.items()}
    for side in ("left", "right"):
        assert counts[f"{NODE}/{side}/points"] == counts[f"{NODE}/{side}/detections"] == 6
    assert (counts[f"{NODE}/grid"], counts[f"{NODE}/obstacles"], counts[f"{NODE}/lidar"]) == (12, 12, 6)
    for name in ("grid", "obstacles"):
        found = decoded(tmp_path / "out", f"{NODE}/{name}")
        stamps = [m.header.stamp.sec * SECOND + m.header.stamp.nanosec for m in found]
        assert stamps == [stamp(i) for i in range(12)] and {m.header.frame_id for m in found} == {"base_link"}
    info = found_grid = decoded(tmp_path / "out", f"{NODE}/grid")[0].info
    assert (info.width, info.height, info.resolution) == (40, 40, 0.25)
    assert (found_grid.origin.position.x, found_grid.origin.position.y) == (0.0, -5.0)


def test_points_are_the_depth_image_with_its_labels(tmp_path, settings):
    drive = write(tmp_path / "d", cameras=("left",))
    run(drive, tmp_path / "out", replace(settings, outputs=("label", "points")))
    clouds = [Cloud.of(m) for m in decoded(tmp_path / "out", f"{NODE}/points")]
    labels = decoded(tmp_path / "out", f"{NODE}/label")
    for i, (cloud, label) in enumerate(zip(clouds, labels, strict=True)):
        assert (cloud.height, cloud.width, cloud.stamp_ns, cloud.frame_id) == (16, 32, stamp(i), "cam_left")
        v, u = np.mgrid[0:HEIGHT:2, 0:WIDTH:2]
        z = depth_of(i)[::2, ::2]
        truth = np.stack([(u - 31.5) / 40 * z, (v - 15.5) / 40 * z, z], axis=-1).reshape(-1, 3)
        np.testing.assert_allclose(cloud.xyz(), truth, atol=1e-5)
        np.testing.assert_array_equal(cloud.column("label"), label.data.reshape(HEIGHT, WIDTH)[::2, ::2].ravel())


def test_a_lidar_has_the_labels_of_the_pixels_that_it_falls_on(tmp_path, settings):
    """The base moves a tenth of a metre a frame; a cloud is a third of a frame older than its image."""
    run(write(tmp_path / "d", cameras=("left",)), tmp_path / "out", replace(settings, outputs=("label", "lidar")))
    clouds = {c.stamp_ns: c for c in (Cloud.of(m) for m in decoded(tmp_path / "out", f"{NODE}/lidar"))}
    labels = decoded(tmp_path / "out", f"{NODE}/label")
    assert list(clouds) == [stamp(i) - STEP // 3 for i in range(1, 12, 2)]
    i = 5
    cloud = clouds[stamp(i) - STEP // 3]
    then, now = (pose((t / 10, 0, 0, 0, 0, t / 100)) for t in (i - 1 / 3, i))
    matrix = np.linalg.inv(now @ pose(POSES["left"]) @ OPTICAL) @ then @ pose((0, 0, 1, 0, 0, 0))
    x, y, z = (points_of(i) @ matrix[:3, :3].T + matrix[:3, 3]).T
    u, v = np.rint(x / z * 40 + 31.5), np.rint(y / z * 40 + 15.5)
    seen = (z > 0) & (u >= 0) & (u < WIDTH) & (v >= 0) & (v < HEIGHT)
    assert 20 < seen.sum() < len(seen)
    label, camera = cloud.column("label"), cloud.column("camera")
    assert (label[~seen] == 255).all() and (camera[~seen] == 255).all()
    truth = labels[i].data.reshape(HEIGHT, WIDTH)[v[seen].astype(int), u[seen].astype(int)]
    assert (label[seen] == truth).mean() > 0.95 and (camera[seen] == 0).mean() > 0.95


def test_a_depth_image_hides_points_of_a_lidar(tmp_path, settings, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "depth_of", lambda i: np.full((HEIGHT, WIDTH), 1.0, np.float32))
    counts = []
    for depth in (True, False):
        drive, out = (tmp_path / f"{name}_{depth}" for name in ("drive", "out"))
        write(drive, cameras=("left",), depth=depth)
        run(drive, out, replace(settings, outputs=("label", "lidar")))
        clouds = [Cloud.of(m) for m in decoded(out, f"{NODE}/lidar")]
        counts.append(sum(int((cloud.column("label") < 255).sum()) for cloud in clouds))
    assert counts[0] == 0 < counts[1]


def test_cameras_have_numbers_by_their_order(tmp_path, settings):
    run(write(tmp_path / "d"), tmp_path / "out", replace(settings, outputs=("label", "lidar")))
    numbers = np.concatenate([Cloud.of(m).column("camera") for m in decoded(tmp_path / "out", f"{NODE}/lidar")])
    assert set(numbers.tolist()) == {0, 1, 255}


@pytest.mark.parametrize("batch", [1, 3])
def test_a_run_that_was_interrupted_again_and_again_equals_one_run(tmp_path, settings, batch):
    drive = write(tmp_path / "d", 14, bad=(3, 8))
    settings = replace(settings, batch=batch)
    _, whole = run(drive, tmp_path / "whole", settings)
    runs, done = 0, False
    while not done:
        done, pieces = run(drive, tmp_path / "pieces", settings, stop_after=2)
        runs += 1
    assert runs > 2 and pieces.missed == whole.missed == {}  # also of clouds that come with a damaged image
    assert messages(tmp_path / "whole", "/stats") == messages(tmp_path / "pieces", "/stats")


@pytest.mark.parametrize(
    ("cut", "line"),
    [
        (("depth", 1), "a depth image of /right/depth/image_raw cannot be used"),
        (("cloud", 1), "a cloud of /lidar/points is damaged"),
    ],
)
def test_damage_before_an_interruption_is_not_forgotten(tmp_path, settings, cut, line):
    drive = write(tmp_path / "d", cut=[cut])
    settings = replace(settings, outputs=("label", "grid", "lidar"))
    run(drive, tmp_path / "out", settings, stop_after=5)
    done, progress = run(drive, tmp_path / "out", settings)
    assert done and progress.lost == line


def test_extrinsics_in_place_of_tf(tmp_path, settings):
    """Without odometry the grid does not move, which is the same where the base stands still."""
    drive = write(tmp_path / "d", tf=False)
    by_hand = replace(settings.space, extrinsics=POSES, lidar_extrinsics=(0, 0, 1, 0, 0, 0))
    _, progress = run(drive, tmp_path / "out", replace(settings, space=by_hand))
    assert progress.lack == ""
    with Bag(tmp_path / "out") as bag:
        assert (bag.topics[f"{NODE}/grid"].count, bag.topics[f"{NODE}/lidar"].count) == (12, 6)


def test_without_tf_the_other_outputs_are_there(tmp_path, settings):
    _, progress = run(write(tmp_path / "d", tf=False), tmp_path / "out", settings)
    assert {name: count for name, (count, _) in progress.missed.items()} == {"grid": 12, "obstacles": 12, "lidar": 6}
    line = "12 messages of grid are missing or not whole, the first: transform from cam_left to base_link"
    assert progress.lack.startswith(line)
    with Bag(tmp_path / "out") as bag:
        assert bag.topics[f"{NODE}/left/points"].count == 6


def test_without_calibration_nothing_is_placed(tmp_path, settings):
    _, progress = run(write(tmp_path / "d", info=False), tmp_path / "out", settings)
    assert (
        "12 messages of points are missing or not whole, the first: no camera_info of camera left came" in progress.lack
    )
    with Bag(tmp_path / "out") as bag:
        assert bag.topics[f"{NODE}/left/detections"].count == 6


def test_a_depth_image_that_is_lost(tmp_path, settings):
    drive = write(tmp_path / "d", lost=(4, 7))
    _, progress = run(drive, tmp_path / "out", replace(settings, outputs=("label", "points")))
    line = "2 messages of points are missing or not whole, the first: the frame has no depth image"
    assert progress.lack.startswith(line)


def test_without_depth_the_ground_is_flat(tmp_path, settings, capsys):
    drive = write(tmp_path / "d", depth=False)
    with pytest.raises(SourceError, match="no depth image that is registered to a camera"):
        open_for(str(drive), settings)
    _, progress = run(drive, tmp_path / "out", replace(settings, outputs=("label", "grid")))
    assert progress.lack == ""
    assert any((m.data >= 0).any() for m in decoded(tmp_path / "out", f"{NODE}/grid"))


def test_settings_of_another_camera(tmp_path, settings):
    drive = write(tmp_path / "d")
    other = replace(settings, space=replace(settings.space, extrinsics={"rear": POSES["left"]}))
    line = "camera.rear.…: the drive has no such camera; its cameras: left (/left/image), right (/right/image)"
    with pytest.raises(ConfigError, match=re.escape(line)):
        run(drive, tmp_path / "out", other)


def test_plain_names_are_the_default_of_all_cameras(tmp_path, settings):
    given = SpaceSettings(
        extrinsics={"": POSES["left"], "right": ()},
        rectified={"": True, "left": False},
        ignore_masks={"": "bonnet.png", "left": ""},
    )
    drive = open_for(str(write(tmp_path / "d", 2)), settings)
    found = of_drive(replace(settings, space=given), drive).space
    assert found.cameras == ("left", "right")
    assert found.extrinsics == {"left": POSES["left"], "right": ()}
    assert found.rectified == {"left": False, "right": True}
    assert found.ignore_masks == {"left": "", "right": "bonnet.png"}
    assert of_drive(replace(settings, space=found), drive).space == found


def test_a_default_is_taken_in_place_of_tf(tmp_path, settings):
    drive = write(tmp_path / "d", 6, tf=False)
    space = replace(settings.space, fixed_frame="", extrinsics={"": POSES["left"], "right": POSES["right"]})
    only_grid = replace(settings, outputs=("label", "grid"))
    run(drive, tmp_path / "default", replace(only_grid, space=space))
    run(drive, tmp_path / "own", replace(only_grid, space=replace(space, extrinsics=POSES)))
    by_default, by_own = (decoded(tmp_path / name, f"{NODE}/grid") for name in ("default", "own"))
    assert len(by_default) == 6
    assert all((one.data == other.data).all() for one, other in zip(by_default, by_own, strict=True))


@pytest.mark.parametrize("name", ["left", "left_image"])
def test_a_camera_that_was_chosen_alone_keeps_its_names(tmp_path, settings, name):
    alone = replace(settings, topics=("/left/image",))
    drive = open_for(str(write(tmp_path / "d", 2)), alone)
    assert drive.cameras == ("",)
    given = replace(alone, space=SpaceSettings(extrinsics={name: POSES["left"], "": POSES["right"]}))
    assert of_drive(given, drive).space.extrinsics == {"": POSES["left"]}
    twice = replace(alone, space=SpaceSettings(extrinsics={"left": POSES["left"], "left_image": POSES["left"]}))
    with pytest.raises(ConfigError, match="another name of the same camera has a value, too"):
        of_drive(twice, drive)
    other = replace(alone, space=SpaceSettings(rectified={"right": True}))
    with pytest.raises(ConfigError, match=r"its cameras: one without a name \(/left/image\)"):
        of_drive(other, drive)


def test_rectified_by_the_name_of_the_topic(tmp_path, settings):
    drive = open_for(str(write(tmp_path / "d", 2, cameras=("left",))), settings)
    drive.topics = {"": "/left/image_rect"}
    assert of_drive(settings, drive).space.rectified == {"": True}


def test_ignored_pixels_have_no_points(tmp_path, settings):
    import cv2

    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[20:] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    space = replace(settings.space, ignore_masks={"": str(tmp_path / "mask.png")})
    drive = write(tmp_path / "d", 3, cameras=("left",))
    run(drive, tmp_path / "out", replace(settings, outputs=("label", "points"), space=space))
    for label, cloud in zip(
        decoded(tmp_path / "out", f"{NODE}/label"), decoded(tmp_path / "out", f"{NODE}/points"), strict=True
    ):
        assert (label.data.reshape(HEIGHT, WIDTH)[20:] == 255).all()
        assert np.isnan(Cloud.of(cloud).xyz().reshape(16, 32, 3)[10:]).all()
    missing = replace(settings, space=replace(space, ignore_masks={"": str(tmp_path / "none.png")}))
    with pytest.raises(SpaceError, match=r"ignore mask .*none\.png"):
        run(drive, tmp_path / "other", missing)


def test_other_settings_do_not_go_on(tmp_path, settings):
    drive = write(tmp_path / "d")
    run(drive, tmp_path / "out", settings, stop_after=2)
    other = replace(settings, space=replace(settings.space, points_stride=1))
    with pytest.raises(ConfigError, match="was begun with space"):
        run(drive, tmp_path / "out", other)
