"""Segments one camera: the node under the camera's name, with the Fast DDS profile for large images."""

import os

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

ARGUMENTS = (
    DeclareLaunchArgument("image", description="Topic of the camera's images, for example /camera/image_raw."),
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node, one per camera."),
    DeclareLaunchArgument("name", default_value="segmentation", description="Name of the node, and of its topics."),
    DeclareLaunchArgument(
        "model", default_value="street", description="Model: street, a Hugging Face name, or a folder."
    ),
    DeclareLaunchArgument("device", default_value="auto", description="Where to compute: auto, cpu, cuda, cuda:1, …"),
    DeclareLaunchArgument(
        "fastdds_profile",
        default_value="true",
        choices=["true", "false"],
        description="Use the Fast DDS profile for large images; the camera's driver needs it too.",
    ),
)


# Later distributions warn about the first name and take both together for an error.
OLDER = os.environ.get("ROS_DISTRO") in ("humble", "jazzy")
PROFILES_FILE = "FASTRTPS_DEFAULT_PROFILES_FILE" if OLDER else "FASTDDS_DEFAULT_PROFILES_FILE"


def generate_launch_description() -> LaunchDescription:
    profile = PathJoinSubstitution([FindPackageShare("m2f_ros"), "config", "fastdds.xml"])
    wanted = IfCondition(LaunchConfiguration("fastdds_profile"))
    return LaunchDescription(
        [
            *ARGUMENTS,
            SetEnvironmentVariable(PROFILES_FILE, profile, condition=wanted),
            Node(
                package="m2f_ros",
                executable="segmentation_node",
                namespace=LaunchConfiguration("namespace"),
                name=LaunchConfiguration("name"),
                remappings=[("~/image", LaunchConfiguration("image"))],
                parameters=[
                    {
                        "model": ParameterValue(LaunchConfiguration("model"), value_type=str),
                        "device": ParameterValue(LaunchConfiguration("device"), value_type=str),
                    }
                ],
                output="screen",
            ),
        ]
    )
