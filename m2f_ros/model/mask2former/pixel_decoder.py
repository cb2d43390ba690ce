"""Multi-scale deformable attention pixel decoder. (Cheng et al. 2022, Mask2Former, section 3.2.1 and appendix A)

Follows mask2former/modeling/pixel_decoder/msdeformattn.py upstream.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from m2f_ros import kernels
from m2f_ros.model.layers import Linear, convolve_patches
from m2f_ros.model.mask2former.config import Mask2FormerConfig
from m2f_ros.model.mask2former.deformable import (
    AttentionPlan,
    DeformableAttention,
    Geometry,
    TablePlan,
    geometry,
)
from m2f_ros.model.mask2former.position import sine_position, sine_tables
from m2f_ros.model.network import Modules
from m2f_ros.model.norms import GroupNorm, norm_of_sum, normalise, normalised_tokens

LEVELS = 3  # strides 32, 16 and 8


class PixelDecoderPlan(NamedTuple):
    """Tensors that depend only on the weights and the sizes of the maps.

    Attributes:
        geometry: layout of the levels.
        attention: plan of each encoder layer's attention.
    """

    geometry: Geometry
    attention: tuple[AttentionPlan | TablePlan, ...]


class PixelDecoder(nn.Module):
    """Turns backbone features into mask features at stride 4 and tokens of three levels for the transformer decoder."""

    def __init__(self, config: Mask2FormerConfig, channels: tuple[int, ...]):
        super().__init__()
        dim, self.heads = config.hidden_dim, config.heads
        self.input_projections: Modules[nn.Sequential] = Modules(
            nn.Sequential(nn.Conv2d(c, dim, 1), GroupNorm(32, dim)) for c in reversed(channels[1:])
        )
        self.level_embed = nn.Parameter(torch.zeros(LEVELS, dim))
        self.layers: Modules[EncoderLayer] = Modules(
            EncoderLayer(dim, config.heads, config.encoder_ffn) for _ in range(config.encoder_layers)
        )
        self.lateral = nn.Sequential(nn.Conv2d(channels[0], dim, 1, bias=False), GroupNorm(32, dim))
        output: nn.Module = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        if config.separable_output:
            depthwise = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
            output = nn.Sequential(depthwise, nn.Conv2d(dim, dim, 1, bias=False))
        self.output = nn.Sequential(output, GroupNorm(32, dim))

    def plan(self, shapes: Sequence[tuple[int, int]]) -> PixelDecoderPlan:
        """Make the plan for maps of these (height, width), at strides 32, 16 and 8."""
        embeds, layers = self.level_embed, [layer.self_attn for layer in self.layers]
        use_tables = embeds.is_cuda or kernels.use("deformable_attention", embeds)
        attention: tuple[AttentionPlan | TablePlan, ...]
        if use_tables:
            tables = [sine_tables(*shape, embeds[0]) for shape in shapes]
            rows = torch.cat([of_rows + embed for (of_rows, _), embed in zip(tables, embeds, strict=True)])
            columns = torch.cat([of_columns for _, of_columns in tables])
            attention = tuple(layer.plan_tables(rows, columns, shapes) for layer in layers)
        else:
            levels = zip(shapes, embeds, strict=True)
            position = torch.cat([sine_position(*shape, embed) + embed for shape, embed in levels])
            attention = tuple(layer.plan(position) for layer in layers)
        return PixelDecoderPlan(geometry(shapes, self.heads, embeds, use_tables), attention)

    def forward(self, features: list[Tensor], plan: PixelDecoderPlan) -> tuple[Tensor, Sequence[Tensor]]:
        """Decode four maps (B, C_i, H/s_i, W/s_i), s_i = 4, 8, 16, 32, into

        - mask features (B, C, H/4, W/4), which the decoder projects;
        - tokens (B, H/s * W/s, C) of three levels, s = 32, 16, 8.
        """
        convs, norms = zip(*self.input_projections, strict=True)
        maps = [convolve_patches(conv, x) for conv, x in zip(convs, reversed(features[1:]), strict=True)]
        shapes = plan.geometry.shapes
        tokens = normalised_tokens(maps, norms)
        for layer, attention in zip(self.layers, plan.attention, strict=True):
            tokens = layer(tokens, attention, plan.geometry)

        levels = tokens.split([h * w for h, w in shapes], 1)
        coarse = levels[-1].unflatten(1, shapes[-1]).permute(0, 3, 1, 2)
        conv: Any  # a Sequential's members have no type
        norm: Any
        conv, norm = self.lateral
        fine = normalise(convolve_patches(conv, features[0]), norm, coarse=coarse)
        conv, norm = self.output
        return normalise(conv(fine), norm, relu=True), levels


class EncoderLayer(nn.Module):
    """Deformable self-attention over all levels and a feed-forward net, a norm after each."""

    def __init__(self, dim: int, heads: int, ffn: int):
        super().__init__()
        self.self_attn = DeformableAttention(dim, heads, LEVELS)
        self.norm1 = nn.LayerNorm(dim)
        self.fc1, self.fc2 = Linear(dim, ffn, activation="relu"), Linear(ffn, dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, plan: AttentionPlan | TablePlan, geometry: Geometry) -> Tensor:
        """Map (B, S, C) to (B, S, C); for the arguments see DeformableAttention."""
        x = norm_of_sum(x, self.self_attn(x, plan, geometry), self.norm1)
        return norm_of_sum(x, self.fc2(self.fc1(x)), self.norm2)
