"""Names of topics: which are a camera's, and what lies beside them."""

import pytest

from m2f_ros.errors import SourceError
from m2f_ros.replay.topics import info_topic, is_made, namespaced, truth_topic


def test_neighbours():
    for image in ("/front/image_raw", "/front/image_raw/compressed"):
        assert truth_topic(image) == "/front/ground_truth"
        assert info_topic(image) == "/front/camera_info"
    assert truth_topic("/image") == "/ground_truth"


def test_ground_truth_and_outputs_are_no_cameras():
    topics = {"/node/legend", "/node/front/legend", "/front/ground_truth/legend"}
    made = (
        "/front/ground_truth",
        "/front/ground_truth/panoptic",
        "/node/label",
        "/node/front/overlay",
        "/node/overlay/compressed",
    )
    assert [is_made(topic, topics) for topic in made] == [True] * 5
    cameras = ("/front/image", "/front/image/compressed", "/front/color", "/node/image", "/label")
    assert [is_made(topic, topics) for topic in cameras] == [False] * 5
    # A node with several cameras has one legend.
    assert is_made("/node/front/label", {"/node/legend", "/node/front/label"})


def test_namespaces():
    assert namespaced("/camera") == namespaced("camera/") == "/camera"
    assert namespaced("/cars/a1/front_left") == "/cars/a1/front_left"
    for wrong in ("", "/", "1st", "a//b", "front-left", "vorne links", "kamera_ü"):
        with pytest.raises(SourceError, match="namespace"):
            namespaced(wrong)
