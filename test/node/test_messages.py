"""Image messages to arrays and back, with OpenCV, and cv_bridge where it is installed, as the oracles."""

from array import array
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m2f_ros.errors import FrameError
from m2f_ros.frame.encodings import LAYOUTS, PLANES
from m2f_ros.frame.frame import LARGEST_SIDE
from m2f_ros.frame.raw import MAX_PIXELS, decode, fill, image_view
from m2f_ros.node.messages import encode
from m2f_ros.pipeline.colour import to_rgb

# OpenCV's conversion of an encoding to RGB; None: it is RGB.
TO_RGB = {
    "rgb": None,
    "bgr": cv2.COLOR_BGR2RGB,
    "rgba": cv2.COLOR_RGBA2RGB,
    "bgra": cv2.COLOR_BGRA2RGB,
    "mono": cv2.COLOR_GRAY2RGB,
    "UC1": cv2.COLOR_GRAY2RGB,
    "UC3": cv2.COLOR_BGR2RGB,
    "UC4": cv2.COLOR_BGRA2RGB,
    "bayer_rggb": cv2.COLOR_BayerBG2RGB,
    "bayer_bggr": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg": cv2.COLOR_BayerGR2RGB,
    "bayer_grbg": cv2.COLOR_BayerGB2RGB,
}
PACKED_YUV = {
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
    "yuyv": cv2.COLOR_YUV2RGB_YUY2,
}
SIXTEEN_BIT = sorted(name for name, layout in LAYOUTS.items() if layout.bytes_per_channel == 2)


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


def sent(image, encoding, padding=0, is_bigendian=False):
    """The message of a camera that pads its rows with 170."""
    wire = image.astype(image.dtype.newbyteorder(">" if is_bigendian else "<"))
    rows = np.frombuffer(wire.tobytes(), np.uint8).reshape(image.shape[0], -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=170)
    height, width = image.shape[:2]
    return message(width, height, encoding, rows.shape[1], rows.tobytes(), int(is_bigendian))


def planes(encoding, height, width, padding=0, seed=0):
    """A message in two planes, its bytes and what OpenCV makes of it: y, uv (height, width, 2), message."""
    shared = PLANES[encoding].shared
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 256, (height, width), np.uint8)
    uv = rng.integers(0, 256, (height // shared, width // shared, 2), np.uint8)
    lines = uv.reshape(len(uv), -1)
    data = np.pad(y, ((0, 0), (0, padding))).tobytes()
    data += np.pad(lines, ((0, 0), (0, padding * 2 // shared))).tobytes()
    fields = SimpleNamespace(
        width=width, height=height, encoding=encoding, step=width + padding, is_bigendian=0, data=array("B", data)
    )
    return y, uv, fields


def rgb(frame):
    return to_rgb(torch.from_numpy(frame.data), frame.encoding).numpy()


def test_every_colour_or_grey_encoding_of_ros_is_known():
    """By the header that sensor_msgs installs; without one of 8 or 16 bits unsigned, a camera's picture it is not."""
    share = pytest.importorskip("ament_index_python", reason="ament_index_python is absent").get_package_share_directory
    pytest.importorskip("sensor_msgs", reason="sensor_msgs is absent")
    from pathlib import Path

    root = Path(share("sensor_msgs")).parent.parent
    found = sorted(root.glob("include/**/sensor_msgs/image_encodings.hpp"))
    if not found:
        pytest.skip("image_encodings.hpp is not installed")
    import re

    names = set(re.findall(r'^const char \w+\[\] = "(\w+)";', found[0].read_text(), re.MULTILINE))
    assert "rgb8" in names
    assert {name for name in names if not re.fullmatch(r"\d+[SF]C\d|32.*|64.*", name)} <= LAYOUTS.keys() | PLANES.keys()


def test_decode_does_not_copy():
    image = message(4, 2, "rgb8")
    frame = decode(image)
    image.data[3] = 77
    assert frame.encoding == "rgb8"
    assert frame.data.shape == (2, 4, 3)
    assert frame.data[0, 1, 0] == 77


@pytest.mark.parametrize("is_bigendian", [0, 1])
@pytest.mark.parametrize("encoding", SIXTEEN_BIT)
def test_sixteen_bit_is_its_high_byte_without_a_copy(encoding, is_bigendian):
    image = image_of(encoding, 4, 6)
    fields = sent(image, encoding, padding=3, is_bigendian=bool(is_bigendian))
    frame = decode(fields)
    channels = LAYOUTS[encoding].channels
    expected = image >> 8
    np.testing.assert_array_equal(frame.data, expected[..., 0] if channels == 2 else expected)
    assert frame.encoding == {"16UC2": "8UC1"}.get(encoding, encoding.replace("16", "8"))
    before = frame.data.flat[0]
    fields.data[1 - is_bigendian] ^= 255
    assert frame.data.flat[0] == before ^ 255


def test_two_channels_are_grey_and_something():
    frame = decode(sent(image_of("8UC2", 3, 5), "8UC2", padding=2))
    assert frame.encoding == "8UC1"
    np.testing.assert_array_equal(frame.data, image_of("8UC2", 3, 5)[..., 0])


@settings(deadline=None)
@given(
    encoding=st.sampled_from(sorted(set(LAYOUTS) - {"8UC2", "16UC2"})),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    padding=st.integers(0, 7),
    is_bigendian=st.booleans(),
    seed=st.integers(0, 99),
)
def test_colours_are_those_of_opencv(encoding, height, width, padding, is_bigendian, seed):
    image = image_of(encoding, height, width, seed)
    fields = sent(image, encoding, padding, is_bigendian)
    inside = np.s_[:, :]
    if encoding in PACKED_YUV:
        if width % 2:
            with pytest.raises(FrameError, match=f"even width, not {width}"):
                decode(fields)
            return
        expected = cv2.cvtColor(image, PACKED_YUV[encoding])
    else:
        if encoding.startswith("bayer"):
            if min(height, width) < 2:
                with pytest.raises(FrameError, match="2x2"):
                    decode(fields)
                return
            if min(height, width) < 3:
                assert rgb(decode(fields)).shape == (height, width, 3)
                return
            # OpenCV repeats its border pixels; here the mosaic is mirrored.
            inside = np.s_[1:-1, 1:-1]
        eight = (image >> 8).astype(np.uint8) if image.itemsize == 2 else image
        code = TO_RGB[encoding.removeprefix("16").removeprefix("8").removesuffix("16").removesuffix("8")]
        expected = eight if code is None else cv2.cvtColor(eight, code)
    np.testing.assert_array_equal(rgb(decode(fields))[inside], expected[inside])


@settings(deadline=None)
@given(
    encoding=st.sampled_from(["nv12", "nv21"]),
    height=st.integers(1, 5).map(lambda n: 2 * n),
    width=st.integers(1, 5).map(lambda n: 2 * n),
    padding=st.integers(0, 5),
    seed=st.integers(0, 99),
)
def test_two_planes_are_those_of_opencv(encoding, height, width, padding, seed):
    y, uv, fields = planes(encoding, height, width, padding, seed)
    code = cv2.COLOR_YUV2BGR_NV12 if encoding == "nv12" else cv2.COLOR_YUV2BGR_NV21
    frame = decode(fields)
    assert frame.encoding == "bgr8"
    one = np.vstack([y, uv.reshape(height // 2, width)])
    np.testing.assert_array_equal(frame.data, cv2.cvtColor(one, code))


@settings(deadline=None)
@given(height=st.integers(1, 9), width=st.integers(1, 9), padding=st.integers(0, 5), seed=st.integers(0, 99))
def test_nv24_is_nv12_with_a_colour_for_each_pixel(height, width, padding, seed):
    y, uv, fields = planes("nv24", height, width, padding, seed)
    # As nv12 of twice the size, in which 2x2 pixels are alike.
    big = np.vstack([y.repeat(2, 0).repeat(2, 1), uv.reshape(height, 2 * width)])
    np.testing.assert_array_equal(decode(fields).data, cv2.cvtColor(big, cv2.COLOR_YUV2BGR_NV12)[::2, ::2])


@pytest.mark.parametrize("encoding", PLANES)
def test_planes_that_are_cut_off(encoding):
    fields = planes(encoding, 4, 6)[2]
    decode(fields)
    fields.data = fields.data[:-1]
    with pytest.raises(FrameError, match=f"data has {len(fields.data)} bytes.*take {len(fields.data) + 1}"):
        decode(fields)
    fields.step = 5
    with pytest.raises(FrameError, match="step 5 is too small"):
        decode(fields)


@pytest.mark.parametrize(("width", "height"), [(3, 4), (4, 3), (1, 1)])
@pytest.mark.parametrize("encoding", ["nv12", "nv21"])
def test_planes_of_odd_size(encoding, width, height):
    fields = SimpleNamespace(
        width=width, height=height, encoding=encoding, step=8, is_bigendian=0, data=array("B", bytes(99))
    )
    with pytest.raises(FrameError, match=f"{encoding} needs an even width and height, not {width}x{height}"):
        decode(fields)


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
        ({"height": 2**31}, [f"height {2**31}", "too large"]),
        ({"width": 2**32 - 1, "height": 2**32 - 1, "step": 2**32 - 1}, ["4294967295", "too large"]),
        ({"width": LARGEST_SIDE, "height": LARGEST_SIDE}, ["too large", "pixels"]),
        ({"step": 2**32 - 1}, ["48 bytes", str(3 * (2**32 - 1) + 12)]),
        ({"step": 11}, ["step 11", "12 bytes"]),
        ({"step": 0}, ["step 0", "12 bytes"]),
        ({"data": bytes(47)}, ["47 bytes", "48"]),
        ({"data": bytes(24)}, ["24 bytes", "4 rows", "48"]),
        ({"data": b""}, ["0 bytes", "48"]),
        ({"encoding": "jpeg"}, ["'jpeg'", "rgb8", "yuv422_yuy2", "nv21"]),
        ({"encoding": "RGB8"}, ["'RGB8'", "rgb8"]),
        ({"encoding": "32FC1"}, ["'32FC1'", "mono16"]),
        ({"encoding": ""}, ["''", "rgb8"]),
        ({"encoding": "rgb8\nrgb8" + "x" * 9999}, ["'rgb8\\nrgb8x", "rgb8"]),
        ({"encoding": "yuv422", "width": 3}, ["width", "3", "yuv422"]),
        ({"encoding": "bayer_rggb8", "height": 1}, ["4x1", "bayer_rggb8"]),
        ({"encoding": "bayer_rggb16", "height": 1}, ["4x1", "bayer_rggb8"]),
        ({"encoding": "nv21", "height": 2**31, "width": 2}, [f"height {2**31}", "too large"]),
        ({"encoding": "nv24", "width": 0}, ["empty"]),
    ],
)
def test_bad_frames_are_named(fields, words):
    image = message(4, 4, "rgb8")
    for name, value in fields.items():
        setattr(image, name, array("B", value) if name == "data" else value)
    with pytest.raises(FrameError) as error:
        decode(image)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


sizes = st.integers(0, 40) | st.integers(0, 2**32 - 1)


@settings(deadline=None, max_examples=300)
@given(
    width=sizes,
    height=sizes,
    step=sizes,
    is_bigendian=st.integers(0, 255),
    encoding=st.sampled_from([*LAYOUTS, *PLANES, "jpeg", "32SC1"]) | st.text(max_size=8),
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
    assert frame.size == (height, width)
    assert frame.data.dtype == np.uint8
    if encoding in PLANES:
        return
    layout = LAYOUTS[encoding]
    # The last pixel lies where the header says: the view ends inside the data.
    last = (height - 1) * step + (width - 1) * layout.pixel_bytes
    pixel = list(data[last : last + layout.pixel_bytes])
    if layout.bytes_per_channel == 2:
        pixel = pixel[0 if is_bigendian else 1 :: 2]
    assert np.atleast_1d(frame.data[-1, -1]).tolist() == (pixel[:1] if encoding.endswith("UC2") else pixel)


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
    filled = fill(SimpleNamespace(data=array("B", b"old")), image, encoding, "header")
    assert (filled.width, filled.height, filled.encoding, filled.header) == (width, height, encoding, "header")
    assert filled.step == width * layout.pixel_bytes and len(filled.data) == filled.step * height
    np.testing.assert_array_equal(image_view(filled), image)
    np.testing.assert_array_equal(image_view(sent(image, encoding, padding, is_bigendian)), image)


def test_encode_takes_a_strided_array():
    image = image_of("bgr8", 6, 8)[::2, ::-1]
    np.testing.assert_array_equal(image_view(fill(SimpleNamespace(data=array("B")), image, "bgr8", None)), image)


@pytest.mark.parametrize(
    ("shape", "dtype", "encoding"),
    [
        ((4, 4), "u1", "bgr8"),
        ((4, 4, 3), "u1", "mono8"),
        ((4, 4), "u2", "mono8"),
        ((4, 4), "u1", "mono16"),
        ((4, 4), ">u2", "mono16"),
        ((4,), "u1", "mono8"),
        ((0, 4), "u1", "mono8"),
        ((4, 4), "f4", "mono8"),
        ((4, 4), "u1", "32SC1"),
        ((4, 4), "u1", "nv21"),
    ],
)
def test_encode_refuses_what_is_no_image_of_the_encoding(shape, dtype, encoding):
    with pytest.raises(FrameError, match=encoding):
        fill(SimpleNamespace(), np.zeros(shape, dtype), encoding, None)


def test_a_side_or_an_area_at_the_limit_is_taken():
    assert decode(message(LARGEST_SIDE, 1, "mono8")).size == (1, LARGEST_SIDE)
    assert decode(message(LARGEST_SIDE, MAX_PIXELS // LARGEST_SIDE, "mono8")).data.size == MAX_PIXELS


@pytest.mark.parametrize("encoding", sorted(LAYOUTS))
def test_real_messages(encoding):
    messages = pytest.importorskip("sensor_msgs.msg", reason="sensor_msgs is absent")
    header = pytest.importorskip("std_msgs.msg").Header(frame_id="camera")
    image = image_of(encoding, 4, 6)
    real = encode(image, encoding, header)
    assert isinstance(real, messages.Image)
    assert real.header == header
    np.testing.assert_array_equal(image_view(real), image)
    assert decode(real).size == (4, 6)


@pytest.mark.parametrize(
    ("encoding", "tolerance"),
    [
        *((name, 0) for name in ("rgb8", "bgr8", "rgba8", "bgra8", "mono8", "yuv422", "yuv422_yuy2")),
        # cv_bridge divides by 257 and rounds.
        *((name, 1) for name in ("rgb16", "bgr16", "rgba16", "bgra16", "mono16")),
    ],
)
def test_colours_are_those_of_cv_bridge(encoding, tolerance):
    bridge = pytest.importorskip("cv_bridge", reason="cv_bridge is absent").CvBridge()
    header = pytest.importorskip("std_msgs.msg", reason="std_msgs is absent").Header()
    real = encode(image_of(encoding, 4, 6), encoding, header)
    expected = bridge.imgmsg_to_cv2(real, "rgb8").astype(int)
    assert np.abs(rgb(decode(real)) - expected).max() <= tolerance
