"""Messages with the classes and colours of the label image."""

from __future__ import annotations

from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from m2f_ros.msg import ClassInfo, Legend
from m2f_ros.node.entities import publisher
from m2f_ros.taxonomy import Taxonomy

try:
    from vision_msgs import msg as vision_msgs
except ImportError:  # distributions have it, PyPI has not
    vision_msgs = None

LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Legends:
    """Publishes `~/legend`, and `~/label_info` if vision_msgs is installed; both are latched."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._legend = publisher(node, Legend, "~/legend", LATCHED)
        self._info = publisher(node, vision_msgs.LabelInfo, "~/label_info", LATCHED) if vision_msgs else None

    def publish(self, model: str, taxonomy: Taxonomy, min_confidence: float) -> None:
        self._legend.publish(legend_of(model, taxonomy))
        if self._info:
            self._info.publish(label_info_of(taxonomy, min_confidence, vision_msgs))

    def close(self) -> None:
        """Destroy the topics."""
        for topic in (self._legend, self._info):
            if topic:
                self._node.destroy_publisher(topic)


def legend_of(model: str, taxonomy: Taxonomy) -> Legend:
    """Make the message with every class and colour."""
    classes = [ClassInfo(id=c.id, name=c.name, color=c.colour, thing=c.thing) for c in taxonomy.classes]
    return Legend(model=model, taxonomy=taxonomy.name, unlabelled=taxonomy.unlabelled, classes=classes)


def label_info_of(taxonomy: Taxonomy, threshold: float, messages: Any) -> Any:
    """Make a vision_msgs/LabelInfo. messages: the module `vision_msgs.msg`."""
    classes = [messages.VisionClass(class_id=c.id, class_name=c.name) for c in taxonomy.classes]
    return messages.LabelInfo(class_map=classes, threshold=threshold)
