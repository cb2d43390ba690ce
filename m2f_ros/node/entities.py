"""Creates topics and timers of a node together or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rclpy.node import Node


@contextmanager
def all_or_none(node: Node) -> Iterator[None]:
    """Destroy the entities that the block created if it raises; otherwise they would stay forever.

    Use it in the executor's thread, so that no other thread creates entities meanwhile.
    """
    kinds = (
        (lambda: node.publishers, node.destroy_publisher),
        (lambda: node.subscriptions, node.destroy_subscription),
        (lambda: node.timers, node.destroy_timer),
    )
    before = [set(there()) for there, _ in kinds]
    try:
        yield
    except BaseException:
        for (there, destroy), old in zip(kinds, before, strict=True):
            for entity in set(there()) - old:
                destroy(entity)
        raise
