"""Multi-scale deformable attention. (Zhu et al. 2021, Deformable DETR, https://arxiv.org/abs/2010.04159)"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

POINTS = 4


class DeformableAttention(nn.Module):
    """Each token gathers POINTS bilinear samples a head and level, where and how much it says itself."""

    def __init__(self, dim: int, heads: int, levels: int):
        super().__init__()
        self.heads, self.levels = heads, levels
        self.sampling_offsets = nn.Linear(dim, heads * levels * POINTS * 2)
        self.attention_weights = nn.Linear(dim, heads * levels * POINTS)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, position: Tensor, reference: Tensor, shapes: list[tuple[int, int]]) -> Tensor:
        """Attend from every token to every level.

        Args:
            x: (B, S, C), the levels' maps flattened row by row, one after the other.
            position: (S, C), added to x for offsets and weights, not for values.
            reference: (S, 2) float32 or more, x and y of each token in its map, in 0..1.
            shapes: (height, width) of each level; their areas sum up to S.
        Returns:
            (B, S, C)
        """
        batch, tokens, dim = x.shape
        query = x + position
        shape = (batch, tokens, self.heads, self.levels, POINTS)
        weights = self.attention_weights(query).view(*shape[:3], -1).softmax(-1).view(shape)
        # Coordinates are fp32 at least: half precision puts samples up to 1.5 feature pixels off (bf16).
        offsets = self.sampling_offsets(query).view(*shape, 2).to(reference.dtype)
        size = torch.tensor([(w, h) for h, w in shapes], device=x.device, dtype=reference.dtype)
        centre = reference[:, None] * size - 0.5  # (S, levels, 2)
        points = offsets + centre[:, None, :, None]
        value = self.value_proj(x).view(batch, tokens, self.heads, dim // self.heads)
        return self.output_proj(sample(value, shapes, points, weights))


def sample(value: Tensor, shapes: list[tuple[int, int]], points: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of bilinear samples, zero outside the maps.

    The four neighbours of every point are rows of one table, so that the whole sum is one `embedding_bag`: on a CPU
    far quicker than a `grid_sample` a level, with the same result and gradients. The maps get a border of zeros,
    so that no neighbour needs a check.

    Args:
        value: (B, S, heads, C), the maps flattened.
        shapes: (height, width) of each level.
        points: (B, Q, heads, levels, POINTS, 2) float32 or more, x and y in pixels of the level; 0 is the centre of
            the first.
        weights: (B, Q, heads, levels, POINTS).
    Returns:
        (B, Q, heads * C)
    """
    batch, _, heads, dim = value.shape
    maps = value.flatten(2).split([h * w for h, w in shapes], 1)
    # One row and column of zeros before the map, two after it: a point on the far border has a neighbour too.
    maps = [
        F.pad(x.unflatten(1, shape), (0, 0, 1, 2, 1, 2)).flatten(1, 2) for x, shape in zip(maps, shapes, strict=True)
    ]
    table = torch.cat(maps, 1)

    def per_level(values: list[int]) -> Tensor:
        return torch.tensor(values, device=value.device, dtype=torch.int32)[:, None]

    starts = [0]
    for x in maps[:-1]:
        starts.append(starts[-1] + x.shape[1])
    height, width = (per_level(list(sizes)) for sizes in zip(*shapes, strict=True))
    x = torch.minimum(points[..., 0].clamp(min=-1), width)
    y = torch.minimum(points[..., 1].clamp(min=-1), height)
    left, top = x.floor(), y.floor()
    right_part, bottom_part = x - left, y - top
    stride = width + 3
    first = per_level(starts) + (top.int() + 1) * stride + left.int() + 1  # (B, Q, heads, levels, POINTS)
    first += torch.arange(batch, device=value.device, dtype=torch.int32).view(-1, 1, 1, 1, 1) * table.shape[1]
    first = first * heads + torch.arange(heads, device=value.device, dtype=torch.int32).view(-1, 1, 1)
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
