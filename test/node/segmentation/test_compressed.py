"""JPEG and PNG messages: whole files as OpenCV reads them, everything else a FrameError."""

import base64
import io
import struct
import tracemalloc
import zlib
from array import array
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from m2f_ros.errors import ConfigError, FrameError
from m2f_ros.frame.compressed import check_compressed, decode_compressed, fill_compressed
from m2f_ros.frame.frame import LARGEST_SIDE
from m2f_ros.frame.pictures import PNG, Picture
from m2f_ros.frame.pictures import png as png_chunks
from m2f_ros.frame.raw import MAX_PIXELS
from m2f_ros.node.messages import encode_compressed

# 8x8 pixels of red, as Adobe's programs write CMYK.
CMYK = base64.b64decode(
    "/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwADAgIDAgIDAwMDBAMDBAUIBQUEBAUKBwcGCAwKDAwLCgsLDQ4SEA0OEQ4LCxAWEBETFBUV"
    "FQwPFxgWFBgSFBUU/8AAFAgACAAIBEMRAE0RAFkRAEsRAP/EABQAAQAAAAAAAAAAAAAAAAAAAAn/xAAUEAEAAAAAAAAAAAAAAAAA"
    "AAAA/9oADgRDAE0AWQBLAAA/AFTFUKoqb//Z"
)


def message(data, format="jpeg"):
    return SimpleNamespace(data=array("B", data), format=format)


def empty():
    """A message to be filled."""
    return SimpleNamespace(data=array("B"))


def picture(*shape, dtype=np.uint8, seed=0):
    """Make a picture of areas and edges, as a camera sees them."""
    coarse = np.random.default_rng(seed).random((4, 5, *shape[2:]))
    scaled = cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    return (np.clip(scaled, 0, 1) * np.iinfo(dtype).max).astype(dtype)


def jpeg(image, *parameters):
    return cv2.imencode(".jpg", image, parameters)[1].tobytes()


def png(image):
    return cv2.imencode(".png", image)[1].tobytes()


def chunk(kind, data, checksum=0):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ checksum)


def handmade_png(width, height, depth, colour, lines, checksum=0, interlace=0):
    """lines: of the file, each with its filter's byte."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    return PNG + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines), checksum) + chunk(b"IEND", b"")


def with_exif_orientation(data, orientation):
    tag = struct.pack(">HHHIHHI", 1, 0x112, 3, 1, orientation, 0, 0)
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + tag
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


@pytest.mark.parametrize("parameters", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 1)])
@pytest.mark.parametrize("shape", [(37, 53, 3), (37, 53), (1, 1, 3), (1, 1)])
def test_jpeg(shape, parameters):
    data = jpeg(picture(*shape), *parameters)
    frame = decode_compressed(message(data))
    assert frame.encoding == ("bgr8" if len(shape) == 3 else "mono8")
    np.testing.assert_array_equal(frame.data, cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))


def test_jpeg_of_ink_colours():
    frame = decode_compressed(message(CMYK))
    assert frame.encoding == "bgr8"
    assert np.abs(frame.data.astype(int) - (0, 0, 255)).max() <= 2


@pytest.mark.parametrize("tail", [b"\0" * 100, b"\xff", b"garbage"])
def test_cameras_pad_their_jpegs(tail):
    data = jpeg(picture(20, 30, 3))
    expected = decode_compressed(message(data)).data
    np.testing.assert_array_equal(decode_compressed(message(data + tail)).data, expected)


def test_webcams_leave_the_usual_huffman_tables_out():
    data = jpeg(picture(20, 30, 3))
    bare = data
    while (at := bare.find(b"\xff\xc4")) >= 0:
        (length,) = struct.unpack_from(">H", bare, at + 2)
        bare = bare[:at] + bare[at + 2 + length :]
    assert len(bare) < len(data) - 400
    np.testing.assert_array_equal(decode_compressed(message(bare)).data, decode_compressed(message(data)).data)


def test_orientation_in_exif_is_ignored():
    data = jpeg(picture(20, 30, 3))
    turned = with_exif_orientation(data, 6)
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (30, 20, 3)
    np.testing.assert_array_equal(decode_compressed(message(turned)).data, decode_compressed(message(data)).data)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [(), (3,), (4,)])
def test_png_is_exact(channels, dtype):
    image = picture(37, 53, *channels, dtype=dtype)
    frame = decode_compressed(message(png(image), "png"))
    expected = image if dtype == np.uint8 else (image >> 8).astype(np.uint8)
    assert frame.encoding == ("bgr8" if channels else "mono8")
    np.testing.assert_array_equal(frame.data, expected[..., :3] if channels else expected)


@pytest.mark.parametrize(
    ("depth", "colour", "line", "expected"),
    [
        (1, 0, [0b01000000], [[0, 255, 0]]),
        (2, 0, [0b00011100], [[0, 85, 255]]),
        (8, 4, [1, 0, 2, 0, 3, 255], [[1, 2, 3]]),
        (16, 4, [1, 9, 0, 0, 2, 9, 0, 0, 3, 9, 255, 255], [[1, 2, 3]]),
    ],
)
def test_rare_kinds_of_grey_png(depth, colour, line, expected):
    frame = decode_compressed(message(handmade_png(3, 1, depth, colour, bytes([0, *line]))))
    assert frame.encoding == "mono8"
    assert frame.data.tolist() == expected


@pytest.mark.parametrize("format", [
    "", "jpeg", "JPEG", "png", "rgb8; jpeg compressed", "rgb8; jpeg compressed bgr8", "rgb8; png compressed rgb8",
    "bayer_rggb8; jpeg compressed bgr8", "h264", "x;y\n", ";",
])  # fmt: skip
def test_colours_do_not_depend_on_the_format(format):
    image = picture(6, 8, 3)
    for data, expected in ((png(image), image), (jpeg(image), cv2.imdecode(np.frombuffer(jpeg(image), np.uint8), 1))):
        frame = decode_compressed(message(data, format))
        assert frame.encoding == "bgr8"
        np.testing.assert_array_equal(frame.data, expected)


@pytest.mark.parametrize(
    ("format", "encoding"),
    [
        ("bayer_rggb8; png compressed ", "bayer_rggb8"),
        ("bayer_gbrg16; png compressed ", "bayer_gbrg8"),
        ("bayer_; png compressed ", "mono8"),
        ("mono16; png compressed ", "mono8"),
        ("16UC1; png compressed ", "mono8"),
        ("png", "mono8"),
    ],
)
def test_a_grey_png_may_be_a_mosaic(format, encoding):
    frame = decode_compressed(message(png(picture(6, 8)), format))
    assert frame.encoding == encoding
    np.testing.assert_array_equal(frame.data, picture(6, 8))


def test_a_jpeg_of_a_mosaic_is_grey():
    # compressed_image_transport removes the mosaic before it writes a JPEG.
    data = jpeg(picture(6, 8))
    assert decode_compressed(message(data, "bayer_rggb8; jpeg compressed mono8")).encoding == "mono8"


def refused(data, *words, format="jpeg"):
    with pytest.raises(FrameError) as error:
        decode_compressed(message(data, format))
    line = str(error.value)
    assert all(word in line for word in words), line
    assert "\n" not in line and len(line) < 200


WHOLE = {
    "JPEG": jpeg(picture(24, 32, 3)),
    "grey JPEG": jpeg(picture(24, 32)),
    "progressive JPEG": jpeg(picture(24, 32, 3), cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "PNG": png(picture(24, 32, 3)),
    "grey PNG": png(picture(24, 32)),
    "16 bit PNG": png(picture(24, 32, 3, dtype=np.uint16)),
}


@pytest.mark.parametrize("name", WHOLE)
def test_no_part_of_a_file_passes_for_the_whole(name):
    data = WHOLE[name]
    assert decode_compressed(message(data)).size == (24, 32)
    for length in range(len(data)):
        refused(data[:length], "" if length < 8 else "cut off" if length > 40 else name[-3:])
    refused(data[: len(data) // 2] + bytes(len(data) // 2), name.split()[-1])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", ["empty", "'jpeg'"]),
        (b"\0\0", ["begins with 00 00", "neither JPEG nor PNG"]),
        (b"RIFF....WEBP", ["52 49 46 46"]),
        (b"\xff\xd8\xff", ["JPEG is cut off after 3 bytes"]),
        (b"\xff\xd8\xff\xd9\0\0\0", ["JPEG of 7 bytes is damaged: "]),
        (b"\xff\xd8\xff\xd8\xff\xd9", ["JPEG of 6 bytes is damaged: "]),
        (b"\xff\xd8\xff\xe0\0\1\xff\xd9", ["JPEG of 8 bytes is damaged: "]),
        (b"\xff\xd8\xff\xda\0\2\xff\xd9", ["JPEG of 8 bytes is damaged: "]),
        (PNG, ["PNG is cut off after 8 bytes"]),
        (PNG + chunk(b"IDAT", b"") + chunk(b"IEND", b""), ["PNG of 32 bytes is damaged: "]),
        (handmade_png(2, 1, 8, 0, bytes(3), checksum=1), ["PNG of 2x1", "damaged", "checksum in IDAT"]),
        (handmade_png(2, 2, 8, 0, bytes(3)), ["PNG of 2x2", "damaged"]),
        (handmade_png(2, 2, 8, 0, bytes([0, 1, 2, 9, 3, 4])), ["PNG of 2x2", "damaged"]),
        (handmade_png(2, 2, 7, 0, bytes(9)), ["PNG of", "damaged"]),
        (handmade_png(0, 5, 8, 0, bytes(9)), ["is empty", "width 0", "height 5"]),
    ],
)
def test_damaged_files_are_named(data, words):
    refused(data, *words)


@pytest.mark.parametrize("place", [33, -12])
def test_any_wrong_checksum_is_damage(place):
    data = png(picture(6, 8))
    comment = chunk(b"tEXt", b"Comment\0hello")
    good = data[:place] + comment + data[place:]
    np.testing.assert_array_equal(decode_compressed(message(good)).data, picture(6, 8))
    bad = data[:place] + comment[:-1] + bytes([comment[-1] ^ 1]) + data[place:]
    refused(bad, "PNG of", "damaged")


HOLE = 1400  # bytes: what a lost packet of Ethernet holds


@pytest.mark.parametrize("parameters", [(), (cv2.IMWRITE_JPEG_RST_INTERVAL, 8)])
def test_a_jpeg_with_a_hole_is_damaged(parameters):
    noise = np.random.default_rng(1).integers(0, 12, (240, 320, 3), np.uint8)
    data = jpeg(cv2.add(picture(240, 320, 3), noise), *parameters)
    scan = data.index(b"\xff\xda") + 20
    # In some of these libjpeg finds as many blocks as there were, and nothing wrong.
    for start in np.linspace(scan, len(data) - HOLE - 2, 200).astype(int):
        refused(data[:start] + bytes(HOLE) + data[start + HOLE :], "JPEG of 320x240", "damaged")
        refused(data[:start] + data[start + HOLE :], "JPEG of 320x240", "damaged")
        refused(data[:start] + b"\xff\xd9", "JPEG of 320x240", "damaged")


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 2])
@pytest.mark.parametrize("grey", [False, True])
def test_a_flat_picture_may_be_zeros(progressive, subsampling, grey):
    image = np.zeros((480, 640) if grey else (480, 640, 3), np.uint8)
    image[:100] = picture(100, 640, *image.shape[2:])
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", optimize=True, progressive=progressive, subsampling=subsampling)
    data = file.getvalue()
    assert progressive or bytes(600) in data[data.index(b"\xff\xda") :]
    assert decode_compressed(message(data)).data[128:].max() == 0


def test_an_interlaced_png_is_read_and_may_not_end_early():
    lines = [0, 1, 0, 2, 0, 3, 4]  # the first, the sixth and the seventh pass have pixels
    whole = handmade_png(2, 2, 8, 0, bytes(lines), interlace=1)
    assert decode_compressed(message(whole)).data.tolist() == [[1, 2], [3, 4]]
    refused(handmade_png(2, 2, 8, 0, bytes(lines[:4]), interlace=1), "PNG of 2x2", "damaged")


def test_a_png_with_a_hole_is_damaged():
    data = png(picture(240, 320, 3))
    for start in np.linspace(33, len(data) - HOLE, 50).astype(int):
        refused(data[:start] + bytes(HOLE) + data[start + HOLE :], "PNG")


def test_what_shows_before_decoding_is_found_on_arrival():
    for data in (b"GIF89a", png(picture(6, 8))[:-12], jpeg(picture(6, 8))[:-2], handmade_png(99999, 1, 8, 0, b"")):
        with pytest.raises(FrameError):
            check_compressed(message(data))


def test_a_png_that_ends_opencv_is_refused():
    """Animated, with a first picture that is smaller than the file says."""
    data = base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAACGFjVEwAAAADAAAAAM7tusAAAAAASURBVDWvBh4AAAAaZmNUTAAAAAMAAAAFAAAABQ"
        "AAAAMAAAADAAEACgAA54Qd8AAAAAxJREFUeJz7/598AAAffzvFRxekEgAAAABJRU5ErkJggg=="
    )
    refused(data, "PNG", "damaged", format="png")


@pytest.mark.parametrize("kind, head", [(b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0")])
def test_text_that_unpacks_to_gigabytes_is_left_packed(kind, head):
    data = png(picture(6, 8))
    for place in (33, -12):
        packed = data[:place] + chunk(kind, head + zlib.compress(bytes(1 << 27), 9)) + data[place:]
        tracemalloc.start()
        np.testing.assert_array_equal(decode_compressed(message(packed)).data, picture(6, 8))
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data", [b"RIFF\x24\0\0\0WEBPVP8 ", b"II*\0", b"MM\0*", b"BM", b"GIF89a", b"\0\0\0\x0cjP  ", b"%!PS"]
)
def test_no_decoder_sees_what_is_neither_jpeg_nor_png(data, monkeypatch):
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr(png_chunks, "PngImageFile", lambda *_: pytest.fail("decoded"))
    refused(data, "neither JPEG nor PNG", format="png")


@pytest.mark.parametrize("format", ["h264", "H.265", "bgr8; hevc", "av1"])
def test_video_is_called_video(format):
    refused(b"\0\0\0\1g", "neither JPEG nor PNG", "video, which is not read: decode it into", format=format)


def test_the_format_in_an_error_is_short():
    refused(b"?", "neither", format="x\n" * 9999)


@pytest.mark.parametrize(
    ("width", "height", "word"),
    [
        (100000, 100000, "too large"),
        (2**31, 1, "too large"),
        (LARGEST_SIDE + 1, 1, "too large"),
        (LARGEST_SIDE, MAX_PIXELS // LARGEST_SIDE + 1, "too large"),
    ],
)
def test_an_absurd_size_is_refused_before_decoding(width, height, word, monkeypatch):
    monkeypatch.setattr(Picture, "pixels", lambda *_: pytest.fail("decoded"))
    refused(handmade_png(width, height, 8, 0, bytes(1000)), f"width {width}", f"{height}", word)
    if max(width, height) < 1 << 16:
        data = bytearray(jpeg(picture(8, 8, 3)))
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", height, width)
        refused(bytes(data), f"width {width}", f"{height}", word)


@st.composite
def damaged(draw):
    data = bytearray(WHOLE[draw(st.sampled_from(sorted(WHOLE)))])
    for _ in range(draw(st.integers(1, 8))):
        at = draw(st.integers(0, len(data) - 1))
        how = draw(st.sampled_from(["set", "remove", "insert", "cut"]))
        if how == "set":
            data[at] = draw(st.integers(0, 255))
        elif how == "remove":
            del data[at : at + draw(st.integers(1, 40))]
        elif how == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=40))
        else:
            del data[at:]
        if not data:
            break
    return bytes(data)


@settings(deadline=None, max_examples=500)
@given(data=damaged() | st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: b"\xff\xd8\xff" + tail))
def test_whatever_comes_is_a_frame_or_a_frame_error(data):
    try:
        frame = decode_compressed(message(data))
    except FrameError as error:
        assert str(error) and "\n" not in str(error)
        return
    assert frame.encoding in ("bgr8", "mono8")
    assert frame.data.size <= MAX_PIXELS * 3


@st.composite
def damaged_chunks(draw):
    """PNGs whose checksums are right."""
    data = WHOLE[draw(st.sampled_from(["PNG", "grey PNG", "16 bit PNG"]))]
    parts, at = [], len(PNG)
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], bytearray(data[at + 8 : at + 8 + length])
        if body and draw(st.booleans()):
            body[draw(st.integers(0, len(body) - 1))] = draw(st.integers(0, 255))
        parts += [chunk(kind, bytes(body))] * draw(st.sampled_from([1, 1, 1, 0, 2]))
        at += 12 + length
    return PNG + b"".join(parts)


@settings(deadline=None, max_examples=300)
@given(data=damaged_chunks())
def test_whatever_a_png_holds_is_a_frame_or_a_frame_error(data):
    try:
        frame = decode_compressed(message(data))
    except FrameError as error:
        assert str(error) and "\n" not in str(error)
        return
    assert frame.size == struct.unpack_from(">II", data, 16)[::-1]


@settings(deadline=None)
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    encoding=st.sampled_from(["mono8", "mono16", "bgr8"]),
    level=st.integers(0, 9),
    seed=st.integers(0, 99),
    strided=st.booleans(),
)
def test_png_round_trip_is_exact(height, width, encoding, level, seed, strided):
    dtype = np.uint16 if encoding == "mono16" else np.uint8
    shape = (height, width, 3) if encoding == "bgr8" else (height, width)
    image = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype)
    if strided:
        image = image[::-1, ::-1]
    written = fill_compressed(empty(), image, encoding, "header", png_level=level)
    assert written.header == "header"
    back = cv2.imdecode(np.frombuffer(written.data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, image)


@pytest.mark.parametrize(
    ("encoding", "format", "expected"),
    [
        ("mono8", "png", "mono8; png compressed "),
        ("mono16", "png", "mono16; png compressed "),
        ("bgr8", "png", "bgr8; png compressed bgr8"),
        ("mono8", "jpeg", "mono8; jpeg compressed mono8"),
        ("bgr8", "jpeg", "bgr8; jpeg compressed bgr8"),
    ],
)
def test_formats_are_those_of_image_transport(encoding, format, expected):
    dtype = np.uint16 if encoding == "mono16" else np.uint8
    image = picture(6, 8, *([3] if encoding == "bgr8" else []), dtype=dtype)
    written = fill_compressed(empty(), image, encoding, None, format)
    assert written.format == expected
    frame = decode_compressed(written)
    assert (frame.encoding, frame.size) == ("bgr8" if encoding == "bgr8" else "mono8", (6, 8))


def test_better_jpegs_are_larger_and_nearer():
    image = picture(48, 64, 3)
    sizes, errors = [], []
    for quality in (10, 50, 95):
        written = fill_compressed(empty(), image, "bgr8", None, "jpeg", quality=quality)
        sizes.append(len(written.data))
        errors.append(np.abs(decode_compressed(written).data.astype(int) - image).mean())
    assert sizes == sorted(set(sizes))
    assert errors == sorted(set(errors), reverse=True) and errors[-1] < 2


def test_areas_make_small_pngs():
    labels = picture(480, 640) // 14
    own = cv2.imencode(".png", labels, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1]
    assert len(fill_compressed(empty(), labels, "mono8", None).data) <= len(own)


@pytest.mark.parametrize(
    ("shape", "dtype", "encoding", "format", "error"),
    [
        ((4, 4), "u2", "mono16", "jpeg", "mono16.*jpeg"),
        ((4, 4, 3), "u1", "rgb8", "png", "rgb8"),
        ((4, 4), "u1", "32FC1", "png", "32FC1"),
        ((4, 4), "u1", "bgr8", "png", "bgr8"),
        ((4, 4), "u1", "mono16", "png", "mono16"),
        ((0, 4), "u1", "mono8", "png", "mono8"),
        ((2, 70000, 3), "u1", "bgr8", "jpeg", "cannot hold an image of 70000x2"),
    ],
)
def test_what_cannot_be_written_is_refused(shape, dtype, encoding, format, error):
    with pytest.raises(FrameError, match=error):
        fill_compressed(empty(), np.zeros(shape, dtype), encoding, None, format)


def test_another_format_is_refused():
    with pytest.raises(ConfigError, match=r"'tiff'; take png or jpeg"):
        fill_compressed(empty(), picture(4, 4), "mono8", None, "tiff")


@pytest.mark.parametrize("format", ["png", "jpeg"])
def test_real_messages(format):
    messages = pytest.importorskip("sensor_msgs.msg", reason="sensor_msgs is absent")
    header = pytest.importorskip("std_msgs.msg").Header(frame_id="camera")
    written = encode_compressed(picture(4, 6), "mono8", header, format)
    assert isinstance(written, messages.CompressedImage)
    assert written.header == header
    assert decode_compressed(written).size == (4, 6)
