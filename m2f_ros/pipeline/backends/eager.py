"""The network in eager PyTorch."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from m2f_ros.model import Network
from m2f_ros.model.network import Result
from m2f_ros.pipeline import backends


class Eager:
    """See `backends.Backend`. Caches the plans of the last SIZES sizes."""

    name = "eager"
    background = False  # a plan takes no time

    def __init__(self, model: Network):
        self.model = model
        self.dtype = next(model.parameters()).dtype
        self._plan = backends.Kept(model.plan, backends.SIZES)

    def ready(self, size: tuple[int, int], batch: int = 1) -> bool:
        return True

    def sizes(self) -> list[tuple[int, int]]:
        return []

    def forget(self, seconds: float, but: Collection[tuple[int, int]] = ()) -> bool:
        return False  # a plan is small

    @torch.inference_mode()
    def build(self, size: tuple[int, int], batch: int = 1) -> object:
        return self._plan(*size)

    @torch.inference_mode()
    def __call__(self, pixels: Tensor, memory: Tensor | None = None) -> Result:
        with backends.without_cudnn_attention(pixels.device):
            return self.model.run(self.model, pixels, self._plan(*pixels.shape[-2:]), memory)
