"""Plays a source as a camera and segments it: watch /segmentation/overlay in RViz or Foxglove."""

import os

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction, Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from m2f_ros import signals
from m2f_ros.node.camera_player import PARAMETERS as PLAYER

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


def check(context: LaunchContext) -> None:
    """Refuse wrong numbers before the start: processes that run when launch fails stay, without a parent."""
    for row in NUMBERS:
        row.read(LaunchConfiguration(row.name).perform(context))


def generate_launch_description() -> LaunchDescription:
    segmentation = PathJoinSubstitution([FindPackageShare("m2f_ros"), "launch", "m2f.launch.py"])
    return LaunchDescription(
        [
            *ARGUMENTS,
            OpaqueFunction(function=check),
            # It declares model, device and the other arguments, and sets the Fast DDS profile for the player, too.
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(segmentation),
                launch_arguments={"image": "/camera/image"}.items(),
            ),
            Node(
                package="m2f_ros",
                executable="camera_player",
                namespace="camera",
                parameters=[
                    {
                        # Text even if it looks like a number: the name of a folder may.
                        "source": ParameterValue(LaunchConfiguration("source"), value_type=str),
                        "rate": ParameterValue(LaunchConfiguration("rate"), value_type=float),
                        "frames": ParameterValue(LaunchConfiguration("frames"), value_type=int),
                    }
                ],
                # The player ends with this process, even if that is killed.
                additional_env={signals.PARENT: str(os.getpid())},
                on_exit=Shutdown(reason="the source has ended"),
                # The player's standard output is progress for programs.
                output={"stdout": "log", "stderr": "screen"},
            ),
        ]
    )
