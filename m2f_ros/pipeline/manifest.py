"""The types of m2f.yaml, which describes a network in another program's format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from m2f_ros.typed import From0, From1, Number, NumberAbove0

# Dimensions of inputs and outputs that a number does not give.
BATCH, HEIGHT, WIDTH = "batch", "height", "width"
Colours = Annotated[tuple[Number, ...], msgspec.Meta(min_length=3, max_length=3)]
Scales = Annotated[tuple[NumberAbove0, ...], msgspec.Meta(min_length=3, max_length=3)]
Size = tuple[From1, From1]


class Verified(msgspec.Struct):
    """The comparison with PyTorch before the export was written.

    Attributes:
        frames: number of frames.
        source: source of the frames.
        runtime: library that ran the export, and its version.
        equal: share of the pixels with the label of PyTorch in float32, at the worst size.
        at_least: share below which the export is refused.
        sizes: (height, width) of the network's input at which they were compared.
    """

    frames: From1
    source: str
    runtime: str
    equal: Number
    at_least: Number
    sizes: list[Size]


class Manifest(msgspec.Struct, kw_only=True):
    """The contents of m2f.yaml.

    Attributes:
        layout: version of these fields.
        made_by: version of this package.
        model: name of the model as given to `m2f export`.
        network: short description of the network.
        format: one of FORMATS.
        file: name of the file to load.
        sha256: hash of each file in the folder, by name.
        gives: "mask_classification" (class_logits, mask_logits), "pixel_logits" (logits), "instances" (scores,
            mask_logits), "label_map" (labels of the network's size) or "labels" (label, confidence).
        precision: type of the weights, "fp32", "fp16", or "int8" for the largest products.
        size: (height, width) of the network's input; None for any multiple of `stride`.
        batch: number of images; None for any.
        stride: number whose multiples are the height and width of the network's input.
        mean, std: of R, G, B in 0..255, for the preprocessing; a file that gives labels normalises by itself.
        channels: order of the network's channels, "rgb" or "bgr".
        axes: order of the axes of its images and pixel logits, "nchw" or "nhwc".
        frame: (height, width) of the camera's images that a file takes which gives labels; else None.
        encoding: encoding of these images, "rgb8" or "bgr8"; else None.
        resize: default size of the network's input; see `NetworkConfig`.
        averaged: True if images are averaged where they shrink; False if they are interpolated alone.
        min_pixels, max_pixels: bounds of its pixels; see `NetworkConfig`.
        inputs, outputs: type and dimensions of each tensor, by name.
        taxonomy: contents of a taxonomy file: the classes, their colours, things and stuff.
        unlabelled: label of no class.
        plugin: name of the TensorRT plugin in the file; None without one.
        device: name of the GPU and its compute capability, for a format that needs this very one; else None.
        versions: version of each library that made the files.
        verified: comparison with PyTorch.
    """

    layout: From1
    made_by: str
    model: str
    network: str
    format: Literal["onnx", "openvino", "torchscript", "pt2", "tensorrt"]
    file: str
    sha256: dict[str, str]
    gives: Literal["mask_classification", "pixel_logits", "instances", "label_map", "labels"]
    precision: Literal["fp32", "fp16", "int8"]
    size: Size | None = None
    batch: From1 | None = None
    stride: From1
    mean: Colours
    std: Scales
    channels: Literal["rgb", "bgr"] = "rgb"
    axes: Literal["nchw", "nhwc"] = "nchw"
    frame: Size | None = None
    encoding: Literal["rgb8", "bgr8"] | None = None
    resize: tuple[Literal["fixed", "shortest"], From1, From1] | None = None
    min_pixels: From1 | None = None
    max_pixels: From1 | None = None
    averaged: bool = True
    inputs: dict[str, Port]
    outputs: dict[str, Port]
    taxonomy: dict[str, Any]
    unlabelled: From0
    plugin: str | None = None
    device: str | None = None
    versions: dict[str, str] = {}
    verified: Verified | None = None

    def contents(self) -> dict[str, Any]:
        """Return the contents in plain types."""
        return msgspec.to_builtins(self)


class Port(msgspec.Struct):
    """An input or output of the file.

    Attributes:
        dtype: NumPy's name of the type.
        shape: numbers, "batch", "height", "width" or "height/4"; "?" where a network that others made leaves it open.
    """

    dtype: str
    shape: list[From1 | str]

    def sizes(self, batch: int, height: int, width: int) -> tuple[int, ...]:
        """Return the shape for `batch` images of this network size."""
        known = {BATCH: batch, HEIGHT: height, WIDTH: width}
        return tuple(dim if isinstance(dim, int) else _value(dim, known) for dim in self.shape)


def _value(dim: str, known: Mapping[str, int]) -> int:
    name, _, divisor = dim.partition("/")
    return known[name] // int(divisor or 1)
