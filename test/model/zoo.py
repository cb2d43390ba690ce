"""Small networks of torchvision and segmentation_models.pytorch."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

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


def few_candidates(patch: pytest.MonkeyPatch) -> None:
    """Build each Mask R-CNN with a few candidates: 100 take seconds."""
    from torchvision.models import detection

    for name in ("maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2"):
        few = partial(getattr(detection, name), box_detections_per_img=8, rpn_post_nms_top_n_test=40)
        patch.setattr(detection, name, few)


def config(kind: str, architecture: str) -> ZooConfig:
    shape: dict[str, Any] = {"norms_without_eps" if "rcnn" in architecture else "aux_loss": False}
    if kind == SMP:
        shape = {"encoder_name": ENCODER, "encoder_weights": None, "activation": None, "classes": len(LABELS)}
    return ZooConfig(kind, architecture, json.dumps(shape, sort_keys=True), LABELS)


# Name, which begins with the family's -> config.
CASES = {
    f"{kind}, {architecture}": config(kind, architecture)
    for kind, architecture in (
        ("torchvision", "lraspp_mobilenet_v3_large"),
        ("torchvision", "maskrcnn_resnet50_fpn"),
        (SMP, "Unet"),
        (SMP, "DeepLabV3Plus"),
    )
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
    if "rcnn" in architecture:
        return _finder(getattr(library.models.detection, architecture), classes + 1)
    if kind == SMP:
        network = getattr(library, architecture)(encoder, encoder_weights=None, classes=classes, **shape)
    else:
        make = getattr(library.models.segmentation, architecture)
        network = make(weights=None, weights_backbone=None, num_classes=classes, **shape)
    pixels = _normalised(picture(128, 192) if architecture == "PAN" else picture(64, 96))
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


def _normalised(image: np.ndarray) -> Tensor:
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    return (pixels - torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)) / torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)


def _finder(make: Any, classes: int) -> nn.Module:
    """Return torchvision's Mask R-CNN, whose masks and scores vary over `picture`."""
    from torchvision.models.detection.image_list import ImageList

    network = make(weights=None, weights_backbone=None, num_classes=classes).eval()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    pixels = _normalised(picture(64, 96))
    heads = network.roi_heads

    def run() -> None:
        sizes = [(64, 96)] * len(pixels)
        features = network.backbone(pixels)
        proposals, _ = network.rpn(ImageList(pixels, sizes), features)
        heads(features, proposals, sizes)

    run()
    network.eval()
    for last, deviation in ((heads.box_predictor.cls_score, 3), (heads.mask_predictor.mask_fcn_logits, 3)):
        seen: list[Tensor] = []
        hook = last.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output))
        run()
        hook.remove()
        axes = (0, 2, 3)[: seen[0].dim() - 1]
        factor = deviation / (seen[0].std(axes) + 1e-6)
        last.weight.mul_(factor.view(-1, *[1] * (last.weight.dim() - 1)))
        last.bias.copy_((last.bias - seen[0].mean(axes)) * factor)
    return network


@torch.no_grad()
def found_by(network: Any, pixels: Tensor, frame: tuple[int, int]) -> list[dict[str, Tensor]]:
    """Return the library's own instances of normalised pixels, by its forward pass, pasted at the frame's size."""
    network.transform.min_size, network.transform.max_size = (min(pixels.shape[2:]),), max(pixels.shape[2:])
    network.transform.image_mean, network.transform.image_std = [0.0] * 3, [1.0] * 3
    found, size = network(list(pixels)), tuple(pixels.shape[2:])
    if frame != size:  # as for images that it has resized itself
        paste = network.transform.postprocess
        with mock.patch.object(network.transform, "postprocess", lambda result, *sizes: result):
            found = paste(network(list(pixels)), [size] * len(pixels), [frame] * len(pixels))
    return found


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
