"""The choices of `m2f export`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from m2f_ros.errors import ConfigError
from m2f_ros.pipeline.exported import FORMATS

PRECISIONS = ("fp32", "fp16", "int8")
ENCODINGS = ("bgr8", "rgb8")


class Bound(NamedTuple):
    """How far an export may differ from PyTorch in float32.

    Attributes:
        share: least share of pixels with the same label and a near confidence.
        levels: difference of two confidences, of 255, that are near.
    """

    share: float
    levels: int


BOUNDS = {"fp32": Bound(0.9999, 2), "fp16": Bound(0.995, 13), "int8": Bound(0.97, 26)}
DYNAMIC = "dynamic"


@dataclass(frozen=True)
class Settings:
    """How to export a model.

    Attributes:
        model: name of a shipped model, folder of a checkpoint, or Hugging Face hub id.
        to: one of FORMATS.
        size: (height, width) of the network's input; None for that of the frames; "dynamic" for every one.
        whole: True for a file from camera images to labels.
        encoding: encoding of these images, one of ENCODINGS.
        precision: one of PRECISIONS; int8 for a model with weights in eight bits, the rest in float32.
        plugin: True for TensorRT's plugin in place of the gathers of deformable attention.
        device: device that TensorRT builds for; other formats are made on the CPU.
    Raises:
        ConfigError: a value is unknown, or two do not go together.
    """

    model: str
    to: str = "onnx"
    size: tuple[int, int] | str | None = None
    whole: bool = False
    encoding: str = "bgr8"
    precision: str = "fp32"
    plugin: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        for option, value, choices in (
            ("--to", self.to, FORMATS),
            ("--precision", self.precision, PRECISIONS),
            ("--encoding", self.encoding, ENCODINGS),
        ):
            if value not in choices:
                raise ConfigError(f"{option} {value}: take {', '.join(choices)}")
        if self.precision == "int8" and self.to in ("torchscript", "pt2"):
            raise ConfigError(f"--precision int8: PyTorch gains nothing by it; take --to onnx in place of {self.to}")
        if self.dynamic and self.whole:
            raise ConfigError("--size dynamic: a whole export is for one size of the camera's images; name one size")
        if self.dynamic and self.to == "tensorrt":
            raise ConfigError("--size dynamic: a TensorRT engine is built for one size; name one")
        if self.dynamic and self.to == "torchscript":
            raise ConfigError("--size dynamic: a trace holds the constants of one size; name one, or take --to pt2")
        if self.plugin and self.to not in ("onnx", "tensorrt"):
            raise ConfigError(f"--plugin: is of TensorRT, and not for --to {self.to}; leave it out")

    @property
    def dynamic(self) -> bool:
        return self.size == DYNAMIC
