"""Segments one or several cameras: starts the node, with the Fast DDS profile for large images.

An argument that is not given changes nothing: SetParameter, a params_file, or the node's own default holds.
"""

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import Action, LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessExit
from launch.events import matches_action
from launch.events.process import ShutdownProcess
from launch.launch_description_entity import LaunchDescriptionEntity
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import Parameter, ParameterValue

from m2f_ros import signals
from m2f_ros.node.launch_arguments import ARGUMENTS, SEGMENTATION, is_true, read
from m2f_ros.node.launching import full_name, switch, values
from m2f_ros.node.parameters import Parameter as Row
from m2f_ros.processes.children import executable
from m2f_ros.processes.fastdds import choose, remove_orphans

DELAY = Row("respawn_delay", 2.0, "Of the launch.", range=(0.0, 3600.0))
# `m2f node` has no such arguments: a supervisor starts it again.
RESPAWN = (
    switch("respawn", "false", "Start the node again, after respawn_delay, when it ends before the launch does."),
    DeclareLaunchArgument("respawn_delay", default_value="2.0", description="Seconds from the end to the new start."),
)
# `m2f node` has no such arguments: `m2f view` shows the node that it starts.
WEB = (
    switch("web", "false", "Show the node on a page in the browser, by `m2f view`."),
    DeclareLaunchArgument(
        "web_host",
        default_value="127.0.0.1",
        description="Address of the page; another than this machine's own needs M2F_TOKEN in the environment.",
    ),
    DeclareLaunchArgument("web_port", default_value="8080", description="Port of the page."),
)
WEB_PORT = Row("web_port", 8080, "Of the page.", range=(1, 65535))


def set_profile(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    config = Path(get_package_share_directory("m2f_ros"), "config")
    remove_orphans(context.environment)
    profile = choose(config, context.environment, Path.cwd())
    return [
        *(SetEnvironmentVariable(name, value) for name, value in profile.variables.items()),
        LogInfo(msg=profile.line),
    ]


def make_node(context: LaunchContext) -> list[Action]:
    value = values(context)
    start = read({argument.name: value(argument.name) for argument in ARGUMENTS})
    # A text stays one though it looks like a number.
    given = {
        name: (list(found), list[str]) if isinstance(found, tuple) else (found, type(found))
        for name, found in start.parameters.items()
    }
    # A level that was not given leaves that of the process; one that was is the node's alone: DDS logs much at debug.
    logger = full_name(context)[1:].replace("/", ".")
    level = ["--ros-args", "--log-level", f"{logger}:={start.log_level}"] if start.log_level else []
    respawns = is_true(value("respawn"))
    node = Node(
        package="m2f_ros",
        executable=SEGMENTATION,
        namespace=start.namespace,
        name=start.name,
        remappings=list(start.remappings.items()),
        # The later of two values holds; but those for /** go all before, or all behind, those for the node's name,
        # by which of the two came first. So the arguments are given for both.
        parameters=[
            *start.params_files,
            {name: ParameterValue(found, value_type=kind) for name, (found, kind) in given.items()},
            *(Parameter(name, found, value_type=kind) for name, (found, kind) in given.items()),
        ],
        # The node ends with this process, even if that is killed.
        additional_env={signals.PARENT: str(os.getpid())},
        arguments=level,
        respawn=respawns,
        respawn_delay=DELAY.read(value("respawn_delay")),
        output="screen",
    )
    return [node, *(page(context, node, respawns) if is_true(value("web")) else ())]


def page(context: LaunchContext, node: Node, respawns: bool) -> list[Action]:
    """The page of the node, which ends with it unless the node starts again."""
    value = values(context)
    port = WEB_PORT.read(value("web_port"))
    view = ExecuteProcess(
        cmd=[
            str(executable("m2f")),
            "view",
            "--node",
            full_name(context),
            "--host",
            value("web_host"),
            "--port",
            str(port),
        ],
        name="page",
        additional_env={signals.PARENT: str(os.getpid())},
        output="screen",
    )
    if respawns:
        return [view]
    ending = EmitEvent(event=ShutdownProcess(process_matcher=matches_action(view)))
    return [view, RegisterEventHandler(OnProcessExit(target_action=node, on_exit=ending))]


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(
            argument.name,
            default_value=argument.default,
            choices=argument.choices or None,
            description=argument.description,
        )
        for argument in ARGUMENTS
    ]
    return LaunchDescription(
        [
            *declared,
            *RESPAWN,
            *WEB,
            OpaqueFunction(function=set_profile, condition=IfCondition(LaunchConfiguration("fastdds_profile"))),
            OpaqueFunction(function=make_node),
        ]
    )
