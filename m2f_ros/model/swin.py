"""Swin Transformer backbone. (Liu et al. 2021, https://arxiv.org/abs/2103.14030)

Follows Mask2Former's own version (mask2former/modeling/backbone/swin.py upstream): any input size, feature maps
padded to whole windows, windows shifted in every second block, a layer norm on each stage's output.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from m2f_ros.model.config import SwinConfig
from m2f_ros.model.onednn import Linear


class Swin(nn.Module):
    """Images to feature maps at strides 4, 8, 16 and 32."""

    def __init__(self, config: SwinConfig):
        super().__init__()
        self.channels = tuple(config.embed_dim * 2**i for i in range(len(config.depths)))
        self.patch_embed = nn.Conv2d(3, config.embed_dim, kernel_size=4, stride=4)
        self.patch_norm = nn.LayerNorm(config.embed_dim)
        self.stages = nn.ModuleList()
        for i, (depth, heads) in enumerate(zip(config.depths, config.num_heads, strict=True)):
            last = i == len(config.depths) - 1
            self.stages.append(Stage(self.channels[i], depth, heads, config.window_size, config.mlp_ratio, not last))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for dim in self.channels)

    def plan(self, height: int, width: int) -> tuple[tuple[Tensor, ...], ...]:
        """For images of this size: of each stage, of each block the attention bias, its shift mask in it."""
        sizes = [(-(-height // stride), -(-width // stride)) for stride in (4, 8, 16, 32)]
        return tuple(
            tuple(block.attn.plan(*size) for block in stage.blocks)
            for stage, size in zip(self.stages, sizes, strict=True)
        )

    def forward(self, pixels: Tensor, plan: tuple[tuple[Tensor, ...], ...]) -> list[Tensor]:
        """(B, 3, H, W) -> four maps (B, C_i, H/s_i, W/s_i), s_i = 4, 8, 16, 32. H, W: multiples of 4."""
        x = self.patch_norm(self.patch_embed(pixels).permute(0, 2, 3, 1))
        features = []
        for stage, norm, biases in zip(self.stages, self.norms, plan, strict=True):
            for block, bias in zip(stage.blocks, biases, strict=True):
                x = block(x, bias)
            features.append(norm(x).permute(0, 3, 1, 2))
            if stage.downsample is not None:
                x = stage.downsample(x)
        return features


class Stage(nn.Module):
    """Blocks of one resolution, and the patch merging that leads to the next."""

    def __init__(self, dim: int, depth: int, heads: int, window: int, mlp_ratio: float, downsample: bool):
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(dim, heads, window, shift=window // 2 if i % 2 else 0, mlp_ratio=mlp_ratio) for i in range(depth)
        )
        self.downsample = PatchMerging(dim) if downsample else None


class PatchMerging(nn.Module):
    """(B, H, W, C) -> (B, ceil(H/2), ceil(W/2), 2C)."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        x = torch.cat([x[:, row::2, col::2] for col in (0, 1) for row in (0, 1)], dim=-1)
        return self.reduction(self.norm(x))


class Block(nn.Module):
    """Window attention and MLP, each with its norm before and its residual after. (B, H, W, C) -> the same."""

    def __init__(self, dim: int, heads: int, window: int, shift: int, mlp_ratio: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, window, shift)
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = Linear(dim, int(dim * mlp_ratio), activation="gelu")
        self.fc2 = Linear(int(dim * mlp_ratio), dim)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), bias)
        return x + self.fc2(self.fc1(self.norm2(x)))


class WindowAttention(nn.Module):
    """Self-attention inside windows of `window` x `window` tokens, shifted cyclically by `shift`."""

    def __init__(self, dim: int, heads: int, window: int, shift: int):
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)
        self.bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("bias_index", relative_position_index(window), persistent=False)

    def plan(self, height: int, width: int) -> Tensor:
        """(1 or windows, heads, window², window²): what is added to the attention logits of a map of this size."""
        win = self.window
        bias = self.bias_table[self.bias_index].permute(2, 0, 1)[None]
        if self.shift:
            bias = bias + shift_mask(-(-height // win), -(-width // win), win, self.shift, bias)[:, None]
        return bias

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(B, H, W, C) and the bias of `plan` -> (B, H, W, C)."""
        batch, height, width, dim = x.shape
        win, shift = self.window, self.shift
        x = F.pad(x, (0, 0, 0, -width % win, 0, -height % win))
        rows, cols = x.shape[1] // win, x.shape[2] // win
        if shift:
            x = x.roll((-shift, -shift), dims=(1, 2))
        windows = x.view(batch, rows, win, cols, win, dim).transpose(2, 3).reshape(-1, win * win, dim)

        qkv = self.qkv(windows).view(-1, win * win, 3, self.heads, dim // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        bias = bias.repeat(batch, 1, 1, 1) if shift else bias
        windows = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        windows = self.proj(windows.transpose(1, 2).reshape(-1, win * win, dim))

        x = windows.view(batch, rows, cols, win, win, dim).transpose(2, 3).reshape(batch, rows * win, cols * win, dim)
        if shift:
            x = x.roll((shift, shift), dims=(1, 2))
        return x[:, :height, :width]


def relative_position_index(window: int) -> Tensor:
    """(window², window²) int64: the row of the bias table that belongs to each pair of tokens."""
    row, col = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    row, col = row.flatten(), col.flatten()
    down = row[:, None] - row[None, :] + window - 1
    right = col[:, None] - col[None, :] + window - 1
    return down * (2 * window - 1) + right


def shift_mask(rows: int, cols: int, window: int, shift: int, like: Tensor) -> Tensor:
    """(rows * cols, window², window²): -100 where two tokens of a window are neighbours by the roll only, else 0."""

    def region(count: int) -> Tensor:
        index = torch.arange(count * window, device=like.device)
        return (index >= (count - 1) * window).to(torch.int32) + (index >= count * window - shift)

    regions = 3 * region(rows)[:, None] + region(cols)[None, :]
    regions = regions.view(rows, window, cols, window).transpose(1, 2).reshape(rows * cols, window * window)
    return (regions[:, None] != regions[:, :, None]).to(like.dtype) * -100.0
