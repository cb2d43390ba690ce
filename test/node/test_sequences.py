"""segmentation_node's state from frame to frame, and outputs of another size, over DDS: equal to the pipeline's."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from m2f_ros import taxonomy
from m2f_ros.frame.raw import image_view
from m2f_ros.node.messages import encode
from m2f_ros.node.segmentation.camera_info import fit_camera_info
from m2f_ros.pipeline import Frame, Tracker, Tuning

pytest.importorskip("rclpy", reason="rclpy is absent")
pytest.importorskip("m2f_ros.msg", reason="the messages of m2f_ros are not built")
from builtin_interfaces.msg import Time
from m2f_ros.msg import Segments
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

sys.path.insert(0, str(Path(__file__).parent.parent / "model"))
import adapted

pytestmark = pytest.mark.process

NAME = "/segmentation_node"
HEIGHT, WIDTH = 70, 98
# Blocks of colour that move to the right, another picture, and the first again.
PICTURE, OTHER = (
    np.random.default_rng(seed).integers(0, 256, (HEIGHT // 14, WIDTH // 14, 3), np.uint8).repeat(14, 0).repeat(14, 1)
    for seed in (1, 2)
)
SEQUENCE = [*(np.roll(PICTURE, 5 * i, axis=1) for i in range(4)), OTHER, PICTURE]


@pytest.fixture
def pipeline(small_model):
    """pipeline(**options): the same as in the node, called directly."""
    import torch

    from m2f_ros.model import load
    from m2f_ros.pipeline import Pipeline

    torch.set_num_threads(1)  # the node has the other cores
    return lambda **options: Pipeline(
        load(small_model), taxonomy.get("cityscapes"), device="cpu", backend="eager", **options
    )


@pytest.fixture
def play(segment, peer):
    """play(topics, **parameters) -> one(image, stamp) -> message of each topic, once the node has answered."""

    def play(topics: dict[str, type], **parameters):
        process = segment(**parameters)
        camera = peer.node.create_publisher(Image, "/camera/image", 10)
        got = {name: peer.listen(kind, f"{NAME}/{name}") for name, kind in topics.items()}

        def send(image: np.ndarray, stamp: int) -> None:
            camera.publish(encode(image, "bgr8", Header(stamp=Time(sec=stamp), frame_id="camera")))

        def one(image: np.ndarray, stamp: int) -> dict:
            send(image, stamp)
            peer.until(
                lambda: all(messages and messages[-1].header.stamp.sec == stamp for messages in got.values()),
                f"all for {stamp}: {process.log}",
            )
            return {name: messages[-1] for name, messages in got.items()}

        peer.settled("/camera/image", str(process.log))
        # Each end of a connection learns of the other by itself, and what is sent before both know is lost. The stamps
        # of a test are below this one: time jumps back, and nothing is left of these frames.
        timer = peer.node.create_timer(0.2, lambda: send(OTHER, 1000))
        peer.until(lambda: all(got.values()), f"the node answers: {process.log}")
        peer.node.destroy_timer(timer)
        one(OTHER, 1001)
        return one

    return play


def test_segments_keep_their_ids(play, pipeline):
    thresholds = {"score_threshold": 0.0, "overlap_threshold": 0.0}
    one = play({"panoptic": Image, "segments": Segments}, **thresholds)
    direct, tracker = pipeline(tuning=Tuning(**thresholds)), Tracker()

    def found(image: np.ndarray):
        result = direct.segment(Frame(image, "bgr8"), {"panoptic"})
        return result.ids, result.segments

    tracker.update(*found(OTHER))
    tracker.reset()
    kept = changed = False
    before: set[int] = set()
    for stamp, image in enumerate(SEQUENCE, start=1):
        got = one(image, stamp)
        plain = found(image)
        ids, segments = tracker.update(*plain)
        np.testing.assert_array_equal(image_view(got["panoptic"]), ids)
        listed = [(s.id, s.class_id, s.area) for s in got["segments"].segments]
        assert listed == [(s.id, s.train_id, s.area) for s in segments]
        now = {s.id for s in segments}
        kept |= bool(now & before)
        changed |= bool(np.any(ids != plain[0]))
        before = now
    assert kept and changed  # else there was nothing to track


def test_class_scores_of_the_past_count_until_time_jumps(play, pipeline):
    one = play({"label": Image}, smoothing=0.8)
    smooth, plain = pipeline(smoothing=0.8), pipeline()
    differ = False
    for stamp, image in enumerate(SEQUENCE, start=1):
        label = image_view(one(image, stamp)["label"])
        np.testing.assert_array_equal(label, smooth.segment(Frame(image, "bgr8"), {"label"}).label)
        differ |= bool(np.any(label != plain.segment(Frame(image, "bgr8"), {"label"}).label))
    assert differ
    label = image_view(one(PICTURE, 500)["label"])
    np.testing.assert_array_equal(label, plain.segment(Frame(PICTURE, "bgr8"), {"label"}).label)


def test_the_memory_of_a_network_is_the_cameras_until_time_jumps(play, tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    from m2f_ros.model import load
    from m2f_ros.pipeline import Pipeline

    adapted.write("videomt", tmp_path)
    one = play({"label": Image}, model=str(tmp_path))
    direct, alone = (
        Pipeline(load(tmp_path), taxonomy.from_names("test", adapted.LABELS), device="cpu", backend="eager")
        for _ in range(2)
    )
    differ = False
    for stamp, image in [*enumerate(SEQUENCE, start=1), (500, PICTURE)]:
        if stamp == 500:
            direct.reset()
        wanted = direct.segment(Frame(image, "bgr8"), {"label"}).label
        np.testing.assert_array_equal(image_view(one(image, stamp)["label"]), wanted)
        alone.reset()
        differ |= bool(np.any(wanted != alone.segment(Frame(image, "bgr8"), {"label"}).label))
    assert differ


def test_outputs_at_half_the_size_have_their_own_camera_info(play, pipeline, peer):
    info = CameraInfo(width=WIDTH, height=HEIGHT, k=[90.0, 0.0, 48.5, 0.0, 91.0, 34.5, 0.0, 0.0, 1.0])
    peer.stream(CameraInfo, "/camera/camera_info", lambda stamp: info)
    one = play({"label": Image, "overlay": Image, "confidence": Image, "camera_info": CameraInfo}, output_scale=0.5)
    got = one(PICTURE, 1)
    expected = pipeline(output_scale=0.5).segment(Frame(PICTURE, "bgr8"), {"label", "overlay", "confidence"})
    for name in ("label", "overlay", "confidence"):
        assert (got[name].height, got[name].width) == (HEIGHT // 2, WIDTH // 2)
        np.testing.assert_array_equal(image_view(got[name]), getattr(expected, name), name)
    fitted = fit_camera_info(info, (WIDTH, HEIGHT), (WIDTH // 2, HEIGHT // 2))
    fitted.header = got["label"].header
    assert got["camera_info"] == fitted and fitted.k[0] == 45.0
