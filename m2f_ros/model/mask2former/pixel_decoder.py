"""Multi-scale deformable attention pixel decoder. (Cheng et al. 2022, Mask2Former, section 3.2.1 and appendix A)

Follows mask2former/modeling/pixel_decoder/msdeformattn.py upstream.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from m2f_ros.model.mask2former.config import Mask2FormerConfig
from m2f_ros.model.mask2former.deformable import AttentionPlan, DeformableAttention, Geometry, geometry
from m2f_ros.model.network import Modules
from m2f_ros.model.onednn import Linear

LEVELS = 3  # strides 32, 16 and 8


class PixelDecoderPlan(NamedTuple):
    """Tensors that depend only on the weights and the sizes of the maps.

    Attributes:
        geometry: layout of the levels.
        attention: plan of each encoder layer's attention.
    """

    geometry: Geometry
    attention: tuple[AttentionPlan, ...]


class PixelDecoder(nn.Module):
    """Turns backbone features into mask features at stride 4 and tokens of three levels for the transformer decoder."""

    def __init__(self, config: Mask2FormerConfig, channels: tuple[int, ...]):
        super().__init__()
        dim, self.heads = config.hidden_dim, config.heads
        self.input_projections: Modules[nn.Sequential] = Modules(
            nn.Sequential(nn.Conv2d(c, dim, 1), nn.GroupNorm(32, dim)) for c in reversed(channels[1:])
        )
        self.level_embed = nn.Parameter(torch.zeros(LEVELS, dim))
        self.layers: Modules[EncoderLayer] = Modules(
            EncoderLayer(dim, config.heads, config.encoder_ffn) for _ in range(config.encoder_layers)
        )
        self.lateral = nn.Sequential(nn.Conv2d(channels[0], dim, 1, bias=False), nn.GroupNorm(32, dim))
        output: nn.Module = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        if config.separable_output:
            depthwise = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
            output = nn.Sequential(depthwise, nn.Conv2d(dim, dim, 1, bias=False))
        self.output = nn.Sequential(output, nn.GroupNorm(32, dim))

    def plan(self, shapes: Sequence[tuple[int, int]]) -> PixelDecoderPlan:
        """Make the plan for maps of these (height, width), at strides 32, 16 and 8."""
        position = torch.cat(
            [
                sine_position(*shape, embed) + embed
                for shape, embed in zip(shapes, self.level_embed.unbind(), strict=True)
            ]
        )
        attention = tuple(layer.self_attn.plan(position) for layer in self.layers)
        return PixelDecoderPlan(geometry(shapes, self.heads, position), attention)

    def forward(self, features: list[Tensor], plan: PixelDecoderPlan) -> tuple[Tensor, Sequence[Tensor]]:
        """Decode four maps (B, C_i, H/s_i, W/s_i), s_i = 4, 8, 16, 32, into

        - mask features (B, C, H/4, W/4), which the decoder projects;
        - tokens (B, H/s * W/s, C) of three levels, s = 32, 16, 8.
        """
        maps = [project(x) for project, x in zip(self.input_projections, reversed(features[1:]), strict=True)]
        shapes = plan.geometry.shapes
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1)
        for layer, attention in zip(self.layers, plan.attention, strict=True):
            tokens = layer(tokens, attention, plan.geometry)

        levels = tokens.split([h * w for h, w in shapes], 1)
        coarse = levels[-1].unflatten(1, shapes[-1]).permute(0, 3, 1, 2)
        fine = self.lateral(features[0])
        fine = fine + F.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=False)
        return F.relu(self.output(fine)), levels


class EncoderLayer(nn.Module):
    """Deformable self-attention over all levels and a feed-forward net, a norm after each."""

    def __init__(self, dim: int, heads: int, ffn: int):
        super().__init__()
        self.self_attn = DeformableAttention(dim, heads, LEVELS)
        self.norm1 = nn.LayerNorm(dim)
        self.fc1, self.fc2 = Linear(dim, ffn, activation="relu"), Linear(ffn, dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, plan: AttentionPlan, geometry: Geometry) -> Tensor:
        """Map (B, S, C) to (B, S, C); for the arguments see DeformableAttention."""
        x = self.norm1(x + self.self_attn(x, plan, geometry))
        return self.norm2(x + self.fc2(self.fc1(x)))


def sine_position(height: int, width: int, like: Tensor) -> Tensor:
    """Return the (height * width, C) sine embedding of row and column, normalised to 0..2 pi. C, dtype and device are
    those of `like`."""
    dim, device = like.shape[-1], like.device
    exact = torch.promote_types(like.dtype, torch.float32)
    rows = torch.arange(1, height + 1, device=device, dtype=exact) / (height + 1e-6) * 2 * math.pi
    cols = torch.arange(1, width + 1, device=device, dtype=exact) / (width + 1e-6) * 2 * math.pi
    channel = torch.arange(dim // 2, device=device)
    period = 10000 ** (2 * (channel // 2).to(exact) / (dim // 2))

    def embed(values: Tensor) -> Tensor:
        angle = values[:, None] / period
        return torch.where(channel % 2 == 0, angle.sin(), angle.cos())

    rows, cols = embed(rows), embed(cols)
    grid = torch.cat([rows[:, None].expand(-1, width, -1), cols[None].expand(height, -1, -1)], -1)
    return grid.reshape(height * width, dim).to(like.dtype)
