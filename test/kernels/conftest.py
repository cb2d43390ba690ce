"""Kernels run on the GPU where there is one, else through Triton's interpreter."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import pytest
import torch

from m2f_ros import kernels as package


@pytest.fixture
def device(interpreter, poison) -> Iterator[torch.device]:
    """Where the test puts its tensors."""
    if torch.cuda.is_available():
        yield torch.device("cuda")
    else:
        with interpreter():
            yield torch.device("cpu")


@pytest.fixture
def interpreter() -> Callable[[], AbstractContextManager[None]]:
    """Meanwhile Triton's functions and this package's kernels run in Python on the CPU."""
    pytest.importorskip("triton")
    return _interpreter


@pytest.fixture
def poison() -> Iterator[None]:
    """New memory holds NaN, or the highest integer: what a kernel does not write shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.empty(4).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)


@contextmanager
def _interpreter() -> Iterator[None]:
    # Setting TRITON_INTERPRET is not enough: Triton reads it when a function is decorated. And what the interpreter
    # puts in place of the language's functions partly stays after it, so that nothing can be compiled any more.
    import triton.language as tl
    from triton.runtime import interpreter
    from triton.runtime.interpreter import InterpretedFunction, InterpreterBuilder
    from triton.runtime.jit import JITFunction

    kernels = [importlib.import_module(f"{package.__name__}.{x.name}") for x in pkgutil.iter_modules(package.__path__)]
    owners = [tl, tl.core, tl.math, tl.standard, tl.tensor, tl.dtype, tl.core.tensor_descriptor_base]
    before = [dict(vars(owner)) for owner in owners]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        for module in (tl, tl.standard, *kernels):
            for name, function in list(vars(module).items()):
                if isinstance(function, JITFunction):
                    patch.setattr(module, name, InterpretedFunction(function.fn))
        patch.setattr(InterpreterBuilder, "create_dot", _with_bfloat16(InterpreterBuilder.create_dot))
        patch.setattr(interpreter, "_convert_float", _rounding(interpreter._convert_float))
        yield
    for owner, members in zip(owners, before, strict=True):
        for name, member in members.items():
            if vars(owner)[name] is not member and name not in ("__dict__", "__weakref__"):
                setattr(owner, name, member)


def _with_bfloat16(dot: Callable) -> Callable:
    """The interpreter's product of matrices, which takes the bits of a bfloat16 for an integer."""
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    def exact(handle: TensorHandle) -> TensorHandle:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    return lambda self, a, b, *rest: dot(self, exact(a), exact(b), *rest)


def _rounding(convert: Callable) -> Callable:
    """The interpreter's conversion, which cuts off where it should round, or forgets the carry to a power of two."""
    import triton.language as tl

    types = {tl.float8e4nv: (torch.float8_e4m3fn, torch.uint8), tl.bfloat16: (torch.bfloat16, torch.uint16)}

    def exact(numbers: np.ndarray, before: tl.dtype, after: tl.dtype, rounding: object) -> np.ndarray:
        if before != tl.float32 or after not in types:
            return convert(numbers, before, after, rounding)
        dtype, bits = types[after]
        return torch.tensor(numbers.view(np.float32)).to(dtype).view(bits).numpy()

    return exact
