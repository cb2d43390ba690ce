"""The parts that launch files share. Imports launch and launch_ros, which not every ROS environment has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from launch import Action, LaunchContext
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteLocal,
    GroupAction,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetLaunchConfiguration,
)
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited, ShutdownProcess
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.utilities import make_namespace_absolute, prefix_namespace

from m2f_ros.errors import M2fError
from m2f_ros.node.launch_arguments import BOOLEANS, texts
from m2f_ros.sources.open import open_source


def switch(name: str, default: str, description: str) -> DeclareLaunchArgument:
    """Declare an argument that is true or false, written as in YAML or as in Python."""
    choices = BOOLEANS if default else ("", *BOOLEANS)
    return DeclareLaunchArgument(name, default_value=default, choices=list(choices), description=description)


def values(context: LaunchContext) -> Callable[[str], str]:
    """Return a function that takes the name of an argument, and returns its value; "" for one that is not declared."""
    return lambda name: LaunchConfiguration(name, default="").perform(context)


def namespace(context: LaunchContext) -> str:
    """Return the full namespace of the nodes: the argument `namespace`, below what PushROSNamespace has pushed."""
    pushed = context.launch_configurations.get("ros_namespace")
    return make_namespace_absolute(prefix_namespace(pushed, values(context)("namespace")) or "/")


def full_name(context: LaunchContext) -> str:
    """Return the full name of the segmentation node, such as /robot/segmentation_node."""
    return prefix_namespace(namespace(context), values(context)("name"))


def in_scope(context: LaunchContext, action: Action) -> Action:
    """Return an action for an event handler, with the namespace, parameters and environment of its launch file.

    When the handler is called, the scope of a launch file that pushed them has ended.
    """
    configurations, variables = dict(context.launch_configurations), dict(context.environment)

    def restore(context: LaunchContext) -> None:
        context.launch_configurations.update(configurations)
        context.environment.update(variables)

    return GroupAction([OpaqueFunction(function=restore), action])


def default(context: LaunchContext, name: str, text: str) -> list[Action]:
    """Return what sets an argument of m2f.launch.py, unless it is given or a params_file has its name."""
    value = values(context)
    files = [Path(file) for file in texts(value("params_file")) if Path(file).is_file()]
    named = value(name) or any(name in file.read_text(encoding="utf-8", errors="replace") for file in files)
    return [] if named or not text else [SetLaunchConfiguration(name, text)]


def image_size(source: str, topic: str | None = None) -> str:
    """Return the size of the first image of a source as image_sizes takes it.

    "" for a live camera, and for a source that cannot be read, which its player says. topic: of the images, for a bag
    with several cameras.
    """
    if source.startswith("/dev/"):
        return ""
    try:
        height, width = next(iter(open_source(source, topic=topic))).image.shape[:2]
    except (M2fError, OSError):
        return ""
    return f"{width}x{height}"


class Together:
    """The processes of one launch file. They end together; those of a launch file that includes it go on.

    Args:
        context: context with the arguments `namespace` and `name` of the segmentation node, one of the processes.
        processes: the others.
    """

    def __init__(self, context: LaunchContext, *processes: ExecuteLocal) -> None:
        self._node, self._processes = full_name(context), processes
        self._are_ending = False

    def end_with(self, process: ExecuteLocal | None, reason: str = "", codes: tuple[int, ...] = ()) -> Action:
        """Return the handler that ends all processes once one ends, None for the segmentation node.

        codes: exit codes that end nothing.
        """

        def end(event: ProcessExited, context: LaunchContext) -> list[Action]:
            meant = event.action is process if process else self._is_node(event.action)
            if not meant or event.returncode in codes or context.is_shutdown or self._are_ending:
                return []
            self._are_ending = True
            # As Ctrl-C, but for these processes alone.
            shutdown = EmitEvent(event=ShutdownProcess(process_matcher=self._has))
            return [LogInfo(msg=reason or f"{event.process_name} has ended"), shutdown]

        return RegisterEventHandler(OnProcessExit(on_exit=end))

    def _has(self, process: ExecuteLocal) -> bool:
        return process in self._processes or self._is_node(process)

    def _is_node(self, process: ExecuteLocal) -> bool:
        return isinstance(process, Node) and process.node_name == self._node
