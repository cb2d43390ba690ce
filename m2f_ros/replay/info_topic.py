"""The camera_info of an image topic in a bag."""

from __future__ import annotations

import logging

from m2f_ros.errors import FrameError
from m2f_ros.replay.bag_reader import Bag
from m2f_ros.replay.calibration import Calibration
from m2f_ros.replay.messages import CAMERA_INFO
from m2f_ros.replay.topics import info_topic

log = logging.getLogger("m2f_ros.replay")


class CameraInfos:
    """Finds what is known of the camera at each of its images, whose stamps ascend."""

    def __init__(self, bag: Bag, image_topic: str) -> None:
        topic = info_topic(image_topic)
        there = bag.topics.get(topic, ("", 0))[0] == CAMERA_INFO
        self._messages = bag.messages([topic]) if there else iter(())
        self._now: Calibration | None = None
        self._next = self._read()

    def at(self, stamp_ns: int) -> Calibration | None:
        """Of the newest message that is not after the image; before the first message, of that; None without any."""
        while self._next is not None and (self._now is None or self._next[0] <= stamp_ns):
            self._now, self._next = self._next[1], self._read()
        return self._now

    def _read(self) -> tuple[int, Calibration] | None:
        for message in self._messages:
            try:
                return message.taken_ns, Calibration.of(message.decode())
            except FrameError as error:
                log.warning("skipped a camera_info: %s", error)
        return None
