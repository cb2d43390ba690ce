"""Valid inputs of every kind, made when they are needed: what a fuzzer begins with."""

from __future__ import annotations

import io
import json
import struct
import tempfile
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"
RNG = np.random.default_rng(0)
RGB = cv2.resize(RNG.integers(0, 256, (4, 5, 3), np.uint8), (24, 17), interpolation=cv2.INTER_CUBIC)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def handmade_png(depth: int, colour: int, interlaced: int = 0, *extra: bytes) -> bytes:
    """5x3 pixels of zeros. extra: chunks before the rows."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    rows = bytes(3 * (1 + (5 * channels * depth + 7) // 8) + 40 * interlaced)
    header = struct.pack(">IIBBBBB", 5, 3, depth, colour, 0, 0, interlaced)
    parts = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return PNG + b"".join(parts)


def pngs() -> list[bytes]:
    found = [cv2.imencode(".png", image)[1].tobytes() for image in (RGB, RGB[..., 0], RGB.astype(np.uint16) * 257)]
    exif = Image.Exif()
    exif[0x112] = 6
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        image = Image.fromarray(RGB[..., 0].astype(np.uint16)) if mode == "I;16" else Image.fromarray(RGB).convert(mode)
        found.append(saved(image, "PNG", exif=exif))
    palette = chunk(b"PLTE", bytes(range(48)))
    kinds = [(d, c) for c, depths in ((0, (1, 2, 4, 8, 16)), (2, (8, 16)), (4, (8, 16)), (6, (8, 16))) for d in depths]
    found += [handmade_png(*kind, interlaced) for kind in kinds for interlaced in (0, 1)]
    found += [handmade_png(depth, 3, 0, palette, chunk(b"tRNS", b"\0\x80")) for depth in (1, 2, 4, 8)]
    packed = zlib.compress(bytes(1 << 16))
    text = [chunk(kind, b"a\0\0" + packed) for kind in (b"zTXt", b"iCCP")] + [chunk(b"iTXt", b"a\0\1\0\0\0" + packed)]
    frames = [
        chunk(b"acTL", struct.pack(">II", 3, 0)),
        chunk(b"fcTL", struct.pack(">5I2H2B", 0, 5, 5, 3, 3, 1, 10, 0, 0)),
    ]
    return [*found, handmade_png(8, 2, 0, *text), handmade_png(8, 2, 0, *frames)]


def jpegs() -> list[bytes]:
    found = []
    for progressive in (False, True):
        for subsampling in (0, 1, 2):
            found.append(saved(Image.fromarray(RGB), "JPEG", progressive=progressive, subsampling=subsampling))
        found += [saved(Image.fromarray(RGB).convert(m), "JPEG", progressive=progressive) for m in ("L", "CMYK")]
    exif = Image.Exif()
    exif[0x112] = 8
    found.append(saved(Image.fromarray(RGB), "JPEG", exif=exif, comment=b"hello", restart_marker_blocks=1))
    found.append(saved(Image.fromarray(RGB * 0), "JPEG", optimize=True, quality=1))
    return found


def files() -> list[bytes]:
    """Pictures of the other formats that folders hold."""
    image, grey = Image.fromarray(RGB), Image.fromarray(RGB[..., 0])
    found = [saved(i, kind) for i in (image, grey) for kind in ("BMP", "TIFF", "WEBP", "PPM")]
    found += [saved(image, "TIFF", compression=c) for c in ("tiff_lzw", "tiff_adobe_deflate", "packbits")]
    found += [saved(image, "WEBP", lossless=True), saved(image.convert("P"), "BMP"), saved(grey.convert("1"), "PPM")]
    found += [cv2.imencode(suffix, RGB.astype(np.uint16) * 257)[1].tobytes() for suffix in (".tif", ".ppm")]
    return [*found, b"P1\n3 2\n1 0 1\n010\n", b"P2 # x\n2 2 100\n1 2 3 100 ", b"P3\n1 1\n1023\n1 2 1023\n"]


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def messages() -> dict[str, list[bytes]]:
    """CDR, by type."""
    from rosbags.typesys import Stores, get_typestore

    from m2f_ros import taxonomy
    from m2f_ros.bags.messages import CAMERA_INFO, COMPRESSED_IMAGE, IMAGE, LEGEND, Messages
    from m2f_ros.frame.calibration import Calibration

    store = get_typestore(Stores.LATEST)
    make = Messages(store)
    header = make.header(5, "camera")
    made = {
        IMAGE: [make.image(RGB, "bgr8", header), make.image(RGB[..., 0].astype(np.uint16), "mono16", header)],
        COMPRESSED_IMAGE: [make.compressed(RGB, "bgr8", header, kind) for kind in ("png", "jpeg")],
        CAMERA_INFO: [make.camera_info(Calibration.pinhole(24, 17, 20, 20, 12, 8), header)],
        LEGEND: [make.legend(taxonomy.get("camvid"))],
    }
    return {kind: [bytes(store.serialize_cdr(m, kind)) for m in found] for kind, found in made.items()}


def bags(storage: str) -> list[bytes]:
    """Small ones, as the file of each."""
    from m2f_ros.bags.writer import BagWriter

    found = []
    with tempfile.TemporaryDirectory() as folder:
        for compression in ("none", "chunk") if storage == "mcap" else ("none",):
            path = Path(folder) / compression
            with BagWriter(path, storage, compression) as bag:
                for kind, content in messages().items():
                    bag.add_topic(f"/{kind.rpartition('/')[2]}", kind)
                    for i, data in enumerate(content):
                        bag.write(f"/{kind.rpartition('/')[2]}", kind, data, i)
            found += [file.read_bytes() for file in path.iterdir() if file.suffix != ".yaml"]
    return found


def taxonomies() -> list[bytes]:
    from m2f_ros import taxonomy

    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("camvid", "cityscapes"):
            taxonomy.get(name).to_yaml(Path(folder) / "a.yaml")
            found.append((Path(folder) / "a.yaml").read_bytes())
    return [*found, b"classes: &a [x, *a]\n", b"name: a\nclasses:\n- {name: road, color: [1, 2, 3], id: 0}\n"]


def configs() -> list[bytes]:
    from m2f_ros import model

    folder = Path(model.__file__).parent / "weights" / "street"
    return [(folder / "config.json").read_bytes(), json.dumps({"model_type": "mask2former"}).encode()]
