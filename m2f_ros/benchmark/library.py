"""The baseline of all families: the library's own path, from frames to labels."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from m2f_ros.benchmark.inputs import Case
from m2f_ros.benchmark.theirs import Batch, Theirs
from m2f_ros.model import Network
from m2f_ros.model.adapters.zoo import SMP, ZooConfig
from m2f_ros.model.checkpoint import find, load_for_training


class Library(Theirs):
    """The library's image processor or preset, its network in eager mode, and its post-processing to labels.

    Its margins and logits are of the same network, its pixels prepared as for the other contestants.
    """

    def __init__(self, case: Case, dtype: torch.dtype = torch.float32):
        model = load_for_training(case.weights.library).eval().requires_grad_(False).to(case.device, dtype)
        super().__init__("library", lambda pixels: model.result(model(pixels)), case, dtype)
        self._steps = _steps(model, case)
        self.what = f"{self._steps.what}, eager"

    @torch.inference_mode()
    def start(self, frames: Batch) -> tuple[np.ndarray, dict[str, float]]:
        """See Theirs.start. The library prepares the images in the host's memory."""
        marks, size = self._marks, frames[0].shape[:2]
        marks.mark("")
        pixels = self._steps.pixels(frames)
        marks.mark("preprocess")
        pixels = pixels.to(self.device, self.dtype)
        marks.mark("upload")
        found = self._steps.network(pixels)
        marks.mark("network")
        labels = self._steps.labels(found, size)
        marks.mark("head")
        result = labels.cpu().numpy()
        marks.mark("download")
        return result, marks.milliseconds()

    @contextmanager
    def parts(self) -> Iterator[Callable[[Batch], dict[str, float]]]:
        """A function that gives a batch's milliseconds of each stage."""
        yield lambda frames: self.finish(self.start(frames))


class _HuggingFace:
    def __init__(self, model: Any, case: Case):
        from transformers import AutoImageProcessor

        self._model, self._size = model, case.size
        self._processor = AutoImageProcessor.from_pretrained(find(case.weights.library), local_files_only=True)
        height, width = case.size
        self._options = {"size": {"height": height, "width": width}, "do_pad": False, "return_tensors": "pt"}
        self.what = f"transformers' {type(self._processor).__name__} and {type(model.network).__name__}"

    def pixels(self, frames: Batch) -> Tensor:
        resized = frames[0].shape[:2] != self._size
        return self._processor(images=list(frames), do_resize=resized, **self._options)["pixel_values"]

    def network(self, pixels: Tensor) -> Any:
        more = {"task_inputs": self._model.tokens.expand(len(pixels), -1)} if self._model.config.task else {}
        return self._model.network(pixel_values=pixels, **more)

    def labels(self, found: Any, size: Sequence[int]) -> Tensor:
        more = {}
        if self._model.config.kind.startswith("eomt"):  # whose masks are cut to the part that is no padding
            more = {"size": {"shortest_edge": min(self._size), "longest_edge": max(self._size)}}
        sizes = [tuple(size)] * len(found[self._first])
        return torch.stack(self._processor.post_process_semantic_segmentation(found, target_sizes=sizes, **more))

    @property
    def _first(self) -> str:
        return "logits" if len(self._model.gives._fields) == 1 else "class_queries_logits"


class _Torchvision:
    def __init__(self, model: Any, case: Case):
        library, config = _torchvision(), model.config
        mean, std = ([value / 255 for value in values] for values in (config.mean, config.std))
        weights = library.models.get_model_weights(config.architecture)
        self._preset, self._size = weights.DEFAULT.transforms(resize_size=None, mean=mean, std=std), list(case.size)
        self.network = model.network
        self.what = f"torchvision's {type(self._preset).__name__} preset and {config.architecture}, argmax"

    def pixels(self, frames: Batch) -> Tensor:
        resize = _torchvision().transforms.functional.resize
        return self._preset(resize(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2), self._size))

    def labels(self, found: Any, size: Sequence[int]) -> Tensor:
        return _resized(found["out"], size).argmax(1)


class _Smp:
    def __init__(self, model: Any, case: Case):
        self._around, self._config, self.network = Theirs("hf", model, case), model.config, model.network
        self.what = (
            f"segmentation_models.pytorch's {model.config.architecture}, images normalised and labels taken by plain "
            "torch operations as in its examples"
        )

    def pixels(self, frames: Batch) -> Tensor:
        pixels = self._around.preprocess(self._around.upload(frames))
        return pixels.flip(1) if self._config.bgr else pixels

    def labels(self, found: Any, size: Sequence[int]) -> Tensor:
        logits = _resized(found[0] if isinstance(found, tuple) else found, size)
        return (logits[:, 0] > 0).long() if self._config.is_binary else logits.argmax(1)


def _steps(model: Network, case: Case) -> _HuggingFace | _Torchvision | _Smp:
    config = model.config
    if not isinstance(config, ZooConfig):
        return _HuggingFace(model, case)
    return _Smp(model, case) if config.kind == SMP else _Torchvision(model, case)


def _torchvision() -> Any:
    return importlib.import_module("torchvision")  # which the main environment lacks


def _resized(logits: Tensor, size: Sequence[int]) -> Tensor:
    if logits.shape[-2:] == torch.Size(size):
        return logits
    return F.interpolate(logits, tuple(size), mode="bilinear", align_corners=False)
