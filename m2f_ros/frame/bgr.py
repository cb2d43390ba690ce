"""Frames as BGR for people to look at, on the CPU and without torch; for the network, see m2f_ros.pipeline.colour."""

from __future__ import annotations

import cv2
import numpy as np

from m2f_ros.frame.encodings import ENCODINGS, SIXTEEN
from m2f_ros.frame.frame import Frame
from m2f_ros.frame.pictures import eight_bits

# By colours and channels of the encoding. OpenCV names a mosaic by its second row and column, ROS by its first.
_CODES = {
    ("bgr", 3): None,
    ("bgr", 4): cv2.COLOR_BGRA2BGR,
    ("rgb", 3): cv2.COLOR_RGB2BGR,
    ("rgb", 4): cv2.COLOR_RGBA2BGR,
    ("grey", 1): cv2.COLOR_GRAY2BGR,
    ("rggb", 1): cv2.COLOR_BayerBG2BGR,
    ("bggr", 1): cv2.COLOR_BayerRG2BGR,
    ("gbrg", 1): cv2.COLOR_BayerGR2BGR,
    ("grbg", 1): cv2.COLOR_BayerGB2BGR,
    ("uyvy", 2): cv2.COLOR_YUV2BGR_UYVY,
    ("yuyv", 2): cv2.COLOR_YUV2BGR_YUYV,
}


def to_8_bits(frame: Frame) -> Frame:
    """Return the frame in an encoding of 8 bits, with the values that the pipeline takes of 16 bits."""
    if frame.encoding in ENCODINGS:
        return frame
    return Frame(eight_bits(frame.data, frame.bits), SIXTEEN[frame.encoding])


def to_bgr(frame: Frame) -> np.ndarray:
    """Convert a frame to (H, W, 3) uint8 BGR. A frame in BGR gives its own data, no copy."""
    frame = to_8_bits(frame)
    encoding = ENCODINGS[frame.encoding]
    code = _CODES[encoding.colours, encoding.channels]
    return frame.data if code is None else cv2.cvtColor(np.ascontiguousarray(frame.data), code)
