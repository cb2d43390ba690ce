"""Products, attention and kernels of Swin-L at 1024x2048, each alone in all the ways that there are to compute it.

All inputs are random. Each way is captured as a graph of REPEAT calls, whose inputs may lie in the L2 cache, and
compared with the same in float32.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves, tree_map

from m2f_ros import kernels
from m2f_ros.benchmark.measure import call_us, said
from m2f_ros.errors import words_of
from m2f_ros.model import float8

REPEAT, REPLAYS = 5, 10
Call = Callable[..., Any]
TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Case:
    """Something to compute, and ways to do it.

    Attributes:
        make: the inputs, given a function that makes random numbers of a shape.
        ways: name -> function of the inputs.
        exact: function of the inputs in float32; None: the first way.
        flops: operations, a multiply-add being two; 0 where they say nothing.
    """

    name: str
    make: Callable[[Call], tuple]
    ways: dict[str, Call]
    exact: Call | None = None
    flops: int = 0


def sweep(cases: list[Case], device: torch.device, note: Callable[[dict], None], found: dict) -> None:
    """Add a row for each case, type and way to `found`: microseconds, TFLOP/s, and the error relative to float32."""
    for case, (kind, dtype) in product(cases, TYPES.items()):
        torch.manual_seed(0)
        inputs = case.make(lambda *shape, dtype=dtype: torch.randn(shape, device=device).to(dtype))
        for name, way in case.ways.items():
            exact = case.exact or way
            row = {"case": case.name, "type": kind, "way": name, **timed(way, exact, inputs, device)}
            if case.flops and "us" in row:
                row["tflop_per_s"] = case.flops / row["us"] / 1e6
            found["rows"].append(row)
        note(found)


@torch.inference_mode()
def timed(call: Call, exact: Call, inputs: Sequence[Any], device: torch.device) -> dict:
    """The fields of a row about a call: its time, and its error relative to `exact`, or why it has none."""
    first, in_float = copied(inputs), copied(inputs, torch.float32)  # before a call that writes into its inputs
    try:
        row: dict[str, Any] = {"us": call_us(partial(call, *inputs), device, REPLAYS, REPEAT)}
        result = call(*first)
    except Exception as error:  # as where a kind of attention refuses a mask
        return said(error)
    try:
        row["relative_error"] = distance(result, exact(*in_float))
    except Exception as error:  # there is no way in float32
        row["without_relative_error"] = words_of(error, 200)
    return row


def copied(inputs: Any, dtype: torch.dtype | None = None) -> Any:
    """A copy of the arguments, tensors of numbers in another type where one is given."""

    def copy(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        return x.to(dtype, copy=True) if dtype and x.is_floating_point() else x.clone()

    return tree_map(copy, inputs)


def distance(result: Any, exact: Any) -> float | None:
    """Length of the difference over the length of `exact`, of all numbers of both; None where it is not finite."""
    pairs = list(zip(tree_leaves(result), tree_leaves(exact), strict=True))
    both = [(x.float(), y.float()) for x, y in pairs if isinstance(x, Tensor)]
    squares = sum((x - y).square().sum() for x, y in both) / sum(y.square().sum() for _, y in both)
    return float(squares) ** 0.5 if math.isfinite(float(squares)) else None


def products() -> list[Case]:
    """The linear layers of the backbone, the pixel decoder and the decoder, with what may follow them."""
    shapes = []
    for i, (tokens, dim) in enumerate(((131072, 192), (32768, 384), (8192, 768), (2048, 1536))):
        sides = {"qkv": (dim, 3 * dim), "proj": (dim, dim), "fc1": (dim, 4 * dim), "fc2": (4 * dim, dim)}
        shapes += [(f"stage {i} {name}", tokens, *side) for name, side in sides.items()]
        if i < 3:
            shapes.append((f"stage {i} merge", tokens // 4, 4 * dim, 2 * dim))
    encoder = {"projected": (256, 544), "output": (256, 256), "fc1": (256, 1024), "fc2": (1024, 256)}
    shapes += [(f"encoder {name}", 43008, *side) for name, side in encoder.items()]
    shapes.append(("decoder keys of a level", 32768, 256, 768))
    ways: dict[str, dict[str, Call]] = {
        "nothing": {"linear": lambda x, w, b: F.linear(x, w), "fp8": lambda x, w, b: _fp8(x, w, None)},
        "bias": {"linear": F.linear, "fp8": _fp8},
        "relu": {
            "apart": lambda x, w, b: F.relu(F.linear(x, w, b)),
            "in the product": lambda x, w, b: torch._addmm_activation(b, x, w.t()),
            "fp8, apart": lambda x, w, b: F.relu(_fp8(x, w, b)),
        },
        "gelu": {
            "apart": lambda x, w, b: F.gelu(F.linear(x, w, b)),
            "apart, own kernel": _own_gelu,
            "in the product, by tanh": lambda x, w, b: torch._addmm_activation(b, x, w.t(), use_gelu=True),
            "fp8, apart": lambda x, w, b: F.gelu(_fp8(x, w, b)),
        },
    }
    exact: dict[str, Call] = {name: next(iter(of.values())) for name, of in ways.items()}
    return [
        Case(f"{name} {m}x{k}x{n}, then {after}", partial(_linear, m, k, n), of, exact[after], 2 * m * k * n)
        for name, m, k, n in shapes
        for after, of in ways.items()
    ]


def _linear(rows: int, inputs: int, outputs: int, randn: Call) -> tuple:
    return randn(rows, inputs), randn(outputs, inputs) * inputs**-0.5, randn(outputs)


def _own_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    from m2f_ros.kernels.gelu import gelu_

    return gelu_(F.linear(x, weight, bias))


def _fp8(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer with float8 products; the inputs are quantised, and the weight, as if it were known before."""
    if kernels.use("float8", x):
        from m2f_ros.kernels.float8 import quantise
    else:
        quantise = float8.quantise
    values, scale = _prepared(weight, float8.quantise)
    return float8.multiply(*quantise(x), values, scale.view(1, -1), bias, x.dtype)


def _prepared(weights: Tensor, prepare: Call, *options: Any) -> Any:
    """Return what `prepare` makes of weights, made once for all calls with them."""
    global _kept
    if _kept is None or _kept[0] is not weights or _kept[1] != options:
        _kept = weights, options, prepare(weights, *options)
    return _kept[2]


_kept: tuple[Tensor, tuple, Any] | None = None


def attentions() -> list[Case]:
    """Attention by each of torch's backends: in windows with their bias, of queries with a mask, of queries alone."""
    backends = {"flash": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION}
    backends |= {"cudnn": SDPBackend.CUDNN_ATTENTION, "math": SDPBackend.MATH}

    ways: dict[str, Call] = {name: partial(_by, backend) for name, backend in backends.items()}
    cases: list[tuple[str, tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = []
    for i, (windows, heads) in enumerate(((946, 6), (242, 12), (66, 24), (18, 48))):
        shape = windows, heads, 144, 32
        cases.append((f"windows of stage {i}, bias", shape, shape, (1, heads, 144, 144)))
    for keys in (2048, 8192, 32768):
        cases.append((f"100 queries, {keys} keys, mask", (1, 8, 100, 32), (1, 8, keys, 32), (1, 8, 100, keys)))
    cases.append(("100 queries alone", (1, 8, 100, 32), (1, 8, 100, 32), ()))
    return [
        Case(
            f"attention: {name}",
            partial(_queries, q, k, mask, "mask" in name),
            ways,
            ways["math"],
            4 * q[0] * q[1] * q[2] * k[2] * q[3],
        )
        for name, q, k, mask in cases
    ]


def _by(backend: SDPBackend, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(query, key, value, mask)


def _queries(query: tuple, key: tuple, mask: tuple, of_signs: bool, randn: Call) -> tuple:
    masks = [randn(*mask) > 0 if of_signs else randn(*mask)] if mask else []
    return randn(*query), randn(*key), randn(*key), *masks


def norms() -> list[Case]:
    """torch's GroupNorm of the maps of the pixel decoder, and its LayerNorm after an addition."""
    maps = [(1, 256, h, w) for h, w in ((32, 64), (64, 128), (128, 256), (256, 512))]
    rows = [(131072, 192), (32768, 384), (8192, 768), (2048, 1536), (43008, 256)]
    group: dict[str, Call] = {"torch": lambda x, w, b: F.group_norm(x, 32, w, b)}
    layer: dict[str, Call] = {"torch": lambda x, y, w, b: F.layer_norm(x + y, (x.shape[-1],), w, b)}
    return [
        *(Case(f"GroupNorm {h}x{w}x{c}", partial(_map, (n, c, h, w)), group) for n, c, h, w in maps),
        *(Case(f"addition and LayerNorm {m}x{n}", partial(_rows, m, n), layer) for m, n in rows),
    ]


def _map(shape: tuple, randn: Call) -> tuple:
    return randn(*shape).to(memory_format=torch.channels_last), randn(shape[1]), randn(shape[1])


def _rows(m: int, n: int, randn: Call) -> tuple:
    return randn(m, n), randn(m, n), randn(n), randn(n)


def windows() -> list[Case]:
    """The kernel of window attention with other blocks, for which its bias is arranged otherwise."""
    maps = [(256, 512, 6), (128, 256, 12), (64, 128, 24), (32, 64, 48)]
    return [
        Case(
            f"window attention {h}x{w}, {heads} heads",
            partial(_window_inputs, h, w, heads),
            {f"{queries} queries a program": partial(_windows, queries, heads) for queries in (16, 32, 64, 128)},
            partial(_windows, 32, heads),
            4 * h * w * heads * 144 * 32,
        )
        for h, w, heads in maps
    ]


def _window_inputs(height: int, width: int, heads: int, randn: Call) -> tuple:
    columns = 3 * heads * 32
    return randn(1, height, width, columns), randn(columns), randn(4, heads, 144, 144)


def _windows(queries: int, heads: int, qkv: Tensor, pad: Tensor, bias: Tensor) -> Tensor:
    from m2f_ros.kernels import window

    with mock.patch.object(window, "QUERIES", queries):
        arranged = _prepared(bias, lambda bias, _: window.arrange(bias, 32), queries)
        return window.attend(qkv, pad, arranged, heads, 12, 6)


# Module of m2f_ros.kernels -> its constants, and the values to try. Those of the module itself are tried anyway.
BLOCKS: dict[str, dict[str, tuple]] = {
    "deformable": {"TILE": ((4, 4), (4, 8), (8, 8), (8, 16))},
    "semantic": {"WARPS": (1, 2, 4, 8)},
    "masked": {"KEYS": (32, 64, 128), "QUERIES": (64, 128), "CHUNK": (32, 64, 128), "PROGRAMS": (128, 256, 512)},
    "group_norm": {"CHUNKS": (32, 64, 128, 256), "PROGRAMS": (256, 512, 1024)},
    "gelu": {"BLOCK": (512, 1024, 2048, 4096)},
    "overlay": {"BLOCK": (256, 1024, 2048)},
    "float8": {"NUMBERS": (2048, 4096, 8192)},
}


@dataclass(frozen=True)
class Recorded:
    """A call of a function of m2f_ros.kernels."""

    module: ModuleType
    function: str
    args: tuple
    kwargs: dict

    @property
    def name(self) -> str:
        what = [tuple(x.shape) if isinstance(x, Tensor) else x for x in (*self.args, *self.kwargs.values())]
        return f"{self.module.__name__.rpartition('.')[2]}.{self.function}{str(what)[:160]}"

    def run(self, args: tuple, kwargs: dict, constant: str = "", value: int = 0) -> Any:
        """Call it with these arguments, and another value of a constant of its module where one is named."""
        with mock.patch.object(self.module, constant, value) if constant else contextlib.nullcontext():
            return getattr(self.module, self.function)(*args, **kwargs)


@contextlib.contextmanager
def recorded() -> Iterator[dict[str, Recorded]]:
    """The first call of each function of m2f_ros.kernels with arguments of these shapes, in the block."""
    found: dict[str, Recorded] = {}
    with contextlib.ExitStack() as stack:
        for info in pkgutil.iter_modules(kernels.__path__, f"{kernels.__name__}."):
            module = importlib.import_module(info.name)
            for name, function in list(vars(module).items()):
                if not name.startswith("_") and getattr(function, "__module__", "") == info.name and callable(function):
                    call = partial(_record, found, module, name, function)
                    stack.enter_context(mock.patch.object(module, name, call))
        yield found


def _record(
    found: dict[str, Recorded], module: ModuleType, name: str, function: Call, *args: Any, **kwargs: Any
) -> Any:
    call = Recorded(module, name, args, kwargs)
    found.setdefault(call.name, call)
    return function(*args, **kwargs)


def sweep_blocks(calls: dict[str, Recorded], device: torch.device, note: Callable[[dict], None], found: dict) -> None:
    """Add rows for calls of kernels: as they are, and with each of BLOCKS."""
    for name, call in calls.items():
        ways: dict[str, Call] = {"as it is": call.run}
        for constant, values in BLOCKS.get(call.module.__name__.rpartition(".")[2], {}).items():
            for value in values:
                if value != getattr(call.module, constant, value):
                    ways[f"{constant} {value}"] = partial(call.run, constant=constant, value=value)
        for way, run in ways.items():
            row = timed(run, call.run, copied((call.args, call.kwargs)), device)
            found["rows"].append({"case": name, "way": way, **row})
        note(found)
