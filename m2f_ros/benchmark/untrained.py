"""Networks of all families with random weights, whose labels vary over an image: for speed alone."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from m2f_ros import taxonomy
from m2f_ros.errors import ConfigError
from m2f_ros.model import Network, NetworkConfig, PixelLogits, build, read_config
from m2f_ros.model.adapters import huggingface, zoo
from m2f_ros.model.registry import FAMILIES
from m2f_ros.street import Street

SEED = 0
RANDOM = (
    f"random, seed {SEED}: the library's initialisation, batch norms with the statistics of an image, and last layers "
    "scaled so that several classes occur in it"
)
# Ends of the names of the last layers of transformers' mask classifiers: of classes, of maps, of the queries' masks.
_CLASSES, _MAPS = ("class_predictor", "decoder.class_embed"), ("decoder.mask_projection", "layernorm2d")
_MASKS = ("mask_embed", "mask_head")


def new_config(text: str) -> NetworkConfig:
    """Return the config of a network with Cityscapes' classes.

    Args:
        text: "smp:ARCHITECTURE/ENCODER", "torchvision:NAME", a model_type such as "segformer", or a YAML mapping of it
            and other keys of config.json; absent keys have the defaults of the family, for SegFormer those of B0.
    Raises:
        CheckpointError, ConfigError: there is no such network.
    """
    classes = taxonomy.get("cityscapes")
    if of_zoo := zoo.parsed(f"{text}:random"):
        shape: dict[str, Any] = {"aux_loss": False}
        if of_zoo.kind == zoo.SMP:
            shape = {"encoder_name": of_zoo.encoder, "encoder_weights": None, "classes": len(classes.classes)}
        written = json.dumps(shape, sort_keys=True)
        return zoo.ZooConfig(of_zoo.kind, of_zoo.architecture, written, classes.names, taxonomy=classes)
    try:
        shape = yaml.safe_load(text)
    except yaml.YAMLError:
        shape = {}
    if isinstance(shape, str):
        shape = {"model_type": shape}
    if not isinstance(shape, Mapping) or not isinstance(shape.get("model_type"), str):
        raise ConfigError(
            f"--model random:{text}: take random:smp:ARCHITECTURE/ENCODER, random:torchvision:NAME, "
            "random:MODEL_TYPE, or random:{model_type: …, …}"
        )
    if shape["model_type"] in huggingface.ROWS:
        return huggingface.new_config(shape, classes)
    if shape["model_type"] not in FAMILIES:
        raise ConfigError(f"--model random:{text}: the network is unknown; known are {', '.join(FAMILIES)}")
    with tempfile.TemporaryDirectory() as work:
        content = {**shape, "id2label": dict(enumerate(classes.names)), "taxonomy": "cityscapes"}
        Path(work, "config.json").write_text(json.dumps(content))
        return read_config(Path(work))


@torch.no_grad()
def drawn(config: NetworkConfig) -> Network:
    """Return a network with random weights, in eval mode; see RANDOM.

    As initialised, one class would win everywhere: agreement of labels would mean nothing.
    """
    torch.manual_seed(SEED)
    model = build(config)
    size = config.resize[1:] if config.resize and config.resize[0] == "only" else (4 * config.stride, 6 * config.stride)
    pixels = _image(config, *size)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        model.train()(pixels)
    model.eval()
    if model.gives is PixelLogits:
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.out_channels == config.num_classes]
        _standardise(model, convolutions[-1], pixels, (0, 2, 3), 2)
        return model
    named = dict(model.named_modules())
    maps = next(module for name, module in named.items() if name.endswith(_MAPS))
    *_, embedding = (m for n, m in named.items() if isinstance(m, nn.Linear) and any(part in n for part in _MASKS))
    _standardise(model, maps, pixels, (0, 2, 3), 1)
    _standardise(model, embedding, pixels, (0, 1), 1)
    _standardise(model, next(m for n, m in named.items() if n.endswith(_CLASSES)), pixels, (0, 1), 4)
    return model


def _image(config: NetworkConfig, height: int, width: int) -> Tensor:
    """Return two normalised frames of a street, (2, 3, height, width)."""
    image = torch.from_numpy(Street(0, width, height).frame(0).image.copy()).permute(2, 0, 1).float()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.mean, config.std))
    return torch.stack([image, image.flip(2)]).sub(mean).div(std)


def _standardise(model: Network, layer: nn.Module, pixels: Tensor, axes: tuple[int, ...], deviation: float) -> None:
    """Give the output of a layer a mean of 0 and a deviation over the axes."""
    seen: list[Tensor] = []
    hook = layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model(pixels)
    hook.remove()
    mean, factor = seen[-1].mean(axes), deviation / (seen[-1].std(axes) + 1e-6)
    weight: Any = layer.weight
    bias: Any = layer.bias
    weight.mul_(factor.view(-1, *[1] * (weight.dim() - 1)))
    layer.bias = nn.Parameter(((0 if bias is None else bias) - mean) * factor)
