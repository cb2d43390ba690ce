"""Masked-attention transformer decoder. (Cheng et al. 2022, Mask2Former, section 3.2)

Follows mask2former/modeling/transformer_decoder/mask2former_transformer_decoder.py upstream.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from m2f_ros.model.config import ModelConfig
from m2f_ros.model.onednn import Linear, linear
from m2f_ros.model.pixel_decoder import LEVELS, sine_position


class DecoderPlan(NamedTuple):
    """What depends on the maps' sizes only.

    Attributes:
        position: (h * w, C) of each of the three maps.
    """

    position: tuple[Tensor, ...]


class MaskedAttentionDecoder(nn.Module):
    """Queries look at one map after the other, each only where its own last mask says the object is."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        dim = config.hidden_dim
        self.query_embed = nn.Embedding(config.num_queries, dim)  # position
        self.query_features = nn.Embedding(config.num_queries, dim)  # content
        self.level_embed = nn.Embedding(LEVELS, dim)
        self.layers = nn.ModuleList(
            DecoderLayer(dim, config.heads, config.decoder_ffn) for _ in range(config.decoder_layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.mask_embed = nn.ModuleList(
            Linear(dim, dim, activation=activation) for activation in ("relu", "relu", "none")
        )
        self.class_predictor = Linear(dim, config.num_classes + 1)

    def plan(self, shapes: Sequence[tuple[int, int]]) -> DecoderPlan:
        """For maps of these (height, width), at strides 32, 16 and 8."""
        return DecoderPlan(tuple(sine_position(*shape, self.level_embed.weight) for shape in shapes))

    def forward(self, mask_features: Tensor, maps: list[Tensor], plan: DecoderPlan) -> list[tuple[Tensor, Tensor]]:
        """Predictions of the learned queries, then of every layer's.

        Args:
            mask_features: (B, C, H/4, W/4).
            maps: three (B, C, H/s, W/s), s = 32, 16, 8.
        Returns:
            A pair for the learned queries and one for each layer; the last is the result.
            Class logits (B, Q, classes + 1), the last class being "no object"; mask logits (B, Q, H/4, W/4).
            In eval mode only the result is given, since only it is used.
        """
        sizes = [x.shape[-2:] for x in maps]
        values = [x.flatten(2).transpose(1, 2) + e for x, e in zip(maps, self.level_embed.weight, strict=True)]
        keys = [x + position for x, position in zip(values, plan.position, strict=True)]
        query = self.query_features.weight.expand(mask_features.shape[0], -1, -1)

        # Interpolation commutes with the product of query and feature: the masks that steer attention are predicted at
        # the sizes at which they are used, and at full size only where they are a result.
        small = [F.interpolate(mask_features, size, mode="bilinear", align_corners=False) for size in sizes]
        results = []
        for i, layer in enumerate(self.layers):
            if self.training:
                results.append(self.predict(query, mask_features))
            level = i % LEVELS
            visible = attention_mask(self.predict_masks(query, small[level]))
            query = layer(query, self.query_embed.weight, keys[level], values[level], visible)
        return [*results, self.predict(query, mask_features)]

    def predict(self, query: Tensor, mask_features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, Q, C) and (B, C, h, w) -> class logits (B, Q, classes + 1) and mask logits (B, Q, h, w)."""
        return self.class_predictor(self.norm(query)), self.predict_masks(query, mask_features)

    def predict_masks(self, query: Tensor, mask_features: Tensor) -> Tensor:
        """(B, Q, C) and (B, C, h, w) -> mask logits (B, Q, h, w)."""
        first, second, third = self.mask_embed
        embedding = third(second(first(self.norm(query))))
        return (embedding @ mask_features.flatten(2)).unflatten(2, mask_features.shape[-2:])


def attention_mask(mask_logits: Tensor) -> Tensor:
    """(B, Q, h, w) -> (B, 1, Q, h * w) bool: where a query may look: in its mask, or everywhere if that is empty."""
    visible = mask_logits.detach().flatten(2) >= 0  # sigmoid(x) >= 0.5
    return (visible | ~visible.any(-1, keepdim=True))[:, None]


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward net; a norm after each."""

    def __init__(self, dim: int, heads: int, ffn: int):
        super().__init__()
        self.cross_attn, self.norm1 = Attention(dim, heads), nn.LayerNorm(dim)
        self.self_attn, self.norm2 = Attention(dim, heads), nn.LayerNorm(dim)
        self.fc1, self.fc2, self.norm3 = Linear(dim, ffn, activation="relu"), Linear(ffn, dim), nn.LayerNorm(dim)

    def forward(self, query: Tensor, position: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
        """query (B, Q, C), position (Q, C), key and value (B, S, C), visible (B, 1, Q, S) bool -> (B, Q, C)."""
        query = self.norm1(query + self.cross_attn(query + position, key, value, visible))
        placed = query + position
        query = self.norm2(query + self.self_attn(placed, placed, query))
        return self.norm3(query + self.fc2(self.fc1(query)))


class Attention(nn.Module):
    """Multi-head attention with query, key and value projections in one matrix (3C, C)."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj = Linear(dim, 3 * dim)
        self.out_proj = Linear(dim, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """query (B, Q, C), key and value (B, S, C), mask broadcastable to (B, heads, Q, S) -> (B, Q, C)."""
        weights, biases = self.in_proj.weight.chunk(3), self.in_proj.bias.chunk(3)
        inputs = (query, key, value)
        query, key, value = (
            linear(x, w, b).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, w, b in zip(inputs, weights, biases, strict=True)
        )
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out_proj(out.transpose(1, 2).flatten(2))
