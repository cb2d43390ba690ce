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
    """One parameter. Its type is that of the default; the range includes both ends; choices are all there are."""

    name: str
    default: bool | int | float | str
    description: str
    range: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()

    def descriptor(self) -> ParameterDescriptor:
        descriptor = ParameterDescriptor(description=self.description, read_only=True)
        if self.choices:
            descriptor.additional_constraints = f"one of {', '.join(self.choices)}"
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
    Parameter(
        "precision",
        "auto",
        "Numbers of the network; auto: fp16 on CUDA, fp32 on a CPU, which may have bf16 beside it.",
        choices=("auto", "fp16", "bf16", "tf32", "fp32"),
    ),
    Parameter(
        "backend",
        "auto",
        "What runs the network; auto: openvino on a CPU where it is installed, else eager. compile starts slowly.",
        choices=("auto", "eager", "compile", "openvino"),
    ),
    Parameter("graphs", True, "Launch the work on a frame as one CUDA graph; false saves memory of the GPU."),
    Parameter("slots", 2, "Frames inside the pipeline at once: one computes while others are copied.", range=(1, 8)),
    Parameter("taxonomy", "", "Classes of the model: a name or a YAML file; empty: as its checkpoint says."),
    Parameter("alpha", 0.5, "Opacity of the class colours in the overlay.", range=(0.0, 1.0)),
    Parameter(
        "resize",
        "stretch",
        "Size of the image for the network, a multiple of 32. stretch: its own, stretched to the nearest; pad: its "
        "own, padded; shortest: the shorter side becomes resize_shortest, or less where the longer one would exceed "
        "resize_longest; longest: the longer side becomes resize_longest; fixed: resize_height x resize_width. "
        "Outputs keep the size of the input.",
        choices=("stretch", "pad", "shortest", "longest", "fixed"),
    ),
    Parameter("resize_shortest", 1024, "Pixels; see resize.", range=(1, 16384)),
    Parameter("resize_longest", 2048, "Pixels; see resize.", range=(1, 16384)),
    Parameter("resize_height", 1024, "Pixels, a multiple of 32; see resize.", range=(32, 16384)),
    Parameter("resize_width", 2048, "Pixels, a multiple of 32; see resize.", range=(32, 16384)),
    Parameter(
        "max_pixels",
        0,
        "Images of more pixels are shrunk to about so many for the network, at least 1024; 0: the model's own bound, "
        "or none where resize names a size.",
        range=(0, 1 << 26),
    ),
    Parameter("threads", 0, "CPU threads of the pipeline; 0: as many as torch chooses.", range=(0, 1024)),
)

_KINDS = {bool: "true or false", int: "an integer", float: "a number with a point", str: "text"}


def declare(node: Node, table: tuple[Parameter, ...]) -> SimpleNamespace:
    """Declare a table on a node; returns the values by name.

    Raises ConfigError, in one line, for a value of the wrong type, out of range or not one of its choices.
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
        if row.choices and value not in row.choices:
            raise ConfigError(f"parameter '{row.name}' must be one of {', '.join(row.choices)}, not {value!r}")
        setattr(values, row.name, value)
    return values
