"""Exponential smoothing of class scores, which reduces flicker in the labels of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from m2f_ros.errors import ConfigError, FrameError
from m2f_ros.pipeline.resize import Placement


class Smoothing:
    """Sums of class scores (classes, height, width) float32 at the network's size, one for each stream.

    A frame `n` frames back has the factor weight ** n in the sum. A sum and its mean have the same best class, with the
    same confidence.

    Args:
        weight: decay of the past scores per frame, 0..<1; 0 for no smoothing.
    Raises:
        ConfigError: the weight is out of range.
    """

    def __init__(self, weight: float, classes: int, device: torch.device):
        if not 0 <= weight < 1:
            raise ConfigError(f"smoothing is {weight}; it must be 0 or more, and below 1")
        self.weight = weight
        self._classes, self._device = classes, device
        self._sums: dict[str, tuple[Placement, Tensor]] = {}
        self._buffers: WeakValueDictionary[tuple[int, tuple[int, int]], Tensor] = WeakValueDictionary()

    def check(self, number: int, streams: Sequence[str] | None) -> None:
        """Raise FrameError if smoothing is on and not each of `number` frames has its own stream."""
        if not self.weight:
            return
        if streams is None or len(streams) != number:
            raise FrameError(f"smoothing needs a stream for each of {number} frames; name them in streams")
        if len(set(streams)) < number:
            raise FrameError("frames of one batch need streams of their own for smoothing; submit them one by one")

    def past(self, streams: Sequence[str], placements: Sequence[Placement]) -> list[Tensor]:
        """Return the sums of these streams, zeros for a new stream or placement; empty without smoothing.

        Runs on the compute stream of the device.
        """
        if not self.weight:
            return []
        return [self._sum(stream, placement) for stream, placement in zip(streams, placements, strict=True)]

    def _sum(self, stream: str, placement: Placement) -> Tensor:
        known = self._sums.get(stream)
        if known is None or known[0] != placement:
            known = placement, torch.zeros(self._classes, *placement.network, device=self._device)
            self._sums[stream] = known
        return known[1]

    def buffers(self, number: int, network: tuple[int, int]) -> list[Tensor]:
        """Return memory at fixed addresses for `number` sums, which graphs use for any streams.

        All graphs share this memory, since they run one after the other. Their holders keep it alive.
        """
        buffers = []
        for i in range(number):
            buffer = self._buffers.get((i, network))
            if buffer is None:
                buffer = self._buffers[i, network] = torch.zeros(self._classes, *network, device=self._device)
            buffers.append(buffer)
        return buffers

    def forget(self, stream: str | None = None) -> None:
        """Drop the sum of a stream, or of all. Thread-safe; takes effect at the next frame."""
        if stream is None:
            self._sums.clear()
        else:
            self._sums.pop(stream, None)
