"""Sources that are files: folders of images, and videos."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import av
import cv2
import numpy as np

from m2f_ros.datasets.ids import natural_sort
from m2f_ros.datasets.instances import read_instances
from m2f_ros.errors import FrameError, SourceError
from m2f_ros.pictures import SUFFIXES, eight_bits, read_picture
from m2f_ros.replay.bit_depth import AUTO, BitDepth
from m2f_ros.replay.labels import Labels
from m2f_ros.replay.sample import Sample, Source, log
from m2f_ros.replay.stamps import rate_of, read_stamps

DEFAULT_RATE = 10.0  # Hz, where the data does not say


class FolderSource(Source):
    """The images of a folder in natural order (frame2 before frame10), or one image; sizes may differ."""

    def __init__(
        self,
        path: Path,
        *,
        labels: str | None = None,
        taxonomy: str | None = None,
        rate: float | None = None,
        frames: int | None = None,
        stamps: str | None = None,
        bit_depth: int = AUTO,
    ) -> None:
        BitDepth(bit_depth, log.warning)  # raises where there is no such setting
        self._bit_depth = bit_depth
        self._paths = [path] if path.is_file() else natural_sort(p for p in path.iterdir() if is_image(p))
        if not self._paths:
            known = ", ".join(s[1:] for s in SUFFIXES)
            raise SourceError(f"{path}: no images ({known}) and no rosbag2 in this folder")
        names = [p.stem for p in self._paths]
        self._labels = labels and Labels(labels, names, taxonomy)
        self._stamps = stamps and read_stamps(stamps, names)
        warn_unlabelled(self._labels, len(self._paths), str(path))
        super().__init__(
            str(path),
            rate or (stamps and rate_of(self._stamps)) or DEFAULT_RATE,
            len(self._paths),
            frames=frames,
            taxonomy=self._labels.taxonomy if self._labels else None,
            epoch=bool(stamps),
        )

    def _samples(self) -> Iterator[Sample]:
        index = 0
        bits = BitDepth(self._bit_depth, lambda line: log.warning("%s: %s", self.name, line))
        for position, path in enumerate(self._paths):
            try:
                image = read_picture(path)
            except FrameError as error:
                self._skip(f"{path.name} is not a readable image: {error}")
                continue
            if image.itemsize == 2:
                image = eight_bits(image, bits(image))
            if image.ndim == 2:
                image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
            label = instances = None
            if self._labels and (file := self._labels.file(position)) is not None:
                label = self._labels.read(position, image, path.name)
                instances = read_instances(file, label.shape, self._labels.taxonomy)
            stamp_ns = self._stamps[position] if self._stamps else round(position * 1e9 / self.rate)
            yield Sample(index, stamp_ns, path.stem, image, "bgr8", label=label, instances=instances, path=path)
            index += 1


class VideoSource(Source):
    """The frames of a video file, stamped with their presentation time from the first one on."""

    def __init__(
        self,
        path: Path,
        *,
        labels: str | None = None,
        taxonomy: str | None = None,
        rate: float | None = None,
        frames: int | None = None,
        stamps: str | None = None,
    ) -> None:
        self._path = path
        self._rate = rate
        with self._open() as container:
            stream = container.streams.video[0]
            own_rate = stream.average_rate or stream.guessed_rate
            total = stream.frames or None
            # Not every container says. Labels and stamps have to be matched to all frames.
            if total is None and (labels or stamps or frames is None):
                total = _count(container)
        names = [self._frame_name(i) for i in range(total)] if labels or stamps else []
        self._labels = labels and Labels(labels, names, taxonomy)
        self._stamps = stamps and read_stamps(stamps, names)
        warn_unlabelled(self._labels, len(names), str(path))
        super().__init__(
            str(path),
            rate or (stamps and rate_of(self._stamps)) or (float(own_rate) if own_rate else DEFAULT_RATE),
            total,
            frames=frames,
            taxonomy=self._labels.taxonomy if self._labels else None,
            epoch=bool(stamps),
        )

    def _open(self) -> av.container.InputContainer:
        not_a_video = f"{self._path}: not a video that FFmpeg can read, nor an image or a rosbag2"
        try:
            container = av.open(str(self._path))
        except av.error.FFmpegError:
            raise SourceError(not_a_video) from None
        # FFmpeg takes any text file for terminal art.
        if not container.streams.video or container.format.name == "tty":
            container.close()
            raise SourceError(not_a_video)
        return container

    def _frame_name(self, position: int) -> str:
        return f"{self._path.stem}_{position:06d}"

    def _samples(self) -> Iterator[Sample]:
        with self._open() as container:
            first_pts = None
            for index, frame in enumerate(self._decoded(container)):
                stamp_ns = round(index * 1e9 / self.rate)
                if self._stamps:
                    if index == len(self._stamps):
                        raise SourceError(f"{self._path}: more frames than stamps ({index})")
                    stamp_ns = self._stamps[index]
                elif self._rate is None and frame.pts is not None:
                    first_pts = frame.pts if first_pts is None else first_pts
                    stamp_ns = round((frame.pts - first_pts) * frame.time_base * 1_000_000_000)
                image = upright(frame)
                name = self._frame_name(index)
                label = self._labels.read(index, image, name) if self._labels else None
                yield Sample(index, stamp_ns, name, image, "bgr8", label=label)

    def _decoded(self, container: av.container.InputContainer) -> Iterator[av.VideoFrame]:
        """Frames in order of presentation; what cannot be decoded is skipped, a damaged end is the end."""
        packets = container.demux(video=0)
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                self._skip(f"the file is damaged from here on ({error.strerror})")
                return
            if packet is None:
                return
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                self._skip(f"it cannot be decoded ({error.strerror})")
                continue
            yield from frames


def _count(container: av.container.InputContainer) -> int:
    """Frames of the video, up to where it is damaged; they are read, but not decoded."""
    count = 0
    with suppress(av.error.FFmpegError):
        for packet in container.demux(video=0):
            count += packet.size > 0
    return count


def upright(frame: av.VideoFrame) -> np.ndarray:
    """(H, W, 3) uint8 BGR, turned as the file asks for: phones store the rotation instead of turning."""
    image = frame.to_ndarray(format="bgr24")
    quarters = round(frame.rotation / 90) % 4  # counter-clockwise
    return np.ascontiguousarray(np.rot90(image, quarters)) if quarters else image


def is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def warn_unlabelled(labels: Labels | None, total: int, name: str) -> None:
    """Say so where some of the frames have no label; they are segmented but not scored."""
    if labels and labels.matched < total:
        log.warning("%s: %d of %d frames have no label", name, total - labels.matched, total)
