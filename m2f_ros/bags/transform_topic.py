"""The transforms of a bag, /tf and /tf_static, read alongside its images."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from m2f_ros.bags.messages import TF_MESSAGE
from m2f_ros.bags.reader import Bag, Message
from m2f_ros.bags.topics import TF, TF_STATIC
from m2f_ros.errors import FrameError
from m2f_ros.space.transforms import TransformError, Transforms, from_quaternion

log = logging.getLogger("m2f_ros.bags")

# Seconds of recording in a window, and before and behind it: those before are as many as tf2 keeps.
WINDOW, BEFORE, BEHIND = 10, 10, 1
_ALL = 1e9  # seconds by the stamps, which may differ from the times of recording
_MOST = 200_000  # transforms held
_NS = 10**9


class _Found(NamedTuple):
    """A transform that was read: log_ns, and the arguments of `Transforms.put`."""

    log_ns: int
    parent: str
    child: str
    matrix: np.ndarray
    stamp_ns: int
    static: bool


class DriveTransforms:
    """The transforms around each image: windows of the recording that nobody changes once they are given.

    Windows begin at whole multiples of WINDOW seconds, so that they do not depend on the first image that is read.

    Attributes:
        topics: of transforms.
        damaged: number of messages and transforms that could not be read.
        refused: number of transforms that fit no tree, and were left out.
        changed: number of transforms that took the place of others of their frame.
    """

    def __init__(self, bag: Bag) -> None:
        self.topics = [topic for topic in (TF, TF_STATIC) if bag.type_of(topic) == TF_MESSAGE]
        self.damaged = self.refused = self.changed = 0
        self._static = self._read(bag.messages([TF_STATIC])) if TF_STATIC in self.topics else []
        self._moving = bag.messages([TF]) if TF in self.topics else iter(())
        self._next = next(self._moving, None)
        self._held: deque[_Found] = deque(maxlen=_MOST)
        self._window: tuple[int, Transforms] | None = None  # its number, and what is in it
        self._said: set[str] = set()

    def at(self, log_ns: int) -> Transforms:
        """Return the transforms around an image that was recorded at log_ns; these times ascend."""
        number = log_ns // (WINDOW * _NS)
        if self._window is None or self._window[0] != number:
            self._window = number, self._filled(number)
        return self._window[1]

    def _filled(self, number: int) -> Transforms:
        first, last = number * WINDOW * _NS, (number + 1) * WINDOW * _NS
        while self._held and self._held[0].log_ns < first - BEFORE * _NS:
            self._held.popleft()
        new: deque[_Found] = deque(maxlen=_MOST)
        while self._next is not None and self._next.log_ns < last + BEHIND * _NS:
            if self._next.log_ns >= first - BEFORE * _NS:
                new += self._read([self._next])
            self._next = next(self._moving, None)
        transforms = Transforms(seconds=_ALL)
        self._put(transforms, self._static, again=self._window is not None)
        self._put(transforms, self._held, again=True)
        self._put(transforms, new)
        self._held += new
        return transforms

    def _put(self, transforms: Transforms, found: Iterable[_Found], again: bool = False) -> None:
        """again: True for those that an earlier window had, whose faults are counted already."""
        for one in found:
            try:
                transforms.put(one.parent, one.child, one.matrix, one.stamp_ns, one.static)
            except TransformError as error:
                if again:
                    continue
                if error.kind == "conflict":  # the newer one is taken
                    self.changed += 1
                else:
                    self.refused += 1
                if error.kind not in self._said:
                    self._said.add(error.kind)
                    log.warning("%s: %s", TF_STATIC if one.static else TF, error)

    def _read(self, messages: Iterable[Message]) -> list[_Found]:
        found = []
        for message in messages:
            try:
                stamped = message.decode().transforms
            except FrameError as error:
                self._skip(message.topic, str(error).removeprefix(f"{message.topic}: "))
                continue
            for one in stamped:
                position, turn, stamp = one.transform.translation, one.transform.rotation, one.header.stamp
                try:
                    matrix = from_quaternion((position.x, position.y, position.z), (turn.x, turn.y, turn.z, turn.w))
                except TransformError as error:
                    self._skip(message.topic, str(error))
                    continue
                stamp_ns = stamp.sec * _NS + stamp.nanosec
                static = message.topic == TF_STATIC
                found.append(_Found(message.log_ns, one.header.frame_id, one.child_frame_id, matrix, stamp_ns, static))
        return found

    def _skip(self, topic: str, why: str) -> None:
        if not self.damaged:
            log.warning("skipped a transform of %s: %s", topic, why)
        self.damaged += 1
