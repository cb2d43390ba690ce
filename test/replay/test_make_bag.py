"""Bags that are made: what comes back out of them is what the source is, byte for byte each time."""

import logging
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from rosbags.interfaces import QosDurability, QosReliability
from rosbags.rosbag2 import Reader

from m2f_ros import taxonomy
from m2f_ros.bags import writer as bag_module
from m2f_ros.bags.image_topic import decode_label, frame_of
from m2f_ros.bags.messages import CAMERA_INFO, IMAGE, Messages
from m2f_ros.bags.reader import Bag
from m2f_ros.bags.writer import BagWriter
from m2f_ros.cli import m2f
from m2f_ros.errors import SourceError
from m2f_ros.frame.calibration import Calibration, Region
from m2f_ros.frame.compressed import decode_compressed
from m2f_ros.replay import make_bag as make_bag_module
from m2f_ros.replay.make_bag import DriveWriter, make_bag
from m2f_ros.sources.open import open_source
from m2f_ros.sources.sample import START_NS
from m2f_ros.street import Street

RNG = np.random.default_rng(0)
CAMVID = Path(__file__).resolve().parents[3] / "shared" / "data" / "camvid"
CALIBRATION = """
image_width: 8
image_height: 6
camera_name: front
camera_matrix: {rows: 3, cols: 3, data: [500, 0, 4, 0, 510, 3, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [0.1, -0.2, 0, 0, 0]}
rectification_matrix: {rows: 3, cols: 3, data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}
projection_matrix: {rows: 3, cols: 4, data: [490, 0, 4, 0, 0, 505, 3, 0, 0, 0, 1, 0]}
"""


@pytest.fixture
def folder(tmp_path):
    """Three PNGs with CamVid labels for the first two, stamps and a calibration; the pictures."""
    pictures = RNG.integers(0, 256, (3, 6, 8, 3), np.uint8)
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for i, picture in enumerate(pictures):
        cv2.imwrite(str(tmp_path / "images" / f"f{i}.png"), picture)
    for i, value in enumerate((3, 11)):
        cv2.imwrite(str(tmp_path / "labels" / f"f{i}.png"), np.full((6, 8), value, np.uint8))
    (tmp_path / "stamps.txt").write_text("1000.5\n1000.75\n1001\n")
    (tmp_path / "camera.yaml").write_text(CALIBRATION)
    return tmp_path, pictures


def messages(path):
    """Topic -> its messages, decoded, with the time in the bag."""
    with Bag(path) as bag:
        found = {topic: [] for topic in bag.topics}
        for message in bag.messages():
            found[message.topic].append((message.log_ns, message.decode()))
    return found


def stamp(message):
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def contents(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.mark.parametrize(
    ("storage", "compression"),
    [("mcap", "none"), ("mcap", "chunk"), ("mcap", "message"), ("sqlite3", "none"), ("sqlite3", "message")],
)
def test_a_folder_with_all_that_belongs_to_it(folder, storage, compression):
    path, pictures = folder
    stamps = [1_000_500_000_000, 1_000_750_000_000, 1_001_000_000_000]
    source = open_source(
        str(path / "images"), labels=str(path / "labels"), taxonomy="camvid", stamps=str(path / "stamps.txt")
    )
    assert source.rate == 4
    counts = []
    drive = make_bag(
        source,
        path / "DRIVE",
        calibration=path / "camera.yaml",
        storage=storage,
        compression=compression,
        progress=counts.append,
    )
    assert (drive.frames, drive.labels, drive.cut, counts) == (3, 2, "", [1, 2, 3])
    found = messages(path / "DRIVE")
    assert {topic: len(each) for topic, each in found.items()} == {
        "/camera/image": 3,
        "/camera/camera_info": 3,
        "/camera/ground_truth": 2,
        "/camera/ground_truth/legend": 1,
    }
    for topic in ("/camera/image", "/camera/camera_info"):
        assert [log_ns for log_ns, _ in found[topic]] == stamps == [stamp(m) for _, m in found[topic]]
        assert {m.header.frame_id for _, m in found[topic]} == {"camera"}
    assert (np.stack([frame_of(m).data for _, m in found["/camera/image"]]) == pictures).all()
    assert [decode_label(m).tolist() for _, m in found["/camera/ground_truth"]] == [
        np.full((6, 8), value).tolist() for value in (3, 255)
    ]
    assert [stamp(m) for _, m in found["/camera/ground_truth"]] == stamps[:2]
    info = found["/camera/camera_info"][0][1]
    assert (info.width, info.height, info.distortion_model) == (8, 6, "plumb_bob")
    assert info.k.tolist() == [500, 0, 4, 0, 510, 3, 0, 0, 1]
    assert info.d.tolist() == [0.1, -0.2, 0, 0, 0]
    assert info.p.tolist() == [490, 0, 4, 0, 0, 505, 3, 0, 0, 0, 1, 0]
    legend = found["/camera/ground_truth/legend"][0][1]
    assert (legend.model, legend.taxonomy, legend.unlabelled) == ("", "camvid", 255)
    assert [(c.name, tuple(c.color)) for c in legend.classes] == [
        (c.name, c.colour) for c in taxonomy.get("camvid").classes
    ]
    # And all of it is a source again.
    source = open_source(str(path / "DRIVE"))
    assert [s.stamp_ns for s in source] == stamps
    assert next(iter(source)).calibration == Calibration(
        8,
        6,
        "plumb_bob",
        (0.1, -0.2, 0, 0, 0),
        (500, 0, 4, 0, 510, 3, 0, 0, 1),
        (1, 0, 0, 0, 1, 0, 0, 0, 1),
        (490, 0, 4, 0, 0, 505, 3, 0, 0, 0, 1, 0),
        frame_id="camera",
    )


def test_the_street_with_its_exact_instances(tmp_path):
    make_bag(open_source("street:5", frames=2, rate=5), tmp_path / "DRIVE")
    found, street = messages(tmp_path / "DRIVE"), Street(seed=5, rate=5)
    things = [c.id for c in taxonomy.get("cityscapes").classes if c.thing]
    for i in range(2):
        frame = street.frame(i)
        image, info, label, ids, segments = (
            found[f"/camera/{name}"][i][1]
            for name in ("image", "camera_info", "ground_truth", "ground_truth/panoptic", "ground_truth/segments")
        )
        assert {stamp(m) for m in (image, info, label, ids, segments)} == {START_NS + i * 200_000_000}
        assert image.encoding == "rgb8"
        assert (frame_of(image).data == frame.image).all()
        assert (decode_label(label) == frame.label).all()
        assert (info.k.reshape(3, 3) == street.camera.matrix()).all()
        assert ids.encoding == "mono16"
        ids = decode_label(ids)
        assert [s.id for s in segments.segments] == sorted(set(np.unique(ids).tolist()) - {0})
        for s in segments.segments:
            mask = ids == s.id
            assert set(frame.label[mask].tolist()) == {s.class_id}
            assert s.area == mask.sum()
            rows, columns = np.nonzero(mask)
            assert (s.x, s.y) == (columns.min(), rows.min())
            assert (s.x + s.width, s.y + s.height) == (columns.max() + 1, rows.max() + 1)
            if s.class_id in things:
                assert set(frame.instance[mask].tolist()) == {s.id}
            else:
                assert (mask == (frame.label == s.class_id)).all()
        assert (frame.instance[ids == 0] == 0).all()
    # And a source again.
    for i, sample in enumerate(open_source(str(tmp_path / "DRIVE"))):
        assert (sample.label == street.frame(i).label).all()
        assert (sample.instances == street.frame(i).instance).all()
        assert sample.calibration.matrix().tolist() == street.camera.matrix().tolist()


def test_the_same_command_gives_the_same_bytes(tmp_path):
    arguments = ["bag", "street:3", "--frames", "2", "--transport", "compressed", "--out"]
    for name in ("a", "b"):
        result = CliRunner().invoke(m2f, [*arguments, str(tmp_path / name / "DRIVE")])
        assert result.exit_code == 0, result.output
        assert "DRIVE: 2 frames, 2 of them with labels" in result.output
    first = contents(tmp_path / "a" / "DRIVE")
    assert first == contents(tmp_path / "b" / "DRIVE")
    assert first.keys() == {"metadata.yaml", "DRIVE.mcap"}


def test_files_that_are_compressed_already_pass_through(tmp_path):
    picture = cv2.GaussianBlur(RNG.integers(0, 256, (48, 64, 3), np.uint8), (9, 9), 4)
    (tmp_path / "images").mkdir()
    for name, image in (("a.jpg", picture), ("b.png", picture), ("c.bmp", picture[::-1]), ("d.png", picture[..., 0])):
        cv2.imwrite(str(tmp_path / "images" / name), image)
    # Turned by EXIF, which a message has not: written anew, upright.
    plain = (tmp_path / "images" / "a.jpg").read_bytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    (tmp_path / "images" / "e.jpg").write_bytes(
        plain[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + plain[2:]
    )
    make_bag(open_source(str(tmp_path / "images")), tmp_path / "DRIVE", transport="compressed", namespace="cam/left")
    found = [m for _, m in messages(tmp_path / "DRIVE")["/cam/left/image/compressed"]]
    data = [m.data.tobytes() for m in found]
    for i, name in enumerate(("a.jpg", "b.png", None, "d.png", None)):
        files = {path.name: path.read_bytes() for path in (tmp_path / "images").iterdir()}
        assert (data[i] == files[name]) if name else (data[i] not in files.values()), name
    assert [m.format.partition(";")[0] for m in found] == ["jpeg", "png", "bgr8", "png", "bgr8"]
    assert decode_compressed(found[4]).data.shape == (64, 48, 3)
    close = np.abs(decode_compressed(found[2]).data.astype(int) - picture[::-1]).mean()
    assert close < 3


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_instances_of_cityscapes(tmp_path, kind):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    # Road, two cars and a group of cars: label ids 7 and 26, train ids 0 and 13.
    values = np.array([[7, 26001, 26001, 26], [7, 7, 26003, 26]], np.uint16)
    classes = np.where(values >= 1000, values // 1000, values).astype(np.uint8)
    labels = classes if kind == "labelIds" else np.where(classes == 7, 0, 13).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "images" / "a_leftImg8bit.png"), np.zeros((2, 4, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "labels" / f"a_gtFine_{kind}.png"), labels)
    cv2.imwrite(str(tmp_path / "labels" / "a_gtFine_instanceIds.png"), values)
    make_bag(open_source(str(tmp_path / "images"), labels=str(tmp_path / "labels")), tmp_path / "DRIVE")
    found = messages(tmp_path / "DRIVE")
    ids = decode_label(found["/camera/ground_truth/panoptic"][0][1])
    road = 65535 - 19
    assert ids.tolist() == [[road, 1, 1, 0], [road, road, 2, 0]]
    segments = found["/camera/ground_truth/segments"][0][1].segments
    assert [(s.id, s.class_id, s.area, s.x, s.y, s.width, s.height) for s in segments] == [
        (1, 13, 2, 1, 0, 2, 1),
        (2, 13, 1, 2, 1, 1, 1),
        (road, 0, 3, 0, 0, 2, 2),
    ]
    cv2.imwrite(str(tmp_path / "labels" / "a_gtFine_instanceIds.png"), values[:1])
    with pytest.raises(SourceError, match=r"a_gtFine_instanceIds.png: 4x1, but a_gtFine_.* beside it is 4x2"):
        open_source(str(tmp_path / "images"), labels=str(tmp_path / "labels"))


def test_qos_lets_every_subscriber_match(tmp_path):
    make_bag(open_source("street", frames=1), tmp_path / "DRIVE")
    with Reader(tmp_path / "DRIVE") as reader:
        qos = {c.topic: c.ext.offered_qos_profiles[0] for c in reader.connections}
    assert {q.reliability for q in qos.values()} == {QosReliability.RELIABLE}
    latched = {topic for topic, q in qos.items() if q.durability == QosDurability.TRANSIENT_LOCAL}
    assert latched == {"/camera/ground_truth/legend"}


def test_an_interrupted_bag_is_whole(tmp_path):
    def interrupt(count):
        if count == 2:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    drive = make_bag(open_source("street"), tmp_path / "DRIVE", progress=interrupt)
    assert (drive.frames, drive.cut) == (2, "interrupted")
    assert len(list(open_source(str(tmp_path / "DRIVE")))) == 2
    assert signal.getsignal(signal.SIGINT) is before


def test_a_disk_that_fills_up_leaves_a_whole_bag(folder, monkeypatch):
    path, _ = folder
    free = iter([10**9] * 4 + [1000] * 9)
    monkeypatch.setattr(bag_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=next(free)))
    result = CliRunner().invoke(m2f, ["bag", str(path / "images"), "--out", str(path / "DRIVE")])
    assert result.exit_code == 0, result.output
    free = iter([10**9, 1000])
    result = CliRunner().invoke(m2f, ["bag", str(path / "images"), "--out", str(path / "CUT")])
    assert result.exit_code == 2
    assert "CUT: cut short: the disk is full; the bag holds the frames before" in result.output
    assert len(list(open_source(str(path / "CUT")))) == 1
    free = iter([1000])
    with pytest.raises(SourceError, match=r"FULL: cannot be written \(No space left on device\); nothing"):
        make_bag(open_source(str(path / "images")), path / "FULL")
    assert not (path / "FULL").exists()


def test_a_bag_of_some_of_the_images_does_not_pass_for_one_of_all(folder):
    path, _ = folder
    damaged = path / "images" / "f1.png"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    result = CliRunner().invoke(m2f, ["bag", str(path / "images"), "--out", str(path / "DRIVE")])
    assert result.exit_code == 2
    assert "images: f1.png is not a readable image: PNG is cut off after" in result.output
    stamps = [sample.stamp_ns - START_NS for sample in open_source(str(path / "DRIVE"))]
    assert stamps == [0, 200_000_000]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_file_system_that_fails_leaves_nothing(folder, storage):
    resource = pytest.importorskip("resource", reason="no resource limits on this system")
    path, _ = folder
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    source = open_source("street", frames=3)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, before[1]))
        with pytest.raises(SourceError, match=r"DRIVE: cannot be written \(.+\); nothing of it is left"):
            make_bag(source, path / "DRIVE", storage=storage)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (path / "DRIVE").exists()


def test_refusals_leave_nothing(folder):
    path, _ = folder
    images = str(path / "images")

    def refused(match, **options):
        with pytest.raises(SourceError, match=match):
            make_bag(open_source(images), path / "DRIVE", **options)
        assert not (path / "DRIVE").exists()

    refused("transport theora: must be raw or compressed", transport="theora")
    refused("namespace 1cam: no name of a ROS 2 namespace", namespace="1cam")
    refused("namespace : no name of a ROS 2 namespace", namespace="")
    refused("bag compression 'zip': must be none", compression="zip")
    refused("calibration .*nowhere.yaml: cannot be read", calibration=path / "nowhere.yaml")
    (path / "camera.yaml").write_text(CALIBRATION.replace("image_width: 8", "image_width: 640"))
    refused("f0: its calibration is of 640x6, it is 8x6", calibration=path / "camera.yaml")
    cv2.imwrite(str(path / "labels" / "f1.png"), np.full((3, 4), 3, np.uint8))
    with pytest.raises(SourceError, match=r"f1\.png: the label is 4x3"):
        make_bag(open_source(images, labels=str(path / "labels"), taxonomy="camvid"), path / "DRIVE")
    assert not (path / "DRIVE").exists()
    (path / "DRIVE").mkdir()
    with pytest.raises(SourceError, match="exists already"):
        make_bag(open_source(images), path / "DRIVE")
    assert (path / "DRIVE").exists()


def test_an_endless_source_has_an_end(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(make_bag_module, "make_bag", lambda source, out, **_: seen.append(source.length) or drive)
    drive = make_bag_module.MadeBag(tmp_path, 0, 0)
    assert CliRunner().invoke(m2f, ["bag", "street", "--out", str(tmp_path / "DRIVE")]).exit_code == 0
    assert seen == [100]


def test_one_camera_of_a_bag(tmp_path):
    two = tmp_path / "TWO"
    with BagWriter(two) as bag:
        for side, stamp_ns in (("left", 5), ("right", 7)):
            source = open_source("street", frames=1)
            sample = replace(next(iter(source)), log_ns=stamp_ns)
            DriveWriter(bag, source.taxonomy, namespace=f"/{side}").write(sample, stamp_ns)
    runner = CliRunner()
    result = runner.invoke(m2f, ["bag", str(two), "--out", str(tmp_path / "DRIVE")])
    assert "choose one with --topic" in str(result.exception) and not (tmp_path / "DRIVE").exists()
    result = runner.invoke(m2f, ["bag", str(two), "--topic", "/right/image", "--out", str(tmp_path / "DRIVE")])
    assert result.exit_code == 0, result.output
    assert [stamp_ns for stamp_ns, _ in messages(tmp_path / "DRIVE")["/camera/image"]] == [7]


RECTIFIED = Calibration(
    16,
    12,
    "equidistant",
    (0.1, 0.2, 0.3, 0.4),
    (500.5, 1.0, 8.0, 0.0, 510.0, 6.0, 0.0, 0.0, 1.0),
    (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0),
    (490.0, 0.0, 8.0, -60.25, 0.0, 505.0, 6.0, 0.5, 0.0, 0.0, 1.0, 0.125),
    frame_id="left_optical",
)
BINNED = replace(RECTIFIED, binning_x=2, binning_y=2)


@pytest.fixture
def stereo(tmp_path):
    """stereo(stamps of images, [(stamp, calibration)]) -> a bag of 8x6 images and these camera_infos."""

    def write(images, infos, base="/left"):
        with BagWriter(tmp_path / "STEREO") as bag:
            make = Messages(bag.types)
            for stamp_ns in images:
                picture = np.full((6, 8, 3), stamp_ns, np.uint8)
                bag.write(f"{base}/image", IMAGE, make.image(picture, "bgr8", make.header(stamp_ns, "left")), stamp_ns)
            for stamp_ns, info in infos:
                message = make.camera_info(info, make.header(stamp_ns, "left"))
                bag.write(f"{base}/camera_info", CAMERA_INFO, message, stamp_ns)
        return tmp_path / "STEREO"

    return write


def passed_on(bag, out):
    """[(stamp, calibration)] of the camera_info that `m2f bag` makes of a bag."""
    make_bag(open_source(str(bag)), out)
    found = messages(out)["/camera/camera_info"]
    assert [log_ns for log_ns, _ in found] == [stamp(m) for _, m in found]
    return [(stamp(m), Calibration.of(m)) for _, m in found]


@pytest.mark.parametrize(
    "info",
    [
        BINNED,
        replace(BINNED, distortion_model="rational_polynomial", d=(0.1,) * 8),
        replace(RECTIFIED, distortion_model="thin_prism", d=(0.5,) * 12, roi=Region(3, 4, 6, 8, True)),
        replace(BINNED, width=34, height=26, roi=Region(1, 1, 12, 16)),
    ],
)
def test_camera_info_of_a_bag_is_passed_on_unchanged(stereo, tmp_path, info, caplog):
    assert passed_on(stereo([5, 6], [(5, info), (6, info)]), tmp_path / "DRIVE") == [(5, info), (6, info)]
    assert not caplog.records


def test_each_image_has_the_camera_info_of_its_time(stereo, tmp_path):
    zoomed = replace(BINNED, k=(900.0, *BINNED.k[1:]))
    # Before the first image, one for two images, and one that comes late.
    bag = stereo([5, 6, 7, 8], [(2, BINNED), (7, zoomed)])
    assert passed_on(bag, tmp_path / "A") == [(5, BINNED), (6, BINNED), (7, zoomed), (8, zoomed)]
    shutil.rmtree(bag)
    assert passed_on(stereo([5, 6], [(6, BINNED)]), tmp_path / "B") == [(5, BINNED), (6, BINNED)]


@pytest.mark.parametrize(
    ("info", "says"),
    [
        (Calibration(0, 0, "", (), (0.0,) * 9, (0.0,) * 9, (0.0,) * 12, frame_id=""), "has no size"),
        (replace(RECTIFIED, width=8, height=6, k=(0.0,) * 9), "has a K of zeros: the camera is not calibrated"),
        (replace(BINNED, height=16), "is of 8x8, the images are 8x6, which is another shape"),
        (RECTIFIED, "is of 16x12, the images are 8x6"),
    ],
)
def test_camera_info_that_does_not_fit_is_passed_on_and_said_once(stereo, tmp_path, info, says, caplog):
    assert passed_on(stereo([5, 6], [(5, info)]), tmp_path / "DRIVE") == [(5, info), (6, info)]
    (record,) = caplog.records
    line = record.getMessage()
    assert line.startswith(f"/camera/camera_info {says}") and line.endswith("; it is passed on as it is")


def test_a_damaged_camera_info_costs_no_image(stereo, tmp_path, caplog):
    bag = stereo([5, 6], [(5, BINNED)])
    with Bag(bag) as source, BagWriter(tmp_path / "DAMAGED") as out:
        for message in source.messages():
            data = bytes(message.data[:30]) if message.type == CAMERA_INFO else message.data
            out.write(message.topic, message.type, data, message.log_ns)
    assert make_bag(open_source(str(tmp_path / "DAMAGED")), tmp_path / "DRIVE").frames == 2
    assert "/camera/camera_info" not in messages(tmp_path / "DRIVE")
    assert "skipped a camera_info: /left/camera_info: a damaged message of 30 bytes" in caplog.text


def test_depth_beside_a_camera_is_left_out(tmp_path, caplog):
    with BagWriter(tmp_path / "RGBD") as bag:
        make = Messages(bag.types)
        for topic, image, encoding in (
            ("/color/image", np.zeros((6, 8, 3), np.uint8), "rgb8"),
            ("/depth/image", np.ones((6, 8), np.uint16), "16UC1"),
        ):
            bag.write(topic, IMAGE, make.image(image, encoding, make.header(5, "camera")), 5)
    runner, rgbd = CliRunner(), str(tmp_path / "RGBD")
    result = runner.invoke(m2f, ["bag", rgbd, "--out", str(tmp_path / "DRIVE")])
    assert result.exit_code == 0, result.output
    assert [m.encoding for _, m in messages(tmp_path / "DRIVE")["/camera/image"]] == ["rgb8"]
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{rgbd}: left out (depth, other values, or no known encoding): /depth/image (16UC1); --topic /depth/image "
        "(TOPIC=/depth/image with make demo) takes it as a grey picture"
    )
    caplog.clear()
    result = runner.invoke(m2f, ["bag", rgbd, "--topic", "/depth/image", "--out", str(tmp_path / "ASKED")])
    assert result.exit_code == 0
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{rgbd} /depth/image: 10 of the 16 bits are taken as used")
    assert [m.encoding for _, m in messages(tmp_path / "ASKED")["/camera/image"]] == ["8UC1"]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_bag_keeps_its_log_times_and_stamps(tmp_path, storage):
    times = [(50, 10**9 + 7), (60, 10**9 + 5), (70, 10**9 + 9)]  # of recording, and of the header, which goes back
    with BagWriter(tmp_path / "FIRST", storage) as bag:
        make = Messages(bag.types)
        for log_ns, stamp_ns in times:
            header = make.header(stamp_ns, "front")
            bag.write(
                "/front/image", IMAGE, make.image(RNG.integers(0, 256, (6, 8, 3), np.uint8), "bgr8", header), log_ns
            )
    arguments = ["bag", str(tmp_path / "FIRST"), "--storage", storage, "--out", str(tmp_path / "SECOND")]
    result = CliRunner().invoke(m2f, arguments)
    assert result.exit_code == 0, result.output
    first, second = messages(tmp_path / "FIRST")["/front/image"], messages(tmp_path / "SECOND")["/camera/image"]
    assert [(log_ns, stamp(message)) for log_ns, message in second] == times
    assert [message.data.tolist() for _, message in second] == [message.data.tolist() for _, message in first]


def test_frames_that_are_missing_are_an_error_at_the_end(folder):
    path, _ = folder
    images = ["bag", str(path / "images"), "--out", str(path / "DRIVE")]
    assert CliRunner().invoke(m2f, images).exit_code == 0
    (file,) = (path / "DRIVE").glob("*.mcap")
    file.write_bytes(file.read_bytes()[:-500])
    (path / "DRIVE" / "metadata.yaml").unlink()
    result = CliRunner().invoke(m2f, ["bag", str(path / "DRIVE"), "--out", str(path / "AGAIN")])
    assert result.exit_code == 2
    assert f"{path}/DRIVE: DRIVE.mcap: cut off" in result.stderr
    assert len(messages(path / "AGAIN")["/camera/image"]) == 3
    result = CliRunner().invoke(m2f, ["bag", str(path / "DRIVE"), "--frames", "2", "--out", str(path / "TWO")])
    assert result.exit_code == 0, result.output
    (path / "images" / "f1.png").write_bytes(b"no picture")
    result = CliRunner().invoke(m2f, [*images[:-1], str(path / "THIRD")])
    assert (result.exit_code, "f1.png is not a readable image" in result.stderr) == (2, True)


def test_camvid(tmp_path, caplog):
    if not CAMVID.is_dir():
        pytest.skip(f"no CamVid in {CAMVID}")
    with caplog.at_level(logging.WARNING):
        arguments = ["bag", CAMVID / "val", "--labels", CAMVID / "valannot", "--frames", 3, "--out", tmp_path / "DRIVE"]
        result = CliRunner().invoke(m2f, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    found = messages(tmp_path / "DRIVE")
    names = sorted(path.stem for path in (CAMVID / "val").iterdir())[:3]
    for name, (_, image), (_, label) in zip(names, found["/camera/image"], found["/camera/ground_truth"], strict=True):
        assert (frame_of(image).data == cv2.imread(str(CAMVID / "val" / f"{name}.jpg"))).all()
        ids = cv2.imread(str(CAMVID / "valannot" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        assert (decode_label(label) == np.where(ids == 11, 255, ids)).all()
    (guess,) = caplog.records
    assert guess.getMessage().endswith("by its name and the ids 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, taken for camvid")
