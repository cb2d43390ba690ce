"""Each kernel, as it is launched at Swin-L's sizes, compiles for GPUs that need not be there, and fits them."""

import re
import subprocess
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from m2f_ros.kernels import (
    deformable,
    float8,
    gelu,
    group_norm,
    masked,
    overlay,
    patch_merging,
    queries,
    residual_norm,
    semantic,
    window,
)

# Compute capability: bytes of shared memory that a program may take. (Orin, Ada, Hopper)
SHARED = {87: 99 << 10, 89: 99 << 10, 90: 227 << 10}
TYPES = {
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.float8_e4m3fn: "*fp8e4nv",
    torch.uint8: "*u8",
    torch.int32: "*i32",
    torch.int64: "*i64",
}
SIZE = (1024, 2048)


def tensor(*shape: int, dtype: torch.dtype = torch.float16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def attend_deformable(dtype: torch.dtype, width: int = 2048, heads: int = 8) -> None:
    shapes = [(1024 // stride, width // stride) for stride in (8, 16, 32)]
    tables = (tensor(sum(sizes), 36 * heads, dtype=torch.float32) for sizes in zip(*shapes, strict=True))
    projected = tensor(1, sum(h * w for h, w in shapes), 36 * heads + 256, dtype=dtype)
    deformable.attend(projected, *tables, heads, shapes)


def attend_window(size: int, shift: int, dtype: torch.dtype = torch.float16, heads: int = 6) -> None:
    bias = window.arrange(tensor(4 if shift else 1, heads, size**2, size**2, dtype=dtype), 32)
    columns = 3 * 32 * heads
    window.attend(tensor(1, 256, 512, columns, dtype=dtype), tensor(columns, dtype=dtype), bias, heads, size, shift)


def attend_masked(
    size: tuple[int, int] = (128, 256), queries: int = 100, heads: int = 8, dtype: torch.dtype = torch.float16
) -> None:
    (height, width), query = size, tensor(1, queries, 256, dtype=dtype)
    keys = tensor(1, height * width, 1536, dtype=dtype)[..., :256]
    features, rows = tensor(1, height * width, 256, dtype=dtype), tensor(height, 768, dtype=dtype)[:, :256]
    columns = tensor(width, 768, dtype=dtype)[:, :256]
    masked.attend(query, query, tensor(1, queries, dtype=dtype), features, keys, keys, rows, columns, heads)


def predict_masks(dtype: torch.dtype = torch.float16) -> None:
    offset = tensor(1, 100, 1, dtype=dtype)
    masked.predict(tensor(1, 100, 256, dtype=dtype), offset, tensor(1, 256, 512, 256, dtype=dtype))


class Weights(NamedTuple):
    """In place of a linear layer or a norm."""

    weight: Tensor
    bias: Tensor
    eps: float = 1e-5


def query_layer(classes: bool = False, count: int = 100, dtype: torch.dtype = torch.float16) -> None:
    def linear(inputs: int, outputs: int) -> Weights:
        return Weights(tensor(outputs, inputs, dtype=dtype), tensor(outputs, dtype=dtype))

    query, square, norm = (
        tensor(1, count, 256, dtype=dtype),
        linear(256, 256),
        Weights(tensor(256, dtype=dtype), tensor(256, dtype=dtype)),
    )
    own = queries.project_own(
        query, query, square, norm, tensor(768, 256, dtype=dtype), tensor(count, 768, dtype=dtype)
    )
    x, summands = queries.feed(own[1], own[0], 8, square, norm, linear(256, 2048), linear(2048, 256))
    embed = (square.weight, square.bias, tensor(1, 256, dtype=dtype), tensor(1, dtype=dtype))
    weight, term = (tensor(20, 256), tensor(20)) if classes else (square.weight, query[0])
    queries.ask(x, summands, square.bias, norm, norm, square, square, embed, weight, term)


def add_norm(channels: int, dtype: torch.dtype = torch.float16) -> None:
    x, weight = tensor(1, 1024, channels, dtype=dtype), tensor(channels, dtype=dtype)
    residual_norm.add_norm(x, x, weight, weight, 1e-5)


def norm_of_sum() -> None:
    residual_norm.norm_of_sum(tensor(1, 43008, 256), tensor(1, 43008, 256), tensor(256), tensor(256), 1e-5)


def normalise(dtype: torch.dtype = torch.float16, **more) -> None:
    weight = tensor(256, dtype=dtype)
    group_norm.group_norm(tensor(1, 256, 512, 256, dtype=dtype), 32, weight, weight, 1e-5, **more)


def normalise_and_add(dtype: torch.dtype = torch.float16) -> None:
    normalise(dtype, coarse=tensor(1, 128, 256, 256, dtype=dtype))


def merge(channels: int, dtype: torch.dtype = torch.float16) -> None:
    weight = tensor(4 * channels, dtype=dtype)
    patch_merging.merge(tensor(1, 256, 512, channels, dtype=dtype), weight, weight, 1e-5)


def labels(
    classes: int,
    frame: tuple[int, int],
    dtype: torch.dtype = torch.float16,
    maps: tuple[int, int] = (SIZE[0] // 4, SIZE[1] // 4),
) -> None:
    semantic.labels(tensor(1, 100, classes + 1), tensor(1, 100, *maps, dtype=dtype), SIZE, frame, True)


def blend() -> None:
    colours = (tensor(19, 3, dtype=torch.uint8), tensor(19, dtype=torch.int32))
    overlay.blend(tensor(*SIZE, 3, dtype=torch.uint8), tensor(*SIZE, dtype=torch.uint8), *colours)


# Name -> module, kernel in it, and a call that launches it.
LAUNCHES: dict[str, tuple[ModuleType, str, Callable[[], None]]] = {
    "deformable": (deformable, "_deformable_attention", lambda: attend_deformable(torch.float16)),
    "deformable, one column": (deformable, "_deformable_attention", lambda: attend_deformable(torch.float16, 32)),
    "deformable, fp32": (deformable, "_deformable_attention", lambda: attend_deformable(torch.float32)),
    "deformable, heads of 64": (deformable, "_deformable_attention", lambda: attend_deformable(torch.float16, heads=4)),
    "window 7": (window, "_window_attention", lambda: attend_window(7, 3)),
    "window 12": (window, "_window_attention", lambda: attend_window(12, 6)),
    "window 16": (window, "_window_attention", lambda: attend_window(16, 8)),
    "window 12, fp32": (window, "_window_attention", lambda: attend_window(12, 6, torch.float32)),
    "masked": (masked, "_attend_parts", attend_masked),
    "masked, fp32": (masked, "_attend_parts", lambda: attend_masked(dtype=torch.float32)),
    "masked, 200 queries": (masked, "_attend_parts", lambda: attend_masked(queries=200)),
    "masked, 50 queries": (masked, "_attend_parts", lambda: attend_masked(queries=50)),
    "masked, heads of 64": (masked, "_attend_parts", lambda: attend_masked(heads=4)),
    "masked, combine": (masked, "_combine", attend_masked),
    "masked, middles": (masked, "_middles", lambda: masked.middles(tensor(1, 256, 512, 256)) and None),
    "masked, predict": (masked, "_predict", predict_masks),
    "masked, predict, fp32": (masked, "_predict", lambda: predict_masks(torch.float32)),
    "queries, own": (queries, "_project_own", query_layer),
    "queries, feed": (queries, "_feed", query_layer),
    "queries, feed, 200 queries": (queries, "_feed", lambda: query_layer(count=200)),
    "queries, feed, fp32": (queries, "_feed", lambda: query_layer(dtype=torch.float32)),
    "queries, ask": (queries, "_ask", query_layer),
    "queries, ask, fp32": (queries, "_ask", lambda: query_layer(dtype=torch.float32)),
    "queries, classes": (queries, "_ask", lambda: query_layer(classes=True)),
    "residual 192": (residual_norm, "_add_norm", lambda: add_norm(192)),
    "residual 1536": (residual_norm, "_add_norm", lambda: add_norm(1536)),
    "residual 1536, fp32": (residual_norm, "_add_norm", lambda: add_norm(1536, torch.float32)),
    "residual, sum not kept": (residual_norm, "_add_norm", norm_of_sum),
    "gelu": (gelu, "_gelu", lambda: gelu.gelu_(tensor(1, 256, 512, 768))),
    "moments": (group_norm, "_group_moments", normalise),
    "group norm": (group_norm, "_group_norm", lambda: normalise(relu=True)),
    "group norm, added to": (group_norm, "_group_norm", normalise_and_add),
    "moments, fp32": (group_norm, "_group_moments", lambda: normalise(torch.float32)),
    "group norm, added to, fp32": (group_norm, "_group_norm", lambda: normalise_and_add(torch.float32)),
    "patch merging 192": (patch_merging, "_merge", lambda: merge(192)),
    "patch merging 768": (patch_merging, "_merge", lambda: merge(768)),
    "patch merging 768, fp32": (patch_merging, "_merge", lambda: merge(768, torch.float32)),
    "semantic": (semantic, "_labels_of_cells", lambda: labels(19, SIZE)),
    "semantic, fp32": (semantic, "_labels_of_cells", lambda: labels(19, SIZE, torch.float32)),
    "semantic, 65 classes": (semantic, "_labels_of_cells", lambda: labels(65, SIZE)),
    "semantic, scores": (semantic, "_labels_of_cells", lambda: labels(19, (1080, 1920))),
    "semantic, other frame": (semantic, "_labels_of_scores", lambda: labels(19, (1080, 1920))),
    "semantic, other frame and maps": (semantic, "_labels", lambda: labels(19, (1080, 1920), maps=(128, 256))),
    "semantic, ADE20K": (semantic, "_labels", lambda: labels(150, SIZE)),
    "semantic, 1024 classes": (semantic, "_labels", lambda: labels(1024, SIZE)),
    "semantic, 512 classes, fp32": (semantic, "_labels", lambda: labels(512, SIZE, torch.float32)),
    "overlay": (overlay, "_blend", blend),
    "float8, gelu": (float8, "_quantise", lambda: float8.quantise(tensor(8192, 3072), "gelu")),
    "float8, none": (float8, "_quantise", lambda: float8.quantise(tensor(8192, 768))),
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
        for kernel in {kernel for other, kernel, _ in LAUNCHES.values() if other is module}:
            monkeypatch.setattr(module, kernel, Recorder(getattr(module, kernel)))
        recorder = getattr(module, function)
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
@pytest.mark.parametrize("capability", [*(pytest.param(n, marks=pytest.mark.more) for n in (87, 89)), 90])
@pytest.mark.parametrize("name", [name for name in LAUNCHES if "fp32" not in name])
def test_compiles_and_fits(build, record_property, name, capability) -> None:
    if "float8" in name and capability < 89:
        pytest.skip("the device has no float8 products")
    usage = build(name, capability)
    record_property("usage", vars(usage))
    assert usage.shared <= SHARED[capability]
    assert usage.stack == 0, "registers are spilled"


def test_one_window_kernel_serves_all_stages_and_shifts(monkeypatch) -> None:
    recorder = Recorder(window._window_attention)
    monkeypatch.setattr(window, "_window_attention", recorder)
    kernels = set()
    for heads, shift in ((6, 0), (6, 6), (48, 6)):
        attend_window(12, shift, heads=heads)
        kernels.add(recorder.source().hash())
    assert len(kernels) == 1


@pytest.mark.process
@pytest.mark.parametrize("capability", SHARED)
def test_the_window_bias_goes_straight_to_registers(build, capability) -> None:
    keys_values_queries = (144 + 144 + window.QUERIES) * 32 * 2
    assert build("window 12", capability).shared == keys_values_queries, "it takes shared memory"


@pytest.mark.process
@pytest.mark.parametrize("capability", SHARED)
def test_the_masks_of_cells_stay_in_registers(build, capability) -> None:
    weights = 16 * 32 * 4
    assert build("semantic", capability).shared <= weights, "they take shared memory"


@pytest.mark.process
@pytest.mark.parametrize("name", [name for name in LAUNCHES if "fp32" in name])
def test_float32_compiles_and_fits_the_smallest(build, record_property, name) -> None:
    usage = build(name, 89)
    record_property("usage", vars(usage))
    assert usage.shared <= SHARED[89]


@pytest.mark.parametrize(
    "name",
    [
        "deformable",
        "window 12",
        "residual 192",
        "semantic",
        "semantic, other frame",
        "masked",
        "queries, ask",
        "overlay",
    ],
)
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
