"""What every source of recorded data yields, and the part that all sources share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from m2f_ros.errors import SourceError
from m2f_ros.frame.calibration import Calibration
from m2f_ros.taxonomy import Taxonomy

log = logging.getLogger("m2f_ros.sources")


@dataclass
class Sample:
    """One frame of a source.

    index: 0, 1, 2, … in the order of the source.
    stamp_ns: nanoseconds, of a source with `epoch` since 1970 (in a bag the stamp of the message's header), else since
        its beginning.
    name: what the frame is called there (file stem, stamp, …), usable as a file name.
    image: uint8, (H, W) or (H, W, C) as `encoding` (a sensor_msgs/Image encoding: "bgr8", "mono8", …) says.
    label: (H, W) train ids of the source's taxonomy, uint8 or uint16; None without ground truth.
    instances: (H, W) uint16, 0 where the class is no thing, else an id of the object; None where not known.
    path: the image's own file, None where it has none.
    log_ns: when it was recorded, ns since 1970; None where only a bag would know.
    """

    index: int
    stamp_ns: int
    name: str
    image: np.ndarray
    encoding: str
    frame_id: str = "camera"
    label: np.ndarray | None = None
    camera: Calibration | None = None
    instances: np.ndarray | None = None
    path: Path | None = None
    log_ns: int | None = None


class Source:
    """A stream of samples, read as it is iterated; every iteration starts from the beginning.

    name: for people. rate: Hz. length: number of samples, None of an endless source; damaged frames are
    skipped with a warning, so that fewer can come. taxonomy: of the labels, None without labels.
    epoch: whether stamps count from 1970, not from the first frame.
    problem: why frames are missing; empty: none is.
    Iterating raises SourceError where a frame and its label do not fit, or nothing could be read.
    """

    def __init__(
        self,
        name: str,
        rate: float,
        total: int | None,
        *,
        frames: int | None = None,
        taxonomy: Taxonomy | None = None,
        epoch: bool = False,
    ) -> None:
        """total: frames that there are, if known; frames: at most so many are yielded."""
        self.name = name
        self.problem = self._first_problem = ""
        self._skipped = 0
        self._said: set[str] = set()
        self.rate = rate
        self.taxonomy = taxonomy
        self.epoch = epoch
        self._frames = frames
        self.length = total if frames is None else frames if total is None else min(frames, total)

    def __iter__(self) -> Iterator[Sample]:
        self.problem, self._skipped = "", 0
        yielded = 0
        for sample in islice(self._samples(), self._frames):
            yield sample
            yielded += 1
        if not yielded:
            raise SourceError(f"{self.name}: no frame can be read" + (self.problem and f" ({self.problem})"))

    def _samples(self) -> Iterator[Sample]:
        raise NotImplementedError

    def _say(self, line: str) -> None:
        """Tell the user, once however often the source is read."""
        if line not in self._said:
            self._said.add(line)
            log.warning("%s: %s", self.name, line)

    def _skip(self, problem: str) -> None:
        """Note a damaged frame that is left out."""
        self._skipped += 1
        if self._skipped == 1:
            self.problem = self._first_problem = problem
        else:
            self.problem = f"{self._skipped} frames cannot be read, the first: {self._first_problem}"
        log.warning("%s: skipped a frame: %s", self.name, problem)
