"""Segments one or several cameras: starts the node, with the Fast DDS profile for large images."""

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.launch_description_entity import LaunchDescriptionEntity
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from m2f_ros import signals
from m2f_ros.errors import ConfigError
from m2f_ros.node.parameters import CAMERA, NODE, read_sizes
from m2f_ros.processes.fastdds import choose, remove_orphans

# Parameters of the node that are arguments, too; a params_file sets the others.
COMMON = (
    "model",
    "taxonomy",
    "device",
    "precision",
    "backend",
    "resize",
    "max_pixels",
    "output_scale",
    "output_depth",
    "smoothing",
    "alpha",
    "transport",
    "reliability",
    "max_rate",
    "autostart",
)
ROWS = {row.name: row for row in (*NODE, *CAMERA)}

ARGUMENTS = (
    DeclareLaunchArgument(
        "image",
        description="Topic of the images, for example /camera/image_raw. With `cameras` NAME stands for the name of "
        "each camera, for example /NAME/image_raw.",
    ),
    DeclareLaunchArgument(
        "cameras",
        default_value="",
        description="Names of the cameras, separated by commas; empty: one camera without a name.",
    ),
    DeclareLaunchArgument(
        "image_sizes",
        default_value="",
        description="Sizes of the images, for example 1920x1080, separated by commas: the model is prepared for them "
        "before the first image. Empty: from the params_file, else none.",
    ),
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node."),
    DeclareLaunchArgument(
        "name", default_value="segmentation", description="Name of the node; its topics are under this name."
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value="",
        description="YAML file of parameters; the arguments below override it. See share/m2f_ros/config.",
    ),
    DeclareLaunchArgument(
        "use_sim_time", default_value="false", choices=["true", "false"], description="Take the time from /clock."
    ),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        choices=["debug", "info", "warn", "error", "fatal"],
        description="Least severity of the node's log lines.",
    ),
    DeclareLaunchArgument(
        "fastdds_profile",
        default_value="true",
        choices=["true", "false"],
        description="Choose a Fast DDS profile for large images by the free shared memory, unless one is set; the "
        "camera's driver needs one, too.",
    ),
)


def of_parameter(name: str) -> DeclareLaunchArgument:
    """The argument of a parameter; an empty one leaves the value to the file, or to the node."""
    row = ROWS[name]
    choices = ("true", "false") if isinstance(row.default, bool) else row.choices
    default = str(row.default).lower() if isinstance(row.default, bool) else row.default
    return DeclareLaunchArgument(
        name,
        default_value="",
        choices=["", *choices] if choices else None,
        description=f"{row.description} Empty: from the params_file, else {default!r}.",
    )


def set_profile(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    config = Path(get_package_share_directory("m2f_ros"), "config")
    remove_orphans(context.environment)
    profile = choose(config, context.environment, Path.cwd())
    return [
        *(SetEnvironmentVariable(name, value) for name, value in profile.variables.items()),
        LogInfo(msg=profile.line),
    ]


def make_node(context: LaunchContext) -> list[Node]:
    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    def values(name: str) -> list[str]:
        return [text.strip() for text in value(name).split(",") if text.strip()]

    cameras, sizes = values("cameras"), values("image_sizes")
    read_sizes(sizes)
    if len(cameras) > 1 and "NAME" not in value("image"):
        raise ConfigError(
            f"image:={value('image')} is one topic for {len(cameras)} cameras: put NAME for the name of each"
        )
    given = {
        name: ParameterValue(LaunchConfiguration(name), value_type=type(ROWS[name].default))
        for name in COMMON
        if value(name)
    }
    if value("params_file") and not os.path.isfile(value("params_file")):
        raise ConfigError(f"params_file:={value('params_file')}: there is no such file")
    for row in (ROWS[name] for name in given):
        if type(row.default) in (int, float):
            row.read(value(row.name))
    given["use_sim_time"] = ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)
    for name, texts in (("cameras", cameras), ("image_sizes", sizes)):
        if texts:
            given[name] = texts
    logger = ".".join(filter(None, [*value("namespace").split("/"), value("name")]))
    return [
        Node(
            package="m2f_ros",
            executable="segmentation_node",
            namespace=value("namespace"),
            name=value("name"),
            remappings=[(f"~/{name}/image", value("image").replace("NAME", name)) for name in cameras]
            or [("~/image", value("image"))],
            # The later of two values holds.
            parameters=[*([value("params_file")] if value("params_file") else []), given],
            # The node ends with this process, even if that is killed.
            additional_env={signals.PARENT: str(os.getpid())},
            # The level is the node's alone: DDS logs much at debug.
            arguments=["--ros-args", "--log-level", f"{logger}:={value('log_level')}"],
            output="screen",
        )
    ]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            *ARGUMENTS,
            *map(of_parameter, COMMON),
            OpaqueFunction(function=set_profile, condition=IfCondition(LaunchConfiguration("fastdds_profile"))),
            OpaqueFunction(function=make_node),
        ]
    )
