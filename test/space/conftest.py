"""Frames of the simulated street with their truth."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from m2f_ros.frame.segment import Segment
from m2f_ros.space.labelled import Labelled
from m2f_ros.street import Street


@pytest.fixture(scope="session")
def street_frame() -> Callable[[int, int], tuple[Labelled, Street]]:
    """The truth of a frame, by seed and index: confidence 255, ids of the things from 1 up, depth NaN in the sky."""

    @cache
    def frame(seed: int, index: int) -> tuple[Labelled, Street]:
        street = Street(seed=seed)
        shot = street.frame(index)
        _, ids = np.unique(shot.instance, return_inverse=True)
        ids = ids.reshape(shot.instance.shape).astype(np.uint16)
        segments = []
        for id in range(1, int(ids.max()) + 1):
            y, x = np.nonzero(ids == id)
            left, top = int(x.min()), int(y.min())
            box = (left, top, int(x.max()) - left + 1, int(y.max()) - top + 1)
            segments.append(Segment(id, int(shot.label[y[0], x[0]]), 0.5, len(x), box))
        labelled = Labelled(
            "",
            round(index * 1e9 / street.rate),
            "camera_optical",
            street.camera,
            shot.label,
            255,
            np.full(shot.label.shape, 255, np.uint8),
            ids,
            segments,
            np.ascontiguousarray(shot.image[..., ::-1]),
            np.where(np.isfinite(shot.depth), shot.depth, np.float32(np.nan)),
        )
        return labelled, street

    return frame
