"""The camera_info beside image topics of a bag."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection

from m2f_ros.bags.messages import CAMERA_INFO
from m2f_ros.bags.reader import Bag
from m2f_ros.bags.topics import info_topic
from m2f_ros.errors import FrameError
from m2f_ros.frame.calibration import Calibration

log = logging.getLogger("m2f_ros.bags")


class CameraInfos:
    """Finds the calibration of a camera for each of its images, in ascending order of stamps.

    Reads the camera_info topics once, alongside the images, for all cameras.
    """

    def __init__(self, bag: Bag, image_topics: Collection[str]) -> None:
        topics = {image: info_topic(image) for image in image_topics}
        there = {topic for topic in topics.values() if bag.type_of(topic) == CAMERA_INFO}
        self._topics = {image: topic for image, topic in topics.items() if topic in there}
        self._messages = bag.messages(there) if there else iter(())
        self._left = {topic: bag.topics[topic].count for topic in there}  # number of unread messages
        self._read_to = dict.fromkeys(there, -1)  # stamps
        # (stamp, calibration) pairs, beginning with the one for the last image.
        self._found: dict[str, deque[tuple[int, Calibration]]] = {topic: deque() for topic in there}

    def at(self, image_topic: str, stamp_ns: int) -> Calibration | None:
        """Return the newest calibration not after the image, else the first one; None if there is none."""
        topic = self._topics.get(image_topic)
        if topic is None:
            return None
        found = self._found[topic]
        while self._left[topic] and (not found or self._read_to[topic] <= stamp_ns):
            self._read()
        while len(found) > 1 and found[1][0] <= stamp_ns:
            found.popleft()
        return found[0][1] if found else None

    def _read(self) -> None:
        message = next(self._messages, None)
        if message is None:  # fewer messages than the file states
            self._left = dict.fromkeys(self._left, 0)
            return
        self._left[message.topic] -= 1
        try:
            info = Calibration.of(message.decode())
        except FrameError as error:
            log.warning("skipped a camera_info: %s", error)
            return
        self._read_to[message.topic] = message.taken_ns
        found = self._found[message.topic]
        if not found or found[-1][1] != info:
            found.append((message.taken_ns, info))
