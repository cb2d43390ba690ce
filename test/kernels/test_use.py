"""Which kernel is taken where."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from m2f_ros import kernels
from m2f_ros.errors import ConfigError


def cuda_tensor(requires_grad: bool = False) -> SimpleNamespace:
    """The attributes that `use` reads, of a tensor on a GPU that is not there."""
    device = torch.device("cuda", 0)
    return SimpleNamespace(is_cuda=True, device=device, requires_grad=requires_grad, element_size=lambda: 2)


@pytest.fixture
def hopper(monkeypatch) -> None:
    monkeypatch.setattr(kernels, "_known", {})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(kernels.importlib.util, "find_spec", lambda name: name)


def test_a_cpu_has_none() -> None:
    assert not any(kernels.use(name, torch.zeros(1)) for name in kernels.names)


def test_a_gpu_has_all(hopper) -> None:
    assert all(kernels.use(name, cuda_tensor()) for name in kernels.names)


@pytest.mark.parametrize("capability, wanted", [((7, 5), False), ((8, 0), True), ((12, 0), True)])
def test_old_gpus_have_none(hopper, monkeypatch, capability, wanted) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert kernels.use("overlay", cuda_tensor()) is wanted
    assert kernels.usable(cuda_tensor()) is wanted


def test_without_triton_there_are_none(hopper, monkeypatch) -> None:
    monkeypatch.setattr(kernels.importlib.util, "find_spec", lambda name: None)
    assert not kernels.use("overlay", cuda_tensor())


def test_what_wants_gradients_goes_without(hopper) -> None:
    wanted = cuda_tensor(requires_grad=True)
    assert not kernels.use("window_attention", wanted)
    with torch.no_grad():
        assert kernels.use("window_attention", wanted)


def test_attention_with_wide_heads_goes_without(hopper) -> None:
    assert kernels.use("masked_attention", cuda_tensor(), 64)
    assert not kernels.use("masked_attention", cuda_tensor(), 65)


def test_some_off_then_on_again(hopper) -> None:
    def unused() -> set[str]:
        return {name for name in kernels.names if not kernels.use(name, cuda_tensor())}

    with kernels.off("overlay"):
        assert unused() == {"overlay"}
        with pytest.raises(RuntimeError), kernels.off():
            assert unused() == set(kernels.names)
            raise RuntimeError
        assert unused() == {"overlay"}
    assert unused() == set()


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no kernel 'softmax'"), kernels.off("softmax"):
        pass


@pytest.mark.parametrize(
    "value, off",
    [
        ("", set()),
        ("off", set(kernels.names)),
        ("overlay, window_attention", {"overlay", "window_attention"}),
    ],
)
def test_environment(monkeypatch, value, off) -> None:
    monkeypatch.setenv("M2F_KERNELS", value)
    assert kernels._read_environment() == off


def test_environment_with_a_wrong_name(monkeypatch) -> None:
    monkeypatch.setenv("M2F_KERNELS", "fast")
    with pytest.raises(ConfigError, match="M2F_KERNELS: there is no kernel 'fast'"):
        kernels._read_environment()


class Asks(torch.nn.Module):
    """Gives 0 if a kernel is used, else 1, or 2 if it asks during an export."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if kernels.exporting():
            return torch.full_like(x, 2)
        return torch.zeros_like(x) if kernels.use("overlay", x) else torch.ones_like(x)


@pytest.mark.parametrize("fullgraph", [True, False])
def test_an_export_is_no_compilation_and_a_compilation_no_export(fullgraph) -> None:
    x = torch.full((2,), 3.0)
    torch._dynamo.reset()
    compiled = torch.compile(Asks(), backend="eager", fullgraph=fullgraph)
    assert compiled(x).tolist() == [1, 1]
    for strict in (True, False):
        assert torch.export.export(Asks(), (x,), strict=strict).module()(x).tolist() == [2, 2]
    assert compiled(x).tolist() == Asks()(x).tolist() == [1, 1]


def test_an_export_uses_none(hopper, monkeypatch) -> None:
    monkeypatch.setattr(torch.compiler, "_is_exporting_flag", True)
    assert not any(kernels.use(name, cuda_tensor()) for name in kernels.names)


def test_torch_compile_does_not_look_into_the_device(hopper) -> None:
    twice = torch.compile(lambda x: x * 2 if kernels._supported(0) else x, backend="eager", fullgraph=True)
    assert twice(torch.ones(2)).tolist() == [2, 2]


@pytest.mark.process
def test_asking_does_not_import_triton() -> None:
    code = (
        "import sys, torch; from m2f_ros import kernels; before = 'triton' in sys.modules;"
        "kernels.use('overlay', torch.zeros(1)); assert ('triton' in sys.modules) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)


@pytest.mark.process
def test_torch_s_compiler_is_imported_where_it_is_used_only():
    code = "import sys, m2f_ros.model, m2f_ros.pipeline\nassert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    # This mark tells the compiler not to look into a function.
    mark = vars(torch.compiler.assume_constant_result(lambda: 0))
    assert mark == vars(kernels._supported) == vars(kernels.exporting)
