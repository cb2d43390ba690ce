"""Exponential smoothing of class scores, which reduces flicker in the labels of a stream."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from m2f_ros.errors import ConfigError
from m2f_ros.pipeline.per_stream import PerStream
from m2f_ros.pipeline.resize import Placement


class Smoothing(PerStream[Placement]):
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
        super().__init__("smoothing")
        self.weight = weight
        self._classes, self._device = classes, device

    def past(self, streams: Sequence[str], placements: Sequence[Placement]) -> list[Tensor]:
        """Return the sums of these streams, zeros for a new stream or placement; empty without smoothing.

        Runs on the compute stream of the device.
        """
        if not self.weight:
            return []
        return [self._of(stream, placement) for stream, placement in zip(streams, placements, strict=True)]

    def buffers(self, number: int, network: tuple[int, int]) -> list[Tensor]:
        """Return `number` sums at fixed addresses; see `PerStream._buffers_of`."""
        return self._buffers_of(number, Placement(network, network))

    def _new(self, key: Placement) -> Tensor:
        return torch.zeros(self._classes, *key.network, device=self._device)
