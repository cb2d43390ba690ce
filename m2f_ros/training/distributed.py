"""One process or several that train together, each on its share of every batch. (torchrun, DistributedDataParallel)"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from m2f_ros.errors import TrainingError


@dataclass(frozen=True)
class Group:
    """The processes that train together. In a single process every method returns its argument.

    Attributes:
        rank: this process's number; 0 writes and speaks.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes of a tensor that each has, on the device the group was joined with."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank; anything that can be pickled."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


@contextmanager
def join(device: str) -> Iterator[tuple[Group, torch.device]]:
    """Join the processes that torchrun started, if it did; yields them and this one's device.

    device: cpu, cuda, or cuda:N. With cuda, each of several processes on one machine takes a GPU of its own.

    Raises:
        TrainingError: there is no such device.
    """
    several = dist.is_torchelastic_launched()
    if several and device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    place = _device(device)
    if not several:
        yield Group(), place
        return
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    yield Group(dist.get_rank(), dist.get_world_size()), place
    # Not after an error: the others may be waiting for this process, and torchrun ends them.
    dist.destroy_process_group()


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise TrainingError(f"--device {name!r} is no device; take cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise TrainingError(f"--device {name!r} cannot train; take cpu, cuda or cuda:N")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise TrainingError(
                f"--device {name}: this machine has {count} CUDA devices that PyTorch can use; take one of them, or cpu"
            )
        torch.cuda.set_device(device.index or 0)
    return device
