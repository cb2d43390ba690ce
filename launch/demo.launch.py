"""Plays images as a camera does and segments them: watch /segmentation/overlay in RViz or Foxglove."""

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
        description="The camera: street (simulated), a video, a folder of images, a rosbag2, /dev/video0.",
    ),
    DeclareLaunchArgument("rate", default_value="0.0", description="Images a second; 0.0: the source's own rate."),
    DeclareLaunchArgument("frames", default_value="0", description="How many images to play; 0: all of them."),
)
NUMBERS = tuple(row for row in PLAYER if row.name in ("rate", "frames"))


def check(context: LaunchContext) -> None:
    """Refuse what cannot be before anything is started: what runs when launch fails stays, without a parent."""
    for row in NUMBERS:
        row.read(LaunchConfiguration(row.name).perform(context))


def generate_launch_description() -> LaunchDescription:
    segmentation = PathJoinSubstitution([FindPackageShare("m2f_ros"), "launch", "m2f.launch.py"])
    return LaunchDescription(
        [
            *ARGUMENTS,
            OpaqueFunction(function=check),
            # Declares model, device and the rest, and sets the Fast DDS profile for the player, too.
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
                        # As text even where it looks like a number: the name of a folder may.
                        "source": ParameterValue(LaunchConfiguration("source"), value_type=str),
                        "rate": ParameterValue(LaunchConfiguration("rate"), value_type=float),
                        "frames": ParameterValue(LaunchConfiguration("frames"), value_type=int),
                    }
                ],
                # It ends with this process, also where that is killed.
                additional_env={signals.PARENT: str(os.getpid())},
                on_exit=Shutdown(reason="the source has ended"),
                # Its standard output is progress for programs.
                output={"stdout": "log", "stderr": "screen"},
            ),
        ]
    )
