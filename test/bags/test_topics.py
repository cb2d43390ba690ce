"""Names of topics, what lies beside them, and which of a bag are cameras'."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from m2f_ros import taxonomy
from m2f_ros.bags.messages import COMPRESSED_IMAGE, IMAGE, LEGEND, Messages
from m2f_ros.bags.reader import Bag
from m2f_ros.bags.topics import cameras, encoding_of, info_topic, is_picture, namespaced, truth_topic
from m2f_ros.bags.writer import BagWriter
from m2f_ros.errors import SourceError

COLOUR = np.zeros((4, 6, 3), np.uint8)
GREY = COLOUR[..., 0].copy()


@pytest.fixture
def chosen(tmp_path):
    """chosen({topic: array of an encoding, or (format, bytes) of a compressed image}) -> cameras of such a bag."""

    def chosen(topics, legends=()):
        with BagWriter(tmp_path / "bag") as bag:
            make = Messages(bag.types)
            header = make.header(5, "camera")
            for topic, (kind, content) in topics.items():
                if isinstance(content, bytes):
                    bag.write(topic, COMPRESSED_IMAGE, make.compressed_file(content, kind, header), 5)
                else:
                    message = make.image(GREY, "mono8", header)
                    message.encoding, message.data = kind, content.reshape(-1).view(np.uint8)
                    message.step = content[0].nbytes
                    bag.write(topic, IMAGE, message, 5)
            for topic in legends:
                bag.write(topic, LEGEND, make.legend(taxonomy.get("camvid")), 5)
        with Bag(tmp_path / "bag") as bag:
            return cameras(bag)

    return chosen


def png(image):
    return cv2.imencode(".png", image)[1].tobytes()


def test_neighbours():
    for image in ("/front/image_raw", "/front/image_raw/compressed"):
        assert truth_topic(image) == "/front/ground_truth"
        assert info_topic(image) == "/front/camera_info"
    assert truth_topic("/image") == "/ground_truth"


def test_ground_truth_and_outputs_are_no_cameras(chosen):
    made = (
        "/front/ground_truth",
        "/front/ground_truth/panoptic",
        "/node/label",
        "/node/confidence",
        "/node/front/overlay",
        "/node/overlay/compressed",
        "/other/rear/label",  # a node with several cameras has one legend
    )
    pictures = ("/front/color", "/front/image", "/label", "/node/image")
    found = chosen(
        {topic: ("mono8", GREY) for topic in (*made, *pictures, "/front/image/compressed")},
        ("/node/legend", "/node/front/legend", "/front/ground_truth/legend", "/other/legend"),
    )
    assert found == (list(pictures), {})
    assert found.says("--topics {}") == ""


def test_depth_and_the_like_are_left_out(chosen):
    depth, metres = np.ones((4, 6), np.uint16), np.ones((4, 6), np.float32)
    found = chosen(
        {
            "/camera/aligned_depth_to_color/image_raw": ("16UC1", depth),
            "/camera/color/image_raw": ("rgb8", COLOUR),
            "/camera/depth/image_raw": ("mono16", depth),
            "/camera/depth/image_raw/compressed": ("16UC1; png compressed ", png(depth)),
            "/camera/depth/image_raw/compressedDepth": ("16UC1; compressedDepth png", bytes(12) + png(depth)),
            "/camera/infra1/image_rect_raw": ("mono8", GREY),
            "/driver/depth/compressed": ("png", png(depth)),
            "/flow": ("32FC2", np.ones((4, 6, 2), np.float32)),
            "/stereo/disparity": ("32FC1", metres),
            "/stereo/disparity_image": ("8UC1", GREY),
            "/thermal/image": ("mono16", depth),
            "/tof/phase": ("16SC1", depth.astype(np.int16)),
        }
    )
    assert found.topics == ["/camera/color/image_raw", "/camera/infra1/image_rect_raw", "/thermal/image"]
    assert found.left_out == {
        "/camera/aligned_depth_to_color/image_raw": "16UC1",
        "/camera/depth/image_raw": "mono16",
        "/camera/depth/image_raw/compressed": "16UC1",
        "/camera/depth/image_raw/compressedDepth": "compressedDepth",
        "/driver/depth/compressed": "mono16",
        "/flow": "32FC2",
        "/stereo/disparity": "32FC1",
        "/stereo/disparity_image": "8UC1",
        "/tof/phase": "16SC1",
    }


def test_what_is_left_out_is_said_with_how_to_ask_for_it(chosen):
    found = chosen(
        {
            "/a": ("32FC1", np.ones((4, 6), np.float32)),
            "/b": ("16UC1", np.ones((4, 6), np.uint16)),
            "/c/compressedDepth": ("", b"x"),
        }
    )
    assert found.topics == []
    assert found.says("--topics {}") == (
        "left out (depth, other values, or no known encoding): /a (32FC1), /b (16UC1), "
        "/c/compressedDepth (compressed); --topics /b takes it as a grey picture"
    )


@pytest.mark.parametrize(
    ("topic", "encoding", "picture"),
    [
        ("/depth_camera/image_raw", "mono8", True),
        ("/depth_camera/depth/image_raw", "mono8", False),
        ("/depth/left/image_mono", "mono8", True),
        ("/rgb_to_depth/image_raw", "bgra8", True),
        ("/camera/depth/color/image_raw", "mono8", True),
        ("/Depth", "mono16", False),
        ("/camera/image", "16UC3", True),
        ("/camera/image", "bayer_rggb16", True),
        ("/camera/image", "", True),
        ("/camera/image", "64FC1", False),
        ("/semantic", "32SC1", False),
    ],
)
def test_pictures(topic, encoding, picture):
    assert is_picture(topic, encoding) is picture


def test_namespaces():
    assert namespaced("/camera") == namespaced("camera/") == "/camera"
    assert namespaced("/cars/a1/front_left") == "/cars/a1/front_left"
    for wrong in ("", "/", "1st", "a//b", "front-left", "vorne links", "kamera_ü"):
        with pytest.raises(SourceError, match="namespace"):
            namespaced(wrong)


@pytest.mark.parametrize("form", ["", "png", "16UC1"])
def test_compressed_depth_is_known_by_the_header_before_its_png(chosen, form):
    depth = bytes(12) + png(GREY.astype(np.uint16))
    found = chosen({"/front/image": ("rgb8", COLOUR), "/front/depth": (form, depth)})
    assert (found.topics, found.left_out) == (["/front/image"], {"/front/depth": "compressedDepth"})


@pytest.mark.parametrize("data", [bytes(12), bytes(11) + png(GREY), png(COLOUR)])
def test_other_bytes_are_no_compressed_depth(data):
    assert encoding_of(SimpleNamespace(format="", data=data)) == ""
