"""Folders of `m2f export`: a network in another program's format, and m2f.yaml, which describes it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from m2f_ros import documents
from m2f_ros import taxonomy as taxonomies
from m2f_ros.errors import CheckpointError, DocumentError, TaxonomyError
from m2f_ros.model.layout import EXPORTED as FILE
from m2f_ros.taxonomy import Taxonomy
from m2f_ros.typed import From0, From1, Number, NumberAbove0, as_type

LAYOUT = 1  # version of the fields below
FORMATS = ("onnx", "openvino", "torchscript", "pt2", "tensorrt")
# Dimensions of inputs and outputs that a number does not give.
BATCH, HEIGHT, WIDTH = "batch", "height", "width"
_BLOCK = 1 << 20  # bytes read at once
_Colours = Annotated[tuple[Number, ...], msgspec.Meta(min_length=3, max_length=3)]
_Scales = Annotated[tuple[NumberAbove0, ...], msgspec.Meta(min_length=3, max_length=3)]
_Size = tuple[From1, From1]


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
    sizes: list[_Size]


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
        gives: "mask_classification" (class_logits, mask_logits), "pixel_logits" (logits) or "labels" (label,
            confidence).
        precision: type of the weights, "fp32", "fp16", or "int8" for the largest products.
        size: (height, width) of the network's input; None for any multiple of `stride`.
        batch: number of images; None for any.
        stride: number whose multiples are the height and width of the network's input.
        mean, std: of R, G, B in 0..255, for the preprocessing; a file that gives labels normalises by itself.
        frame: (height, width) of the camera's images that a file takes which gives labels; else None.
        encoding: encoding of these images, "rgb8" or "bgr8"; else None.
        resize: default size of the network's input; see `NetworkConfig`.
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
    gives: Literal["mask_classification", "pixel_logits", "labels"]
    precision: Literal["fp32", "fp16", "int8"]
    size: _Size | None = None
    batch: From1 | None = None
    stride: From1
    mean: _Colours
    std: _Scales
    frame: _Size | None = None
    encoding: Literal["rgb8", "bgr8"] | None = None
    resize: tuple[Literal["fixed", "shortest"], From1, From1] | None = None
    min_pixels: From1 | None = None
    max_pixels: From1 | None = None
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
        shape: numbers, "batch", "height", "width" or "height/4".
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


@dataclass(frozen=True)
class ExportedConfig:
    """The NetworkConfig of an export."""

    labels: tuple[str, ...]
    taxonomy: Taxonomy
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stride: int
    min_pixels: int | None
    max_pixels: int | None
    resize: tuple[str, int, int] | None
    summary: str

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    @classmethod
    def read(cls, folder: Path) -> ExportedConfig:
        """Read m2f.yaml of a folder. Raises CheckpointError."""
        return Export.read(folder).config

    def contents(self) -> dict[str, Any]:
        raise TypeError("an export is no checkpoint")


@dataclass(frozen=True)
class Export:
    """An exported network on disk."""

    folder: Path
    manifest: Manifest
    config: ExportedConfig

    @property
    def path(self) -> Path:
        """Path of the file to load."""
        return self.folder / self.manifest.file

    @classmethod
    def read(cls, folder: Path) -> Export:
        """Read m2f.yaml of a folder, without the other files.

        Raises:
            CheckpointError: the file is missing, malformed or of a newer layout.
        """
        where = folder / FILE
        try:
            raw = documents.read_yaml(where)
            if isinstance(raw, dict) and isinstance(raw.get("layout"), int) and raw["layout"] > LAYOUT:
                raise DocumentError(f"is of layout {raw['layout']}, and this version reads {LAYOUT}: update m2f_ros")
            manifest = as_type(raw, Manifest)
            for name in (manifest.file, *manifest.sha256):
                if not name or name != os.path.basename(name) or name in (".", ".."):
                    raise DocumentError(f"{name!r} is no name of a file in this folder")
            if manifest.file not in manifest.sha256:
                raise DocumentError(f"sha256: key {manifest.file!r} is missing")
            for tensor in (*manifest.inputs.values(), *manifest.outputs.values()):
                tensor.sizes(1, manifest.stride, manifest.stride)
            config = _config(where, manifest)
        except OSError as error:
            raise CheckpointError(f"{where} cannot be read: {error.strerror}; export the model again") from None
        except (DocumentError, TaxonomyError) as error:
            raise CheckpointError(f"{where}: {error}; export the model again") from None
        except (KeyError, ValueError, ZeroDivisionError):
            raise CheckpointError(f"{where}: an input or output has an unknown dimension; export it again") from None
        return cls(folder, manifest, config)

    def check(self) -> None:
        """Compare the files with their hashes.

        Raises:
            CheckpointError: a file is missing or differs.
        """
        for name, wanted in self.manifest.sha256.items():
            path = self.folder / name
            try:
                found = sha256(path)
            except OSError as error:
                raise CheckpointError(f"{path} cannot be read: {error.strerror}; export the model again") from None
            if found != wanted:
                raise CheckpointError(
                    f"{path} is not the file that {FILE} describes (sha256 {found[:12]}… in place of {wanted[:12]}…): "
                    "export the model again, or copy the folder whole"
                )


def is_export(name: str | Path) -> bool:
    """Return True if a model's name is a folder of `m2f export`."""
    try:
        return (Path(os.path.expanduser(name)) / FILE).is_file()
    except (OSError, ValueError, RuntimeError):
        return False


def sha256(path: Path) -> str:
    """Return the hash of a file in hexadecimal digits. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _config(where: Path, manifest: Manifest) -> ExportedConfig:
    taxonomy = taxonomies.Taxonomy.from_dict(manifest.taxonomy, "taxonomy")
    size = manifest.size
    # A network of one size stretches all images to it, as for a user's own `resize: fixed`.
    return ExportedConfig(
        labels=taxonomy.names,
        taxonomy=taxonomy,
        mean=manifest.mean,
        std=manifest.std,
        stride=manifest.stride,
        min_pixels=None if size else manifest.min_pixels,
        max_pixels=None if size else manifest.max_pixels,
        resize=("fixed", *size) if size else manifest.resize,
        summary=f"{manifest.network}, exported to {manifest.format}",
    )
