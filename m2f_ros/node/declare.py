"""Declares parameters in ROS with descriptors, checks new values and applies them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import rclpy
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import ParameterException
from rclpy.node import Node

from m2f_ros.errors import ConfigError, M2fError
from m2f_ros.node.parameters import (
    CAMERA,
    NODE,
    NONE,
    CameraSettings,
    NodeSettings,
    Parameter,
    Value,
    camera_prefix,
    camera_table,
    check_cameras,
    parameters_of,
)

S = TypeVar("S")

# Parameters that ROS declares, some only in some distributions or after the creation of a topic.
_OF_ROS = ("qos_overrides.", "use_sim_time", "start_type_description_service")
WHEN = {"start": "fixed at start", "configure": "while unconfigured", "running": "at any time"}


def descriptor(row: Parameter) -> ParameterDescriptor:
    """Make the descriptor for `ros2 param describe`."""
    constraints = [f"changeable: {WHEN[row.change]}"]
    if row.choices:
        constraints.insert(0, row.wanted)
    found = ParameterDescriptor(
        description=row.description,
        read_only=row.change == "start",
        additional_constraints="; ".join(constraints),
        # `Parameter.check` checks the type with a better message than rclpy's "expected '3' got '2'".
        dynamic_typing=True,
    )
    if row.range:
        low, high = row.range
        if isinstance(row.default, float):
            found.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
        else:
            found.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
    return found


def declare_settings(node: Node, kind: type[S]) -> S:
    """Declare the parameters of a settings dataclass on a node; return their values.

    Raises ConfigError, in one line, for a value of the wrong type, out of range or not among its choices.
    """
    return kind(**{row.field: _declare_one(node, row.name, row) for row in parameters_of(kind)})


def _declare_one(node: Node, name: str, row: Parameter) -> Value:
    default = list(row.default) if isinstance(row.default, tuple) else row.default
    given = given_values(node).get(name)
    # ROS turns [] in a file or on the command line into None, which would have no type.
    empty = isinstance(row.default, tuple) and given is not None and given.value is None
    try:
        none = list(NONE) if row.numbers else [""]
        value = node.declare_parameter(name, none if empty else default, descriptor(row), ignore_override=empty).value
    except ParameterException as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"parameter '{name}' must be {row.wanted}: {reason}") from error
    return row.check(value, name)


def given_values(node: Node) -> dict[str, rclpy.Parameter]:
    """Return a node's parameter values from the command line or files, by name.

    It is rclpy's own dictionary: what is put there holds for a parameter that is declared later.
    """
    # rclpy has no public name for it.
    return getattr(node, "_parameter_overrides", {})


def unknown_parameters(node: Node) -> list[str]:
    """Return the given names that are not parameters of the node, each with the most similar parameter."""
    given = given_values(node)
    unknown = [name for name in given if not (node.has_parameter(name) or name.startswith(_OF_ROS))]
    names = node.list_parameters([], 0).names if unknown else []
    return [
        f"'{name}'" + "".join(f" (meant: '{near}'?)" for near in difflib.get_close_matches(name, names, n=1))
        for name in sorted(unknown)
    ]


class Settings:
    """The present values of segmentation_node's parameters.

    `node` and `cameras[name]` are replaced as a whole when parameters are set: readers see no partial change.

    Args:
        refuse: function that takes the node's new values, and raises M2fError to refuse them.
        applied: function that is called after values were set.
    Attributes:
        node: values of the node's own parameters.
        cameras: camera's name -> values of its parameters.
        configured: True while parameters that only `configure` reads must not change.
    Raises:
        ConfigError: a value is wrong.
    """

    def __init__(self, node: Node, refuse: Callable[[NodeSettings], None], applied: Callable[[], None]) -> None:
        self._node, self._refuse, self._applied = node, refuse, applied
        self.configured = False
        self.node = declare_settings(node, NodeSettings)
        self.cameras: dict[str, CameraSettings] = {}
        names = check_cameras(self.node.cameras)
        shared = declare_settings(node, CameraSettings)
        # Full name -> (camera or None for the node, row).
        self._rows: dict[str, tuple[str | None, Parameter]] = {row.name: (None, row) for row in NODE}
        for name in names:
            rows = camera_table(name, shared)
            own: dict[str, Any] = (
                {row.field: _declare_one(node, full, row) for full, row in rows.items()} if name else {}
            )
            self.cameras[name] = replace(shared, **own)
            self._rows |= {full: (name, row) for full, row in rows.items()}
        node.add_on_set_parameters_callback(self._on_set)
        self._applies_after = hasattr(node, "add_post_set_parameters_callback")  # not on Humble
        if self._applies_after:
            node.add_post_set_parameters_callback(self._apply)

    def given(self, name: str) -> frozenset[str]:
        """Return the texts that a camera's list has by the command line or files, of any camera; not the default's."""
        own = {name, *(camera_prefix(camera) + name for camera in self.cameras)}
        given = given_values(self._node)
        return frozenset(text for full in own & given.keys() for text in given[full].value or ())

    def _on_set(self, parameters: Sequence[rclpy.Parameter]) -> SetParametersResult:
        try:
            changed = self._check(parameters)
            self._refuse(replace(self.node, **changed.get(None, {})))
        except M2fError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if not self._applies_after:
            self._apply(parameters)
        return SetParametersResult(successful=True)

    def _check(self, parameters: Sequence[rclpy.Parameter]) -> dict[str | None, dict[str, Any]]:
        """Check new values; return them by camera, or None for the node, without parameters of ROS."""
        changed: dict[str | None, dict[str, Any]] = {}
        for parameter in parameters:
            if parameter.name in self._rows:
                camera, row = self._rows[parameter.name]
                if row.change == "configure" and self.configured:
                    raise ConfigError(
                        f"parameter '{row.name}' is read when the node is configured: deactivate and clean up first"
                    )
                changed.setdefault(camera, {})[row.field] = row.check(parameter.value, parameter.name)
            elif parameter.name in _CAMERA_NAMES:
                own = ", ".join(camera_prefix(camera) + parameter.name for camera in self.cameras)
                raise ConfigError(f"parameter '{parameter.name}' was a default for the start; set {own}")
        return changed

    def _apply(self, parameters: Sequence[rclpy.Parameter]) -> None:
        changed = self._check(parameters)
        for camera, values in changed.items():
            if camera is None:
                self.node = replace(self.node, **values)
            else:
                self.cameras[camera] = replace(self.cameras[camera], **values)
        if changed:
            self._applied()


_CAMERA_NAMES = frozenset(row.name for row in CAMERA)
