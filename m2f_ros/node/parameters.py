"""The parameters of the nodes: one table each, from which the ROS declaration is made."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import ParameterException
from rclpy.node import Node

from m2f_ros.errors import ConfigError


@dataclass(frozen=True)
class Parameter:
    """One parameter. Its type is that of the default; the range includes both ends."""

    name: str
    default: bool | int | float | str
    description: str
    range: tuple[float, float] | None = None

    def descriptor(self) -> ParameterDescriptor:
        descriptor = ParameterDescriptor(description=self.description, read_only=True)
        if self.range:
            low, high = self.range
            if isinstance(self.default, float):
                descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
            else:
                descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
        return descriptor


SEGMENTATION = (
    Parameter("model", "street", "Name of a shipped model, folder of a checkpoint, or Hugging Face hub id."),
    Parameter("device", "auto", "Where the model runs: auto, cpu, cuda, cuda:1, …"),
    Parameter("taxonomy", "", "Classes of the model: a name or a YAML file; empty: as its checkpoint says."),
    Parameter("alpha", 0.5, "Opacity of the class colours in the overlay.", range=(0.0, 1.0)),
    Parameter(
        "max_pixels",
        0,
        "Larger images are shrunk to about so many pixels for the network, 0: the model's own bound. "
        "Outputs keep the size of the input.",
        range=(0, 1 << 26),
    ),
    Parameter("threads", 0, "CPU threads of the pipeline; 0: as many as torch chooses.", range=(0, 1024)),
)

_KINDS = {bool: "true or false", int: "an integer", float: "a number with a point", str: "text"}


def declare(node: Node, table: tuple[Parameter, ...]) -> SimpleNamespace:
    """Declare a table on a node; returns the values by name.

    Raises ConfigError, in one line, for a value of the wrong type or out of range.
    """
    values = SimpleNamespace()
    for row in table:
        try:
            value = node.declare_parameter(row.name, row.default, row.descriptor()).value
        except ParameterException as error:
            wanted = _KINDS[type(row.default)]
            if row.range:
                wanted += f" from {row.range[0]} to {row.range[1]}"
            reason = " ".join(str(error).split())
            raise ConfigError(f"parameter '{row.name}' must be {wanted}: {reason}") from error
        setattr(values, row.name, value)
    return values
