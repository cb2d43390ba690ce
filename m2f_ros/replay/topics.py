"""Names of the topics in a drive and in what the node makes of it, and which image topics are a camera's."""

from __future__ import annotations

from collections.abc import Collection

from m2f_ros.errors import SourceError

CAMERA = "/camera"
IMAGE = "image"
COMPRESSED = "image/compressed"
CAMERA_INFO = "camera_info"
GROUND_TRUTH = "ground_truth"
LEGEND = "legend"  # of a label topic, beside it; of ground truth, below it
PANOPTIC = "panoptic"
SEGMENTS = "segments"
# What the node publishes as images, in a namespace with a legend.
OUTPUTS = ("label", "overlay", "confidence", "color", PANOPTIC)


def namespaced(name: str) -> str:
    """The absolute topic namespace: "/" in front, none behind. SourceError for what ROS 2 does not allow."""
    absolute = "/" + name.strip("/")
    tokens = absolute[1:].split("/")
    if not all(t.isascii() and t.isidentifier() for t in tokens):
        raise SourceError(
            f"namespace {name}: no name of a ROS 2 namespace; letters, digits and _, not beginning with a digit, "
            "with / between them, as in /camera/left"
        )
    return absolute


def truth_topic(image_topic: str) -> str:
    """Where the ground truth of a camera's images is: /camera/ground_truth of /camera/image(/compressed)."""
    return _parent(image_topic.removesuffix("/compressed")) + "/" + GROUND_TRUTH


def info_topic(image_topic: str) -> str:
    """camera_info beside the images, as image_transport has it."""
    return _parent(image_topic.removesuffix("/compressed")) + "/" + CAMERA_INFO


def legend_topics(label_topic: str) -> tuple[str, str, str]:
    """Where the legend of a label topic may be: below it, as of ground truth; beside it; or, of a node with several
    cameras, above the camera's namespace."""
    node = _parent(label_topic)
    return f"{label_topic}/{LEGEND}", f"{node}/{LEGEND}", f"{_parent(node)}/{LEGEND}"


def is_made(topic: str, topics: Collection[str]) -> bool:
    """Whether an image topic is ground truth or an output of the node, not a camera's.

    topics: all that there are. Ground truth is .../ground_truth and what is below it; an output has one of the
    names of OUTPUTS, and a legend.
    """
    raw = topic.removesuffix("/compressed")
    if GROUND_TRUTH in raw.split("/"):
        return True
    return raw.rpartition("/")[2] in OUTPUTS and any(legend in topics for legend in legend_topics(raw))


def _parent(topic: str) -> str:
    return topic.rpartition("/")[0]
