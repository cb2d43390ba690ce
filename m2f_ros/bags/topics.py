"""Names of the topics of a drive and of the node, and the choice of camera topics."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from m2f_ros.errors import FrameError, SourceError, say_once
from m2f_ros.frame import outputs

if TYPE_CHECKING:  # launch files need only the names
    from m2f_ros.bags.reader import Bag

CAMERA = "/camera"
IMAGE = "image"
COMPRESSED = "image/compressed"
CAMERA_INFO = "camera_info"
GROUND_TRUTH = "ground_truth"
LEGEND = "legend"  # beside a label topic, or below a ground truth topic
PANOPTIC = "panoptic"
SEGMENTS = "segments"
DEPTH = "depth/image_raw"
DEPTH_INFO = "depth/camera_info"
GRID = "grid"  # below ground truth
SEEN = "seen"  # below that grid
LIDAR = "/lidar"
POINTS = "points"
TF, TF_STATIC = "/tf", "/tf_static"

# Encodings of values other than brightness: depth (16UC1 and 32FC1: REP 118), disparity, flow, ids.
_VALUES = re.compile(r"16UC1?|\d+SC\d*|32UC\d*|\d+FC\d*")
# Grey encodings, which also occur for depth and disparity, on topics with these names.
_GREY = ("mono8", "8UC1", "mono16")
_NAMED_VALUES = re.compile(r"(?:^|_)(depth|disparity)(?!_?cam)(?:_|$)", re.IGNORECASE)
_MOST_TOKEN = 100  # characters; a topic's name has at most 255
_PNG, _DEPTH_HEADER = b"\x89PNG\r\n\x1a\n", 12  # compressedDepth has so many bytes before its picture
# Most messages to read for an encoding.
_PEEK = 20


def namespaced(name: str) -> str:
    """Return the absolute namespace, "/" in front and none behind. Raises SourceError for an invalid one."""
    absolute = "/" + name.strip("/")
    tokens = absolute[1:].split("/")
    if not all(t.isascii() and t.isidentifier() for t in tokens):
        raise SourceError(
            f"namespace {name}: no name of a ROS 2 namespace; letters, digits and _, not beginning with a digit, "
            "with / between them, as in /camera/left"
        )
    return absolute


def truth_topic(image_topic: str) -> str:
    """Return the ground truth topic of an image topic: /camera/ground_truth for /camera/image(/compressed)."""
    return _parent(image_topic.removesuffix("/compressed")) + "/" + GROUND_TRUTH


def info_topic(image_topic: str) -> str:
    """Return the camera_info topic beside an image topic, by image_transport's convention."""
    return _parent(image_topic.removesuffix("/compressed")) + "/" + CAMERA_INFO


def names_of(topic: str) -> tuple[str, str]:
    """Return the names that a camera may have by its topic: its namespace, "" without one, and the whole topic."""
    raw = topic.removesuffix("/compressed").strip("/")
    return token(raw.rpartition("/")[0]), token(raw)


def token(topic: str) -> str:
    """Turn a topic into one part of a topic's name: letters, digits and single underscores, no digit first."""
    return re.sub(r"^(?=\d)", "_", re.sub(r"[\W_]+", "_", topic.strip("/"), flags=re.ASCII))[:_MOST_TOKEN]


def legend_topics(label_topic: str) -> tuple[str, str, str]:
    """Return possible topics of a label topic's legend: below it (ground truth), beside it, and above the camera's
    namespace (a node with several cameras)."""
    node = _parent(label_topic)
    return f"{label_topic}/{LEGEND}", f"{node}/{LEGEND}", f"{_parent(node)}/{LEGEND}"


def listed(topics: Mapping[str, int]) -> str:
    """Return a text that lists image topics with their numbers of messages."""
    return ", ".join(f"{name} ({count})" for name, count in sorted(topics.items())) or "none"


class Cameras(NamedTuple):
    """Image topics of a bag.

    Attributes:
        topics: topics of cameras, sorted.
        left_out: topic without pictures -> encoding.
    """

    topics: list[str]
    left_out: dict[str, str]

    def says(self, option: str) -> str:
        """Return a line on the topics that are left out and the option for them; "" if there are none.

        option: command line option for a topic, with {} for the topic.
        """
        if not self.left_out:
            return ""
        listed = ", ".join(f"{topic} ({encoding or 'compressed'})" for topic, encoding in self.left_out.items())
        grey = [topic for topic, encoding in self.left_out.items() if can_be_grey(encoding)]
        ask = f"{option.format(grey[0])} takes it as a grey picture" if grey else "they cannot be taken as pictures"
        return f"left out (depth, other values, or no known encoding): {listed}; {ask}"


def choose(bag: Bag, asked: Collection[str], option: str, but: Collection[str] = ()) -> Cameras:
    """Return the requested image topics, sorted, or by default those of all cameras, without the topics `but`.

    option: command line option for a topic, with {} for the topic. Raises SourceError if there are none.
    """
    images = {name: count for name, count in bag.image_topics().items() if name not in but}
    damage = "; ".join(text for text in (bag.unread, bag.problem) if text)
    there = listed(images) + (f" ({damage})" if damage else "")
    if missing := [topic for topic in asked if topic not in images]:
        raise SourceError(f"{option.split()[0]} {missing[0]}: no such image topic in {bag.path}; there is {there}")
    if asked:
        return Cameras(sorted(set(asked)), {})
    found = cameras(bag, but)
    if not found.topics:
        why = found.says(option) or f"image topics: {there}"
        raise SourceError(f"{bag.path}: no images of a camera in this rosbag2; {why}")
    if bag.unread:
        say_once(f"{bag.path}: left out: {bag.unread}")
    return found


def cameras(bag: Bag, but: Collection[str] = ()) -> Cameras:
    """Return one topic for each camera of a bag, raw images before compressed ones, without the topics `but`.

    Every non-empty image topic is a camera's, except ground truth, outputs of the node, topics that `is_picture`
    rejects, and unsupported encodings.
    """
    from m2f_ros.frame.encodings import LAYOUTS, PLANES

    images = [topic for topic in bag.image_topics() if topic not in but and not is_made(topic, bag.topics)]
    found, left_out = [], {}
    for topic in sorted(images):
        encoding = _encoding_in(bag, topic)
        read = not encoding or bag.topics[topic].type != "sensor_msgs/msg/Image" or encoding in {*LAYOUTS, *PLANES}
        if read and is_picture(topic, encoding):
            found.append(topic)
        else:
            left_out[topic] = encoding
    return Cameras([t for t in found if t.removesuffix("/compressed") not in {*found} - {t}], left_out)


def is_picture(topic: str, encoding: str) -> bool:
    """Return True if images of this topic and encoding (see `encoding_of`) are pictures, not depth or similar."""
    if _VALUES.fullmatch(encoding) or "compressedDepth" in (encoding, topic.rpartition("/")[2]):
        return False
    return encoding not in _GREY or not _is_named_values(topic)


def can_be_grey(encoding: str) -> bool:
    """Return True for encodings that can be segmented as grey pictures on request."""
    return encoding in ("16UC1", *_GREY)


def encoding_of(message: Any) -> str:
    """Return the encoding of an Image, or of the source of a CompressedImage: its encoding if known, "" if not, or
    "compressedDepth".
    """
    if hasattr(message, "encoding"):
        return message.encoding
    source, _, codec = message.format[:200].partition(";")  # a format may have megabytes
    if "compresseddepth" in codec.lower():
        return "compressedDepth"
    if codec:
        return source.strip()
    begin = bytes(message.data[:26])
    if begin[_DEPTH_HEADER:].startswith(_PNG):  # some writers leave the format of compressedDepth empty
        return "compressedDepth"
    # A driver's plain "png": the header holds the bits a channel and the colour type, 0 for grey (PNG, 11.2).
    if begin.startswith(b"\x89PNG") and begin[25:] == b"\0":
        return "mono16" if begin[24] == 16 else "mono8"
    return ""


@lru_cache(maxsize=64)
def _is_named_values(topic: str) -> bool:
    """Return True if one of the last two parts names depth or disparity: /camera/depth/image_raw, /stereo/disparity,
    but not /depth_camera/image_raw."""
    return any(map(_NAMED_VALUES.search, topic.removesuffix("/compressed").split("/")[-2:]))


def _encoding_in(bag: Bag, topic: str) -> str:
    """Return the first known encoding among the first messages of a topic; "" if there is none."""
    for message in islice(bag.messages([topic]), _PEEK):
        try:
            encoding = encoding_of(message.decode())
        except FrameError:
            continue
        if encoding:
            return encoding
    return ""


def is_rectified(topic: str) -> bool:
    """Return True if a topic has the name of image_proc's rectified images: image_rect, image_rect_color."""
    return "/image_rect" in topic


def is_made(topic: str, topics: Collection[str]) -> bool:
    """Return True if an image topic is ground truth or an output of the node.

    topics: all topics. Ground truth is .../ground_truth and all topics below it; an output has the name of an output,
    and a legend.
    """
    raw = topic.removesuffix("/compressed")
    if GROUND_TRUTH in raw.split("/"):
        return True
    return raw.rpartition("/")[2] in outputs.NAMES and any(legend in topics for legend in legend_topics(raw))


def _parent(topic: str) -> str:
    return topic.rpartition("/")[0]
