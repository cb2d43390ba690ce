"""The network as PyTorch runs it, one operation after the other."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from m2f_ros.model import Mask2Former
from m2f_ros.pipeline import backends


class Eager:
    """See `backends.Backend`. Keeps the plans of the last few sizes."""

    name = "eager"
    background = False  # nothing takes long

    def __init__(self, model: Mask2Former):
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
    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        class_logits, mask_logits, _ = self.model(pixels, self._plan(*pixels.shape[-2:]))
        return class_logits, mask_logits
