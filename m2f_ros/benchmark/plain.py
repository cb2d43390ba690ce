"""The exact rewrites undone, one at a time and for a while: what each of them gains, and an oracle for each.

Each function here is a context manager that takes a network in eval mode and gives it the plain form meanwhile. Plans
made inside hold inside only. The results are the same but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from m2f_ros.model import Mask2Former, onednn
from m2f_ros.model.heads import boundaries
from m2f_ros.model.heads.semantic import _labels as labels_of_every_pixel
from m2f_ros.model.mask2former import deformable
from m2f_ros.model.mask2former.decoder import (
    FACTORS,
    DecoderPlan,
    MaskedAttentionDecoder,
    MaskPlan,
    attention_mask,
    middles,
)
from m2f_ros.model.mask2former.deformable import AttentionPlan, DeformableAttention, Geometry
from m2f_ros.model.mask2former.pixel_decoder import LEVELS, sine_position
from m2f_ros.model.mask2former.swin import BlockPlan, WindowAttention, Windows


@contextmanager
def _replaced(owner: object, **members: object) -> Iterator[None]:
    """Members of a module or an object meanwhile, in place of its own or its class'."""
    before = {name: vars(owner)[name] for name in members if name in vars(owner)}
    for name, member in members.items():
        setattr(owner, name, member)
    try:
        yield
    finally:
        for name in members:
            if name in before:
                setattr(owner, name, before[name])
            else:
                delattr(owner, name)


@contextmanager
def _each(model: Mask2Former, kind: type, plain: Callable) -> Iterator[None]:
    """`_replaced` with what `plain` gives for each module of a kind."""
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, kind):
                stack.enter_context(_replaced(module, **plain(module)))
        yield


@contextmanager
def plan_each_time(model: Mask2Former) -> Iterator[None]:
    """All that depends on the size alone is made anew for each batch. It cannot be captured in a CUDA graph."""
    with _replaced(model, forward=lambda pixels, plan=None: Mask2Former.forward(model, pixels)):
        yield


@contextmanager
def biases_each_time(model: Mask2Former) -> Iterator[None]:
    """Relative position biases are gathered, and masks of shifts added, in every block for each batch, as upstream."""

    def plain(attention: WindowAttention) -> dict[str, Callable]:
        own = attention.forward

        def forward(x: Tensor, windows: Windows) -> Tensor:
            return own(x, WindowAttention.plan(attention, windows))

        return {"plan": lambda windows: windows, "forward": forward}

    with _each(model, WindowAttention, plain):
        yield


@contextmanager
def rolled_windows(model: Mask2Former) -> Iterator[None]:
    """Maps are padded, rolled and cut into windows before the projections, and back after them, as upstream.

    The kernel, which has no such form, is not taken.
    """

    def plain(attention: WindowAttention) -> dict[str, Callable]:
        win, shift, heads = attention.window, attention.shift, attention.heads

        def forward(x: Tensor, plan: BlockPlan) -> Tensor:
            batch, height, width, dim = x.shape
            x = F.pad(x, (0, 0, 0, -width % win, 0, -height % win))
            rows, columns = x.shape[1] // win, x.shape[2] // win
            if shift:
                x = x.roll((-shift, -shift), dims=(1, 2))
            x = x.view(batch, rows, win, columns, win, dim).transpose(2, 3).reshape(-1, win * win, dim)
            query, key, value = attention.qkv(x).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
            bias = plan.bias.index_select(0, plan.windows.kind.repeat(batch))
            x = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
            x = attention.proj(x.transpose(1, 2).flatten(2))
            x = x.view(batch, rows, columns, win, win, dim).transpose(2, 3).reshape(batch, rows * win, -1, dim)
            if shift:
                x = x.roll((shift, shift), dims=(1, 2))
            return x[:, :height, :width]

        return {"forward": forward}

    with _each(model, WindowAttention, plain):
        yield


@contextmanager
def query_key_value_apart(model: Mask2Former) -> Iterator[None]:
    """Three products give query, key and value of the window attention, in place of one."""

    def plain(attention: WindowAttention) -> dict[str, Callable]:
        weights, biases = attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3)
        return {"forward": lambda x: torch.cat([onednn.linear(x, *p) for p in zip(weights, biases, strict=True)], -1)}

    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, WindowAttention):
                stack.enter_context(_replaced(module.qkv, **plain(module)))
        yield


@contextmanager
def deformable_projections_apart(model: Mask2Former) -> Iterator[None]:
    """Offsets, weights and values are products of their own, and the position is added to the tokens of each layer."""

    def plain(attention: DeformableAttention) -> dict[str, Callable]:
        def plan(position: Tensor) -> AttentionPlan:
            return AttentionPlan(attention.value_proj.weight, position)

        def forward(x: Tensor, plan: AttentionPlan, geometry: Geometry) -> Tensor:
            placed = x + plan.term
            offsets = attention.sampling_offsets(placed)
            parts = offsets[..., 0::2], offsets[..., 1::2], attention.attention_weights(placed), attention.value_proj(x)
            return attention.output_proj(deformable.attend(torch.cat(parts, -1), attention.heads, geometry))

        return {"plan": plan, "forward": forward}

    with _each(model, DeformableAttention, plain):
        yield


@contextmanager
def grid_samples(model: Mask2Former) -> Iterator[None]:
    """One `grid_sample` for each level of each layer, as in HF's code, but in float32 at least, as the points need it.

    Where the kernel is taken it makes no change.
    """

    def sample(values: Tensor, geometry: Geometry, points: Tensor, weights: Tensor) -> Tensor:
        batch, queries, heads, _ = weights.shape
        x, y = points.unflatten(-1, (2, heads, len(geometry.shapes), -1)).unbind(2)
        weights = weights.unflatten(-1, (len(geometry.shapes), -1))
        total = torch.zeros((), dtype=points.dtype, device=values.device)
        for level, (height, width) in enumerate(geometry.shapes):
            first = sum(h * w for h, w in geometry.shapes[:level])
            maps = values[:, first : first + height * width].unflatten(2, (heads, -1))
            maps = maps.permute(0, 2, 3, 1).reshape(batch * heads, -1, height, width)
            # -1 and 1 are the outer edges of the first and the last pixel.
            where = [(2 * p[..., level, :] + 1) / side - 1 for p, side in ((x, width), (y, height))]
            grid = torch.stack(where, -1).transpose(1, 2).flatten(0, 1)
            found = F.grid_sample(maps.to(grid.dtype), grid, align_corners=False)
            factors = weights[..., level, :].transpose(1, 2).reshape(batch * heads, 1, queries, -1)
            total = total + (found * factors).sum(-1)
        return total.view(batch, -1, queries).transpose(1, 2).to(values.dtype)

    with _replaced(deformable, sample=sample):
        yield


@contextmanager
def memory_of_each_layer(model: Mask2Former) -> Iterator[None]:
    """Every layer of the decoder makes its own keys and values, from tokens to which the position is added before."""
    decoder = model.decoder

    def plan(shapes: Sequence[tuple[int, int]]) -> DecoderPlan:
        embeds = decoder.level_embed.weight
        positions = tuple(sine_position(*shape, embed) for shape, embed in zip(shapes, embeds, strict=True))
        return MaskedAttentionDecoder.plan(decoder, shapes)._replace(memory=positions)

    def forward(mask_features: Tensor, levels: list[Tensor], plan: DecoderPlan) -> list[tuple[Tensor, Tensor]]:
        values = [x + e for x, e in zip(levels, decoder.level_embed.weight, strict=True)]
        keys = [x + position for x, position in zip(values, plan.memory, strict=True)]
        small = [middles(mask_features, factor) for factor in FACTORS]
        query = decoder.query_features.weight.expand(len(mask_features), -1, -1)
        for i, (layer, part) in enumerate(zip(decoder.layers, plan.layers, strict=True)):
            level = i % LEVELS
            visible = attention_mask(decoder.predict_masks(query, small[level], plan.masks))
            _, of_key, of_value = layer.cross_attn.projections()
            key, value = onednn.linear(keys[level], *of_key), onednn.linear(values[level], *of_value)
            query = layer(query, key, value, visible, part)
        return [decoder.predict(query, mask_features, plan.masks)]

    with _replaced(decoder, plan=plan, forward=forward):
        yield


@contextmanager
def masks_at_full_size(model: Mask2Former) -> Iterator[None]:
    """Every layer of the decoder predicts masks at a quarter of the image's size, and shrinks them, as upstream."""
    decoder = model.decoder
    own_forward, own_masks = decoder.forward, decoder.predict_masks

    def forward(mask_features: Tensor, *others: object) -> list[tuple[Tensor, Tensor]]:
        def predict_masks(query: Tensor, features: Tensor, plan: MaskPlan) -> Tensor:
            masks = own_masks(query, mask_features, plan)
            if features.shape == mask_features.shape:
                return masks
            return F.interpolate(masks, features.shape[-2:], mode="bilinear", align_corners=False)

        with _replaced(decoder, predict_masks=predict_masks):
            return own_forward(mask_features, *others)

    with _replaced(decoder, forward=forward):
        yield


@contextmanager
def mask_features_projected(model: Mask2Former) -> Iterator[None]:
    """The mask features are projected before queries are multiplied with them, as upstream."""
    decoder = model.decoder
    own_forward = decoder.forward

    def forward(mask_features: Tensor, levels: list[Tensor], plan: DecoderPlan) -> list[tuple[Tensor, Tensor]]:
        last = decoder.mask_embed[-1]
        masks = MaskPlan(last.weight, last.bias, torch.zeros_like(last.weight[:1]), torch.zeros_like(last.bias[:1]))
        return own_forward(decoder.mask_projection(mask_features), levels, plan._replace(masks=masks))

    with _replaced(decoder, forward=forward):
        yield


@contextmanager
def plain_products(model: Mask2Former) -> Iterator[None]:
    """torch's own linear layers and convolutions on a CPU, activations and sums apart, in place of oneDNN's."""
    with _replaced(onednn, _AVAILABLE=False):
        yield


@contextmanager
def scores_of_every_pixel(model: Mask2Former) -> Iterator[None]:
    """On a CPU too the semantic head computes the score of every class at every pixel, as upstream."""
    with _replaced(boundaries, labels=labels_of_every_pixel):
        yield
