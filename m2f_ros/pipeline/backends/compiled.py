"""The network compiled by torch.compile: the fastest to run, the slowest to start."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Collection
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from m2f_ros.cache import cache_folder, private
from m2f_ros.errors import ConfigError, words_of
from m2f_ros.model import Network
from m2f_ros.model.network import Result
from m2f_ros.pipeline import backends


class Compiled:
    """See `backends.Backend`. Compiles once for each size and batch, without CUDA graphs, which the pipeline captures.

    Raises:
        ConfigError: there is no C++ compiler (on a CPU) or no Triton (on CUDA).
    """

    name = "compile"

    def __init__(self, model: Network):
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
        self._networks: dict[tuple[tuple[int, int], int], Callable[..., Any]] = {}
        self._compiled: set[tuple[tuple[int, int], int]] = set()
        # On CUDA the compiler times kernels on the device, which would invalidate a capture.
        self.background = self._device.type == "cpu"

    def ready(self, size: tuple[int, int], batch: int = 1) -> bool:
        return (size, batch) in self._compiled

    def sizes(self) -> list[tuple[int, int]]:
        return [size for size, batch in tuple(self._compiled) if batch == 1]

    def forget(self, seconds: float, but: Collection[tuple[int, int]] = ()) -> bool:
        return False  # torch keeps its compiled code

    def build(self, size: tuple[int, int], batch: int = 1) -> object:
        if (size, batch) not in self._compiled:
            self._compile(size, batch)
            self._compiled.add((size, batch))
        return self._plan(*size)

    @torch.inference_mode()
    def __call__(self, pixels: Tensor, memory: Tensor | None = None) -> Result:
        batch, _, *size = pixels.shape
        network = self._network((size[0], size[1]), batch)
        with backends.without_cudnn_attention(pixels.device):
            return self.model.run(network, pixels, self._plan(*size), memory)

    def _network(self, size: tuple[int, int], batch: int) -> Callable[..., Any]:
        if (size, batch) not in self._networks:

            def network(pixels: Tensor, plan: object, *memory: Tensor) -> object:
                return self.model(pixels, plan, *memory)

            # Code of its own, since torch compiles one code 8 times only, for all models together, and then runs it
            # as it is.
            own = FunctionType(network.__code__.replace(), globals(), "network", None, network.__closure__)
            self._networks[size, batch] = torch.compile(own, dynamic=False)
        return self._networks[size, batch]

    def _compile(self, size: tuple[int, int], batch: int) -> None:
        try:
            memory = self.model.memory()
            if memory is not None:
                memory = memory.detach().float().expand(batch, *memory.shape).clone()
            self(self.model.example(*size, batch).to(memory_format=torch.channels_last), memory)
        except Exception as error:  # errors of the C++ compiler, torch and Triton have no common base class
            reason = f"{type(error).__name__}: {words_of(error, 200)}"
            raise ConfigError(
                f"backend 'compile' failed at {size[0]}x{size[1]} ({reason}); take backend 'eager'"
            ) from error


def _keep_code_private() -> None:
    """Set a private cache folder: another user may own torch.compile's default one in /tmp."""
    folder = cache_folder("inductor")
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ and not private(folder):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
