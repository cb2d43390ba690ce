"""Plays a source as a camera and segments it: watch /segmentation_node/overlay in RViz or Foxglove.

Ends when the source does; a launch file that includes it goes on.
"""

import os

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_entity import LaunchDescriptionEntity
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from m2f_ros import signals
from m2f_ros.node.camera_player import PARAMETERS as PLAYER
from m2f_ros.node.launching import Together, values

ARGUMENTS = (
    DeclareLaunchArgument(
        "source",
        default_value="street",
        description="Source: street (simulated), a video, a folder of images, a rosbag2, /dev/video0.",
    ),
    DeclareLaunchArgument("rate", default_value="0.0", description="Images a second; 0.0: the rate of the source."),
    DeclareLaunchArgument("frames", default_value="0", description="Number of images to play; 0: all."),
)
NUMBERS = tuple(row for row in PLAYER if row.name in ("rate", "frames"))
CAMERA = "camera"  # namespace of the player, in that of the node


def numbers(context: LaunchContext) -> dict[str, object]:
    value = values(context)
    return {row.name: row.read(value(row.name)) for row in NUMBERS}


def check(context: LaunchContext) -> None:
    """Refuse wrong numbers before the start: processes that run when launch fails stay, without a parent."""
    numbers(context)


def play(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    value = values(context)
    player = Node(
        package="m2f_ros",
        executable="camera_player",
        namespace="/".join(filter(None, [value("namespace").rstrip("/"), CAMERA])),
        # Text even if it looks like a number: the name of a folder may.
        parameters=[{"source": ParameterValue(value("source"), value_type=str), **numbers(context)}],
        # The player ends with this process, even if that is killed.
        additional_env={signals.PARENT: str(os.getpid())},
        # The player's standard output is progress for programs.
        output={"stdout": "log", "stderr": "screen"},
    )
    together = Together(context, player)
    return [together.end_with(player, "the source has ended"), together.end_with(None), player]


def generate_launch_description() -> LaunchDescription:
    segmentation = PathJoinSubstitution([FindPackageShare("m2f_ros"), "launch", "m2f.launch.py"])
    return LaunchDescription(
        [
            *ARGUMENTS,
            OpaqueFunction(function=check),
            # Scoped: what is set here is not set in a launch file that includes this one.
            GroupAction(
                [
                    # It declares model, device and the other arguments, and sets the Fast DDS profile for the player.
                    IncludeLaunchDescription(
                        PythonLaunchDescriptionSource(segmentation),
                        launch_arguments={"image": f"{CAMERA}/image", "respawn": "false"}.items(),
                    ),
                    OpaqueFunction(function=play),
                ]
            ),
        ]
    )
