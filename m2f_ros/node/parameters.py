"""The parameters of segmentation_node, each a field of a dataclass with its default, bounds and description.

They are the source of the declaration in ROS, of `config/m2f.yaml` and of `docs/parameters.md`. Does not import ROS, so
that the reference can be written without it.
"""

from __future__ import annotations

import math
import re
import reprlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeGuard, TypeVar

from m2f_ros.errors import ConfigError
from m2f_ros.frame.bit_depth import AUTO, DEPTHS
from m2f_ros.frame.outputs import NAMES, SPATIAL_NAMES

Value = bool | int | float | str | tuple[str, ...] | tuple[float, ...]
Change = Literal["start", "configure", "running"]
KINDS = {
    bool: "true or false",
    int: "an integer",
    float: "a number with a point",
    str: "text",
    tuple: "a list of texts",
}

NONE = (0.0,)  # a list of no numbers
LONGEST = 4096  # characters of a text, such as a path
TEXTS = 1000  # texts in a list

# Shortens wrong values in errors.
_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = 80


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    Attributes:
        name: name without the prefix of a camera.
        default: default value, of the parameter's type. A tuple is a list of texts; [""] is the empty list, which has
            no type in ROS. With `numbers` it is a list of numbers.
        description: text for `ros2 param describe` and docs.
        range: least and greatest value.
        choices: all valid values, or all valid elements of a list.
        change: time at which a new value is accepted: never, while the node is unconfigured, or at any time.
        numbers: length of a list of numbers; 0 for parameters of other types.
        optional: True for numbers that may be left out, by [0.0].
        angles: number of angles at the end of the numbers, radians, a turn at most.
    """

    name: str
    default: Value
    description: str
    range: tuple[float, float] | None = None
    choices: tuple[str, ...] | tuple[int, ...] = ()
    change: Change = "start"
    numbers: int = 0
    optional: bool = False
    angles: int = 0

    @property
    def field(self) -> str:
        """Name of its field in the settings."""
        return self.name.replace(".", "_")

    @property
    def kind(self) -> str:
        """Its type in words."""
        if self.numbers:
            return f"a list of {self.numbers} numbers" + (", or [0.0] for none" if self.optional else "")
        return KINDS[type(self.default)]

    @property
    def wanted(self) -> str:
        """Description of the valid values."""
        text = self.kind
        if self.choices:
            text = f"{'a list of' if isinstance(self.default, tuple) else 'one of'} {', '.join(map(str, self.choices))}"
        if self.range:
            text += f" from {self.range[0]} to {self.range[1]}"
        return text

    def check(self, value: object, name: str | None = None) -> Value:
        """Check a value and return it, a list without its empty texts. name: full name of the parameter.

        Raises ConfigError, in one line, for a value of the wrong type, out of range or not one of the choices.
        """
        name = name or self.name
        if self.numbers:
            return self._check_numbers(value, name)
        if isinstance(self.default, tuple) and isinstance(value, Sequence) and not isinstance(value, str | bytes):
            value = tuple(value)
        if self._has_type(value):
            if isinstance(value, tuple):
                value = tuple(text for text in value if text)
            values = value if isinstance(value, tuple) else (value,)
            if not self.choices or set(values) <= set(self.choices):
                if len(values) > TEXTS or any(isinstance(one, str) and len(one) > LONGEST for one in values):
                    raise ConfigError(
                        f"parameter '{name}' must be {self.wanted}, of {LONGEST} characters at most"
                        + (f", {TEXTS} of them at most" if isinstance(value, tuple) else "")
                    )
                # False for NaN.
                if not self.range or (isinstance(value, int | float) and self.range[0] <= value <= self.range[1]):
                    return value
        raise self._wrong(value, name)

    def _check_numbers(self, value: object, name: str) -> tuple[float, ...]:
        given: list[Any] = list(value) if isinstance(value, tuple | list | array) else [None]
        if not all(type(one) in (int, float) for one in given):
            raise self._wrong(value, name)
        numbers = tuple(map(float, given))
        if self.optional and numbers in ((), NONE):
            return ()
        if len(numbers) != self.numbers or not all(map(math.isfinite, numbers)):
            raise self._wrong(value, name)
        for angle in numbers[self.numbers - self.angles :]:
            if abs(angle) > math.tau:  # most degrees are; they would place the camera anywhere
                raise ConfigError(
                    f"parameter '{name}' has an angle of {angle:g}: angles are in radians, at most a turn; "
                    f"{angle:g} degrees are {math.radians(angle):.4g}"
                )
        return numbers

    def _wrong(self, value: object, name: str) -> ConfigError:
        shown = list(value) if isinstance(value, tuple | array) else value
        return ConfigError(f"parameter '{name}' must be {self.wanted}, not {_SHOWN.repr(shown)}")

    def _has_type(self, value: object) -> TypeGuard[Value]:
        if isinstance(value, tuple) and not all(isinstance(text, str) for text in value):
            return False
        return type(value) is type(self.default)

    def read(self, text: str) -> Value:
        """Return the number in a text, as of an argument of a launch file.

        Raises ConfigError, in one line, if the text is no number or out of range.
        """
        kind: type[int] | type[float] = int if isinstance(self.default, int) else float
        try:
            return self.check(kind(text))
        except ValueError:  # also a ConfigError, whose message is about parameters
            wanted = "an integer" if kind is int else "a number"
            if self.range:
                wanted += f" from {self.range[0]} to {self.range[1]}"
            raise ConfigError(f"{self.name}:={text} must be {wanted}") from None


# The types of parameters.
T = TypeVar("T", bool, int, float, str, tuple[str, ...], tuple[float, ...])


def at_start(default: T, description: str, **more: Any) -> T:
    """Declare a field of a settings dataclass as a parameter that never changes.

    more: see Parameter; `group` is the part of the name before its point: group="points" makes points.stride of the
        field points_stride.
    """
    return _field(default, description, **more)


def at_configure(default: T, description: str, **more: Any) -> T:
    """Declare a field as a parameter that changes while the node is unconfigured."""
    return _field(default, description, change="configure", **more)


def while_running(default: T, description: str, **more: Any) -> T:
    """Declare a field as a parameter that changes at any time."""
    return _field(default, description, change="running", **more)


def _field(default: T, description: str, group: str = "", **more: Any) -> T:
    metadata = {"parameter": Parameter("", default, description, **more), "group": group}
    if isinstance(default, tuple):
        return field(default=() if default in (NONE, ("",)) else default, metadata=metadata)
    return field(default=default, metadata=metadata)


def parameters_of(settings: type) -> tuple[Parameter, ...]:
    """Return the parameters of a settings dataclass, in the order of its fields."""
    rows = []
    for one in fields(settings):
        group = one.metadata["group"]
        name = f"{group}.{one.name.removeprefix(f'{group}_')}" if group else one.name
        rows.append(replace(one.metadata["parameter"], name=name))
    return tuple(rows)


@dataclass(frozen=True)
class NodeSettings:
    """Values of segmentation_node's own parameters."""

    autostart: bool = at_start(
        True,
        "Configure and activate at start. false: a lifecycle manager or `ros2 lifecycle set` does it.",
    )
    cameras: tuple[str, ...] = at_start(
        ("",),
        'Names of the cameras; each has its topics under ~/NAME and its parameters under camera.NAME. [""]: one '
        "camera without a name, with its topics directly under ~.",
    )
    model: str = at_configure(
        "street",
        "Name of a shipped model, folder of a checkpoint or of an export, or Hugging Face hub id; hf: before it takes "
        "transformers' code. onnx:FILE, openvino:FILE, pt2:FILE: a network of others, with m2f.yaml beside it. "
        "torchvision:NAME:FILE, smp:ARCHITECTURE/ENCODER:FILE: weights of these libraries.",
    )
    taxonomy: str = at_configure("", "Classes of the model: a name or a YAML file; empty: as its checkpoint says.")
    device: str = at_configure("auto", "Where the model runs: auto, cpu, cuda, cuda:1, …")
    precision: str = at_configure(
        "auto",
        "Numbers of the network; auto: fp16 on CUDA; bf16 in OpenVINO on a CPU with bfloat16 instructions; int8 there "
        "on a CPU with VNNI alone, for a model whose form in eight bits (m2f quantize) loses at most 0.005 mIoU; else "
        "fp32, which is exact. fp8, on GPUs from RTX 40 and H100 on: fp16 with float8 products in the largest layers; "
        "compare its labels with those of fp16 before you rely on it.",
        choices=("auto", "fp8", "int8", "fp16", "bf16", "tf32", "fp32"),
    )
    backend: str = at_configure(
        "auto",
        "Program that runs the network; auto: openvino on a CPU where it is installed, else eager; for an export what "
        "it is made for. compile starts slowly. onnxruntime, tensorrt, torchscript and pt2 run exports alone.",
        choices=("auto", "eager", "compile", "openvino", "onnxruntime", "tensorrt", "torchscript", "pt2"),
    )
    graphs: bool = at_configure(True, "Launch the work on a frame as one CUDA graph; false saves memory of the GPU.")
    slots: int = at_configure(
        2, "Frames inside the pipeline at once: one computes while others are copied.", range=(1, 8)
    )
    threads: int = at_configure(0, "CPU threads of the pipeline; 0: as many as torch chooses.", range=(0, 1024))
    resize: str = at_configure(
        "stretch",
        "Size of the image for the network, multiples of its stride. stretch: its own, stretched to the nearest; pad: "
        "its own, padded; shortest: the shorter side becomes resize_shortest, or less where the longer one would "
        "exceed resize_longest; longest: the longer side becomes resize_longest; fixed: resize_height x resize_width. "
        "Outputs have the size of the input, times output_scale.",
        choices=("stretch", "pad", "shortest", "longest", "fixed"),
    )
    resize_shortest: int = at_configure(1024, "Pixels; see resize.", range=(1, 16384))
    resize_longest: int = at_configure(2048, "Pixels; see resize.", range=(1, 16384))
    resize_height: int = at_configure(
        1024, "Pixels, a multiple of the network's stride, 32 of Mask2Former; see resize.", range=(32, 16384)
    )
    resize_width: int = at_configure(
        2048, "Pixels, a multiple of the network's stride, 32 of Mask2Former; see resize.", range=(32, 16384)
    )
    max_pixels: int = at_configure(
        0,
        "The network's input, with its padding, never has more pixels, at least 1024: images that would take more are "
        "shrunk. 0: the bound or the size that the model names, 2097152 (1024x2048) where it names none; no bound "
        "where resize names a size.",
        range=(0, 1 << 26),
    )
    image_sizes: tuple[str, ...] = at_configure(
        ("",),
        'Sizes of the images that will come, as "1920x1080": `configure` makes the model ready for them, which the '
        "first image of a size else waits for, seconds on OpenVINO, and keeps what they take though none comes. "
        '[""]: none.',
    )
    batch: int = at_configure(
        0,
        "Frames of different cameras that go through the network together, at most; 0: as many as there are cameras "
        "on CUDA, 1 on a CPU. Only frames of one moment whose size for the network is the same.",
        range=(0, 16),
    )
    batch_window: float = at_configure(
        0.02,
        "Frames whose stamps differ by at most so many seconds are of one moment.",
        range=(0.0, 1.0),
    )
    output_depth: int = at_configure(
        1,
        "Messages that each output keeps for reliable readers that missed a part of one. For a recorder that must "
        "have every frame: 4.",
        range=(1, 100),
    )
    output_scale: float = at_configure(
        1.0,
        "Side of the outputs over the side of the image; less saves time and memory.",
        range=(0.1, 1.0),
    )
    tta: str = at_configure(
        "",
        "Test-time augmentation: scales whose class scores are averaged, and flip for each mirrored, too, such as "
        "0.75,1,1.25+flip; empty: none. A frame takes as much longer. Excludes smoothing and panoptic segments.",
    )
    windows: str = at_configure(
        "",
        "HEIGHTxWIDTH of windows, multiples of the network's stride, over larger images; the "
        "scores of overlapping windows are averaged; empty: none. Excludes smoothing and panoptic segments.",
    )
    window_overlap: float = at_configure(
        0.25, "Least share of a window that its neighbour covers, too.", range=(0.0, 0.9)
    )
    smoothing: float = at_configure(
        0.0,
        "Weight of the class scores of the frames before: steadier labels that lag behind what moves. 0.0: each frame "
        "by itself. Takes 4 bytes a class and pixel of the network's input for each camera, and some time.",
        range=(0.0, 0.99),
    )
    track_by: str = at_configure(
        "overlap",
        "Panoptic ids follow the overlap of masks from frame to frame, or queries whose embeddings are alike. A "
        "network with memory has ids by its own queries.",
        choices=("overlap", "queries"),
    )
    base_frame: str = at_configure(
        "base_link", "Frame of ~/grid and ~/obstacles, and of all extrinsics: x forward, y left, z up."
    )
    fixed_frame: str = at_configure(
        "odom",
        "Frame that stands still, by which the base's own motion between two stamps is taken out; empty, or not in tf: "
        "it is not.",
    )
    lidar_extrinsics: tuple[float, ...] = at_configure(
        NONE,
        "Pose of the lidar in base_frame: x, y, z in metres, roll, pitch, yaw in radians. [0.0]: from tf.",
        group="lidar",
        numbers=6,
        optional=True,
        angles=3,
    )
    grid_costs: str = at_configure(
        "", "YAML file with the cost of each class on ~/grid; empty: that of the package, by name.", group="grid"
    )
    grid_x: tuple[float, ...] = at_configure(
        (0.0, 20.0), "Least and greatest x of ~/grid in base_frame, metres.", group="grid", numbers=2
    )
    grid_y: tuple[float, ...] = at_configure((-10.0, 10.0), "The same of y.", group="grid", numbers=2)
    grid_resolution: float = at_configure(0.1, "Side of a cell, metres.", group="grid", range=(0.01, 10.0))
    grid_max_range: float = at_configure(
        20.0, "Greatest distance from a camera that it is trusted at, metres.", group="grid", range=(0.1, 1000.0)
    )
    grid_decay: float = at_configure(
        2.0, "Seconds after which a cell that is not seen again is unknown.", group="grid", range=(0.01, 3600.0)
    )
    grid_decay_moving: float = at_configure(
        0.3,
        "The same of classes that may move, people and vehicles, once they are not in their camera's newest frame.",
        group="grid",
        range=(0.01, 3600.0),
    )
    grid_hold: float = at_configure(
        0.2, "Seconds for which another camera does not lower a cell's cost.", group="grid", range=(0.0, 60.0)
    )
    grid_min_confidence: float = at_configure(
        0.0, "Pixels whose confidence is less are unknown.", group="grid", range=(0.0, 1.0)
    )
    grid_ground_height: float = at_configure(
        0.0, "z of the ground in base_frame, metres.", group="grid", range=(-100.0, 100.0)
    )
    grid_ground_tolerance: float = at_configure(
        0.15,
        "Height above the ground, metres, from which a point of what stands there counts; with depth.",
        group="grid",
        range=(0.0, 10.0),
    )
    grid_height: float = at_configure(
        2.0, "Height above the ground, metres, up to which points count; with depth.", group="grid", range=(0.01, 100.0)
    )
    grid_min_points: int = at_configure(
        2,
        "Points of what stands, in a cell and the eight around it, from which they count; with depth. 1: each counts, "
        "noise too.",
        group="grid",
        range=(1, 1000),
    )
    obstacles_cost: int = at_configure(
        100, "Cost on ~/grid from which a cell is an obstacle.", group="obstacles", range=(1, 100)
    )
    diagnostics_period: float = at_configure(1.0, "Seconds between two messages on /diagnostics.", range=(0.1, 3600.0))
    alpha: float = while_running(0.5, "Opacity of the class colours in the overlay.", range=(0.0, 1.0))
    hidden: tuple[str, ...] = while_running(
        ("",), 'Names of classes without colour in ~/overlay and ~/color. The labels keep them. [""]: none.'
    )
    highlighted: tuple[str, ...] = while_running(
        ("",), 'Names of the classes that alone have a colour in ~/overlay. [""]: all have one.'
    )
    min_confidence: float = while_running(
        0.0,
        "Pixels whose confidence is less become unlabelled. Above 0.0 it costs as much as ~/confidence.",
        range=(0.0, 1.0),
    )
    score_threshold: float = while_running(
        0.8,
        "Class probability that a panoptic segment must exceed; score of an instance, for labels, too, where the model "
        "finds instances.",
        range=(0.0, 1.0),
    )
    overlap_threshold: float = while_running(
        0.8,
        "Part of its own mask that a panoptic segment must win against the others.",
        range=(0.0, 1.0),
    )
    track: bool = while_running(
        True, "Panoptic ids stay with their segment from frame to frame; false: they count from 1."
    )
    points_stride: int = while_running(
        2,
        "Pixels from one point of ~/points to the next. Nav2's semantic_segmentation_layer reads a point for each "
        "pixel of ~/label: it needs 1.",
        group="points",
        range=(1, 16),
    )
    points_slop: float = while_running(
        0.02,
        "Seconds by which the stamps of an image and its depth image may differ.",
        group="points",
        range=(0.0, 10.0),
    )
    lidar_slop: float = while_running(
        0.1,
        "Seconds by which the stamps of a cloud and an image may differ.",
        group="lidar",
        range=(0.0, 10.0),
    )
    jpeg_quality: int = while_running(95, "JPEG quality of ~/overlay/compressed.", range=(1, 100))
    png_level: int = while_running(3, "Effort on the size of the other …/compressed: 0 none, 9 most.", range=(0, 9))
    stale_after: float = while_running(
        1.0,
        "Seconds without an image, or on the grid without a depth image where these came before, until /diagnostics "
        "warns.",
        range=(0.01, 3600.0),
    )
    late_after: float = while_running(
        0.5,
        "Seconds from stamp to publication, as median of the last frames, until /diagnostics warns.",
        range=(0.001, 3600.0),
    )


@dataclass(frozen=True)
class CameraSettings:
    """Values of the parameters of one camera of segmentation_node."""

    transport: str = at_configure(
        "auto",
        "raw: sensor_msgs/Image; compressed: JPEG or PNG as sensor_msgs/CompressedImage, on the images' topic with "
        "/compressed behind it, or on that topic itself; auto: what is published, raw where both are.",
        choices=("auto", "raw", "compressed"),
    )
    reliability: str = at_configure(
        "auto",
        "Reliability of the subscription to the images. reliable: frames that were lost on the way are sent again, "
        "late; above 16 MiB about half are lost between a reliable publisher and a best-effort subscription. auto: "
        "reliable where all publishers are, else best effort.",
        choices=("auto", "best_effort", "reliable"),
    )
    depth: int = at_configure(1, "Messages that the subscription keeps; more than 1 are stale frames.", range=(1, 100))
    camera_info: str = at_configure(
        "", "Topic of the camera's CameraInfo; empty: camera_info beside the images' topic."
    )
    rectified: bool = at_configure(
        False,
        "The images are rectified: P alone of the CameraInfo holds, without its distortion. Images of a topic named "
        "image_rect… are taken as such anyway.",
    )
    extrinsics: tuple[float, ...] = at_configure(
        NONE,
        "Pose of the camera's body (x forward, y left, z up) in base_frame: x, y, z in metres, roll, pitch, yaw in "
        "radians. [0.0]: from tf, by the frame_id of the images.",
        numbers=6,
        optional=True,
        angles=3,
    )
    depth_transport: str = at_configure(
        "auto",
        "Transport of the depth images on ~/depth. raw: sensor_msgs/Image; compressed: image_transport's "
        "compressedDepth; auto: what is published, raw where both are.",
        choices=("auto", "raw", "compressed"),
    )
    ignore_mask: str = at_configure(
        "",
        "PNG whose pixels that are not black are ignored, such as those of the own bonnet: unlabelled, in no share "
        "and no segment, confidence 0, no points. Its size may differ, its shape must be the images'. Empty: none.",
    )
    segment_depth: bool = while_running(
        False,
        "Take images of 16UC1, and grey ones whose topic is named after depth or disparity, as grey pictures, such as "
        "those of a thermal camera; false: they are depth, and count as bad frames.",
    )
    bit_depth: int = at_configure(
        AUTO,
        "Bits that images of 16 bits a channel use, counted from the low end; 0: by the values that came so far, which "
        "the log says. More is white, less is dark. 16 for 10 or 12 bits that the driver shifted to the high end.",
        choices=DEPTHS,
    )
    max_rate: float = while_running(0.0, "Frames a second, at most; 0.0: all that come.", range=(0.0, 1000.0))
    outputs: tuple[str, ...] = while_running(
        (*NAMES, *SPATIAL_NAMES),
        "Outputs that may be computed. A topic that is not named stays silent, whoever listens. ~/lidar, ~/grid and "
        "~/obstacles are of all cameras that name them.",
        choices=(*NAMES, *SPATIAL_NAMES),
    )


NODE, CAMERA = parameters_of(NodeSettings), parameters_of(CameraSettings)


def camera_prefix(name: str) -> str:
    """Return the prefix of the names of a camera's own parameters."""
    return f"camera.{name}." if name else ""


def camera_table(name: str, defaults: CameraSettings) -> dict[str, Parameter]:
    """Return the parameters of a named camera by full name. defaults: values of the unprefixed parameters."""
    return {
        camera_prefix(name) + row.name: replace(row, default=_declared(row, getattr(defaults, row.field)))
        for row in CAMERA
    }


def check_cameras(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the cameras; ("",) for none.

    Raises ConfigError for a name that is invalid in a topic, or a duplicate.
    """
    for name in names:
        if not re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_]*", name) or "__" in name:
            raise ConfigError(f"parameter 'cameras': {name!r} is no name of a topic; take letters, digits and single _")
        if list(names).count(name) > 1:
            raise ConfigError(f"parameter 'cameras': {name!r} comes twice; each camera needs a name of its own")
    return tuple(names) or ("",)


def read_sizes(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Return (height, width) of each "WIDTHxHEIGHT" of image_sizes. Raises ConfigError for another text."""
    sizes = []
    for text in texts:
        found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
        if not found:
            raise ConfigError(f"parameter 'image_sizes': {text!r} is no size; take WIDTHxHEIGHT, as 1920x1080")
        width, height = map(int, found.groups())
        sizes.append((height, width))
    return sizes


def _declared(row: Parameter, value: Value) -> Value:
    return value or (NONE if row.numbers else ("",)) if isinstance(value, tuple) else value
