"""Backends, which run the network: eager PyTorch, torch.compile, OpenVINO, or the library that an export is for."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterator
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from m2f_ros.errors import CheckpointError, ConfigError, to_install
from m2f_ros.model import Network
from m2f_ros.model.network import Result

log = logging.getLogger("m2f_ros.pipeline")

NAMES = ("auto", "eager", "compile", "openvino")
# Those that run folders of `m2f export` alone; see `exported`.
EXPORTED = ("onnxruntime", "tensorrt", "torchscript", "pt2")
# Type of the network's weights and activations. tf32: float32 whose products the tensor cores round to 10 bits. fp8:
# float16, but float8 products in the layers of `Network.use_float8`. int8: what is not in eight bits by
# `Network.quantisation`.
PRECISIONS = {
    "fp8": torch.float16,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "tf32": torch.float32,
    "fp32": torch.float32,
    "int8": torch.float32,
}
# Number of network sizes that a backend caches; the least recently used is evicted.
SIZES = 4


@contextlib.contextmanager
def without_cudnn_attention(device: torch.device) -> Iterator[None]:
    """Return a context in which torch computes attention on CUDA without cuDNN, in all threads.

    On Hopper torch prefers cuDNN for masks. cuDNN checks their shapes when it runs, and raises where torch's other
    kernels work.
    """
    before = device.type == "cuda" and torch.backends.cuda.cudnn_sdp_enabled()
    if not before:
        yield
        return
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(True)


Made = TypeVar("Made")


class Kept(Generic[Made]):
    """An LRU cache of `number` results of the function `make`. Thread-safe; `make` may run in several threads at
    once.
    """

    def __init__(self, make: Callable[..., Made], number: int):
        self._make, self._number = make, number
        self._lock = threading.Lock()
        self._made: OrderedDict[Hashable, Made] = OrderedDict()
        self._used: dict[Hashable, float] = {}  # time.monotonic()

    def __call__(self, *key: Hashable) -> Made:
        with self._lock:
            if key in self._made:
                self._use(key)
                return self._made[key]
        made = self._make(*key)
        with self._lock:
            made = self._made.setdefault(key, made)
            self._use(key)
            while len(self._made) > self._number:
                del self._used[self._made.popitem(last=False)[0]]
        return made

    def has(self, *key: Hashable) -> bool:
        """Return True if the value of this key is cached, and mark it as recently used."""
        with self._lock:
            if key in self._made:
                self._use(key)
            return key in self._made

    def forget(self, seconds: float, but: Collection[Hashable] = ()) -> bool:
        """Drop values unused for `seconds`, except the last used one and `but`. Return True if any were dropped."""
        with self._lock:
            since = time.monotonic() - seconds
            old = [key for key in list(self._made)[:-1] if self._used[key] < since and key not in but]
            for key in old:
                del self._made[key], self._used[key]
            return bool(old)

    def _use(self, key: Hashable) -> None:
        self._made.move_to_end(key)
        self._used[key] = time.monotonic()

    @property
    def keys(self) -> list:
        """Cached keys, most recently used last."""
        with self._lock:
            return list(self._made)


class Backend(Protocol):
    """The network on one device.

    Attributes:
        name: "eager", "compile", "openvino", or one of EXPORTED.
        dtype: dtype of the input pixels.
        background: True if `build` may run in another thread while calls go on.
    """

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def background(self) -> bool: ...

    def ready(self, size: tuple[int, int], batch: int = 1) -> bool:
        """Return True if this size is built, and mark it as recently used. Thread-safe."""

    def sizes(self) -> list[tuple[int, int]]:
        """Return the sizes that are built for one image, most recently used last; empty if no size needs a build.
        Thread-safe.
        """

    def forget(self, seconds: float, but: Collection[tuple[int, int]] = ()) -> bool:
        """Free the memory of sizes unused for `seconds`, except the last used one and those of `but`. Return True if
        any was freed."""

    def build(self, size: tuple[int, int], batch: int = 1) -> object:
        """Compile or convert the network for this size, as its first call would: up to minutes for "compile", seconds
        for "openvino", no time if it is built already.

        Args:
            size: (height, width) of the network's input, multiples of the network's stride.
        Returns:
            The plan or compiled network for such calls. Backends cache it for the last SIZES sizes only: a caller that
            captures a call in a CUDA graph keeps it as long as the graph.
        Raises:
            ConfigError: the network cannot be compiled or converted here.
        """

    def __call__(self, pixels: Tensor, memory: Tensor | None = None) -> Result:
        """Run the network on (B, 3, H, W) normalised images; see `Network.forward`.

        memory: float32 memory of each image's stream, (B, …), for a network with memory alone; that for the next
        frames overwrites it.

        The maps of the result may be channels_last in memory. Later calls do not overwrite the result.
        """


def make_backend(name: str, model: Network, precision: str = "fp32") -> Backend:
    """Make the backend of this name, on the network's present device.

    Args:
        name: one of NAMES. "auto" is the choice of `choose_backend`, but eager for a network without `captures`;
            if the choice fails, eager with one warning.
        model: in eval mode, on its device. It is cast to the precision's type; "fp8" replaces some of its layers.
        precision: a key of PRECISIONS. "bf16" and "int8" under OpenVINO leave the model, the pixels and the result in
            float32.
    Raises:
        ConfigError: the backend or precision is unknown, or unavailable on this machine.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r} is not known; take one of {', '.join(PRECISIONS)}")
    chosen = choose_backend(name, next(model.parameters()).device)
    if not getattr(model, "captures", True) and chosen != "eager":
        if name != "auto":
            raise ConfigError(f"backend {name!r}: the shapes inside this network depend on the pixels; take 'eager'")
        chosen = "eager"
    if name == "auto" and chosen == "openvino":
        return _OpenVinoOrEager(model, precision)
    return _make(chosen, model, precision)


def choose_backend(name: str, device: torch.device) -> str:
    """Resolve "auto": OpenVINO on a CPU where it is installed, else eager. Other names stay as they are.

    Raises:
        ConfigError: the name is not one of NAMES.
    """
    if name in EXPORTED:
        raise ConfigError(
            f"backend {name!r} runs exported models alone: m2f export makes a folder to name as the model"
        )
    if name not in NAMES:
        raise ConfigError(f"backend {name!r} is not known; take one of {', '.join(NAMES)}")
    if name != "auto":
        return name
    return "openvino" if device.type == "cpu" and importlib.util.find_spec("openvino") else "eager"


def cpu_has_bf16() -> bool:
    """Return True if the processor has bfloat16 instructions; emulated bfloat16 is slower than float32."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def cpu_has_vnni() -> bool:
    """Return True if the processor multiplies four pairs of 8-bit numbers in one step (AVX512-VNNI, AVX-VNNI)."""
    return any(torch.cpu.get_capabilities().get(name, False) for name in ("avx512_vnni", "avx_vnni"))


def _make(name: str, model: Network, precision: str) -> Backend:
    device = next(model.parameters()).device
    # Imported here, since OpenVINO is optional and each backend takes time to import.
    if name == "openvino":
        if device.type != "cpu":
            raise ConfigError(f"backend 'openvino' works on a CPU, not on {device}; take 'eager' or 'compile'")
        try:
            from m2f_ros.pipeline.backends.openvino import OpenVino
        except ImportError as error:
            raise ConfigError(f"backend 'openvino' needs OpenVINO ({error}): {to_install('openvino')}") from None
        return OpenVino(model, precision)
    if precision == "int8":
        raise ConfigError(f"precision 'int8': backend {name!r} does not have it; take 'openvino' on a CPU")
    if device.type == "cpu" and precision == "bf16" and not cpu_has_bf16():
        raise ConfigError("precision 'bf16': this processor has no bf16 instructions; take fp32")
    model = model.to(PRECISIONS[precision])
    if precision == "fp8":
        try:
            model.use_float8()
        except CheckpointError as error:
            raise ConfigError(f"precision 'fp8': {error}") from None
    if name == "compile":
        from m2f_ros.pipeline.backends.compiled import Compiled

        return Compiled(model)
    from m2f_ros.pipeline.backends.eager import Eager

    return Eager(model)


class _OpenVinoOrEager:
    """OpenVINO, replaced by eager at its first failure."""

    def __init__(self, model: Network, precision: str):
        self._model, self._precision = model, precision
        try:
            self._backend = _make("openvino", model, precision)
        except ConfigError as error:
            self._fall_back(error)

    @property
    def name(self) -> str:
        return self._backend.name

    @property
    def dtype(self) -> torch.dtype:
        return self._backend.dtype

    @property
    def background(self) -> bool:
        return self._backend.background

    def ready(self, size: tuple[int, int], batch: int = 1) -> bool:
        return self._backend.ready(size, batch)

    def sizes(self) -> list[tuple[int, int]]:
        return self._backend.sizes()

    def forget(self, seconds: float, but: Collection[tuple[int, int]] = ()) -> bool:
        return self._backend.forget(seconds, but)

    def build(self, size: tuple[int, int], batch: int = 1) -> object:
        try:
            return self._backend.build(size, batch)
        except ConfigError as error:
            self._fall_back(error)
            return self._backend.build(size, batch)

    def __call__(self, pixels: Tensor, memory: Tensor | None = None) -> Result:
        height, width = pixels.shape[-2:]
        self.build((height, width), len(pixels))
        return self._backend(pixels.to(self.dtype), memory)  # float32 for both backends

    def _fall_back(self, error: ConfigError) -> None:
        log.warning("%s; going on with backend 'eager'", error)
        # Eager has no eight bits, but the weights are the same.
        self._backend = _make("eager", self._model, "fp32" if self._precision == "int8" else self._precision)
