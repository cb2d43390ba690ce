"""The families of networks. A new family is a folder beside this file and a row in FAMILIES."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from m2f_ros.errors import CheckpointError
from m2f_ros.files import write_whole
from m2f_ros.model import mask2former, preprocessor
from m2f_ros.model.keys import KeyMap
from m2f_ros.model.layout import read_json
from m2f_ros.model.network import Network, NetworkConfig


class Family(NamedTuple):
    """The types and keys of one architecture.

    Attributes:
        config: type of the configs, different for each family.
        network: type of the networks; its constructor leaves the weights to be loaded or initialised.
        keys: keys of the weights on disk.
    """

    config: type[NetworkConfig]
    network: type[Network]
    keys: KeyMap = KeyMap()


# model_type in config.json -> family.
FAMILIES = {
    "mask2former": Family(mask2former.Mask2FormerConfig, mask2former.Mask2Former, mask2former.KEYS),
}


def family_in(folder: Path) -> Family:
    """Return the family of a checkpoint folder. Raises CheckpointError if it is unknown or the file is unreadable."""
    raw = read_json(folder / "config.json")
    kind = raw.get("model_type")
    if isinstance(kind, str) and kind in FAMILIES:
        return FAMILIES[kind]
    raise CheckpointError(
        f"{folder}: the checkpoint is a {kind or raw.get('architectures') or 'unknown'!r}, not a "
        f"{' or '.join(map(repr, FAMILIES))}; name one with a Swin backbone, such as "
        "facebook/mask2former-swin-tiny-cityscapes-semantic"
    )


def family_of(config: NetworkConfig) -> Family:
    """Return the family of a config."""
    return next(family for family in FAMILIES.values() if type(config) is family.config)


def read_config(folder: Path) -> NetworkConfig:
    """Read config.json and, if it exists, preprocessor_config.json of a checkpoint folder.

    Raises:
        CheckpointError: a file is missing or not JSON, or the network is unsupported.
    """
    return family_in(folder).config.read(folder)


def write_config(config: NetworkConfig, folder: Path, dtype: str = "float32") -> None:
    """Write config.json and preprocessor_config.json for `read_config` and transformers.

    dtype: torch's name of the weights' dtype.
    """
    kind = next(name for name, family in FAMILIES.items() if type(config) is family.config)
    # All versions of transformers read torch_dtype, which is called dtype since 4.56.
    content = {"model_type": kind, "torch_dtype": dtype} | config.contents()
    for name, value in (("config.json", content), (preprocessor.FILE, preprocessor.contents(config))):
        write_whole(folder / name, json.dumps(value, indent=2) + "\n")


def build(config: NetworkConfig) -> Network:
    """Build a network with random weights from torch's generator, initialised as by its authors."""
    model = family_of(config).network(config)
    model.initialise()
    return model
