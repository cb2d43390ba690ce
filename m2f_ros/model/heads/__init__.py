"""From a network's result to labels and segments, in upstream's order of operations.

`labels` and `smooth` accept any result; the other heads accept the tensors of one type of result.
"""

from torch import Tensor

from m2f_ros.model.heads.counting import shares
from m2f_ros.model.heads.instances import instance_labels, instance_segments
from m2f_ros.model.heads.panoptic import Panoptic, Segment, panoptic, segments
from m2f_ros.model.heads.pixels import map_labels, pixel_labels, smooth_pixel_scores
from m2f_ros.model.heads.semantic import semantic, semantic_of_scores, semantic_scores, smooth_scores
from m2f_ros.model.heads.upsampling import Size, resize, strips
from m2f_ros.model.network import (
    BoxedInstances,
    Instances,
    LabelMap,
    MaskClassification,
    PixelLogits,
    Result,
    TrackedMasks,
)

__all__ = [
    "Panoptic",
    "Segment",
    "instance_labels",
    "instance_segments",
    "labels",
    "map_labels",
    "panoptic",
    "pixel_labels",
    "resize",
    "segments",
    "semantic",
    "semantic_of_scores",
    "semantic_scores",
    "shares",
    "smooth",
    "smooth_pixel_scores",
    "smooth_scores",
    "strips",
]


def labels(
    result: Result,
    network_size: Size,
    frame_size: Size,
    confidence: bool = False,
    content: Size | None = None,
    *,
    unlabelled: int = 255,
    score_threshold: float | Tensor = 0.5,
) -> tuple[Tensor, Tensor | None]:
    """Return the class of each pixel, and its confidence if wanted; see `semantic`, `pixel_labels`, `map_labels` and
    `instance_labels`, which alone takes `unlabelled` and `score_threshold`.

    Raises ValueError if confidence is wanted of a LabelMap, which has none.
    """
    if isinstance(result, LabelMap):
        if confidence:
            raise ValueError("labels alone have no confidence")
        return map_labels(result.label, network_size, frame_size, content), None
    if isinstance(result, PixelLogits):
        return pixel_labels(result.logits, network_size, frame_size, confidence, content)
    if isinstance(result, Instances | BoxedInstances):
        return instance_labels(
            result,
            network_size,
            frame_size,
            confidence,
            content,
            unlabelled=unlabelled,
            score_threshold=score_threshold,
        )
    return semantic(result.class_logits, result.mask_logits, network_size, frame_size, confidence, content)


def smooth(past: Tensor, weight: float, result: Result) -> None:
    """Set `past` to `weight` times `past` plus the result's class scores, in place; see `smooth_scores`.

    Raises ValueError for a LabelMap and for instances, which have none.
    """
    if isinstance(result, PixelLogits):
        smooth_pixel_scores(past, weight, result.logits)
    elif isinstance(result, MaskClassification | TrackedMasks):
        smooth_scores(past, weight, result.class_logits, result.mask_logits)
    else:
        raise ValueError(f"a {type(result).__name__} has no class scores of pixels")
