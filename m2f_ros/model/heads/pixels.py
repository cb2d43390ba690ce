"""From pixel logits to the class of each pixel: upsampling, then argmax. Labels alone: the nearest."""

from __future__ import annotations

import torch
from torch import Tensor

from m2f_ros.model.heads.upsampling import Size, label_dtype, resize, resize_rows, strips


def pixel_labels(
    logits: Tensor, network_size: Size, frame_size: Size, confidence: bool = False, content: Size | None = None
) -> tuple[Tensor, Tensor | None]:
    """Compute the class of each pixel of the frame.

    Args:
        logits: (B, classes, h, w).
        network_size, frame_size, confidence, content: see `semantic`.
    Returns:
        label: (B, height, width) train ids, uint8, or int32 above 255 classes; ties go to the lowest id.
        confidence: (B, height, width) uint8, softmax probability of that class, times 255, rounded; or None.
    """
    logits = logits.float()
    if content:
        logits = resize(logits, network_size)[..., : content[0], : content[1]]
    labels, levels = [], []
    for rows in strips(*frame_size, logits.shape[1]):
        part = resize_rows(logits, frame_size, rows)
        best, label = part.max(1)  # ties go to the first
        labels.append(label.to(label_dtype(logits.shape[1])))
        if confidence:
            levels.append((best - part.logsumexp(1)).exp_().mul_(255).round_().to(torch.uint8))
    return torch.cat(labels, 1), torch.cat(levels, 1) if confidence else None


def smooth_pixel_scores(past: Tensor, weight: float, logits: Tensor) -> None:
    """Set `past` to weight * past + class probabilities, in place.

    Args:
        past: (B, classes, height, width) float32, at the size of the network's input.
        weight: factor of the past scores, 0 or more.
        logits: (B, classes, h, w).
    """
    height, width = past.shape[2:]
    past.mul_(weight).add_(resize(logits.float(), (height, width)).softmax(1))


def map_labels(label: Tensor, network_size: Size, frame_size: Size, content: Size | None = None) -> Tensor:
    """Return the label nearest to each pixel of the frame.

    Args:
        label: (B, h, w) train ids.
        network_size, frame_size, content: see `semantic`.
    Returns:
        (B, height, width) train ids, uint8, or int32 where the type of `label` has more than 8 bits.
    """
    for axis, (own, network, part, frame) in enumerate(
        zip(label.shape[1:], network_size, content or network_size, frame_size, strict=True), 1
    ):
        if (own, part) != (frame, network):
            centres = torch.arange(frame, device=label.device, dtype=torch.float64) + 0.5
            index = (centres * (part * own / (frame * network))).long().clamp_(max=own - 1)
            label = label.index_select(axis, index)
    return label.to(torch.uint8 if label.dtype == torch.uint8 else torch.int32)
