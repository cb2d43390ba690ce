"""Sources that are files: folders of images, and videos."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np

from m2f_ros.bags.bounds import require_file
from m2f_ros.bags.storage import convert
from m2f_ros.datasets.ids import natural_sort
from m2f_ros.datasets.instances import read_instances
from m2f_ros.errors import FrameError, SourceError
from m2f_ros.files import distinct
from m2f_ros.frame.bit_depth import AUTO, BitDepth
from m2f_ros.frame.pictures import SUFFIXES, eight_bits, read_picture
from m2f_ros.sources.labels import Labels
from m2f_ros.sources.sample import Sample, Source, log
from m2f_ros.sources.stamps import rate_of, read_stamps

DEFAULT_RATE = 10.0  # Hz, where the data does not say
# Containers that hold a video themselves: no playlists or descriptions, which make FFmpeg open other files and
# connections, nor text taken for terminal art.
_FORMATS = (
    "3gp,apng,asf,av1,avi,dv,flv,gif,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mp4,mpeg,mpegts,mpegvideo,mxf,nut,obu,ogg,vc1,"
    "webm,wtv,yuv4mpegpipe"
)
# Pixels of a frame: 8K. A decoder keeps up to 17 of them.
_MOST_PIXELS = 1 << 25
_PEEK = 100  # packets of a video that are looked at before it is read


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
        self._bit_depth = bit_depth
        self._paths = [path] if path.is_file() else natural_sort(p for p in path.iterdir() if is_image(p))
        if not self._paths:
            known = ", ".join(s[1:] for s in SUFFIXES)
            ros1 = "".join(f"; {bag.name} is of ROS 1: {convert(bag)}" for bag in sorted(path.glob("*.bag"))[:1])
            raise SourceError(f"{path}: no images ({known}) and no rosbag2 in this folder{ros1}")
        if labels and path.is_dir() and Path(labels).resolve() == path.resolve():
            raise SourceError(f"labels {labels}: lie among the images; put them into a folder of their own")
        names = [p.stem for p in self._paths]
        # Two files may differ in their ending alone.
        self._names = distinct(names)
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
        bits = BitDepth(self._bit_depth, self._say)
        for position, path in enumerate(self._paths):
            try:
                require_file(path)
                image = read_picture(path)
            except OSError as error:
                self._skip(f"{path.name} is not a readable image: {error.strerror}")
                continue
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
            yield Sample(
                index, stamp_ns, self._names[position], image, "bgr8", label=label, instances=instances, path=path
            )
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
        times: list[int | None] = []
        with self._open() as container, suppress(av.error.FFmpegError):
            times += (packet.pts for packet in islice(container.demux(video=0), _PEEK) if packet.size)
        known = [time for time in times if time is not None]
        with self._open() as container:
            stream = container.streams.video[0]
            rates = [stream.average_rate, stream.guessed_rate]
            # Where the file knows no times, the average is FFmpeg's default, the other the codec's.
            own_rate = next(filter(None, rates if known else rates[::-1]), None)
            # AVI has times in the order of decoding alone, which H.264 and others do not show frames in.
            self._reordered = stream.codec_context.has_b_frames and times == sorted(known)
            # A frame takes a byte at least, whatever the file says.
            total = stream.frames if 0 < stream.frames <= path.stat().st_size else None
            # Not every container says. Labels and stamps have to be matched to all frames.
            if total is None and (labels or stamps or frames is None):
                total = _count(container)
        names = [self._frame_name(i) for i in range(total)] if labels or stamps else []
        # Two files may differ in their ending alone.
        self._names = distinct(names)
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
            require_file(self._path)
            # A name may look like one of FFmpeg's protocols.
            container = av.open(
                f"file:{self._path.resolve()}",
                options={"max_pixels": str(_MOST_PIXELS)},
                container_options={"format_whitelist": _FORMATS, "protocol_whitelist": "file"},
            )
        except av.error.FFmpegError:
            raise SourceError(not_a_video) from None
        except OSError as error:
            raise SourceError(f"{self._path}: cannot be read: {error.strerror}") from None
        if not container.streams.video:
            container.close()
            raise SourceError(not_a_video)
        context = container.streams.video[0].codec_context
        if context.width * context.height > _MOST_PIXELS:
            container.close()
            raise SourceError(
                f"{self._path}: {context.width}x{context.height} is larger than the {_MOST_PIXELS} pixels that are read"
            )
        context.options = {"max_pixels": str(_MOST_PIXELS)}
        return container

    def _frame_name(self, position: int) -> str:
        return f"{self._path.stem}_{position:06d}"

    def _samples(self) -> Iterator[Sample]:
        index = 0
        with self._open() as container:
            clock = _Clock(self._say, self.rate, container.streams.video[0].time_base)
            for position, (frame, time) in enumerate(self._decoded(container)):
                if self._stamps:
                    if position == len(self._stamps):
                        raise SourceError(f"{self._path}: more frames than stamps ({position})")
                    stamp_ns = self._stamps[position]
                elif self._rate is not None:
                    stamp_ns = round(position * 1e9 / self.rate)
                elif frame is not None:
                    stamp_ns = clock.stamp(time)
                elif time is None:
                    clock.skip()
                if frame is None:
                    continue
                image = upright(frame)
                name = self._frame_name(position)
                label = self._labels.read(position, image, name) if self._labels else None
                yield Sample(index, stamp_ns, name, image, "bgr8", label=label)
                index += 1

    def _decoded(self, container: av.container.InputContainer) -> Iterator[tuple[av.VideoFrame | None, int | None]]:
        """Frames in order of presentation, with their times; None in place of those that are skipped.

        Skipped is what cannot be decoded, what FFmpeg had to fill in, and, since other frames are made of it, all up to
        the next key frame. A damaged end is the end.
        """
        context = container.streams.video[0].codec_context
        if context.name == "mjpeg":
            context.options = {**context.options, "err_detect": "explode"}  # it marks no frame as damaged
        packets, found = container.demux(video=0), 0
        times: deque[int | None] = deque()  # of what went into the decoder, where frames come out in another order
        whole = True
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                self._skip(f"the file is damaged from here on ({error.strerror})")
                return
            if packet is None:
                break
            found += packet.size > 0
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                self._skip(f"it cannot be decoded ({error.strerror})")
                whole = False
                yield None, packet.pts
                continue
            if packet.size:
                times.append(packet.pts)
            for frame in frames:
                time = times.popleft() if self._reordered and times else frame.pts
                if frame.is_corrupt:
                    self._skip("it is damaged")
                    whole = False
                elif frame.key_frame:
                    whole = True
                elif not whole:
                    self._skip("it is made of a damaged one")
                yield (frame if whole else None), time
        stated = container.streams.video[0].frames
        if found < stated:
            self._skip(f"the file says that it has {stated} frames, {found} are there")


def _count(container: av.container.InputContainer) -> int:
    """Frames of the video, up to where it is damaged; they are read, but not decoded."""
    count = 0
    with suppress(av.error.FFmpegError):
        for packet in container.demux(video=0):
            count += packet.size > 0 and not packet.is_discard
    return count


# Nanoseconds from a frame to the next, ten years: more is no time.
_LONGEST_GAP = 10 * 365 * 86_400 * 10**9


class _Clock:
    """Stamps from the times of a video's frames, which always ascend. What is guessed is said, once."""

    def __init__(self, say: Callable[[str], None], rate: float, unit: Fraction) -> None:
        """rate: Hz, where times are missing. unit: of the times, seconds."""
        self._say, self._rate, self._interval, self._unit = say, rate, round(1e9 / rate), unit * 10**9
        self._zero: Fraction | None = None
        self._last = -self._interval

    def stamp(self, time: int | None) -> int:
        """Nanoseconds since the first frame, of the next one in order of presentation."""
        due = self._last + self._interval
        if self._zero is None and time is not None:
            self._zero = time - due / self._unit
        stamp_ns = due if time is None else round((time - self._zero) * self._unit)
        if time is None:
            self._say(f"frames without a time are taken as {self._rate:g} Hz apart; --rate sets another")
        elif not 0 < stamp_ns - self._last < _LONGEST_GAP:
            self._say(f"a frame whose time goes back is taken as {self._rate:g} Hz behind the one before, and so on")
            self._zero, stamp_ns = time - due / self._unit, due
        self._last = stamp_ns
        return stamp_ns

    def skip(self) -> None:
        """Leave room for a frame without a time that cannot be decoded."""
        self._last += self._interval


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
