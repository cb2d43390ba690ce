"""The parameters of another node that may change while it runs, as the page shows them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor, ParameterEvent, ParameterType, ParameterValue
from rclpy.node import Node
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.parameter_client import AsyncParameterClient

from m2f_ros.node.declare import WHEN
from m2f_ros.node.parameters import CAMERA, NODE

TYPES = {
    ParameterType.PARAMETER_BOOL: "bool",
    ParameterType.PARAMETER_INTEGER: "int",
    ParameterType.PARAMETER_DOUBLE: "float",
    ParameterType.PARAMETER_STRING: "text",
    ParameterType.PARAMETER_DOUBLE_ARRAY: "float[]",
    ParameterType.PARAMETER_STRING_ARRAY: "text[]",
}
_KINDS = {
    "bool": Parameter.Type.BOOL,
    "int": Parameter.Type.INTEGER,
    "float": Parameter.Type.DOUBLE,
    "text": Parameter.Type.STRING,
    "float[]": Parameter.Type.DOUBLE_ARRAY,
    "text[]": Parameter.Type.STRING_ARRAY,
}
_ROWS = {row.name: row for row in (*NODE, *CAMERA)}


class RemoteParameters:
    """The parameters of one node, over its services. All methods but `listed` belong to the executor's thread.

    Args:
        tell: takes JSON for the pages.
    """

    def __init__(self, node: Node, tell: Callable[[dict[str, Any]], object]) -> None:
        self._node, self._tell = node, tell
        self._client: AsyncParameterClient | None = None
        self._of = ""
        self._asked = False
        self._found: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()

    def listed(self) -> list[dict[str, Any]]:
        """Return name, type, value, range, choices and description of each. Thread-safe."""
        with self._lock:
            return [dict(one) for one in self._found.values()]

    def follow(self, name: str) -> None:
        """Show the parameters of this node."""
        self.leave()
        self._of, self._client = name, AsyncParameterClient(self._node, name)

    def leave(self) -> None:
        """Forget the node."""
        if self._client is not None:
            for name in vars(self._client).values():
                if name in list(self._node.clients):
                    self._node.destroy_client(name)
        self._client, self._of, self._asked = None, "", False
        with self._lock:
            self._found = {}

    def look(self) -> None:
        """Ask for the parameters, once the node's services are there."""
        if self._client is None or self._asked or not self._client.services_are_ready():
            return
        client: Any = self._client  # whose services may go while it asks
        self._asked = True

        def listed(future: Any) -> None:
            names = sorted(future.result().result.names)
            client.describe_parameters(names, lambda found: chosen(names, found.result().descriptors))

        def chosen(names: list[str], descriptors: list[ParameterDescriptor]) -> None:
            running = {
                name: one
                for name, one in zip(names, descriptors, strict=True)
                if not one.read_only and f"changeable: {WHEN['running']}" in one.additional_constraints
            }
            if running:
                client.get_parameters([*running], lambda found: got(running, found.result().values))

        def got(running: dict[str, ParameterDescriptor], values: list[ParameterValue]) -> None:
            if client is not self._client:
                return
            rows = zip(running.items(), values, strict=True)
            found = {name: _shown(name, one, value) for (name, one), value in rows if value.type in TYPES}
            with self._lock:
                self._found = found
            self._tell({"type": "parameters", "parameters": self.listed()})

        client.list_parameters(callback=listed)

    def set(self, name: str, value: Any, answer: Callable[[str], object]) -> None:
        """Set a parameter; `answer` takes the reason of a refusal, or "". The node checks the value."""
        one = self._found.get(name)
        if self._client is None or one is None:
            answer(f"there is no parameter {name!r:.60} that can change now")
            return
        try:
            given = Parameter(name, _KINDS[one["type"]], _typed(one["type"], value))
        except (TypeError, ValueError):
            answer(f"{name} must be of type {one['type']}, not {value!r:.60}")
            return

        def done(future: Any) -> None:
            try:
                (result,) = future.result().results
            except Exception as error:
                answer(f"{name}: the node gives no answer ({error})")
                return
            answer("" if result.successful else result.reason or "the node refuses it")

        self._client.set_parameters([given], callback=done)

    def take_event(self, message: ParameterEvent) -> None:
        """Pass on a change, by whomever."""
        if message.node != self._of:
            return
        for changed in (*message.new_parameters, *message.changed_parameters):
            if changed.name in self._found:
                value = _python(changed.value)
                with self._lock:
                    self._found[changed.name]["value"] = value
                self._tell({"type": "parameter", "name": changed.name, "value": value})


def _python(value: ParameterValue) -> Any:
    found = parameter_value_to_python(value)
    return [one for one in found if one != ""] if hasattr(found, "__iter__") and not isinstance(found, str) else found


def _typed(kind: str, value: Any) -> Any:
    """Return a value of JSON as ROS takes it. Raises TypeError or ValueError."""
    if kind == "bool":
        if not isinstance(value, bool):
            raise TypeError
        return value
    if kind in ("int", "float"):
        if isinstance(value, bool) or not isinstance(value, int | float) or (kind == "int" and value != int(value)):
            raise TypeError
        return int(value) if kind == "int" else float(value)
    if kind == "text":
        if not isinstance(value, str):
            raise TypeError
        return value
    if not isinstance(value, list):
        raise TypeError
    if kind == "float[]":
        return [_typed("float", one) for one in value]
    return [_typed("text", one) for one in value] or [""]  # an empty list has no type in ROS


def _shown(name: str, descriptor: ParameterDescriptor, value: ParameterValue) -> dict[str, Any]:
    bounds = [*descriptor.floating_point_range, *descriptor.integer_range]
    row = _ROWS.get(name) or _ROWS.get(name.rpartition(".")[2])
    return {
        "name": name,
        "type": TYPES[value.type],
        "value": _python(value),
        "range": [bounds[0].from_value, bounds[0].to_value] if bounds else None,
        "choices": list(row.choices) if row else [],
        "description": descriptor.description,
    }
