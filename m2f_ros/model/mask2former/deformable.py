"""Multi-scale deformable attention. (Zhu et al. 2021, Deformable DETR, https://arxiv.org/abs/2010.04159)"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from m2f_ros import kernels
from m2f_ros.model.layers import Linear, linear, linear_plus

POINTS = 4


class Geometry(NamedTuple):
    """Layout of the levels for one size; see `geometry`. A token has F = heads * levels * POINTS points.

    Attributes:
        shapes: (height, width) of each level; the maps are flattened row by row and concatenated.
        centre: (S, 2F) float32 or more, position of the token in each point's level, in pixels, x of all points, then
            y; 0 is the centre of the first pixel. (0, 2F) where tables hold it; see `TablePlan`.
        low: (2F,) lower clamp of the points, outside the map.
        high: (2F,) upper clamp of the points, outside the map.
        stride: (F,) float32 or more, pixels in a row of each point's level with its border.
        start: (F,) int32, row of pixel (0, 0) of each point's level and head in the table of `sample`.
        below: (heads, levels * POINTS) int32, rows of the table between a pixel and the one below it.
    """

    shapes: tuple[tuple[int, int], ...]
    centre: Tensor
    low: Tensor
    high: Tensor
    stride: Tensor
    start: Tensor
    below: Tensor


def geometry(shapes: Sequence[tuple[int, int]], heads: int, like: Tensor, tables: bool = False) -> Geometry:
    """Make the Geometry of levels of these shapes, on the device of `like`; without `centre` for plans of tables."""
    device, exact = like.device, torch.promote_types(like.dtype, torch.float32)

    def per_point(values: Iterable[int]) -> Tensor:
        """Repeat one value a level for each point: (F,)."""
        levels = torch.tensor(list(values), device=device, dtype=exact)
        return levels.repeat_interleave(POINTS).repeat(heads)

    size = torch.cat([per_point(w for _, w in shapes), per_point(h for h, _ in shapes)])
    places = [size.new_empty(0, 2)] if tables else [pixel_centres(h, w, size) for h, w in shapes]
    place = torch.cat(places).repeat_interleave(len(size) // 2, 1)
    stride = per_point(w + 3 for _, w in shapes)
    rows = [(h + 3) * (w + 3) for h, w in shapes]
    # Pixel (0, 0) comes after one row and one column of the border.
    first = per_point(sum(rows[:level]) + w + 3 + 1 for level, (_, w) in enumerate(shapes))
    head = torch.arange(heads, device=device).repeat_interleave(len(shapes) * POINTS)
    start = (first.long() * heads + head).int()
    below = (stride * heads).int().view(heads, -1)
    return Geometry(tuple(shapes), place * size - 0.5, torch.full_like(size, -1), size, stride, start, below)


def pixel_centres(height: int, width: int, like: Tensor) -> Tensor:
    """Return (height * width, 2) x and y of each pixel's centre, in 0..1, with dtype and device of `like`."""
    y = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5) / height
    x = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5) / width
    return torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1).reshape(-1, 2)


class AttentionPlan(NamedTuple):
    """The four projections of a layer fused into one, with the columns of `attend`, on a CPU.

    Attributes:
        weight: (3F + C, C) weight.
        term: (S, 3F + C) bias, plus the projected position for offsets and attention logits.
    """

    weight: Tensor
    term: Tensor


class TablePlan(NamedTuple):
    """The same on a GPU, where the term of all tokens takes time to read and 47 MB a layer of Swin-L at 1024x2048.

    The projected position of a token is the sum of a part of its row and a part of its column. The tables are float32
    or more: they are small, and a position in pixels needs it.

    Attributes:
        weight: (3F + C, C) weight.
        bias: (3F + C,) bias.
        rows: (sum of the levels' heights, 3F), each row's part of offsets and attention logits, and the row's own
            position in pixels of each point's level, which is added to the y offsets.
        columns: (sum of the levels' widths, 3F), the same for columns and x offsets.
    """

    weight: Tensor
    bias: Tensor
    rows: Tensor
    columns: Tensor


class DeformableAttention(nn.Module):
    """Each token sums POINTS bilinear samples per head and level, at predicted offsets with predicted weights."""

    def __init__(self, dim: int, heads: int, levels: int):
        super().__init__()
        self.heads, self.levels = heads, levels
        self.sampling_offsets = Linear(dim, heads * levels * POINTS * 2)
        self.attention_weights = Linear(dim, heads * levels * POINTS)
        self.value_proj = Linear(dim, dim)
        self.output_proj = Linear(dim, dim)

    def plan(self, position: Tensor) -> AttentionPlan:
        """Make the plan for tokens with `position` (S, C), which is added for offsets and weights, not for values."""
        weight, bias = self._projections()
        points, channels = 3 * self.attention_weights.out_features, len(position[0])
        of_position = F.linear(position, weight[:points], bias[:points])
        return AttentionPlan(weight, torch.cat([of_position, bias[-channels:].expand(position.shape[0], -1)], 1))

    def plan_tables(self, rows: Tensor, columns: Tensor, shapes: Sequence[tuple[int, int]]) -> TablePlan:
        """Make the plan for tokens whose position is the sum of one of `rows` (sum of heights, C) and one of `columns`
        (sum of widths, C), in maps of these (height, width).
        """
        weight, bias = self._projections()
        points = self.attention_weights.out_features
        of_position = weight[: 3 * points].to(rows.dtype)

        def centres(lengths: Sequence[int]) -> Tensor:
            """Return the places of all levels' rows, or columns, in pixels of each point's level: (sum, F)."""
            size = rows.new_tensor(lengths).repeat_interleave(POINTS).repeat(self.heads)
            place = torch.cat([(torch.arange(x).to(size) + 0.5)[:, None] * size / x for x in lengths])
            return place - 0.5

        y, x = (centres(lengths) for lengths in zip(*shapes, strict=True))
        return TablePlan(
            weight,
            bias,
            F.linear(rows, of_position) + F.pad(y, (points, points)),
            F.linear(columns, of_position) + F.pad(x, (0, 2 * points)),
        )

    def _projections(self) -> tuple[Tensor, Tensor]:
        """Return weight (3F + C, C) and bias (3F + C,) of all projections, with the columns of `attend`."""
        offsets, weights, values = self.sampling_offsets, self.attention_weights, self.value_proj
        weight, bias = (
            torch.cat([of_offsets[0::2], of_offsets[1::2], *others])  # all x, then all y
            for of_offsets, *others in (
                (offsets.weight, weights.weight, values.weight),
                (offsets.bias, weights.bias, values.bias),
            )
        )
        return weight, bias

    def forward(self, x: Tensor, plan: AttentionPlan | TablePlan, geometry: Geometry) -> Tensor:
        """Attend from every token to every level: (B, S, C) tokens of the flattened levels -> (B, S, C)."""
        if isinstance(plan, TablePlan):
            projected = linear(x, plan.weight, plan.bias)
            return self.output_proj(attend(projected, plan.rows, plan.columns, self.heads, geometry))
        # On a CPU three products are faster than splitting the result of one.
        sizes = _sizes(len(plan.weight), geometry)
        products = zip(plan.weight.split(sizes), plan.term.split(sizes, 1), strict=True)
        offsets, logits, values = (linear_plus(x, *product) for product in products)
        # Coordinates are at least float32: with bfloat16 samples are up to 1.5 feature pixels off.
        return self.output_proj(_attend(offsets + geometry.centre, logits, values, self.heads, geometry))


def _sizes(projected: int, geometry: Geometry) -> list[int]:
    """Return the number of columns of the offsets, the attention logits and the values."""
    points = len(geometry.stride)
    return [2 * points, points, projected - 3 * points]


def attend(projected: Tensor, rows: Tensor, columns: Tensor, heads: int, geometry: Geometry) -> Tensor:
    """Attend from every token to every level.

    Args:
        projected: (B, S, 3F + C), for each token the x offsets (heads, levels, POINTS), the y offsets, the attention
            logits, and the values (heads, C / heads). Offsets are in pixels of the level.
        rows, columns: what to add to the first 3F columns; see `TablePlan`.
    Returns:
        (B, S, C)
    """
    if kernels.use("deformable_attention", projected, (projected.shape[-1] - rows.shape[-1]) // heads):
        from m2f_ros.kernels import deformable

        return deformable.attend(projected, rows, columns, heads, list(geometry.shapes))
    heights, widths = zip(*geometry.shapes, strict=True)
    levels = zip(rows.split(heights), columns.split(widths), strict=True)
    term = torch.cat([(of_rows[:, None] + of_columns).flatten(0, 1) for of_rows, of_columns in levels])
    sizes = _sizes(projected.shape[-1], geometry)
    (offsets, logits, values), (place, of_logits) = projected.split(sizes, -1), term.split(sizes[:2], 1)
    return _attend(offsets + place, logits + of_logits, values, heads, geometry)


def _attend(points: Tensor, logits: Tensor, values: Tensor, heads: int, geometry: Geometry) -> Tensor:
    # Softmax by hand: torch's takes several times as long for so few numbers on a CPU.
    logits = logits.unflatten(-1, (heads, -1))
    weights = (logits - logits.detach().amax(-1, keepdim=True)).exp()
    weights = weights / weights.sum(-1, keepdim=True)
    return sample(values, geometry, points, weights)


def sample(values: Tensor, geometry: Geometry, points: Tensor, weights: Tensor) -> Tensor:
    """Compute the weighted sum of bilinear samples, zero outside the maps.

    The four neighbours of every point are rows of one table, so that the whole sum is one `embedding_bag`: on a CPU
    far faster than a `grid_sample` per level, with the same result and gradients. The maps get a border of zeros, so
    that no neighbour needs a bounds check. All operands have all points in their last axis: on a CPU broadcasting over
    a short last axis takes several times as long.

    Args:
        values: (B, S, heads * C), the maps flattened.
        points: (B, Q, 2F) float32 or more, x of the (heads, levels, POINTS) points, then y, in pixels of the level; 0
            is the centre of the first pixel.
        weights: (B, Q, heads, levels * POINTS).
    Returns:
        (B, Q, heads * C)
    """
    batch, heads = values.shape[0], weights.shape[2]
    maps = values.split([h * w for h, w in geometry.shapes], 1)
    # One row and column of zeros before the map, two after it, for the neighbours of points on the far border.
    maps = [
        F.pad(x.unflatten(1, shape), (0, 0, 1, 2, 1, 2)).flatten(1, 2)
        for x, shape in zip(maps, geometry.shapes, strict=True)
    ]
    table = torch.cat(maps, 1)

    points = points.clamp(geometry.low, geometry.high)
    corner = points.detach().floor()
    parts = points - corner
    left, top = corner.chunk(2, -1)
    first = (top * geometry.stride + left).int() * heads + geometry.start
    if batch > 1:
        image = torch.arange(batch, device=values.device, dtype=torch.int32)
        first = first + (image * (table.shape[1] * heads)).view(-1, 1, 1)
    first = first.view(weights.shape)
    below = first + geometry.below
    rows = torch.stack([first, first + heads, below, below + heads], -2)

    right_part, bottom_part = (part.unflatten(-1, weights.shape[2:]) for part in parts.chunk(2, -1))
    bottom = weights * bottom_part
    top = weights - bottom
    bottom_right, top_right = bottom * right_part, top * right_part
    factors = torch.stack([top - top_right, top_right, bottom - bottom_right, bottom_right], -2).to(values.dtype)
    rows, factors = (x.view(-1, 4 * weights.shape[-1]) for x in (rows, factors))
    return weighted_sum(rows, table.view(-1, values.shape[-1] // heads), factors).view(batch, -1, values.shape[-1])


def weighted_sum(rows: Tensor, table: Tensor, factors: Tensor) -> Tensor:
    """Sum factors[:, k] * table[rows[:, k]] over k: (N, K) int32, (R, C), (N, K) -> (N, C)."""
    if torch.is_grad_enabled() and (table.requires_grad or factors.requires_grad):
        return _WeightedSum.apply(rows, table, factors)
    return F.embedding_bag(rows, table, mode="sum", per_sample_weights=factors)


class _WeightedSum(torch.autograd.Function):
    """`embedding_bag` with a backward by `embedding_bag` over the sorted rows, on a CPU much faster than torch's."""

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
        # torch has no such gradient in bfloat16 on CUDA.
        exact = torch.float32 if table.is_cuda and table.dtype == torch.bfloat16 else table.dtype
        with torch.enable_grad():
            wanted = factors.detach().to(exact).requires_grad_()
            out = F.embedding_bag(rows, table.to(exact), mode="sum", per_sample_weights=wanted)
        (of_factors,) = torch.autograd.grad(out, wanted, gradient.to(exact))
        return None, of_table, of_factors.to(factors.dtype)
