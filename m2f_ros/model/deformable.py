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
            reference: (S, 2) float32, x and y of each token in its map, in 0..1.
            shapes: (height, width) of each level; their areas sum up to S.
        Returns:
            (B, S, C)
        """
        batch, tokens, dim = x.shape
        query = x + position
        shape = (batch, tokens, self.heads, self.levels, POINTS)
        weights = self.attention_weights(query).view(*shape[:3], -1).softmax(-1).view(shape)
        # Coordinates stay in fp32: half precision puts samples up to 1.5 feature pixels off (bf16).
        offsets = self.sampling_offsets(query).view(*shape, 2).float()
        size = torch.tensor([(w, h) for h, w in shapes], device=x.device, dtype=torch.float32)
        points = reference[:, None, None, None] * size[:, None] + offsets - 0.5
        value = self.value_proj(x).view(batch, tokens, self.heads, dim // self.heads)
        return self.output_proj(sample(value, shapes, points, weights))


def sample(value: Tensor, shapes: list[tuple[int, int]], points: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of bilinear samples, zero outside the maps.

    The four neighbours of every point are rows of one table, so that the whole sum is one `embedding_bag`: on a CPU
    ten times as fast as a `grid_sample` a level, with the same result and gradients.

    Args:
        value: (B, S, heads, C), the maps flattened.
        shapes: (height, width) of each level.
        points: (B, Q, heads, levels, POINTS, 2) float32, x and y in feature pixels; 0 is the first pixel's centre.
        weights: (B, Q, heads, levels, POINTS).
    Returns:
        (B, Q, heads * C)
    """
    batch, tokens, heads, dim = value.shape
    queries = points.shape[1]
    size = torch.tensor([(w, h) for h, w in shapes], device=points.device)[:, None]
    starts = [0]
    for height, width in shapes[:-1]:
        starts.append(starts[-1] + height * width)
    start = torch.tensor(starts, device=points.device)[:, None]

    floor = points.floor()
    part = points - floor
    floor = floor.long()
    indices, factors = [], []
    for down in (0, 1):
        for right in (0, 1):
            corner = floor + torch.tensor((right, down), device=points.device)
            inside = ((corner >= 0) & (corner < size)).all(-1)
            corner = torch.minimum(corner.clamp(min=0), size - 1)
            horizontal = part[..., 0] if right else 1 - part[..., 0]
            vertical = part[..., 1] if down else 1 - part[..., 1]
            indices.append(start + corner[..., 1] * size[..., 0] + corner[..., 0])
            factors.append(horizontal * vertical * inside)
    index = torch.stack(indices, -1)  # (B, Q, heads, levels, POINTS, 4) tokens
    factor = torch.stack(factors, -1) * weights[..., None]
    image = torch.arange(batch, device=points.device).view(-1, 1, 1, 1, 1, 1)
    head = torch.arange(heads, device=points.device).view(1, 1, -1, 1, 1, 1)
    rows = (image * tokens + index) * heads + head
    bags = batch * queries * heads
    out = F.embedding_bag(
        rows.view(bags, -1),
        value.reshape(-1, dim),
        mode="sum",
        per_sample_weights=factor.to(value.dtype).view(bags, -1),
    )
    return out.view(batch, queries, heads * dim)
