"""Pictures that are made to take memory or time: refused, or taken at the cost of their pixels, by bounds of steps."""

import io
import struct
import subprocess
import sys
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from m2f_ros.errors import FrameError
from m2f_ros.frame.pictures import MAX_BYTES, MAX_PIXELS, PNG, jpeg, open_picture, png, read_bytes
from m2f_ros.frame.pictures.exif import orientation_of
from m2f_ros.frame.pictures.files import picture_of

RGB = cv2.resize(np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8), (48, 32))
MANY = 1 << 20


def saved(image, kind, **options):
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


JPEG_FILE, PROGRESSIVE = saved(RGB, "JPEG"), saved(RGB, "JPEG", progressive=True)
PNG_FILE = saved(RGB, "PNG")
FRAME = JPEG_FILE[(_at := JPEG_FILE.index(b"\xff\xc0")) : _at + 19]
SCAN = PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") : -2]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width, height, depth, colour, rows, *before, interlaced=0):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return b"".join([PNG, chunk(b"IHDR", header), *before, chunk(b"IDAT", rows), chunk(b"IEND", b"")])


def jpeg_of(width, height, data=JPEG_FILE):
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def refused(data, *words):
    with pytest.raises(FrameError) as caught:
        open_picture(data).pixels()
    line = str(caught.value)
    assert all(word in line for word in words) and "\n" not in line and len(line) < 200, line


@pytest.fixture
def no_decoder(monkeypatch):
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr(png, "PngImageFile", lambda *_: pytest.fail("decoded"))


@pytest.mark.usefixtures("no_decoder")
@pytest.mark.parametrize("where", [2, -2])
@pytest.mark.parametrize(
    ("filling", "words"),
    [(b"\xff\xe0\0\2", "1024 segments"), (b"\xff", "1024 segments"), (b"\xff\xd0", ""), (b"\xff\xfe\0\3x", "segments")],
)
def test_no_decoder_sees_a_jpeg_of_a_million_pieces(filling, words, where):
    refused(JPEG_FILE[:where] + filling * MANY + JPEG_FILE[where:], "JPEG of", "damaged", words)


@pytest.mark.usefixtures("no_decoder")
@pytest.mark.parametrize("kind", [b"teXt", b"IDAT", b"fdAT"])
def test_no_decoder_sees_a_png_of_a_million_chunks(kind):
    refused(PNG_FILE[:33] + chunk(kind, b"") * MANY + PNG_FILE[33:], "PNG of 48x32", "too many short chunks")


@pytest.mark.usefixtures("no_decoder")
def test_scans_are_counted_by_the_pixels_that_they_go_over():
    refused(PROGRESSIVE[:-2] + SCAN * 1000 + PROGRESSIVE[-2:], "JPEG of 48x32", "more than 64 scans")
    at = PROGRESSIVE.index(b"\xff\xc2") + 5
    large = PROGRESSIVE[:at] + struct.pack(">HH", 8000, 8000) + PROGRESSIVE[at + 4 :]
    refused(large[:-2] + SCAN * 10 + bytes(MANY) + PROGRESSIVE[-2:], "JPEG of 8000x8000", "more than 10 scans")


@pytest.mark.usefixtures("no_decoder")
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (jpeg_of(0, 9), "is empty: width 0, height 9"),
        (jpeg_of(65535, 65535), f"too large: at most {MAX_PIXELS} pixels"),
        (jpeg_of(8192, 8192), "bytes are too few for 8192x8192 pixels"),
        (png_of(1 << 31, 1 << 31, 8, 2, b""), "too large"),
        (png_of(8192, 8192, 16, 6, b""), f"536870912 bytes are too many: a picture has at most {MAX_BYTES}"),
        (png_of(8192, 8192, 8, 2, bytes(1 << 16)), "bytes are too few for 8192x8192 pixels"),
        (JPEG_FILE.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), "12 bits a channel"),
        (JPEG_FILE.replace(b"\xff\xc0", b"\xff\xc3"), "lossless"),
        (JPEG_FILE.replace(b"\xff\xc0", b"\xff\xc5"), "hierarchical"),
        (JPEG_FILE.replace(b"\xff\xc0", b"\xff\xc9"), "arithmetically coded"),
        (JPEG_FILE.replace(FRAME, FRAME * 2), "two frames"),
        (png_of(8, 8, 8, 2, b"", chunk(b"IHDR", bytes(13))), "IHDR chunk is in the wrong place"),
        (png_of(8, 8, 8, 2, b"", chunk(b"CRIT", b"")), "an unknown chunk b'CRIT'"),
        (png_of(8, 8, 8, 2, b"", chunk(b"IDAT", b""), chunk(b"fcTL", b"")), "IDAT chunk is in the wrong place"),
    ],
)
def test_what_a_header_says_is_held_against_the_bounds(data, words):
    refused(data, words)


def test_a_table_of_zeros_is_damage():
    at = JPEG_FILE.index(b"\xff\xdb") + 5
    refused(JPEG_FILE[:at] + bytes(64) + JPEG_FILE[at + 64 :], "quantisation table")


def test_a_large_flat_picture_is_taken():
    """It is as small as a picture can be."""
    image = np.full((2000, 3000, 3), 128, np.uint8)
    for kind, options in (
        ("JPEG", {"optimize": True}),
        ("JPEG", {"progressive": True}),
        ("PNG", {"compress_level": 9}),
    ):
        assert (open_picture(saved(image, kind, **options)).pixels() == 128).all()


def test_an_icc_profile_of_many_segments_and_restarts_are_taken():
    data = saved(RGB, "JPEG", icc_profile=bytes(200 * 65519), restart_marker_blocks=1)
    assert open_picture(data).pixels().shape == RGB.shape


def test_looking_at_the_header_takes_no_memory_of_the_file():
    data = memoryview(JPEG_FILE[:-2] + bytes(1 << 24) + JPEG_FILE[-2:])
    tracemalloc.start()
    assert open_picture(data).width == 48
    assert tracemalloc.get_traced_memory()[1] < 1 << 16
    tracemalloc.stop()


def test_a_stream_that_does_not_end_is_unpacked_as_far_as_rows_go():
    rows = zlib.compress(bytes(1 << 26), 9)
    tracemalloc.start()
    assert not open_picture(png_of(4, 4, 8, 0, rows, interlaced=1)).pixels().any()
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()


# Files


def tiff(entries, after=b"", following=0):
    """(tag, type, number, value) of each entry."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + packed + struct.pack("<I", following) + after


def test_a_tiff_whose_tags_share_their_bytes_is_refused():
    """Pillow would read a copy of them for each tag."""
    with pytest.raises(FrameError, match="its tags are larger than the file"):
        picture_of(tiff([(tag, 1, 100_000, 8) for tag in range(1000, 6000)], bytes(100_000)))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (tiff([(273, 4, 70_000, 8)], bytes(280_000)), "70000 strips or tiles"),
        (tiff([(322, 4, 1, 1 << 30), (323, 3, 1, 1 << 15)]), "tiles of 35184372088832 pixels are too large"),
        (tiff([], bytes(9), following=8), "more than one picture"),
        (saved(RGB, "TIFF", compression="jpeg"), "compression jpeg is not read; write it as PNG"),
        (b"RIFF\x40\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\x3f\0\xff\x3f\0" + bytes(40), "too large"),
        (b"RIFF\x40\0\0\0WEBPVP8L\x0a\0\0\0\x2f\xff\xff\xff\x0f" + bytes(40), "too large"),
        (b"P6\n9000 9000\n255\n", "too large"),
        (b"P5 2 2 255 " + bytes(3), "too few values"),
        (b"P3 1 1 255 1 2 x", "something else than numbers"),
        (b"P2 1 1 9 10 ", "a value exceeds 9"),
        (b"P2 1 1 0 0 ", "largest value is 0"),
        (b"P1 2 1 1 2", "something else than 0 and 1"),
        (b"P5 " + b"#" * 10_000 + b"\n1 1 255 x", "header cannot be read"),
        (b"P5 2", "header cannot be read"),
    ],
)
def test_other_files_are_held_against_the_bounds(data, words):
    with pytest.raises(FrameError) as caught:
        picture_of(data)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("largest", [1, 100, 255, 1023, 65535])
def test_pnm(kind, largest):
    """Each kind of Netpbm, written by hand."""
    shape = (3, 5, 3) if kind in (3, 6) else (3, 5)
    values = np.random.default_rng(kind).integers(0, (1 if kind in (1, 4) else largest) + 1, shape)
    head = f"P{kind} # a comment\n5 3\n".encode() + (b"" if kind in (1, 4) else f"{largest}\n".encode())
    if kind < 4:
        body = " # another\n".join(" ".join(map(str, row.reshape(-1))) for row in values).encode()
    elif kind == 4:
        body = np.packbits(values.astype(np.uint8), axis=1).tobytes()
    else:
        body = values.astype(np.uint8 if largest < 256 else ">u2").tobytes()
    found = picture_of(head + body)
    if kind in (1, 4):
        assert found.tolist() == ((1 - values) * 255).tolist()
        return
    full = 255 if largest < 256 else 65535
    assert found.dtype == (np.uint8 if full == 255 else np.uint16)
    expected = (values * full + largest // 2) // largest
    assert found.tolist() == (expected[..., ::-1] if kind in (3, 6) else expected).tolist()


def test_what_is_no_file(tmp_path):
    with pytest.raises(FrameError, match="no regular file"):
        read_bytes(tmp_path)
    with open(tmp_path / "a", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(FrameError, match=f"{MAX_BYTES + 1} bytes are too many"):
        read_bytes(tmp_path / "a")


@pytest.mark.process
def test_no_library_writes_on_stderr_of_a_file_that_is_cut_off(tmp_path):
    """The errors say each damaged file of a folder once; libraries add nothing."""
    for i, kind in enumerate(("TIFF", "BMP", "WEBP", "PPM", "PNG", "JPEG")):
        data = saved(RGB, kind)
        (tmp_path / f"{i}").write_bytes(data[:-90])
    read = (
        "import sys; from pathlib import Path; from m2f_ros.errors import FrameError\n"
        "from m2f_ros.frame.pictures import read_picture\n"
        "for path in Path(sys.argv[1]).iterdir():\n"
        " try: read_picture(path)\n"
        " except FrameError: print(path.name)"
    )
    done = subprocess.run([sys.executable, "-c", read, tmp_path], capture_output=True, text=True)
    assert done.stderr == "" and done.returncode == 0
    assert len(done.stdout.split()) == 6


@given(data=st.binary(max_size=80) | st.binary(max_size=80).map(lambda tail: b"II*\0\x08\0\0\0" + tail))
def test_any_exif_is_an_orientation(data):
    assert orientation_of(data) in range(1, 9)


def test_the_walk_ends_where_the_picture_does():
    for tail in (b"", bytes(999), b"\xff\xd9" * 99, b"\xff\xe0" * 9999):
        assert jpeg.read_layout(PROGRESSIVE + tail, whole=True).size == len(PROGRESSIVE)
