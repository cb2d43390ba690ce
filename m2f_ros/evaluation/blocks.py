"""A drive in blocks of consecutive frames: enough for a timeline and a bootstrap, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from m2f_ros.evaluation.result import Block
from m2f_ros.metrics import Confusion
from m2f_ros.metrics.accumulator import mean, ratio

# Blocks that a result has at most, and that a drive may have in any case.
MOST, LEAST = 1024, 8


def per_drive(drives: int) -> int:
    """Return how many blocks a drive may have when the result has this many drives."""
    return max(LEAST, MOST // max(drives, 1))


@dataclass
class _Sums:
    """Sums over the frames of a block, see result.Block. Latency is in whole microseconds, so that merging is exact."""

    first: int
    first_stamp_ns: int
    last_stamp_ns: int
    frames: int
    missing: int
    hit: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    latency_us: int = 0
    timed: int = 0
    flipped: int = 0
    compared: int = 0

    def add(self, later: _Sums) -> None:
        self.last_stamp_ns = later.last_stamp_ns
        for name in ("frames", "missing", "hit", "truth", "prediction", "latency_us", "timed", "flipped", "compared"):
            setattr(self, name, getattr(self, name) + getattr(later, name))


class Blocks:
    """Blocks of the frames of a drive that have ground truth, in their order.

    Attributes:
        frames: number of frames.
        missing: number of frames without prediction.
    """

    def __init__(self, num_classes: int, most: int) -> None:
        """most: number of blocks above which neighbours are merged, so that a block holds twice as many frames."""
        self._nothing = np.zeros(num_classes, np.int64)
        self._most = most
        self._size = 1
        self._blocks: list[_Sums] = []
        self.frames = self.missing = 0

    def add(
        self,
        stamp_ns: int,
        confusion: Confusion | None,
        latency_ms: float | None = None,
        flipped: int = 0,
        compared: int = 0,
    ) -> None:
        """Add a frame.

        confusion: of this frame alone; None: no prediction came.
        flipped, compared: pixels, see metrics.Flips.
        """
        missing = int(confusion is None)
        hit = truth = prediction = self._nothing
        if confusion is not None:
            hit, truth, prediction = confusion.hit(), confusion.truth(), confusion.prediction()
        frame = _Sums(
            self.frames, stamp_ns, stamp_ns, 1, missing, hit, truth, prediction, flipped=flipped, compared=compared
        )
        if latency_ms is not None:
            frame.latency_us, frame.timed = round(latency_ms * 1000), 1
        self.frames += 1
        self.missing += missing
        if self._blocks and self._blocks[-1].frames < self._size:
            self._blocks[-1].add(frame)
            return
        self._blocks.append(frame)
        if len(self._blocks) > self._most:
            self._halve()

    def forget_flips(self) -> None:
        """Leave out the flips of all frames so far."""
        for block in self._blocks:
            block.flipped = block.compared = 0

    def _halve(self) -> None:
        pairs = zip(self._blocks[0::2], self._blocks[1::2], strict=False)
        for block, later in pairs:
            block.add(later)
        self._blocks = self._blocks[0::2]
        self._size *= 2

    def miou(self) -> float | None:
        """Return the mean IoU of all frames, over the classes that occur; None where no frame was scored."""
        hit, truth, prediction = (
            self._total(getattr(b, name) for b in self._blocks) for name in ("hit", "truth", "prediction")
        )
        return mean(ratio(hit, truth + prediction - hit))

    def rows(self, drive: str) -> list[Block]:
        """Return the blocks in the form of the result. drive: name of the drive."""
        return [
            {
                "drive": drive,
                "first": b.first,
                "first_stamp_ns": b.first_stamp_ns,
                "last_stamp_ns": b.last_stamp_ns,
                "frames": b.frames,
                "missing": b.missing,
                "hit": b.hit.tolist(),
                "truth": b.truth.tolist(),
                "prediction": b.prediction.tolist(),
                "latency_ms": b.latency_us / b.timed / 1000 if b.timed else None,
                "flips": b.flipped / b.compared if b.compared else None,
            }
            for b in self._blocks
        ]

    def _total(self, counts: Iterable[np.ndarray]) -> np.ndarray:
        return sum(counts, self._nothing)
