"""From mask and class logits to the class of each pixel, in upstream's order of operations.

(mask2former/maskformer_model.py upstream: semantic_inference, sem_seg_postprocess.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from m2f_ros import kernels
from m2f_ros.model.heads import boundaries
from m2f_ros.model.heads.upsampling import label_dtype, on_host, resize, resize_rows, strips

MOST = 2048  # bytes of a query's classes: with more, 16 queries exceed the shared memory of some GPU


def semantic(
    class_logits: Tensor,
    mask_logits: Tensor,
    network_size: tuple[int, int],
    frame_size: tuple[int, int],
    confidence: bool = False,
    content: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Compute the class of each pixel of the frame.

    Args:
        class_logits: (B, Q, classes + 1).
        mask_logits: (B, Q, h, w), usually at a quarter of the network's size.
        network_size: (height, width) of the network's input.
        frame_size: (height, width) of the result.
        confidence: True to return the confidence, too.
        content: (height, width) of the frame in the top left corner of the network's input; None without padding.
    Returns:
        label: (B, height, width) train ids, uint8, or int32 above 255 classes; ties go to the lowest id.
        confidence: (B, height, width) uint8, score of that class over the sum of all classes' scores, times 255,
            rounded; or None.
    """
    classes = class_logits.shape[2] - 1
    if classes * mask_logits.element_size() <= MOST and kernels.use("semantic_head", mask_logits):
        from m2f_ros.kernels import semantic as kernel

        return kernel.labels(class_logits, mask_logits, network_size, frame_size, confidence, content)
    find = boundaries.labels if on_host(mask_logits) else _labels
    label, scores = find(
        class_logits.float(), mask_logits.float(), network_size, frame_size, content or network_size, confidence
    )
    return label, None if scores is None else _share(*scores)


def semantic_of_scores(
    scores: Tensor,
    frame_size: tuple[int, int],
    confidence: bool = False,
    content: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Compute `semantic` from (B, classes, *network_size) scores, which may be sums over several images."""
    height, width = scores.shape[2:]
    label, sums = _best(scores, frame_size, content or (height, width), confidence)
    return label, None if sums is None else _share(*sums)


def _labels(
    class_logits: Tensor,
    mask_logits: Tensor,
    network_size: tuple[int, int],
    frame_size: tuple[int, int],
    content: tuple[int, int],
    with_scores: bool,
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Return labels and, if wanted, their scores and the sums of all scores, each (B, *frame_size)."""
    return _best(semantic_scores(class_logits, mask_logits, network_size), frame_size, content, with_scores)


def _best(
    scores: Tensor, frame_size: tuple[int, int], content: tuple[int, int], with_scores: bool
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Compute `_labels` from (B, classes, *network_size) scores."""
    scores, dtype = scores[..., : content[0], : content[1]], label_dtype(scores.shape[1])
    found = []
    for rows in strips(*frame_size, scores.shape[1]):
        part = resize_rows(scores, frame_size, rows)
        best, label = part.max(1)  # ties go to the first
        found.append((label.to(dtype), *((best, part.sum(1)) if with_scores else ())))
    label, *sums = found[0] if len(found) == 1 else (torch.cat(parts, 1) for parts in zip(*found, strict=True))
    return label, tuple(sums) if with_scores else None


def _share(best: Tensor, total: Tensor) -> Tensor:
    """Return uint8 best score over the sum of all scores, times 255, rounded. Overwrites both arguments."""
    total.clamp_(min=torch.finfo(total.dtype).tiny)  # 0 outside all masks
    return best.div_(total).mul_(255).round_().to(torch.uint8)


def semantic_scores(class_logits: Tensor, mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Compute the score of each class at each pixel.

    Args:
        class_logits: (B, Q, classes + 1).
        mask_logits: (B, Q, h, w); upsampled to `size` before the sigmoid.
        size: (height, width) of the network's input.
    Returns:
        (B, classes, height, width): sum over the queries of class probability times mask probability. Not
        normalised over the classes.
    """
    classes = class_logits.softmax(-1)[..., :-1]
    masks = resize(mask_logits, size).sigmoid()
    return (classes.mT @ masks.flatten(2)).unflatten(2, masks.shape[2:])


def smooth_scores(past: Tensor, weight: float, class_logits: Tensor, mask_logits: Tensor) -> None:
    """Set `past` to weight * past + semantic_scores, in place.

    Args:
        past: (B, classes, height, width) float32, contiguous, at the size of the network's input.
        weight: factor of the past scores, 0 or more.
        class_logits: (B, Q, classes + 1).
        mask_logits: (B, Q, h, w).
    """
    classes = class_logits.float().softmax(-1)[..., :-1]
    height, width = past.shape[2:]
    masks = resize(mask_logits.float(), (height, width)).sigmoid()
    past.view(*past.shape[:2], -1).baddbmm_(classes.mT, masks.flatten(2), beta=weight)
