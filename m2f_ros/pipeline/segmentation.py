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
        memory: float32, that of the network after the frame (see `Network.memory`); None if not wanted.
    """

    images: Mapping[str, np.ndarray] = field(default_factory=dict)
    segments: list[heads.Segment] | None = None
    shares: np.ndarray | None = None
    stages: dict[str, float] = field(default_factory=dict)
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
        memory = images.pop("memory", None)
        return cls(images, None if table is None else heads.segments(table), shares, stages, memory)

    def copy(self) -> Segmentation:
        """Return a deep copy."""
        images = {name: image.copy() for name, image in self.images.items()}
        return replace(self, images=images, shares=_copy(self.shares), memory=_copy(self.memory))


def _copy(array: np.ndarray | None) -> np.ndarray | None:
    return None if array is None else array.copy()
