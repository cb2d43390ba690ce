"""Masked-attention transformer decoder. (Cheng et al. 2022, Mask2Former, section 3.2)

Follows mask2former/modeling/transformer_decoder/mask2former_transformer_decoder.py upstream.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from m2f_ros import kernels
from m2f_ros.model.layers import Linear, linear, linear_plus
from m2f_ros.model.mask2former.config import Mask2FormerConfig
from m2f_ros.model.mask2former.pixel_decoder import LEVELS
from m2f_ros.model.mask2former.position import sine_position, sine_tables
from m2f_ros.model.network import Modules

MOST = 256  # queries, or channels, of a layer whose kernels fit the shared memory of any GPU
FACTORS = (8, 4, 2)  # ratios of the levels' strides to the mask features' stride


class Memory(NamedTuple):
    """Key and value projections of the n layers that attend to one level, each as one product.

    Attributes:
        weight: (2 * n * C, C) weight of the keys, then of the values.
        bias: (2 * n * C,) zeros for the keys, then the bias of the values plus the projected level embedding.
        key_term: the bias of the keys, plus the projected level embedding and position: (h * w, n * C); if kernels were
            used for the plan, (h, n * C) and (w, n * C), the terms of each row and each column, to be added.
    """

    weight: Tensor
    bias: Tensor
    key_term: tuple[Tensor, ...]

    def keys(self, x: Tensor) -> Tensor:
        """Project the keys: (B, h * w, C) -> (B, h * w, n * C)."""
        term = self.key_term[0]
        if len(self.key_term) == 2:
            term = (term[:, None] + self.key_term[1]).flatten(0, 1)
        return linear_plus(x, self.weight.chunk(2)[0], term)

    def values(self, x: Tensor) -> Tensor:
        """Project the values: (B, h * w, C) -> (B, h * w, n * C)."""
        return linear(x, self.weight.chunk(2)[1], self.bias.chunk(2)[1])


class LayerPlan(NamedTuple):
    """Constant terms in the two attentions of a layer: biases plus the projected position of the queries.

    Attributes:
        cross: (Q, C), added to the queries of the cross-attention.
        own: (Q, 3C), added to queries, keys and values of the self-attention.
    """

    cross: Tensor
    own: Tensor


class MaskPlan(NamedTuple):
    """Last layer of the mask embedding, fused with the projection of the mask features.

    A query's product with projected features equals a fused embedding's product with the unprojected ones plus an
    offset.

    Attributes:
        weight: (C, C) weight of the fused embedding.
        bias: (C,) bias of the fused embedding.
        offset_weight: (1, C) weight of the offset.
        offset_bias: (1,) bias of the offset.
    """

    weight: Tensor
    bias: Tensor
    offset_weight: Tensor
    offset_bias: Tensor


class DecoderPlan(NamedTuple):
    """Tensors that depend only on the weights and the sizes of the maps.

    Attributes:
        memory: plan of each attended level.
        layers: plan of each layer.
        masks: plan of the mask embedding.
        start: what the learned queries ask first, without a batch; see `MaskedAttentionDecoder.ask`. Empty if kernels
            were not used for the plan.
    """

    memory: tuple[Memory, ...]
    layers: tuple[LayerPlan, ...]
    masks: MaskPlan
    start: tuple[Tensor, ...] = ()


class MaskedAttentionDecoder(nn.Module):
    """Queries attend to one level after the other, each only inside its own last mask.

    Attributes:
        embeds: True to give the embeddings of the last queries, too.
    """

    embeds = False

    def __init__(self, config: Mask2FormerConfig):
        super().__init__()
        dim, self.heads = config.hidden_dim, config.heads
        self.query_embed = nn.Embedding(config.num_queries, dim)  # position
        self.query_features = nn.Embedding(config.num_queries, dim)  # content
        self.level_embed = nn.Embedding(LEVELS, dim)
        self.layers: Modules[DecoderLayer] = Modules(
            DecoderLayer(dim, config.heads, config.decoder_ffn) for _ in range(config.decoder_layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.mask_embed: Modules[Linear] = Modules(
            Linear(dim, dim, activation=activation) for activation in ("relu", "relu", "none")
        )
        self.mask_projection = nn.Conv2d(dim, dim, 1)  # projects the mask features
        self.class_predictor = Linear(dim, config.num_classes + 1)

    def plan(self, shapes: Sequence[tuple[int, int]]) -> DecoderPlan:
        """Make the plan for maps of these (height, width), at strides 32, 16 and 8."""
        memory, like = [], self.query_features.weight
        use_kernel = kernels.use("masked_attention", like, like.shape[1] // self.heads)
        for level in range(min(LEVELS, len(self.layers))):
            projections = [layer.cross_attn.projections() for layer in list(self.layers)[level::LEVELS]]
            _, keys, values = (
                [torch.cat(x) for x in zip(*part, strict=True)] for part in zip(*projections, strict=True)
            )
            embed = self.level_embed.weight[level]
            bias = F.linear(embed, *values)
            term = _key_term(use_kernel, shapes[level], embed, *keys)
            memory.append(Memory(torch.cat([keys[0], values[0]]), torch.cat([torch.zeros_like(bias), bias]), term))
        layers = tuple(layer.plan(self.query_embed.weight) for layer in self.layers)
        plan = DecoderPlan(tuple(memory), layers, self._plan_masks())
        if layers and use_kernel:
            plan = plan._replace(start=tuple(x[0] for x in self.ask(like[None], 0, plan)))
        return plan

    def _plan_masks(self) -> MaskPlan:
        (*_, last), projection = self.mask_embed, self.mask_projection
        assert projection.bias is not None
        exact = torch.promote_types(last.weight.dtype, torch.float32)
        turned = torch.cat([projection.weight[:, :, 0, 0].t(), projection.bias[None]]).to(exact)
        weight, bias = turned @ last.weight.to(exact), turned @ last.bias.to(exact)
        weight, bias = weight.to(last.weight.dtype), bias.to(last.weight.dtype)
        return MaskPlan(weight[:-1], bias[:-1], weight[-1:], bias[-1:])

    def forward(self, mask_features: Tensor, levels: Sequence[Tensor], plan: DecoderPlan) -> list[tuple[Tensor, ...]]:
        """Predict classes and masks of the learned queries, then of each layer's queries.

        Args:
            mask_features: (B, C, H/4, W/4), unprojected.
            levels: tokens (B, H/s * W/s, C) of three levels, s = 32, 16, 8.
        Returns:
            A pair for the learned queries and one for each layer; in eval mode only the last one, the result.
            Class logits (B, Q, classes + 1), the last class being "no object"; mask logits (B, Q, H/4, W/4). With
            `embeds` the embeddings (B, Q, C) follow in the last one.
        """
        if plan.start and not self.training and kernels.use("masked_attention", mask_features):
            return [self._infer(mask_features, levels, plan)]
        keys = [m.keys(x) for x, m in zip(levels, plan.memory, strict=False)]
        values = [m.values(x) for x, m in zip(levels, plan.memory, strict=False)]
        query = self.query_features.weight.expand(mask_features.shape[0], -1, -1)

        # Interpolation commutes with the product of query and feature: attention masks are predicted at the sizes of
        # the levels, and at full size only for results.
        small = [middles(mask_features, factor) for factor in FACTORS]
        results: list[tuple[Tensor, ...]] = []
        for i, (layer, part) in enumerate(zip(self.layers, plan.layers, strict=True)):
            if self.training:
                results.append(self.predict(query, mask_features, plan.masks))
            turn, level = divmod(i, LEVELS)
            visible = attention_mask(self.predict_masks(query, small[level], plan.masks))
            own = slice(turn * query.shape[-1], (turn + 1) * query.shape[-1])
            query = layer(query, keys[level][..., own], values[level][..., own], visible, part)
        return [*results, (*self.predict(query, mask_features, plan.masks), *self._embeddings(query))]

    def _embeddings(self, query: Tensor) -> tuple[Tensor, ...]:
        return (self.norm(query),) if self.embeds else ()

    def _infer(self, mask_features: Tensor, levels: Sequence[Tensor], plan: DecoderPlan) -> tuple[Tensor, ...]:
        """See `forward`: the masks of the levels are predicted by the kernel of the attention."""
        from m2f_ros.kernels import masked

        memory = [linear(x, m.weight, m.bias) for x, m in zip(levels, plan.memory, strict=False)]
        maps = mask_features.permute(0, 2, 3, 1).contiguous()  # no copy of maps in channels_last
        small = masked.middles(maps)
        query, embedding, offset, asked = (
            x.expand(mask_features.shape[0], -1, -1) for x in (self.query_features.weight, *plan.start)
        )
        for i, layer in enumerate(self.layers):
            turn, level = divmod(i, LEVELS)
            own = slice(turn * query.shape[-1], (turn + 1) * query.shape[-1])
            keys, values = (x[..., own] for x in memory[level].chunk(2, -1))
            rows, columns = (x[:, own] for x in plan.memory[level].key_term)
            heads = layer.cross_attn.heads
            attended = masked.attend(asked, embedding, offset, small[level], keys, values, rows, columns, heads)
            query, embedding, offset, asked = self._answer(query, attended, i, plan)
        return asked, masked.predict(embedding, offset, maps), *self._embeddings(query)

    def _answer(self, query: Tensor, attended: Tensor, index: int, plan: DecoderPlan) -> tuple[Tensor, ...]:
        """Finish a layer: return its queries (B, Q, C), and what they ask next (see `ask`)."""
        layers, part = list(self.layers), plan.layers[index]
        layer = layers[index]
        if not kernels.use("query_layers", attended) or max(query.shape[1:]) > MOST:
            query = layer.answer(query, attended, part)
            return (query, *self.ask(query, index + 1, plan))
        from m2f_ros.kernels import queries

        cross, own = layer.cross_attn, layer.self_attn
        query, projected = queries.project_own(
            attended, query, cross.out_proj, layer.norm1, own.in_proj.weight, part.own
        )
        query, summands = queries.feed(projected, query, own.heads, own.out_proj, layer.norm2, layer.fc1, layer.fc2)
        following: tuple[Tensor, Tensor] = (self.class_predictor.weight, self.class_predictor.bias)
        if index + 1 < len(layers):
            following = (layers[index + 1].cross_attn.projections()[0][0], plan.layers[index + 1].cross)
        first, second, _ = self.mask_embed
        norms = layer.norm3, self.norm
        return queries.ask(query, summands, layer.fc2.bias, *norms, first, second, plan.masks, *following)

    def ask(self, query: Tensor, index: int, plan: DecoderPlan) -> tuple[Tensor, Tensor, Tensor]:
        """Return the embeddings (B, Q, C) and offsets (B, Q, 1) of the masks of queries (B, Q, C), and their projection
        (B, Q, C) for the cross-attention of layer `index`, or class logits (B, Q, classes + 1) after the last layer.
        """
        if index < len(plan.layers):
            projected = list(self.layers)[index].ask(query, plan.layers[index])
        else:
            projected = self.class_predictor(self.norm(query))
        return (*self.embed_masks(query, plan.masks), projected)

    def predict(self, query: Tensor, mask_features: Tensor, plan: MaskPlan) -> tuple[Tensor, Tensor]:
        """Predict from (B, Q, C) and (B, C, h, w): class logits (B, Q, classes + 1) and mask logits (B, Q, h, w)."""
        return self.class_predictor(self.norm(query)), self.predict_masks(query, mask_features, plan)

    def predict_masks(self, query: Tensor, mask_features: Tensor, plan: MaskPlan) -> Tensor:
        """Predict mask logits: (B, Q, C) and (B, C, h, w) -> (B, Q, h, w)."""
        embedding, offset = self.embed_masks(query, plan)
        masks = torch.baddbmm(offset, embedding, mask_features.flatten(2))
        return masks.unflatten(2, mask_features.shape[-2:])

    def embed_masks(self, query: Tensor, plan: MaskPlan) -> tuple[Tensor, Tensor]:
        """Embed the masks: (B, Q, C) -> (B, Q, C), whose products with features plus offsets (B, Q, 1) are logits."""
        first, second, _ = self.mask_embed
        x = second(first(self.norm(query)))
        return linear(x, plan.weight, plan.bias), linear(x, plan.offset_weight, plan.offset_bias)


def _key_term(tables: bool, shape: tuple[int, int], embed: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """Return `Memory.key_term`, in two parts if `tables`."""
    if not tables:
        return (F.linear(sine_position(*shape, embed) + embed, weight, bias),)
    rows, columns = sine_tables(*shape, embed)
    weight, bias = weight.to(rows.dtype), bias.to(rows.dtype)
    rows, columns = F.linear(rows + embed, weight, bias), F.linear(columns, weight)
    return rows.to(embed.dtype), columns.to(embed.dtype)


def middles(maps: Tensor, factor: int) -> Tensor:
    """Downsample bilinearly, by the mean of the central four pixels: (B, C, h, w) -> (B, C, h / factor, w / factor)."""
    first = factor // 2 - 1
    return F.avg_pool2d(maps[:, :, first:, first:], 2, factor)


def attention_mask(mask_logits: Tensor) -> Tensor:
    """Return True where a query attends, in its mask or, if empty, everywhere: (B, Q, h, w) -> (B, 1, Q, h * w)."""
    visible = mask_logits.detach().flatten(2) >= 0  # sigmoid(x) >= 0.5
    return (visible | ~visible.any(-1, keepdim=True))[:, None]


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention and feed-forward net, each with a norm after it."""

    def __init__(self, dim: int, heads: int, ffn: int):
        super().__init__()
        self.cross_attn, self.norm1 = Attention(dim, heads), nn.LayerNorm(dim)
        self.self_attn, self.norm2 = Attention(dim, heads), nn.LayerNorm(dim)
        self.fc1, self.fc2, self.norm3 = Linear(dim, ffn, activation="relu"), Linear(ffn, dim), nn.LayerNorm(dim)

    def plan(self, position: Tensor) -> LayerPlan:
        """Make the plan for queries with `position` (Q, C), which is added for queries and keys, not for values."""
        query, key, (_, value_bias) = self.self_attn.projections()
        own = [F.linear(position, *query), F.linear(position, *key), value_bias.expand(position.shape[0], -1)]
        return LayerPlan(F.linear(position, *self.cross_attn.projections()[0]), torch.cat(own, 1))

    def forward(self, query: Tensor, key: Tensor, value: Tensor, visible: Tensor, plan: LayerPlan) -> Tensor:
        """Map query (B, Q, C), projected key and value (B, S, C) and visible (B, 1, Q, S) bool to (B, Q, C)."""
        return self.answer(query, self.cross_attn(self.ask(query, plan), key, value, visible), plan)

    def ask(self, query: Tensor, plan: LayerPlan) -> Tensor:
        """Project the queries of the cross-attention: (B, Q, C) -> (B, Q, C)."""
        weight, _ = self.cross_attn.projections()[0]
        return linear_plus(query, weight, plan.cross)

    def answer(self, query: Tensor, attended: Tensor, plan: LayerPlan) -> Tensor:
        """Map queries (B, Q, C) and what their cross-attention gave (B, Q, C) to the layer's result (B, Q, C)."""
        query = self.norm1(query + self.cross_attn.out_proj(attended))
        own = linear_plus(query, self.self_attn.in_proj.weight, plan.own)
        query = self.norm2(query + self.self_attn.out_proj(self.self_attn(*own.chunk(3, -1))))
        return self.norm3(query + self.fc2(self.fc1(query)))


class Attention(nn.Module):
    """Multi-head attention with query, key and value projections in one matrix (3C, C)."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj = Linear(dim, 3 * dim)
        self.out_proj = Linear(dim, dim)

    def projections(self) -> list[tuple[Tensor, Tensor]]:
        """Return weight (C, C) and bias (C,) of the query, key and value projections."""
        return list(zip(self.in_proj.weight.chunk(3), self.in_proj.bias.chunk(3), strict=True))

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend with projected query (B, Q, C), key and value (B, S, C), and a mask that broadcasts to
        (B, heads, Q, S); the result, (B, Q, C), is not projected.
        """
        query, key, value = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (query, key, value))
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return out.transpose(1, 2).flatten(2)
