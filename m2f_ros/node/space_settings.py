"""Settings of the outputs in space, from the node's parameters. Does not import ROS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from m2f_ros.node.parameters import NodeSettings
from m2f_ros.space.compute import SpaceSettings
from m2f_ros.space.grid import GridSettings


def grid_settings(settings: NodeSettings) -> GridSettings:
    """Return the settings of the grid. Raises ConfigError for values that are not possible."""
    (left, right), (low, high) = settings.grid_x, settings.grid_y
    return GridSettings(
        x=(left, right),
        y=(low, high),
        resolution=settings.grid_resolution,
        max_range=settings.grid_max_range,
        decay=settings.grid_decay,
        decay_moving=settings.grid_decay_moving,
        hold=settings.grid_hold,
        min_confidence=round(255 * settings.grid_min_confidence),
        ground_height=settings.grid_ground_height,
        ground_tolerance=settings.grid_ground_tolerance,
        height=settings.grid_height,
        min_points=settings.grid_min_points,
        obstacle_cost=settings.obstacles_cost,
    )


def space_settings_of(settings: NodeSettings, cameras: Mapping[str, Mapping[str, Any]]) -> SpaceSettings:
    """Return the settings of all outputs in space.

    cameras: name -> values of the camera's own parameters that are given; those of "" are the default of all cameras.
    Raises ConfigError as `grid_settings`.
    """

    def given(name: str) -> dict[str, Any]:
        return {camera: values[name] for camera, values in cameras.items() if name in values}

    return SpaceSettings(
        cameras=tuple(cameras) or ("",),
        base_frame=settings.base_frame,
        fixed_frame=settings.fixed_frame,
        points_stride=settings.points_stride,
        points_slop=settings.points_slop,
        lidar_slop=settings.lidar_slop,
        grid=grid_settings(settings),
        grid_costs=settings.grid_costs,
        extrinsics=given("extrinsics"),
        lidar_extrinsics=settings.lidar_extrinsics,
        rectified=given("rectified"),
        ignore_masks=given("ignore_mask"),
    )
