"""The frames of lowest mean IoU, with picture, truth and prediction side by side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from m2f_ros.taxonomy import Taxonomy

if TYPE_CHECKING:
    from m2f_ros.evaluation.pairs import Pair

PANEL = 480  # pixels, at most, of the longer side of each of the three
_GAP = 6
_SECOND = 1_000_000_000


@dataclass(frozen=True)
class WorstFrame:
    """A frame of low mean IoU.

    Attributes:
        drive, name, stamp_ns: as in Pair.
        miou: mean IoU of the frame, 0..1.
        picture: JPEG of the image (where there is one), the truth and the prediction in the colours of their classes,
            from left to right.
    """

    drive: str
    name: str
    stamp_ns: int
    miou: float
    picture: bytes

    @property
    def place(self) -> tuple[str, int | str]:
        """Drive and second, since neighbours look alike. A frame without a stamp (0) has a place of its own."""
        return self.drive, self.stamp_ns // _SECOND if self.stamp_ns else self.name

    @property
    def rank(self) -> tuple[float, str, int, str]:
        """Key that sorts frames by mean IoU, independent of the order in which they came."""
        return self.miou, self.drive, self.stamp_ns, self.name


class Worst:
    """Keeps the `count` frames of lowest mean IoU, at most one of each second of a drive.

    The frames kept do not depend on the order of frames and merges, nor memory on their number.
    """

    def __init__(self, taxonomy: Taxonomy, count: int = 12) -> None:
        self._palette = taxonomy.palette()[:, ::-1]
        self._count = count
        self._kept: dict[tuple[str, int | str], WorstFrame] = {}

    def offer(self, pair: Pair, miou: float | None) -> None:
        """Keep this frame if it is among the worst. A frame without prediction or score is never one."""
        if miou is None or pair.truth is None or pair.prediction is None:
            return
        frame = WorstFrame(pair.drive, pair.name, pair.stamp_ns, miou, b"")
        if self._is_kept(frame):
            picture = self._draw(pair.image, pair.truth, pair.prediction)
            self._keep(WorstFrame(pair.drive, pair.name, pair.stamp_ns, miou, picture))

    def __iadd__(self, other: Worst) -> Worst:
        for frame in other.frames():
            if self._is_kept(frame):
                self._keep(frame)
        return self

    def frames(self) -> list[WorstFrame]:
        """The worst first."""
        return sorted(self._kept.values(), key=lambda frame: frame.rank)

    def _is_kept(self, frame: WorstFrame) -> bool:
        rival = self._kept.get(frame.place)
        if rival is None and len(self._kept) >= self._count:
            rival = max(self._kept.values(), key=lambda kept: kept.rank, default=frame)
        return rival is None or frame.rank < rival.rank

    def _keep(self, frame: WorstFrame) -> None:
        self._kept[frame.place] = frame
        if len(self._kept) > self._count:
            best = max(self._kept.values(), key=lambda kept: kept.rank)
            del self._kept[best.place]

    def _draw(self, image: np.ndarray | None, truth: np.ndarray, prediction: np.ndarray) -> bytes:
        height, width = truth.shape
        shrink = min(1.0, PANEL / max(height, width))
        size = max(1, round(width * shrink)), max(1, round(height * shrink))
        row = side_by_side(image, (truth, prediction), self._palette, size, _GAP)
        return cv2.imencode(".jpg", row, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


def side_by_side(
    image: np.ndarray | None, labels: Iterable[np.ndarray], palette: np.ndarray, size: tuple[int, int], gap: int
) -> np.ndarray:
    """Draw the image, where there is one, and the colours of each label image, with white between them.

    palette: (N, 3) uint8, in the image's order of colours.
    size: (width, height) of each, in pixels.
    gap: pixels between them.

    Returns (H, W, 3) uint8.
    """
    panels = [] if image is None else [cv2.resize(image, size, interpolation=cv2.INTER_AREA)]
    for ids in labels:
        # Nearest: between two ids there is no third. OpenCV resizes no int64.
        panels.append(palette[cv2.resize(ids.astype(np.uint16), size, interpolation=cv2.INTER_NEAREST)])
    white = np.full((size[1], gap, 3), 255, np.uint8)
    return np.hstack([part for panel in panels for part in (panel, white)][:-1])
