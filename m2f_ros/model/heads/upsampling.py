"""Bilinear steps between the sizes of mask logits, network input and frame."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, int]  # height, width

# Numbers at the frame's size that are in memory at once: on a CPU few enough for its caches, on a device enough to keep
# all of it at work.
CHUNK = 1 << 20
DEVICE_CHUNK = 1 << 24
# Pixels of a frame, and numbers, that are worked on at once; larger frames take several rounds.
STRIP = 1 << 22
STRIP_NUMBERS = 1 << 26


def on_host(tensor: Tensor) -> bool:
    """Return True if the host may read the numbers: on a CPU, and not while a graph is traced."""
    # is_exporting is true in all threads while one of them exports: the tensors that this one traces are no plain ones.
    traced = torch.compiler.is_exporting() and (torch.compiler.is_dynamo_compiling() or type(tensor) is not Tensor)
    return tensor.device.type == "cpu" and not traced


def label_dtype(number: int) -> torch.dtype:
    """For 0..number-1; no value has all bits set."""
    return torch.uint8 if number <= 255 else torch.int32


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, h, w) -> (B, C, *size), bilinear; the same tensor if it has that size already."""
    if maps.shape[-2:] == torch.Size(size):
        return maps
    # F.interpolate keeps channels_last, but the next steps go map by map.
    return F.interpolate(maps.contiguous(), size, mode="bilinear", align_corners=False)


def strips(height: int, width: int, maps: int = 1) -> list[slice]:
    """Rows of a frame that are worked on at once, so that the memory for it does not grow with the frame.

    maps: numbers that each pixel takes. One strip for all frames of up to STRIP pixels.
    """
    some = height
    if height * width > STRIP:
        some = max(1, min(STRIP, STRIP_NUMBERS // maps) // width)
    return [slice(start, min(start + some, height)) for start in range(0, height, some)]


def resize_rows(maps: Tensor, size: tuple[int, int], rows: slice) -> Tensor:
    """Some rows of `resize(maps, size)`, but for rounding where they are not all."""
    if rows == slice(0, size[0]):
        return resize(maps, size)
    source = maps.shape[-2]
    where = (torch.arange(rows.start, rows.stop, device=maps.device) + 0.5) * (source / size[0]) - 0.5
    where = where.clamp(min=0)
    low = where.long().clamp(max=source - 1)
    high = (low + 1).clamp(max=source - 1)
    mixed = torch.lerp(maps[..., low, :], maps[..., high, :], (where - low)[:, None].to(maps.dtype))
    return resize(mixed, (len(where), size[1]))


def masks_in_chunks(
    mask_logits: Tensor,
    network_size: tuple[int, int],
    frame_size: tuple[int, int],
    content: tuple[int, int] | None = None,
    rows: slice | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """Mask logits at the frame's size, a few queries after the other so that they need little memory.

    Upstream's order for segments and instances: to the network's size, without its padding, to the frame's size.

    Args:
        mask_logits: (B, Q, h, w).
        content: (height, width) of the part of the network's input that is no padding; None: all of it.
        rows: of the frame; None: all.
    Yields:
        Which queries, and their logits (B, some, *frame_size), float32; of the rows that are asked for.
    """
    height, width = content or network_size
    rows = rows or slice(0, frame_size[0])
    chunk = CHUNK if mask_logits.device.type == "cpu" else DEVICE_CHUNK
    some = max(1, chunk // (len(mask_logits) * (rows.stop - rows.start) * frame_size[1]))
    for start in range(0, mask_logits.shape[1], some):
        which = slice(start, start + some)
        maps = resize(mask_logits[:, which].float(), network_size)[..., :height, :width]
        yield which, resize_rows(maps, frame_size, rows)
