"""Images out of a bag: every encoding that the node takes, by the node's own code."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rosbags.typesys import Stores, get_typestore

from m2f_ros.bags.image_topic import ImageDecoder, decode_label
from m2f_ros.bags.messages import COMPRESSED_IMAGE, IMAGE, Messages
from m2f_ros.bags.reader import Message, Types
from m2f_ros.errors import FrameError, SourceError
from m2f_ros.frame.bgr import to_8_bits
from m2f_ros.frame.encodings import LAYOUTS, PLANES, has_16_bits
from m2f_ros.frame.frame import Frame
from m2f_ros.frame.raw import decode

STORE = get_typestore(Stores.LATEST)
MAKE = Messages(STORE)
TYPES = Types({})
RNG = np.random.default_rng(0)


def recorded(message, kind=IMAGE):
    return Message("/image", kind, 5, bytes(STORE.serialize_cdr(message, kind)), TYPES)


def image(encoding, width=8, height=6, padding=0, big=0, data=None):
    """An image message of any bytes."""
    row = width * LAYOUTS[encoding].pixel_bytes if encoding in LAYOUTS else width
    step = row + padding
    data = RNG.integers(0, 256, step * height * 3, np.uint8) if data is None else data
    return STORE.types[IMAGE](MAKE.header(7, "front"), height, width, encoding, big, step, data)


@pytest.mark.parametrize("encoding", [name for name in LAYOUTS if has_16_bits(name)])
@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("big", [0, 1])
def test_16_bits_of_which_fewer_are_used(encoding, bits, big, caplog):
    channels = LAYOUTS[encoding].channels
    eight = np.arange(48 * channels, dtype=np.uint16).reshape(6, 8, channels) % 256
    deep = (eight << (bits - 8) | RNG.integers(0, 1 << (bits - 8), eight.shape, np.uint16)).astype("<u2")
    deep[0, 0] = 2**bits - 1
    padded = np.pad((deep.byteswap() if big else deep).view(np.uint8).reshape(6, -1), ((0, 0), (0, 6)))
    message = image(encoding, padding=6, big=big, data=padded.reshape(-1))
    for decoder in (ImageDecoder("/image"), ImageDecoder("/image", bits)):
        found = to_8_bits(decoder(recorded(message)))
        expected = deep >> (bits - 8)
        assert (found.data == (expected[..., 0] if channels < 3 else expected)).all()
        assert found.encoding == encoding.replace("16", "8").replace("UC2", "UC1")
    line = f"/image: {bits} of the 16 bits are taken as used, by the values so far; bit_depth sets another"
    assert [r.getMessage() for r in caplog.records] == [line]


@pytest.mark.parametrize("encoding", ["mono16", "16UC1", "bayer_grbg16"])
def test_a_png_of_16_bits_of_which_fewer_are_used(encoding):
    deep = np.arange(48, dtype=np.uint16).reshape(6, 8) * 87
    message = MAKE.compressed(deep, "mono16", MAKE.header(7, ""), "png")
    message.format = f"{encoding}; png compressed "
    found = to_8_bits(ImageDecoder("/image")(recorded(message, COMPRESSED_IMAGE)))
    assert (found.data == deep >> 4).all()
    assert found.encoding == (encoding.replace("16", "8") if encoding.startswith("bayer") else "mono8")


@pytest.mark.parametrize("encoding", [*LAYOUTS, *PLANES])
@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("big", [0, 1])
def test_every_encoding_is_the_nodes(encoding, padding, big):
    message = image(encoding, padding=padding, big=big)
    found, wanted = ImageDecoder("/image")(recorded(message)), decode(message)
    assert found.encoding == wanted.encoding
    assert (found.data == wanted.data).all()


@given(
    encoding=st.sampled_from([*LAYOUTS, *PLANES, "32FC1", "", "x" * 99]),
    width=st.integers(0, 2**32 - 1) | st.integers(0, 9),
    height=st.integers(0, 2**32 - 1) | st.integers(0, 9),
    step=st.integers(0, 2**32 - 1) | st.integers(0, 40),
    size=st.integers(0, 300),
)
def test_whatever_is_sent_is_a_frame_or_one_line(encoding, width, height, step, size):
    message = STORE.types[IMAGE](MAKE.header(7, ""), height, width, encoding, 0, step, np.zeros(size, np.uint8))
    try:
        frame = ImageDecoder("/image")(recorded(message))
    except (FrameError, SourceError) as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 600
    else:
        assert isinstance(frame, Frame)
        assert frame.data.shape[:2] == (height, width)


def test_compressed_images():
    picture = RNG.integers(0, 256, (6, 8, 3), np.uint8)
    decoder = ImageDecoder("/image/compressed")
    found = decoder(recorded(MAKE.compressed(picture, "bgr8", MAKE.header(7, ""), "png"), COMPRESSED_IMAGE))
    assert (found.data == picture).all()
    grey = decoder(
        recorded(MAKE.compressed(picture[..., 0].copy(), "mono8", MAKE.header(8, ""), "png"), COMPRESSED_IMAGE)
    )
    assert (grey.encoding, (grey.data == picture[..., 0]).all()) == ("mono8", True)
    data = MAKE.compressed(picture, "bgr8", MAKE.header(7, ""), "jpeg").data.tobytes()
    for broken in (b"", data[:-30], b"GIF89a"):
        with pytest.raises(FrameError):
            decoder(recorded(MAKE.compressed_file(broken, "jpeg", MAKE.header(7, "")), COMPRESSED_IMAGE))


def test_a_damaged_message_is_not_the_encoding_of_the_topic():
    decoder = ImageDecoder("/image")
    decoder(recorded(image("bgr8")))
    with pytest.raises(FrameError):
        decoder(recorded(image("bgr8", data=np.zeros(3, np.uint8))))
    decoder(recorded(image("bgr8")))
    with pytest.raises(SourceError, match=r"/image: mixed encodings: bgr8 at first, but mono16 at stamp 0\.000000007"):
        decoder(recorded(image("mono16")))
    with pytest.raises(SourceError, match="/depth: encoding '32FC1' is not that of a colour or grey camera"):
        ImageDecoder("/depth")(recorded(image("32FC1", data=np.zeros(99, np.uint8))))


@pytest.mark.parametrize("encoding", ["mono8", "8UC1", "mono16", "16UC1"])
@pytest.mark.parametrize("big", [0, 1])
def test_labels(encoding, big):
    kind = np.dtype("u1" if "8" in encoding else ">u2" if big else "<u2")
    ids = RNG.integers(0, np.iinfo(kind).max + 1, (6, 8)).astype(kind)
    message = image(encoding, data=np.frombuffer(ids.tobytes(), np.uint8), big=big)
    found = decode_label(recorded(message).decode())
    assert found.dtype == (np.uint8 if kind.itemsize == 1 else np.uint16)
    assert found.dtype.isnative
    assert (found == ids).all()


def test_what_is_no_label():
    with pytest.raises(FrameError, match="its encoding is 'bgr8', not mono8 or mono16"):
        decode_label(image("bgr8"))
    with pytest.raises(FrameError, match="its encoding is 'compressed', not mono8"):
        decode_label(SimpleNamespace(format="jpeg"))
    with pytest.raises(FrameError, match="data has 3 bytes"):
        decode_label(image("mono8", data=np.zeros(3, np.uint8)))
