"""The frames and the network that all contestants share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch

from m2f_ros import taxonomy
from m2f_ros.errors import ConfigError, SourceError
from m2f_ros.frame.frame import Frame
from m2f_ros.model import SWIN, Mask2Former, ModelConfig, Network, NetworkConfig, SwinConfig, build, hub, load, save
from m2f_ros.model.adapters.huggingface import AdaptedConfig
from m2f_ros.model.adapters.zoo import ZooConfig
from m2f_ros.model.checkpoint import find
from m2f_ros.model.network import INSTANCES
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
    """Weights in files, which both sides read."""

    name: str  # as `m2f_ros.model.load` takes it
    folder: Path  # of the files; a file, where the name has the network
    origin: str  # in words
    random: bool  # True where they were not trained
    config: NetworkConfig

    @property
    def has_swin(self) -> bool:
        return isinstance(self.config, ModelConfig) and isinstance(self.config.backbone, SwinConfig)

    @property
    def library(self) -> str:
        """The name by which `load` takes the library's own code; "" where no library has the network."""
        if isinstance(self.config, AdaptedConfig | ZooConfig):
            return self.name
        return f"hf:{self.folder}" if self.has_swin else ""


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
            machine has it, else one with its configuration and random weights, written into `scratch`. "random:" and a
            network, as `untrained.new_config` takes it, has random weights, too.
        device: draws random weights, once for all that use a `scratch`, which is for one device.
    Raises:
        CheckpointError: there is no such model.
        ConfigError: it finds instances.
    """
    if name.startswith("random:"):
        from m2f_ros.benchmark import untrained

        given = untrained.new_config(name.removeprefix("random:"))
        return _drawn("random", given, lambda: untrained.drawn(given), untrained.RANDOM, scratch)
    if name not in SWIN:
        return Checkpoint(name, find(name), f"as in {name}", False, _labels_pixels(load(name)).config)
    published = f"facebook/mask2former-{name}-cityscapes-semantic"
    if cached := hub.cached(published):
        return Checkpoint(str(cached), cached, published, False, ModelConfig.read(cached))
    cityscapes = taxonomy.get("cityscapes")
    config = ModelConfig(SWIN[name], cityscapes.names, taxonomy=cityscapes)

    def draw() -> Network:
        torch.manual_seed(SEED)
        with device:
            model = build(config)
        assert isinstance(model, Mask2Former)  # as its config is
        spread_queries(model)
        return model

    return _drawn(name, config, draw, RANDOM if device.type == "cpu" else f"{RANDOM}; drawn on the GPU", scratch)


def _labels_pixels(model: Network) -> Network:
    if model.gives in INSTANCES:
        raise ConfigError(f"{model.config.summary} finds instances, and m2f bench compares labels of all pixels")
    return model


def _drawn(name: str, config: NetworkConfig, draw: Callable[[], Network], origin: str, scratch: Path) -> Checkpoint:
    """Write a network with random weights into `scratch`, unless it is there."""
    folder = scratch / name
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.partial")
        save(_labels_pixels(draw()), partial)
        partial.replace(folder)
    # transformers' code also where this package has its own.
    return Checkpoint(
        f"hf:{folder}" if isinstance(config, AdaptedConfig) else str(folder), folder, origin, True, config
    )


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
