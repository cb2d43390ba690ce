"""The publishers of the outputs in space, each used only while somebody listens."""

from __future__ import annotations

import importlib
from collections.abc import Collection
from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy

from m2f_ros.frame.outputs import SPATIAL, SpatialOutput
from m2f_ros.node.declare import Settings
from m2f_ros.node.entities import publisher
from m2f_ros.node.legend import LATCHED

# A costmap that starts later than the node gets the newest grid, as it gets a map: Nav2's static layer subscribes
# transient local, which a volatile publisher does not match.
_LATCHED = ("grid",)
GROUND = frozenset({"grid", "obstacles"})  # outputs of the grid of the ground


class SpaceOutputs:
    """The publishers of all cameras' outputs in space, those whose messages are installed.

    Attributes:
        absent: output -> package of its messages, where that is not installed.

    Args:
        settings: parameters of the node and the cameras.
    """

    def __init__(self, node: Node, settings: Settings) -> None:
        self._node = node
        self.absent: dict[str, str] = {}
        self._silent: set[str] = set()
        # (output, camera), without a camera for an output of all.
        self._topics: dict[tuple[str, str | None], Publisher] = {}
        qos = QoSProfile(depth=settings.node.output_depth, reliability=ReliabilityPolicy.RELIABLE)
        for output in SPATIAL:
            kind = _type(output)
            if kind is None:
                self.absent[output.name] = output.message.partition("/")[0]
                continue
            for camera in settings.cameras if output.each else (None,):
                topic = f"~/{camera}/{output.name}" if camera else f"~/{output.name}"
                of = LATCHED if output.name in _LATCHED else qos
                self._topics[output.name, camera] = publisher(node, kind, topic, of)

    @property
    def topics(self) -> list[str]:
        """Names of all topics."""
        return [topic.topic_name for topic in self._topics.values()]

    def heard(self, camera: str, names: Collection[str]) -> list[str]:
        """Return those of the names that are outputs in space of this camera, or of all, and have listeners."""
        return [output.name for output in SPATIAL if output.name in names and self.is_heard(output.name, camera)]

    def is_heard(self, name: str, camera: str) -> bool:
        """Return True if an output in space has listeners."""
        if name in self._silent:
            return False
        topic = self._topics.get((name, camera)) or self._topics.get((name, None))
        return topic is not None and topic.get_subscription_count() > 0

    def publish(self, name: str, camera: str, message: Any) -> None:
        """Publish the message of an output; camera: any for an output of all cameras."""
        (self._topics.get((name, camera)) or self._topics[name, None]).publish(message)

    def silence(self, name: str) -> None:
        """Take an output as one without listeners from now on."""
        self._silent.add(name)

    def close(self) -> None:
        """Destroy the topics."""
        for topic in self._topics.values():
            self._node.destroy_publisher(topic)


def _type(output: SpatialOutput) -> Any:
    """Return the class of an output's messages; None if it is not installed: distributions have more than PyPI."""
    package, _, name = output.message.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except ImportError:
        return None
