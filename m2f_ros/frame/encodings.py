"""The table of the encodings of images, and tables derived from it.

Names and layouts are those of sensor_msgs/include/sensor_msgs/image_encodings.hpp; the order of colours in the
encodings that name none (8UC3) is OpenCV's, blue first.
"""

from __future__ import annotations

from typing import NamedTuple


class Encoding(NamedTuple):
    """How an encoding lies in memory.

    Attributes:
        colours: "rgb", "bgr" or "grey"; "yuyv" or "uyvy" for two pixels that share their colour; the first two rows of
            a Bayer mosaic, as "rggb"; "nv" for planes.
        channels: number of channels of a pixel, 1 to 4; a fourth, and the second of grey, has no meaning.
        bits: bits of a channel, 8 or 16.
        shared: rows and columns of pixels that share a colour, in planes; 0: the bytes of a pixel are in one place.
    """

    colours: str
    channels: int
    bits: int = 8
    shared: int = 0

    @property
    def bytes_per_channel(self) -> int:
        return self.bits // 8

    @property
    def pixel_bytes(self) -> int:
        return self.channels * self.bytes_per_channel


# Encodings of 8 bits. Each has a twin of 16 bits, except for yuv and planes.
_EIGHT = {
    "rgb8": Encoding("rgb", 3),
    "bgr8": Encoding("bgr", 3),
    "rgba8": Encoding("rgb", 4),
    "bgra8": Encoding("bgr", 4),
    "mono8": Encoding("grey", 1),
    "8UC1": Encoding("grey", 1),
    "8UC2": Encoding("grey", 2),
    "8UC3": Encoding("bgr", 3),
    "8UC4": Encoding("bgr", 4),
    "bayer_rggb8": Encoding("rggb", 1),
    "bayer_bggr8": Encoding("bggr", 1),
    "bayer_gbrg8": Encoding("gbrg", 1),
    "bayer_grbg8": Encoding("grbg", 1),
    "yuv422": Encoding("uyvy", 2),
    "uyvy": Encoding("uyvy", 2),
    "yuv422_yuy2": Encoding("yuyv", 2),
    "yuyv": Encoding("yuyv", 2),
}
# Encodings with the bytes of a pixel in one place.
LAYOUTS = {
    **_EIGHT,
    **{name.replace("8", "16"): row._replace(bits=16) for name, row in _EIGHT.items() if "8" in name},
}
# Encodings with the brightness first, then both colours in turns.
PLANES = {
    "nv12": Encoding("nv", 1, shared=2),
    "nv21": Encoding("nv", 1, shared=2),
    "nv24": Encoding("nv", 1, shared=1),
}
# Encodings of frames, which the pipeline converts on the device. An image of two channels becomes a grey frame.
ENCODINGS = {name: row for name, row in _EIGHT.items() if name != "8UC2"}
# Encoding of 16 bits -> its twin of 8 bits, for frames.
SIXTEEN = {name.replace("8", "16"): name for name in ENCODINGS if "8" in name}
# For uint16 data that uses fewer bits, as "mono12", on the way to the device: the encoding of 8 bits, and the bits.
FEWER = {wide.replace("16", str(bits)): (name, bits) for wide, name in SIXTEEN.items() for bits in range(9, 16)}


def has_16_bits(encoding: str) -> bool:
    """Return True for encodings with 16 bits a channel."""
    return encoding in LAYOUTS and LAYOUTS[encoding].bits == 16


def eight_bit(encoding: str) -> str:
    """Return the twin of 8 bits of an encoding of 16: rgb8 for rgb16, 8UC3 for 16UC3."""
    return encoding.replace("16", "8")
