"""The work on the device: from the raw bytes of frames to labels and other outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from m2f_ros.errors import ConfigError
from m2f_ros.frame import outputs
from m2f_ros.frame.frame import Ignored
from m2f_ros.model import MaskClassification, NetworkConfig, heads
from m2f_ros.model.network import GAPS, LabelMap, PixelLogits, Result, TrackedMasks
from m2f_ros.pipeline.backends import Backend
from m2f_ros.pipeline.colour import resampled, to_colours
from m2f_ros.pipeline.device import float32_products
from m2f_ros.pipeline.memory import Memory
from m2f_ros.pipeline.painters import PAINTERS, Canvas
from m2f_ros.pipeline.resize import Placement
from m2f_ros.pipeline.smoothing import Smoothing
from m2f_ros.pipeline.tables import Tables
from m2f_ros.pipeline.views import WHOLE, Views, average
from m2f_ros.space.ignore import fitted
from m2f_ros.taxonomy import Taxonomy

LABELLED = outputs.needing("label") | {"shares"} | PAINTERS.keys()  # outputs that need the class of each pixel
CONFIDENT = outputs.needing("confidence")
PANOPTIC = outputs.needing("panoptic")
SEMANTIC = LABELLED | CONFIDENT
OUTPUTS = SEMANTIC | PANOPTIC
MEMORY = "memory"  # wanted beside outputs, by a replay
# Tensors of the head -> the output that each is sent as. A painter may need one whose own output nobody wants.
_OF_HEAD = {"label": "label", "confidence": "confidence", "ids": "panoptic", "table": "panoptic"}


class GraphKey(NamedTuple):
    """The key of a captured CUDA graph and of a slot's memory: frames of one key differ only in their bytes.

    Attributes:
        shapes: shape of each frame's data.
        encodings: encoding of each frame's data; see `Frame.raw`.
        placements: placement of each frame in the network's input, of one size for all.
        sizes: (height, width) of each frame's outputs.
        want: names of wanted outputs.
        filtered: True if labels of low confidence become unlabelled.
        ignored: pixels of each frame that become unlabelled; None for none.
    """

    shapes: tuple[tuple[int, ...], ...]
    encodings: tuple[str, ...]
    placements: tuple[Placement, ...]
    sizes: tuple[tuple[int, int], ...]
    want: frozenset[str]
    filtered: bool
    ignored: tuple[Ignored | None, ...]

    @property
    def network(self) -> tuple[int, int]:
        return self.placements[0].network


class Segmenter:
    """Computes outputs from raw bytes on one device, without synchronising with it.

    Args:
        precision: precision of the network; see `m2f_ros.pipeline.backends`.
        smoothing: weight of the past class scores, 0..<1.
        memory: see `Network.memory`.
        slots: True to find what ids by queries need, with panoptic segments.
        views: views of a frame whose class scores are averaged.
    Attributes:
        tables: settings of Tuning; filled before the first call.
        smoothing: past class scores of each stream.
        memory: memory of the network for each stream.
    """

    def __init__(
        self,
        backend: Backend,
        config: NetworkConfig,
        taxonomy: Taxonomy,
        device: torch.device,
        precision: str,
        smoothing: float,
        memory: Tensor | None = None,
        slots: bool = False,
        views: Views = WHOLE,
    ):
        self._backend = backend
        self._views, self._stride = views, config.stride
        self._device, self._precision = device, precision
        self._mean = torch.tensor(config.mean, device=device).view(1, 3, 1, 1)
        self._scale = 1 / torch.tensor(config.std, device=device).view(1, 3, 1, 1)
        self._black_padding = getattr(config, "black_padding", False)
        self._averaged = getattr(config, "averaged", True)
        self._things = torch.tensor([c.thing for c in taxonomy.classes], device=device)
        self._classes, self._unlabelled = len(taxonomy.classes), taxonomy.unlabelled
        self.smoothing = Smoothing(smoothing, self._classes, device)
        self.memory = Memory(memory, device)
        self._slots = slots
        self.tables = Tables(taxonomy, device)
        # Tensors that captured graphs read: one for each size, as long as the object lives.
        self._masks: WeakKeyDictionary[Ignored, dict[tuple[int, int], Tensor]] = WeakKeyDictionary()

    def build_network(self, network: tuple[int, int], batch: int) -> object:
        """Build the network for `batch` frames at this size. A captured graph needs the returned object."""
        with float32_products(self._precision, self._device):
            if self._views:
                return [self._backend.build(size, 1) for size in self.sizes(network)]
            return self._backend.build(network, batch)

    def sizes(self, network: tuple[int, int]) -> list[tuple[int, int]]:
        """Return the sizes that the network itself takes for frames of this size of its input."""
        return self._views.sizes(network, self._stride) if self._views else [network]

    def check(self, number: int, streams: Sequence[str] | None) -> None:
        """Raise FrameError if frames depend on others and not each of `number` frames has its own stream."""
        if self.smoothing.weight:
            self.smoothing.check(number, streams)
        if self.memory:
            self.memory.check(number, streams)

    def forget(self, stream: str | None = None) -> None:
        """Forget the past of a stream, or of all. Thread-safe; takes effect at the next frame."""
        self.smoothing.forget(stream)
        self.memory.forget(stream)

    def past(self, key: GraphKey, streams: Sequence[str]) -> list[Tensor]:
        """Return the argument `past` of a call for frames of these streams. Runs on the compute stream."""
        if key.want & SEMANTIC:
            sums = self.smoothing.past(streams, key.placements)
        else:
            sums = []
            for stream in streams:
                self.smoothing.forget(stream)  # stale by the time labels are wanted again
        return sums + self.memory.past(streams)

    def buffers(self, key: GraphKey, number: int) -> list[Tensor]:
        """Return memory at fixed addresses for a `past` of `number` tensors; see `PerStream._buffers_of`."""
        memories = len(key.shapes) if self.memory else 0
        return self.smoothing.buffers(number - memories, key.network) + self.memory.buffers(memories)

    def __call__(
        self, key: GraphKey, raws: list[Tensor], past: list[Tensor], mark: Callable[[str], None]
    ) -> list[dict[str, Tensor]]:
        """Segment frames of one GraphKey.

        Args:
            raws: uint8 data of each frame, of `key.shapes`.
            past: sum of class scores (classes, *key.network) of each frame's stream, with smoothing, then the memory of
                each frame's stream, for a network with memory; updated in place.
            mark: function that is called with the name of each stage at its end.
        Returns:
            The wanted arrays of each frame, of its size in `key.sizes`: "label" (H, W) uint8, or uint16 above 255
            classes; "confidence" (H, W) uint8; "shares" (classes + 1,) float32; for "panoptic" "ids" (H, W) uint8 or
            int32 and "table" (rows, 8) float64 of `heads.panoptic`; the image of each painter (painters.py); "memory",
            that of the network after the frame. With `slots` also "slots" (rows,) int64 of the rows of "table", and
            "embeddings" (queries, C) float32 of a network that gives them; see `Segmentation`.
        """
        split = len(past) - len(raws) if self.memory else len(past)
        past, memories = past[:split], past[split:]
        pictures = [to_colours(raw, encoding) for raw, encoding in zip(raws, key.encodings, strict=True)]
        gaps = False
        with float32_products(self._precision, self._device):
            if self._views:
                found = [self._viewed(key, i, *picture) for i, picture in enumerate(pictures)]
                mark("network")
            else:
                each = [self._normalised(*picture, at) for picture, at in zip(pictures, key.placements, strict=True)]
                pixels = each[0] if len(each) == 1 else torch.cat(each)
                pixels = pixels.to(self._backend.dtype, memory_format=torch.channels_last)
                mark("preprocess")
                result = self._network(pixels, memories)
                gaps = isinstance(result, GAPS)
                mark("network")
                found = self._heads(result, key, past)
                mark("head")
        self._paint(key, pictures, found, mark, gaps)
        if memories and MEMORY in key.want:
            for frame, memory in zip(found, memories, strict=True):
                frame[MEMORY] = memory.clone()
        for frame in found:
            for name, output in _OF_HEAD.items():
                if output not in key.want:
                    frame.pop(name, None)
            if "label" in frame and frame["label"].dtype != torch.uint8:
                # Converted last, since torch supports few operations on uint16.
                frame["label"] = frame["label"].to(torch.uint16)
        return found

    def _viewed(self, key: GraphKey, index: int, picture: Tensor, bgr: bool) -> dict[str, Tensor]:
        """Return the labels of a frame, and what they give, from the mean scores of its views."""
        placement, size = key.placements[index], key.sizes[index]

        def pixels_of(placement: Placement, flip: bool) -> Tensor:
            pixels = self._normalised(picture.flip(1) if flip else picture, bgr, placement)
            return pixels.to(self._backend.dtype, memory_format=torch.channels_last)

        views = self._views.of(placement, self._stride)
        scores = average(views, size, self._classes, pixels_of, self._backend)
        label, confidence = heads.semantic_of_scores(scores, size, key.filtered or bool(key.want & CONFIDENT))
        mask = self._mask(key.ignored[index : index + 1], size)
        return {name: tensor[0] for name, tensor in self._of_labels(label, confidence, key, mask).items()}

    def _network(self, pixels: Tensor, memories: list[Tensor]) -> Result:
        """Run the network, and update the memories in place."""
        if not memories:
            return self._backend(pixels)
        memory = torch.stack(memories)
        result = self._backend(pixels, memory)
        for own, following in zip(memories, memory, strict=True):
            own.copy_(following)
        return result

    def _paint(
        self,
        key: GraphKey,
        pictures: list[tuple[Tensor, bool]],
        found: list[dict[str, Tensor]],
        mark: Callable[[str], None],
        gaps: bool,
    ) -> None:
        """Add the wanted pictures. gaps: True if the network itself leaves pixels unlabelled."""
        # Else, without a filter or a mask, no pixel is unlabelled, and the tables need no row for it.
        rows = slice(None if gaps or key.filtered or any(key.ignored) else self._classes)
        palette, weight = self.tables.palette[rows], self.tables.weight[rows]
        for name, paint in PAINTERS.items():
            if name in key.want:
                for (picture, bgr), size, frame in zip(pictures, key.sizes, found, strict=True):
                    label, confidence, ids = frame["label"], frame.get("confidence"), frame.get("ids")
                    frame[name] = paint(Canvas(label, confidence, ids, picture, bgr, size, palette, weight))
                mark(name)

    def _normalised(self, picture: Tensor, bgr: bool, placement: Placement) -> Tensor:
        """Convert (H, W, 3) uint8 to (1, 3, *placement.network) float32, padded with 0 as upstream pads: after the
        normalisation, unless the model was trained with black padding."""
        pixels = resampled(picture.permute(2, 0, 1)[None], placement.content, self._averaged)
        if bgr:
            pixels = pixels.flip(1)
        (height, width), (rows, columns) = placement
        padding = (0, columns - width, 0, rows - height)
        if self._black_padding and any(padding):
            pixels = F.pad(pixels, padding)
        pixels = (pixels - self._mean) * self._scale
        if not self._black_padding and any(padding):
            pixels = F.pad(pixels, padding)
        return pixels

    def _heads(self, result: Result, key: GraphKey, past: list[Tensor]) -> list[dict[str, Tensor]]:
        # Frames of equal placement and size share a call, unless smoothing gives each its own past.
        sizes = list(zip(key.placements, key.sizes, strict=True))
        if len(set(sizes)) == 1 and not past:
            return self._head(result, *sizes[0], key, None, key.ignored)
        found = []
        for i, size in enumerate(sizes):
            one = type(result)(*(x[i : i + 1] for x in result))
            found += self._head(one, *size, key, past[i] if past else None, key.ignored[i : i + 1])
        return found

    def _mask(self, ignored: Sequence[Ignored | None], size: tuple[int, int]) -> Tensor | None:
        """Return the ignored pixels of these frames, (B, *size) bool; None if no frame has any."""
        if not any(ignored):
            return None
        return torch.stack([self._mask_of(one, size) for one in ignored])

    def _mask_of(self, ignored: Ignored | None, size: tuple[int, int]) -> Tensor:
        if ignored is None:
            return torch.zeros(size, dtype=torch.bool, device=self._device)
        masks = self._masks.setdefault(ignored, {})
        if size not in masks:  # at the first frame of a GraphKey, which is not captured
            mask = np.ascontiguousarray(fitted(ignored.mask, (size[1], size[0])))
            masks[size] = torch.from_numpy(mask).to(self._device)
        return masks[size]

    def _of_labels(
        self, label: Tensor, confidence: Tensor | None, key: GraphKey, mask: Tensor | None
    ) -> dict[str, Tensor]:
        """Return labels (B, H, W), filtered and masked in place, with confidence and shares where they are wanted."""
        found = {"label": label}
        if confidence is not None and key.filtered:
            label.masked_fill_(confidence < self.tables.min_level, self._unlabelled)
        if mask is not None:
            label.masked_fill_(mask, self._unlabelled)
            if confidence is not None:
                confidence.masked_fill_(mask, 0)
        if confidence is not None and key.want & CONFIDENT:
            found["confidence"] = confidence
        if "shares" in key.want:
            found["shares"] = heads.shares(label, self._classes, mask)
        return found

    def _head(
        self,
        result: Result,
        placement: Placement,
        size: tuple[int, int],
        key: GraphKey,
        past: Tensor | None,
        ignored: Sequence[Ignored | None],
    ) -> list[dict[str, Tensor]]:
        mask = self._mask(ignored, size)
        embeddings = None
        if isinstance(result, TrackedMasks):
            embeddings, result = result.embeddings, MaskClassification(*result[:2])
        content = None if placement.content == placement.network else placement.content
        found: dict[str, Tensor] = {}
        if key.want & SEMANTIC:
            sure = key.filtered or bool(key.want & CONFIDENT)
            if sure and isinstance(result, LabelMap):
                raise ConfigError("the network gives labels alone: leave out output 'confidence' and min_confidence")
            if past is None:
                label, confidence = heads.labels(
                    result,
                    placement.network,
                    size,
                    sure,
                    content,
                    unlabelled=self._unlabelled,
                    score_threshold=self.tables.score_threshold,
                )
            else:
                heads.smooth(past[None], self.smoothing.weight, result)
                label, confidence = heads.semantic_of_scores(past[None], size, sure, content)
            found = self._of_labels(label, confidence, key, mask)
        if key.want & PANOPTIC:
            if isinstance(result, LabelMap | PixelLogits):
                names = ", ".join(map(repr, sorted(key.want & PANOPTIC)))
                raise ConfigError(f"the network classifies pixels and finds no segments: leave out output {names}")
            sizes = placement.network, size
            rules: dict[str, Any] = {
                "score_threshold": self.tables.score_threshold,
                "overlap_threshold": self.tables.overlap_threshold,
                "content": content,
                "ignored": mask,
            }
            if isinstance(result, MaskClassification):
                rules["mask_threshold"] = self.tables.mask_threshold
                found["ids"], found["table"] = heads.panoptic(*result, *sizes, self._things, **rules)
            else:
                found["ids"], found["table"] = heads.instance_segments(result, *sizes, **rules)
            if self._slots:
                classes = found["table"][..., 1].long()
                rows = torch.arange(classes.shape[1], device=classes.device)
                found["slots"] = torch.where(F.pad(self._things, (0, 1))[classes], rows, len(rows) + classes)
            if embeddings is not None:
                found["embeddings"] = embeddings.float()
        return [{name: tensors[i] for name, tensors in found.items()} for i in range(len(result[0]))]
