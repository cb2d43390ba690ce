"""Multi-scale deformable attention. (Zhu et al. 2021, Deformable DETR, https://arxiv.org/abs/2010.04159)"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from m2f_ros.model.onednn import Linear

POINTS = 4


class Geometry(NamedTuple):
    """Where the levels lie; made once for a size by `geometry`.

    Attributes:
        shapes: (height, width) of each level; the maps are flattened row by row, one after the other.
        centre: (S, levels, 2) float32 or more: x and y of each token in each level, in the level's pixels; 0 is the
            centre of the first.
        limit: (levels, 2): largest x and y that is told apart; all beyond lies outside the map.
        start: (levels, 1) int32: first row of each level in the table of `sample`.
        stride: (levels, 1) int32: rows of the table from a pixel to the one below.
        heads: (heads, 1, 1) int32: 0, 1, 2, …
    """

    shapes: tuple[tuple[int, int], ...]
    centre: Tensor
    limit: Tensor
    start: Tensor
    stride: Tensor
    heads: Tensor


def geometry(shapes: Sequence[tuple[int, int]], heads: int, like: Tensor) -> Geometry:
    """The Geometry of levels of these shapes, on the device of `like`."""
    exact, device = torch.promote_types(like.dtype, torch.float32), like.device

    def per_level(values: Iterable[int], dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.tensor(list(values), device=device, dtype=dtype)[:, None]

    size = torch.tensor([(w, h) for h, w in shapes], device=device, dtype=exact)
    centre = torch.cat([pixel_centres(h, w, size) for h, w in shapes])[:, None] * size - 0.5
    rows = [(h + 3) * (w + 3) for h, w in shapes]
    start = per_level(sum(rows[:level]) for level in range(len(rows)))
    index = torch.arange(heads, device=device, dtype=torch.int32).view(-1, 1, 1)
    return Geometry(tuple(shapes), centre, size, start, per_level(w + 3 for _, w in shapes), index)


def pixel_centres(height: int, width: int, like: Tensor) -> Tensor:
    """(height * width, 2): x and y of each pixel's centre, in 0..1; dtype and device of `like`."""
    y = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5) / height
    x = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5) / width
    return torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1).reshape(-1, 2)


class DeformableAttention(nn.Module):
    """Each token gathers POINTS bilinear samples a head and level, where and how much it says itself."""

    def __init__(self, dim: int, heads: int, levels: int):
        super().__init__()
        self.heads, self.levels = heads, levels
        self.sampling_offsets = Linear(dim, heads * levels * POINTS * 2)
        self.attention_weights = Linear(dim, heads * levels * POINTS)
        self.value_proj = Linear(dim, dim)
        self.output_proj = Linear(dim, dim)

    def forward(self, x: Tensor, position: Tensor, geometry: Geometry) -> Tensor:
        """Attend from every token to every level.

        Args:
            x: (B, S, C), the levels' maps flattened.
            position: (S, C), added to x for offsets and weights, not for values.
        Returns:
            (B, S, C)
        """
        batch, tokens, dim = x.shape
        query = x + position
        shape = (batch, tokens, self.heads, self.levels, POINTS)
        weights = self.attention_weights(query).view(*shape[:3], -1).softmax(-1).view(shape)
        # Coordinates are fp32 at least: half precision puts samples up to 1.5 feature pixels off (bf16).
        offsets = self.sampling_offsets(query).view(*shape, 2).to(geometry.centre.dtype)
        points = offsets + geometry.centre[:, None, :, None]
        value = self.value_proj(x).view(batch, tokens, self.heads, dim // self.heads)
        return self.output_proj(sample(value, geometry, points, weights))


def sample(value: Tensor, geometry: Geometry, points: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of bilinear samples, zero outside the maps.

    The four neighbours of every point are rows of one table, so that the whole sum is one `embedding_bag`: on a CPU
    far quicker than a `grid_sample` a level, with the same result and gradients. The maps get a border of zeros,
    so that no neighbour needs a check.

    Args:
        value: (B, S, heads, C), the maps flattened.
        points: (B, Q, heads, levels, POINTS, 2) float32 or more, x and y in pixels of the level; 0 is the centre of
            the first.
        weights: (B, Q, heads, levels, POINTS).
    Returns:
        (B, Q, heads * C)
    """
    batch, _, heads, dim = value.shape
    shapes = geometry.shapes
    maps = value.flatten(2).split([h * w for h, w in shapes], 1)
    # One row and column of zeros before the map, two after it: a point on the far border has a neighbour too.
    maps = [
        F.pad(x.unflatten(1, shape), (0, 0, 1, 2, 1, 2)).flatten(1, 2) for x, shape in zip(maps, shapes, strict=True)
    ]
    table = torch.cat(maps, 1)

    x = torch.minimum(points[..., 0].clamp(min=-1), geometry.limit[:, :1])
    y = torch.minimum(points[..., 1].clamp(min=-1), geometry.limit[:, 1:])
    left, top = x.floor(), y.floor()
    right_part, bottom_part = x - left, y - top
    stride = geometry.stride
    first = geometry.start + (top.int() + 1) * stride + left.int() + 1  # (B, Q, heads, levels, POINTS)
    first += torch.arange(batch, device=value.device, dtype=torch.int32).view(-1, 1, 1, 1, 1) * table.shape[1]
    first = first * heads + geometry.heads
    below = stride * heads
    rows = torch.stack([first, first + heads, first + below, first + (below + heads)], -1)
    top_weight, bottom_weight = weights * (1 - bottom_part), weights * bottom_part
    factors = torch.stack(
        [
            top_weight * (1 - right_part),
            top_weight * right_part,
            bottom_weight * (1 - right_part),
            bottom_weight * right_part,
        ],
        -1,
    )
    factors = factors.to(value.dtype)
    out = weighted_sum(rows.flatten(3).flatten(0, 2), table.view(-1, dim), factors.flatten(3).flatten(0, 2))
    return out.view(batch, -1, heads * dim)


def weighted_sum(rows: Tensor, table: Tensor, factors: Tensor) -> Tensor:
    """Sum over k of factors[:, k] * table[rows[:, k]]: (N, K) int32, (R, C), (N, K) -> (N, C)."""
    if torch.is_grad_enabled() and (table.requires_grad or factors.requires_grad):
        return _WeightedSum.apply(rows, table, factors)
    return F.embedding_bag(rows, table, mode="sum", per_sample_weights=factors)


class _WeightedSum(torch.autograd.Function):
    """`embedding_bag` whose backward is one again, over the sorted rows: on a CPU much quicker than torch's."""

    @staticmethod
    def forward(ctx, rows: Tensor, table: Tensor, factors: Tensor) -> Tensor:
        ctx.save_for_backward(rows, table, factors)
        return F.embedding_bag(rows, table, mode="sum", per_sample_weights=factors)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[None, Tensor, Tensor]:
        rows, table, factors = ctx.saved_tensors
        gradient = gradient.contiguous()
        order = rows.flatten().argsort()
        ends = rows.flatten().bincount(minlength=len(table)).cumsum(0)
        starts = torch.cat([ends.new_zeros(1), ends[:-1]])
        of_table = F.embedding_bag(
            order // rows.shape[1], gradient, starts, mode="sum", per_sample_weights=factors.flatten()[order]
        )
        with torch.enable_grad():
            factors = factors.detach().requires_grad_()
            out = F.embedding_bag(rows, table, mode="sum", per_sample_weights=factors)
        (of_factors,) = torch.autograd.grad(out, factors, gradient)
        return None, of_table, of_factors
