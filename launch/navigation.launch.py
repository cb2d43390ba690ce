"""Segments for Nav2: the node, and the lifecycle manager that starts it, where nav2_lifecycle_manager is installed.

Without it the node starts itself. The other arguments are those of m2f.launch.py.
"""

from importlib.util import find_spec

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, LogInfo, OpaqueFunction
from launch.launch_description_entity import LaunchDescriptionEntity
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from m2f_ros.node.launch_arguments import is_true
from m2f_ros.node.launching import values

MANAGER = "nav2_lifecycle_manager"
SHARE = FindPackageShare("m2f_ros")
ARGUMENTS = (
    DeclareLaunchArgument(
        "image",
        default_value="/camera/color/image_raw",
        description="Topic of the images; with `cameras` NAME stands for the name of each.",
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value=PathJoinSubstitution([SHARE, "config", "nav2_params.yaml"]),
        description="YAML files of parameters, separated by commas, which may be Nav2's own with those of this node.",
    ),
    DeclareLaunchArgument(
        "manager", default_value="lifecycle_manager_perception", description="Name of the lifecycle manager."
    ),
    DeclareLaunchArgument(
        "bond_timeout",
        default_value="",
        description="Seconds without a heartbeat after which the manager takes the node for dead. Empty: 4.0 with "
        "bondpy, else 0.0, never.",
    ),
)


def is_managed() -> bool:
    try:
        get_package_prefix(MANAGER)
    except PackageNotFoundError:
        return False
    return True


def make_manager(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    value = values(context)
    if not is_managed():
        return [LogInfo(msg=f"{MANAGER} is not installed: the node starts itself")]
    bonds = find_spec("bondpy") is not None
    timeout = float(value("bond_timeout") or (4.0 if bonds else 0.0))
    manager = Node(
        package=MANAGER,
        executable="lifecycle_manager",
        name=value("manager"),
        namespace=value("namespace"),
        parameters=[
            {
                "autostart": True,
                "node_names": [value("name")],
                "bond_timeout": timeout,
                **({"use_sim_time": is_true(value("use_sim_time"))} if value("use_sim_time") else {}),
            }
        ],
        output="screen",
    )
    if not bonds and timeout:
        return [manager, LogInfo(msg="bondpy is not installed: with bond_timeout above 0.0 the manager ends the node")]
    return [manager]


def generate_launch_description() -> LaunchDescription:
    segmentation = PathJoinSubstitution([SHARE, "launch", "m2f.launch.py"])
    passed = {name: LaunchConfiguration(name) for name in ("image", "params_file")}
    starts = LaunchConfiguration("autostart", default="false" if is_managed() else "true")
    return LaunchDescription(
        [
            *ARGUMENTS,
            # It declares model, cameras, depth and the other arguments.
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(segmentation),
                launch_arguments={**passed, "autostart": starts}.items(),
            ),
            OpaqueFunction(function=make_manager),
        ]
    )
