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
        "precision",
        default_value="auto",
        choices=["auto", "fp16", "bf16", "tf32", "fp32"],
        description="Numbers of the network; auto: fp16 on CUDA, fp32 on a CPU.",
    ),
    DeclareLaunchArgument(
        "backend",
        default_value="auto",
        choices=["auto", "eager", "compile", "openvino"],
        description="What runs the network; auto: openvino on a CPU where it is installed, else eager.",
    ),
    DeclareLaunchArgument(
        "resize",
        default_value="stretch",
        choices=["stretch", "pad", "shortest", "longest", "fixed"],
        description="How images are brought to the network's size; the numbers are the node's parameters.",
    ),
    DeclareLaunchArgument(
        "max_pixels", default_value="0", description="Bound of the network's size in pixels; 0: the model's own."
    ),
    DeclareLaunchArgument(
        "fastdds_profile",
        default_value="true",
        choices=["true", "false"],
        description="Use the Fast DDS profile for large images; the camera's driver needs it too.",
    ),
)

# Arguments that are parameters of the node, and their types.
PARAMETERS = {"model": str, "device": str, "precision": str, "backend": str, "resize": str, "max_pixels": int}

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
                        name: ParameterValue(LaunchConfiguration(name), value_type=kind)
                        for name, kind in PARAMETERS.items()
                    }
                ],
                output="screen",
            ),
        ]
    )
