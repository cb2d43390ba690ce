"""Image messages to arrays and back."""

from array import array
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2f_ros.errors import FrameError
from m2f_ros.node.messages import FRAME_LAYOUTS, LAYOUTS, decode, encode, fill, image_view
from m2f_ros.pipeline import ENCODINGS
from m2f_ros.pipeline.frame import LARGEST_SIDE


def message(width, height, encoding, step=None, data=None, is_bigendian=0):
    step = width * LAYOUTS[encoding].pixel_bytes if step is None else step
    data = bytes(step * height) if data is None else data
    return SimpleNamespace(
        header="header",
        width=width,
        height=height,
        encoding=encoding,
        step=step,
        is_bigendian=is_bigendian,
        data=array("B", data),
    )


def image_of(encoding, height, width, seed=0):
    layout = LAYOUTS[encoding]
    shape = (height, width) if layout.channels == 1 else (height, width, layout.channels)
    dtype = np.dtype(f"u{layout.bytes_per_channel}")
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def test_every_encoding_of_the_pipeline_is_known():
    assert {name: layout.pixel_bytes for name, layout in FRAME_LAYOUTS.items()} == ENCODINGS


def test_decode_does_not_copy():
    image = message(4, 2, "rgb8")
    frame = decode(image)
    image.data[3] = 77
    assert frame.encoding == "rgb8"
    assert frame.data.shape == (2, 4, 3)
    assert frame.data[0, 1, 0] == 77


def test_decode_honours_row_padding():
    frame = decode(message(2, 2, "mono8", step=5, data=[1, 2, 9, 9, 9, 3, 4, 9, 9, 9]))
    assert frame.data.tolist() == [[1, 2], [3, 4]]


def test_last_row_needs_no_padding_and_more_data_is_fine():
    assert decode(message(2, 2, "mono8", step=3, data=[1, 2, 9, 3, 4])).data.tolist() == [[1, 2], [3, 4]]
    assert decode(message(1, 1, "mono8", data=[7, 8, 9])).data.tolist() == [[7]]


def test_sixteen_bit_honours_byte_order():
    data = [1, 2, 255, 255]
    assert image_view(message(2, 1, "mono16", data=data)).tolist() == [[513, 65535]]
    assert image_view(message(2, 1, "mono16", data=data, is_bigendian=1)).tolist() == [[258, 65535]]


def test_byte_order_of_eight_bit_is_ignored():
    assert decode(message(2, 1, "mono8", data=[1, 2], is_bigendian=1)).data.tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"width": 0}, ["empty", "width 0", "height 4"]),
        ({"height": 0, "data": []}, ["empty", "height 0"]),
        ({"width": LARGEST_SIDE + 1}, [f"width {LARGEST_SIDE + 1}", "too large", str(LARGEST_SIDE)]),
        ({"width": 2**32 - 1, "height": 2**32 - 1, "step": 2**32 - 1}, ["4294967295", "too large"]),
        ({"width": LARGEST_SIDE, "height": LARGEST_SIDE}, ["too large", "pixels"]),
        ({"step": 11}, ["step 11", "12 bytes"]),
        ({"step": 0}, ["step 0", "12 bytes"]),
        ({"data": bytes(47)}, ["47 bytes", "48"]),
        ({"data": b""}, ["0 bytes", "48"]),
        ({"encoding": "jpeg"}, ["'jpeg'", "rgb8", "yuv422_yuy2"]),
        ({"encoding": ""}, ["''", "rgb8"]),
        ({"encoding": "rgb8\nrgb8" + "x" * 9999}, ["'rgb8\\nrgb8x", "rgb8"]),
        ({"encoding": "mono16"}, ["'mono16'", "mono8"]),
        ({"encoding": "yuv422", "width": 3}, ["width", "3", "yuv422"]),
        ({"encoding": "bayer_rggb8", "height": 1}, ["4x1", "bayer_rggb8"]),
    ],
)
def test_bad_frames_are_named(fields, words):
    image = message(4, 4, "rgb8")
    for name, value in fields.items():
        setattr(image, name, array("B", value) if name == "data" else value)
    with pytest.raises(FrameError) as error:
        decode(image)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)


sizes = st.integers(0, 40) | st.integers(0, 2**32 - 1)


@given(
    width=sizes,
    height=sizes,
    step=sizes,
    is_bigendian=st.integers(0, 255),
    encoding=st.sampled_from([*LAYOUTS, "jpeg", "32SC1"]) | st.text(max_size=8),
    data=st.binary(max_size=4096),
)
def test_any_header_gives_the_right_view_or_a_frame_error(width, height, step, is_bigendian, encoding, data):
    image = SimpleNamespace(
        width=width,
        height=height,
        step=step,
        is_bigendian=is_bigendian,
        encoding=encoding,
        data=array("B", data),
    )
    try:
        frame = decode(image)
    except FrameError as error:
        assert str(error)
        return
    channels = FRAME_LAYOUTS[encoding].channels
    assert frame.data.shape == ((height, width) if channels == 1 else (height, width, channels))
    assert frame.data.dtype == np.uint8
    assert frame.encoding == encoding
    # The last pixel lies where the header says: the view ends inside the data.
    last = (height - 1) * step + (width - 1) * channels
    assert np.atleast_1d(frame.data[-1, -1]).tolist() == list(data[last : last + channels])


@given(
    encoding=st.sampled_from(sorted(LAYOUTS)),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    padding=st.integers(0, 7),
    is_bigendian=st.booleans(),
)
def test_round_trip_with_padding_and_byte_order(encoding, height, width, padding, is_bigendian):
    layout = LAYOUTS[encoding]
    image = image_of(encoding, height, width)
    sent = fill(SimpleNamespace(), image, encoding, "header")
    assert (sent.width, sent.height, sent.encoding, sent.header) == (width, height, encoding, "header")
    assert sent.step == width * layout.pixel_bytes and len(sent.data) == sent.step * height
    np.testing.assert_array_equal(image_view(sent), image)

    wire = image.astype(image.dtype.newbyteorder(">" if is_bigendian else "<"))
    rows = np.frombuffer(wire.tobytes(), np.uint8).reshape(height, sent.step)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=170)
    padded = message(width, height, encoding, sent.step + padding, rows.tobytes(), int(is_bigendian))
    np.testing.assert_array_equal(image_view(padded), image)


def test_encode_takes_a_strided_array():
    image = image_of("bgr8", 6, 8)[::2, ::-1]
    np.testing.assert_array_equal(image_view(fill(SimpleNamespace(), image, "bgr8", None)), image)


@pytest.mark.parametrize(
    ("shape", "dtype", "encoding"),
    [
        ((4, 4), "u1", "bgr8"),
        ((4, 4, 3), "u1", "mono8"),
        ((4, 4), "u2", "mono8"),
        ((4, 4), "u1", "mono16"),
        ((4,), "u1", "mono8"),
        ((4, 4), "f4", "mono8"),
        ((4, 4), "u1", "32SC1"),
    ],
)
def test_encode_refuses_what_is_no_image_of_the_encoding(shape, dtype, encoding):
    with pytest.raises(FrameError, match=encoding):
        fill(SimpleNamespace(), np.zeros(shape, dtype), encoding, None)


@pytest.mark.parametrize("encoding", sorted(LAYOUTS))
def test_real_messages(encoding):
    messages = pytest.importorskip("sensor_msgs.msg", reason="sensor_msgs is absent")
    header = pytest.importorskip("std_msgs.msg").Header(frame_id="camera")
    image = image_of(encoding, 4, 6)
    sent = encode(image, encoding, header)
    assert isinstance(sent, messages.Image)
    assert sent.header == header
    np.testing.assert_array_equal(image_view(sent), image)
