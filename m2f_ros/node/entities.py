"""Topics and timers of a node, as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rclpy.node import Node


@contextmanager
def all_or_none(node: Node) -> Iterator[None]:
    """Take away what the block created where it raises: what nobody holds would stay until the process ends.

    In the executor's thread, so that nothing else is created meanwhile.
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
