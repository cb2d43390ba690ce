"""Temporal consistency: labels that change although the picture only moved."""

from __future__ import annotations

import cv2
import numpy as np

from m2f_ros.errors import FrameError
from m2f_ros.metrics.accumulator import Accumulator

# Flow is smooth: it is computed on images no larger than this, in pixels of the longer side, and enlarged.
_LARGEST_SIDE = 768
# Pixels of the shorter side. Below twice the size of its patches OpenCV 5.0's cv2.DISOpticalFlow may crash.
_SMALLEST_SIDE = 16


class Flips(Accumulator):
    """Share of labels that differ from those of the previous frame, moved along by optical flow; no truth is needed.

    As in Varghese et al., "Unsupervised temporal consistency metric for video segmentation in highly-automated
    driving" (CVPR Workshops 2020), the previous labels are warped by the flow between the two images (here Kroeger et
    al., "Fast optical flow using dense inverse search", ECCV 2016, as in OpenCV) and compared with this frame's; the
    score is the share of pixels that differ, in place of the mean IoU. Pixels that came into the picture or from
    behind something are left out: those where the flow there and the flow back do not cancel, by the bound of Sundaram
    et al., "Dense point trajectories by GPU-accelerated large displacement optical flow" (ECCV 2010), equation 5.

    counts: (2,) int64, pixels that flipped, and pixels that were compared.
    """

    COUNTS = ("counts",)

    def __init__(self) -> None:
        self.counts = np.zeros(2, np.int64)
        self._previous: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def flipped(self) -> int:
        return int(self.counts[0])

    @property
    def compared(self) -> int:
        return int(self.counts[1])

    def rate(self) -> float | None:
        """Share of the compared labels that flipped, 0..1; None where none was compared."""
        return self.flipped / self.compared if self.compared else None

    def restart(self) -> None:
        """The next frame does not follow the last one: a new drive, or frames between them are missing."""
        self._previous = None

    def update(self, image: np.ndarray, labels: np.ndarray) -> None:
        """Compare with the frame before. A frame of another size starts anew.

        image: (H, W, 3) BGR or (H, W) grey, uint8; labels: (H, W) integers 0..65535, unlabelled as good as any. Images
        too small for optical flow, below 16 pixels a side, are not compared. Raises FrameError where the two do not
        fit.
        """
        image, labels = np.asarray(image), np.asarray(labels)
        if image.dtype != np.uint8 or image.shape[:2] != labels.shape or image.shape[2:] not in ((), (3,)):
            raise FrameError(
                f"labels {labels.shape} need a uint8 image of their size, grey or BGR, not {image.dtype} {image.shape}"
            )
        if not np.issubdtype(labels.dtype, np.integer):
            raise FrameError(f"labels must be integers, not {labels.dtype}")
        grey = _shrunk(image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))
        previous, self._previous = self._previous, (grey, labels.astype(np.uint16))
        if previous is None or previous[1].shape != labels.shape or min(grey.shape) < _SMALLEST_SIDE:
            return
        before, old_labels = previous
        back, there = _flow(grey, before), _flow(before, grey)
        consistent = _agree(back, there)
        height, width = labels.shape
        if consistent.shape != labels.shape:
            scale = np.array([width / grey.shape[1], height / grey.shape[0]], np.float32)
            back = cv2.resize(back, (width, height)) * scale
            consistent = cv2.resize(consistent.view(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
        column, row = _moved(back)
        old = cv2.remap(old_labels, column, row, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
        compared = consistent & (column >= 0) & (column <= width - 1) & (row >= 0) & (row <= height - 1)
        self.counts += [np.count_nonzero(compared & (old != self._previous[1])), np.count_nonzero(compared)]


def _shrunk(grey: np.ndarray) -> np.ndarray:
    scale = _LARGEST_SIDE / max(grey.shape)
    if scale >= 1:
        return grey
    height, width = (max(round(side * scale), 1) for side in grey.shape)
    return cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)


def _flow(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(H, W, 2) float32: columns and rows that each pixel of a moves by to its place in b."""
    # None: without a flow to begin with, which OpenCV's types leave out.
    return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(a, b, None)  # type: ignore[call-overload]


def _moved(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) float32 each: column and row that each pixel moves to."""
    height, width = flow.shape[:2]
    return np.arange(width, dtype=np.float32) + flow[..., 0], np.arange(height, dtype=np.float32)[:, None] + flow[
        ..., 1
    ]


def _agree(back: np.ndarray, there: np.ndarray) -> np.ndarray:
    """(H, W) bool: where going back and there again ends near the pixel."""
    there = cv2.remap(there, *_moved(back), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    gap = ((back + there) ** 2).sum(axis=2)
    return gap < 0.01 * ((back**2).sum(axis=2) + (there**2).sum(axis=2)) + 0.5
