"""What the files of a checkpoint say themselves."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from m2f_ros.model import NetworkConfig, load, read_config
from m2f_ros.model.checkpoint import find
from m2f_ros.pipeline.classes import taxonomy_of
from m2f_ros.taxonomy import Taxonomy


@dataclass(frozen=True)
class Facts:
    """spec: as it was asked for: a folder, a shipped model's name, a hub id. parameters: numbers in the network as it
    runs. weights: (file name, bytes, sha256) of each."""

    spec: str
    folder: Path
    config: NetworkConfig
    taxonomy: Taxonomy
    parameters: int
    weights: list[tuple[str, int, str]]

    def is_called(self, model: str) -> bool:
        """Whether a result's name of a model means this checkpoint."""
        same_folder = Path(model).is_dir() and Path(model).resolve() == self.folder.resolve()
        return bool(model) and (model == self.spec or same_folder)


def read_facts(spec: str) -> Facts:
    """Read a checkpoint: a folder, the name of a shipped model, or a hub id. Raises CheckpointError, ConfigError."""
    folder = find(spec)
    config = read_config(folder)
    parameters = sum(parameter.numel() for parameter in load(folder).parameters())
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    weights = [(file.name, file.stat().st_size, _sha256(file)) for file in files]
    return Facts(spec, folder, config, taxonomy_of(spec, config), parameters, weights)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
