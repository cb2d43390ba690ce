"""A rosbag2 for the page: any moment of it, read when a page asks."""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from m2f_ros.bags import topics as names
from m2f_ros.bags.bounds import EARLIEST
from m2f_ros.bags.files import is_bag
from m2f_ros.bags.reader import Bag
from m2f_ros.documents import read_json
from m2f_ros.errors import ConfigError, FrameError, SourceError
from m2f_ros.frame.bit_depth import AUTO, BitDepth
from m2f_ros.replay.folder import RECORD
from m2f_ros.serve.page.feed import Feed, Tell, Want, legend_of
from m2f_ros.serve.page.frames import Content, packed
from m2f_ros.sources.bag import camera_names
from m2f_ros.sources.labels import find_legend, taxonomy_of_legend

LABEL, CONFIDENCE, OVERLAY = "label", "confidence", "overlay"
PERIOD = 0.3  # seconds between two lines on the progress of the reading
_KEPT = 8  # encoded frames, for several pages at one moment


class Stream(NamedTuple):
    """A topic of one of the bags, by its place among them."""

    bag: int
    topic: str


@dataclass
class Camera:
    """The topics of a camera.

    Attributes:
        image: None without images.
        mixed: True if `image` is the recorded overlay.
        labels: topics of label images.
        stamps: header stamps of images and labels, ascending; empty until the bag was read.
    """

    name: str
    image: Stream | None = None
    mixed: bool = False
    labels: list[Stream] = field(default_factory=list)
    confidence: dict[Stream, Stream] = field(default_factory=dict)
    stamps: list[int] = field(default_factory=list)

    @property
    def streams(self) -> list[Stream]:
        return [*([self.image] if self.image else []), *self.labels, *self.confidence.values()]


class Recording(Feed):
    """A bag, or the result of a replay with the images of its drive.

    Args:
        path: rosbag2.
        images: bag with the images; None: of a replay its drive, where that is a bag, and else `path`.
    Raises:
        SourceError: there is no bag, or it has no images.
    """

    def __init__(self, path: str, images: str | None = None) -> None:
        self._bags = [Bag(path)]
        self._title = str(self._bags[0].path)
        self.note = ""  # one line on what is not there
        drive = images or self._drive_of_replay()
        if drive is not None:
            self._bags.append(Bag(drive))
        self._lock = threading.Lock()
        self._cameras, self._legends = self._found()
        if not self._cameras:
            problem = "; ".join(filter(None, (bag.problem or bag.unread for bag in self._bags)))
            raise SourceError(f"{path}: no images and no labels with a legend in this rosbag2 {problem}".rstrip())
        if any(camera.mixed for camera in self._cameras):
            self.note = self.note or "there are no images: --images BAG names those; the recorded overlay is shown"
        self._places: dict[Stream, dict[int, int]] = {}
        self._bits: dict[Stream, BitDepth] = {}
        self._times: list[int] = []
        self._done = self._total = 0
        self._ready = False
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._packed = lru_cache(_KEPT)(self._pack)

    def _drive_of_replay(self) -> str | None:
        record = self._bags[0].path / RECORD
        if not record.is_file():
            return None
        try:
            drive = read_json(record)["settings"]["drive"]
        except (ValueError, KeyError, TypeError) as error:
            raise SourceError(f"{record}: damaged ({' '.join(str(error).split())})") from None
        if isinstance(drive, str) and is_bag(Path(drive)):
            return drive
        self.note = f"the images of the drive {drive} are not in a rosbag2 that is there: the recorded overlay is shown"
        return None

    def _found(self) -> tuple[list[Camera], dict[Stream, dict[str, Any]]]:
        """Pair images and labels by camera."""
        cameras: list[Camera] = []
        by_truth: dict[str, Camera] = {}
        for number, bag in enumerate(self._bags):
            found = [
                topic
                for topic in names.cameras(bag).topics
                if topic not in {c.image and c.image.topic for c in cameras}
            ]
            for topic, own_name in camera_names(found).items() if found else ():
                by_truth[names.truth_topic(topic)] = new = Camera(own_name, Stream(number, topic))
                cameras.append(new)
        legends: dict[Stream, dict[str, Any]] = {}
        own = len(cameras)
        for number, bag in enumerate(self._bags):
            for topic in sorted(bag.image_topics()):
                raw = topic.removesuffix("/compressed")
                kind, parent = raw.rpartition("/")[2], raw.rpartition("/")[0]
                if kind not in (LABEL, names.GROUND_TRUTH) or (raw != topic and raw in bag.topics):
                    continue
                legend = find_legend(bag, raw)
                if legend is None or any(s.topic == topic for s in legends):
                    continue
                stream = Stream(number, topic)
                legends[stream] = legend_of(taxonomy_of_legend(legend))
                name = parent.rpartition("/")[2]
                camera = by_truth.get(raw) if kind == names.GROUND_TRUTH else None
                camera = camera or next((c for c in cameras if c.name and c.name == name), None)
                if camera is None and own == 1:
                    camera = cameras[0]
                if camera is None:
                    camera = Camera(name)
                    cameras.append(camera)
                # Labels of a model go before the truth.
                camera.labels.insert(0 if kind == LABEL else len(camera.labels), stream)
                if kind == LABEL and (beside := f"{parent}/{CONFIDENCE}") in bag.image_topics():
                    camera.confidence[stream] = Stream(number, beside)
                if kind == LABEL and camera.image is None and f"{parent}/{OVERLAY}" in bag.image_topics():
                    camera.image, camera.mixed = Stream(number, f"{parent}/{OVERLAY}"), True
        return cameras, legends

    def state(self) -> dict[str, Any]:
        start = self._times[0] if self._ready and self._times else 0
        return {
            "type": "state",
            "live": False,
            "title": self._title,
            "note": self.note,
            "cameras": [
                {
                    "name": camera.name,
                    "topic": camera.image.topic if camera.image else "",
                    "mixed": camera.mixed,
                    "labels": [stream.topic for stream in camera.labels],
                    "legends": [self._legends[stream] for stream in camera.labels],
                    "confidence": [stream in camera.confidence for stream in camera.labels],
                }
                for camera in self._cameras
            ],
            "start": str(start),
            "times": [round((stamp - start) / 1e6, 3) for stamp in self._times] if self._ready else None,
            "read": [self._done, self._total],
        }

    def watch(self, wants: list[Want], tell: Tell) -> None:
        if wants and self._thread is None:
            self._thread = threading.Thread(target=self._read, args=(tell,), name="index", daemon=True)
            self._thread.start()

    def cameras(self) -> list[str]:
        return [camera.name for camera in self._cameras] if self._ready else []

    def frame(self, camera: str, want: Want, before: object) -> tuple[object, bytes] | None:
        of = next(one for one in self._cameras if one.name == camera)
        moment = self._times[min(want.index, len(self._times) - 1)]
        place = bisect_right(of.stamps, moment) - 1
        if place < 0:
            return None
        mark = (of.stamps[place], min(want.label, max(0, len(of.labels) - 1)), want.confidence)
        return None if mark == before else (mark, self._packed(camera, *mark))

    def close(self) -> None:
        self._ending.set()
        if self._thread is not None:
            self._thread.join()
        for bag in self._bags:
            bag.close()

    def _read(self, tell: Tell) -> None:
        """Note the place of each message, by its header stamp."""
        streams = [stream for camera in self._cameras for stream in camera.streams]
        self._places = {stream: {} for stream in streams}
        self._total = sum(self._bags[bag].topics[topic].count for bag, topic in streams)
        said = 0.0
        for number, bag in enumerate(self._bags):
            wanted = {stream.topic for stream in streams if stream.bag == number}
            with self._lock:
                for message in bag.messages(wanted) if wanted else ():
                    if self._ending.is_set():
                        return
                    self._places[Stream(number, message.topic)].setdefault(message.taken_ns, message.log_ns)
                    self._done += 1
                    if (now := time.monotonic()) - said > PERIOD:
                        said = now
                        tell({"type": "read", "read": [self._done, self._total]})
        for camera in self._cameras:
            parts: Iterable[Stream] = [*([camera.image] if camera.image else []), *camera.labels]
            camera.stamps = sorted({stamp for stream in parts for stamp in self._places[stream]})
        self._times = sorted({stamp for camera in self._cameras for stamp in camera.stamps})
        problem = "; ".join(filter(None, (bag.problem for bag in self._bags)))
        self.note = "; ".join(filter(None, [self.note, problem, "" if self._times else "no frame can be read"]))
        self._ready = bool(self._times)
        tell(self.state())

    def _pack(self, camera: str, stamp_ns: int, label: int, confidence: bool) -> bytes:
        of = next(one for one in self._cameras if one.name == camera)
        stream = of.labels[label] if of.labels else None
        beside = of.confidence.get(stream) if stream and confidence else None
        problems: list[str] = []
        found = {
            part: self._message(one, stamp_ns, problems)
            for part, one in (("image", of.image), (LABEL, stream), (CONFIDENCE, beside))
        }
        if stream and found[LABEL] is None and not problems:
            problems.append("this image has no labels")
        if of.image and found["image"] is None and not problems:
            problems.append("these labels have no image")
        bits = None
        if of.image is not None:
            bits = self._bits.setdefault(of.image, BitDepth(AUTO, lambda line: None))
        return packed(Content(camera, stamp_ns, bits=bits, note="; ".join(problems), **found))

    def _message(self, stream: Stream | None, stamp_ns: int, problems: list[str]) -> Any | None:
        """Return the message of a stamp, decoded, or None."""
        if stream is None or stamp_ns not in self._places[stream]:
            return None
        log_ns = self._places[stream][stamp_ns]
        with self._lock:
            for message in self._bags[stream.bag].messages([stream.topic], log_ns if log_ns > 0 else EARLIEST):
                if message.taken_ns == stamp_ns:
                    try:
                        return message.decode()
                    except (FrameError, SourceError) as error:
                        problems.append(str(error))
                        return None
        return None


def open_recording(path: str, images: str | None = None) -> Recording:
    """Open a recording for the page. Raises ConfigError for what is no rosbag2, SourceError as `Recording`."""
    for one in filter(None, (path, images)):
        if Path(one).exists() and not is_bag(Path(one)):
            raise ConfigError(f"{one}: not a rosbag2; `m2f bag` makes one of a folder of images or a video")
    return Recording(path, images)
