"""The families of networks. A new family is a folder beside this file and a row in FAMILIES; one of transformers is a
row of `adapters.huggingface.ROWS`, one of torchvision or segmentation_models.pytorch a row of `adapters.zoo.LIBRARIES`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from m2f_ros.errors import CheckpointError
from m2f_ros.files import write_whole
from m2f_ros.model import attention_unet, mask2former, preprocessor, setr
from m2f_ros.model.adapters import huggingface, zoo
from m2f_ros.model.keys import KeyMap
from m2f_ros.model.layout import read_json
from m2f_ros.model.network import Network, NetworkConfig


class Family(NamedTuple):
    """The types and keys of one architecture.

    Attributes:
        config: type of the configs, different for each family except those of other libraries.
        network: type of the networks, or a function that makes one; the weights are left to be loaded or initialised.
        keys: keys of the weights on disk.
        meta: True if the constructor works on the meta device.
    """

    config: type[NetworkConfig]
    network: Callable[..., Network]
    keys: KeyMap = KeyMap()
    meta: bool = True


ADAPTED = Family(huggingface.AdaptedConfig, huggingface.build)  # all of transformers
ZOO = Family(zoo.ZooConfig, zoo.build, KeyMap(to_disk=[(r"^network\.", "")]), meta=False)
# model_type in config.json -> family.
FAMILIES = {
    **dict.fromkeys(huggingface.ROWS, ADAPTED),
    **dict.fromkeys(zoo.LIBRARIES, ZOO),
    "attention_unet": Family(attention_unet.AttentionUNetConfig, attention_unet.AttentionUNet),
    "setr": Family(setr.SetrConfig, setr.Setr),
    "mask2former": Family(mask2former.Mask2FormerConfig, mask2former.Mask2Former, mask2former.KEYS),
}


def family_in(folder: Path, adapted: bool = False) -> Family:
    """Return the family of a checkpoint folder.

    adapted: True for transformers' code also where this package has its own.

    Raises:
        CheckpointError: the family is unknown, or the file is unreadable.
    """
    raw = read_json(folder / "config.json")
    kind = zoo.kind_of(raw)
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise CheckpointError(
            f"{folder}: the checkpoint is a {kind or raw.get('architectures') or 'unknown'!r}; known are "
            f"{', '.join(FAMILIES)}"
        )
    if kind in huggingface.ROWS and (adapted or (kind == "mask2former" and not mask2former.has_own_backbone(raw))):
        return ADAPTED
    if adapted:
        raise CheckpointError(f"{folder}: 'hf:' is for transformers' code, which has no {kind!r}; leave it out")
    return FAMILIES[kind]


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
    if "_model_class" in content:  # segmentation_models.pytorch passes all other keys to its constructor
        content = config.contents()
    for name, value in (("config.json", content), (preprocessor.FILE, preprocessor.contents(config))):
        write_whole(folder / name, json.dumps(value, indent=2) + "\n")


def build(config: NetworkConfig) -> Network:
    """Build a network with random weights from torch's generator, initialised as by its authors."""
    model = family_of(config).network(config)
    model.initialise()
    return model
