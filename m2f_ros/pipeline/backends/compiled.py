"""The network compiled by torch.compile: the quickest arithmetic, the slowest start."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Collection

import torch
from torch import Tensor

from m2f_ros.cache import cache_folder, private
from m2f_ros.errors import ConfigError, words_of
from m2f_ros.model import Mask2Former
from m2f_ros.pipeline import backends


class Compiled:
    """See `backends.Backend`. Compiles once for each size and batch, without CUDA graphs: the pipeline has its own.

    Raises:
        ConfigError: on a CPU no C++ compiler, on CUDA no Triton.
    """

    name = "compile"

    def __init__(self, model: Mask2Former):
        self.model = model
        parameter = next(model.parameters())
        self.dtype, self._device = parameter.dtype, parameter.device
        compiler = os.environ.get("CXX", "g++")
        if self._device.type == "cpu" and not shutil.which(compiler):
            raise ConfigError(
                f"backend 'compile' needs a C++ compiler, and there is no {compiler} here: install it "
                "(Debian and Ubuntu: apt install g++), or take backend 'eager' or 'openvino'"
            )
        if self._device.type == "cuda" and not importlib.util.find_spec("triton"):
            raise ConfigError("backend 'compile' needs Triton on CUDA: pip install triton, or take backend 'eager'")
        self._plan = backends.Kept(torch.inference_mode()(model.plan), backends.SIZES)
        _keep_code_private()
        self._network = torch.compile(model, dynamic=False)
        self._compiled: set[tuple[tuple[int, int], int]] = set()
        # On CUDA the compiler measures kernels on the device, which would spoil a capture.
        self.background = self._device.type == "cpu"

    def ready(self, size: tuple[int, int], batch: int = 1) -> bool:
        return (size, batch) in self._compiled

    def sizes(self) -> list[tuple[int, int]]:
        return [size for size, batch in tuple(self._compiled) if batch == 1]

    def forget(self, seconds: float, but: Collection[tuple[int, int]] = ()) -> bool:
        return False  # torch keeps what it compiled

    def build(self, size: tuple[int, int], batch: int = 1) -> object:
        if (size, batch) not in self._compiled:
            self._compile(size, batch)
            self._compiled.add((size, batch))
        return self._plan(*size)

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        class_logits, mask_logits, _ = self._network(pixels, self._plan(*pixels.shape[-2:]))
        return class_logits, mask_logits

    def _compile(self, size: tuple[int, int], batch: int) -> None:
        pixels = torch.zeros(batch, 3, *size, dtype=self.dtype, device=self._device)
        try:
            self(pixels.to(memory_format=torch.channels_last))
        except Exception as error:  # the compiler's own, torch's and Triton's have no base of their own
            reason = f"{type(error).__name__}: {words_of(error, 200)}"
            raise ConfigError(
                f"backend 'compile' failed at {size[0]}x{size[1]} ({reason}); take backend 'eager'"
            ) from error


def _keep_code_private() -> None:
    """By default torch.compile runs what it finds in a folder of /tmp, which whoever comes first may have made."""
    folder = cache_folder("inductor")
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ and not private(folder):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
