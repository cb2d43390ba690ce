"""An exported network in ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from m2f_ros.errors import CheckpointError, ConfigError, words_of
from m2f_ros.pipeline.exported import Export

# Providers on CUDA, the preferred first.
_CUDA = ("TensorrtExecutionProvider", "CUDAExecutionProvider")


class OnnxRuntime:
    """Runs an ONNX file with torch's number of threads on a CPU, else on torch's present stream.

    TensorRT, where this ONNX Runtime has it, is used for files with a plugin alone, whose node nothing else runs;
    building its engine takes minutes.

    Raises:
        CheckpointError: ONNX Runtime refuses the file.
        ConfigError: this ONNX Runtime does not support the device.
    """

    def __init__(self, export: Export, device: torch.device):
        self._export, self._device = export, device
        self._sessions: dict[int, Any] = {}
        if device.type == "cuda":
            wanted = _CUDA[: 1 if export.manifest.plugin else None][-1]
            if wanted not in onnxruntime.get_available_providers():
                raise ConfigError(
                    f"{export.folder}: this ONNX Runtime has no {wanted} for {device}: install onnxruntime-gpu in its "
                    "place, or take device cpu"
                )
            self._provider = wanted
        elif export.manifest.plugin:
            raise ConfigError(
                f"{export.folder}: its {export.manifest.plugin} runs in TensorRT alone, not on {device}; export the "
                "model without --plugin"
            )
        else:
            self._provider = "CPUExecutionProvider"
            self._sessions[0] = self._open({})

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Run the network: a contiguous input on the device -> new tensors there."""
        if self._device.type == "cuda":
            return self._on_stream(images)
        (name,) = self._export.manifest.inputs
        return [
            torch.from_numpy(x) for x in self._sessions[0].run([*self._export.manifest.outputs], {name: images.numpy()})
        ]

    def _on_stream(self, pixels: Tensor) -> list[Tensor]:
        stream, index = torch.cuda.current_stream(self._device).cuda_stream, self._device.index or 0
        if stream not in self._sessions:
            self._sessions[stream] = self._open({"device_id": index, "user_compute_stream": str(stream)})
        session, manifest = self._sessions[stream], self._export.manifest
        binding = session.io_binding()
        ((name, port),) = manifest.inputs.items()
        binding.bind_input(name, "cuda", index, np.dtype(port.dtype), tuple(pixels.shape), pixels.data_ptr())
        if self._export.by_hand:  # the sizes of its outputs are not known before
            for name in manifest.outputs:
                binding.bind_output(name)
            session.run_with_iobinding(binding)
            return [torch.from_numpy(x).to(self._device) for x in binding.copy_outputs_to_cpu()]
        batch, _, height, width = pixels.shape
        results = []
        for name, port in manifest.outputs.items():
            result = torch.empty(port.sizes(batch, height, width), device=self._device)
            binding.bind_output(name, "cuda", index, np.float32, tuple(result.shape), result.data_ptr())
            results.append(result)
        session.run_with_iobinding(binding)
        return results

    def _open(self, options: dict[str, Any]) -> Any:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        settings.log_severity_level = 3  # errors; its warnings are for developers
        try:
            return onnxruntime.InferenceSession(self._export.path, settings, providers=[(self._provider, options)])
        except Exception as error:  # its errors have no common base class
            opset = self._export.manifest.versions.get("opset", "?")
            raise CheckpointError(
                f"{self._export.path} (opset {opset}) is refused by ONNX Runtime {onnxruntime.__version__} "
                f"({words_of(error, 200)}): update onnxruntime, or export the model again"
            ) from error
