"""From a network's result to labels and segments, in upstream's order of operations.

`labels` and `smooth` accept any result; the other heads accept the tensors of one type of result.
"""

from torch import Tensor

from m2f_ros.model.heads.counting import shares
from m2f_ros.model.heads.panoptic import Panoptic, Segment, panoptic, segments
from m2f_ros.model.heads.pixels import pixel_labels, smooth_pixel_scores
from m2f_ros.model.heads.semantic import semantic, semantic_of_scores, semantic_scores, smooth_scores
from m2f_ros.model.heads.upsampling import Size, resize, strips
from m2f_ros.model.network import PixelLogits, Result

__all__ = [
    "Panoptic",
    "Segment",
    "labels",
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
    result: Result, network_size: Size, frame_size: Size, confidence: bool = False, content: Size | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return the class of each pixel, and its confidence if wanted; see `semantic` and `pixel_labels`."""
    if isinstance(result, PixelLogits):
        return pixel_labels(result.logits, network_size, frame_size, confidence, content)
    return semantic(*result, network_size, frame_size, confidence, content)


def smooth(past: Tensor, weight: float, result: Result) -> None:
    """Set `past` to `weight` times `past` plus the result's class scores, in place; see `smooth_scores`."""
    if isinstance(result, PixelLogits):
        smooth_pixel_scores(past, weight, result.logits)
    else:
        smooth_scores(past, weight, *result)
