"""Depth images: metres from every encoding that is sent, and one line for everything else."""

import struct
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rosbags.typesys import Stores, get_typestore

from m2f_ros.errors import SpaceError
from m2f_ros.space.depth import decode_compressed_depth, decode_depth

NAN = float("nan")


def message(values, encoding, padding=0, big=False):
    height, width = values.shape
    values = values.astype(values.dtype.newbyteorder(">" if big else "<"))
    rows = np.pad(np.frombuffer(values.tobytes(), np.uint8).reshape(height, -1), ((0, 0), (0, padding)))
    data = rows.tobytes()[: rows.size - padding]  # the last row need not be padded
    step = rows.shape[1]
    return SimpleNamespace(height=height, width=width, encoding=encoding, is_bigendian=int(big), step=step, data=data)


def compressed(encoding, data, transport="compressedDepth png", a=0.0, b=0.0):
    format = f"{encoding}; {transport}" if transport is not None else encoding
    return SimpleNamespace(format=format, data=struct.pack("<iff", 0, a, b) + data)


def png(values):
    return cv2.imencode(".png", values)[1].tobytes()


def rvl(values):
    """Encode as compressed_depth_image_transport does: number by number, eight nibbles a word."""
    flat, numbers, at, previous = values.ravel().tolist(), [], 0, 0
    while at < len(flat):
        zeros = next((k for k, v in enumerate(flat[at:]) if v), len(flat) - at)
        at += zeros
        others = next((k for k, v in enumerate(flat[at:]) if not v), len(flat) - at)
        numbers += [zeros, others]
        for value in flat[at : at + others]:
            difference, previous = value - previous, value
            numbers.append(difference * 2 if difference >= 0 else -difference * 2 - 1)
        at += others
    nibbles = []
    for number in numbers:
        while number > 7:
            nibbles.append(8 | number & 7)
            number >>= 3
        nibbles.append(number)
    nibbles += [0] * (-len(nibbles) % 8)
    words = [int("".join(f"{n:x}" for n in nibbles[k : k + 8]), 16) for k in range(0, len(nibbles), 8)]
    return struct.pack("<II", *values.shape[::-1]) + struct.pack(f"<{len(words)}I", *words)


sizes = hnp.array_shapes(min_dims=2, max_dims=2, max_side=20)


@given(
    values=hnp.arrays(np.uint16, sizes),
    padding=st.integers(0, 5),
    big=st.booleans(),
    name=st.sampled_from(["16UC1", "mono16"]),
)
def test_millimetres(values, padding, big, name):
    depth = decode_depth(message(values, name, padding, big))
    assert depth.dtype == np.float32 and depth.shape == values.shape
    np.testing.assert_array_equal(np.isnan(depth), values == 0)
    np.testing.assert_allclose(np.nan_to_num(depth), values / 1000, rtol=1e-6)


@given(values=hnp.arrays(np.float32, sizes), padding=st.integers(0, 5), big=st.booleans())
def test_metres(values, padding, big):
    depth = decode_depth(message(values, "32FC1", padding, big))
    known = np.isfinite(values) & (values > 0)
    np.testing.assert_array_equal(depth, np.where(known, values, np.float32(NAN)))
    assert depth.dtype == np.float32 and depth.flags.writeable


def test_messages_of_ros():
    values = np.array([[0.5, NAN], [-1, np.inf]], np.float32)
    expected = [[0.5, NAN], [NAN, NAN]]
    types = get_typestore(Stores.ROS2_KILTED).types
    data = np.frombuffer(values.tobytes(), np.uint8)
    np.testing.assert_array_equal(
        decode_depth(types["sensor_msgs/msg/Image"](None, 2, 2, "32FC1", 0, 8, data)), expected
    )
    packed = np.frombuffer(compressed("16UC1", png(np.array([[0, 7]], np.uint16))).data, np.uint8)
    depth = decode_compressed_depth(
        types["sensor_msgs/msg/CompressedImage"](None, "16UC1; compressedDepth png", packed)
    )
    np.testing.assert_allclose(depth, [[NAN, 0.007]], rtol=1e-6)
    messages = pytest.importorskip("sensor_msgs.msg", reason="sensor_msgs is absent")
    image = messages.Image(height=2, width=2, encoding="32FC1", step=8, data=values.tobytes())
    np.testing.assert_array_equal(decode_depth(image), expected)
    image = messages.CompressedImage(format="16UC1; compressedDepth png", data=packed.tobytes())
    np.testing.assert_allclose(decode_compressed_depth(image), [[NAN, 0.007]], rtol=1e-6)


@pytest.mark.parametrize("transport", ["compressedDepth png", "compressedDepth", None])
def test_compressed_millimetres(transport):
    values = np.random.default_rng(0).integers(0, 9000, (33, 47)).astype(np.uint16)
    values[3:9] = 0
    depth = decode_compressed_depth(compressed("16UC1", png(values), transport))
    np.testing.assert_array_equal(depth, decode_depth(message(values, "16UC1")))


@pytest.mark.parametrize("pack", [png, rvl])
def test_compressed_metres_are_quantised_inverse_depth(pack):
    metres = np.random.default_rng(0).uniform(0.3, 9.9, (20, 30)).astype(np.float32)
    metres[4:6] = np.nan
    nearest, most = 100.0, 10.0  # depth_quantization and depth_max of the publisher, by default
    a = nearest * (nearest + 1)
    b = 1 - a / most
    values = np.where(metres < most, a / metres + b, 0).astype(np.uint16)
    name = f"compressedDepth {pack.__name__}"
    depth = decode_compressed_depth(compressed("32FC1", pack(values), name, a, b))
    np.testing.assert_array_equal(np.isnan(depth), np.isnan(metres))
    off = np.abs(depth - metres)[~np.isnan(metres)]
    assert (off <= metres[~np.isnan(metres)] ** 2 / a * 1.01).all()  # a step of the inverse


def without_format(pack, values, a, b):
    image = compressed("16UC1", pack(values), a=a, b=b)
    image.format = ""
    return image


def test_without_a_format_the_header_before_a_png_says_what_it_is():
    values = np.array([[0, 7, 10000], [1, 2, 65535]], np.uint16)
    depth = decode_compressed_depth(without_format(png, values, 0, 0))
    np.testing.assert_array_equal(depth, decode_depth(message(values, "16UC1")))
    a, b = 10100.0, 1 - 10100.0 / 10
    same = decode_compressed_depth(compressed("32FC1", png(values), a=a, b=b))
    np.testing.assert_array_equal(decode_compressed_depth(without_format(png, values, a, b)), same)


@pytest.mark.parametrize(
    ("pack", "a", "b"), [(rvl, 0, 0), (png, 1e-30, 0.5), (png, NAN, 0), (png, 3e9, -1), (png, 0, 1), (png, -5, 0)]
)
def test_without_a_format_nothing_else_is_guessed(pack, a, b):
    with pytest.raises(SpaceError, match="has the format ''"):
        decode_compressed_depth(without_format(pack, np.ones((3, 3), np.uint16), a, b))


@given(
    values=hnp.arrays(
        np.uint16, sizes, elements=st.sampled_from([0, 1, 2, 300, 301, 40000, 65535]) | st.integers(0, 65535)
    )
)
def test_rvl(values):
    depth = decode_compressed_depth(compressed("16UC1", rvl(values), "compressedDepth rvl"))
    np.testing.assert_array_equal(depth, decode_depth(message(values, "16UC1")))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"encoding": "rgb8"}, r"encoding 'rgb8': send 16UC1 \(millimetres\) or 32FC1"),
        ({"encoding": "64FC1\n" * 50}, r"encoding '64FC1\\n"),
        ({"step": 7}, "step 7 is too small: 2 pixels of '32FC1' take 8"),
        ({"data": bytes(15)}, "data has 15 bytes: 2 rows of '32FC1' with step 8 take 16"),
        ({"width": 0}, "the image is empty"),
        ({"height": 2**31}, "is too large"),
        ({"encoding": "16UC1", "step": 3}, "step 3 is too small"),
    ],
)
def test_images_that_are_no_depth(change, says):
    image = message(np.ones((2, 2), np.float32), "32FC1")
    with pytest.raises(SpaceError, match=says) as caught:
        decode_depth(SimpleNamespace(**{**vars(image), **change}))
    assert "\n" not in str(caught.value)


GREY = np.ones((3, 3), np.uint16)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (SimpleNamespace(format="bgr8; jpeg compressed bgr8", data=bytes(50)), "format 'bgr8; jpeg compressed bgr8'"),
        (SimpleNamespace(format="16UC1; png compressed ", data=bytes(50)), "format '16UC1; png compressed '"),
        (SimpleNamespace(format="16UC1; compressedDepth png", data=bytes(12)), "12 bytes, no more than its header"),
        (compressed("16UC1", png(GREY)[:-20]), "PNG is cut off"),
        (compressed("16UC1", png(GREY.astype(np.uint8))), "its PNG holds no grey values of 16 bits"),
        (compressed("16UC1", png(np.ones((3, 3, 3), np.uint16))), "its PNG holds no grey values"),
        (compressed("16UC1", b"junk"), "neither JPEG nor PNG"),
        (compressed("16UC1", rvl(GREY)[:7], "compressedDepth rvl"), "RVL is cut off"),
        (compressed("16UC1", rvl(GREY)[:8], "compressedDepth rvl"), "RVL ends after 0 of 9 pixels"),
        (compressed("16UC1", struct.pack("<III", 1, 1, 0x07770000), "compressedDepth rvl"), "a run is longer"),
        (compressed("16UC1", struct.pack("<IIII", 3, 3, *[2**32 - 1] * 2), "compressedDepth rvl"), "RVL ends|too long"),
        (compressed("16UC1", struct.pack("<II", 2**31, 2**31), "compressedDepth rvl"), "is too large"),
    ],
)
def test_compressed_images_that_are_no_depth(image, says):
    with pytest.raises(SpaceError, match=says) as caught:
        decode_compressed_depth(image)
    assert "\n" not in str(caught.value)


@given(data=st.binary(max_size=200), kind=st.sampled_from(["png", "rvl"]))
def test_any_bytes_are_depth_or_one_line(data, kind):
    try:
        depth = decode_compressed_depth(compressed("16UC1", data, f"compressedDepth {kind}"))
    except SpaceError as error:
        assert "\n" not in str(error)
    else:
        assert depth.dtype == np.float32
