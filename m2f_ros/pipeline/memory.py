"""The memory of networks that hand something from frame to frame, such as VidEoMT's queries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from m2f_ros.pipeline.per_stream import PerStream


class Memory(PerStream[None]):
    """The memory of a network, float32, one for each stream; see `Network.memory`.

    It does not depend on the size of the frames: a camera may change it.

    Args:
        start: memory before the first frame of a stream; None for a network without memory.
    """

    def __init__(self, start: Tensor | None, device: torch.device):
        super().__init__("the network's memory")
        self._start = None if start is None else start.detach().to(device, torch.float32, copy=True)

    def __bool__(self) -> bool:
        """Return True if the network has a memory."""
        return self._start is not None

    def past(self, streams: Sequence[str]) -> list[Tensor]:
        """Return the memories of these streams; empty for a network without memory."""
        return [self._of(stream, None) for stream in streams] if self else []

    def buffers(self, number: int) -> list[Tensor]:
        """Return `number` memories at fixed addresses; see `PerStream._buffers_of`."""
        return self._buffers_of(number, None)

    def restore(self, stream: str, memory: np.ndarray) -> None:
        """Set the memory of a stream. Raises ValueError if it is of another network."""
        own = self._of(stream, None)
        if own.shape != memory.shape:
            raise ValueError(f"a memory of {memory.shape} is not of this network, {tuple(own.shape)}")
        own.copy_(torch.from_numpy(memory))

    def _new(self, key: None) -> Tensor:
        assert self._start is not None, "asked for networks with memory alone"
        return self._start.clone()
