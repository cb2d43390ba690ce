"""Segments several cameras with one node and one model; their topics are under /segmentation_node/NAME."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

SHARE = FindPackageShare("m2f_ros")
ARGUMENTS = (
    DeclareLaunchArgument(
        "cameras", default_value="front,left,rear", description="Names of the cameras, separated by commas."
    ),
    DeclareLaunchArgument(
        "image",
        default_value="NAME/image_raw",
        description="Topic of the images, in the node's namespace unless it begins with /; NAME stands for the name of "
        "each camera.",
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value=PathJoinSubstitution([SHARE, "config", "multi_camera.yaml"]),
        description="YAML files of parameters, separated by commas, with those of each camera under its name.",
    ),
)


def generate_launch_description() -> LaunchDescription:
    segmentation = PathJoinSubstitution([SHARE, "launch", "m2f.launch.py"])
    return LaunchDescription(
        [
            *ARGUMENTS,
            # It declares model, device and the other arguments.
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(segmentation),
                launch_arguments={argument.name: LaunchConfiguration(argument.name) for argument in ARGUMENTS}.items(),
            ),
        ]
    )
