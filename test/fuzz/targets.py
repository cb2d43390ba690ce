"""Targets of the fuzzer: each takes any input, or refuses it by the documented error in one line.

A target is made by a function that returns (inputs to begin with, what takes one input, how to mutate one or None). It
imports what it fuzzes, so that the fuzzer sees its branches.
"""

from __future__ import annotations

import tempfile
import zlib
from array import array
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import corpus
from mutators import mutate_picture

Target = tuple[list[bytes], Callable[[bytes], None], Callable | None]

FORMATS = ("jpeg", "png", "bayer_rggb8; png compressed ", "rgb8; jpeg compressed bgr8", "h264", "x\n" * 999, "")


def compressed() -> Target:
    """CompressedImage: a frame of the size that its header says."""
    from m2f_ros.errors import FrameError
    from m2f_ros.frame.compressed import check_compressed

    def take(data: bytes) -> None:
        message = SimpleNamespace(data=array("B", data), format=FORMATS[zlib.crc32(data) % len(FORMATS)])
        try:
            frame = check_compressed(message)()
        except FrameError as error:
            check_line(error)
            return
        assert frame.data.nbytes <= 1 << 28 and frame.encoding.startswith(("bgr", "mono", "bayer_"))

    return corpus.pngs() + corpus.jpegs(), take, mutate_picture


def raw() -> Target:
    """Image: a view of its data."""
    import atheris

    from m2f_ros.bags.image_topic import ImageDecoder, decode_label
    from m2f_ros.errors import FrameError, SourceError
    from m2f_ros.frame.encodings import LAYOUTS, PLANES

    encodings = [*LAYOUTS, *PLANES]
    header = SimpleNamespace(stamp=SimpleNamespace(sec=1, nanosec=2), frame_id="x")

    def take(data: bytes) -> None:
        given = atheris.FuzzedDataProvider(data)
        small = given.ConsumeBool()
        encoding = given.PickValueInList(encodings) if given.ConsumeProbability() < 0.9 else given.ConsumeUnicode(2000)
        height, width, step = (given.ConsumeIntInRange(0, 40 if small else 2**32 - 1) for _ in range(3))
        big, pixels = given.ConsumeIntInRange(0, 255), array("B", given.ConsumeBytes(1 << 16))
        message = SimpleNamespace(
            header=header, encoding=encoding, height=height, width=width, step=step, is_bigendian=big, data=pixels
        )
        for decode in (ImageDecoder("/camera", say=lambda line: None).frame, decode_label):
            try:
                found = decode(message)
            except (FrameError, SourceError) as error:
                check_line(error)
            else:
                assert (found if decode is decode_label else found.data).shape[:2] == (height, width)

    return [bytes(range(256)) * 8, bytes(4000), b"\1" + bytes(99)], take, None


def files() -> Target:
    """Pictures of a folder, in every format."""
    from m2f_ros.errors import FrameError
    from m2f_ros.frame.pictures.files import picture_of

    def take(data: bytes) -> None:
        try:
            assert picture_of(data).nbytes <= 1 << 28
        except FrameError as error:
            check_line(error)

    return corpus.files() + corpus.pngs() + corpus.jpegs(), take, mutate_picture


def labels() -> Target:
    """Label PNGs: ids, and the palette where there is one."""
    from m2f_ros.errors import FrameError
    from m2f_ros.frame.pictures import open_picture

    def take(data: bytes) -> None:
        try:
            picture = open_picture(data)
            ids = picture.ids()
            assert ids is None or (ids.shape == (picture.height, picture.width) and ids.dtype in ("u1", "u2"))
            palette = picture.palette()
            assert palette is None or palette.shape == (len(palette), 3)
        except FrameError as error:
            check_line(error)

    return corpus.pngs(), take, mutate_picture


def cdr() -> Target:
    """Messages of a bag as they were serialised: Image, CompressedImage, CameraInfo, Legend."""
    from m2f_ros.bags.image_topic import ImageDecoder
    from m2f_ros.bags.messages import CAMERA_INFO, COMPRESSED_IMAGE, IMAGE
    from m2f_ros.bags.reader import Types
    from m2f_ros.errors import FrameError, SourceError
    from m2f_ros.frame.calibration import Calibration

    types, made = Types({}), corpus.messages()
    kinds = list(made)

    def take(data: bytes) -> None:
        if not data:
            return
        kind = kinds[data[0] % len(kinds)]
        try:
            message = types.decode(data[1:], kind, "/topic")
            if kind in (IMAGE, COMPRESSED_IMAGE):
                ImageDecoder("/topic", say=lambda line: None).frame(message)
            elif kind == CAMERA_INFO:
                Calibration.of(message)
        except (FrameError, SourceError) as error:
            check_line(error)

    return [bytes([i]) + data for i, kind in enumerate(kinds) for data in made[kind]], take, None


def mcap() -> Target:
    """Bags as MCAP."""
    return corpus.bags("mcap"), _bag("bag.mcap"), None


def sqlite() -> Target:
    """Bags as sqlite3."""
    return corpus.bags("sqlite3"), _bag("bag.db3"), None


def taxonomy() -> Target:
    """Taxonomies in YAML."""
    from m2f_ros.errors import TaxonomyError
    from m2f_ros.taxonomy import Taxonomy

    path = Path(tempfile.mkdtemp()) / "classes.yaml"

    def take(data: bytes) -> None:
        path.write_bytes(data)
        try:
            Taxonomy.from_yaml(path)
        except TaxonomyError as error:
            check_line(error)

    return corpus.taxonomies(), take, None


def config() -> Target:
    """config.json of a checkpoint."""
    from m2f_ros.errors import CheckpointError
    from m2f_ros.model import ModelConfig

    folder = Path(tempfile.mkdtemp())

    def take(data: bytes) -> None:
        (folder / "config.json").write_bytes(data)
        try:
            ModelConfig.read(folder)
        except CheckpointError as error:
            check_line(error)

    return corpus.configs(), take, None


def clouds() -> Target:
    """PointCloud2, labelled by two cameras: its own bytes stay."""
    import atheris
    import numpy as np

    from m2f_ros.errors import SpaceError
    from m2f_ros.frame.calibration import Calibration
    from m2f_ros.space.camera_model import CameraModel
    from m2f_ros.space.cloud import Cloud
    from m2f_ros.space.labelled import Labelled
    from m2f_ros.space.lidar import View, label_cloud
    from m2f_ros.space.transforms import OPTICAL, inverse, pose

    rng, size = np.random.default_rng(0), (32, 24)
    calibration = Calibration.pinhole(*size, 20.0, 20.0, 15.5, 11.5)
    views = []
    for yaw in (0.0, 0.5):
        label = rng.integers(0, 3, size[::-1], np.uint8)
        confidence, depth = rng.integers(0, 256, label.shape, np.uint8), rng.random(label.shape, np.float32) * 50
        labelled = Labelled("", 0, "", calibration, label, 255, confidence, depth=depth)
        model = CameraModel.of(calibration, size)
        views.append(View(labelled, model, inverse(pose([0, 0, 0, 0, 0, yaw]) @ OPTICAL)))
    header = SimpleNamespace(stamp=SimpleNamespace(sec=1, nanosec=2), frame_id="x")

    def take(data: bytes) -> None:
        given = atheris.FuzzedDataProvider(data)
        likely, wild = given.ConsumeProbability() < 0.9, 2**32 - 1
        height, width, step, row = (given.ConsumeIntInRange(0, 60 if likely else wild) for _ in range(4))
        fields = []
        for name in "xyzi" if given.ConsumeProbability() < 0.9 else given.ConsumeUnicode(9):
            kind = given.ConsumeIntInRange(1, 8) if likely else given.ConsumeIntInRange(0, 255)
            where = given.ConsumeIntInRange(0, max(0, step - 8) if likely else wild)
            fields.append(SimpleNamespace(name=name, offset=where, datatype=kind, count=1 if likely else kind % 4))
        message = SimpleNamespace(
            header=header,
            height=height,
            width=width,
            fields=fields,
            is_bigendian=given.ConsumeBool(),
            point_step=step,
            row_step=width * step + row if likely else row,
            is_dense=given.ConsumeBool(),
            data=array("B", given.ConsumeBytes(1 << 16).ljust(8000 if likely else 0, b"\x40")),
        )
        try:
            cloud = Cloud.of(message)
            found = label_cloud(cloud, views)
        except SpaceError as error:
            check_line(error)
            return
        assert found.fields[: len(cloud.fields)] == cloud.fields and len(found) == len(cloud)
        assert np.array_equal(found.column("camera") == 255, found.column("label") == 255)
        for point in range(min(len(cloud), 50)):
            start = point // width * cloud.row_step + point % width * step
            assert (found.data[point * found.point_step :][:step] == cloud.data[start : start + step]).all()

    whole = bytes(range(256)) * 20
    return [whole, bytes(3000), rng.normal(0, 5, 900).astype("<f4").tobytes()], take, None


def transforms() -> Target:
    """Transforms as they come: puts and lookups in any order."""
    import atheris
    import numpy as np

    from m2f_ros.space.transforms import TransformError, Transforms, from_quaternion

    def take(data: bytes) -> None:
        given, tree = atheris.FuzzedDataProvider(data), Transforms()
        names = ["a", "b", "/b", "c", "d", given.ConsumeUnicode(9)]
        while given.remaining_bytes():
            what, parent, child = (
                given.ConsumeIntInRange(0, 9),
                given.PickValueInList(names),
                given.PickValueInList(names),
            )
            stamp = given.ConsumeIntInRange(-(2**62), 2**62) if what == 9 else given.ConsumeIntInRange(0, 40) * 10**9
            try:
                if what < 5:
                    numbers = given.ConsumeRegularFloatList(6) if what == 1 else [*given.ConsumeBytes(6).ljust(6, b"1")]
                    *place, x, y, z = map(float, numbers)
                    turn = (
                        np.array([x, y, z, 1.0])
                        if what == 1
                        else np.array([x, y, z, 1.0]) / np.hypot.reduce((x, y, z, 1))
                    )
                    tree.put(parent, child, from_quaternion(place, turn.tolist()), stamp, static=what == 0)
                elif what == 5:
                    tree.clear()
                else:
                    found = tree.lookup_between(parent, stamp, child, stamp + what % 2 * 10**9, "a")
                    assert np.allclose(found[:3, :3] @ found[:3, :3].T, np.eye(3), atol=1e-6) and found.shape == (4, 4)
            except TransformError as error:
                check_line(error)

    return [bytes(range(256)) * 4, bytes(200)], take, None


def _bag(name: str) -> Callable[[bytes], None]:
    from m2f_ros.bags.reader import Bag
    from m2f_ros.errors import FrameError, SourceError

    path = Path(tempfile.mkdtemp()) / name

    def take(data: bytes) -> None:
        path.write_bytes(data)
        try:
            with Bag(path) as bag:
                for message in islice(bag.messages(), 100):
                    try:
                        message.decode()
                    except FrameError as error:
                        check_line(error)
                check_line(bag.problem)
        except SourceError as error:
            check_line(error)

    return take


def check_line(error: object) -> None:
    line = str(error)
    assert "\n" not in line and len(line) < 2000, line[:3000]


TARGETS: dict[str, Callable[[], Target]] = {
    target.__name__: target
    for target in (compressed, raw, files, labels, cdr, mcap, sqlite, taxonomy, config, clouds, transforms)
}
