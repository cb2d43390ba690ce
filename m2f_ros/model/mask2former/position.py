"""Sine embedding of a pixel's row and column. (Carion et al. 2020, DETR, https://arxiv.org/abs/2005.12872)"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sine_tables(height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sine embedding as a table of rows (height, C) and one of columns (width, C), in float32 or more.

    The embedding of pixel (y, x) is rows[y] + columns[x]. The first half of the channels is zero in `columns`, the
    second in `rows`. A linear map of the embedding is therefore a sum of two small tables, too. C and device are those
    of `like`.
    """
    dim, device = like.shape[-1], like.device
    exact = torch.promote_types(like.dtype, torch.float32)
    channel = torch.arange(dim // 2, device=device)
    period = 10000 ** (2 * (channel // 2).to(exact) / (dim // 2))

    def embed(length: int) -> Tensor:
        """Embed 1..length, normalised to 0..2 pi."""
        value = torch.arange(1, length + 1, device=device, dtype=exact) / (length + 1e-6) * 2 * math.pi
        angle = value[:, None] / period
        return torch.where(channel % 2 == 0, angle.sin(), angle.cos())

    rows, columns = embed(height), embed(width)
    return torch.cat([rows, torch.zeros_like(rows)], 1), torch.cat([torch.zeros_like(columns), columns], 1)


def sine_position(height: int, width: int, like: Tensor) -> Tensor:
    """Return the (height * width, C) sine embedding of each pixel, with C, dtype and device of `like`."""
    rows, columns = sine_tables(height, width, like)
    return (rows[:, None] + columns).flatten(0, 1).to(like.dtype)
