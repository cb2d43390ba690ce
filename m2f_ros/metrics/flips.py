"""Temporal consistency: labels that change although the scene does not."""

from __future__ import annotations

import cv2
import numpy as np

from m2f_ros.errors import FrameError
from m2f_ros.metrics.accumulator import Accumulator

# Longest side of the images for the flow, pixels; flow is smooth and can be enlarged.
_LARGEST_SIDE = 768
# Shortest side, pixels. Below twice its patch size OpenCV 5.0's cv2.DISOpticalFlow may crash.
_SMALLEST_SIDE = 16


class Flips(Accumulator):
    """Share of labels that differ from the previous frame's labels warped by optical flow; needs no ground truth.

    As in Varghese et al., "Unsupervised temporal consistency metric for video segmentation in highly-automated
    driving" (CVPR Workshops 2020), the previous labels are warped by the flow between the two images (here Kroeger et
    al., "Fast optical flow using dense inverse search", ECCV 2016, as in OpenCV) and compared with this frame's; the
    score is the share of pixels that differ, in place of the mean IoU. New and disoccluded pixels are left out, by the
    forward-backward check of Sundaram et al., "Dense point trajectories by GPU-accelerated large displacement optical
    flow" (ECCV 2010), equation 5.

    counts: (2,) int64, flipped pixels, and compared pixels.
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
        """Share of flipped labels among the compared ones, 0..1; None if none was compared."""
        return self.flipped / self.compared if self.compared else None

    def restart(self) -> None:
        """Forget the last frame, before a new drive or after missing frames."""
        self._previous = None

    def update(self, image: np.ndarray, labels: np.ndarray) -> None:
        """Compare a frame with the last one; after a change of size, start anew.

        image: (H, W, 3) BGR or (H, W) grey, uint8. labels: (H, W) integers 0..65535; unlabelled counts as a label.
        Images below 16 pixels a side are too small for optical flow, and not compared. Raises FrameError if image and
        labels do not fit.
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
    """Compute the flow from a to b: (H, W, 2) float32, in columns and rows."""
    # None for no initial flow, which OpenCV's type stubs do not allow.
    return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(a, b, None)  # type: ignore[call-overload]


def _moved(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two (H, W) float32, the column and row that each pixel moves to."""
    height, width = flow.shape[:2]
    return np.arange(width, dtype=np.float32) + flow[..., 0], np.arange(height, dtype=np.float32)[:, None] + flow[
        ..., 1
    ]


def _agree(back: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Return (H, W) bool, True if the flow back and forth ends near the pixel."""
    there = cv2.remap(there, *_moved(back), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    gap = ((back + there) ** 2).sum(axis=2)
    return gap < 0.01 * ((back**2).sum(axis=2) + (there**2).sum(axis=2)) + 0.5
