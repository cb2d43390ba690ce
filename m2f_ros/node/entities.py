"""Creates topics and timers of a node together or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import SubscriptionEventCallbacks

# Events of a subscription, without those for publishers with incompatible QoS: looks at the publishers find them.
NO_EVENTS = SubscriptionEventCallbacks(use_default_callbacks=False)


@contextmanager
def all_or_none(node: Node) -> Iterator[None]:
    """Destroy the entities that the block created if it raises; otherwise they would stay forever.

    Use it in the executor's thread, so that no other thread creates entities meanwhile.
    """
    kinds = (
        (lambda: node.publishers, node.destroy_publisher),
        (lambda: node.subscriptions, node.destroy_subscription),
        (lambda: node.timers, node.destroy_timer),
        (lambda: node.guards, node.destroy_guard_condition),
    )
    before = [set(there()) for there, _ in kinds]
    try:
        yield
    except BaseException:
        for (there, destroy), old in zip(kinds, before, strict=True):
            for entity in set(there()) - old:
                destroy(entity)
        raise


def publisher(node: Node, kind: type, topic: str, qos: QoSProfile) -> Publisher:
    """Make a publisher whose QoS can be set under `qos_overrides`.

    It has no event for subscriptions with incompatible QoS: with each image, rclpy's executor would look at two such
    events of every topic. The subscriber's side says it.
    """
    return node.create_publisher(
        kind,
        topic,
        qos,
        event_callbacks=PublisherEventCallbacks(use_default_callbacks=False),
        qos_overriding_options=QoSOverridingOptions.with_default_policies(),
    )


def qos_of(node: Node, topic: str) -> str:
    """Return the reliability of each publisher and subscription of a topic in one line, with the names of the nodes."""

    def reliability(infos: list) -> str:
        by_node = {
            info.node_name: "reliable" if info.qos_profile.reliability == ReliabilityPolicy.RELIABLE else "best effort"
            for info in infos
        }
        return ", ".join(f"{name} {word}" for name, word in sorted(by_node.items())) or "nobody"

    sent, read = node.get_publishers_info_by_topic(topic), node.get_subscriptions_info_by_topic(topic)
    return f"{topic} is sent by {reliability(sent)}; read by {reliability(read)}"
