"""Chooses topic, type and reliability of a camera's images by their publishers, or explains why no images come.

Does not import ROS.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from m2f_ros.bags.topics import is_made

RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
CODEC, DEPTH_CODEC = "compressed", "compressedDepth"
NAMED = 5  # most topics in a line


@dataclass(frozen=True)
class Offer:
    """Type (RAW or COMPRESSED) and reliability of one publisher."""

    type: str
    reliable: bool


@dataclass(frozen=True)
class Source:
    """A topic for a subscription. type: RAW or COMPRESSED."""

    topic: str
    type: str
    reliable: bool

    def __str__(self) -> str:
        return f"{self.topic} ({short(self.type)}, {'reliable' if self.reliable else 'best effort'})"


def choose(
    images: str,
    transport: str,
    reliability: str,
    offers: Callable[[str], Sequence[Offer]],
    now: Source | None = None,
    codec: str = CODEC,
) -> tuple[Source, bool]:
    """Return the source for the subscription, and True if it has a publisher.

    Args:
        images: topic of the images.
        transport: value of the parameter.
        reliability: value of the parameter.
        offers: function that returns the offers of a topic.
        now: present source, which is kept while there is no publisher.
        codec: last part of the topic of compressed images, by image_transport's convention.
    """
    candidates = _candidates(images, transport, codec)
    for topic, kind in candidates:
        if found := [offer for offer in offers(topic) if offer.type == kind]:
            # A reliable subscription receives nothing from a best-effort publisher.
            reliable = all(offer.reliable for offer in found)
            return Source(topic, kind, reliable if reliability == "auto" else reliability == "reliable"), True
    return now or Source(*candidates[0], reliability == "reliable"), False


def absence(images: str, transport: str, published: Mapping[str, Sequence[str]]) -> str:
    """Return why no images come, with advice, if the candidates of `choose` have no publisher.

    published: topic -> types, for published topics.
    """
    wanted = RAW if transport == "raw" else COMPRESSED
    missing = f"no {short(wanted)}" if transport != "auto" else "neither Image nor CompressedImage"
    missing = f"{missing} is published on {images}"
    if transport == "compressed" and not images.endswith("/compressed"):
        missing += "/compressed"
    other = "compressed" if transport == "raw" else "raw"
    if transport != "auto":
        for topic, kind in _candidates(images, other):
            if kind in published.get(topic, ()):
                return f"{missing}, but {short(kind)} on {topic}: set transport to {other}, or to auto"
    if kinds := published.get(images):
        return f"{missing}, but {', '.join(map(short, kinds))}: name another topic"
    # Other codecs of image_transport, such as H.264 and Theora.
    coded = [
        f"{', '.join(map(short, types))} on {topic}"
        for topic, types in sorted(published.items())
        if topic.startswith(f"{images}/") and not {RAW, COMPRESSED} & set(types)
    ]
    if coded:
        there = ", ".join(coded[:NAMED])
        return f"{missing}, but {there}, which is not read: `ros2 run image_transport republish` makes Image of it"
    # Outputs of a node, another robot's perhaps, are no camera.
    published = {topic: types for topic, types in published.items() if not is_made(topic, published)}
    sought = {wanted} if transport != "auto" else {RAW, COMPRESSED}
    named = _nearest(images, [topic for topic, types in published.items() if sought & set(types)])
    if named:
        return f"{missing}; there is {', '.join(named)}: name one of them, or start the camera"
    named = _nearest(images, [topic for topic, types in published.items() if {RAW, COMPRESSED} & set(types)])
    if named:
        return f"{missing}; there is {', '.join(named)}, for transport {other}: name one of them, or start the camera"
    return f"{missing}, nor an image topic of another name: start the camera; ROS_DOMAIN_ID must be the same"


def silence(images: str, now: Source, offers: Callable[[str], Sequence[Offer]]) -> str:
    """Return a possible reason why no image comes from an existing publisher, with advice.

    now: present source, with the reliability of the subscription. offers: see `choose`.
    """
    line = f"{now.topic} ({short(now.type)}) is published, but no image has come"
    if now.reliable and not all(offer.reliable for offer in offers(now.topic) if offer.type == now.type):
        return f"{line}: it is read reliably and offered best effort; set reliability, or qos_overrides, to best_effort"
    other = "compressed" if now.type == RAW else "raw"
    for topic, kind in _candidates(images, other):
        if any(offer.type == kind for offer in offers(topic)):
            return f"{line}; there is {short(kind)} on {topic}, too: set transport to {other} if it sends that alone"
    return f"{line}: the camera sends none, or they are lost on the way (docs/node.md, Shared memory)"


def short(kind: str) -> str:
    """Return the name of a type without sensor_msgs/msg."""
    return kind.removeprefix("sensor_msgs/msg/")


def _candidates(images: str, transport: str, codec: str = CODEC) -> list[tuple[str, str]]:
    """Return the possible (topic, type) of the images, the best first."""
    # image_transport appends /compressed; some drivers do not.
    compressed = [(f"{images}/{codec}", COMPRESSED), (images, COMPRESSED)]
    if images.endswith(f"/{codec}"):
        compressed.reverse()
    if transport == "raw":
        return [(images, RAW)]
    if transport == "compressed":
        return compressed
    return [*compressed, (images, RAW)] if images.endswith(f"/{codec}") else [(images, RAW), *compressed]


def _nearest(name: str, topics: Sequence[str]) -> list[str]:
    """Return the topics with the most similar names, most similar first."""
    return sorted(topics, key=lambda topic: (-difflib.SequenceMatcher(None, name, topic).ratio(), topic))[:NAMED]
