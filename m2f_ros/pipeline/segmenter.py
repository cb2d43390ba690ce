"""The work on the device: bytes of frames in, labels and what else is wanted out."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from m2f_ros.model import ModelConfig, heads
from m2f_ros.pipeline.backends import Backend
from m2f_ros.pipeline.colour import to_colours
from m2f_ros.pipeline.device import float32_products
from m2f_ros.pipeline.overlay import OPAQUE, blend
from m2f_ros.pipeline.resize import Fit
from m2f_ros.taxonomy import Taxonomy

OUTPUTS = frozenset({"label", "overlay", "confidence", "panoptic"})


class Kind(NamedTuple):
    """What a captured graph depends on: frames of one kind differ in their bytes alone.

    Attributes:
        shapes: of each frame's data.
        encodings: of each frame.
        fits: where each frame lies in the network's input, whose size is the same for all.
        want: some of OUTPUTS.
    """

    shapes: tuple[tuple[int, ...], ...]
    encodings: tuple[str, ...]
    fits: tuple[Fit, ...]
    want: frozenset[str]

    @property
    def network(self) -> tuple[int, int]:
        return self.fits[0].network


class Segmenter:
    """Every step from raw bytes to outputs, on one device. Neither waits for the device nor reads from it.

    Args:
        precision: of the network; see `m2f_ros.pipeline.backends`.
        alpha: weight of the class colours in the overlay, 0..1.
    """

    def __init__(
        self,
        backend: Backend,
        config: ModelConfig,
        taxonomy: Taxonomy,
        device: torch.device,
        precision: str,
        alpha: float,
    ):
        self._backend = backend
        self._device, self._precision = device, precision
        self._mean = torch.tensor(config.mean, device=device).view(1, 3, 1, 1)
        self._scale = 1 / torch.tensor(config.std, device=device).view(1, 3, 1, 1)
        self._palette = torch.from_numpy(taxonomy.palette()[: len(taxonomy.classes)]).to(device)
        self._things = torch.tensor([c.thing for c in taxonomy.classes], device=device)
        # In the device's memory: captured graphs read it each time.
        self._weight = torch.tensor(round(alpha * OPAQUE), dtype=torch.int32, device=device)

    def set_alpha(self, alpha: float) -> None:
        """On the current stream."""
        self._weight.fill_(round(alpha * OPAQUE))

    def prepare(self, kind: Kind) -> object:
        """The slow part of the first frame of a kind. Whoever captures a graph keeps what this returns as long."""
        with float32_products(self._precision, self._device):
            return self._backend.prepare(kind.network, len(kind.shapes))

    def __call__(self, kind: Kind, raws: list[Tensor], mark: Callable[[str], None]) -> list[dict[str, Tensor]]:
        """Segment frames of one kind.

        Args:
            raws: uint8, of `kind.shapes`.
            mark: is told each stage as it ends.
        Returns:
            for each frame, of what is wanted: "label" (H, W) uint8, or uint16 above 255 classes; "overlay" (H, W, 3)
            uint8 BGR; "confidence" (H, W) uint8; of "panoptic" "ids" (H, W) uint8 or int32 and "table" (rows, 4)
            float64, as `heads.panoptic` has them.
        """
        pictures = [to_colours(raw, encoding) for raw, encoding in zip(raws, kind.encodings, strict=True)]
        with float32_products(self._precision, self._device):
            pixels = [self._normalised(*picture, fit) for picture, fit in zip(pictures, kind.fits, strict=True)]
            pixels = pixels[0] if len(pixels) == 1 else torch.cat(pixels)
            pixels = pixels.to(self._backend.dtype, memory_format=torch.channels_last)
            mark("preprocess")
            class_logits, mask_logits = self._backend(pixels)
            mark("network")
            outputs = self._heads(class_logits, mask_logits, kind)
            mark("head")
        if "overlay" in kind.want:
            for (picture, bgr), frame in zip(pictures, outputs, strict=True):
                frame["overlay"] = blend(picture, frame["label"], self._palette, self._weight, bgr)
            mark("overlay")
        for frame in outputs:
            label = frame.pop("label", None)
            if label is not None and "label" in kind.want:
                # Labels of more than 255 classes travel as uint16; torch converts to it but computes little in it.
                frame["label"] = label if label.dtype == torch.uint8 else label.to(torch.uint16)
        return outputs

    def _normalised(self, picture: Tensor, bgr: bool, fit: Fit) -> Tensor:
        """(H, W, 3) uint8 -> (1, 3, *fit.network) float32, what is padded being 0, as upstream pads."""
        pixels = resampled(picture.permute(2, 0, 1)[None], fit.content)
        if bgr:
            pixels = pixels.flip(1)
        pixels = (pixels - self._mean) * self._scale
        if fit.content != fit.network:
            (height, width), (rows, columns) = fit
            pixels = F.pad(pixels, (0, columns - width, 0, rows - height))
        return pixels

    def _heads(self, class_logits: Tensor, mask_logits: Tensor, kind: Kind) -> list[dict[str, Tensor]]:
        # Frames that lie alike in the network's input go together.
        sizes = [(fit, shape[:2]) for fit, shape in zip(kind.fits, kind.shapes, strict=True)]
        if len(set(sizes)) == 1:
            return self._head(class_logits, mask_logits, *sizes[0], kind.want)
        return [
            self._head(class_logits[i : i + 1], mask_logits[i : i + 1], *size, kind.want)[0]
            for i, size in enumerate(sizes)
        ]

    def _head(
        self, class_logits: Tensor, mask_logits: Tensor, fit: Fit, size: tuple[int, int], want: frozenset[str]
    ) -> list[dict[str, Tensor]]:
        content = None if fit.content == fit.network else fit.content
        found: dict[str, Tensor] = {}
        if want & {"label", "overlay", "confidence"}:
            label, confidence = heads.semantic(
                class_logits, mask_logits, fit.network, size, "confidence" in want, content=content
            )
            found["label"] = label
            if confidence is not None:
                found["confidence"] = confidence
        if "panoptic" in want:
            found["ids"], found["table"] = heads.panoptic(
                class_logits, mask_logits, fit.network, size, self._things, content=content
            )
        return [{name: tensors[i] for name, tensors in found.items()} for i in range(len(class_logits))]


def resampled(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """(1, 3, H, W) uint8 -> (1, 3, *size) float32 in 0..255, averaged over the source's pixels when shrinking.

    In whole levels, as PIL gives them to upstream, though here and there the level beside PIL's. On a CPU that is much
    quicker than float32.
    """
    if planes.shape[2:] == size:
        return planes.float()
    if planes.device.type == "cpu":
        return F.interpolate(planes, size, mode="bilinear", antialias=True).float()
    return F.interpolate(planes.float(), size, mode="bilinear", antialias=True).round_()
