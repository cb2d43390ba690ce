"""Times of the stages inside one pass."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import nn


class Marks:
    """Notes when stages end: events in the stream's order on CUDA, the clock on a CPU."""

    def __init__(self, device: torch.device):
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[str, object]] = []

    def mark(self, stage: str) -> None:
        """`stage` ends here; the first mark only begins."""
        if self._cuda:
            moment = torch.cuda.Event(enable_timing=True)
            moment.record()
        else:
            moment = time.perf_counter()
        self._marks.append((stage, moment))

    def milliseconds(self) -> dict[str, float]:
        """Stage -> time since the mark before it; waits for the device. Forgets the marks."""
        pairs = list(pairwise(self._marks))
        self._marks = []
        if self._cuda:
            torch.cuda.synchronize()
            return {name: before.elapsed_time(now) for (_, before), (name, now) in pairs}
        return {name: 1000 * (now - before) for (_, before), (name, now) in pairs}


@contextlib.contextmanager
def marked(marks: Marks, first: nn.Module, modules: dict[str, nn.Module]) -> Iterator[None]:
    """Mark the begin of `first` and the end of each of `modules`, by stage, whenever they are called meanwhile."""
    handles = [first.register_forward_pre_hook(lambda *_: marks.mark(""))]
    for stage, module in modules.items():
        handles.append(module.register_forward_hook(lambda *_, stage=stage: marks.mark(stage)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def split(stages: dict[str, float], inner: dict[str, float]) -> dict[str, float]:
    """The stages of a pass, with `inner` in the place of "network"."""
    found = {}
    for name, value in stages.items():
        found |= inner if name == "network" else {name: value}
    return found
