"""Pictures for people, on the CPU and without torch; what the network sees is converted in m2f_ros.pipeline.colour."""

from __future__ import annotations

import cv2
import numpy as np

from m2f_ros.frame.encodings import ENCODINGS, SIXTEEN
from m2f_ros.frame.frame import Frame
from m2f_ros.frame.pictures import eight_bits

# OpenCV names a mosaic by its second row and column, ROS by its first.
_CODES = {
    "rgb8": cv2.COLOR_RGB2BGR,
    "rgba8": cv2.COLOR_RGBA2BGR,
    "bgra8": cv2.COLOR_BGRA2BGR,
    "8UC4": cv2.COLOR_BGRA2BGR,
    "mono8": cv2.COLOR_GRAY2BGR,
    "8UC1": cv2.COLOR_GRAY2BGR,
    "bayer_rggb8": cv2.COLOR_BayerBG2BGR,
    "bayer_bggr8": cv2.COLOR_BayerRG2BGR,
    "bayer_gbrg8": cv2.COLOR_BayerGR2BGR,
    "bayer_grbg8": cv2.COLOR_BayerGB2BGR,
    "yuv422": cv2.COLOR_YUV2BGR_UYVY,
    "uyvy": cv2.COLOR_YUV2BGR_UYVY,
    "yuv422_yuy2": cv2.COLOR_YUV2BGR_YUYV,
    "yuyv": cv2.COLOR_YUV2BGR_YUYV,
}


def to_8_bits(frame: Frame) -> Frame:
    """The same frame in an encoding of 8 bits, as the pipeline makes it of more."""
    if frame.encoding in ENCODINGS:
        return frame
    return Frame(eight_bits(frame.data, frame.bits), SIXTEEN[frame.encoding])


def to_bgr(frame: Frame) -> np.ndarray:
    """(H, W, 3) uint8 BGR of a frame of any encoding; its own data where that is BGR already."""
    frame = to_8_bits(frame)
    code = _CODES.get(frame.encoding)
    return frame.data if code is None else cv2.cvtColor(np.ascontiguousarray(frame.data), code)
