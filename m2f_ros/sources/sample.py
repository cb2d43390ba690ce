"""The interface of all sources: samples in time order, and shared options."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from m2f_ros.errors import SourceError
from m2f_ros.frame.bit_depth import AUTO
from m2f_ros.frame.calibration import Calibration
from m2f_ros.frame.frame import Frame
from m2f_ros.taxonomy import Taxonomy

if TYPE_CHECKING:
    from m2f_ros.space.cloud import Cloud
    from m2f_ros.space.transforms import Transforms
    from m2f_ros.street.pose import Transform

log = logging.getLogger("m2f_ros.sources")

# Stamp of the first frame of a source without recording times: 2020-01-01 00:00 UTC.
START_NS = 1_577_836_800 * 10**9


class Header(NamedTuple):
    """The header of an image's message."""

    sec: int
    nanosec: int
    frame_id: str


class TrueGrid(NamedTuple):
    """The true costs of the ground around the vehicle.

    Attributes:
        cells: (rows, columns) int8, row = y, column = x as in nav_msgs/OccupancyGrid: 0 free to 100 lethal, -1 unknown.
        seen: the same, -1 also where the image does not show the cell.
        resolution: side of a cell, metres.
        origin: x, y, z of the outer corner of cell (0, 0), metres.
        frame_id: frame of the grid.
    """

    cells: np.ndarray
    seen: np.ndarray
    resolution: float
    origin: tuple[float, float, float]
    frame_id: str


@dataclass
class Sample:
    """One frame of a source.

    Attributes:
        index: number of the sample, from 0, over all cameras.
        stamp_ns: nanoseconds since 1970 in a source with `epoch`, else since the source's beginning.
        name: name of the frame (file stem, stamp, …), usable as a file name.
        frame: decoded image; None if it cannot be decoded.
        problem: reason why it cannot be decoded.
        camera: name of the camera, one of the source's `cameras`.
        header: header of the message; None if it is too damaged.
        log_ns: time of recording, nanoseconds since 1970.
        calibration: calibration of the camera; None if unknown.
        label: (H, W) train ids of the source's taxonomy, uint8 or uint16; None without ground truth.
        instances: (H, W) uint16 id of the object, 0 outside things; None if unknown.
        path: file of the image, or None.
        depth: (h, w) float32, metres along the optical axis of this camera, NaN where unknown; of any size of the
            image's shape. None unless `SpaceOptions.depth` was asked for and a depth image belongs to this image.
        transforms: the drive's transforms around this image, in a bag from 10 s before it to a second behind it, by the
            times of recording. Nobody changes it any more, and samples share it. None unless
            `SpaceOptions.transforms` was asked for.
        tf: the transforms of this moment where the source makes them, as the street does; else empty.
        clouds: the clouds of the lidar that are due: those with stamps up to this sample's and the slop that no earlier
            sample gave, in order. Empty unless `SpaceOptions.clouds` was asked for.
        truth_clouds: `clouds` with the true fields label (train id) and instance; empty where they are unknown.
        truth_grid: the true grid of the ground. None unless `SpaceOptions.grid` was asked for.
        lost: line on a depth image, cloud or transform that was found damaged on the way to this sample; "" for none.

    The stamps of transforms and clouds are nanoseconds since 1970, as those of headers: `Source.start_ns` is their 0.
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
    depth: np.ndarray | None = None
    transforms: Transforms | None = None
    tf: tuple[Transform, ...] = ()
    clouds: tuple[Cloud, ...] = ()
    truth_clouds: tuple[Cloud, ...] = ()
    truth_grid: TrueGrid | None = None
    lost: str = ""

    @property
    def image(self) -> np.ndarray:
        """Data of the frame, in `encoding`. Only for samples with a frame."""
        assert self.frame is not None, self.problem
        return self.frame.data

    @property
    def encoding(self) -> str:
        """Encoding of the frame. Only for samples with a frame."""
        assert self.frame is not None, self.problem
        return self.frame.encoding

    @property
    def frame_id(self) -> str:
        """frame_id of the header; "" without a header."""
        return self.header.frame_id if self.header else ""


@dataclass(frozen=True)
class SpaceOptions:
    """Depth, transforms and clouds that a source gives beside its images. Nothing is read that is not asked for.

    A rosbag2 and the simulated street have it. Raises SourceError for a value out of range.

    Attributes:
        depth: True for depth images (`Sample.depth`).
        transforms: True for tf (`Sample.transforms`).
        clouds: True for the clouds of a lidar (`Sample.clouds`).
        grid: True for the true grid of the ground (`Sample.truth_grid`); the street alone has it.
        depth_topics: depth topics of a bag, each TOPIC or CAMERA=TOPIC; empty to find them by frame_id and namespace.
        cloud_topic: topic of the lidar in a bag; None for the only one.
        slop: most seconds between the stamps of an image and its depth image, and by which a cloud may be later than
            the image with which it is given; 0 to 1.
        lidar_size: rings and columns of the street's lidar.
        needed: False if a source without depth or clouds is to be read nevertheless, with a line.
    """

    depth: bool = False
    transforms: bool = False
    clouds: bool = False
    grid: bool = False
    depth_topics: Sequence[str] = ()
    cloud_topic: str | None = None
    slop: float = 0.02
    lidar_size: tuple[int, int] = (32, 1024)
    needed: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.slop <= 1:
            raise SourceError(f"slop {self.slop:g}: must be 0 to 1 s")

    @property
    def asked(self) -> list[str]:
        """Names of what is asked for."""
        return [name for name in ("depth", "transforms", "clouds", "grid") if getattr(self, name)]


NOTHING = SpaceOptions()


@dataclass(frozen=True)
class Options:
    """Options of a source; each kind of source supports some. Raises SourceError for a value out of range.

    Attributes:
        labels: folder of label PNGs, or, for a bag, topic of mono8 or mono16 label images ("/…").
        taxonomy: name or YAML file of the labels' taxonomy; None to guess it.
        rate: rate in Hz; None for the source's own.
        frames: most frames to yield; None for all.
        topics: image topics of a bag.
        stamps: text file with the stamp of each frame; see `stamps.read_stamps`.
        bit_depth: see BitDepth.
        space: what of space is wanted beside the images.
    """

    labels: str | None = None
    taxonomy: str | None = None
    rate: float | None = None
    frames: int | None = None
    topics: Sequence[str] = ()
    stamps: str | None = None
    bit_depth: int = AUTO
    space: SpaceOptions = NOTHING

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
        """Raise SourceError if one of these options is given."""
        for name in names:
            if value := getattr(self, name):
                shown = value if isinstance(value, str) else ",".join(value)
                raise SourceError(f"{name.replace('topics', 'topic')} {shown}: not for {spec}: {why}")

    def refuse_space(self, spec: str) -> None:
        """Raise SourceError if anything of space is asked for and needed; else say that it is not there."""
        if asked := self.space.asked:
            line = f"{', '.join(asked)}: not for {spec}: only a rosbag2 and the simulated street have it"
            if self.space.needed:
                raise SourceError(line)
            log.warning("%s", line)


class Source:
    """Yields samples in time order, each read on demand; reading may restart at any sample.

    Attributes:
        name: name for messages.
        rate: rate in Hz.
        length: number of samples, damaged ones included; None if unknown or endless.
        cameras: names of the cameras; "" for an only camera.
        topics: camera -> topic of its images; empty where images have none.
        taxonomy: taxonomy of the labels; None without labels.
        epoch: True if stamps count from 1970, False if from the first frame.
        problem: reason why frames are missing, known after reading; or "".
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
        """total: number of frames, if known. frames: most frames to yield.

        keep_damaged: True to yield damaged frames with their problem; else they are skipped with a warning, and not
        numbered.
        """
        self.name = name
        self.problem = self._first_problem = ""
        self._skipped = 0
        self._said: set[str] = set()
        self.rate = rate
        self.cameras = tuple(cameras)
        self.topics: dict[str, str] = {}
        self.taxonomy = taxonomy
        self.epoch = epoch
        self._keep_damaged = keep_damaged
        self._frames: int | None = None
        self.length = total
        if frames is not None:
            self.end_after(frames)

    @property
    def start_ns(self) -> int:
        """Origin of the stamps, nanoseconds since 1970."""
        return 0 if self.epoch else START_NS

    def end_after(self, frames: int) -> None:
        """Limit the number of samples."""
        self._frames = frames
        self.length = frames if self.length is None else min(frames, self.length)

    def __iter__(self) -> Iterator[Sample]:
        return self.samples()

    def samples(self, first: int = 0) -> Iterator[Sample]:
        """Yield the samples from number `first` on. Raises SourceError if the source is unreadable, or a label misfits.

        Bags and streets skip the work for earlier frames; other sources read them.
        """
        self.problem, self._skipped = "", 0
        if self._keep_damaged:
            left = None if self._frames is None else max(0, self._frames - first)
            yield from islice((sample for sample in self._samples(first) if sample.index >= first), left)
        else:
            yield from islice(self._readable(), first, self._frames)

    def _readable(self) -> Iterator[Sample]:
        index = 0
        clouds: tuple[Cloud, ...] = ()
        for sample in self._samples(0):
            sample.clouds = clouds = clouds + sample.clouds  # those of damaged frames, too
            if sample.frame is None:
                self._skip(sample.problem)
                continue
            clouds = ()
            sample.index = index
            index += 1
            yield sample
        if not index:
            raise SourceError(f"{self.name}: no frame can be read" + (self.problem and f" ({self.problem})"))

    def _samples(self, first: int) -> Iterator[Sample]:
        """Yield all samples, also damaged ones, numbered by their place in the source.

        first: number of the first needed sample; earlier ones may be left out.
        """
        raise NotImplementedError

    def _sample(self, index: int, stamp_ns: int, name: str, frame: Frame | None, **known: Any) -> Sample:
        """Make a sample, with a header, for a source without messages."""
        taken_ns = self.start_ns + stamp_ns
        header = Header(*divmod(taken_ns, 1_000_000_000), "camera")
        return Sample(index, stamp_ns, name, frame, header=header, log_ns=taken_ns, **known)

    def _say(self, line: str, of: str = "") -> None:
        """Log a warning, only once in all passes. of: its subject; "" for the source."""
        if line not in self._said:
            self._said.add(line)
            log.warning("%s: %s", of or self.name, line)

    def _skip(self, problem: str) -> None:
        """Count and log a damaged frame or part of the source."""
        self._skipped += 1
        if self._skipped == 1:
            self.problem = self._first_problem = problem
        else:
            self.problem = f"{self._skipped} frames cannot be read, the first: {self._first_problem}"
        log.warning("%s: skipped a frame: %s", self.name, problem)
