"""Pictures for people, on the CPU and without torch; what the network sees is converted in m2f_ros.pipeline.colour."""

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
    """The same frame in an encoding of 8 bits, as the pipeline makes it of more."""
    if frame.encoding in ENCODINGS:
        return frame
    return Frame(eight_bits(frame.data, frame.bits), SIXTEEN[frame.encoding])


def to_bgr(frame: Frame) -> np.ndarray:
    """(H, W, 3) uint8 BGR of a frame of any encoding; its own data where that is BGR already."""
    frame = to_8_bits(frame)
    encoding = ENCODINGS[frame.encoding]
    code = _CODES[encoding.colours, encoding.channels]
    return frame.data if code is None else cv2.cvtColor(np.ascontiguousarray(frame.data), code)
