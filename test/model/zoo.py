"""Small networks of torchvision and segmentation_models.pytorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from m2f_ros.model.adapters.zoo import LIBRARIES, SMP, ZooConfig
from m2f_ros.model.preprocessor import IMAGENET_MEAN, IMAGENET_STD

LABELS = ("road", "car", "sky")
ENCODER = "tu-test_resnet.r160_in1k"


def needs_libraries() -> None:
    for library in LIBRARIES.values():
        pytest.importorskip(library.package, reason=f"{library.package} is not installed")


def config(kind: str, architecture: str) -> ZooConfig:
    shape: dict[str, Any] = {"aux_loss": False}
    if kind == SMP:
        shape = {"encoder_name": ENCODER, "encoder_weights": None, "activation": None, "classes": len(LABELS)}
    return ZooConfig(kind, architecture, json.dumps(shape, sort_keys=True), LABELS)


# Name, which begins with the family's -> config.
CASES = {
    f"{kind}, {architecture}": config(kind, architecture)
    for kind, architecture in (("torchvision", "lraspp_mobilenet_v3_large"), (SMP, "Unet"), (SMP, "DeepLabV3Plus"))
}


def picture(height: int, width: int) -> np.ndarray:
    """Return (height, width, 3) uint8 blocks of random colour."""
    blocks = np.random.default_rng(3).integers(0, 256, (height // 19 + 1, width // 19 + 1, 3), np.uint8)
    return np.ascontiguousarray(blocks.repeat(19, 0).repeat(19, 1)[:height, :width])


@torch.no_grad()
def theirs(
    kind: str, architecture: str, classes: int = len(LABELS), encoder: str = ENCODER, **shape: object
) -> nn.Module:
    """Return the library's own network, random, in eval mode; its labels vary over `picture`."""
    torch.manual_seed(1)
    library: Any = __import__(LIBRARIES[kind].package)
    if kind == SMP:
        network = getattr(library, architecture)(encoder, encoder_weights=None, classes=classes, **shape)
    else:
        make = getattr(library.models.segmentation, architecture)
        network = make(weights=None, weights_backbone=None, num_classes=classes, **shape)
    image = torch.from_numpy(picture(128, 192) if architecture == "PAN" else picture(64, 96)).permute(2, 0, 1)[None]
    pixels = (image - torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)) / torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    # Batch norms with the picture's own statistics: else the features of a deep network hardly vary.
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    network.train()(torch.cat([pixels, pixels.flip(2)]))
    network.eval()
    modules = dict(network.named_modules())
    names = ("classifier.low_classifier", "classifier.high_classifier", "classifier.4", "segmentation_head.0")
    last_layers = [modules[name] for name in names if name in modules]
    for last in last_layers:
        nn.init.normal_(last.weight)
    head = network.segmentation_head if kind == SMP else [None]
    activation, head[-1] = head[-1], nn.Identity()
    found = logits(network, pixels)
    head[-1] = activation
    mean, factor = found.mean((0, 2, 3)), 2 / (found.std((0, 2, 3)) + 1e-6)
    for i, last in enumerate(last_layers):
        last.weight.mul_(factor.view(-1, 1, 1, 1))
        last.bias.copy_((last.bias - (mean if i == 0 else 0)) * factor)
    return network


@torch.no_grad()
def logits(network: nn.Module, pixels: Tensor) -> Tensor:
    """Return the library's own logits, of the size of the pixels."""
    found = network(pixels)
    return found["out"] if isinstance(found, dict) else found[0] if isinstance(found, tuple) else found


def write(kind: str, architecture: str, folder: Path, network: nn.Module) -> str:
    """Write a network as its library does. Return the name for `load`."""
    if kind == SMP:
        network.save_pretrained(folder)  # type: ignore[operator]
        return str(folder)
    torch.save({"model": network.state_dict(), "epoch": 3}, folder / "model_3.pth")  # torchvision's training script
    return f"{kind}:{architecture}:{folder}/model_3.pth"
