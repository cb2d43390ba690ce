"""Networks in another program's format, and m2f.yaml, which describes them: of `m2f export`, or by hand."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from m2f_ros import documents
from m2f_ros import taxonomy as taxonomies
from m2f_ros.errors import CheckpointError, DocumentError, TaxonomyError
from m2f_ros.model.layout import EXPORTED as FILE
from m2f_ros.pipeline import foreign
from m2f_ros.pipeline.manifest import Manifest
from m2f_ros.taxonomy import Taxonomy
from m2f_ros.typed import as_type

LAYOUT = 1  # version of the fields below
FORMATS = ("onnx", "openvino", "torchscript", "pt2", "tensorrt")
_BLOCK = 1 << 20  # bytes read at once


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
    averaged: bool = True

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
    """An exported network on disk.

    Attributes:
        folder: folder of its files.
        manifest: contents of m2f.yaml; of one by hand without inputs and outputs until the file is read.
        config: see ExportedConfig.
        by_hand: contents of an m2f.yaml by hand; None for that of `m2f export`.
    """

    folder: Path
    manifest: Manifest
    config: ExportedConfig
    by_hand: foreign.ByHand | None = None

    @property
    def path(self) -> Path:
        """Path of the file to load."""
        return self.folder / self.manifest.file

    @classmethod
    def open(cls, name: str | Path) -> Export:
        """Read m2f.yaml of a model's name, for which `is_export` is True. For errors see `read`."""
        if found := _of_file(name):
            kind, path = found
            if not path.is_file():
                raise CheckpointError(f"model {str(name)!r}: there is no file {path}")
            return cls.read(path.parent, path.name, kind)
        return cls.read(Path(os.path.expanduser(name)))

    @classmethod
    def read(cls, folder: Path, file: str = "", kind: str = "") -> Export:
        """Read m2f.yaml of a folder, without the other files.

        Args:
            file: name of the network's file, for an m2f.yaml by hand; "" for the one that it names.
            kind: its format; "" for that of its name.
        Raises:
            CheckpointError: the file is missing, malformed or of a newer layout.
        """
        where, remedy = folder / FILE, "correct it"
        by_hand = None
        try:
            raw = documents.read_yaml(where)
            if isinstance(raw, dict) and "layout" not in raw and "made_by" not in raw:
                by_hand = as_type(raw, foreign.ByHand, by_hand=True)
                manifest = foreign.manifest(folder, by_hand, file, kind)
                _refuse_paths(manifest)
                if not (folder / manifest.file).is_file():
                    raise DocumentError(f"file: there is no {manifest.file} in this folder")
            else:
                remedy = "export the model again"
                manifest = _read(raw, file)
            config = _config(where, manifest)
        except OSError as error:
            wanted = "write one (docs/export.md)" if file else remedy
            raise CheckpointError(f"{where} cannot be read: {error.strerror}; {wanted}") from None
        except (DocumentError, TaxonomyError) as error:
            raise CheckpointError(f"{where}: {error}; {remedy}") from None
        except (KeyError, ValueError, ZeroDivisionError):
            raise CheckpointError(f"{where}: an input or output has an unknown dimension; export it again") from None
        return cls(folder, manifest, config, by_hand)

    def fitted(self, inputs: Mapping[str, foreign.Found], outputs: Mapping[str, foreign.Found]) -> Export:
        """Return a network that others made with the inputs and outputs of its file.

        Raises:
            CheckpointError: they differ from what m2f.yaml says.
        """
        assert self.by_hand is not None
        manifest = foreign.fitted(self.path, self.manifest, inputs, outputs, self.by_hand.outputs)
        return replace(self, manifest=manifest, config=_config(self.folder / FILE, manifest))

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
    """Return True if a model's name is a folder with m2f.yaml, or a file such as onnx:FILE."""
    try:
        return (Path(os.path.expanduser(name)) / FILE).is_file() or _of_file(name) is not None
    except (OSError, ValueError, RuntimeError):
        return False


def _of_file(name: str | Path) -> tuple[str, Path] | None:
    """Return format and path of a name such as onnx:FILE; None for another name."""
    kind, _, path = str(name).partition(":")
    return (kind, Path(os.path.expanduser(path))) if path and kind in foreign.FORMATS.values() else None


def _read(raw: object, file: str) -> Manifest:
    """Return the contents of an m2f.yaml of `m2f export`; file: name of the file that it must be about, if any."""
    if isinstance(raw, dict) and isinstance(raw.get("layout"), int) and raw["layout"] > LAYOUT:
        raise DocumentError(f"is of layout {raw['layout']}, and this version reads {LAYOUT}: update m2f_ros")
    manifest = as_type(raw, Manifest)
    _refuse_paths(manifest)
    if manifest.file not in manifest.sha256:
        raise DocumentError(f"sha256: key {manifest.file!r} is missing")
    if file not in ("", manifest.file):
        raise DocumentError(f"it is about {manifest.file}, not {file}")
    for tensor in (*manifest.inputs.values(), *manifest.outputs.values()):
        tensor.sizes(1, manifest.stride, manifest.stride)
    return manifest


def _refuse_paths(manifest: Manifest) -> None:
    for name in (manifest.file, *manifest.sha256):
        if not name or name != os.path.basename(name) or name in (".", ".."):
            raise DocumentError(f"{name!r} is no name of a file in this folder")


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
        summary=f"{manifest.network}, exported to {manifest.format}" if manifest.made_by else manifest.network,
        averaged=manifest.averaged,
    )
