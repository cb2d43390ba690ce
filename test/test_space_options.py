"""Parameters of the node on the command line of m2f replay."""

import click
import pytest

from m2f_ros.cli.space_options import CAMERA, NODE, space_settings
from m2f_ros.errors import ConfigError
from m2f_ros.node.parameters import CameraSettings, NodeSettings, parameters_of
from m2f_ros.space.compute import SpaceSettings


def test_without_parameters_they_are_the_nodes_defaults():
    assert space_settings(()) == SpaceSettings()


def test_every_name_is_a_parameter_of_the_node():
    assert set(NODE) <= {row.name for row in parameters_of(NodeSettings)}
    assert set(CAMERA) <= {row.name for row in parameters_of(CameraSettings)}


def test_values_are_taken():
    found = space_settings(
        [
            "base_frame:=base",
            "fixed_frame:=''",
            "points.stride:=1",
            "points.slop:=1",
            "lidar.extrinsics:=[1, 0, 2.5, 0, 0, 0]",
            "grid.x:=[-5.0, 30.0]",
            "grid.min_confidence:=0.5",
            "grid.costs:=my costs.yaml",
            "obstacles.cost:=60",
            "camera.front.extrinsics:=[0, 0, 1, 0, 0, 0]",
            "camera.front.rectified:=true",
            "extrinsics:=[0, 0, 2, 0, 0, 0]",
            "ignore_mask:=bonnet.png",
        ]
    )
    assert (found.base_frame, found.fixed_frame, found.points_stride, found.points_slop) == ("base", "", 1, 1.0)
    assert found.lidar_extrinsics == (1, 0, 2.5, 0, 0, 0)
    assert (found.grid.x, found.grid.min_confidence, found.grid.obstacle_cost) == ((-5.0, 30.0), 128, 60)
    assert found.grid_costs == "my costs.yaml"
    assert found.extrinsics == {"front": (0, 0, 1, 0, 0, 0), "": (0, 0, 2, 0, 0, 0)}
    assert (found.rectified, found.ignore_masks) == ({"front": True}, {"": "bonnet.png"})


def test_a_camera_can_take_back_the_default_of_all():
    given = ["extrinsics:=[0, 0, 2, 0, 0, 0]", "rectified:=true", "ignore_mask:=bonnet.png"]
    own = ["camera.front.extrinsics:=[0.0]", "camera.front.rectified:=false", "camera.front.ignore_mask:=''"]
    found = space_settings([*given, *own])
    assert found.extrinsics == {"": (0, 0, 2, 0, 0, 0), "front": ()}
    assert found.rectified == {"": True, "front": False}
    assert found.ignore_masks == {"": "bonnet.png", "front": ""}


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("grid.resolution", "-p grid.resolution: expected NAME:=VALUE, such as grid.resolution:=0.2"),
        ("model:=other", "-p model: no parameter of outputs in space; there is base_frame, fixed_frame"),
        ("camera.front.topic:=/x", "-p camera.front.topic: no parameter of outputs in space"),
        ("grid.holes:=1", "-p grid.holes: no such parameter; there is grid.costs, grid.x"),
    ],
)
def test_other_names_are_refused(given, line):
    with pytest.raises(click.UsageError) as error:
        space_settings([given])
    assert error.value.message.startswith(line)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("points.stride:=many", "parameter 'points.stride' must be an integer from 1 to 16, not 'many'"),
        (
            "grid.resolution:=0.0",
            "parameter 'grid.resolution' must be a number with a point from 0.01 to 10.0, not 0.0",
        ),
        ("extrinsics:=[1, 2]", "parameter 'extrinsics' must be a list of 6 numbers, or [0.0] for none, not [1, 2]"),
        (
            "lidar.extrinsics:=[0, 0, 1.9, 0, -90, 0]",
            "parameter 'lidar.extrinsics' has an angle of -90: angles are in radians, at most a turn; -90 degrees are "
            "-1.571",
        ),
        ("extrinsics:=[", "parameter 'extrinsics' must be a list of 6 numbers, or [0.0] for none, not '['"),
    ],
)
def test_wrong_values_are_refused(given, line):
    with pytest.raises(ConfigError) as error:
        space_settings([given])
    assert str(error.value) == line


def test_a_place_is_of_any_size_and_an_angle_of_a_turn():
    settings = space_settings(["extrinsics:=[100, -200, 30, 6.28, -3.1416, 0]"])
    assert settings.extrinsics[""] == (100, -200, 30, 6.28, -3.1416, 0)
