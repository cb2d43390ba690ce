"""The table of encodings of images, and what is derived of it.

Names and layouts are those of sensor_msgs/include/sensor_msgs/image_encodings.hpp; the order of colours in the
encodings that name none (8UC3) is OpenCV's, blue first.
"""

from __future__ import annotations

from typing import NamedTuple


class Encoding(NamedTuple):
    """How an encoding lies in memory.

    Attributes:
        colours: "rgb", "bgr", "grey"; "yuyv" or "uyvy", of two pixels that share their colour; of a Bayer mosaic the
            first two rows, as "rggb"; "nv" of planes.
        channels: of a pixel, 1 to 4; a fourth, and the second of grey, has no meaning.
        bits: of a channel, 8 or 16.
        shared: of planes, rows and columns of pixels that share a colour; 0: every pixel is in one place.
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


# Those of 8 bits; but for yuv and planes each has one of 16 beside it.
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
# Encodings with every pixel in one place.
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
# Encodings of frames, which the pipeline converts on the device; of two channels the first is taken, as a view.
ENCODINGS = {name: row for name, row in _EIGHT.items() if name != "8UC2"}
# The encoding of 8 bits beside each of 16 of these.
SIXTEEN = {name.replace("8", "16"): name for name in ENCODINGS if "8" in name}
# Names on the way to the device of images with fewer of 16 bits, as "mono12": the encoding of 8 bits, and the bits.
FEWER = {wide.replace("16", str(bits)): (name, bits) for wide, name in SIXTEEN.items() for bits in range(9, 16)}


def has_16_bits(encoding: str) -> bool:
    """Return True for encodings with 16 bits a channel."""
    return encoding in LAYOUTS and LAYOUTS[encoding].bits == 16


def eight_bit(encoding: str) -> str:
    """Return the encoding of 8 bits beside one of 16: rgb8 of rgb16, 8UC3 of 16UC3."""
    return encoding.replace("16", "8")
