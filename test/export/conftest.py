"""Frames and small models for exports."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from m2f_ros.frame.frame import Frame
from m2f_ros.model import ModelConfig, SwinConfig, build, save
from m2f_ros.model.registry import FAMILIES

sys.path.insert(0, str(Path(__file__).parent))
from toy import TOY, ToyConfig

LABELS = ("road", "sidewalk", "building", "wall", "fence", "pole", "car", "sky")
SHAPE = dict(hidden_dim=32, heads=4, encoder_layers=1, encoder_ffn=32, decoder_layers=3, decoder_ffn=32, num_queries=20)


def picture(height: int = 70, width: int = 100, seed: int = 0) -> Frame:
    """Patches of colour."""
    patches = np.random.default_rng(seed).integers(0, 256, (height // 9 + 1, width // 9 + 1, 3), np.uint8)
    return Frame(np.ascontiguousarray(patches.repeat(9, 0).repeat(9, 1)[:height, :width]), "rgb8")


@pytest.fixture(scope="session")
def frames() -> list[Frame]:
    return [picture(seed=seed) for seed in range(3)]


# Without an __init__.py a scope of the package would be that of the session, and other rooms would know the family.
@pytest.fixture(scope="module", autouse=True)
def toy_family() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "toy", TOY)
        yield


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> Path:
    """The checkpoint of a network of two layers, with random weights."""
    folder = tmp_path_factory.mktemp("models") / "toy"
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "toy", TOY)
        save(build(ToyConfig(LABELS)).eval(), folder)
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[str, Path]:
    """Small checkpoints with random weights, by backbone. Windows of 7 and 12 do not divide the maps of 64x96."""
    backbones = {f"swin{w}": SwinConfig(16, (2, 2, 1, 1), (1, 1, 2, 2), window_size=w) for w in (7, 12)}
    folders = {}
    for name, backbone in (backbones | {"efficientnet": "efficientnet_lite0"}).items():
        torch.manual_seed(0)
        model = build(ModelConfig(backbone, LABELS, **SHAPE)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
            # Queries that stay apart, and several classes with a lead.
            for weight in (model.decoder.class_predictor.weight, model.decoder.query_features.weight):
                weight.copy_(2 * torch.randn(weight.shape))
            for key, parameter in model.decoder.named_parameters():
                if key.startswith("layers.") and parameter.dim() > 1:
                    parameter.mul_(0.1)
        folders[name] = tmp_path_factory.mktemp("models") / name
        save(model, folders[name])
    return folders
