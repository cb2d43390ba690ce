"""Bilinear interpolation between the sizes of mask logits, network input and frame."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from m2f_ros import kernels

Size = tuple[int, int]  # height, width

# Numbers at the frame's size in memory at once: few enough for a CPU's caches, and enough to keep a GPU busy.
CHUNK = 1 << 20
DEVICE_CHUNK = 1 << 24
# Pixels of a frame, and numbers, processed at once; larger frames are processed in strips.
STRIP = 1 << 22
STRIP_NUMBERS = 1 << 26


def on_host(tensor: Tensor) -> bool:
    """Return True if the host may read the values: on a CPU, except during tracing."""
    # Only the exporting thread has other tensor types.
    traced = kernels.exporting() and (torch.compiler.is_dynamo_compiling() or type(tensor) is not Tensor)
    return tensor.device.type == "cpu" and not traced


def label_dtype(number: int) -> torch.dtype:
    """Return the smallest dtype for 0..number-1 in which no value has all bits set."""
    return torch.uint8 if number <= 255 else torch.int32


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, C, h, w) to (B, C, *size), bilinear; return the same tensor if it has that size."""
    if maps.shape[-2:] == torch.Size(size):
        return maps
    # Contiguous, since F.interpolate keeps channels_last, but the next steps work map by map.
    return F.interpolate(maps.contiguous(), size, mode="bilinear", align_corners=False)


def strips(height: int, width: int, maps: int = 1) -> list[slice]:
    """Return strips of rows of a frame, so that the memory for processing does not grow with the frame.

    maps: numbers per pixel. With one, frames of up to STRIP pixels are a single strip.
    """
    some = height
    if height * width > STRIP:
        some = max(1, min(STRIP, STRIP_NUMBERS // maps) // width)
    return [slice(start, min(start + some, height)) for start in range(0, height, some)]


def resize_rows(maps: Tensor, size: tuple[int, int], rows: slice) -> Tensor:
    """Return some rows of `resize(maps, size)`, equal up to rounding."""
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
    """Resize mask logits to the frame's size, in chunks of queries that need little memory.

    Upstream's order for segments and instances: resize to the network's size, crop the padding, resize to the frame's
    size.

    Args:
        mask_logits: (B, Q, h, w).
        content: (height, width) of the frame in the top left corner of the network's input; None without padding.
        rows: rows of the frame; None for all.
    Yields:
        A slice of queries, and their logits (B, queries, *frame_size), float32, in the wanted rows.
    """
    height, width = content or network_size
    rows = rows or slice(0, frame_size[0])
    chunk = CHUNK if mask_logits.device.type == "cpu" else DEVICE_CHUNK
    some = max(1, chunk // (len(mask_logits) * (rows.stop - rows.start) * frame_size[1]))
    for start in range(0, mask_logits.shape[1], some):
        which = slice(start, start + some)
        maps = resize(mask_logits[:, which].float(), network_size)[..., :height, :width]
        yield which, resize_rows(maps, frame_size, rows)
