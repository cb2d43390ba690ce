"""The baseline of this package's Mask2Former: transformers' with the same weights. `library` is for other families.

Around the network it takes the steps of transformers' code as plain torch operations on the device: the frames go up,
are resized and normalised, and the labels are made as `post_process_semantic_segmentation` makes them, but from mask
logits interpolated to the network's size, as upstream does it, where transformers has a fixed 384x384.
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
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from m2f_ros.benchmark.inputs import Case, Checkpoint
from m2f_ros.benchmark.measure import Marks, split, timed
from m2f_ros.errors import ConfigError
from m2f_ros.model import Mask2Former, MaskClassification, ModelConfig, PixelLogits
from m2f_ros.model.checkpoint import load_for_training, read_weights
from m2f_ros.model.network import Result
from m2f_ros.pipeline.colour import resampled

_HF, _PACKAGE = "transformers' Mask2Former", "'transformers>=5.17,<6'"
# Each baseline in words, the modules that it needs beside torch, and the packages to install for them.
_ALL = {
    "hf": (f"{_HF}, eager", "transformers", _PACKAGE),
    "compiled": (f"{_HF} under torch.compile(dynamic=False)", "transformers", _PACKAGE),
    "openvino": (f"{_HF} by torch.export in OpenVINO", "transformers openvino", f"{_PACKAGE} openvino"),
    "onnxruntime": (f"{_HF} by torch.onnx.export (opset 18) in ONNX Runtime",
                    "transformers onnx onnxscript onnxruntime", f"{_PACKAGE} onnxruntime onnxscript"),
    "library": ("the library's own code, eager", "", ""),
}  # fmt: skip
_AROUND = ": its pixel decoder and transformer module around this package's EfficientNet-Lite, batch norms not folded"
Network = Callable[[Tensor], Result]  # pixels -> logits
Batch = Sequence[np.ndarray]  # of (height, width, 3) uint8 RGB


def check_family(name: str, weights: Checkpoint) -> None:
    """Raise ConfigError where a baseline of Settings.against is not for the network."""
    if name != "library" and not isinstance(weights.config, ModelConfig):
        raise ConfigError(f"--against {name}: is for this package's own Mask2Former; take library, or none")
    if name == "library" and not weights.library:
        raise ConfigError(f"--against library: no library has {weights.config.summary}; take hf or none")


def check(name: str, device: torch.device, precision: str) -> None:
    """Raise ConfigError, with what to do, where a baseline of Settings.against cannot run here."""
    _, modules, packages = _ALL[name]
    missing = [module for module in modules.split() if not importlib.util.find_spec(module)]
    if missing:
        raise ConfigError(f"--against {name}: {' and '.join(missing)} not installed; pip install {packages}")
    if name in ("openvino", "onnxruntime") and device.type != "cpu":
        raise ConfigError(f"--against {name}: measured on a CPU only; leave it out, or take --device cpu")
    if name == "onnxruntime" and precision != "fp32":
        raise ConfigError(f"--against onnxruntime: fp32 only, not {precision}; leave it out, or take --precision fp32")
    if name == "compiled" and device.type == "cpu" and not shutil.which("g++"):
        raise ConfigError("--against compiled: needs a C++ compiler; install g++, or leave it out")


class HuggingFace(nn.Module):
    """transformers' network: (B, 3, H, W) normalised pixels -> MaskClassification, as ours gives it.

    With a Swin backbone it is Mask2FormerForUniversalSegmentation.from_pretrained. transformers has no
    EfficientNet-Lite: there its pixel decoder, with this package's last convolution, and its transformer module take
    the features of this package's backbone module, whose batch norms are not folded.
    """

    def __init__(self, weights: Checkpoint, dtype: torch.dtype = torch.float32):
        super().__init__()
        make = _whole if weights.has_swin else _around_our_backbone
        self.network: Any = make(weights).eval().to(dtype)
        self.requires_grad_(False)

    def forward(self, pixels: Tensor) -> MaskClassification:
        out = self.network(pixel_values=pixels)
        return MaskClassification(out.class_queries_logits, out.masks_queries_logits)


def _whole(weights: Checkpoint) -> Any:
    import transformers
    from transformers.utils import logging

    logging.set_verbosity_error()  # of a norm of Swin that no feature passes and no checkpoint needs
    logging.disable_progress_bar()
    network = transformers.Mask2FormerForUniversalSegmentation
    return network.from_pretrained(weights.folder, dtype=torch.float32, local_files_only=True)


def _around_our_backbone(weights: Checkpoint) -> Any:
    from transformers import Mask2FormerConfig
    from transformers.models.mask2former import modeling_mask2former as theirs

    ours = weights.config
    assert isinstance(ours, ModelConfig)  # as `check` has it
    sizes: dict[str, Any] = dict.fromkeys(("feature_size", "mask_feature_size", "hidden_dim"), ours.hidden_dim)
    sizes |= {"encoder_feedforward_dim": ours.encoder_ffn, "encoder_layers": ours.encoder_layers}
    sizes |= {"dim_feedforward": ours.decoder_ffn, "decoder_layers": ours.decoder_layers + 1}
    sizes |= {"num_attention_heads": ours.heads, "num_queries": ours.num_queries}
    config = Mask2FormerConfig(**sizes, id2label=dict(enumerate(ours.labels)))
    model = load_for_training(weights.folder)
    if not isinstance(model, Mask2Former):
        raise ConfigError(f"{weights.folder}: is no Mask2Former, which alone has a baseline; take --against none")
    network: Any
    with torch.device("meta"):
        network = theirs.Mask2FormerForUniversalSegmentation(config)
        level = network.model.pixel_level_module
        level.encoder = nn.Identity()
        level.decoder = theirs.Mask2FormerPixelDecoder(config, feature_channels=model.backbone.channels)
    if ours.separable_output:
        level.decoder.layer_1[0] = model.pixel_decoder.output[0]
    network.criterion = nn.Identity()
    stored, backbone = read_weights(weights.folder), "model.pixel_level_module.encoder."
    rest = {key: value.float() for key, value in stored.items() if not key.startswith(backbone)}
    network.load_state_dict(rest, assign=True)
    level.encoder = _Features(model.backbone)
    return network


class _Features(nn.Module):
    """A backbone as transformers' pixel-level module calls it."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, pixels: Tensor) -> SimpleNamespace:
        return SimpleNamespace(feature_maps=self.backbone(pixels))


class Theirs:
    """A baseline: frames in the host's memory in, labels in the host's memory out, one batch at a time.

    Args:
        network: on the device.
        dtype: of the network's pixels.
    """

    in_flight = 1  # batches
    fallbacks = None  # it has no graphs

    def __init__(self, name: str, network: Network, case: Case, dtype: torch.dtype = torch.float32):
        self.name, self.network, self.size, self.device, self.dtype = name, network, case.size, case.device, dtype
        self.what = _ALL[name][0] + ("" if case.weights.has_swin or name != "hf" else _AROUND)
        config = case.weights.config
        self._mean, self._std = (torch.tensor(x, device=case.device).view(3, 1, 1) for x in (config.mean, config.std))
        self._marks = Marks(case.device)

    @torch.inference_mode()
    def start(self, frames: Batch) -> tuple[np.ndarray, dict[str, float]]:
        """Segment a batch. Complete when it returns."""
        marks = self._marks
        marks.mark("")
        batch = self.upload(frames)
        marks.mark("upload")
        pixels = self.preprocess(batch)
        marks.mark("preprocess")
        found = self.network(pixels)
        marks.mark("network")
        labels = self.head(found, batch.shape[1:3])
        marks.mark("head")
        result = labels.cpu().numpy()
        marks.mark("download")
        return result, marks.milliseconds()

    def finish(self, done: tuple[np.ndarray, dict[str, float]]) -> dict[str, float]:
        """Milliseconds of each stage."""
        return done[1]

    def labels(self, frames: Batch) -> np.ndarray:
        """(B, height, width)."""
        return self.start(frames)[0]

    def upload(self, frames: Batch) -> Tensor:
        """(B, height, width, 3) on the device."""
        return torch.from_numpy(np.stack(frames)).to(self.device)

    def preprocess(self, batch: Tensor) -> Tensor:
        """(B, height, width, 3) uint8 RGB on the device -> (B, 3, *size), normalised."""
        pixels = resampled(batch.permute(0, 3, 1, 2), self.size)
        return ((pixels - self._mean) / self._std).to(self.dtype)

    def head(self, found: Result, frame_size: Sequence[int]) -> Tensor:
        """(B, height, width): the class of the best score."""
        scores = self.scores(found, frame_size)
        labels = scores.argmax(dim=1)
        return labels.to(torch.uint8) if scores.shape[1] <= 255 else labels

    def scores(self, found: Result, frame_size: Sequence[int]) -> Tensor:
        """post_process_semantic_segmentation with the network's size for 384x384: (B, classes, height, width).

        Pixel logits are resized once, then their softmax is taken.
        """
        if isinstance(found, PixelLogits):
            return F.interpolate(found.logits, tuple(frame_size), mode="bilinear", align_corners=False).softmax(1)
        assert isinstance(found, MaskClassification)
        class_logits, mask_logits = found
        mask_logits = F.interpolate(mask_logits, self.size, mode="bilinear", align_corners=False)
        classes = class_logits.softmax(dim=-1)[..., :-1]
        scores = torch.einsum("bqc,bqhw->bchw", classes, mask_logits.sigmoid())
        if scores.shape[-2:] != torch.Size(frame_size):
            scores = F.interpolate(scores, tuple(frame_size), mode="bilinear", align_corners=False)
        return scores

    @torch.inference_mode()
    def margins(self, frames: Batch) -> np.ndarray:
        """(B, height, width): lead of the best score over the second, as a part of the best; 0 to 1."""
        found = self.network(self.preprocess(self.upload(frames)))
        first, second = self.scores(found, frames[0].shape[:2]).topk(2, dim=1).values.unbind(1)
        return ((first - second) / first).float().cpu().numpy()

    @torch.inference_mode()
    def logits(self, frames: Batch) -> Result:
        """The network's result in float32 on the CPU."""
        found = self.network(self.preprocess(self.upload(frames)))
        return type(found)(*(x.float().cpu() for x in found))

    @contextlib.contextmanager
    def parts(self) -> Iterator[Callable[[Batch], dict[str, float]]]:
        """A function that gives a batch's milliseconds of each stage, the network in three parts. Eager only."""
        assert isinstance(self.network, HuggingFace)
        level = self.network.network.model.pixel_level_module
        with timed(self.device, {"backbone": level.encoder, "pixel decoder": level.decoder}.items()) as times:
            yield lambda frames: split(self.finish(self.start(frames)), times())


def make(name: str, case: Case, batch: int = 1, threads: int = 0) -> Theirs:
    """Make a baseline of Settings.against. OpenVINO and ONNX Runtime take up to minutes, for one batch size.

    Raises:
        ConfigError: the network cannot be compiled or converted here.
    """
    # On a CPU torch's grid_sample rounds coordinates in half precision, which gives wrong labels.
    dtype = case.dtype if case.cuda else torch.float32
    if name == "library":
        from m2f_ros.benchmark.library import Library

        return Library(case, dtype)
    network: Network
    if name in ("hf", "compiled"):
        network = HuggingFace(case.weights, dtype).to(case.device)
        return Theirs(name, torch.compile(network, dynamic=False) if name == "compiled" else network, case, dtype)
    convert = _openvino if name == "openvino" else _onnxruntime
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = convert(HuggingFace(case.weights), torch.zeros(batch, 3, *case.size), case.precision, threads)
    except Exception as error:  # the exporters' own errors have no base of their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"--against {name}: transformers' network cannot be converted ({reason})") from error
    return Theirs(name, network, case)


def _openvino(network: nn.Module, example: Tensor, precision: str, threads: int) -> Network:
    import openvino

    from m2f_ros.pipeline.backends.openvino import core

    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": {"fp32": "f32"}.get(precision, precision),
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
    }
    converted = openvino.convert_model(torch.export.export(network, (example,)))
    request = core().compile_model(converted, "CPU", options).create_infer_request()

    def call(pixels: Tensor) -> MaskClassification:
        found = request.infer([pixels.numpy()], share_inputs=True, share_outputs=False)
        return MaskClassification(torch.from_numpy(found[0]), torch.from_numpy(found[1]))

    return call


def _onnxruntime(network: nn.Module, example: Tensor, precision: str, threads: int) -> Network:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    for logger in ("onnxscript", "onnx_ir", "torch.onnx"):
        logging.getLogger(logger).setLevel(logging.ERROR)  # lines about each operation
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        torch.onnx.export(
            network, (example,), path, dynamo=True, opset_version=18, input_names=["pixels"], verbose=False
        )
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def call(pixels: Tensor) -> MaskClassification:
        class_logits, mask_logits = session.run(None, {"pixels": pixels.numpy()})
        return MaskClassification(torch.from_numpy(class_logits), torch.from_numpy(mask_logits))

    return call
