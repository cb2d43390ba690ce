"""A network in a file, of `m2f export` or of others, run by the library that its format is for."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from m2f_ros.errors import CheckpointError, ConfigError, to_install, words_of
from m2f_ros.model.network import Instances, LabelMap, MaskClassification, PixelLogits, Result
from m2f_ros.pipeline.backends.foreign import Foreign, name_of, output_names, ports
from m2f_ros.pipeline.exported import Export

# Format -> the backend that runs it, and the package that it needs beside torch.
BACKENDS = {
    "onnx": ("onnxruntime", "onnxruntime"),
    "openvino": ("openvino", "openvino"),
    "torchscript": ("torchscript", ""),
    "pt2": ("pt2", ""),
    "tensorrt": ("tensorrt", "tensorrt"),
}
_RESULTS: dict[str, type[MaskClassification] | type[PixelLogits] | type[LabelMap] | type[Instances]] = {
    "mask_classification": MaskClassification,
    "pixel_logits": PixelLogits,
    "label_map": LabelMap,
    "instances": Instances,
}
# Inputs of the file -> its outputs, all on the device. New tensors, which later calls do not overwrite.
Runtime = Callable[[Tensor], Sequence[Tensor]]


class Exported:
    """See `backends.Backend`. Runs one file, which has one network size, or all.

    Args:
        export: folder whose files are read, after the comparison with their hashes, where m2f.yaml has them.
        device: device of the pixels.
    Attributes:
        config: see `Export`.
        precision: type of the weights.
        captures: True if a call can be captured in a CUDA graph.
    Raises:
        CheckpointError: a file is missing, damaged, for another device or version, or has other inputs or outputs than
            m2f.yaml says.
        ConfigError: the format's library is absent, or does not run on this device.
    """

    dtype, background = torch.float32, False

    def __init__(self, export: Export, device: torch.device):
        manifest = export.manifest
        if manifest.gives not in _RESULTS:
            raise CheckpointError(
                f"{export.folder}: is a whole export, from camera images to labels, for programs without m2f_ros; "
                "export the model without --whole"
            )
        self.name = BACKENDS[manifest.format][0]
        self.precision = manifest.precision
        self.gives = _RESULTS[manifest.gives]
        export.check()
        if export.by_hand:
            export = _fitted(export)
        self.config, self._manifest, self._folder = export.config, export.manifest, export.folder
        self._runtime = load_runtime(export, device)
        if export.by_hand:
            self._runtime = foreign = Foreign(export, self._runtime)
            foreign.try_out(device)
        self.captures = manifest.format == "tensorrt"

    def ready(self, size: tuple[int, int], batch: int = 1) -> bool:
        return self._fault(size, batch) == ""

    def sizes(self) -> list[tuple[int, int]]:
        return [self._manifest.size] if self._manifest.size else []

    def forget(self, seconds: float, but: Collection[tuple[int, int]] = ()) -> bool:
        return False  # there is one network for all sizes

    def build(self, size: tuple[int, int], batch: int = 1) -> object:
        if fault := self._fault(size, batch):
            raise ConfigError(fault)
        return self._runtime

    @torch.inference_mode()
    def __call__(self, pixels: Tensor, memory: Tensor | None = None) -> Result:
        assert memory is None, "m2f export refuses networks with memory"
        self.build((pixels.shape[-2], pixels.shape[-1]), len(pixels))
        return self.gives(*self._runtime(pixels.contiguous()))

    def _fault(self, size: tuple[int, int], batch: int) -> str:
        """Return why the file cannot run `batch` images of a size, or ""."""
        own, stride = self._manifest.size, self._manifest.stride
        if (own and own != size) or size[0] % stride or size[1] % stride:
            its = f"{own[0]}x{own[1]}" if own else f"multiples of {stride}"
            anew = f" with --size {size[0]}x{size[1]}" if self._manifest.made_by else f" for {size[0]}x{size[1]}"
            return (
                f"{self._folder}: was exported for a network size of {its} (height x width), not {size[0]}x{size[1]}: "
                f"leave resize and max_pixels at their defaults, or export it{anew}"
            )
        most = self._manifest.batch if self._manifest.made_by else None
        if most is not None and batch != most:
            return f"{self._folder}: was exported for batches of {most}, not {batch}: take --batch {most}"
        return ""


def _fitted(export: Export) -> Export:
    """Return a network that others made with the inputs and outputs of its file. For errors see `Exported`."""
    with _refusals(export):
        inputs, outputs = ports(export)
    return export.fitted(inputs, outputs)


@contextlib.contextmanager
def _refusals(export: Export) -> Iterator[None]:
    """Turn errors of a format's library into one line. For errors see `load_runtime`."""
    name, package = BACKENDS[export.manifest.format]
    if package and not importlib.util.find_spec(package):
        raise ConfigError(f"{export.folder}: needs {package}, which is not installed: {to_install(package)}")
    try:
        yield
    except (CheckpointError, ConfigError):
        raise
    except Exception as error:  # errors of these libraries have no common base class
        raise CheckpointError(
            f"{export.path} is refused by {name} ({words_of(error, 200)}): export the model again with this version"
        ) from error


def load_runtime(export: Export, device: torch.device) -> Runtime:
    """Load the file of an export for a device.

    Raises:
        CheckpointError: the library refuses the file.
        ConfigError: the library is absent, or does not run on this device.
    """
    manifest = export.manifest
    with _refusals(export):
        if manifest.format == "onnx":
            from m2f_ros.pipeline.backends.onnxruntime import OnnxRuntime

            return OnnxRuntime(export, device)
        if manifest.format == "tensorrt":
            from m2f_ros.pipeline.backends.tensorrt import TensorRt

            return TensorRt(export, device)
        if manifest.format == "openvino":
            return _openvino(export, device)
        return _torch(export, device)


def _openvino(export: Export, device: torch.device) -> Runtime:
    if device.type != "cpu":
        raise ConfigError(f"{export.folder}: OpenVINO works on a CPU, not on {device}; export it --to onnx or pt2")
    from m2f_ros.pipeline.backends.openvino import compiled, core, machine

    threads = torch.get_num_threads()
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    if export.by_hand:  # its m2f.yaml has no hashes, which the cache would know its files by
        network = core().compile_model(export.path, "CPU", options)
    else:
        identity = hashlib.sha256(repr((sorted(export.manifest.sha256.items()), machine())).encode()).hexdigest()[:32]
        (network,) = compiled(f"export-{identity}t{threads}", lambda: [core().read_model(export.path)], options)
    request = network.create_infer_request()
    places = {name_of(port, i): i for i, port in enumerate(network.outputs)} if export.by_hand else {}

    def run(pixels: Tensor) -> list[Tensor]:
        found = request.infer([pixels.numpy()], share_inputs=True, share_outputs=False)
        return [torch.from_numpy(found[places.get(name, name)]) for name in export.manifest.outputs]

    return run


def _torch(export: Export, device: torch.device) -> Runtime:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about its reading
        if export.manifest.format == "torchscript":
            return torch.jit.load(str(export.path), map_location=device)
        program = torch.export.load(export.path)
    from torch.export.passes import move_to_device_pass

    module = (move_to_device_pass(program, device) if device.type != "cpu" else program).module()
    if not export.by_hand:
        return module
    names = output_names(program)

    def run(pixels: Tensor) -> list[Tensor]:
        found = dict(zip(names, tree_leaves(module(pixels)), strict=True))
        return [found[name] for name in export.manifest.outputs]

    return run
