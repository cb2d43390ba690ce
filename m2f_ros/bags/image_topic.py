"""Decodes the images of a topic, as in the node."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from m2f_ros.bags.reader import Message
from m2f_ros.errors import FrameError, SourceError
from m2f_ros.frame.bit_depth import AUTO, BitDepth
from m2f_ros.frame.compressed import decode_compressed
from m2f_ros.frame.encodings import LAYOUTS, PLANES
from m2f_ros.frame.frame import Frame
from m2f_ros.frame.raw import Bits, decode, image_view

log = logging.getLogger("m2f_ros.bags")


class ImageDecoder:
    """Decodes the messages of one topic. Raw images must share an encoding; JPEGs may be grey or in colour."""

    def __init__(self, topic: str, bit_depth: int = AUTO, say: Callable[[str], None] | None = None) -> None:
        """bit_depth: see BitDepth. say: function that takes its messages, in place of the log."""
        self._topic = topic
        self._encoding: str | None = None
        self._bits = BitDepth(bit_depth, say or (lambda line: log.warning("%s: %s", topic, line)))

    @property
    def learns(self) -> bool:
        """True if the result for a message depends on earlier messages."""
        return self._bits.learns

    def __call__(self, message: Message) -> Frame:
        """Return the frame of a message; see `frame_of`.

        Raises FrameError if it is damaged, SourceError if its encoding is unsupported or differs from earlier ones.
        """
        return self.frame(message.decode())

    def frame(self, message: Any) -> Frame:
        """Return the frame of a decoded message. Errors as above."""
        encoding = getattr(message, "encoding", None)
        if encoding is not None:
            self._check(encoding, message)
        return frame_of(message, self._bits)

    def _check(self, encoding: str, message: Any) -> None:
        if not encoding:
            raise FrameError("an image without encoding")
        if encoding not in LAYOUTS and encoding not in PLANES:
            raise SourceError(
                f"{self._topic}: encoding {encoding[:40]!r} is not that of a colour or grey camera; "
                "choose another topic"
            )
        if self._encoding is None:
            self._encoding = encoding
        if encoding != self._encoding:
            stamp = message.header.stamp
            raise SourceError(
                f"{self._topic}: mixed encodings: {self._encoding} at first, but {encoding} at stamp "
                f"{stamp.sec}.{stamp.nanosec:09d}; record each into a topic of its own"
            )


def frame_of(message: Any, bits: Bits | None = None) -> Frame:
    """Decode a sensor_msgs Image or CompressedImage, as in the node. Raises FrameError."""
    return decode(message, bits) if hasattr(message, "encoding") else decode_compressed(message, bits)


def decode_label(message: Any) -> np.ndarray:
    """Decode (H, W) uint8 or uint16 ids, in native byte order, from a mono8 or mono16 Image.

    Raises FrameError for other messages.
    """
    encoding = getattr(message, "encoding", "compressed")
    if encoding not in ("mono8", "8UC1", "mono16", "16UC1"):
        raise FrameError(f"its encoding is {encoding[:40]!r}, not mono8 or mono16")
    ids = image_view(message)
    return ids.astype(ids.dtype.newbyteorder("="), copy=False)
