"""The weights that both sides share: a folder in Hugging Face's layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from m2f_ros import taxonomy
from m2f_ros.model import SWIN, ModelConfig, SwinConfig, build, hub, save
from m2f_ros.model.checkpoint import find

SEED = 0
RANDOM = (
    f"random, seed {SEED}: upstream's initialisation, then the decoder layers' matrices times 0.1, so that the "
    "queries stay apart, and the class predictor's times 4, so that several classes occur"
)


@dataclass(frozen=True)
class Checkpoint:
    """folder: what `load` and transformers read; origin: in words; random: not trained."""

    folder: Path
    origin: str
    random: bool
    config: ModelConfig

    @property
    def has_swin(self) -> bool:
        return isinstance(self.config.backbone, SwinConfig)


def checkpoint(name: str, scratch: Path, device: torch.device) -> Checkpoint:
    """The weights of a model.

    Args:
        name: as `Settings.model`. A size of Swin is the published Cityscapes model where the hub's cache on this
            machine has it, else one with its configuration and random weights, written into `scratch`.
        device: draws random weights. They are drawn once for all that use a `scratch`, which is for one device.
    Raises:
        CheckpointError: there is no such model.
    """
    if name not in SWIN:
        folder = find(name)
        return Checkpoint(folder, f"as in {name}", False, ModelConfig.read(folder))
    published = f"facebook/mask2former-{name}-cityscapes-semantic"
    folder = hub.cached(published)
    if folder:
        return Checkpoint(folder, published, False, ModelConfig.read(folder))
    cityscapes = taxonomy.get("cityscapes")
    config = ModelConfig(SWIN[name], cityscapes.names, taxonomy=cityscapes)
    folder = scratch / name
    if not folder.exists():
        _draw(config, folder, device)
    return Checkpoint(folder, RANDOM if device.type == "cpu" else f"{RANDOM}; drawn on the GPU", True, config)


def _draw(config: ModelConfig, folder: Path, device: torch.device) -> None:
    """Write random weights into a new folder, whole or not at all."""
    torch.manual_seed(SEED)
    with device:
        model = build(config)
    spread_queries(model)
    partial = folder.with_name(f"{folder.name}.partial")
    save(model, partial)
    partial.replace(folder)


@torch.no_grad()
def spread_queries(model: torch.nn.Module) -> None:
    """Make the labels of a network with fresh weights differ from place to place: see RANDOM.

    As initialised, attention makes all queries alike and one class wins everywhere: agreement of labels would mean
    nothing.
    """
    for name, parameter in model.decoder.named_parameters():
        if name.startswith("layers.") and parameter.dim() > 1:
            parameter.mul_(0.1)
    model.decoder.class_predictor.weight.mul_(4)
