"""Frames as the page gets them: one binary message with the image as JPEG and the ids and confidence as PNG.

    uint32, little-endian: length of the JSON
    JSON: camera, stamp (nanoseconds, text), parts {name: bytes}, ids (8 or 16 bits), problem
    the parts, in the order of `parts`: image (JPEG), label (PNG), confidence (PNG)

A label of 8 bits is a grey PNG of train ids. A browser shows 8 bits of a grey PNG of 16: those labels are RGB, with the
low byte in red and the high one in green.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import simplejpeg

from m2f_ros.bags.image_topic import decode_label, frame_of
from m2f_ros.errors import FrameError
from m2f_ros.frame.bgr import to_bgr
from m2f_ros.frame.pictures import open_picture
from m2f_ros.frame.pictures.jpeg import exif
from m2f_ros.frame.raw import Bits

QUALITY = 85  # of the JPEG
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Content:
    """The messages of one frame of a camera.

    Attributes:
        camera: name of the camera.
        stamp_ns: header stamp, nanoseconds.
        image: sensor_msgs Image or CompressedImage, of rosbags or of ROS; None without one.
        label, confidence: Image of mono8 or mono16, or a CompressedImage with such a PNG; None without one.
        bits: of images of 16 bits, see BitDepth.
        note: line for the viewer, or "".
    """

    camera: str
    stamp_ns: int
    image: Any | None = None
    label: Any | None = None
    confidence: Any | None = None
    bits: Bits | None = None
    note: str = ""


def packed(content: Content) -> bytes:
    """Encode a frame. A part that cannot be decoded is left out, and `problem` says why."""
    parts: dict[str, bytes] = {}
    problems = [content.note] if content.note else []
    bits = 8
    if content.image is not None:
        try:
            parts["image"] = jpeg_of(content.image, content.bits)
        except FrameError as error:
            problems.append(f"the image: {error}")
    for name in ("label", "confidence"):
        message = getattr(content, name)
        if message is None:
            continue
        try:
            ids = ids_of(message)
        except FrameError as error:
            problems.append(f"{name}: {error}")
            continue
        bits = 8 * ids.itemsize if name == "label" else bits
        parts[name] = png_of(ids)
    head = {
        "camera": content.camera,
        "stamp": str(content.stamp_ns),
        "parts": {name: len(part) for name, part in parts.items()},
        "ids": bits,
        "problem": "; ".join(problems),
    }
    text = json.dumps(head).encode()
    return b"".join([_LENGTH.pack(len(text)), text, *parts.values()])


def unpacked(data: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the JSON and the parts of an encoded frame."""
    (length,) = _LENGTH.unpack_from(data)
    at = _LENGTH.size + length
    head = json.loads(data[_LENGTH.size : at])
    parts = {}
    for name, size in head["parts"].items():
        parts[name] = data[at : at + size]
        at += size
    return head, parts


def jpeg_of(message: Any, bits: Bits | None = None) -> bytes:
    """Return the JPEG of an image; that of a compressed message itself, unless EXIF would turn it in the browser.

    Raises FrameError.
    """
    if not hasattr(message, "encoding"):
        data = memoryview(message.data)
        picture = open_picture(data)  # checks header and end
        if picture.kind == "JPEG" and not exif(bytes(data)):
            return bytes(data)
    bgr = to_bgr(frame_of(message, bits))
    return simplejpeg.encode_jpeg(np.ascontiguousarray(bgr), QUALITY, "BGR", "420")


def ids_of(message: Any) -> np.ndarray:
    """Return (H, W) uint8 or uint16 values of a label or confidence image. Raises FrameError."""
    if hasattr(message, "encoding"):
        return decode_label(message)
    picture = open_picture(memoryview(message.data))
    if not picture.grey or picture.kind != "PNG":
        raise FrameError("label images are grey PNGs")
    return picture.pixels()


def png_of(ids: np.ndarray) -> bytes:
    """Encode (H, W) uint8, or uint16 as low and high byte in red and green, as PNG."""
    if ids.itemsize > 1:
        low, high = (ids & 255).astype(np.uint8), (ids >> 8).astype(np.uint8)
        ids = np.dstack([np.zeros_like(low), high, low])  # OpenCV's order
    # Regions of one value: run lengths are as small as matches, and faster.
    options = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)
    done, data = cv2.imencode(".png", np.ascontiguousarray(ids), options)
    if not done:
        raise FrameError(f"no PNG holds {ids.shape[1]}x{ids.shape[0]} pixels")
    return data.tobytes()
