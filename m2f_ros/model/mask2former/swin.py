"""Swin Transformer backbone. (Liu et al. 2021, https://arxiv.org/abs/2103.14030)

Follows Mask2Former's own version (mask2former/modeling/backbone/swin.py upstream): any input size, feature maps
padded to whole windows, windows shifted in every second block, a layer norm on each stage's output.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from m2f_ros import kernels
from m2f_ros.model.layers import Linear, convolve_patches
from m2f_ros.model.mask2former.config import SwinConfig
from m2f_ros.model.network import Modules
from m2f_ros.model.norms import add_norm

# Bytes of a window's tokens for each channel: with more, keys and logits exceed what some GPU has of shared memory or
# registers. A window of 16 in half precision has 512, one of 12 in float32 576.
MOST = 576


class Windows(NamedTuple):
    """Partition of a map of one size into cyclically shifted windows; see `windows_of`.

    Attributes:
        token: (windows * window²,) int64, index of the token, row by row, at each place of each window; height * width
            for padding.
        place: (height * width,) int64, place of each token, the inverse of `token`.
        kind: (windows,) int64, 1 for windows at the bottom edge, 2 at the right one, 3 at both, 0 elsewhere, where the
            shift mixes no distant tokens.
        mask: (kinds, window², window²), -100 for two tokens that only the shift made neighbours, else 0.
    """

    token: Tensor
    place: Tensor
    kind: Tensor
    mask: Tensor


class BlockPlan(NamedTuple):
    """Plan for the attention of one block.

    Attributes:
        bias: (kinds, heads, window², window²), added to the attention logits. Rows start at multiples of 8.
        windows: partition for the block's shift.
        arranged: one tensor, the bias for the CUDA kernel; empty where it is not used.
    """

    bias: Tensor
    windows: Windows
    arranged: tuple[Tensor, ...] = ()


class Swin(nn.Module):
    """Backbone from images to feature maps at strides 4, 8, 16 and 32."""

    def __init__(self, config: SwinConfig):
        super().__init__()
        self.channels = tuple(config.embed_dim * 2**i for i in range(len(config.depths)))
        self.patch_embed = nn.Conv2d(3, config.embed_dim, kernel_size=4, stride=4)
        self.patch_norm = nn.LayerNorm(config.embed_dim)
        self.stages: Modules[Stage] = Modules(
            Stage(dim, depth, heads, config, downsample=dim != self.channels[-1])
            for dim, depth, heads in zip(self.channels, config.depths, config.num_heads, strict=True)
        )
        self.norms: Modules[nn.LayerNorm] = Modules(nn.LayerNorm(dim) for dim in self.channels)

    def plan(self, height: int, width: int) -> tuple[tuple[BlockPlan, ...], ...]:
        """Make the plan of each block of each stage for images of this size."""
        plans = []
        for stage, stride in zip(self.stages, (4, 8, 16, 32), strict=True):
            attentions = [block.attn for block in stage.blocks]
            windows = {
                shift: windows_of(
                    -(-height // stride), -(-width // stride), attention.window, shift, self.patch_norm.weight
                )
                for shift, attention in {x.shift: x for x in attentions}.items()
            }
            plans.append(tuple(x.plan(windows[x.shift]) for x in attentions))
        return tuple(plans)

    def forward(self, pixels: Tensor, plan: tuple[tuple[BlockPlan, ...], ...]) -> list[Tensor]:
        """Map (B, 3, H, W) to four maps (B, C_i, H/s_i, W/s_i), s_i = 4, 8, 16, 32. H, W: multiples of 4."""
        x = self.patch_norm(convolve_patches(self.patch_embed, pixels).permute(0, 2, 3, 1))
        features = []
        for stage, norm, plans in zip(self.stages, self.norms, plan, strict=True):
            blocks = list(stage.blocks)
            normed = blocks[0].norm1(x)
            for block, part, following in zip(blocks, plans, [*(b.norm1 for b in blocks[1:]), norm], strict=True):
                x, normed = block(x, normed, part, following)
            features.append(normed.permute(0, 3, 1, 2))
            if stage.downsample is not None:
                x = stage.downsample(x)
        return features


class Stage(nn.Module):
    """Blocks of one resolution, and the patch merging before the next stage."""

    def __init__(self, dim: int, depth: int, heads: int, config: SwinConfig, downsample: bool):
        super().__init__()
        self.blocks: Modules[Block] = Modules(Block(dim, heads, config, shifted=i % 2 == 1) for i in range(depth))
        self.downsample = PatchMerging(dim) if downsample else None


class PatchMerging(nn.Module):
    """Downsampling of (B, H, W, C) to (B, ceil(H/2), ceil(W/2), 2C)."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduction(merge(x, self.norm))


def merge(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Join each 2x2 tokens, zeros below and on the right of the map, and normalise them.

    (B, H, W, C) -> (B, ceil(H/2), ceil(W/2), 4C): the upper left, lower left, upper right and lower right token.
    """
    if kernels.use("patch_merging", x):
        from m2f_ros.kernels import patch_merging

        return patch_merging.merge(x, norm.weight, norm.bias, norm.eps)
    if x.shape[1] % 2 or x.shape[2] % 2:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
    return norm(torch.cat([x[:, row::2, col::2] for col in (0, 1) for row in (0, 1)], dim=-1))


class Block(nn.Module):
    """Window attention and MLP, each with a norm before and a residual after it."""

    def __init__(self, dim: int, heads: int, config: SwinConfig, shifted: bool):
        super().__init__()
        window, wide = config.window_size, int(dim * config.mlp_ratio)
        self.norm1 = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.attn = WindowAttention(dim, heads, window, shift=window // 2 if shifted else 0)
        self.norm2 = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.fc1, self.fc2 = Linear(dim, wide, activation="gelu"), Linear(wide, dim)

    def forward(self, x: Tensor, normed: Tensor, plan: BlockPlan, following: nn.LayerNorm) -> tuple[Tensor, Tensor]:
        """Map (B, H, W, C) and its `norm1` to (B, H, W, C) and its norm `following`, which the next block takes."""
        x, normed = add_norm(x, self.attn(normed, plan), self.norm2)
        return add_norm(x, self.fc2(self.fc1(normed)), following)


class WindowAttention(nn.Module):
    """Self-attention inside windows of `window` x `window` tokens, shifted cyclically by `shift`."""

    def __init__(self, dim: int, heads: int, window: int, shift: int):
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)
        self.bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.bias_index: Tensor
        self.register_buffer("bias_index", relative_position_index(window), persistent=False)  # one for all blocks

    def plan(self, windows: Windows) -> BlockPlan:
        """Make the plan for a map with these windows."""
        pairs = self.bias_table[self.bias_index].permute(2, 0, 1).contiguous()
        tokens = pairs.shape[-1]
        # Padded before the sum, which makes the permuted operand contiguous, and so the sum.
        bias = F.pad(pairs, (0, -tokens % 8)) + F.pad(windows.mask, (0, -tokens % 8))[:, None]
        arranged: tuple[Tensor, ...] = ()
        bias = bias[..., :tokens]
        dim = self.proj.in_features // self.heads
        if tokens * bias.element_size() <= MOST and kernels.use("window_attention", bias.detach(), dim):
            from m2f_ros.kernels import window as kernel

            arranged = (kernel.arrange(bias.detach(), dim),)
        return BlockPlan(bias, windows, arranged)

    def forward(self, x: Tensor, plan: BlockPlan) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        return self.proj(attend(self.qkv(x), self.qkv.bias, plan, self.heads, self.window, self.shift))


def attend(qkv: Tensor, pad: Tensor, plan: BlockPlan, heads: int, window: int, shift: int) -> Tensor:
    """Compute self-attention inside the windows of a map.

    Args:
        qkv: (B, H, W, 3C), query, key and value of each token, each (heads, C / heads).
        pad: (3C,), query, key and value of a padding token.
    Returns:
        (B, H, W, C)
    """
    if plan.arranged and kernels.use("window_attention", qkv):
        from m2f_ros.kernels import window as kernel

        return kernel.attend(qkv, pad, plan.arranged[0], heads, window, shift)
    batch, height, width, columns = qkv.shape
    tokens, (token, place, kind, _) = window * window, plan.windows
    qkv = qkv.flatten(1, 2)
    if len(token) > height * width:
        qkv = torch.cat([qkv, pad.expand(batch, 1, -1)], 1)
    qkv = qkv.index_select(1, token).view(-1, tokens, 3, heads, columns // 3 // heads)
    bias = plan.bias.index_select(0, kind.repeat(batch))
    if qkv.is_cuda:
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    else:  # On a CPU the fused function is slower for so few tokens.
        query, key, value = qkv.permute(2, 0, 3, 1, 4).flatten(1, 2)
        logits = torch.baddbmm(bias.flatten(0, 1), query, key.transpose(1, 2), alpha=query.shape[-1] ** -0.5)
        out = (logits.softmax(-1) @ value).unflatten(0, (-1, heads))
    return out.transpose(1, 2).reshape(batch, -1, columns // 3).index_select(1, place).unflatten(1, (height, width))


@cache
@torch.inference_mode(False)  # training takes the cached index, too
def relative_position_index(window: int) -> Tensor:
    """Return (window², window²) int64 on the CPU, the row of the bias table for each pair of tokens."""
    along = torch.arange(window, device="cpu")  # even if the network is built on the meta device
    row, col = torch.meshgrid(along, along, indexing="ij")
    row, col = row.flatten(), col.flatten()
    down = row[:, None] - row[None, :] + window - 1
    right = col[:, None] - col[None, :] + window - 1
    return down * (2 * window - 1) + right


def windows_of(height: int, width: int, window: int, shift: int, like: Tensor) -> Windows:
    """Make the windows of a map, padded below and on the right to whole ones, with dtype and device of `like`."""
    device = like.device
    rows, cols = -(-height // window), -(-width // window)

    def by_window(grid: Tensor) -> Tensor:
        return grid.view(rows, window, cols, window).transpose(1, 2).flatten()

    # Row and column of the map at each place of the shifted map.
    row = torch.arange(rows * window, device=device).roll(-shift)[:, None]
    col = torch.arange(cols * window, device=device).roll(-shift)[None]
    token = by_window(torch.where((row < height) & (col < width), row * width + col, height * width))
    place = token.argsort(stable=True)[: height * width]

    last_row, last_col = torch.arange(rows, device=device) == rows - 1, torch.arange(cols, device=device) == cols - 1
    kind = (last_row.long()[:, None] + 2 * last_col.long()).flatten()
    if not shift:
        return Windows(token, place, torch.zeros_like(kind), like.new_zeros(1, window**2, window**2))
    # In the last window of a row or column of windows, places from window - shift on come from the opposite edge.
    wrapped = (torch.arange(window, device=device) >= window - shift).long()
    none = torch.zeros_like(wrapped)
    regions = [
        (2 * down[:, None] + right[None]).flatten()
        for down, right in ((none, none), (wrapped, none), (none, wrapped), (wrapped, wrapped))
    ]
    mask = torch.stack([(region[:, None] != region[None]).to(like.dtype) * -100.0 for region in regions])
    return Windows(token, place, kind, mask)
