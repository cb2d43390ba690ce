"""Captured graphs of all slots: until one fails, and how often."""

from __future__ import annotations

from collections.abc import Callable

from m2f_ros.pipeline.streams import Cuda


class Graphs:
    """Whether work is captured as CUDA graphs, and what became of that.

    Attributes:
        on: False from the first failure on; work then goes to the device operation by operation.
        captures: graphs captured.
        evictions: GraphKeys that made way for another one.
    """

    def __init__(self, device: Cuda, on: bool):
        self._device = device
        self.on = on
        self.captures = self.evictions = 0

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """See Cuda.capture."""
        replay = self._device.capture(work)
        self.captures += 1
        return replay
