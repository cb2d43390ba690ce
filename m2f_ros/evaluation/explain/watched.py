"""A frame's way through a network, with what its layers saw."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from m2f_ros.errors import ConfigError
from m2f_ros.frame.frame import Frame
from m2f_ros.model import Mask2Former, MaskClassification, Network, PixelLogits, heads
from m2f_ros.model.mask2former.decoder import LEVELS
from m2f_ros.model.network import Result
from m2f_ros.pipeline.backends.eager import Eager
from m2f_ros.pipeline.pipeline import Pipeline
from m2f_ros.pipeline.segmentation import Segmentation
from m2f_ros.taxonomy import Taxonomy


class Layer(NamedTuple):
    """A layer of Mask2Former's decoder.

    Attributes:
        stride: pixels of the network's input in a side of a cell of `attention`; 0 for the learned queries.
        attention: (Q, H, W) float32 weights of the cross-attention, mean of the heads, at the frame's size; of each
            query the sum over the cells is 1 and the largest is shown as 1; empty for the learned queries.
        classes: (Q, classes + 1) probabilities after the layer; the last is "no object".
        masks: (Q, H, W) float32 mask probabilities after the layer.
    """

    stride: int
    attention: np.ndarray
    classes: np.ndarray
    masks: np.ndarray


@dataclass
class Watched:
    """A frame and its explanation. H, W: size of the frame.

    Attributes:
        image: (H, W, 3) uint8 BGR.
        result: label, confidence and, of a network with queries, panoptic segments, as the pipeline gives them.
        scores: (classes, H, W) float32, scores of the classes that sum up to 1 at each pixel.
        layers: the learned queries, then each layer of the decoder; of a network with queries whose layers are not
            known, its result alone; empty for a network without queries.
        taxonomy: classes of the model.
        summary: short description of the network.
        network, pixels, content: for `gradients`.
    """

    image: np.ndarray
    result: Segmentation
    scores: np.ndarray
    layers: list[Layer]
    taxonomy: Taxonomy
    summary: str
    network: Network = field(repr=False)
    pixels: Tensor = field(repr=False)
    content: tuple[int, int]

    @property
    def label(self) -> np.ndarray:
        """(H, W) train ids."""
        assert self.result.label is not None
        return self.result.label

    @property
    def second(self) -> np.ndarray:
        """(H, W) int64, the class with the second best score."""
        return np.argpartition(-self.scores, 1, axis=0)[1] if len(self.scores) > 1 else np.zeros(self.label.shape, int)

    @property
    def entropy(self) -> np.ndarray:
        """(H, W) float32, entropy of the scores over its largest value, 0..1."""
        scores = np.maximum(self.scores, 1e-12)
        return -(scores * np.log(scores)).sum(0) / max(np.log(len(scores)), 1e-12)

    def shares(self, region: np.ndarray, train_id: int) -> np.ndarray:
        """Return the share of each query in the score of a class over a region, (Q,) float64; empty without queries.

        region: (H, W) bool.
        """
        if not self.layers:
            return np.zeros(0)
        last = self.layers[-1]
        parts = last.classes[:, train_id] * last.masks[:, region].mean(1)
        return parts / max(parts.sum(), 1e-12)

    def gradients(self, region: np.ndarray, train_id: int) -> np.ndarray:
        """Return where the features before the class layer speak for a class, (H, W) float32, 0..1 (Seg-Grad-CAM).

        The score is the sum of the class' logits over the region. (Vinogradova et al. 2020,
        https://arxiv.org/abs/2002.11434)

        Raises ModuleNotFoundError without captum, CheckpointError if the network's class layer is not known.
        """
        from captum.attr import LayerAttribution, LayerGradCam

        network, height, width = self.network, *self.content
        size = region.shape[0], region.shape[1]
        where = torch.from_numpy(region)

        def score(pixels: Tensor) -> Tensor:
            logits = heads.resize(network(pixels)[0].float(), (pixels.shape[-2], pixels.shape[-1]))[
                ..., :height, :width
            ]
            return heads.resize(logits, size)[:, train_id][:, where].sum(1)

        with torch.enable_grad():
            found = LayerGradCam(score, network.class_layer()).attribute(
                self.pixels.clone().requires_grad_(), attribute_to_layer_input=True, relu_attributions=True
            )
        found = LayerAttribution.interpolate(found.detach(), tuple(self.pixels.shape[-2:]), "bilinear")
        found = heads.resize(found[..., :height, :width], size)[0, 0]
        return (found / found.max().clamp_min(1e-12)).numpy()


class _Recorder:
    """A backend that keeps the pixels and the result of its last call; see `backends.Backend`."""

    name, background = "eager", False

    def __init__(self, network: Network):
        self._eager = Eager(network)
        self.dtype = self._eager.dtype
        self.pixels: Tensor
        self.result: Result

    def ready(self, size: tuple[int, int], batch: int = 1) -> bool:
        return True

    def sizes(self) -> list[tuple[int, int]]:
        return []

    def forget(self, seconds: float, but: Collection[tuple[int, int]] = ()) -> bool:
        return False

    def build(self, size: tuple[int, int], batch: int = 1) -> object:
        return self._eager.build(size, batch)

    def __call__(self, pixels: Tensor, memory: Tensor | None = None) -> Result:
        self.pixels, self.result = pixels, self._eager(pixels, memory)
        return self.result


def watch(network: Network, taxonomy: Taxonomy, frame: Frame, image: np.ndarray) -> Watched:
    """Segment a frame on the CPU in fp32, and keep what the layers saw.

    Args:
        image: (H, W, 3) uint8 BGR, the frame in colours.
    Raises:
        ConfigError: the network gives neither mask classification nor pixel logits.
    """
    network.fold_norms()
    recorder = _Recorder(network)
    pipeline = Pipeline(network, taxonomy, device="cpu", precision="fp32", backend=recorder)
    want = {"label", "confidence"} | ({"panoptic"} if pipeline.finds_segments else set())
    size = frame.size
    placement = pipeline.resize.place(*size)
    result = pipeline.segment(frame, want)
    # The recorder's tensors are of inference mode, which gradients do not take.
    pixels, found = recorder.pixels.clone(), recorder.result

    def at_frame(maps: Tensor) -> np.ndarray:
        """Resize (N, h, w) of the network's input to the frame."""
        whole = heads.resize(maps[None].float(), placement.network)
        return heads.resize(whole[..., : placement.content[0], : placement.content[1]], size)[0].numpy()

    with torch.no_grad():
        layers: list[Layer] = []
        if isinstance(found, PixelLogits):
            logits = torch.from_numpy(at_frame(found.logits[0]))
            scores = logits.softmax(0).numpy()
        elif isinstance(found, MaskClassification):
            class_logits, mask_logits = found.class_logits.float(), found.mask_logits.float()
            scores = at_frame(heads.semantic_scores(class_logits, mask_logits, placement.network)[0])
            scores = scores / np.maximum(scores.sum(0), 1e-12)
            if isinstance(network, Mask2Former):
                layers = _layers(network, pixels, at_frame)
            else:
                classes = class_logits[0].softmax(-1).numpy()
                layers = [Layer(0, np.zeros(0), classes, _masks(mask_logits[0], at_frame))]
        else:
            raise ConfigError(f"{network.config.summary}: it gives neither queries nor scores of pixels to explain")
    return Watched(image, result, scores, layers, taxonomy, network.config.summary, network, pixels, placement.content)


def _masks(logits: Tensor, at_frame) -> np.ndarray:
    return 1 / (1 + np.exp(-at_frame(logits).clip(-60, 60)))


def _layers(network: Mask2Former, pixels: Tensor, at_frame) -> list[Layer]:
    """Run Mask2Former again, with the results of all layers, and the weights of their cross-attention."""
    seen: list[tuple[Tensor, ...]] = []
    hooks = [
        layer.cross_attn.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
        for layer in network.decoder.layers
    ]
    network.decoder.training = True  # it gives the results of all layers, and has no dropout
    try:
        output = network(pixels)
    finally:
        network.decoder.training = False
        for hook in hooks:
            hook.remove()
    results = [*output.aux, (output.class_logits, output.mask_logits)]
    layers = []
    for number, (classes, masks) in enumerate(results):
        attention, stride = np.zeros(0), 0
        if number:
            stride = (32, 16, 8)[(number - 1) % LEVELS]
            shape = [side // stride for side in pixels.shape[-2:]]
            weights = _attention(*seen[number - 1], heads=network.decoder.heads)
            attention = at_frame(weights.unflatten(1, shape))
            attention = attention / np.maximum(attention.max((1, 2), keepdims=True), 1e-12)
        layers.append(Layer(stride, attention, classes[0].softmax(-1).numpy(), _masks(masks[0], at_frame)))
    return layers


def _attention(query: Tensor, key: Tensor, value: Tensor, visible: Tensor, *, heads: int) -> Tensor:
    """Return the weights of a cross-attention, mean of the heads, (Q, S); see `decoder.Attention`."""
    query, key = (x[0].unflatten(-1, (heads, -1)).transpose(0, 1) for x in (query, key))
    logits = query @ key.mT / query.shape[-1] ** 0.5
    return logits.masked_fill(~visible[0], -torch.inf).softmax(-1).mean(0)
