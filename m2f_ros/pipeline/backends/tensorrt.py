"""An exported network as a TensorRT engine. Written for TensorRT 10's API; no test runs it without a GPU."""

from __future__ import annotations

import tensorrt
import torch
from torch import Tensor

from m2f_ros.errors import CheckpointError, ConfigError
from m2f_ros.pipeline.exported import Export

DTYPES = {"float32": torch.float32, "uint8": torch.uint8, "int32": torch.int32}


def describe_device(device: torch.device) -> str:
    """Return the name and compute capability of a GPU; an engine runs on this one only."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)}, {major}.{minor}"


class TensorRt:
    """Runs an engine on torch's present stream; a call can be captured in a CUDA graph.

    Raises:
        CheckpointError: the engine is for another GPU or another version of TensorRT, or is damaged.
        ConfigError: the device is no GPU.
    """

    def __init__(self, export: Export, device: torch.device):
        manifest = export.manifest
        if device.type != "cuda":
            raise ConfigError(f"{export.folder}: a TensorRT engine needs a GPU, not {device}; export it --to onnx")
        made_with, here = manifest.versions.get("tensorrt"), describe_device(device)
        if manifest.device != here:
            raise CheckpointError(
                f"{export.folder}: the engine is for {manifest.device}, and {device} is {here}: export it on this one"
            )
        if made_with != tensorrt.__version__:
            raise CheckpointError(
                f"{export.folder}: the engine is of TensorRT {made_with}, and {tensorrt.__version__} is installed: "
                "export it again"
            )
        self._manifest, self._device = manifest, device
        # Kept for the life of the engine, which refers to it.
        self._logger = tensorrt.Logger(tensorrt.Logger.ERROR)
        tensorrt.init_libnvinfer_plugins(self._logger, "")
        self._runtime = tensorrt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(export.path.read_bytes())
        if self._engine is None:
            raise CheckpointError(f"{export.path} is refused by TensorRT {tensorrt.__version__}: export it again")
        self._context = self._engine.create_execution_context()

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Run the engine: a contiguous input on the device -> new tensors there."""
        (name,), manifest = self._manifest.inputs, self._manifest
        size = manifest.size or (0, 0)
        results = [
            torch.empty(port.sizes(len(images), *size), dtype=DTYPES[port.dtype], device=self._device)
            for port in manifest.outputs.values()
        ]
        if not self._context.set_input_shape(name, tuple(images.shape)):
            raise ConfigError(f"the TensorRT engine takes no batch of {len(images)}; export it with a larger --batch")
        for key, tensor in ((name, images), *zip(manifest.outputs, results, strict=True)):
            self._context.set_tensor_address(key, tensor.data_ptr())
        if not self._context.execute_async_v3(torch.cuda.current_stream(self._device).cuda_stream):
            raise RuntimeError("TensorRT could not run the engine")
        return results
