"""Images of a topic, decoded as the node decodes them."""

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
    """Decodes the messages of one topic. Raw images have one encoding; a JPEG may be grey and the next one not."""

    def __init__(self, topic: str, bit_depth: int = AUTO, say: Callable[[str], None] | None = None) -> None:
        """bit_depth: see BitDepth. say: gets what it says, in place of the log."""
        self._topic = topic
        self._encoding: str | None = None
        self._bits = BitDepth(bit_depth, say or (lambda line: log.warning("%s: %s", topic, line)))

    @property
    def learns(self) -> bool:
        """True where the result for a message depends on the messages before."""
        return self._bits.learns

    def __call__(self, message: Message) -> Frame:
        """The frame of a message; see `frame_of`.

        Raises FrameError where it is damaged, SourceError for an encoding that is not supported, or another than that
        of the messages before.
        """
        return self.frame(message.decode())

    def frame(self, message: Any) -> Frame:
        """The frame of a message that is decoded already. Errors as above."""
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
    """The frame of a sensor_msgs Image or CompressedImage, as the node decodes it. Raises FrameError."""
    return decode(message, bits) if hasattr(message, "encoding") else decode_compressed(message, bits)


def decode_label(message: Any) -> np.ndarray:
    """(H, W) uint8 or uint16 ids, in this machine's byte order, of a mono8 or mono16 Image.

    Raises FrameError for anything else.
    """
    encoding = getattr(message, "encoding", "compressed")
    if encoding not in ("mono8", "8UC1", "mono16", "16UC1"):
        raise FrameError(f"its encoding is {encoding[:40]!r}, not mono8 or mono16")
    ids = image_view(message)
    return ids.astype(ids.dtype.newbyteorder("="), copy=False)
