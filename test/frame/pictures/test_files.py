"""Image files: what other libraries write comes back, anything else is an error in one line."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from m2f_ros.errors import FrameError
from m2f_ros.frame.pictures import PNG, SUFFIXES, bits_of, eight_bits, open_picture, read_colours, read_picture, used

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (12, 16, 3), np.uint8)
GREY = RGB[..., 0].copy()
DEEP = RNG.integers(0, 65536, (5, 7), np.uint16)
LOSSLESS = {".webp": {"lossless": True}, ".tif": {"compression": "tiff_lzw"}}


def refused(path, *words, read=read_picture):
    with pytest.raises(FrameError) as caught:
        read(path)
    line = str(caught.value)
    assert all(word in line for word in words) and "\n" not in line, line


@pytest.mark.parametrize("suffix", [s for s in SUFFIXES if s not in (".jpg", ".jpeg")])
def test_every_format_is_read(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    image = Image.fromarray(GREY if suffix == ".pgm" else RGB)
    image.save(path, **LOSSLESS.get(suffix, {}))
    expected = GREY if suffix == ".pgm" else RGB[..., ::-1]
    assert (read_picture(path) == expected).all()
    assert (read_colours(path) == (GREY[..., None] if suffix == ".pgm" else expected)).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_every_kind_of_pixels_is_read(tmp_path, mode, suffix):
    if (mode, suffix) == ("CMYK", ".png"):
        pytest.skip("PNG has no CMYK")
    image = Image.fromarray(RGB).convert(mode)
    image.save(tmp_path / f"a{suffix}")
    grey = mode in ("1", "L", "LA")
    expected = np.asarray(image.convert("L" if grey else "RGB"))
    assert (read_picture(tmp_path / f"a{suffix}") == (expected if grey else expected[..., ::-1])).all()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_grey_of_16_bits_is_exact(tmp_path, suffix):
    cv2.imwrite(str(tmp_path / f"a{suffix}"), DEEP)
    assert read_picture(tmp_path / f"a{suffix}").tolist() == DEEP.tolist()


@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_16_bits_in_a_tiff_are_exact(tmp_path, channels):
    values = RNG.integers(0, 65536, (5, 7, channels), np.uint16)
    cv2.imwrite(str(tmp_path / "a.tif"), values)
    assert read_picture(tmp_path / "a.tif").tolist() == values[..., :3].tolist()


def tiff(values, orientation=1, planes=1):
    """(H, W, 3) uint16 RGB in one strip (TIFF 6.0), or in three, one of each colour."""
    height, width, _ = values.shape
    data = (np.moveaxis(values, 2, 0) if planes == 3 else values).astype("<u2").tobytes()
    begin, part = 8 + len(data), len(data) // planes
    lists = struct.pack("<9I", *(16,) * 3, *(8 + i * part for i in range(3)), *(part,) * 3)
    tags = [(256, 1, width), (257, 1, height), (258, 3, begin), (259, 1, 1), (262, 1, 2)]
    tags += [(273, planes, begin + 12 if planes == 3 else 8), (274, 1, orientation), (277, 1, 3), (278, 1, height)]
    tags += [(279, planes, begin + 24 if planes == 3 else part), (284, 1, 2 if planes == 3 else 1)]
    entries = b"".join(struct.pack("<HHII", tag, 4, count, value) for tag, count, value in tags)
    head = struct.pack("<2sHI", b"II", 42, begin + len(lists)) + data + lists
    return head + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize("orientation, turns", [(1, 0), (3, 2), (6, -1), (8, 1)])
def test_colours_of_16_bits_in_a_tiff_are_turned_once(tmp_path, orientation, turns):
    values = RNG.integers(0, 4096, (5, 7, 3), np.uint16)
    (tmp_path / "a.tif").write_bytes(tiff(values, orientation))
    assert read_picture(tmp_path / "a.tif").tolist() == np.rot90(values[..., ::-1], turns).tolist()


def test_colours_of_16_bits_in_planes_are_refused(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(RNG.integers(0, 65536, (50, 70, 3), np.uint16), planes=3))
    with pytest.raises(FrameError, match="colours of 16 bits cannot be read; write it as PNG"):
        read_picture(tmp_path / "a.tif")


def test_colours_of_16_bits_in_a_ppm_are_exact(tmp_path):
    values = RNG.integers(0, 4096, (5, 7, 3), np.uint16)
    cv2.imwrite(str(tmp_path / "a.ppm"), values)
    assert read_picture(tmp_path / "a.ppm").tolist() == values.tolist()


def deep_png(values):
    """(H, W, 1 to 4) uint16, of 16 bits a channel."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return PNG + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_of_a_png_are_exact(channels):
    values = RNG.integers(0, 65536, (5, 7, channels), np.uint16)
    picture = open_picture(deep_png(values))
    assert picture.grey == (channels < 3)
    assert picture.pixels().tolist() == (values[..., 0] if channels < 3 else values[..., 2::-1]).tolist()
    found = picture.ids()
    assert found.tolist() == values[..., 0].tolist() if channels == 1 else found is None


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_files_are_turned_upright(tmp_path, orientation, suffix):
    path = tmp_path / f"a{suffix}"
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.fromarray(RGB).save(path, exif=exif, **({"lossless": True} if suffix == ".webp" else {}))
    with Image.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    found = read_picture(path)[..., ::-1].astype(int)
    assert found.shape == upright.shape
    assert np.abs(found - upright).max() <= (2 if suffix == ".jpg" else 0)  # another libjpeg


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_part_of_a_file_is_read_as_the_whole(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(GREY if suffix == ".pgm" else RGB).save(path, **LOSSLESS.get(suffix, {}))
    whole = path.read_bytes()
    for length in (0, 1, 20, len(whole) // 2, len(whole) - 4):
        path.write_bytes(whole[:length])
        refused(path)
        refused(path, read=read_colours)


@pytest.mark.parametrize("suffix", [".webp", ".tif"])
def test_several_pictures_in_a_file(tmp_path, suffix):
    others = [Image.fromarray(255 - RGB)]
    Image.fromarray(RGB).save(tmp_path / f"a{suffix}", save_all=True, append_images=others, **LOSSLESS[suffix])
    refused(
        tmp_path / f"a{suffix}", "it holds ", "pictures" if suffix == ".webp" else "more than one", "a file of its own"
    )


def test_what_is_no_picture(tmp_path):
    refused(tmp_path / "absent.png", "No such file")
    path = tmp_path / "a.tif"
    cv2.imwrite(str(path), np.ones((4, 4), np.float32))
    refused(path, "fraction")
    Image.fromarray(np.full((4, 4), 70000, np.int32)).save(path)
    refused(path, "32 bits", "70000")
    path.write_bytes(b"GIF89a" + bytes(50))
    refused(path, "it is none of png, jpg")


@pytest.mark.parametrize("order", "<>")
def test_used_bits(order):
    values = np.array([[0x0801, 0x0010], [0, 0x0400]], f"{order}u2")
    assert used(values) == 0x0C11
    assert used(values[:, ::-1][1:]) == 0x0400


@pytest.mark.parametrize(
    ("values", "bits"),
    [
        ([0], 16),
        ([1], 10),
        ([700, 3], 10),
        ([1023], 10),
        ([1024, 7], 12),
        ([4095], 12),
        ([4096, 1], 14),
        ([16383], 14),
        ([16384, 1], 16),
        ([65535], 16),
        (np.arange(256) << 2, 10),  # a picture of 8 bits as one of 10 or 12
        (np.arange(256) << 4, 12),
        (np.arange(256) << 8, 16),
        (np.arange(1024) << 6, 16),  # 10 and 12 bits at the high end, bright and dark
        (np.arange(4096) << 4, 16),
        (np.arange(100) << 6, 16),
        (np.arange(60) << 4, 16),
    ],
)
def test_bits_by_values(values, bits):
    assert bits_of(used(np.asarray(values, np.uint16)[None])) == bits


def test_files_of_fewer_bits_are_not_black(tmp_path):
    for bits in (10, 12, 16):
        ramp = np.linspace(0, 2**bits - 1, 256).round().astype(np.uint16).reshape(16, 16)
        assert eight_bits(ramp, bits).ravel().tolist() == (ramp.ravel() >> (bits - 8)).tolist()
        cv2.imwrite(str(tmp_path / "a.png"), ramp)
        found = read_colours(tmp_path / "a.png")
        assert found.shape == (16, 16, 3) and np.abs(found[..., 0].ravel().astype(int) - np.arange(256)).max() <= 1
    assert eight_bits(np.array([[1023, 1024, 65535]], np.uint16), 10).tolist() == [[255, 255, 255]]
