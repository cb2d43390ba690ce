"""A drive through the pipeline: every image, the node's messages, the same bytes however often it was interrupted."""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from m2f_ros import taxonomy
from m2f_ros.bags.messages import CAMERA_INFO, Messages
from m2f_ros.bags.writer import BagWriter
from m2f_ros.errors import SourceError
from m2f_ros.frame.calibration import Calibration
from m2f_ros.replay.folder import Folder
from m2f_ros.replay.replay import IN_FLIGHT, replay
from m2f_ros.replay.settings import Settings
from m2f_ros.replay.video import write_videos
from m2f_ros.sources.open import open_drive

sys.path.insert(0, str(Path(__file__).parent))
from drives import IMAGE, START, decoded, frame, image_message, messages, pixels, write_drive

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))
from stub import LABELS, Remembering, on_cpu
from stub import pipeline as on_device

ALL = Settings(outputs=("label", "overlay", "color", "confidence", "panoptic"), part=4)
TWO = ("/left/image", "/right/image")


def run(drive, out, settings=ALL, stop_after=None, make=on_cpu):
    """One replay by the stub; stop_after: batches. Returns true at the drive's end, and the progress."""
    asked = iter(range(10**6 if stop_after is None else stop_after))
    pipeline = make(slots=IN_FLIGHT)
    with Folder(out, settings.record()) as folder:
        source = open_drive(str(drive), settings.topics, settings.frames)
        return replay(source, pipeline, folder, settings, lambda: next(asked, None) is None), folder.progress


def test_every_image_has_every_output_with_its_own_header(tmp_path):
    drive = write_drive(tmp_path / "d", TWO, 10)
    done, progress = run(drive, tmp_path / "out")
    assert done and (progress.next, progress.segmented, progress.bad) == (10, {"left": 5, "right": 5}, {})
    pipeline = on_cpu()
    for side, camera in enumerate(("left", "right")):
        base = f"/segmentation_node/{camera}"
        numbers = range(side, 10, 2)
        truth = [pipeline.segment(frame(n // 6), set(ALL.outputs)) for n in numbers]
        for name in ("label", "overlay", "color", "confidence"):
            found = decoded(tmp_path / "out", f"{base}/{name}")
            assert [log_ns for log_ns, _ in found] == [START + n * 10**8 for n in numbers]
            for n, (_, message), result in zip(numbers, found, truth, strict=True):
                stamp = message.header.stamp
                assert (stamp.sec, stamp.nanosec, message.header.frame_id) == (100 + n, 5 * n, f"cam{side}")
                assert message.encoding == ("bgr8" if name in ("overlay", "color") else "mono8")
                np.testing.assert_array_equal(pixels(message), getattr(result, name))
        panoptic = decoded(tmp_path / "out", f"{base}/panoptic")
        segments = decoded(tmp_path / "out", f"{base}/segments", "m2f_ros/msg/Segments")
        for (_, ids), (_, found), result in zip(panoptic, segments, truth, strict=True):
            assert ids.encoding == "mono16" and ids.header == found.header
            assert {s.id: s.area for s in found.segments} == {
                int(i): int(n) for i, n in zip(*np.unique(pixels(ids), return_counts=True), strict=True) if i
            }
            assert [s.class_id for s in found.segments] == [s.train_id for s in result.segments]
        # A picture stays for three images, and so do its segments.
        assert (pixels(panoptic[0][1]) == pixels(panoptic[2][1])).all()
        ((log_ns, legend),) = decoded(tmp_path / "out", f"{base}/legend", "m2f_ros/msg/Legend")
        assert log_ns == START and [c.name for c in legend.classes] == list(LABELS) and legend.model == "street"
        stats = [message for _, message in decoded(tmp_path / "out", f"{base}/stats", "m2f_ros/msg/Stats")]
        assert [(s.received, s.segmented, s.dropped, s.bad) for s in stats] == [(n, n, 0, 0) for n in range(1, 6)]
        np.testing.assert_allclose([s.age_ms for s in stats], [sum(s.stage_ms) for s in stats], rtol=1e-6)
        shares = np.bincount(truth[0].label.ravel(), minlength=len(LABELS) + 1) / truth[0].label.size
        np.testing.assert_allclose(stats[0].class_shares, shares)


def test_outputs_that_are_not_asked_for_have_no_topic(tmp_path):
    run(write_drive(tmp_path / "d"), tmp_path / "out", replace(ALL, outputs=("label",)))
    assert set(messages(tmp_path / "out")) == {f"/segmentation_node/{name}" for name in ("label", "legend", "stats")}


def test_camera_info_is_passed_on_with_the_header_of_its_image(tmp_path, caplog):
    info = Calibration.pinhole(64, 32, 50.0, 51.0, 31.5, 15.5)
    info = replace(info, distortion_model="equidistant", d=(0.1, 0.2, 0.3, 0.4), p=(*info.p[:3], -6.5, *info.p[4:]))
    infos = {
        "left": replace(info, width=128, height=64, binning_x=2, binning_y=2, frame_id="optical"),
        "right": Calibration(0, 0, "", (), (0.0,) * 9, (0.0,) * 9, (0.0,) * 12),
    }
    with BagWriter(tmp_path / "d") as bag:
        make = Messages(bag.types)
        for i in range(6):
            side = ("left", "right")[i % 2]
            bag.write(f"/{side}/image", IMAGE, image_message(frame().data, (100 + i, 5), side), START + i)
            message = make.camera_info(infos[side], make.header((100 + i) * 10**9 + 5, side))
            bag.write(f"/{side}/camera_info", CAMERA_INFO, message, START + i)
    run(tmp_path / "d", tmp_path / "whole", replace(ALL, outputs=("label",)))
    for number, side in enumerate(infos):
        labels = decoded(tmp_path / "whole", f"/segmentation_node/{side}/label")
        found = decoded(tmp_path / "whole", f"/segmentation_node/{side}/camera_info", CAMERA_INFO)
        assert [log_ns for log_ns, _ in found] == [START + n for n in range(number, 6, 2)]
        assert [m.header for _, m in found] == [m.header for _, m in labels]
        assert [Calibration.of(m) for _, m in found] == [replace(infos[side], frame_id=side)] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "/segmentation_node/right/camera_info has no size (0x0): the camera is not calibrated; the labels do not "
        "depend on it"
    ]
    while not run(tmp_path / "d", tmp_path / "pieces", replace(ALL, outputs=("label",)), stop_after=2)[0]:
        pass
    assert messages(tmp_path / "whole", "/stats") == messages(tmp_path / "pieces", "/stats")


@pytest.mark.parametrize("batch", [1, 3])
def test_twice_gives_equal_bytes(tmp_path, batch):
    drive, settings = write_drive(tmp_path / "d", TWO), replace(ALL, batch=batch)
    for name in ("a", "b"):
        run(drive, tmp_path / name, settings)
    assert messages(tmp_path / "a", "/stats") == messages(tmp_path / "b", "/stats")


def test_on_a_device_that_works_on_its_own(tmp_path):
    """Its results lie in memory that the next frames use, too."""
    drive, settings = write_drive(tmp_path / "d", TWO, 14), replace(ALL, batch=2)
    run(drive, tmp_path / "cpu", settings)
    run(drive, tmp_path / "cuda", settings, make=lambda **options: on_device(**options)[0])
    assert messages(tmp_path / "cpu", "/stats") == messages(tmp_path / "cuda", "/stats")


@pytest.mark.heavy
@pytest.mark.parametrize("batch", [1, 3])
def test_a_run_that_was_interrupted_again_and_again_equals_one_run(tmp_path, batch):
    """Tracks go on, counts go on, batches are the same, and nothing is there twice."""
    drive = write_drive(tmp_path / "d", TWO, 14, bad=(3, 9))
    settings = replace(ALL, batch=batch)
    run(drive, tmp_path / "whole", settings)
    runs, done = 0, False
    while not done:
        done, progress = run(drive, tmp_path / "pieces", settings, stop_after=2)
        runs += 1
        assert (tmp_path / "pieces" / "metadata.yaml").exists()
    assert runs == {1: 7, 3: 4}[batch] and progress.bad == {"right": 2}
    whole, pieces = (messages(tmp_path / name, "/stats") for name in ("whole", "pieces"))
    assert whole == pieces
    counts = [
        [
            (s.segmented, s.bad)
            for _, s in decoded(tmp_path / name, "/segmentation_node/right/stats", "m2f_ros/msg/Stats")
        ]
        for name in ("whole", "pieces")
    ]
    assert counts[0] == counts[1] == [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)]


@pytest.mark.parametrize("batch", [1, 3])
def test_a_network_with_memory_goes_on_where_it_was_interrupted(tmp_path, batch):
    """It remembers each camera's frames in their order, whatever the pipeline segmented before."""
    drive = write_drive(tmp_path / "d", TWO, 14, bad=(3,))
    settings = replace(ALL, batch=batch)
    run(drive, tmp_path / "whole", settings, make=partial(on_cpu, Remembering))
    pipeline = on_cpu(Remembering, slots=IN_FLIGHT)
    done = False
    while not done:
        done, _ = run(drive, tmp_path / "pieces", settings, stop_after=3, make=lambda **options: pipeline)
    assert messages(tmp_path / "whole", "/stats") == messages(tmp_path / "pieces", "/stats")
    alone = on_cpu(Remembering)
    labels = {side: [] for side in ("left", "right")}
    for n in (n for n in range(14) if n != 3):
        with alone.submit(frame(n // 6), {"label"}, stream=("left", "right")[n % 2]) as result:
            labels[("left", "right")[n % 2]].append(result.label.copy())
    for side, wanted in labels.items():
        found = decoded(tmp_path / "whole", f"/segmentation_node/{side}/label")
        for (_, message), label in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(pixels(message), label)
    assert not np.array_equal(labels["left"][0], labels["left"][2])  # of one picture: the memory means something


def test_all_that_waits_in_the_pipeline_is_written_when_it_is_stopped(tmp_path):
    drive = write_drive(tmp_path / "d", count=9)
    done, progress = run(drive, tmp_path / "out", stop_after=6)
    assert (done, progress.next) == (False, 6)
    assert len(messages(tmp_path / "out")["/segmentation_node/label"]) == 6


def test_stopped_before_the_first_image_it_has_not_reached_the_end(tmp_path):
    """Ctrl-C while the model is loaded."""
    drive = write_drive(tmp_path / "d", count=3)
    assert run(drive, tmp_path / "out", stop_after=0)[0] is False
    done, progress = run(drive, tmp_path / "out")
    assert (done, progress.next) == (True, 3)


def test_a_drive_that_cannot_be_read_on(tmp_path):
    with BagWriter(tmp_path / "d") as bag:
        for i, encoding in enumerate(("rgb8", "rgb8", "rgb8", "bgr8")):
            bag.write("/camera/image", IMAGE, image_message(frame().data, (i, 0), encoding=encoding), i)
    for _ in range(2):  # going on finds the same
        with pytest.raises(SourceError, match="mixed encodings"):
            run(tmp_path / "d", tmp_path / "out", replace(ALL, batch=2))
        assert len(messages(tmp_path / "out")["/segmentation_node/label"]) == 3


@pytest.mark.parametrize(
    "method, before, left",
    [
        ("require", 41, 5),  # before the sixth image: the file can be closed
        ("write", 39, 4),  # amid the sixth image: its file is of no use, the one before it is
    ],
)
def test_a_full_disk(tmp_path, monkeypatch, method, before, left):
    """In each file, each image asks for room once, and each of its 7 messages does; the first file has a legend."""
    drive = write_drive(tmp_path / "d", count=9)
    run(drive, tmp_path / "whole")
    original, calls = getattr(BagWriter, method), []

    def fail(self, *arguments):
        calls.append(1)
        if len(calls) > before:
            raise OSError(28, "No space left on device")
        return original(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(SourceError, match=r"out: cannot be written \(No space left"):
        patch.setattr(BagWriter, method, fail)
        run(drive, tmp_path / "out")
    assert len(messages(tmp_path / "out")["/segmentation_node/label"]) == left
    run(drive, tmp_path / "out")
    assert messages(tmp_path / "out", "/stats") == messages(tmp_path / "whole", "/stats")


def test_reading_keeps_within_its_bounds(tmp_path, monkeypatch):
    """While nothing is computed, only so much is read that the budget, one image and those on their way are full."""
    monkeypatch.setattr("m2f_ros.replay.replay.READ_AHEAD_BYTES", 3 * frame().data.nbytes)
    drive = open_drive(str(write_drive(tmp_path / "d", count=30)))
    read, most = [], []
    images = drive.samples
    drive.samples = lambda first: (read.append(image) or image for image in images(first))
    pipeline = on_cpu(slots=IN_FLIGHT)
    submit = pipeline.submit_batch

    def submitted(frames, want):
        most.append(len(read) - len(most))
        return submit(frames, want)

    pipeline.submit_batch = submitted
    with Folder(tmp_path / "out", {"storage": "mcap", "compression": "none"}) as folder:
        replay(drive, pipeline, folder, replace(ALL, part=128))
    assert len(most) == 30 and max(most) <= 3 + 2


def test_png_and_video(tmp_path):
    drive = write_drive(tmp_path / "d", TWO, 6)
    settings = replace(ALL, png=True, video=True)
    run(drive, tmp_path / "out", settings)
    with Folder(tmp_path / "out", settings.record()) as folder:
        assert write_videos(folder.results, ("left", "right"), lambda: False)
    label = pixels(decoded(tmp_path / "out", "/segmentation_node/right/label")[1][1])
    png = tmp_path / "out" / "labels" / "right" / "000003_103000000015.png"
    np.testing.assert_array_equal(cv2.imread(str(png), cv2.IMREAD_UNCHANGED), label)
    assert len(list((tmp_path / "out" / "labels").rglob("*.png"))) == 6
    assert taxonomy.get(tmp_path / "out" / "labels" / "taxonomy.yaml").names == LABELS
    for camera in ("left", "right"):
        with av.open(tmp_path / "out" / camera / "overlay.mp4") as video:
            assert [round(float(frame.time), 3) for frame in video.decode(video=0)] == [0, 0.2, 0.4]
        assert (tmp_path / "out" / camera / "overlay.png").exists()


def test_time_is_accounted_for(tmp_path):
    drive = write_drive(tmp_path / "d")
    run(drive, tmp_path / "out", stop_after=2)
    before = json.loads((tmp_path / "out" / "replay.json").read_text())["progress"]["seconds"]
    run(drive, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "replay.json").read_text())
    seconds = record["progress"]["seconds"]
    assert all(seconds[name] >= before[name] for name in before) and seconds["wall"] > before["wall"]
    assert seconds["pipeline"] + seconds["reading"] + seconds["writing"] <= seconds["wall"]
    assert record["pipeline_share"] == seconds["pipeline"] / seconds["wall"]
