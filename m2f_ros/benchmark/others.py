"""What this pipeline is measured against: transformers' Mask2Former with the same weights.

Around the network it takes the steps of transformers' code as plain torch operations on the device: the frames go up,
are resized and normalised, and the labels are made as `post_process_semantic_segmentation` makes them, save that the
mask logits are interpolated to the network's size, as upstream does it, where transformers has a fixed 384x384.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from m2f_ros.benchmark.huggingface import HuggingFace
from m2f_ros.benchmark.marks import Marks, marked, split
from m2f_ros.benchmark.weights import Checkpoint
from m2f_ros.errors import ConfigError
from m2f_ros.pipeline.colour import resampled

# What each needs beside torch: modules and what to install.
_TRANSFORMERS = "'transformers>=5.17,<6'"
_NEEDS = {
    "hf": (("transformers",), _TRANSFORMERS),
    "compiled": (("transformers",), _TRANSFORMERS),
    "openvino": (("transformers", "openvino"), f"{_TRANSFORMERS} openvino"),
    "onnxruntime": (("transformers", "onnx", "onnxscript", "onnxruntime"), f"{_TRANSFORMERS} onnxruntime onnxscript"),
}
Network = Callable[[Tensor], tuple[Tensor, Tensor]]


def check(name: str, device: torch.device, precision: str) -> None:
    """Whether a baseline of Settings.against can run here. ConfigError, with what to do, if not."""
    modules, packages = _NEEDS[name]
    missing = [module for module in modules if not importlib.util.find_spec(module)]
    if missing:
        raise ConfigError(f"--against {name}: {' and '.join(missing)} not installed; pip install {packages}")
    if name in ("openvino", "onnxruntime") and device.type != "cpu":
        raise ConfigError(f"--against {name}: measured on a CPU only; leave it out, or take --device cpu")
    if name == "onnxruntime" and precision != "fp32":
        raise ConfigError(f"--against onnxruntime: fp32 only, not {precision}; leave it out, or take --precision fp32")
    if name == "compiled" and device.type == "cpu" and not shutil.which("g++"):
        raise ConfigError("--against compiled: needs a C++ compiler; install g++, or leave it out")


class Other:
    """A baseline: frames in the host's memory in, labels in the host's memory out. One batch at a time.

    Args:
        network: on the device.
        size: (height, width) of the network's input.
    """

    in_flight = 1  # frames

    def __init__(
        self,
        name: str,
        network: Network,
        weights: Checkpoint,
        size: tuple[int, int],
        device: torch.device,
        dtype: torch.dtype,
    ):
        self.name, self.network, self.size, self.device, self.dtype = name, network, size, device, dtype
        self.what = WHAT[name] if weights.has_swin or name != "hf" else WHAT["hf"] + AROUND
        self._mean = torch.tensor(weights.config.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(weights.config.std, device=device).view(1, 3, 1, 1)
        self._marks = Marks(device)

    @torch.inference_mode()
    def start(self, frames: Sequence[np.ndarray]) -> tuple[np.ndarray, dict[str, float]]:
        """frames: a batch of (height, width, 3) uint8 RGB. Complete when it returns."""
        marks = self._marks
        marks.mark("")
        batch = torch.from_numpy(np.stack(frames)).to(self.device)
        marks.mark("upload")
        pixels = self.prepare(batch)
        marks.mark("preprocess")
        logits = self.network(pixels)
        marks.mark("network")
        labels = self.head(*logits, batch.shape[1:3])
        marks.mark("head")
        result = labels.cpu().numpy()
        marks.mark("download")
        return result, marks.milliseconds()

    def finish(self, done: tuple[np.ndarray, dict[str, float]]) -> dict[str, float]:
        """Milliseconds of each stage."""
        return done[1]

    def labels(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """(B, height, width)."""
        return self.start(frames)[0]

    def prepare(self, batch: Tensor) -> Tensor:
        """(B, height, width, 3) uint8 RGB on the device -> (B, 3, *size), normalised."""
        pixels = resampled(batch.permute(0, 3, 1, 2), self.size)
        return ((pixels - self._mean) / self._std).to(self.dtype)

    def head(self, class_logits: Tensor, mask_logits: Tensor, frame_size: Sequence[int]) -> Tensor:
        """(B, height, width): the class of the best score."""
        scores = self.scores(class_logits, mask_logits, frame_size)
        labels = scores.argmax(dim=1)
        return labels.to(torch.uint8) if scores.shape[1] <= 255 else labels

    def scores(self, class_logits: Tensor, mask_logits: Tensor, frame_size: Sequence[int]) -> Tensor:
        """post_process_semantic_segmentation with the network's size for 384x384: (B, classes, height, width)."""
        mask_logits = F.interpolate(mask_logits, self.size, mode="bilinear", align_corners=False)
        classes = class_logits.softmax(dim=-1)[..., :-1]
        scores = torch.einsum("bqc,bqhw->bchw", classes, mask_logits.sigmoid())
        if scores.shape[-2:] != torch.Size(frame_size):
            scores = F.interpolate(scores, tuple(frame_size), mode="bilinear", align_corners=False)
        return scores

    @torch.inference_mode()
    def margins(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """(B, height, width): by how much the best score leads the second, as a part of it; 0 to 1."""
        pixels = self.prepare(torch.from_numpy(np.stack(frames)).to(self.device))
        first, second = self.scores(*self.network(pixels), frames[0].shape[:2]).topk(2, dim=1).values.unbind(1)
        return ((first - second) / first).float().cpu().numpy()

    @torch.inference_mode()
    def logits(self, frames: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Class and mask logits in float32 on the CPU."""
        out = self.network(self.prepare(torch.from_numpy(np.stack(frames)).to(self.device)))
        return out[0].float().cpu(), out[1].float().cpu()

    @contextlib.contextmanager
    def parts(self) -> Iterator[Callable[[Sequence[np.ndarray]], dict[str, float]]]:
        """What gives a batch's milliseconds of each stage, the network in three parts. Of the eager network only."""
        marks = Marks(self.device)

        def measure(frames: Sequence[np.ndarray]) -> dict[str, float]:
            stages = self.finish(self.start(frames))
            return split(stages, marks.milliseconds())

        with marked(marks, self.network, self.network.parts()):
            yield measure


WHAT = {
    "hf": "transformers' Mask2Former, eager",
    "compiled": "transformers' Mask2Former under torch.compile(dynamic=False)",
    "openvino": "transformers' Mask2Former by torch.export in OpenVINO",
    "onnxruntime": "transformers' Mask2Former by torch.onnx.export (opset 18) in ONNX Runtime",
}
AROUND = ": its pixel decoder and transformer module around this package's EfficientNet-Lite, batch norms not folded"


def make(
    name: str,
    weights: Checkpoint,
    size: tuple[int, int],
    batch: int,
    device: torch.device,
    precision: str,
    threads: int,
) -> Other:
    """A baseline of Settings.against, ready for one size. Conversion takes up to minutes.

    Raises:
        ConfigError: it cannot be compiled or converted here.
    """
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)
    if device.type == "cpu":
        dtype = torch.float32  # torch's grid_sample rounds coordinates there in half precision: wrong labels
    if name in ("hf", "compiled"):
        network: Network = HuggingFace(weights, dtype).to(device)
        if name == "compiled":
            network = torch.compile(network, dynamic=False)
    else:
        example = torch.zeros(batch, 3, *size)
        convert = _openvino if name == "openvino" else _onnxruntime
        try:
            network = convert(HuggingFace(weights), example, precision, threads)
        except Exception as error:  # the exporters' own errors have no base of their own
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ConfigError(f"--against {name}: transformers' network cannot be converted ({reason})") from error
    return Other(name, network, weights, size, device, dtype)


@torch.no_grad()
def _openvino(network: nn.Module, example: Tensor, precision: str, threads: int) -> Network:
    import openvino

    from m2f_ros.pipeline.backends.openvino import core

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = openvino.convert_model(torch.export.export(network, (example,)))
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": {"fp32": "f32"}.get(precision, precision),
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
    }
    request = core().compile_model(converted, "CPU", options).create_infer_request()

    def call(pixels: Tensor) -> tuple[Tensor, Tensor]:
        found = request.infer([pixels.numpy()], share_inputs=True, share_outputs=False)
        return torch.from_numpy(found[0]), torch.from_numpy(found[1])

    return call


@torch.no_grad()
def _onnxruntime(network: nn.Module, example: Tensor, precision: str, threads: int) -> Network:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in ("onnxscript", "onnx_ir", "torch.onnx"):
            logging.getLogger(logger).setLevel(logging.ERROR)  # lines about each operation
        path = Path(folder) / "network.onnx"
        torch.onnx.export(
            network, (example,), path, dynamo=True, opset_version=18, input_names=["pixels"], verbose=False
        )
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def call(pixels: Tensor) -> tuple[Tensor, Tensor]:
        class_logits, mask_logits = session.run(None, {"pixels": pixels.numpy()})
        return torch.from_numpy(class_logits), torch.from_numpy(mask_logits)

    return call
