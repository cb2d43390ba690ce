"""Conversion to RGB, with OpenCV as the oracle."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from m2f_ros.frame.encodings import ENCODINGS, SIXTEEN
from m2f_ros.frame.pictures import eight_bits
from m2f_ros.pipeline import Frame
from m2f_ros.pipeline.colour import narrow, to_rgb

# OpenCV names a mosaic after the 2x2 block at (1, 1), ROS after the one at (0, 0).
BAYER = {
    "bayer_rggb8": cv2.COLOR_BayerBG2RGB,
    "bayer_bggr8": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg8": cv2.COLOR_BayerGR2RGB,
    "bayer_grbg8": cv2.COLOR_BayerGB2RGB,
}


def images(heights, widths, *channels):
    return st.tuples(heights, widths).flatmap(lambda size: arrays(np.uint8, (*size, *channels)))


@pytest.mark.parametrize("encoding", BAYER)
@given(data=images(st.integers(3, 18), st.integers(3, 18)))
def test_demosaic_equals_opencv_inside(encoding, data):
    expected = cv2.cvtColor(data, BAYER[encoding])
    actual = to_rgb(torch.from_numpy(data), encoding).numpy()
    # OpenCV repeats its border pixels; here the mosaic is mirrored, so the border is demosaiced too.
    np.testing.assert_array_equal(actual[1:-1, 1:-1], expected[1:-1, 1:-1])


@pytest.mark.parametrize("encoding", BAYER)
def test_demosaic_keeps_a_plain_colour_up_to_the_border(encoding):
    colour = np.array([200, 100, 50], np.uint8)
    layout = encoding[6:10]
    mosaic = np.empty((6, 8), np.uint8)
    for i, letter in enumerate(layout):
        mosaic[i // 2 :: 2, i % 2 :: 2] = colour["rgb".index(letter)]
    rgb = to_rgb(torch.from_numpy(mosaic), encoding).numpy()
    np.testing.assert_array_equal(rgb, np.broadcast_to(colour, (6, 8, 3)))


@pytest.mark.parametrize(
    ("encoding", "code"),
    [
        ("yuv422", cv2.COLOR_YUV2RGB_UYVY),
        ("uyvy", cv2.COLOR_YUV2RGB_UYVY),
        ("yuv422_yuy2", cv2.COLOR_YUV2RGB_YUY2),
        ("yuyv", cv2.COLOR_YUV2RGB_YUY2),
    ],
)
@given(data=images(st.integers(1, 18), st.integers(1, 9).map(lambda n: 2 * n), 2))
def test_yuv422_equals_opencv(encoding, code, data):
    np.testing.assert_array_equal(to_rgb(torch.from_numpy(data), encoding).numpy(), cv2.cvtColor(data, code))


@pytest.mark.parametrize(
    ("encoding", "pixel"),
    [
        ("rgb8", (1, 2, 3)),
        ("bgr8", (3, 2, 1)),
        ("8UC3", (3, 2, 1)),
        ("rgba8", (1, 2, 3, 9)),
        ("bgra8", (3, 2, 1, 9)),
        ("8UC4", (3, 2, 1, 9)),
    ],
)
def test_channel_order(encoding, pixel):
    data = torch.tensor(pixel, dtype=torch.uint8).expand(2, 4, -1)
    assert to_rgb(data, encoding).tolist() == [[[1, 2, 3]] * 4] * 2


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_grey(encoding):
    data = torch.tensor([[7, 8]], dtype=torch.uint8)
    assert to_rgb(data, encoding).tolist() == [[[7, 7, 7], [8, 8, 8]]]


@pytest.mark.parametrize("bits", range(9, 16))
def test_fewer_of_16_bits_are_those_of_the_host(bits):
    values = np.arange(65536, dtype="<u2")
    found = narrow(torch.from_numpy(values[:, None].view(np.uint8)), bits)
    assert found.dtype == torch.uint8
    np.testing.assert_array_equal(found.numpy(), eight_bits(values, bits))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("encoding", SIXTEEN)
def test_fewer_of_16_bits_in_every_encoding(encoding, bits, order):
    rng, name = np.random.default_rng(0), SIXTEEN[encoding]
    channels = ENCODINGS[name].channels
    eight = rng.integers(0, 256, (6, 8, channels)[: 2 + (channels > 1)], np.uint8)
    deep = (eight.astype(np.uint16) << (bits - 8)) + rng.integers(0, 1 << (bits - 8), eight.shape)
    data, key = Frame(deep.astype(f"{order}u2"), encoding, bits).raw
    np.testing.assert_array_equal(to_rgb(torch.from_numpy(data.copy()), key), to_rgb(torch.from_numpy(eight), name))
