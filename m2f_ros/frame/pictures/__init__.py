"""JPEG, PNG and other image files, decoded whole or not at all: whatever is not trusted is decoded here.

OpenCV and libjpeg fill in what a file lacks and say nothing: here simplejpeg, on libjpeg-turbo, raises on its warnings,
and all checksums of a PNG are compared. `open_picture` holds the header against `MAX_PIXELS`, `MAX_BYTES` and the size
of the file before it takes memory; a decoder sees the data of its own format alone, and no more than the pixels need. A
message may hold a JPEG or a PNG; a file also the formats that `read_picture` names.
"""

from m2f_ros.frame.pictures.bits import bits_of, eight_bits, used
from m2f_ros.frame.pictures.bounds import MAX_BYTES, MAX_PIXELS
from m2f_ros.frame.pictures.files import SUFFIXES, read_bytes, read_colours, read_picture
from m2f_ros.frame.pictures.jpeg import JPEG
from m2f_ros.frame.pictures.picture import Picture, open_picture
from m2f_ros.frame.pictures.png import PNG

__all__ = [
    "JPEG",
    "MAX_BYTES",
    "MAX_PIXELS",
    "PNG",
    "SUFFIXES",
    "Picture",
    "bits_of",
    "eight_bits",
    "open_picture",
    "read_bytes",
    "read_colours",
    "read_picture",
    "used",
]
