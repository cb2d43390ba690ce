"""From the network's logits to labels, segments and instances, in upstream's order of operations."""

from m2f_ros.model.heads.instances import Instances, instances
from m2f_ros.model.heads.panoptic import Segments, panoptic
from m2f_ros.model.heads.semantic import resize, semantic, semantic_labels, semantic_scores

__all__ = ["Instances", "Segments", "instances", "panoptic", "resize", "semantic", "semantic_labels", "semantic_scores"]
