"""Which topic, type and reliability a camera is read with, and what is said where there is none."""

import pytest

from m2f_ros.node.segmentation.source import COMPRESSED, RAW, Offer, Source, absence, choose, silence

CAM, BEHIND = "/cam/image", "/cam/image/compressed"


def offers(**published):
    """raw, behind, itself: reliability of the publishers of the image, of /compressed behind it, of JPEG on itself."""
    topics = {CAM: [Offer(RAW, r) for r in published.get("raw", ())], BEHIND: []}
    topics[CAM] += [Offer(COMPRESSED, r) for r in published.get("itself", ())]
    topics[BEHIND] += [Offer(COMPRESSED, r) for r in published.get("behind", ())]
    return lambda topic: topics.get(topic, [])


@pytest.mark.parametrize(
    ("transport", "published", "source"),
    [
        ("auto", {"raw": [True]}, Source(CAM, RAW, True)),
        ("auto", {"raw": [False]}, Source(CAM, RAW, False)),
        ("auto", {"raw": [True, False]}, Source(CAM, RAW, False)),
        ("auto", {"raw": [True], "behind": [True]}, Source(CAM, RAW, True)),
        ("auto", {"behind": [True]}, Source(BEHIND, COMPRESSED, True)),
        ("auto", {"itself": [False]}, Source(CAM, COMPRESSED, False)),
        ("raw", {"raw": [True], "behind": [True]}, Source(CAM, RAW, True)),
        ("compressed", {"raw": [True], "behind": [True]}, Source(BEHIND, COMPRESSED, True)),
        ("compressed", {"raw": [True], "itself": [True]}, Source(CAM, COMPRESSED, True)),
    ],
)
def test_what_is_published_is_chosen(transport, published, source):
    assert choose(CAM, transport, "auto", offers(**published)) == (source, True)


@pytest.mark.parametrize(
    ("transport", "first"),
    [
        ("auto", Source(CAM, RAW, False)),
        ("raw", Source(CAM, RAW, False)),
        ("compressed", Source(BEHIND, COMPRESSED, False)),
    ],
)
def test_while_nothing_is_published_the_source_stays(transport, first):
    assert choose(CAM, transport, "auto", offers()) == (first, False)
    now = Source(BEHIND, COMPRESSED, True)
    assert choose(CAM, transport, "auto", offers(), now) == (now, False)


def test_a_reliability_that_is_set_holds_whatever_is_offered():
    assert choose(CAM, "auto", "reliable", offers(raw=[False]))[0].reliable
    assert not choose(CAM, "auto", "best_effort", offers(raw=[True]))[0].reliable
    assert choose(CAM, "auto", "reliable", offers())[0].reliable


@pytest.mark.parametrize("transport", ["auto", "compressed"])
def test_a_topic_that_is_named_with_its_transport_is_found(transport):
    found = choose(BEHIND, transport, "auto", lambda topic: [Offer(COMPRESSED, True)] if topic == BEHIND else [])
    assert found == (Source(BEHIND, COMPRESSED, True), True)
    assert choose(BEHIND, transport, "auto", lambda _: [])[0].topic == BEHIND


MANY = {f"/robot/camera_{i}/image_raw": [RAW] for i in range(9)}


@pytest.mark.parametrize(
    ("transport", "published", "line"),
    [
        ("raw", {BEHIND: [COMPRESSED]}, f"no Image is published on {CAM}, but CompressedImage on {BEHIND}: "
         "set transport to compressed, or to auto"),
        ("raw", {CAM: [COMPRESSED]}, f"no Image is published on {CAM}, but CompressedImage on {CAM}: "
         "set transport to compressed, or to auto"),
        ("compressed", {CAM: [RAW]}, f"no CompressedImage is published on {BEHIND}, but Image on {CAM}: "
         "set transport to raw, or to auto"),
        ("auto", {CAM: ["std_msgs/msg/String"]}, f"neither Image nor CompressedImage is published on {CAM}, but "
         "std_msgs/msg/String: name another topic"),
        ("auto", {f"{CAM}/ffmpeg": ["ffmpeg_image_transport_msgs/msg/FFMPEGPacket"], "/a/b": [RAW]},
         f"neither Image nor CompressedImage is published on {CAM}, but ffmpeg_image_transport_msgs/msg/FFMPEGPacket "
         f"on {CAM}/ffmpeg, which is not read: `ros2 run image_transport republish` makes Image of it"),
        ("auto", {"/cam/image_raw": [RAW], "/a/b": [RAW], "/cam/imu": ["sensor_msgs/msg/Imu"]},
         f"neither Image nor CompressedImage is published on {CAM}; there is /cam/image_raw, /a/b: name one of them, "
         "or start the camera"),
        ("raw", {"/c/x/compressed": [COMPRESSED]}, f"no Image is published on {CAM}; there is /c/x/compressed, for "
         "transport compressed: name one of them, or start the camera"),
        ("raw", {}, f"no Image is published on {CAM}, nor an image topic of another name: start the camera; "
         "ROS_DOMAIN_ID must be the same"),
    ],
)  # fmt: skip
def test_what_is_there_in_place_of_the_images_is_named(transport, published, line):
    assert absence(CAM, transport, published) == line


def test_a_line_names_five_topics_at_most():
    assert absence(CAM, "auto", MANY).count("/robot/") == 5


def test_outputs_of_another_node_are_no_cameras():
    outputs = {f"/robot2/segmentation_node/{name}": [RAW] for name in ("label", "overlay")}
    outputs["/robot2/segmentation_node/legend"] = ["m2f_ros/msg/Legend"]
    assert "; there is /b/image: name" in absence(CAM, "auto", {**outputs, "/b/image": [RAW]})
    assert ", nor an image topic of another name" in absence(CAM, "auto", {**outputs, "/c/ground_truth": [RAW]})


@pytest.mark.parametrize(
    ("now", "published", "line"),
    [
        (Source(CAM, RAW, True), {"raw": [True]}, f"{CAM} (Image) is published, but no image has come: the "
         "camera sends none, or they are lost on the way (docs/node.md, Shared memory)"),
        (Source(CAM, RAW, True), {"raw": [False]}, f"{CAM} (Image) is published, but no image has come: it is read "
         "reliably and offered best effort; set reliability, or qos_overrides, to best_effort"),
        (Source(CAM, RAW, True), {"raw": [True], "behind": [False]}, f"{CAM} (Image) is published, but no image has "
         f"come; there is CompressedImage on {BEHIND}, too: set transport to compressed if it sends that alone"),
        (Source(BEHIND, COMPRESSED, False), {"raw": [True], "behind": [False]}, f"{BEHIND} (CompressedImage) is "
         f"published, but no image has come; there is Image on {CAM}, too: set transport to raw if it sends that "
         "alone"),
    ],
)  # fmt: skip
def test_a_publisher_that_sends_nothing_is_named(now, published, line):
    assert silence(CAM, now, offers(**published)) == line
