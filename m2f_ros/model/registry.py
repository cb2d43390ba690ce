"""The families of networks. A new one is a folder beside this file and a row in FAMILIES."""

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
    """How networks of one architecture are read, made and written.

    Attributes:
        config: type of their configs; no two families share one.
        network: type of the networks; called with a config, it leaves the weights to be loaded or initialised.
        keys: names of the weights on disk.
    """

    config: type[NetworkConfig]
    network: type[Network]
    keys: KeyMap = KeyMap()


# By config.json's model_type.
FAMILIES = {
    "mask2former": Family(mask2former.Mask2FormerConfig, mask2former.Mask2Former, mask2former.KEYS),
}


def family_in(folder: Path) -> Family:
    """The family of the checkpoint in a folder. Raises CheckpointError: it is of none of FAMILIES, or unreadable."""
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
    """The family that a config is of."""
    return next(family for family in FAMILIES.values() if type(config) is family.config)


def read_config(folder: Path) -> NetworkConfig:
    """Read config.json, and preprocessor_config.json where it is there, of a checkpoint folder.

    Raises:
        CheckpointError: a file is missing or is no JSON, or the network is not one this package builds.
    """
    return family_in(folder).config.read(folder)


def write_config(config: NetworkConfig, folder: Path, dtype: str = "float32") -> None:
    """Write config.json and preprocessor_config.json as `read_config` and transformers read them.

    dtype: of the weights, by torch's name.
    """
    kind = next(name for name, family in FAMILIES.items() if type(config) is family.config)
    # torch_dtype is read by every version of transformers, which calls it dtype since 4.56.
    content = {"model_type": kind, "torch_dtype": dtype} | config.contents()
    for name, value in (("config.json", content), (preprocessor.FILE, preprocessor.contents(config))):
        write_whole(folder / name, json.dumps(value, indent=2) + "\n")


def build(config: NetworkConfig) -> Network:
    """A network with fresh weights, from torch's generator, initialised as its authors do it."""
    model = family_of(config).network(config)
    model.initialise()
    return model
