"""Every backend gives what the network gives; what a machine lacks is one line."""

import contextlib
import logging
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from m2f_ros import cache
from m2f_ros.errors import ConfigError
from m2f_ros.model import heads, load, save
from m2f_ros.pipeline import Frame, Pipeline, backends
from m2f_ros.pipeline.backends import choose_backend, make_backend
from m2f_ros.pipeline.classes import taxonomy_of
from m2f_ros.pipeline.resize import Placement

CPU = torch.device("cpu")


@pytest.fixture
def small(small_model):
    model = load(small_model)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():  # queries of several classes
        for weight in (model.decoder.class_predictor.weight, model.decoder.query_features.weight):
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return model


@pytest.fixture
def openvino(monkeypatch, tmp_path):
    """The module under test, with a cache folder of its own."""
    pytest.importorskip("openvino", reason="openvino is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    from m2f_ros.pipeline.backends import openvino

    return openvino


@pytest.fixture
def conversions(openvino, monkeypatch):
    """(size, batch) of each conversion. A small model stands for the network, which would take seconds."""
    done = []

    def convert(model, size, batch, quantisation=None):
        done.append((size, batch))
        return two_outputs(batch, *size)

    monkeypatch.setattr(openvino, "convert", convert)
    return done


def two_outputs(batch, height, width):
    """An OpenVINO model of the pixels' maximum over the image and of the pixels times 2."""
    import openvino
    from openvino import opset13 as ops

    pixels = ops.parameter([batch, height, width, 3], openvino.Type.f32)
    return openvino.Model([ops.reduce_max(pixels, [1, 2]), ops.add(pixels, pixels)], [pixels])


def picture(height, width, batch=1):
    """(batch, 3, height, width) channels last: patches of colour and some noise."""
    generator = torch.Generator().manual_seed(3)
    patches = torch.randn(batch, 3, height // 32, width // 32, generator=generator)
    noise = torch.randn(batch, 3, height, width, generator=generator) * 0.2
    return (F.interpolate(patches, (height, width)) + noise).contiguous(memory_format=torch.channels_last)


def expect_same(backend, model, pixels, tolerance=1e-3):
    size = tuple(pixels.shape[-2:])
    with torch.inference_mode():
        expected = model(pixels)[:2]
    actual = backend(pixels)
    for a, b in zip(actual, expected, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() < tolerance
    labels = [heads.semantic(*logits, size, size)[0] for logits in (actual, expected)]
    # Where two classes score the same but for rounding, a pixel may differ.
    assert (labels[0] != labels[1]).float().mean() < 1e-4
    assert len(labels[0].unique()) > 1  # a picture, not one class everywhere


def test_eager(small):
    backend = make_backend("eager", small)
    backend.build((64, 96))
    for size in ((64, 96), (96, 64)):
        expect_same(backend, small, picture(*size, batch=2), tolerance=1e-6)


def test_eager_keeps_the_plans_of_the_last_sizes(small, monkeypatch):
    made = []
    plan = small.plan
    monkeypatch.setattr(small, "plan", lambda *size: made.append(size) or plan(*size))
    backend = make_backend("eager", small)
    backend.build((64, 96))
    for _ in range(3):
        backend(picture(64, 96))
    assert made == [(64, 96)]
    for width in range(1, backends.SIZES + 1):
        backend.build((32, 32 * width))
    backend(picture(64, 96))
    assert made.count((64, 96)) == 2


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("device", ["cuda:0", "cpu"])
def test_attention_is_without_cudnn_inside_the_network_only(device, before):
    def attention():
        cuda = torch.backends.cuda
        return cuda.cudnn_sdp_enabled(), cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled()

    was = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(before)
        with pytest.raises(KeyError), backends.without_cudnn_attention(torch.device(device)):
            assert attention() == (before and device == "cpu", True, True)
            raise KeyError
        assert attention() == (before, True, True)
    finally:
        torch.backends.cuda.enable_cudnn_sdp(was)


@pytest.mark.parametrize("name", ["eager", "compile"])
def test_backends_compute_attention_without_cudnn(small, monkeypatch, name):
    inside, network = [], lambda pixels, plan: inside.append(on.pop()) or (pixels, pixels, None)
    on = []

    @contextlib.contextmanager
    def without(device):
        on.append(device)
        yield

    monkeypatch.setattr(torch, "compile", lambda model, **_: network)
    monkeypatch.setattr(type(small), "forward", lambda self, *of: network(*of))
    monkeypatch.setattr(backends, "without_cudnn_attention", without)
    backend = make_backend(name, small)
    backend.build((64, 96))
    backend(picture(64, 96))
    assert inside == [CPU] * (2 if name == "compile" else 1)  # the compilation, too


@pytest.mark.heavy
@pytest.mark.parametrize("size, batch", [((96, 128), 1), ((64, 96), 2)])
def test_openvino(size, batch, small, openvino, monkeypatch):
    backend = make_backend("openvino", small)
    assert (backend.name, backend.dtype) == ("openvino", torch.float32)
    expect_same(backend, small, picture(*size, batch))
    expect_same(backend, small, picture(*size, batch).contiguous())

    monkeypatch.setattr(openvino, "convert", None)  # what was kept of it serves
    expect_same(make_backend("openvino", small), small, picture(*size, batch))


@pytest.mark.heavy
def test_openvino_on_the_shipped_model(openvino):
    model, size = load("street"), (352, 480)  # its weights are fp16 on disk, fp32 here
    pixels = picture(*size)
    expect_same(make_backend("openvino", model), model, pixels)
    if "BF16" not in openvino.core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bf16")
    rounded = make_backend("openvino", model, "bf16")
    with torch.inference_mode():
        labels = [heads.semantic(*run(pixels)[:2], size, size)[0] for run in (model, rounded)]
    # This picture is hard. With the sampling points in bf16, too, 9 % of the pixels differ.
    assert (labels[0] == labels[1]).float().mean() > 0.96


@pytest.mark.heavy
@pytest.mark.parametrize("size", [(64, 96), (96, 64)])
def test_openvino_in_eight_bits(size, small, openvino):
    """At sizes other than the calibrated one, too: products are integers, and results are those of the rounding."""
    from m2f_ros.export.calibrate import calibrate
    from m2f_ros.model.quantised import quantised

    with pytest.raises(ConfigError, match=r"has no weights in eight bits.*m2f quantize"):
        make_backend("openvino", small, "int8")
    small.quantisation = calibrate(small, [picture(64, 64), picture(64, 64).flip(3)]).quantisation
    backend = make_backend("openvino", small, "int8")
    pixels = picture(*size)
    with torch.inference_mode():
        exact, found = small(pixels)[:2], backend(pixels)
        with quantised(small, small.quantisation):
            rounded = small(pixels)[:2]
    for x, y, z in zip(exact, found, rounded, strict=True):
        assert not torch.equal(x, y)
        assert (y - z).norm() < 0.1 * z.norm()
    parts = [*(step[0] for step in backend.build(size)._steps), backend.build(size)._last]
    kinds = [
        (info["layerType"].value, info["runtimePrecision"].value)
        for part in parts
        for info in (node.get_rt_info() for node in part.get_compiled_model().get_runtime_model().get_ops())
    ]
    integers = [kind for kind, precision in kinds if kind in ("Convolution", "FullyConnected") and "8" in precision]
    assert len(integers) == len(small.quantisation.ranges) > 40


@pytest.mark.heavy
def test_openvino_has_no_weighted_sum_to_make(small, openvino):
    """They take it much longer than PyTorch."""
    from m2f_ros.pipeline.backends.openvino_parts import split

    network = openvino.convert(small, (64, 96), 1)
    assert [node.get_type_name() for node in network.get_ops()].count("EmbeddingBagOffsets") == 1
    parts = split(network)
    assert [[len(port.names & {"table", "rows", "factors"}) for port in part.outputs].count(1) for part in parts] == [
        3,
        0,
    ]
    assert not any("EmbeddingBag" in node.get_type_name() for part in parts for node in part.get_ops())


@pytest.mark.heavy
def test_converting_leaves_no_text_of_graphs_in_memory(small, openvino):
    texts = torch.fx.graph_module._loader.eval_cache
    openvino.convert(small, (32, 64), 1)
    assert not texts


def test_openvino_leaves_earlier_results_alone(small, conversions):
    backend = make_backend("openvino", small)
    pixels = picture(64, 96)
    first, second = backend(pixels), backend(-pixels)
    assert torch.equal(first[0], pixels.amax((2, 3)))
    assert torch.equal(first[1], pixels * 2)
    assert torch.equal(second[1], -first[1])


def test_second_start_converts_nothing(small, conversions):
    pixels = picture(64, 96)
    first, second = make_backend("openvino", small), make_backend("openvino", small)
    first.build((64, 96))
    second.build((64, 96))
    assert all(map(torch.equal, first(pixels), second(pixels)))
    assert conversions == [((64, 96), 1)]


def test_another_size_batch_or_weight_converts_anew(small, conversions):
    make_backend("openvino", small).build((64, 96))
    make_backend("openvino", small).build((64, 64))
    make_backend("openvino", small).build((64, 96), batch=2)
    with torch.no_grad():
        small.decoder.class_predictor.bias[0] += 1
    make_backend("openvino", small).build((64, 96))
    assert conversions == [((64, 96), 1), ((64, 64), 1), ((64, 96), 2), ((64, 96), 1)]


def test_cache_drops_what_was_not_used_for_longest(small, conversions, openvino, monkeypatch):
    make_backend("openvino", small).build((64, 96))
    (first,) = cache.cache_folder("openvino").iterdir()
    make_backend("openvino", small).build((64, 64))
    make_backend("openvino", small).build((64, 96))
    monkeypatch.setattr(cache, "BYTES", int(2.5 * first.stat().st_size))
    make_backend("openvino", small).build((32, 32))
    left = sorted(path.name.partition("-")[2] for path in cache.cache_folder("openvino").iterdir())
    assert left == ["32x32-1.blob", "64x96-1.blob"]
    monkeypatch.setattr(cache, "BYTES", 0)
    make_backend("openvino", small).build((32, 64))
    assert [path.name.partition("-")[2] for path in cache.cache_folder("openvino").iterdir()] == ["32x64-1.blob"]


@pytest.mark.parametrize(
    "damage",
    [lambda x: b"", lambda x: x[:-1], lambda x: x[:-1] + bytes([x[-1] ^ 1])],
    ids=["empty", "truncated", "one bit"],
)
def test_damaged_cache(damage, small, conversions, openvino):
    pixels = picture(64, 96)
    result = make_backend("openvino", small)(pixels)
    (path,) = cache.cache_folder("openvino").iterdir()
    good = path.read_bytes()
    path.write_bytes(damage(good))
    assert all(map(torch.equal, make_backend("openvino", small)(pixels), result))
    make_backend("openvino", small).build((64, 96))
    assert len(conversions) == 2  # once more, and written anew


def test_each_number_of_threads_has_its_own_conversion(small, conversions, openvino):
    """A network converted for one thread adds in another order than one for two."""
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 1):
            torch.set_num_threads(number)
            make_backend("openvino", small).build((32, 64))
    finally:
        torch.set_num_threads(threads)
    assert len(list(cache.cache_folder("openvino").iterdir())) == 2 == len(conversions)


def test_cache_that_openvino_refuses(small, conversions, openvino):
    make_backend("openvino", small).build((64, 96))
    (path,) = cache.cache_folder("openvino").iterdir()
    cache.write(path, [b"not what OpenVINO wrote"])
    make_backend("openvino", small).build((64, 96))
    assert len(conversions) == 2


def test_cache_that_cannot_be_written(small, conversions, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    pixels = picture(64, 96)
    assert torch.equal(make_backend("openvino", small)(pixels)[1], pixels * 2)


def test_network_that_openvino_cannot_convert(small, openvino, monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("No rule for aten.new\nand more")

    monkeypatch.setattr(openvino, "convert", broken)
    with pytest.raises(ConfigError, match=r"cannot be converted for OpenVINO at 96x128 .*aten\.new.*take") as error:
        make_backend("openvino", small).build((96, 128))
    assert "\n" not in str(error.value)

    backend = make_backend("auto", small)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            expect_same(backend, small, picture(96, 128), tolerance=1e-6)
    assert backend.name == "eager"
    assert len(caplog.records) == 1


def test_without_openvino(small, monkeypatch):
    monkeypatch.delitem(sys.modules, "m2f_ros.pipeline.backends.openvino", raising=False)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigError, match=r"pip install .*openvino"):
        make_backend("openvino", small)
    assert choose_backend("auto", CPU) == "eager"
    assert make_backend("auto", small).name == "eager"


def test_auto(small, openvino):
    assert choose_backend("auto", CPU) == "openvino"
    assert choose_backend("auto", torch.device("cuda", 0)) == "eager"
    assert choose_backend("compile", CPU) == "compile"
    assert make_backend("auto", small).name == "openvino"


def test_unknown_names(small):
    with pytest.raises(ConfigError, match="backend 'tflite' is not known; take one of auto, eager"):
        make_backend("tflite", small)
    with pytest.raises(ConfigError, match="precision 'int4' is not known; take one of fp8, fp16"):
        make_backend("eager", small, "int4")
    with pytest.raises(ConfigError, match="precision 'int8': backend 'eager' does not have it; take 'openvino'"):
        make_backend("eager", small, "int8")


def test_processor_without_bf16(small, monkeypatch):
    monkeypatch.setattr(backends, "cpu_has_bf16", lambda: False)
    for name in ("eager", "compile"):
        with pytest.raises(ConfigError, match=r"bf16.*take fp32"):
            make_backend(name, small, "bf16")
    assert next(small.parameters()).dtype == torch.float32


def test_openvino_on_a_processor_without_bf16(small, openvino, monkeypatch):
    class Core(openvino.openvino.Core):
        def get_property(self, device, name):
            return ["FP32"] if name == "OPTIMIZATION_CAPABILITIES" else super().get_property(device, name)

    monkeypatch.setattr(openvino, "core", Core)
    with pytest.raises(ConfigError, match=r"bf16.*take fp32"):
        make_backend("openvino", small, "bf16")


def test_openvino_has_no_fp16(small, openvino):
    with pytest.raises(ConfigError, match="no precision 'fp16'"):
        make_backend("openvino", small, "fp16")


def test_no_compiler(small, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"no g\+\+ here: install it"):
        make_backend("compile", small)


def test_compile_that_fails(small, monkeypatch):
    def broken(*_):
        raise RuntimeError("no such\nheader")

    monkeypatch.setattr(torch, "compile", lambda model, **_: broken)
    backend = make_backend("compile", small)
    with pytest.raises(ConfigError, match=r"'compile' failed at 64x96 \(RuntimeError: no such header\)"):
        backend.build((64, 96))


def test_compile_prepares_a_size_and_batch_once(small, monkeypatch):
    batches = []

    def network(pixels, plan):
        batches.append(tuple(pixels.shape))
        return pixels, pixels, None

    monkeypatch.setattr(torch, "compile", lambda model, **_: network)
    backend = make_backend("compile", small)
    for size, batch in (((64, 96), 1), ((64, 96), 1), ((64, 96), 2), ((32, 96), 1), ((64, 96), 1)):
        assert backend.build(size, batch) is backend.build(size)  # the plan is of the size alone
    assert batches == [(1, 3, 64, 96), (2, 3, 64, 96), (1, 3, 32, 96)]


def test_compile_has_no_most_number_of_sizes(small, monkeypatch):
    compile, graphs = torch.compile, []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(type(small), "forward", lambda self, pixels, plan: (pixels * 2, pixels, None))
    monkeypatch.setattr(torch, "compile", lambda model, **options: compile(model, backend=keep, **options))
    for i in range(1, 7):
        for _ in range(2):
            backend = make_backend("compile", small)
            backend.build((32, 32 * i))
            backend(picture(32, 32 * i))
            backend(picture(32, 32 * i, batch=2))
    assert len(graphs) == 24


@pytest.mark.heavy
def test_compile_takes_the_network_as_one_graph_a_size(small, monkeypatch):
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compile = torch.compile
    # Everything but the code generation, which takes a minute.
    monkeypatch.setattr(torch, "compile", lambda model, **options: compile(model, backend=keep, **options))
    backend = make_backend("compile", small)
    backend.build((96, 128))
    backend.build((64, 96), batch=2)
    assert len(graphs) == 2
    expect_same(backend, small, picture(96, 128), tolerance=1e-4)
    expect_same(backend, small, picture(64, 96, batch=2), tolerance=1e-4)
    assert len(graphs) == 2  # the plans and the sizes that were prepared serve


@pytest.mark.process
def test_signals_keep_the_stack_that_they_had(small, openvino, tmp_path):
    save(small, tmp_path / "model")
    script = """
import ctypes, gc, sys
from m2f_ros.model import load
from m2f_ros.pipeline.backends import make_backend

def stack():
    address = (ctypes.c_void_p * 3)()  # stack_t begins with it
    assert ctypes.CDLL(None).sigaltstack(None, address) == 0
    return address[0]

model = load(sys.argv[1])
before = stack()
backends = [make_backend("openvino", model), make_backend("openvino", model)]
assert stack() == before
while backends:
    del backends[0]
    gc.collect()
assert stack() == before
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "model"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_is_kept_is_what_was_used_last():
    made = []
    kept = backends.Kept(lambda key: made.append(key) or object(), 2)
    a = kept("a")
    kept("b")
    assert kept.has("a") and not kept.has("c") and kept("a") is a
    kept("c")
    assert kept.keys == [("a",), ("c",)] and made == ["a", "b", "c"]
    assert not kept.forget(-1.0, but={("a",)})
    assert not kept.forget(60.0)
    assert kept.forget(-1.0) and kept.keys == [("c",)]
    assert not kept.forget(-1.0)  # the last stays


@pytest.mark.slow
def test_sizes_are_converted_while_frames_go_on(small, openvino):
    """torch.export sets what all threads see: the labels of frames meanwhile are the same as before."""
    pipe = Pipeline(small, taxonomy_of("small", small.config), device="cpu", backend="openvino")
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    placements = [Placement((64, 96), (64, 96))]

    def labels():
        with pipe.submit_batch([Frame(image, "bgr8")], {"label"}, placements=placements) as (result,):
            return result.label.copy()

    expected = labels()
    assert pipe.ready((64, 96)) and not pipe.ready((96, 64))
    thread = threading.Thread(target=pipe.build_network, args=((96, 64),))
    thread.start()
    while thread.is_alive():
        np.testing.assert_array_equal(labels(), expected)
        thread.join(0.5)  # both want the interpreter's lock
    assert sorted(pipe.ready_networks()) == [(64, 96), (96, 64)]
    assert pipe._backend.forget(-1.0) and len(pipe.ready_networks()) == 1
