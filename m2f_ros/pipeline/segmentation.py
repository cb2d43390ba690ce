"""The result of a frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from m2f_ros.model import heads


@dataclass(frozen=True)
class Segmentation:
    """The wanted outputs of one frame, at the frame's own size times `output_scale`.

    Attributes:
        images: output name (see frame/outputs.py) -> image.
        segments: panoptic segments of images["panoptic"], by id; None if not wanted.
        shares: (classes + 1,) float32, share of each class in the pixels, the last unlabelled; None if not wanted.
        stages: stage -> duration in milliseconds, in the order of the stages.
        slots: (segments,) integers, for ids by queries: the query of a thing, or the number of queries plus the train
            id of stuff; None without such ids.
        embeddings: (queries, C) float32, embeddings of the queries; None without ids by these.
        memory: float32, that of the network after the frame (see `Network.memory`); None if not wanted.
    """

    images: Mapping[str, np.ndarray] = field(default_factory=dict)
    segments: list[heads.Segment] | None = None
    shares: np.ndarray | None = None
    stages: dict[str, float] = field(default_factory=dict)
    slots: np.ndarray | None = None
    embeddings: np.ndarray | None = None
    memory: np.ndarray | None = None

    @property
    def label(self) -> np.ndarray | None:
        """(height, width) uint8, or uint16 above 255 classes: train ids; 255 or 65535 is unlabelled."""
        return self.images.get("label")

    @property
    def overlay(self) -> np.ndarray | None:
        """(height, width, 3) uint8 BGR: the frame blended with the colours of the classes."""
        return self.images.get("overlay")

    @property
    def color(self) -> np.ndarray | None:
        """(height, width, 3) uint8 BGR: the colours of the classes alone, unlabelled black."""
        return self.images.get("color")

    @property
    def confidence(self) -> np.ndarray | None:
        """(height, width) uint8: share of the label's score in all classes' scores, times 255."""
        return self.images.get("confidence")

    @property
    def ids(self) -> np.ndarray | None:
        """(height, width) uint8, or int32 above 255 queries: id of each pixel's panoptic segment, 0 = none."""
        return self.images.get("panoptic")

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], stages: dict[str, float]) -> Segmentation:
        """Make the result of one frame from the arrays of `Segmenter`, without copying them."""
        images = dict(arrays)
        table, shares = images.pop("table", None), images.pop("shares", None)
        if "ids" in images:
            images["panoptic"] = images.pop("ids")
        slots, embeddings, memory = (images.pop(name, None) for name in ("slots", "embeddings", "memory"))
        segments = None if table is None else heads.segments(table)
        if table is not None and slots is not None:
            slots = slots[table[:, 0] > 0]  # the rows of `segments`
        return cls(images, segments, shares, stages, slots, embeddings, memory)

    def copy(self) -> Segmentation:
        """Return a deep copy."""
        images = {name: image.copy() for name, image in self.images.items()}
        return replace(
            self,
            images=images,
            shares=_copy(self.shares),
            slots=_copy(self.slots),
            embeddings=_copy(self.embeddings),
            memory=_copy(self.memory),
        )


def _copy(array: np.ndarray | None) -> np.ndarray | None:
    return None if array is None else array.copy()
