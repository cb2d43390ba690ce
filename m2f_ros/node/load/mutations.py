"""Messages that no camera should send, made at random from a seed: what `m2f soak` sends beside good ones.

Structure-aware: most are nearly right, so that they get past the first check.
"""

from __future__ import annotations

import base64
import math
import random
import struct
import zlib
from array import array
from functools import cache

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from rcl_interfaces.msg import Parameter, ParameterValue
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

SIDE = 640  # pixels, of images that are good but for their changing size
LONG = 8192  # the long side of thin ones
BIG = (0, 1, 2, 3, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)
NUMBERS = (0.0, -0.0, 1.0, -1.0, 1e-308, 1e308, math.inf, -math.inf, math.nan)
ENCODINGS = (
    "mono8", "mono16", "rgb8", "bgr8", "rgba8", "bgra8", "rgb16", "bgr16", "bayer_rggb8", "bayer_gbrg16", "yuv422",
    "yuv422_yuy2", "uyvy", "nv12", "nv21", "nv24", "8UC1", "8UC3", "16UC1", "32FC1", "64FC4", "8UC2147483647", "8UC",
    "", "BGR8", "bgr8 ", "bgr8\n", "h264", "é", "x" * 5000, "16UC1; compressedDepth png", "%s%n", "../../etc/passwd",
)  # fmt: skip
FORMATS = ("jpeg", "png", "bgr8; jpeg compressed bgr8", "mono16; png compressed ", "", "webp", "16UC1; compressedDepth")
# An animated PNG with an empty IDAT, which OpenCV 4.12 to 5.0 reads beyond its memory for. (opencv#27744)
ANIMATED = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAACGFjVEwAAAADAAAAAM7tusAAAAAASURBVDWvBh4AAAAaZmNUTAAAAAMAAAAFAAAABQAAA"
    "AMAAAADAAEACgAA54Qd8AAAAAxJREFUeJz7/598AAAffzvFRxekEgAAAABJRU5ErkJggg=="
)


def odd_size(random: random.Random) -> Image:
    """A good image, seldom of a size that there was before; one of eight is thin, another small."""
    width, height = random.randint(SIDE // 2, SIDE), random.randint(SIDE // 2, SIDE)
    kind = random.randrange(8)
    if kind == 0:
        width, height = random.choice([(random.randint(1, 4), LONG), (LONG, random.randint(1, 4))])
    elif kind == 1:
        width, height = random.randint(1, 64), random.randint(1, 64)
    encoding, bytes_of_pixel = random.choice([("bgr8", 3), ("rgb8", 3), ("mono8", 1), ("bgra8", 4)])
    step = width * bytes_of_pixel + random.choice([0, 0, 1, 64])
    return Image(
        height=height, width=width, encoding=encoding, step=step, data=array("B", random.randbytes(step) * height)
    )


def odd_stamp(random: random.Random, now: int) -> Time:
    """now: nanoseconds."""
    seconds, nanoseconds = divmod(now, 10**9)
    return random.choice(
        [
            Time(),
            Time(sec=seconds, nanosec=nanoseconds),
            Time(sec=seconds - random.randint(0, 100)),
            Time(sec=seconds + random.randint(0, 100)),
            Time(sec=-(2**31), nanosec=2**32 - 1),
            Time(sec=2**31 - 1, nanosec=2**32 - 1),
            Time(sec=random.randint(-(2**31), 2**31 - 1), nanosec=random.randint(0, 2**32 - 1)),
        ]
    )


def odd_fields(random: random.Random) -> Image:
    """An Image of which one to three fields are wrong."""
    width, height = random.randint(1, 40), random.randint(1, 40)
    message = Image(height=height, width=width, encoding="bgr8", step=3 * width)
    message.data = array("B", random.randbytes(3 * width * height))
    for field in random.choices(("height", "width", "step", "encoding", "order", "data", "frame_id"), k=3):
        if field in ("height", "width", "step"):
            near = getattr(message, field) + random.randint(-2, 2)
            setattr(message, field, max(0, random.choice([*BIG, near, near])) % 2**32)
        elif field == "encoding":
            message.encoding = random.choice(ENCODINGS)
        elif field == "order":
            message.is_bigendian = random.choice([0, 1, 255])
        elif field == "data":
            message.data = array("B", random.randbytes(random.choice([0, 1, random.randint(0, 6000)])))
        else:
            message.header.frame_id = random.choice(["", "x" * random.randint(1, 3000), "a\nb", "\x1b[31m", "\u202e"])
    return message


def odd_picture(random: random.Random) -> CompressedImage:
    """A JPEG or PNG with damage, or one made to cost its reader much."""
    data = bytearray(random.choice(_pictures()))
    for _ in range(random.choice([0, 1, 1, 2, 8])):
        at = random.randrange(len(data)) if data else 0
        change = random.randrange(6)
        if change == 0:
            data = data[:at]
        elif change == 1:
            data[at : at + 1] = random.randbytes(1)
        elif change == 2:
            data[at : at + 4] = struct.pack(">I", random.choice(BIG))
        elif change == 3:
            data[at:at] = random.choice([b"\xff" * 500, bytes(500), random.randbytes(20), _chunk(b"tEXt", bytes(90))])
        elif change == 4:
            del data[at : at + random.randint(1, 600)]
        else:
            data += random.choice(_pictures())
    return CompressedImage(format=random.choice(FORMATS), data=array("B", data))


def odd_info(random: random.Random) -> CameraInfo:
    """A CameraInfo of any values."""

    def numbers(count: int) -> list[float]:
        return [random.choice([*NUMBERS, random.uniform(-1e4, 1e4)]) for _ in range(count)]

    return CameraInfo(
        header=Header(frame_id=random.choice(["", "camera", "x" * 1000])),
        height=random.choice(BIG),
        width=random.choice(BIG),
        distortion_model=random.choice(["plumb_bob", "", "x" * 2000]),
        d=numbers(random.choice([0, 5, 8, 300])),
        k=numbers(9),
        r=numbers(9),
        p=numbers(12),
        binning_x=random.choice(BIG),
        binning_y=random.choice(BIG),
        roi=RegionOfInterest(x_offset=random.choice(BIG), width=random.choice(BIG), do_rectify=True),
    )


def odd_bytes(random: random.Random, message: Image | CompressedImage | CameraInfo) -> bytes:
    """A message as it is on the wire, cut off or changed: bytes, lengths of strings and sequences, byte order.

    One of a hundred is the encapsulation alone, with padding declared, for which Fast CDR 2.3 reads beyond the message.
    """
    data = bytearray(serialize_message(message))
    if not random.randrange(100):
        return bytes((0, 1, 0, random.randint(1, 3)))
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(data)) if data else 0
        change = random.randrange(5)
        if change == 0:
            data = data[:at]
        elif change == 1:
            data[at : at + 1] = random.randbytes(1)
        elif change == 2:
            at -= at % 4  # where lengths are
            data[at : at + 4] = struct.pack("<I", random.choice(BIG))
        elif change == 3:
            data[:4] = random.randbytes(4)  # encapsulation
        else:
            data[at:at] = random.randbytes(random.randint(1, 64))
    return bytes(data)


def odd_parameter(random: random.Random) -> Parameter:
    """A parameter to set. Those that are right change nothing that a good camera's rate depends on."""
    if not random.randrange(3):
        return Parameter(name="alpha", value=ParameterValue(type=3, double_value=random.random()))
    value = ParameterValue(
        type=random.choice([0, 1, 4, 5, 6, 7, 8, 9, 10, 255]),
        string_value="x" * random.choice([0, 10, 100_000]),
        bool_value=True,
        double_array_value=[math.nan] * random.choice([0, 3, 10_000]),
        string_array_value=[random.choice(["", "person", "é" * 1000])] * random.choice([0, 1, 1000]),
    )
    names = (
        "alpha",
        "png_level",
        "jpeg_quality",
        "model",
        "max_pixels",
        "diagnostics_period",
        "",
        "x" * 50_000,
        "a..b",
    )
    return Parameter(name=random.choice(names), value=value)


@cache
def _pictures() -> list[bytes]:
    """Good ones, and some that are made to cost much; of few kilobytes each."""
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    smooth = cv2.resize(image, (64, 48), interpolation=cv2.INTER_CUBIC)

    def jpeg(array: np.ndarray, *options: int) -> bytes:
        return cv2.imencode(".jpg", array, options)[1].tobytes()

    def png(array: np.ndarray) -> bytes:
        return cv2.imencode(".png", array)[1].tobytes()

    progressive = jpeg(smooth, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    last = progressive.rfind(b"\xff\xda")
    good = png(smooth)
    return [
        jpeg(smooth),
        jpeg(smooth[..., 0]),
        progressive,
        progressive[:-2] + 300 * progressive[last:-2] + b"\xff\xd9",  # scans
        b"\xff\xd8" + 400 * b"\xff\xe1\0\2" + jpeg(smooth)[2:],  # empty segments
        b"\xff\xd8" + 4000 * b"\xff" + jpeg(smooth)[2:],  # fill bytes
        good,
        png(smooth[..., 0].astype(np.uint16) * 257),
        png(np.dstack([smooth, smooth[..., 0]])),
        good[:33] + 200 * _chunk(b"tEXt", b"a\0b") + good[33:],
        good[:8] + _chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)) + good[33:],
        good[:8] + _chunk(b"IHDR", struct.pack(">IIBBBBB", 2000, 2000, 8, 0, 0, 0, 1)) + good[33:],
        good[:33] + _chunk(b"IDAT", zlib.compress(bytes(10**7))) + good[-12:],
        ANIMATED,
        b"GIF89a" + bytes(100),
        b"RIFF\0\0\0\0WEBPVP8 " + bytes(100),
    ]


def _chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG. (W3C PNG, 5.3)"""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
