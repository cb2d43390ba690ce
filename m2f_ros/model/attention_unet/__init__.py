"""Attention U-Net: a U-Net whose skips pass gates. (Oktay et al. 2018, https://arxiv.org/abs/1804.03999)"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from m2f_ros.model.config import Keys, SharedConfig, read_shared, shared_contents
from m2f_ros.model.layout import read_json
from m2f_ros.model.network import Modules, Network, PixelLogits


@dataclass(frozen=True)
class AttentionUNetConfig(SharedConfig):
    """Shape and meaning of a network. channels: of each level, the finest first."""

    channels: tuple[int, ...] = (64, 128, 256, 512, 1024)
    stride = 16

    @property
    def summary(self) -> str:
        return f"Attention U-Net with {self.channels[0]} channels, {self.num_classes} classes"

    @classmethod
    def read(cls, folder: Path) -> AttentionUNetConfig:
        """See NetworkConfig.read."""
        raw = read_json(folder / "config.json")
        channels = Keys(f"{folder}/config.json: ", raw).wholes("channels", cls.channels, most=8192)
        return cls(**read_shared(folder, raw, cls.stride), channels=channels)

    def contents(self) -> dict[str, Any]:
        """See NetworkConfig.contents."""
        return {"channels": self.channels, **shared_contents(self)}


class Gate(nn.Module):
    """Additive attention: (B, C, h, w) features times a map of 0..1, made with coarser features of half their size."""

    def __init__(self, fine: int, coarse: int):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(fine, fine, 2, stride=2, bias=False), nn.Conv2d(coarse, fine, 1)
        self.weight = nn.Conv2d(fine, 1, 1)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        weight = self.weight((self.fine(fine) + self.coarse(coarse)).relu()).sigmoid()
        return fine * F.interpolate(weight, fine.shape[-2:], mode="bilinear", align_corners=False)


def block(before: int, after: int) -> nn.Sequential:
    """Two convolutions, each with a batch norm and ReLU."""
    pairs = ((before, after), (after, after))
    layers = [(nn.Conv2d(*pair, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()) for pair in pairs]
    return nn.Sequential(*(layer for three in layers for layer in three))


class AttentionUNet(Network):
    """See the module. The logits are at the input's size."""

    gives = PixelLogits

    def __init__(self, config: AttentionUNetConfig):
        super().__init__()
        self.config = config
        levels = list(zip(config.channels, config.channels[1:], strict=False))  # finest first: (fine, coarse)
        self.down: Modules[nn.Sequential] = Modules([block(3, config.channels[0]), *(block(*pair) for pair in levels)])
        self.gates: Modules[Gate] = Modules(Gate(*pair) for pair in levels)
        self.up: Modules[nn.ConvTranspose2d] = Modules(
            nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in levels
        )
        self.merge: Modules[nn.Sequential] = Modules(block(2 * fine, fine) for fine, _ in levels)
        self.classes = nn.Conv2d(config.channels[0], config.num_classes, 1)

    def forward(self, pixels: Tensor, plan: None = None) -> PixelLogits:
        """See Network.forward."""
        self.check_size(*pixels.shape[-2:])
        maps = [self.down[0](pixels)]
        for level in self.down[1:]:
            maps.append(level(F.max_pool2d(maps[-1], 2)))
        found = maps.pop()
        for gate, up, merge in reversed(list(zip(self.gates, self.up, self.merge, strict=True))):
            fine = maps.pop()
            found = merge(torch.cat([gate(fine, found), up(found)], 1))
        return PixelLogits(self.classes(found))

    def encoder(self) -> nn.Module:
        """See Network.encoder."""
        return self.down

    def class_layer(self) -> nn.Module:
        """See Network.class_layer."""
        return self.classes
