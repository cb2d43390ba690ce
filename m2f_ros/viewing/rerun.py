"""Converts a rosbag2 to a recording of Rerun (.rrd): pictures, label images with the classes' names and colours, ages.

Rerun itself reads the bag's MCAP file, too, but knows no legend: label images come as depth.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2f_ros.bags.image_topic import ImageDecoder, decode_label
from m2f_ros.bags.messages import COMPRESSED_IMAGE, STATS
from m2f_ros.bags.reader import Bag, Message
from m2f_ros.bags.topics import GROUND_TRUTH, PANOPTIC, legend_topics, listed
from m2f_ros.errors import ConfigError, FrameError, M2fError, OutputError, SourceError, one_line, some
from m2f_ros.files import whole
from m2f_ros.frame.bgr import to_bgr
from m2f_ros.frame.pictures import open_picture
from m2f_ros.sources.labels import find_legend, taxonomy_of_legend

if TYPE_CHECKING:
    from m2f_ros.taxonomy import Taxonomy

LABEL = "label"
SUFFIX = ".rrd"
STAMP, RECORDED = "stamp", "recorded"  # timelines: of the header, and of the bag

Log = Callable[[Message], Any]  # makes Rerun's object of a message


@dataclass(frozen=True)
class Converted:
    """Result of a conversion.

    Attributes:
        images: entity path -> number of images in the recording.
        left_out: topic -> number of messages that are left out, and why the first of them is.
        problem: one line on what is missing in the bag, or "".
    """

    images: Mapping[str, int]
    left_out: Mapping[str, tuple[int, str]]
    problem: str

    @property
    def reasons(self) -> list[str]:
        """Reasons why the recording is of a part of the bag, a line each."""
        return _lines(self.left_out) + ([self.problem] if self.problem else [])


def convert(
    path: str | Path, out: Path, topics: Collection[str] = (), progress: Callable[[int], object] = lambda count: None
) -> Converted:
    """Write the images of a bag, and the ages of its results, as a recording of Rerun.

    The entity path of a topic is its name. Label images (`label`, `ground_truth`) are segmentation images with an
    annotation context by the legend; unlabelled pixels are transparent. Panoptic ids are segmentation images whose
    colours Rerun chooses. Compressed images stay compressed; every other image becomes BGR or grey of 8 bits.

    Args:
        path: rosbag2.
        out: file to write; it must not exist.
        topics: image topics to convert; empty for all.
        progress: called with the number of messages so far.
    Raises:
        ConfigError: rerun-sdk is not installed.
        OutputError: the file exists, cannot be written, or its name does not end with .rrd.
        SourceError: there is no bag, or none of its image topics can be shown.
    """
    rr = _rerun()
    if out.suffix != SUFFIX:
        raise OutputError(f"{out}: the name of a recording ends with {SUFFIX}, as in {out.with_suffix(SUFFIX)}")
    if out.exists():
        raise OutputError(f"{out}: is there already: move it away, or name another file")
    with Bag(path) as bag:
        found = bag.image_topics()
        if unknown := sorted({*topics} - found.keys()):
            raise SourceError(f"{bag.path}: no image topic {unknown[0]}; there is {listed(found)}")
        chosen = sorted(topics or found)
        if not chosen:
            raise SourceError(f"{bag.path}: no images in this rosbag2")
        try:
            with whole(out) as partial_file:
                result = _write(rr, bag, chosen, partial_file, progress)
        except OSError as error:
            raise OutputError(f"{out}: cannot be written ({error.strerror or error})") from None
    return result


def _rerun() -> Any:
    try:
        import rerun
    except ImportError as error:
        raise ConfigError(
            f"m2f rerun needs Rerun's library: pip install 'm2f_ros[rerun]', on Python 3.11 or later ({error})"
        ) from None
    return rerun


def _write(rr: Any, bag: Bag, topics: list[str], file: Path, progress: Callable[[int], object]) -> Converted:
    # No viewer is started and no server is connected: the stream's only sink is the file.
    stream = rr.RecordingStream("m2f_ros", make_default=False, make_thread_default=False)
    stream.set_log_time_enabled(False)
    stream.save(file, default_blueprint=_blueprint(rr, topics, _ages_of(bag)))
    logs: dict[str, Log] = {}
    for topic in topics:
        taxonomy = _taxonomy_of(bag, topic)
        if taxonomy is not None:
            stream.log(topic, _context(rr, taxonomy), static=True)
        logs[topic] = _maker(rr, bag, topic)
    left_out: dict[str, tuple[int, str]] = {}
    counts = dict.fromkeys(topics, 0)
    ages = _ages_of(bag)
    for number, message in enumerate(bag.messages([*topics, *ages]), 1):
        progress(number)
        topic = message.topic
        stream.set_time(STAMP, timestamp=np.datetime64(message.taken_ns, "ns"))
        stream.set_time(RECORDED, timestamp=np.datetime64(message.log_ns, "ns"))
        try:
            if topic in ages:
                stream.log(f"{topic}/age_ms", rr.Scalars(float(message.decode().age_ms)))
            else:
                stream.log(topic, logs[topic](message))
                counts[topic] += 1
        except M2fError as error:
            number_of, why = left_out.get(topic, (0, one_line(str(error))))
            left_out[topic] = number_of + 1, why
    stream.disconnect()
    images = {topic: count for topic, count in counts.items() if count}
    if not images:
        raise SourceError(f"{bag.path}: no image can be shown: {some(_lines(left_out), '; ')}")
    return Converted(images, left_out, bag.problem)


def _lines(left_out: Mapping[str, tuple[int, str]]) -> list[str]:
    return [f"{topic}: {count} messages, the first: {why}" for topic, (count, why) in left_out.items()]


def _ages_of(bag: Bag) -> list[str]:
    return [name for name, topic in bag.topics.items() if topic.type == STATS]


def _name(topic: str) -> str:
    return topic.removesuffix("/compressed").rpartition("/")[2]


def _has_ids(bag: Bag, topic: str) -> bool:
    """Return True for label images and panoptic ids: of the node, which has a legend, or ground truth."""
    raw = topic.removesuffix("/compressed")
    if GROUND_TRUTH in raw.split("/"):
        return _name(topic) in (GROUND_TRUTH, PANOPTIC)
    return _name(topic) in (LABEL, PANOPTIC) and any(legend in bag.topics for legend in legend_topics(raw))


def _taxonomy_of(bag: Bag, topic: str) -> Taxonomy | None:
    """Return the classes of a label topic by its legend; None for other topics and without a legend."""
    if not _has_ids(bag, topic) or _name(topic) == PANOPTIC:
        return None
    legend = find_legend(bag, topic.removesuffix("/compressed"))
    return None if legend is None else taxonomy_of_legend(legend)


def _context(rr: Any, taxonomy: Taxonomy) -> Any:
    classes = [rr.AnnotationInfo(id=c.id, label=c.name, color=c.colour) for c in taxonomy.classes]
    return rr.AnnotationContext([*classes, rr.AnnotationInfo(taxonomy.unlabelled, "unlabelled", (0, 0, 0, 0))])


def _maker(rr: Any, bag: Bag, topic: str) -> Log:
    if _has_ids(bag, topic):
        return partial(_ids, rr)
    if bag.type_of(topic) == COMPRESSED_IMAGE:
        return partial(_compressed, rr)
    return partial(_picture, rr, ImageDecoder(topic))


def _ids(rr: Any, message: Message) -> Any:
    found = message.decode()
    if message.type == COMPRESSED_IMAGE:
        picture = open_picture(memoryview(found.data))
        if not picture.grey or picture.kind != "PNG":
            raise FrameError("label images are grey PNGs")
        return rr.SegmentationImage(picture.pixels())
    return rr.SegmentationImage(decode_label(found))


def _compressed(rr: Any, message: Message) -> Any:
    data = message.decode().data
    picture = open_picture(memoryview(data))  # checks header and end
    return rr.EncodedImage(contents=data.tobytes(), media_type=f"image/{picture.kind.lower()}")


def _picture(rr: Any, decoder: ImageDecoder, message: Message) -> Any:
    frame = decoder(message)
    if frame.data.ndim == 2 and frame.encoding in ("mono8", "8UC1"):
        return rr.Image(np.ascontiguousarray(frame.data), "L")
    return rr.Image(np.ascontiguousarray(to_bgr(frame)), "BGR")


def _blueprint(rr: Any, topics: list[str], ages: list[str]) -> Any:
    """Return the panes: one for each topic, and one for the ages."""
    from rerun import blueprint as panes

    views: list[Any] = [panes.Spatial2DView(origin=topic, name=topic) for topic in topics]
    views += [panes.TimeSeriesView(origin=topic, name=topic) for topic in ages]
    return panes.Blueprint(panes.Grid(*views), collapse_panels=True)
