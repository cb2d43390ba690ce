"""Class scores of a stream's past frames, which steady the labels of the next."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from m2f_ros.errors import ConfigError, FrameError
from m2f_ros.pipeline.resize import Placement


class Smoothing:
    """Sums of class scores (classes, height, width) float32 at the network's size, one for each stream.

    In a sum the frame `n` frames ago weighs weight ** n. The best class of a sum and its share are those of the mean,
    and a sum can begin with nothing.

    Args:
        weight: 0..<1; 0: there are no sums.
    Raises:
        ConfigError: a weight out of range.
    """

    def __init__(self, weight: float, classes: int, device: torch.device):
        if not 0 <= weight < 1:
            raise ConfigError(f"smoothing is {weight}; it must be 0 or more, and below 1")
        self.weight = weight
        self._classes, self._device = classes, device
        self._sums: dict[str, tuple[Placement, Tensor]] = {}
        self._places: WeakValueDictionary[tuple[int, tuple[int, int]], Tensor] = WeakValueDictionary()

    def check(self, number: int, streams: Sequence[str] | None) -> None:
        """Raises FrameError unless there is a stream of its own for each of a batch of frames, where it matters."""
        if not self.weight:
            return
        if streams is None or len(streams) != number:
            raise FrameError(f"smoothing needs a stream for each of {number} frames; name them in streams")
        if len(set(streams)) < number:
            raise FrameError("frames of one batch need streams of their own for smoothing; submit them one by one")

    def past(self, streams: Sequence[str], placements: Sequence[Placement]) -> list[Tensor]:
        """Sums of these streams, zero where a stream or its place in the network's input is new; none without
        smoothing. On the current stream of the device, which must be the compute stream always."""
        if not self.weight:
            return []
        return [self._sum(stream, placement) for stream, placement in zip(streams, placements, strict=True)]

    def _sum(self, stream: str, placement: Placement) -> Tensor:
        known, total = self._sums.get(stream, (None, None))
        if known != placement:
            total = torch.zeros(self._classes, *placement.network, device=self._device)
            self._sums[stream] = placement, total
        return total

    def places(self, number: int, network: tuple[int, int]) -> list[Tensor]:
        """Memory at fixed addresses for so many sums, which graphs can work on whichever streams they serve.

        Graphs run one after the other, so all share it; it lives as long as someone holds it.
        """
        places = []
        for i in range(number):
            place = self._places.get((i, network))
            if place is None:
                place = self._places[i, network] = torch.zeros(self._classes, *network, device=self._device)
            places.append(place)
        return places

    def forget(self, stream: str | None = None) -> None:
        """Drop the past of a stream, or of all. In any thread; it holds from the next frame on."""
        if stream is None:
            self._sums.clear()
        else:
            self._sums.pop(stream, None)
