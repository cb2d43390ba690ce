"""What runs the network: PyTorch as it is, PyTorch compiled, or OpenVINO."""

from __future__ import annotations

import importlib.util
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from m2f_ros.errors import ConfigError
from m2f_ros.model import Mask2Former

log = logging.getLogger("m2f_ros.pipeline")

NAMES = ("auto", "eager", "compile", "openvino")
# Type of the network's weights and activations. tf32: float32 whose products the tensor cores round to 10 bits.
PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16, "tf32": torch.float32, "fp32": torch.float32}
# Network sizes that a backend keeps ready; the least recently used makes way.
SIZES = 4


Made = TypeVar("Made")


class Kept(Generic[Made]):
    """The results of a function for the last `number` arguments that were used. Thread-safe; `make` may run in several
    threads at once.
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
        """Return True if the value of this key is there. To ask is to use it: the value is not the next to go."""
        with self._lock:
            if key in self._made:
                self._use(key)
            return key in self._made

    def forget(self, seconds: float, but: Collection[Hashable] = ()) -> bool:
        """Drop values unused for so long, but not the last used and those of `but`. Returns True if any went."""
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
        """Keys of the values that are there, last used last."""
        with self._lock:
            return list(self._made)


class Backend(Protocol):
    """The network on one device.

    Attributes:
        name: "eager", "compile" or "openvino".
        dtype: of the pixels that it takes.
        background: whether `build` may run in another thread while calls go on.
    """

    name: str
    dtype: torch.dtype
    background: bool

    def ready(self, size: tuple[int, int], batch: int = 1) -> bool:
        """Return True if a call at this size starts at once; the size is then not the next to go. In any thread."""

    def sizes(self) -> list[tuple[int, int]]:
        """Sizes at which calls of one image start at once, last used last; none where all do. In any thread."""

    def forget(self, seconds: float, but: Collection[tuple[int, int]] = ()) -> bool:
        """Free the memory of sizes that nobody used for so long, but not of the last used and those of `but`. Returns
        True if any went."""

    def build(self, size: tuple[int, int], batch: int = 1) -> object:
        """Do now what the first call at this size would have to: up to minutes for "compile", seconds for "openvino".
        Where it is done already, this takes no time.

        Args:
            size: (height, width) of the network's input, multiples of the model's STRIDE.
        Returns:
            What such a call uses of this size. Backends keep it for the last SIZES sizes only: whoever captures the
            call in a CUDA graph holds on to it as long as to the graph.
        Raises:
            ConfigError: the network cannot be compiled or converted here.
        """

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) as Mask2Former.forward takes it -> class logits and mask logits as it gives them, in memory
        also as channels_last.

        The result is the caller's own: later calls leave it alone.
        """


def make_backend(name: str, model: Mask2Former, precision: str = "fp32") -> Backend:
    """The backend of this name for the network where it is.

    Args:
        name: one of NAMES. "auto" takes what `choose_backend` says, and eager, saying so once, where that fails.
        model: in eval mode, on its device. It is cast to what the precision asks for.
        precision: a key of PRECISIONS. "bf16" under OpenVINO leaves the model, the pixels and the result in float32.
    Raises:
        ConfigError: no such backend or precision, or not on this machine.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r} is not known; take one of {', '.join(PRECISIONS)}")
    chosen = choose_backend(name, next(model.parameters()).device)
    if name == "auto" and chosen == "openvino":
        return _OpenVinoOrEager(model, precision)
    return _make(chosen, model, precision)


def choose_backend(name: str, device: torch.device) -> str:
    """What "auto" means: OpenVINO on a CPU where it is installed, else eager. Other names stay as they are.

    Raises:
        ConfigError: a name that is not one of NAMES.
    """
    if name not in NAMES:
        raise ConfigError(f"backend {name!r} is not known; take one of {', '.join(NAMES)}")
    if name != "auto":
        return name
    return "openvino" if device.type == "cpu" and importlib.util.find_spec("openvino") else "eager"


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 itself; emulated it is slower than float32."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _make(name: str, model: Mask2Former, precision: str) -> Backend:
    device = next(model.parameters()).device
    # Imported here: OpenVINO may be absent, and what is not chosen costs no time.
    if name == "openvino":
        if device.type != "cpu":
            raise ConfigError(f"backend 'openvino' works on a CPU, not on {device}; take 'eager' or 'compile'")
        try:
            from m2f_ros.pipeline.backends.openvino import OpenVino
        except ImportError as error:
            raise ConfigError(f"backend 'openvino' needs OpenVINO ({error}): pip install 'openvino>=2026.4'") from None
        return OpenVino(model, precision)
    if device.type == "cpu" and precision == "bf16" and not cpu_has_bf16():
        raise ConfigError("precision 'bf16': this processor has no bf16 instructions; take fp32")
    model = model.to(PRECISIONS[precision])
    if name == "compile":
        from m2f_ros.pipeline.backends.compiled import Compiled

        return Compiled(model)
    from m2f_ros.pipeline.backends.eager import Eager

    return Eager(model)


class _OpenVinoOrEager:
    """OpenVINO; eager from the moment on when that fails."""

    def __init__(self, model: Mask2Former, precision: str):
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

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        self.build(tuple(pixels.shape[-2:]), len(pixels))
        return self._backend(pixels.to(self.dtype))  # in float32 with either

    def _fall_back(self, error: ConfigError) -> None:
        log.warning("%s; going on with backend 'eager'", error)
        self._backend = _make("eager", self._model, self._precision)
