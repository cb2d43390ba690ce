"""Depth, transforms, clouds and grids in bags that are made: exactly those of the street, and only if asked for."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from rosbags.interfaces import QosDurability
from rosbags.rosbag2 import Reader

from m2f_ros import taxonomy
from m2f_ros.bags.reader import Bag
from m2f_ros.cli import m2f
from m2f_ros.errors import SourceError
from m2f_ros.replay.make_bag import make_bag
from m2f_ros.sources.open import SpaceOptions, open_drive, open_source
from m2f_ros.sources.sample import START_NS
from m2f_ros.space.cloud import Cloud
from m2f_ros.space.costs import read_costs
from m2f_ros.space.depth import decode_depth
from m2f_ros.space.grid import GridSettings
from m2f_ros.space.transforms import Transforms, from_quaternion
from m2f_ros.street import Street
from m2f_ros.street.lidar import Lidar
from m2f_ros.street.plan import plan, seen

sys.path.insert(0, str(Path(__file__).parents[1] / "sources"))
from strangers import START, image, millimetres, picture, write

ALL = SpaceOptions(depth=True, transforms=True, clouds=True, lidar_size=(4, 64))
SPACE = {
    "/camera/depth/image_raw",
    "/camera/depth/camera_info",
    "/tf",
    "/tf_static",
    "/lidar/points",
    "/lidar/ground_truth",
    "/lidar/ground_truth/legend",
}


def messages(path):
    """Topic -> its messages, decoded."""
    with Bag(path) as bag:
        found = {topic: [] for topic in bag.topics}
        for message in bag.messages():
            found[message.topic].append(message.decode())
    return found


def invoke(*arguments):
    return CliRunner().invoke(m2f, ["bag", *map(str, arguments)])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "DRIVE"
    make_bag(open_source("street:5", frames=2, rate=5, space=ALL), path)
    return path


def test_all_of_it_is_that_of_the_street(made):
    found, street = messages(made), Street(seed=5, rate=5)
    transforms = Transforms()
    for static in (True, False):
        for message in found["/tf_static" if static else "/tf"]:
            for one in message.transforms:
                place, turn = one.transform.translation, one.transform.rotation
                matrix = from_quaternion((place.x, place.y, place.z), (turn.x, turn.y, turn.z, turn.w))
                stamp_ns = one.header.stamp.sec * 10**9 + one.header.stamp.nanosec
                transforms.put(one.header.frame_id, one.child_frame_id, matrix, stamp_ns, static)
    for i in range(2):
        frame, pose, scan, stamp_ns = (
            street.frame(i),
            street.pose(i),
            street.scan(i, Lidar(4, 64)),
            START_NS + i * 200_000_000,
        )
        depth, info = found["/camera/depth/image_raw"][i], found["/camera/depth/camera_info"][i]
        assert (depth.encoding, depth.header.frame_id) == ("32FC1", "camera")
        assert depth.header == info.header == found["/camera/image"][i].header
        np.testing.assert_array_equal(decode_depth(depth), np.where(np.isinf(frame.depth), np.nan, frame.depth))
        assert info.k.reshape(3, 3).tolist() == street.camera.matrix().tolist()
        clouds = [Cloud.of(found[topic][i]) for topic in ("/lidar/points", "/lidar/ground_truth")]
        assert {(c.frame_id, c.stamp_ns, c.height, c.width, c.is_dense) for c in clouds} == {
            ("lidar", stamp_ns, 4, 64, False)
        }
        for cloud in clouds:
            np.testing.assert_array_equal(cloud.xyz(), scan.points.reshape(-1, 3))
            assert cloud.column("ring").reshape(4, 64)[:, 7].tolist() == [0, 1, 2, 3]
        assert [field.name for field in clouds[0].fields] == ["x", "y", "z", "ring"]
        np.testing.assert_array_equal(clouds[1].column("label"), scan.label.ravel())
        np.testing.assert_array_equal(clouds[1].column("instance"), scan.instance.ravel())
        for target, source, expected in (
            ("map", "camera", pose.map_from_camera),
            ("camera", "lidar", pose.camera_from_lidar),
            ("base_link", "camera", pose.base_from_camera),
        ):
            np.testing.assert_allclose(transforms.lookup(target, source, stamp_ns), expected, atol=1e-9)
    assert [c.name for c in found["/lidar/ground_truth/legend"][0].classes][:2] == ["road", "sidewalk"]


def test_it_is_a_source_again_that_gives_the_same(made):
    written, street = open_drive(str(made), space=ALL), open_source("street:5", frames=2, rate=5, space=ALL)
    for one, other in zip(written, street, strict=True):
        np.testing.assert_array_equal(one.depth, other.depth)
        assert [c.data.tobytes() for c in one.clouds] == [c.data.tobytes() for c in other.clouds]
        lookup = "odom", "lidar", one.stamp_ns
        np.testing.assert_allclose(one.transforms.lookup(*lookup), other.transforms.lookup(*lookup), atol=1e-9)
    assert written.problem == ""


def test_subscribers_that_come_late_get_what_never_changes(made):
    with Reader(made) as reader:
        latched = {
            c.topic
            for c in reader.connections
            if c.ext.offered_qos_profiles[0].durability == QosDurability.TRANSIENT_LOCAL
        }
    assert latched == {"/tf_static", "/camera/ground_truth/legend", "/lidar/ground_truth/legend"}


def test_only_what_is_asked_for_is_written(tmp_path, made):
    for i, (options, topics) in enumerate(
        (
            ([], set()),
            (["--tf"], {"/tf", "/tf_static"}),
            (["--depth"], {topic for topic in SPACE if "lidar" not in topic}),
            (["--lidar", "2x8"], {topic for topic in SPACE if "depth" not in topic}),
        )
    ):
        result = invoke("street:5", "--frames", 1, *options, "--out", tmp_path / str(i))
        assert result.exit_code == 0, result.output
        with Bag(tmp_path / str(i)) as bag:
            assert bag.topics.keys() & SPACE == topics
            rest = bag.topics.keys() - SPACE
        with Bag(made) as bag:
            assert rest == bag.topics.keys() - SPACE


def test_the_same_command_gives_the_same_bytes(tmp_path):
    for name in "ab":
        result = invoke("street:3", "--frames", 2, "--depth", "--lidar", "4x32", "--out", tmp_path / name / "DRIVE")
        assert result.exit_code == 0, result.output
    one, other = (sorted((tmp_path / name / "DRIVE").iterdir()) for name in "ab")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def test_the_lidar_of_a_bag_has_32_rings_by_default(tmp_path):
    assert invoke("street:5", "--frames", 1, "--lidar", "--out", tmp_path / "DRIVE").exit_code == 0
    (cloud,) = messages(tmp_path / "DRIVE")["/lidar/points"]
    assert (cloud.height, cloud.width) == (32, 1024)


@pytest.mark.parametrize(
    "options, says",
    [
        (["--lidar"], "--lidar: not for {}: only the simulated street"),
        (["--tf"], "--tf: not for {}: only the simulated street"),
        (["--depth"], "depth: not for {}: only a rosbag2 and the simulated street have it"),
    ],
)
def test_what_a_source_has_not_is_one_line(tmp_path, options, says):
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.zeros((4, 4, 3), np.uint8))
    result = invoke(tmp_path / "images", *options, "--out", tmp_path / "out")
    assert result.exit_code != 0 and not (tmp_path / "out").exists()
    assert says.format(tmp_path / "images") in str(result.exception) + result.output


@pytest.mark.parametrize("size", ["0x4", "4", "4x4x4", "9999x1"])
def test_impossible_lidars_are_one_line(tmp_path, size):
    result = invoke("street", "--frames", 1, "--lidar", size, "--out", tmp_path / "out")
    assert result.exit_code != 0 and size in str(result.exception) + result.output


def test_depth_of_a_stranger_in_millimetres_comes_as_metres(tmp_path):
    stamps = [START, START + 10**8]
    found = [("/cam/image", picture(stamp), stamp) for stamp in stamps]
    found += [("/cam/depth/image_raw", millimetres(stamp + 10**6, 1500, size=(3, 4)), stamp) for stamp in stamps[:1]]
    found += [("/cam/depth/image_raw", image(stamps[1], np.ones((3, 4)), "64FC1"), stamps[1])]
    result = invoke(write(tmp_path / "bag", found), "--depth", "--out", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert "1 depth images of /cam/depth/image_raw cannot be used" in result.output
    (depth,) = messages(tmp_path / "out")["/camera/depth/image_raw"]
    np.testing.assert_allclose(decode_depth(depth), np.full((3, 4), 1.5), rtol=1e-6)
    assert (depth.header.stamp.nanosec, depth.header.frame_id) == (0, "optical")


def test_the_true_grid_of_a_frame(tmp_path):
    result = invoke("street:5", "--frames", 1, "--grid", "--out", tmp_path / "DRIVE")
    assert result.exit_code == 0, result.output
    found, settings, street = messages(tmp_path / "DRIVE"), GridSettings(), Street(seed=5)
    cells = plan(street, 0, settings, read_costs("", taxonomy.get("cityscapes")))
    shown = seen(street, 0, settings, cells, street.frame(0).depth)
    assert found.keys() >= {"/tf", "/tf_static"} and "/lidar/points" not in found
    for topic, expected in (("grid", cells), ("grid/seen", shown)):
        (grid,) = found[f"/camera/ground_truth/{topic}"]
        assert (grid.header.frame_id, grid.header.stamp) == ("base_link", found["/camera/image"][0].header.stamp)
        assert (grid.info.height, grid.info.width) == expected.shape
        assert (grid.info.origin.position.x, grid.info.origin.position.y) == settings.origin
        np.testing.assert_array_equal(grid.data.reshape(expected.shape), expected)
    assert (shown >= 0).any() and ((shown == cells) | (shown == -1)).all()
    with pytest.raises(SourceError, match=r"grid: not for .*only the simulated street"):
        open_source(str(tmp_path / "DRIVE"), space=SpaceOptions(grid=True))
