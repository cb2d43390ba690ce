"""Bilinear steps between the sizes of mask logits, network input and frame."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

# Numbers at the frame's size that are in memory at once: on a CPU few enough for its caches, on a device enough to keep
# all of it at work.
CHUNK = 1 << 20
DEVICE_CHUNK = 1 << 24


def on_host(tensor: Tensor) -> bool:
    """Whether a look at the numbers costs nothing, and no graph is made that must hold for other numbers."""
    # is_exporting is true in all threads while one of them exports: what that one traces are no plain tensors.
    traced = torch.compiler.is_exporting() and (torch.compiler.is_dynamo_compiling() or type(tensor) is not Tensor)
    return tensor.device.type == "cpu" and not traced


def label_dtype(number: int) -> torch.dtype:
    """For 0..number-1; no value has all bits set."""
    return torch.uint8 if number <= 255 else torch.int32


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, h, w) -> (B, C, *size), bilinear; the same tensor if it has that size already."""
    if maps.shape[-2:] == torch.Size(size):
        return maps
    # Of maps that are channels_last the result would be, too, and what follows goes map by map.
    return F.interpolate(maps.contiguous(), size, mode="bilinear", align_corners=False)


def masks_in_chunks(
    mask_logits: Tensor,
    network_size: tuple[int, int],
    frame_size: tuple[int, int],
    content: tuple[int, int] | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """Mask logits at the frame's size, a few queries after the other so that they need little memory.

    Upstream's order for segments and instances: to the network's size, without its padding, to the frame's size.

    Args:
        mask_logits: (B, Q, h, w).
        content: (height, width) of the part of the network's input that is no padding; None: all of it.
    Yields:
        Which queries, and their logits (B, some, *frame_size), float32.
    """
    height, width = content or network_size
    chunk = CHUNK if mask_logits.device.type == "cpu" else DEVICE_CHUNK
    some = max(1, chunk // (len(mask_logits) * frame_size[0] * frame_size[1]))
    for start in range(0, mask_logits.shape[1], some):
        which = slice(start, start + some)
        maps = resize(mask_logits[:, which].float(), network_size)[..., :height, :width]
        yield which, resize(maps, frame_size)
