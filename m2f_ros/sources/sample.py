"""The interface of all sources: samples in the order of time, and options that sources share."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from m2f_ros.errors import SourceError
from m2f_ros.frame.bit_depth import AUTO
from m2f_ros.frame.calibration import Calibration
from m2f_ros.frame.frame import Frame
from m2f_ros.taxonomy import Taxonomy

log = logging.getLogger("m2f_ros.sources")

# Stamp of the first frame of a source that does not know when it was recorded: 2020-01-01 00:00 UTC.
START_NS = 1_577_836_800 * 10**9


class Header(NamedTuple):
    """The header of an image's message, with the values that the message has."""

    sec: int
    nanosec: int
    frame_id: str


@dataclass
class Sample:
    """One frame of a source.

    Attributes:
        index: 0, 1, 2, … in the order of the source, over all its cameras.
        stamp_ns: nanoseconds since 1970 in a source with `epoch`, else since the source's beginning.
        name: what the frame is called there (file stem, stamp, …), usable as a file name.
        frame: the image; None where it cannot be decoded.
        problem: why it cannot be decoded.
        camera: one of the source's `cameras`.
        header: of the message; None where the message is too damaged to have one.
        log_ns: when it was recorded, nanoseconds since 1970.
        calibration: None where nothing is known of the camera.
        label: (H, W) train ids of the source's taxonomy, uint8 or uint16; None without ground truth.
        instances: (H, W) uint16, 0 where the class is no thing, else an id of the object; None where not known.
        path: the image's own file; None where it has none.
    """

    index: int
    stamp_ns: int
    name: str
    frame: Frame | None
    problem: str = ""
    camera: str = ""
    header: Header | None = None
    log_ns: int = 0
    calibration: Calibration | None = None
    label: np.ndarray | None = None
    instances: np.ndarray | None = None
    path: Path | None = None

    @property
    def image(self) -> np.ndarray:
        """The data of the frame, as `encoding` says. Only for a sample that has a frame."""
        assert self.frame is not None, self.problem
        return self.frame.data

    @property
    def encoding(self) -> str:
        """The encoding of the frame. Only for a sample that has a frame."""
        assert self.frame is not None, self.problem
        return self.frame.encoding

    @property
    def frame_id(self) -> str:
        """The frame_id of the header, "" without a header."""
        return self.header.frame_id if self.header else ""


@dataclass(frozen=True)
class Options:
    """Options of a source, each for the kinds of source that have it. Raises SourceError for a value out of range.

    Attributes:
        labels: folder of label PNGs; of a bag a topic of mono8 or mono16 label images ("/…").
        taxonomy: what the ids in the labels mean: a taxonomy's name or YAML file; None: guessed where it is plain.
        rate: Hz; None: the source's own.
        frames: at most so many are yielded; None: all.
        topics: image topics of a bag.
        stamps: text file with the stamp of each frame, as `stamps.read_stamps` reads it.
        bit_depth: see BitDepth.
    """

    labels: str | None = None
    taxonomy: str | None = None
    rate: float | None = None
    frames: int | None = None
    topics: Sequence[str] = ()
    stamps: str | None = None
    bit_depth: int = AUTO

    def __post_init__(self) -> None:
        if self.rate is not None and not (math.isfinite(self.rate) and self.rate > 0):
            raise SourceError(f"rate {self.rate:g}: must be more than 0 Hz")
        if self.frames is not None and self.frames < 1:
            raise SourceError(f"frames {self.frames}: must be at least 1")
        if self.taxonomy and not self.labels:
            raise SourceError(f"taxonomy {self.taxonomy}: says what the ids in labels mean; give the labels as well")
        if self.stamps and self.rate:
            raise SourceError(f"rate {self.rate:g}: not with stamps {self.stamps}, which say when each frame was taken")

    def refuse(self, spec: str, why: str, *names: str) -> None:
        """Raise SourceError where one of these options is given."""
        for name in names:
            if value := getattr(self, name):
                shown = value if isinstance(value, str) else ",".join(value)
                raise SourceError(f"{name.replace('topics', 'topic')} {shown}: not for {spec}: {why}")


class Source:
    """Gives samples in the order of time, each read when it is asked for; reading may begin again, at any sample.

    Attributes:
        name: for people.
        rate: Hz.
        length: number of samples; None: not known, as of a source without an end. Fewer come where frames are damaged.
        cameras: names of the cameras; "" for the only one.
        taxonomy: of the labels; None without labels.
        epoch: whether stamps count from 1970, not from the first frame.
        problem: why frames are missing, once they were read; empty: none is.
    """

    def __init__(
        self,
        name: str,
        rate: float,
        total: int | None,
        *,
        frames: int | None = None,
        cameras: Sequence[str] = ("",),
        taxonomy: Taxonomy | None = None,
        epoch: bool = False,
        keep_damaged: bool = False,
    ) -> None:
        """total: frames that there are, if known. frames: at most so many are yielded.

        keep_damaged: yield damaged frames, with their problem, in their place; else they are left out with a warning,
        and neither counted nor numbered.
        """
        self.name = name
        self.problem = self._first_problem = ""
        self._skipped = 0
        self._said: set[str] = set()
        self.rate = rate
        self.cameras = tuple(cameras)
        self.taxonomy = taxonomy
        self.epoch = epoch
        self._keep_damaged = keep_damaged
        self._frames: int | None = None
        self.length = total
        if frames is not None:
            self.end_after(frames)

    @property
    def start_ns(self) -> int:
        """Nanoseconds since 1970 at which stamps begin to count."""
        return 0 if self.epoch else START_NS

    def end_after(self, frames: int) -> None:
        """Yield at most so many samples from now on."""
        self._frames = frames
        self.length = frames if self.length is None else min(frames, self.length)

    def __iter__(self) -> Iterator[Sample]:
        return self.samples()

    def samples(self, first: int = 0) -> Iterator[Sample]:
        """The samples from this number on. Raises SourceError where the source cannot be read, or a label does not fit.

        Bags and streets leave out the work for frames before `first`; other sources read them.
        """
        self.problem, self._skipped = "", 0
        if self._keep_damaged:
            left = None if self._frames is None else max(0, self._frames - first)
            yield from islice((sample for sample in self._samples(first) if sample.index >= first), left)
        else:
            yield from islice(self._readable(), first, self._frames)

    def _readable(self) -> Iterator[Sample]:
        index = 0
        for sample in self._samples(0):
            if sample.frame is None:
                self._skip(sample.problem)
                continue
            sample.index = index
            index += 1
            yield sample
        if not index:
            raise SourceError(f"{self.name}: no frame can be read" + (self.problem and f" ({self.problem})"))

    def _samples(self, first: int) -> Iterator[Sample]:
        """All samples, damaged ones among them, numbered by their place in the source.

        first: samples before this number are not used, and need not come.
        """
        raise NotImplementedError

    def _sample(self, index: int, stamp_ns: int, name: str, frame: Frame | None, **known: Any) -> Sample:
        """A sample of a source whose frames have no messages, with the header that their messages would have."""
        taken_ns = self.start_ns + stamp_ns
        header = Header(*divmod(taken_ns, 1_000_000_000), "camera")
        return Sample(index, stamp_ns, name, frame, header=header, log_ns=taken_ns, **known)

    def _say(self, line: str, of: str = "") -> None:
        """Log a warning, once however often the source is read. of: its subject; empty: the source."""
        if line not in self._said:
            self._said.add(line)
            log.warning("%s: %s", of or self.name, line)

    def _skip(self, problem: str) -> None:
        """Count and log a damaged frame, or a part of the source, that is left out."""
        self._skipped += 1
        if self._skipped == 1:
            self.problem = self._first_problem = problem
        else:
            self.problem = f"{self._skipped} frames cannot be read, the first: {self._first_problem}"
        log.warning("%s: skipped a frame: %s", self.name, problem)
