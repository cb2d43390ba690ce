"""Networks of torchvision and segmentation_models.pytorch without a checkpoint, and weights for their encoders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from m2f_ros.errors import CheckpointError
from m2f_ros.model import preprocessor
from m2f_ros.model.adapters.huggingface import check_bounds
from m2f_ros.model.adapters.zoo import (
    LIBRARIES,
    PROCESSOR,
    SMP,
    Zoo,
    ZooConfig,
    architecture_in,
    smp_normalisation,
    smp_shape,
)
from m2f_ros.model.mask2former.efficientnet_lite import VARIANTS, EfficientNetLite, load_imagenet
from m2f_ros.model.tensors import read_file, read_tensors
from m2f_ros.taxonomy import Taxonomy

# Arguments of segmentation_models.pytorch that follow from the classes, or of what is not trained.
_SET = ("classes", "activation", "aux_params", "encoder_name", "encoder_weights", "in_channels")
_LITE = "tu-tf_"  # before the name of an EfficientNet-Lite
LITES = tuple(f"{_LITE}{name}" for name in VARIANTS)
_COUNTER = "num_batches_tracked"


def kind_of(shape: Mapping[str, Any]) -> str | None:
    """Return the key of LIBRARIES that is in a network's shape; None for a network of another library."""
    return next((kind for kind in LIBRARIES if kind in shape), None)


def new_config(shape: Mapping[str, Any], taxonomy: Taxonomy) -> ZooConfig:
    """Return the config of a network without a checkpoint.

    shape: {"smp": "Unet/resnet34", …} with arguments of segmentation_models.pytorch's constructor, or
    {"torchvision": "fcn_resnet50"}. The normalisation is the library's for that encoder.

    Raises CheckpointError: the library or the network is unknown, or a key is wrong.
    """
    kind = kind_of(shape)
    if kind is None:
        raise CheckpointError(f"it names none of {', '.join(LIBRARIES)}")
    more = {key: value for key, value in shape.items() if key != kind}
    name, slash, encoder = str(shape[kind]).partition("/")
    architecture = architecture_in("", kind, name)
    refused = sorted(more.keys() & {*_SET} if kind == SMP else more)
    if refused:
        reason = "classes and weights follow from data.taxonomy and model.weights" if kind == SMP else "it has no keys"
        raise CheckpointError(f"leave out {', '.join(refused)}: {reason}")
    if (kind == SMP) != bool(encoder):
        raise CheckpointError(
            f"{kind}: {shape[kind]}: "
            + ("the encoder is missing: Unet/resnet34 for one" if kind == SMP else f"leave out '{slash}{encoder}'")
        )
    if kind != SMP:
        return ZooConfig(kind, architecture, json.dumps({"aux_loss": False}), taxonomy.names, taxonomy=taxonomy)
    check_bounds("", more)
    full = smp_shape("", more | {"encoder_name": encoder, "classes": len(taxonomy.names)})
    normalisation = smp_normalisation("", encoder)
    return ZooConfig(
        SMP, architecture, json.dumps(full, sort_keys=True), taxonomy.names, taxonomy=taxonomy, **normalisation
    )


class Taken(NamedTuple):
    """An encoder's weights from files.

    Attributes:
        network: the network with them.
        keys: keys of the encoder's tensors, counters apart.
        new: those of them that the files lack.
    """

    network: Zoo
    keys: list[str]
    new: list[str]


def with_encoder(config: ZooConfig, place: Path) -> Taken:
    """Return a new network whose encoder has the weights of a file or folder.

    Keys may have other prefixes than in the network, as a classifier's have, and "." for "_". Where a folder has a
    preprocessor_config.json, the network's normalisation is that of it. Raises CheckpointError.
    """
    state = read_file(place) if place.is_file() else read_tensors(place)
    if (place / preprocessor.FILE).is_file():
        found = preprocessor.read(place, False, config.stride, processor=PROCESSOR)
        config = replace(config, mean=found.mean, std=found.std, bgr=found.bgr)
    network = Zoo(config)
    own = {key: value for key, value in network.encoder().state_dict().items() if not key.endswith(_COUNTER)}
    values = _paired(own, state)
    network.encoder().load_state_dict(values, strict=False)
    return Taken(network, list(own), [key for key in own if key not in values])


def _paired(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of a file by the keys of `own`, with the prefixes of both that give most of equal shape."""
    plain = {key.replace("_", "."): value for key, value in state.items()}
    names = {key: key.replace("_", ".") for key in own}
    first = next(iter(names.values())).split(".")
    best: dict[str, Tensor] = {}
    for i in range(len(first) - 1):
        ours, end = "".join(f"{part}." for part in first[:i]), ".".join(first[i:])
        for theirs in [key.removesuffix(end) for key in plain if key == end or key.endswith(f".{end}")]:
            values = {key: plain.get(theirs + name.removeprefix(ours)) for key, name in names.items()}
            found = {k: value for k, value in values.items() if value is not None and value.shape == own[k].shape}
            best = max(best, found, key=len)
    return best


def with_classes(config: ZooConfig) -> ZooConfig:
    """Return the config with an output for each of its labels."""
    if config.kind != SMP:
        return config
    shape = json.loads(config.shape) | {"classes": len(config.labels)}
    return replace(config, shape=json.dumps(shape, sort_keys=True))


def lite_of(config: ZooConfig) -> str:
    """Return the EfficientNet-Lite that is the encoder, a key of its VARIANTS; "" for another encoder."""
    name = json.loads(config.shape).get("encoder_name")
    return name.removeprefix(_LITE) if name in LITES else ""


def with_imagenet(config: ZooConfig, state: Mapping[str, Tensor]) -> Zoo:
    """Return a new network whose encoder, an EfficientNet-Lite, has the weights of a package; see `load_imagenet`."""
    network = Zoo(replace(config, mean=EfficientNetLite.mean, std=EfficientNetLite.std, bgr=False))
    load_imagenet(network.encoder(), state, lite_of(config))
    return network
