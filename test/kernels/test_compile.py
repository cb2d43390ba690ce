"""Each kernel, as it is launched at Swin-L's sizes, compiles for GPUs that need not be there, and fits them."""

import re
import subprocess
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from m2f_ros.kernels import deformable, overlay, semantic, window

# Compute capability: bytes of shared memory that a program may take. (Orin, Ada, Hopper)
SHARED = {87: 99 << 10, 89: 99 << 10, 90: 227 << 10}
TYPES = {torch.float16: "*fp16", torch.float32: "*fp32", torch.uint8: "*u8", torch.int32: "*i32"}
SIZE = (1024, 2048)


def tensor(*shape: int, dtype: torch.dtype = torch.float16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def attend_deformable(dtype: torch.dtype) -> None:
    shapes = [(128, 256), (64, 128), (32, 64)]
    deformable.attend(tensor(1, sum(h * w for h, w in shapes), 544, dtype=dtype), 8, shapes)


def attend_window(size: int, shift: int, dtype: torch.dtype = torch.float16) -> None:
    bias = tensor(6, size**2, -(-(size**2) // 8) * 8, dtype=dtype)[..., : size**2]
    window.attend(tensor(1, 256, 512, 576, dtype=dtype), tensor(576, dtype=dtype), bias, 6, size, shift)


def labels(classes: int, frame: tuple[int, int], dtype: torch.dtype = torch.float16) -> None:
    semantic.labels(tensor(1, 100, classes + 1), tensor(1, 100, 256, 512, dtype=dtype), SIZE, frame, True)


def blend() -> None:
    colours = (tensor(19, 3, dtype=torch.uint8), tensor(19, dtype=torch.int32))
    overlay.blend(tensor(*SIZE, 3, dtype=torch.uint8), tensor(*SIZE, dtype=torch.uint8), *colours)


# Name -> module, kernel in it, and a call that launches it.
LAUNCHES: dict[str, tuple[ModuleType, str, Callable[[], None]]] = {
    "deformable": (deformable, "_deformable_attention", lambda: attend_deformable(torch.float16)),
    "deformable, fp32": (deformable, "_deformable_attention", lambda: attend_deformable(torch.float32)),
    "window 7": (window, "_window_attention", lambda: attend_window(7, 3)),
    "window 12": (window, "_window_attention", lambda: attend_window(12, 0)),
    "window 12, shifted": (window, "_window_attention", lambda: attend_window(12, 6)),
    "window 12, shifted, fp32": (window, "_window_attention", lambda: attend_window(12, 6, torch.float32)),
    "semantic": (semantic, "_labels", lambda: labels(19, SIZE)),
    "semantic, fp32": (semantic, "_labels", lambda: labels(19, SIZE, torch.float32)),
    "semantic, other frame": (semantic, "_labels", lambda: labels(19, (1080, 1920))),
    "semantic, ADE20K": (semantic, "_labels", lambda: labels(150, SIZE)),
    "overlay": (overlay, "_blend", blend),
}


class Recorder:
    """In place of a kernel: keeps with what it was launched."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        def launch(*args, num_warps: int, num_stages: int = 3, **constants) -> None:
            self.options = {"num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": True}
            self.values = dict(zip(self.kernel.arg_names, args, strict=False)) | constants

        return launch

    def source(self) -> ASTSource:
        signature, constants, attributes = {}, {}, {}
        for index, name in enumerate(self.kernel.arg_names):
            value = self.values[name]
            if isinstance(value, Tensor):
                signature[name] = TYPES[value.dtype]
                attributes[(index,)] = [["tt.divisibility", 16]]
            elif self.kernel.params[index].is_constexpr or value is None:
                signature[name], constants[(index,)] = "constexpr", value
            else:
                # So it is for sizes only as long as Triton does not specialise the kernel on them.
                assert isinstance(value, float) or self.kernel.params[index].do_not_specialize
                signature[name] = "fp32" if isinstance(value, float) else "i32"
        return ASTSource(self.kernel, signature, constants, attributes)


@pytest.fixture
def build(monkeypatch, tmp_path) -> Callable[[str, int], SimpleNamespace]:
    """Compile a launch for a compute capability -> its shared memory and stack, in bytes, and its registers."""

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

    def build(name: str, capability: int) -> SimpleNamespace:
        module, function, call = LAUNCHES[name]
        recorder = Recorder(getattr(module, function))
        monkeypatch.setattr(module, function, recorder)
        call()
        compiled = triton.compile(recorder.source(), target=GPUTarget("cuda", capability, 32), options=recorder.options)
        binary = tmp_path / "kernel.cubin"
        binary.write_bytes(compiled.asm["cubin"])
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(binary)]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", usage).groups()
        return SimpleNamespace(shared=compiled.metadata.shared, registers=int(registers), stack=int(stack))

    return build


@pytest.mark.process
@pytest.mark.parametrize("capability", SHARED)
@pytest.mark.parametrize("name", [name for name in LAUNCHES if "fp32" not in name])
def test_compiles_and_fits(build, record_property, name, capability) -> None:
    usage = build(name, capability)
    record_property("usage", vars(usage))
    assert usage.shared <= SHARED[capability]
    assert usage.stack == 0, "registers are spilled"


@pytest.mark.process
@pytest.mark.parametrize("name", [name for name in LAUNCHES if "fp32" in name])
def test_float32_compiles_and_fits_the_smallest(build, record_property, name) -> None:
    usage = build(name, 89)
    record_property("usage", vars(usage))
    assert usage.shared <= SHARED[89]


@pytest.mark.parametrize("name", ["deformable", "window 12, shifted", "semantic, other frame", "overlay"])
def test_torch_compile_takes_it_into_its_graph(monkeypatch, name) -> None:
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: True)  # which asks for a GPU
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return lambda *inputs: ()

    torch.compile(LAUNCHES[name][2], backend=backend, fullgraph=True)()
    targets = [node.target for node in graphs[0].graph.nodes]
    assert torch.ops.higher_order.triton_kernel_wrapper_mutation in targets


@pytest.mark.process
def test_the_interpreter_leaves_no_trace(interpreter, build) -> None:
    with interpreter():
        empty = [torch.zeros(shape, dtype=torch.uint8) for shape in ((1, 1, 3), (1, 1), (1, 3), (1,))]
        assert overlay.blend(*empty).tolist() == [[[0, 0, 0]]]
    build("overlay", 90)
