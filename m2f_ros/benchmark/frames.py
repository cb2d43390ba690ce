"""The frames that all contestants see."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

from m2f_ros.errors import SourceError
from m2f_ros.frame.frame import Frame
from m2f_ros.pipeline.colour import to_rgb
from m2f_ros.sources.open import UNSEEN_SEED, open_source
from m2f_ros.street import Street


# A matrix of runs sees the same frames again; drawing a large street takes seconds.
@lru_cache(maxsize=4)
def read_frames(source: str, size: tuple[int, int], count: int) -> list[np.ndarray]:
    """`count` frames of one size, a second apart in a street, one after the other in another source.

    Args:
        source: "street" or "street:SEED", drawn at `size`; else as `open_source` takes it, scaled to `size`.
        size: (height, width).
    Returns:
        (height, width, 3) uint8 RGB each, contiguous.
    Raises:
        SourceError: it cannot be opened, or has fewer frames.
    """
    height, width = size
    name, _, seed = source.partition(":")
    if name == "street" and (not seed or seed.isdecimal()):
        street = Street(int(seed or UNSEEN_SEED), width, height)
        return [np.ascontiguousarray(street.frame(10 * i).image) for i in range(count)]
    images = [_rgb(sample.image, sample.encoding) for sample in open_source(source, frames=count)]
    if len(images) < count:
        raise SourceError(f"{source}: has {len(images)} frames, and {count} different ones are wanted")
    return [
        image if image.shape[:2] == size else cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        for image in images
    ]


def _rgb(image: np.ndarray, encoding: str) -> np.ndarray:
    import torch

    return np.ascontiguousarray(to_rgb(torch.from_numpy(Frame(image, encoding).data.copy()), encoding).numpy())


def sha256(frames: Sequence[np.ndarray]) -> str:
    """Of all bytes, one frame after the other."""
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(np.ascontiguousarray(frame))
    return digest.hexdigest()
