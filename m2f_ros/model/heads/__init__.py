"""From the network's logits to labels and segments, in upstream's order of operations."""

from m2f_ros.model.heads.counting import shares
from m2f_ros.model.heads.panoptic import Panoptic, Segment, panoptic, segments
from m2f_ros.model.heads.semantic import (
    semantic,
    semantic_of_scores,
    semantic_scores,
    smooth_scores,
)
from m2f_ros.model.heads.upsampling import resize, strips

__all__ = [
    "Panoptic",
    "Segment",
    "panoptic",
    "resize",
    "segments",
    "semantic",
    "semantic_of_scores",
    "semantic_scores",
    "shares",
    "smooth_scores",
    "strips",
]
