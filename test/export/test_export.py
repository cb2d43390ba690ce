"""Exports agree with PyTorch, load as models, run without this package, and are refused where they do not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from m2f_ros.errors import CheckpointError, ConfigError, OutputError
from m2f_ros.export import export as module
from m2f_ros.export import formats, modules, plugin, verify
from m2f_ros.export.export import export
from m2f_ros.export.settings import BOUNDS, Settings
from m2f_ros.model import load
from m2f_ros.pipeline import Frame, Pipeline, Resize
from m2f_ros.pipeline.build import PipelineSettings, build_pipeline
from m2f_ros.pipeline.classes import taxonomy_of
from m2f_ros.pipeline.exported import FILE, Export

SIZE = (64, 96)
FP32 = ("precision", "fp32")  # the default
ROOT = Path(__file__).resolve().parents[2]
# Operations of a network that TensorRT 10 has: github.com/onnx/onnx-tensorrt, docs/operators.md.
# fmt: off
TENSORRT = {
    "Add", "And", "ArgMax", "AveragePool", "Cast", "Ceil", "Clip", "Concat", "Constant", "ConstantOfShape",
    "Conv", "Cos", "Div", "Equal", "Erf", "Exp", "Expand", "Floor", "Gather", "Gemm", "Greater",
    "GreaterOrEqual", "Identity", "InstanceNormalization", "LayerNormalization", "Less", "MatMul", "Max",
    "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pad", "Pow", "Range", "Reciprocal", "ReduceLogSumExp", "ReduceMax",
    "ReduceMean", "ReduceSum", "Relu", "Reshape", "Resize", "Round", "Shape", "Sigmoid", "Sin", "Slice", "Softmax",
    "Split", "Sqrt", "Squeeze", "Sub", "Tile", "Transpose", "Unsqueeze", "Where",
}
# fmt: on


def needs(*packages: str) -> None:
    for package in packages:
        pytest.importorskip(package, reason=f"{package} is not installed")


@pytest.fixture(scope="session")
def checkpoint(toy, request):
    """Return the path of a model by name. Those of real networks are made at the first use."""
    return lambda name: toy if name == "toy" else request.getfixturevalue("models")[name]


@pytest.fixture(scope="session")
def exported(checkpoint, frames, tmp_path_factory):
    """Make an export of some settings, once; skip where a package is absent that it needs."""
    made: dict[tuple, Path] = {}

    def make(name: str, to: str, **options) -> Path:
        key = (name, to, *((option, value) for option, value in options.items() if (option, value) != FP32))
        if key not in made:
            needs(*formats.PACKAGES[to])
            out = tmp_path_factory.mktemp("exports") / "out"
            export(Settings(str(checkpoint(name)), to, **{"size": SIZE} | options), out, frames, "patches")
            made[key] = out
        return made[key]

    return make


def expected(path: Path, frames, size=SIZE) -> list:
    model = load(path)
    resize = Resize("fixed", height=size[0], width=size[1])
    pipeline = Pipeline(model, taxonomy_of("m", model.config), device="cpu", backend="eager", resize=resize)
    return [pipeline.segment(frame, {"label", "confidence"}) for frame in frames]


def run(path: Path, **options) -> Pipeline:
    return build_pipeline(PipelineSettings(str(path), device="cpu", **options))


SLOW = pytest.mark.slow
REAL = ("swin7", "swin12", "efficientnet")
# A real network takes half a minute of a loaded core to export: one by default, all if slow tests are asked for.
NETWORKS = [pytest.param(name, marks=SLOW) if name != "efficientnet" else name for name in REAL]
TORCH_FORMATS = ("openvino", "pt2", "torchscript")


@pytest.mark.heavy
@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_has_standard_operations_alone(exported, name):
    import onnx

    path = exported(name, "onnx") / "network.onnx"
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path)
    assert {node.op_type for node in model.graph.node} <= TENSORRT
    assert [(x.domain, x.version) for x in model.opset_import] == [("", 18)] and not model.functions
    shapes = {value.name: value.type.tensor_type.shape for value in (*model.graph.value_info, *model.graph.output)}
    assert {out for node in model.graph.node for out in node.output if out} <= shapes.keys()
    assert {dim.dim_param for shape in shapes.values() for dim in shape.dim} >= {"batch"}
    assert str(ROOT).encode() not in path.read_bytes()


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["toy", pytest.param("efficientnet", marks=SLOW)])
def test_bytes_are_cast_at_inputs_and_outputs_alone(exported, name):
    """TensorRT has uint8 nowhere else, and casts it from and to floats only."""
    import onnx

    graph = onnx.load(exported(name, "onnx", whole=True) / "whole.onnx").graph
    assert {node.op_type for node in graph.node} <= TENSORRT
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info)}
    byte, real = onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT
    ends = [node for node in graph.node if byte in {types.get(x) for x in (*node.input, *node.output)}]
    shapes = [node for node in ends if node.op_type == "Shape"]
    casts = [node for node in ends if node.op_type == "Cast"]
    assert len(casts) == 3 and len(shapes) + len(casts) == len(ends)
    assert all({types[node.input[0]], types[node.output[0]]} == {byte, real} for node in casts)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("name", "to", "precision"),
    [
        *(("toy", to, "fp32") for to in ("onnx", *TORCH_FORMATS)),
        ("toy", "onnx", "fp16"),
        ("efficientnet", "onnx", "fp32"),
        *(pytest.param(name, to, "fp32", marks=SLOW) for name in REAL for to in TORCH_FORMATS),
        *(pytest.param(name, "onnx", "fp32", marks=SLOW) for name in ("swin7", "swin12")),
        pytest.param("efficientnet", "onnx", "fp16", marks=SLOW),
    ],
)
def test_an_export_is_a_model(exported, checkpoint, frames, name, to, precision):
    pipeline = run(exported(name, to, precision=precision))
    most = {"fp32": 1e-3, "fp16": 0.005}[precision]
    with pipeline.submit_batch(frames, {"label", "overlay"}) as results:
        for result, wanted in zip(results, expected(checkpoint(name), frames), strict=True):
            assert (result.label != wanted.label).mean() <= most
    assert pipeline.ready(SIZE) and pipeline.ready_networks() == [SIZE] and not pipeline.ready((64, 64))
    assert pipeline.taxonomy.names == load(checkpoint(name)).config.labels
    assert sum((result.label == wanted).mean() > 0.05 for wanted in range(8)) > 1  # no class everywhere


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["toy", pytest.param("efficientnet", marks=SLOW)])
@pytest.mark.parametrize("to", ["onnx", pytest.param("openvino", marks=SLOW), pytest.param("pt2", marks=SLOW)])
def test_every_size(exported, checkpoint, name, to):
    pipeline = run(exported(name, to, size="dynamic"))
    for height, width in ((64, 64), (96, 160), (128, 64)):
        frame = Frame(np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8), "rgb8")
        (wanted,) = expected(checkpoint(name), [frame], (height, width))
        assert (pipeline.segment(frame, {"label"}).label != wanted.label).mean() < 1e-3


def test_every_size_is_refused_where_it_cannot_be(models, frames, tmp_path):
    needs(*formats.PACKAGES["onnx"])
    with pytest.raises(ConfigError, match=r"windows of a Swin backbone are constants of one size; name one"):
        export(Settings(str(models["swin7"]), size="dynamic"), tmp_path / "out", frames, "patches")
    for options, reason in (({"whole": True}, "whole export"), ({"to": "torchscript"}, "trace holds")):
        with pytest.raises(ConfigError, match=reason):
            Settings("street", size="dynamic", **options)


@pytest.mark.heavy
@pytest.mark.process
@pytest.mark.parametrize("name", ["toy", *(pytest.param(name, marks=SLOW) for name in REAL)])
@pytest.mark.parametrize(
    ("to", "code"),
    [
        (
            "onnx",
            "import onnxruntime as o; s = o.InferenceSession(path)\n"
            "run = lambda x: s.run(['label', 'confidence'], {'image': x})",
        ),
        (
            "openvino",
            "import openvino; m = openvino.Core().compile_model(path, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})\n"
            "run = lambda x: [m(x)[name] for name in ('label', 'confidence')]",
        ),
        (
            "torchscript",
            "import torch; m = torch.jit.load(path); run = lambda x: [y.numpy() for y in m(torch.tensor(x))]",
        ),
        (
            "pt2",
            "import torch; m = torch.export.load(path).module()\n"
            "run = lambda x: [y.numpy() for y in m(torch.tensor(x))]",
        ),
    ],
    ids=["onnx", "openvino", "torchscript", "pt2"],
)
def test_whole_exports_run_without_this_package(exported, checkpoint, frames, tmp_path, name, to, code):
    folder = exported(name, to, whole=True)
    file = folder / Export.read(folder).manifest.file
    images = np.stack([frame.data[..., ::-1] for frame in frames])  # bgr8
    np.save(tmp_path / "images.npy", images)
    lines = (
        "import sys, numpy; sys.modules['m2f_ros'] = sys.modules['openvino_telemetry'] = None; path = sys.argv[1]",
        code,
        "images = numpy.load(sys.argv[2])",
        "for part in (images, images[:1]):",
        "    label, confidence = run(part); numpy.save(f'{sys.argv[3]}{len(part)}', label)",
        "assert confidence.dtype == numpy.uint8 and confidence.shape == label.shape",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines), file, tmp_path / "images.npy", tmp_path / "label"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    labels = np.load(tmp_path / "label3.npy")
    assert labels.dtype == np.uint8 and np.array_equal(np.load(tmp_path / "label1.npy")[0], labels[0])
    wanted = np.stack([result.label for result in expected(checkpoint(name), frames)])
    assert (labels != wanted).mean() < 1e-3


def _ready_openvino() -> list[str]:
    """Return the compiler's flags for OpenVINO, whose package holds headers and libraries."""
    needs("openvino")
    import openvino

    root = Path(openvino.__file__).parent
    (library,) = [*root.glob("libs/libopenvino.so.*")] or [None]
    if not library or not (root / "include/openvino/openvino.hpp").is_file():
        pytest.skip(f"{root} has no C++ headers or library")
    return ["-isystem", str(root / "include"), str(library), f"-Wl,-rpath,{library.parent}"]


def _ready_onnxruntime() -> list[str]:
    """Return the compiler's flags for ONNX Runtime: M2F_ORT names a release, else pkg-config knows one."""
    if root := os.environ.get("M2F_ORT"):
        return [f"-I{root}/include", f"-L{root}/lib", "-lonnxruntime", f"-Wl,-rpath,{root}/lib"]
    if shutil.which("pkg-config"):
        found = subprocess.run(["pkg-config", "--cflags", "--libs", "libonnxruntime"], capture_output=True, text=True)
        if not found.returncode:
            return found.stdout.split()
    pytest.skip("M2F_ORT does not name a release of ONNX Runtime, and pkg-config knows none")


@pytest.mark.more
@pytest.mark.heavy
@pytest.mark.process
@pytest.mark.parametrize(
    ("flags", "to"),
    [(_ready_openvino, "openvino"), (_ready_openvino, "onnx"), (_ready_onnxruntime, "onnx")],
    ids=["openvino", "openvino_onnx", "onnxruntime"],
)
def test_the_examples_in_cpp(exported, toy, frames, tmp_path, flags, to):
    compiler = shutil.which("g++") or pytest.skip("g++ is not installed")
    options = flags()
    source = ROOT / f"examples/cpp/segment_{flags.__name__.removeprefix('_ready_')}.cpp"
    program = tmp_path / "segment"
    command = [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", source, *options, "-o", program]
    subprocess.run(command, check=True, timeout=600)
    folder = exported("toy", to, whole=True, encoding="rgb8")
    image = frames[0].data
    (tmp_path / "in.ppm").write_bytes(b"P6\n%d %d\n255\n" % image.shape[1::-1] + image.tobytes())
    file = folder / Export.read(folder).manifest.file
    subprocess.run([program, file, "in.ppm", "out.ppm"], cwd=tmp_path, check=True, timeout=600)
    overlay = cv2.imread(str(tmp_path / "out.ppm"))[..., ::-1].astype(int)
    (wanted,) = expected(toy, frames[:1])
    label = wanted.label.astype(int)
    colours = np.stack([(37 * label + 90) % 256, (101 * label + 40) % 256, (173 * label + 150) % 256], -1)
    assert ((image.astype(int) + colours) // 2 == overlay).all(-1).mean() > 0.999
    for wrong in ([folder / FILE, "in.ppm"], [file, file]):
        broken = subprocess.run([program, *wrong, "out.ppm"], cwd=tmp_path, capture_output=True)
        assert broken.returncode == 1 and b"segment: " in broken.stderr


@pytest.mark.heavy
def test_openvino_compiles_an_export_once(exported, frames, tmp_path, monkeypatch):
    folder = exported("toy", "openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    label = run(folder).segment(frames[0], {"label"}).label.copy()
    import openvino

    monkeypatch.setattr(openvino.Core, "read_model", None)
    assert np.array_equal(run(folder).segment(frames[0], {"label"}).label, label)
    for blob in tmp_path.rglob("export-*.blob"):
        blob.unlink()
    with pytest.raises(CheckpointError, match="is refused by openvino"):
        run(folder)


@pytest.mark.slow
def test_the_plugin_of_tensorrt(exported):
    import onnx

    folder = exported("efficientnet", "onnx", plugin=True)  # compared with PyTorch through a function of its node
    nodes = [node for node in onnx.load(folder / "network.onnx").graph.node if node.op_type == plugin.NAME]
    assert len(nodes) == 1 and len(nodes[0].input) == 5
    assert {x.name: x.s for x in nodes[0].attribute} == {"plugin_version": b"1", "plugin_namespace": b""}
    with pytest.raises(
        ConfigError, match=f"its {plugin.NAME} runs in TensorRT alone, not on cpu; export the model with"
    ):
        run(folder)


def test_an_export_that_differs_is_not_written(toy, frames, tmp_path, monkeypatch):
    right = modules.Planned.forward
    monkeypatch.setattr(modules.Planned, "forward", lambda self, pixels: tuple(-x for x in right(self, pixels)))
    reason = r"is refused: at 64x96 .* of 3 frames' labels are PyTorch's, and 99.99 % are asked; frame \d .* became"
    with pytest.raises(ConfigError, match=reason):
        export(Settings(str(toy), "torchscript", SIZE), tmp_path / "out", frames, "patches")
    assert not (tmp_path / "out").exists()


def test_confidences_that_differ_are_refused(toy):
    taxonomy = taxonomy_of("m", load(toy).config)
    label = np.zeros((4, 5), np.uint8)
    bound = BOUNDS["fp32"]
    one, other = (verify.Answer(label, np.full_like(label, level)) for level in (200, 203))
    with pytest.raises(ConfigError, match=r"confidences are within 2 of PyTorch's, and 99.99 % are asked; .* is 3 off"):
        verify._share(SIZE, [one], [other], taxonomy, bound)
    assert verify._share(SIZE, [one], [one], taxonomy, bound) == 1


@pytest.fixture
def copied(exported, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(exported("toy", "torchscript"), folder)
    return folder


def changed(folder: Path, **values) -> Path:
    path = folder / FILE
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | values))
    return folder


def test_an_export_of_another_size_is_one_line(copied):
    with pytest.raises(ConfigError, match=r"was exported for a network size of 64x96 .*, not 64x64: .* --size 64x64"):
        run(copied, resize=Resize("fixed", height=64, width=64)).warm_up(64, 64)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"layout": 2}, "is of layout 2, and this version reads 1: update m2f_ros"),
        ({"format": "tflite"}, "format: expected onnx, openvino, torchscript, pt2 or tensorrt, found 'tflite'"),
        ({"file": "../network.pt"}, "'../network.pt' is no name of a file in this folder"),
        ({"sha256": {}}, "sha256: key 'network.pt' is missing"),
        ({"mean": [1, 2]}, "mean: expected a list of at least 3 entries"),
        ({"taxonomy": {}}, "taxonomy"),
        ({"outputs": {"logits": {"dtype": "float32", "shape": ["depth"]}}}, "an unknown dimension"),
        ({"gives": "labels"}, "is a whole export, .* without --whole"),
        ({"format": "tensorrt"}, "tensorrt"),
    ],
    ids=str,
)
def test_a_manifest_that_does_not_fit_is_one_line(copied, values, reason):
    with pytest.raises((CheckpointError, ConfigError), match=reason) as error:
        run(changed(copied, **values))
    assert "\n" not in str(error.value)


def test_newer_fields_are_left_alone(copied):
    assert Export.read(changed(copied, another="field")).manifest.size == SIZE


def test_a_file_that_was_changed_is_refused(copied):
    path = copied / "network.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"network.pt is not the file that m2f.yaml describes \(sha256 "):
        run(copied)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"network.pt cannot be read: No such file"):
        run(copied)


def test_a_file_that_the_library_refuses(copied):
    (copied / "network.pt").write_bytes(b"no network")
    manifest = Export.read(copied).manifest
    module.write_manifest(manifest, copied)
    with pytest.raises(CheckpointError, match=r"is refused by torchscript .*: export the model again"):
        run(copied)


def test_an_opset_that_the_runtime_lacks(exported, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(exported("toy", "onnx"), folder)
    import onnx

    model = onnx.load(folder / "network.onnx")
    model.opset_import[0].version = 99
    onnx.save(model, folder / "network.onnx")
    manifest = Export.read(folder).manifest
    manifest.versions["opset"] = "99"
    module.write_manifest(manifest, folder)
    with pytest.raises(
        CheckpointError, match=r"\(opset 99\) is refused by ONNX Runtime .*: update onnxruntime"
    ) as error:
        run(folder)
    assert "\n" not in str(error.value)


def test_settings_that_do_not_fit_an_export(copied):
    with pytest.raises(ConfigError, match=r"backend 'eager': .* is an export for torchscript; take 'auto'"):
        run(copied, backend="eager")
    with pytest.raises(ConfigError, match=r"precision 'bf16': .* was exported in fp32"):
        run(copied, precision="bf16")
    with pytest.raises(CheckpointError, match=r"holds an export, which can only be run: name the checkpoint"):
        load(copied)


def test_packages_that_are_absent(toy, frames, tmp_path, monkeypatch):
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    for to, reason in (
        ("onnx", r"onnx and onnxscript and onnxruntime not installed: pip install .*onnx|export"),
        ("tensorrt", "not installed"),
    ):
        with pytest.raises(ConfigError, match=reason):
            export(Settings(str(toy), to), tmp_path / "out", frames, "patches")
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None if name == "tensorrt" else True)
    with pytest.raises(
        ConfigError, match=r"trtexec --onnx=FOLDER/network.onnx --saveEngine=FOLDER/network.engine --str"
    ):
        export(Settings(str(toy), "tensorrt"), tmp_path / "out", frames, "patches")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(toy, frames, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"is not empty"):
        export(Settings(str(toy), "pt2", SIZE), tmp_path, frames, "patches")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"to": "tflite"}, "--to tflite: take onnx, openvino, torchscript, pt2, tensorrt"),
        ({"precision": "int4"}, "--precision int4: take fp32, fp16"),
        ({"precision": "int8", "to": "pt2"}, "--precision int8: PyTorch gains nothing by it; take --to onnx"),
        ({"encoding": "yuyv"}, "--encoding yuyv: take bgr8, rgb8"),
        ({"to": "pt2", "plugin": True}, "--plugin: is of TensorRT, and not for --to pt2"),
        ({"to": "tensorrt", "size": "dynamic"}, "--size dynamic: a TensorRT engine is built for one size"),
    ],
)
def test_settings_that_do_not_go_together(options, reason):
    with pytest.raises(ConfigError, match=re.escape(reason)):
        Settings("street", **options)


def test_frames_of_several_sizes_have_no_whole_export(toy, frames, tmp_path):
    other = Frame(np.zeros((40, 50, 3), np.uint8), "rgb8")
    with pytest.raises(ConfigError, match=r"frames have several sizes, 100x70 and 50x40"):
        export(Settings(str(toy), "pt2", SIZE, whole=True), tmp_path / "o", [frames[0], other], "patches")


def test_names_of_other_backends(small_model):
    for name in ("onnxruntime", "tensorrt"):
        with pytest.raises(
            ConfigError, match=f"backend '{name}' runs exported models alone: m2f export makes a folder"
        ):
            build_pipeline(PipelineSettings(str(small_model), device="cpu", backend=name))
