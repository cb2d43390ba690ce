"""The clouds of a lidar in a bag, read alongside its images."""

from __future__ import annotations

import logging

from m2f_ros.bags.messages import POINT_CLOUD
from m2f_ros.bags.reader import ENCODINGS, Bag, Message
from m2f_ros.bags.topics import GROUND_TRUTH, legend_topics, listed
from m2f_ros.errors import FrameError, SourceError, SpaceError
from m2f_ros.frame import outputs
from m2f_ros.space.cloud import Cloud

log = logging.getLogger("m2f_ros.bags")

OPTION = "--cloud-topic"
_MADE = {output.name for output in outputs.SPATIAL}
_LATE_NS = 10**9  # a cloud recorded so long before an image is due, whatever its stamp; a jump back is at least so long


def cloud_topics(bag: Bag) -> dict[str, int]:
    """Return the number of messages of each topic of clouds, without ground truth and outputs of the node."""
    return {
        name: topic.count
        for name, topic in bag.topics.items()
        if topic.type == POINT_CLOUD and topic.count and topic.encoding in ENCODINGS and not _is_made(name, bag)
    }


def choose_cloud(bag: Bag, asked: str | None = None) -> str | None:
    """Return the requested topic of clouds, or the only one; None if there is none.

    Raises SourceError if the requested one does not exist, or there are several.
    """
    found = cloud_topics(bag)
    if asked:
        if bag.type_of(asked) != POINT_CLOUD:
            raise SourceError(f"{OPTION} {asked}: no topic of clouds in {bag.path}; there is {listed(found)}")
        return asked
    if len(found) > 1:
        raise SourceError(f"{bag.path}: several topics of clouds, choose one with {OPTION}: {listed(found)}")
    return next(iter(found), None)


def _is_made(topic: str, bag: Bag) -> bool:
    parts = topic.split("/")
    return GROUND_TRUTH in parts or (
        parts[-1] in _MADE and any(legend in bag.topics for legend in legend_topics(topic))
    )


class Clouds:
    """The clouds of a topic in the order of recording.

    Attributes:
        topic: of the clouds.
        damaged: number of clouds that could not be read.
        due_ever: True once a cloud was due.
    """

    def __init__(self, bag: Bag, topic: str, slop: float) -> None:
        """slop: seconds by which a cloud may be later than the image with which it is given."""
        self.topic, self.damaged, self.due_ever = topic, 0, False
        self._messages = bag.messages([topic])
        self._next = next(self._messages, None)
        self._slop_ns = round(slop * 1e9)

    def due(self, stamp_ns: int, log_ns: int, wanted: bool = True) -> list[Cloud]:
        """Return the clouds up to an image of this stamp that have not been returned yet.

        wanted: False to pass over them.
        """
        found = []
        while (message := self._next) is not None and self._is_due(message, stamp_ns, log_ns):
            self._next, self.due_ever = next(self._messages, None), True
            if not wanted:
                continue
            try:
                found.append(Cloud.of(message.decode()))
            except (FrameError, SpaceError) as error:
                self.damaged += 1
                log.warning("%s: skipped a cloud at %d: %s", self.topic, message.taken_ns, error)
        return found

    def _is_due(self, message: Message, stamp_ns: int, log_ns: int) -> bool:
        if message.log_ns <= log_ns - _LATE_NS:
            return True
        # Behind a jump back of the stamps it waits for an image from behind the jump.
        jumped = message.taken_ns < stamp_ns - _LATE_NS and message.log_ns > log_ns
        return message.taken_ns <= stamp_ns + self._slop_ns and not jumped

    def left(self) -> int:
        """Read on to the end, so that the bag finds damage. Return the number of clouds that were not due."""
        count = int(self._next is not None) + sum(1 for _ in self._messages)
        self._next = None
        return count
