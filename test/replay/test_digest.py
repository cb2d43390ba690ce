"""Results of a recording: numbers by hand, files that can be read."""

from __future__ import annotations

import av
import cv2
import numpy as np
import pytest

from m2f_ros import taxonomy
from m2f_ros.bags.writer import BagWriter
from m2f_ros.replay.demo import TOPICS
from m2f_ros.replay.digest import digest

SECOND = 10**9
HEIGHT, WIDTH = 31, 45  # odd: H.264 has no such size


class Recording:
    """Writes a recording of the demo by hand; log times in milliseconds after second 100."""

    def __init__(self, folder):
        self.writer = BagWriter(folder)
        self.store = self.writer.types
        self.writer.add_topic(TOPICS.legend, "m2f_ros/msg/Legend", latched=True)
        self.writer.add_topic(TOPICS.stats, "m2f_ros/msg/Stats")

    def message(self, kind, **fields):
        return self.store.types[kind](**fields)

    def header(self, ms):
        stamp = self.message("builtin_interfaces/msg/Time", sec=100 + ms // 1000, nanosec=ms % 1000 * 10**6)
        return self.message("std_msgs/msg/Header", stamp=stamp, frame_id="camera")

    def write(self, topic, kind, message, ms):
        self.writer.write(topic, kind, message, 100 * SECOND + ms * 10**6)

    def image(self, topic, ms, received, pixels, encoding="mono8"):
        message = self.message(
            "sensor_msgs/msg/Image",
            header=self.header(ms),
            height=pixels.shape[0],
            width=pixels.shape[1],
            encoding=encoding,
            is_bigendian=0,
            step=pixels.strides[0],
            data=pixels.view(np.uint8).reshape(-1),
        )
        self.write(topic, "sensor_msgs/msg/Image", message, received)

    def legend(self, classes):
        kind = "m2f_ros/msg/ClassInfo"
        message = self.message(
            "m2f_ros/msg/Legend",
            model="small",
            taxonomy=classes.name,
            unlabelled=classes.unlabelled,
            classes=[
                self.message(kind, id=c.id, name=c.name, color=np.array(c.colour, np.uint8), thing=c.thing)
                for c in classes.classes
            ],
        )
        self.write(TOPICS.legend, "m2f_ros/msg/Legend", message, 0)

    def stats(self, ms, received, dropped):
        message = self.message(
            "m2f_ros/msg/Stats",
            header=self.header(ms),
            number=0,
            received=7,
            segmented=0,
            dropped=dropped,
            bad=0,
            drop_reasons=[],
            drops=np.zeros(0, np.uint64),
            age_ms=0.0,
            wait_ms=0.0,
            stages=[],
            stage_ms=np.zeros(0, np.float32),
            class_shares=np.zeros(0, np.float32),
        )
        self.write(TOPICS.stats, "m2f_ros/msg/Stats", message, received)


def labels(value):
    return np.full((HEIGHT, WIDTH), value, np.uint8)


@pytest.fixture
def recording(tmp_path):
    """Four images every 100 ms; the second is dropped; labels 50, 60 and 70 ms after their images."""
    classes = taxonomy.get("cityscapes")
    recording = Recording(tmp_path / "bag")
    recording.legend(classes)
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for index in range(4):
        ms = 100 + 100 * index
        recording.image(TOPICS.ground_truth, ms, ms + 1, labels(3))  # CamVid's road
        recording.image(TOPICS.image, ms, ms + 1, picture, "bgr8")
        if index == 1:
            continue
        late = {0: 50, 2: 60, 3: 70}[index]
        # Road is right; wall, which CamVid counts as fence, is wrong.
        recording.image(TOPICS.label, ms, ms + late, labels(0 if index < 3 else 3))
        recording.image(TOPICS.overlay, ms, ms + late, picture + 80 * index, "bgr8")
        recording.stats(ms, ms + late, dropped=min(index, 1))
    recording.writer.close()
    return tmp_path


def _new(folder):
    (folder / "labels").mkdir()
    return folder.joinpath


def test_numbers(recording):
    told = []
    truth = taxonomy.get("camvid")
    result = digest(recording / "bag", TOPICS, _new(recording), truth, lambda: told.append(1))
    assert (result.segmented, result.received, result.dropped, len(told)) == (3, 7, 1, 3)
    np.testing.assert_allclose(result.latency_ms, [50, 60, 70])
    # Three labels from 100 ms to 470 ms.
    assert result.fps == pytest.approx(3 / 0.37)
    # Road: 2 of 3 images right; fence: 1 image of no truth.
    assert result.miou == pytest.approx((2 / 3 + 0) / 2)
    assert (result.scored, result.truth, result.averaged) == (3, 4, "over 2 of 11 classes: road, fence")


def test_no_ground_truth_no_score(recording):
    assert digest(recording / "bag", TOPICS, _new(recording), None).miou is None


def test_files(recording):
    digest(recording / "bag", TOPICS, _new(recording), None)
    names = sorted(path.name for path in (recording / "labels").iterdir())
    assert names == [f"00000{i}_{100 * SECOND + (1 + i) * 10**8}.png" for i in (0, 2, 3)]
    label = cv2.imread(str(recording / "labels" / names[-1]), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(label, labels(3))
    # The middle one of three overlays, at its full size.
    overlay = cv2.imread(str(recording / "overlay.png"))
    assert overlay.shape == (HEIGHT, WIDTH, 3) and (overlay == 160).all()
    with av.open(str(recording / "overlay.mp4")) as video:
        stream = video.streams.video[0]
        frames = list(video.decode(stream))
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
    assert [round(float(frame.time), 3) for frame in frames] == [0.0, 0.2, 0.3]
    assert (frames[0].height, frames[0].width) == (30, 44)
    for frame, value in zip(frames, (0, 160, 240), strict=True):
        assert abs(frame.to_ndarray(format="bgr24").mean() - value) < 4


def test_sixteen_bit_labels(tmp_path):
    classes = taxonomy.from_names("many", [f"class {i}" for i in range(300)])
    recording = Recording(tmp_path / "bag")
    recording.legend(classes)
    pixels = np.full((2, 2), 299, np.uint16)
    recording.image(TOPICS.ground_truth, 0, 1, pixels, "mono16")
    recording.image(TOPICS.label, 0, 2, pixels, "mono16")
    recording.writer.close()
    assert digest(tmp_path / "bag", TOPICS, _new(tmp_path), classes).miou == 1.0
    (file,) = (tmp_path / "labels").iterdir()
    np.testing.assert_array_equal(cv2.imread(str(file), cv2.IMREAD_UNCHANGED), pixels)


def test_a_recording_without_labels(tmp_path):
    recording = Recording(tmp_path / "bag")
    recording.image(TOPICS.image, 0, 1, np.zeros((2, 2), np.uint8))
    recording.writer.close()
    result = digest(tmp_path / "bag", TOPICS, _new(tmp_path), None)
    assert (result.segmented, result.fps, result.miou) == (0, None, None)
