"""Norms, fused with the operations around them on a GPU."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from m2f_ros import kernels


def add_norm(x: Tensor, y: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Return x + y and norm(x + y), for (..., C) each. y must require gradients if anything here does."""
    if kernels.use("residual_norm", y):
        from m2f_ros.kernels import residual_norm

        return residual_norm.add_norm(x, y, norm.weight, norm.bias, norm.eps)
    x = x + y
    return x, norm(x)


def norm_of_sum(x: Tensor, y: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Return norm(x + y), for (..., C) each. y must require gradients if anything here does."""
    if kernels.use("residual_norm", y):
        from m2f_ros.kernels import residual_norm

        return residual_norm.norm_of_sum(x, y, norm.weight, norm.bias, norm.eps)
    return norm(x + y)


class GroupNorm(nn.GroupNorm):
    """torch's group norm, also where a group has a single number, which becomes the bias: torch refuses it."""

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        return torch.group_norm(maps, self.num_groups, self.weight, self.bias, self.eps, torch.backends.cudnn.enabled)


def normalise(maps: Tensor, norm: GroupNorm, coarse: Tensor | None = None, relu: bool = False) -> Tensor:
    """Normalise maps, and add a coarse map or apply ReLU. `maps` must require gradients if anything here does.

    Args:
        maps: (B, C, H, W); fastest if channels_last.
        coarse: (B, C, h, w), added after bilinear interpolation to (H, W).
    Returns:
        (B, C, H, W)
    """
    if kernels.use("group_norm", maps):
        from m2f_ros.kernels import group_norm as kernel

        below = None if coarse is None else coarse.permute(0, 2, 3, 1)
        tokens = kernel.group_norm(maps.permute(0, 2, 3, 1), *_of(norm), coarse=below, relu=relu)
        return tokens.mT.unflatten(2, maps.shape[2:])
    maps = norm(maps)
    if coarse is not None:
        maps = maps + F.interpolate(coarse, maps.shape[-2:], mode="bilinear", align_corners=False)
    return F.relu(maps) if relu else maps


def normalised_tokens(maps: Sequence[Tensor], norms: Iterable[GroupNorm]) -> Tensor:
    """Normalise maps (B, C, h, w) of several sizes, and join their pixels, row by row: (B, sum of h * w, C)."""
    if kernels.use("group_norm", maps[0]):
        from m2f_ros.kernels import group_norm as kernel

        sizes = [x.shape[2] * x.shape[3] for x in maps]
        tokens = maps[0].new_empty(len(maps[0]), sum(sizes), maps[0].shape[1])
        for i, (x, norm) in enumerate(zip(maps, norms, strict=True)):
            kernel.group_norm(x.permute(0, 2, 3, 1), *_of(norm), out=tokens, start=sum(sizes[:i]))
        return tokens
    return torch.cat([norm(x).flatten(2).transpose(1, 2) for x, norm in zip(maps, norms, strict=True)], 1)


def _of(norm: GroupNorm) -> tuple[int, Tensor, Tensor, float]:
    return norm.num_groups, norm.weight, norm.bias, norm.eps
