"""The frames and the network that all contestants share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch

from m2f_ros import taxonomy
from m2f_ros.errors import ConfigError, SourceError
from m2f_ros.frame.frame import Frame
from m2f_ros.model import SWIN, Mask2Former, ModelConfig, SwinConfig, build, hub, read_config, save
from m2f_ros.model.checkpoint import find
from m2f_ros.pipeline.colour import to_rgb
from m2f_ros.pipeline.device import PRECISIONS
from m2f_ros.street import Street

SEED = 0
UNSEEN_SEED = 2004  # m2f_ros.sources.street.UNSEEN_SEED; importing that needs libraries of pictures and bags
RANDOM = (
    f"random, seed {SEED}: upstream's initialisation, then the decoder layers' matrices times 0.1, so that the "
    "queries stay apart, and the class predictor's times 4, so that several classes occur"
)


# A matrix of runs sees the same frames again; drawing a large street takes seconds.
@lru_cache(maxsize=4)
def read_frames(source: str, size: tuple[int, int], count: int) -> list[np.ndarray]:
    """Read `count` frames of one size, a second apart in a street, one after the other in another source.

    Args:
        source: "street" or "street:SEED", drawn at `size`; else as `open_source` takes it, scaled to `size`.
        size: (height, width).
    Returns:
        (height, width, 3) uint8 RGB each, contiguous.
    Raises:
        SourceError: the source cannot be opened, or has fewer frames.
    """
    height, width = size
    name, _, seed = source.partition(":")
    if name == "street" and (not seed or seed.isdecimal()):
        street = Street(int(seed or UNSEEN_SEED), width, height)
        return [np.ascontiguousarray(street.frame(10 * i).image) for i in range(count)]
    from m2f_ros.sources.open import open_source

    samples = [(Frame(sample.image, sample.encoding), sample.encoding) for sample in open_source(source, frames=count)]
    images = [np.ascontiguousarray(to_rgb(torch.from_numpy(f.data.copy()), of).numpy()) for f, of in samples]
    if len(images) < count:
        raise SourceError(f"{source}: has {len(images)} frames, and {count} different ones are wanted")
    return [
        image if image.shape[:2] == size else cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        for image in images
    ]


def sha256(frames: Sequence[np.ndarray]) -> str:
    """Digest of all bytes, one frame after the other."""
    return hashlib.sha256(b"".join(frame.tobytes() for frame in frames)).hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """Weights in Hugging Face's layout, which both sides read."""

    folder: Path
    origin: str  # in words
    random: bool  # True where they were not trained
    config: ModelConfig

    @property
    def has_swin(self) -> bool:
        return isinstance(self.config.backbone, SwinConfig)


@dataclass(frozen=True)
class Case:
    """The network that both sides run, and how."""

    weights: Checkpoint
    size: tuple[int, int]  # (height, width) of the network's input
    device: torch.device
    precision: str

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.precision]


def checkpoint(name: str, scratch: Path, device: torch.device) -> Checkpoint:
    """Find the weights of a model, or draw them.

    Args:
        name: as `Settings.model`. A size of Swin is the published Cityscapes model where the hub's cache on this
            machine has it, else one with its configuration and random weights, written into `scratch`.
        device: draws random weights, once for all that use a `scratch`, which is for one device.
    Raises:
        CheckpointError: there is no such model.
        ConfigError: the model is by transformers' code.
    """
    if name not in SWIN:
        folder = find(name)
        config = read_config(folder)
        if not isinstance(config, ModelConfig) or name.startswith("hf:"):
            raise ConfigError(
                f"--model {name}: the benchmark is of this package's Mask2Former alone, and compares it with "
                "transformers' code itself"
            )
        return Checkpoint(folder, f"as in {name}", False, config)
    published = f"facebook/mask2former-{name}-cityscapes-semantic"
    if cached := hub.cached(published):
        return Checkpoint(cached, published, False, ModelConfig.read(cached))
    cityscapes = taxonomy.get("cityscapes")
    config = ModelConfig(SWIN[name], cityscapes.names, taxonomy=cityscapes)
    folder = scratch / name
    if not folder.exists():
        torch.manual_seed(SEED)
        with device:
            model = build(config)
        assert isinstance(model, Mask2Former)  # as its config is
        spread_queries(model)
        partial = folder.with_name(f"{folder.name}.partial")
        save(model, partial)
        partial.replace(folder)
    return Checkpoint(folder, RANDOM if device.type == "cpu" else f"{RANDOM}; drawn on the GPU", True, config)


@torch.no_grad()
def spread_queries(model: Mask2Former) -> None:
    """Make the labels of a network with fresh weights differ from place to place: see RANDOM.

    As initialised, attention makes all queries alike and one class wins everywhere: agreement of labels would mean
    nothing.
    """
    for name, parameter in model.decoder.named_parameters():
        if name.startswith("layers.") and parameter.dim() > 1:
            parameter.mul_(0.1)
    model.decoder.class_predictor.weight.mul_(4)
