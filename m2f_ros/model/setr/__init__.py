"""SETR: a ViT, then naive or progressive upsampling. (Zheng et al. 2021, https://arxiv.org/abs/2012.15840)

The ViT is transformers'.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from m2f_ros.errors import CheckpointError, to_install
from m2f_ros.model.config import Keys, SharedConfig, read_shared, shared_contents
from m2f_ros.model.layout import read_json
from m2f_ros.model.network import Network, PixelLogits

PATCH = 16  # pixels
# Keys of config.json, as of a ViT of transformers -> (default, that of ViT-Large; most).
_SHAPE = {"hidden_size": (1024, 8192), "num_hidden_layers": (24, 256), "num_attention_heads": (16, 256)}
_SHAPE |= {"intermediate_size": (4096, 1 << 15), "image_size": (768, 8192), "decoder_channels": (256, 8192)}


@dataclass(frozen=True)
class SetrConfig(SharedConfig):
    """Shape and meaning of a network.

    Attributes:
        shape: values of _SHAPE. The position embeddings are for image_size, and interpolated for other sizes.
        progressive: True for four convolutions, each followed by upsampling by 2 (PUP); else naive upsampling.
    """

    shape: tuple[int, ...] = tuple(default for default, _ in _SHAPE.values())
    progressive: bool = True
    stride = PATCH

    @property
    def summary(self) -> str:
        name = "SETR-PUP" if self.progressive else "SETR-naive"
        return f"{name} of {self.shape[1]} layers, {self.num_classes} classes"

    @classmethod
    def read(cls, folder: Path) -> SetrConfig:
        """See NetworkConfig.read."""
        raw = read_json(folder / "config.json")
        keys = Keys(f"{folder}/config.json: ", raw)
        shape = tuple(keys.whole(key, default, most=most) for key, (default, most) in _SHAPE.items())
        if shape[0] % shape[2]:
            keys.fail("hidden_size", f"it must be a multiple of num_attention_heads, {shape[2]}")
        return cls(**read_shared(folder, raw, PATCH), shape=shape, progressive=keys.flag("progressive", True))

    def contents(self) -> dict[str, Any]:
        """See NetworkConfig.contents."""
        shape = dict(zip(_SHAPE, self.shape, strict=True))
        return {**shape, "progressive": self.progressive, **shared_contents(self)}


class Setr(Network):
    """See the module. The logits are at the input's size with progressive upsampling, else at a sixteenth of it."""

    gives = PixelLogits

    def __init__(self, config: SetrConfig):
        super().__init__()
        try:
            from transformers import ViTConfig, ViTModel
        except ImportError as error:
            raise CheckpointError(f"a SETR needs transformers ({error}): {to_install('transformers')}") from None
        self.config = config
        shape: dict[str, Any] = dict(zip(_SHAPE, config.shape, strict=True))
        width, channels = shape["hidden_size"], shape.pop("decoder_channels")
        self.backbone = ViTModel(ViTConfig(patch_size=PATCH, **shape), add_pooling_layer=False)
        layers: list[nn.Module] = []
        for before in [width, channels, channels, channels] if config.progressive else [width]:
            layers += [nn.Conv2d(before, channels, 3 if config.progressive else 1, padding="same", bias=False)]
            layers += [nn.BatchNorm2d(channels), nn.ReLU()]
            layers += [nn.Upsample(scale_factor=2, mode="bilinear")] if config.progressive else []
        self.decoder = nn.Sequential(*layers, nn.Conv2d(channels, config.num_classes, 1))

    def forward(self, pixels: Tensor, plan: None = None) -> PixelLogits:
        """See Network.forward."""
        height, width = pixels.shape[-2:]
        self.check_size(height, width)
        tokens = self.backbone(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state[:, 1:]
        return PixelLogits(self.decoder(tokens.mT.unflatten(2, (height // PATCH, width // PATCH))))

    def encoder(self) -> nn.Module:
        """See Network.encoder."""
        return self.backbone

    def class_layer(self) -> nn.Module:
        """See Network.class_layer."""
        return self.decoder[-1]
