"""Sources from files: folders of images, and videos."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from m2f_ros.bags.bounds import require_file
from m2f_ros.bags.storage import convert
from m2f_ros.datasets.ids import natural_sort
from m2f_ros.errors import FrameError, SourceError
from m2f_ros.files import distinct
from m2f_ros.frame.bit_depth import BitDepth
from m2f_ros.frame.frame import Frame
from m2f_ros.frame.pictures import SUFFIXES, eight_bits, read_picture
from m2f_ros.sources.labels import Labels
from m2f_ros.sources.sample import Options, Sample, Source, log
from m2f_ros.sources.stamps import rate_of, read_stamps

DEFAULT_RATE = 10.0  # Hz, if the data has no rate
# Allowed containers: no playlists and descriptions, which make FFmpeg open other files and connections, and no text,
# which it reads as terminal art.
_FORMATS = (
    "3gp,apng,asf,av1,avi,dv,flv,gif,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mp4,mpeg,mpegts,mpegvideo,mxf,nut,obu,ogg,vc1,"
    "webm,wtv,yuv4mpegpipe"
)
# Most pixels of a frame, 8K. A decoder keeps up to 17 frames.
_MOST_PIXELS = 1 << 25
_PEEK = 100  # packets of a video to inspect before reading


class FileSource(Source):
    """Images of a folder or a video, with the user's labels and stamps."""

    def __init__(
        self, path: Path, names: Sequence[str], own_rate: float | None, total: int | None, options: Options
    ) -> None:
        """names: names of all frames, in order, to match labels or stamps. own_rate: Hz, if known."""
        # Two files may differ only in their suffix.
        self._names = distinct(names)
        self._labels = Labels(options.labels, names, options.taxonomy) if options.labels else None
        self._stamps = read_stamps(options.stamps, names) if options.stamps else None
        if self._labels and self._labels.matched < len(names):
            log.warning("%s: %d of %d frames have no label", path, len(names) - self._labels.matched, len(names))
        super().__init__(
            str(path),
            options.rate or (self._stamps and rate_of(self._stamps)) or own_rate or DEFAULT_RATE,
            total,
            frames=options.frames,
            taxonomy=self._labels.taxonomy if self._labels else None,
            epoch=self._stamps is not None,
        )

    def _labelled(
        self, index: int, stamp_ns: int, frame: Frame | None, problem: str, file: str, **known: Any
    ) -> Sample:
        """Make a sample with its label, if it has one. file: name of the image in messages."""
        label = instances = None
        if frame is not None and self._labels:
            label = self._labels.read(index, frame.data, file)
            instances = self._labels.instances(index, label)
        name = self._names[index] if index < len(self._names) else file
        return self._sample(index, stamp_ns, name, frame, problem=problem, label=label, instances=instances, **known)


class FolderSource(FileSource):
    """The images of a folder in natural order (frame2 before frame10), or one image; sizes may differ."""

    def __init__(self, path: Path, options: Options) -> None:
        self._bit_depth = options.bit_depth
        self._paths = [path] if path.is_file() else natural_sort(p for p in path.iterdir() if is_image(p))
        if not self._paths:
            known = ", ".join(s[1:] for s in SUFFIXES)
            ros1 = "".join(f"; {bag.name} is of ROS 1: {convert(bag)}" for bag in sorted(path.glob("*.bag"))[:1])
            raise SourceError(f"{path}: no images ({known}) and no rosbag2 in this folder{ros1}")
        if options.labels and path.is_dir() and Path(options.labels).resolve() == path.resolve():
            raise SourceError(f"labels {options.labels}: lie among the images; put them into a folder of their own")
        super().__init__(path, [p.stem for p in self._paths], None, len(self._paths), options)

    def _samples(self, first: int) -> Iterator[Sample]:
        bits = BitDepth(self._bit_depth, self._say)
        for index, path in enumerate(self._paths):
            frame, problem = None, ""
            stamp_ns = self._stamps[index] if self._stamps else round(index * 1e9 / self.rate)
            try:
                frame = Frame(self._read(path, bits), "bgr8")
            except OSError as error:
                problem = f"{path.name} is not a readable image: {error.strerror}"
            except FrameError as error:
                problem = f"{path.name} is not a readable image: {error}"
            yield self._labelled(index, stamp_ns, frame, problem, path.name, path=path)

    def _read(self, path: Path, bits: BitDepth) -> np.ndarray:
        """Read (H, W, 3) uint8 BGR. Raises OSError or FrameError."""
        require_file(path)
        image = read_picture(path)
        if image.itemsize == 2:
            image = eight_bits(image, bits(image))
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image


class VideoSource(FileSource):
    """The frames of a video file, stamped with their presentation time since the first one."""

    def __init__(self, path: Path, options: Options) -> None:
        self._path = path
        self._rate = options.rate
        times: list[int | None] = []
        with self._open() as container, suppress(av.error.FFmpegError):
            times += (packet.pts for packet in islice(container.demux(video=0), _PEEK) if packet.size)
        known = [time for time in times if time is not None]
        named = bool(options.labels or options.stamps)
        with self._open() as container:
            stream = container.streams.video[0]
            rates = [stream.average_rate, stream.guessed_rate]
            # Without times in the file, the average rate is only FFmpeg's default, and the other rate is the codec's.
            own_rate = next(filter(None, rates if known else rates[::-1]), None)
            # AVI stores decoding times only, whose order differs from the presentation order in H.264 and others.
            self._reordered = stream.codec_context.has_b_frames and times == sorted(known)
            # The stated number is ignored if it exceeds the bytes of the file.
            total = stream.frames if 0 < stream.frames <= path.stat().st_size else None
            # Counted if the container has no number, since labels and stamps are matched to all frames.
            if total is None and (named or options.frames is None):
                total = _count(container)
        names = [self._frame_name(i) for i in range(total or 0)] if named else []
        super().__init__(path, names, float(own_rate) if own_rate else None, total, options)

    def _open(self) -> av.container.InputContainer:
        not_a_video = f"{self._path}: not a video that FFmpeg can read, nor an image or a rosbag2"
        try:
            require_file(self._path)
            # With file:, so that no name is read as a protocol.
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

    def _samples(self, first: int) -> Iterator[Sample]:
        stamp_ns = 0
        with self._open() as container:
            clock = _Clock(self._say, self.rate, container.streams.video[0].time_base or Fraction(1, 1000))
            for index, (picture, time, problem) in enumerate(self._decoded(container)):
                if self._stamps:
                    if index == len(self._stamps):
                        raise SourceError(f"{self._path}: more frames than stamps ({index})")
                    stamp_ns = self._stamps[index]
                elif self._rate is not None:
                    stamp_ns = round(index * 1e9 / self.rate)
                elif picture is not None:
                    stamp_ns = clock.stamp(time)
                elif time is None:
                    clock.skip()
                frame = None
                if picture is not None:
                    try:
                        frame = Frame(upright(picture), "bgr8")
                    except FrameError as error:
                        problem = str(error)
                yield self._labelled(index, stamp_ns, frame, problem, self._frame_name(index))

    def _decoded(
        self, container: av.container.InputContainer
    ) -> Iterator[tuple[av.VideoFrame | None, int | None, str]]:
        """Yield (frame, time, "") in presentation order, or (None, time, reason) for a damaged frame.

        A frame is damaged if it cannot be decoded or FFmpeg concealed errors in it; all frames that depend on it, up to
        the next key frame, are damaged, too. A damaged container ends the video.
        """
        context = container.streams.video[0].codec_context
        if context.name == "mjpeg":
            context.options = {**context.options, "err_detect": "explode"}  # this codec does not flag damaged frames
        packets, found = container.demux(video=0), 0
        times: deque[int | None] = deque()  # times of the packets in the decoder, if it reorders frames
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
                whole = False
                yield None, packet.pts, f"it cannot be decoded ({error.strerror})"
                continue
            if packet.size:
                times.append(packet.pts)
            for frame in frames:
                time = times.popleft() if self._reordered and times else frame.pts
                damage = "it is damaged" if frame.is_corrupt else ""
                whole = not damage and (whole or frame.key_frame)
                yield (frame, time, "") if whole else (None, time, damage or "it is made of a damaged one")
        stated = container.streams.video[0].frames
        if found < stated:
            self._skip(f"the file says that it has {stated} frames, {found} are there")


def _count(container: av.container.InputContainer) -> int:
    """Count the frames of the video before any damage, without decoding them."""
    count = 0
    with suppress(av.error.FFmpegError):
        for packet in container.demux(video=0):
            count += packet.size > 0 and not packet.is_discard
    return count


# Longest valid interval between two frames, ten years, nanoseconds.
_LONGEST_GAP = 10 * 365 * 86_400 * 10**9


class _Clock:
    """Makes ascending stamps from the times of a video's frames. Logs its first guess."""

    def __init__(self, say: Callable[[str], None], rate: float, unit: Fraction) -> None:
        """rate: rate for missing times, Hz. unit: unit of the times, seconds."""
        self._say, self._rate, self._interval, self._unit = say, rate, round(1e9 / rate), unit * 10**9
        self._zero: Fraction | None = None  # time of stamp 0
        self._last = -self._interval

    def stamp(self, time: int | None) -> int:
        """Return the stamp of the next frame in presentation order, nanoseconds since the first one."""
        stamp_ns = due = self._last + self._interval
        if time is None:
            self._say(f"frames without a time are taken as {self._rate:g} Hz apart; --rate sets another")
        else:
            if self._zero is None:
                self._zero = time - due / self._unit
            stamp_ns = round((time - self._zero) * self._unit)
            if not 0 < stamp_ns - self._last < _LONGEST_GAP:
                self._say(
                    f"a frame whose time goes back is taken as {self._rate:g} Hz behind the one before, and so on"
                )
                self._zero, stamp_ns = time - due / self._unit, due
        self._last = stamp_ns
        return stamp_ns

    def skip(self) -> None:
        """Advance by the interval of a damaged frame without a time."""
        self._last += self._interval


def upright(frame: av.VideoFrame) -> np.ndarray:
    """Convert a frame to (H, W, 3) uint8 BGR, and apply the rotation that phones store in the file."""
    image = frame.to_ndarray(format="bgr24")
    quarters = round(frame.rotation / 90) % 4  # counter-clockwise
    return np.ascontiguousarray(np.rot90(image, quarters)) if quarters else image


def is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
