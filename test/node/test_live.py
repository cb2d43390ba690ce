"""`m2f node` and `m2f topics` as processes, over real DDS."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import pytest

pytest.importorskip("rclpy", reason="rclpy is absent")

pytestmark = pytest.mark.process
TIMEOUT = 240.0  # seconds
EMPTY = "232"  # a domain that no process of the tests has: theirs are 1 to 101
M2F = (sys.executable, "-m", "m2f_ros")


@pytest.fixture
def listen(ros_env):
    """listen(*options, peer=Peer, enough=...) -> exit status and outputs of `m2f topics`.

    With a peer, that spins until `enough()`, and Ctrl-C ends the listening: discovery may take any time.
    """

    def listen(*options: str, peer=None, enough=None):
        command = [*M2F, "topics", *options, *(("--seconds", "3600") if peer else ())]
        process = subprocess.Popen(command, env=ros_env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            if peer:
                peer.until(lambda: enough() or process.poll() is not None, "m2f topics has heard enough")
                process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=TIMEOUT)
        finally:
            process.kill()
            process.wait()
        return process.returncode, out, err

    return listen


def line(out: str, topic: str) -> list[str]:
    """The cells of a topic's row."""
    (row,) = [row.split() for row in out.splitlines() if row.split()[:1] == [topic]]
    return row


def test_topics_says_what_is_there_and_at_which_rate(listen, peer) -> None:
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from sensor_msgs.msg import CameraInfo, CompressedImage, Image
    from std_msgs.msg import Header, String

    def image(encoding, width=8):
        return lambda stamp: Image(
            header=Header(frame_id="c"), height=6, width=width, encoding=encoding, step=width, data=bytes(6 * width)
        )

    streams = [
        peer.stream(Image, "/front/image", image("mono8"), rate=20),
        peer.stream(CompressedImage, "/front/image/compressed", lambda stamp: CompressedImage(format="jpeg"), rate=20),
        peer.stream(CompressedImage, "/rear/image/compressed", lambda stamp: CompressedImage(format="jpeg"), rate=20),
        peer.stream(Image, "/front/depth/image", image("16UC1"), rate=20),
        peer.stream(Image, "/front/odd", image("nv99"), rate=20),
        peer.stream(Image, "/front/ground_truth", image("mono8"), rate=20),
    ]
    peer.stream(String, "/chatter", lambda stamp: String(data="x"), rate=10)
    silent = peer.node.create_publisher(Image, "/silent/image", 1)
    kept = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    latched = peer.node.create_publisher(CameraInfo, "/front/camera_info", kept)
    latched.publish(CameraInfo())
    peer.node.create_subscription(String, "/wanted", lambda message: None, 1)

    def enough() -> bool:
        read = all(publisher.get_subscription_count() for publisher in (silent, latched))
        # Messages over 1.5 s: those that all came at once would have no rate.
        return read and all(stream.sent_to_somebody >= 30 for stream in streams)

    code, out, err = listen(peer=peer, enough=enough)
    assert code == 130, err
    (seconds,) = re.findall(r"^m2f: stopped after (\S+) of 3600 s$", err, re.MULTILINE)
    assert f"messages in {seconds} s" in out.splitlines()[0]
    messages, rate = map(float, line(out, "/front/image")[4:6])
    assert messages > 1 and rate >= (messages - 1) / float(seconds) - 0.1, out  # they came within these seconds
    assert line(out, "/front/image")[6:] == ["8x6", "mono8"]
    assert line(out, "/front/image")[:4] == ["/front/image", "Image", "1", "0"]
    assert line(out, "/chatter") == ["/chatter", "std_msgs/msg/String", "1", "0", "-"]
    assert line(out, "/silent/image") == ["/silent/image", "Image", "1", "0", "0"]
    assert line(out, "/front/camera_info")[-2:] == ["0", "(latched)"]
    assert line(out, "/wanted") == ["/wanted", "std_msgs/msg/String", "0", "1", "-"]
    assert "_m2f_topics" not in out
    # The raw image of two, no depth, no unknown encoding, no ground truth, nothing that sends nothing.
    assert [row for row in out.splitlines() if row.startswith("m2f node")] == [
        "m2f node image:=/front/image",
        "m2f node image:=/rear/image/compressed",
    ]


@pytest.mark.parametrize(
    ("arrivals", "rate"), [([], None), ([1.0], None), ([1.0, 1.25, 1.5], 4.0), ([5.0, 5.5, 9.0], 0.5)]
)
def test_the_rate_is_that_between_the_first_and_the_last_message(ros_env, arrivals, rate) -> None:
    from m2f_ros.node.topics import Topic

    assert Topic("/a", "std_msgs/msg/String", arrivals=arrivals).rate == rate


@pytest.mark.parametrize(
    ("arrivals", "why"),
    [
        ([1.0, 1.001, 1.002], "(a burst)"),
        ([1.0, 1.5, 2.0], "(none in the last 8.0 s)"),
        ([1.0, 4.0], ""),  # the next one is not due yet
        ([9.0], ""),
    ],
)
def test_a_burst_and_a_silent_topic_have_no_rate(ros_env, arrivals, why) -> None:
    from m2f_ros.node.topics import Topic

    topic = Topic("/a", "std_msgs/msg/String", arrivals=arrivals, end=10.0)
    assert topic.content == why
    assert (topic.rate is None) == (bool(why) or len(arrivals) < 2)


def test_other_types_are_received_on_request(listen, peer) -> None:
    from std_msgs.msg import String

    chatter = peer.stream(String, "/chatter", lambda stamp: String(data="x"), rate=10)
    code, out, err = listen("--rates", peer=peer, enough=lambda: chatter.sent_to_somebody >= 10)
    assert code == 130, err
    assert int(line(out, "/chatter")[4]) > 0, out


def test_a_message_that_is_not_installed_here_is_said(ros_env, peer, monkeypatch) -> None:
    from std_msgs.msg import String

    from m2f_ros.node import topics

    peer.stream(String, "/chatter", lambda stamp: String(data="x"))
    monkeypatch.setattr(topics.importlib, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    look = topics._look

    def look_and_stop(node, found, *options) -> None:
        before = set(found)
        look(node, found, *options)
        if "/chatter" in found.keys() - before:
            raise KeyboardInterrupt

    monkeypatch.setattr(topics, "_look", look_and_stop)
    heard = topics.listen(TIMEOUT, every=True)
    (found,) = [topic for topic in heard.topics if topic.name == "/chatter"]
    assert (found.unread, found.rate) == ("std_msgs is not installed here", None)
    assert heard.interrupted and heard.seconds < TIMEOUT
    assert "?" in line(topics.describe([found], "3"), "/chatter")


def test_where_nothing_is_there_the_status_is_1(listen, ros_env) -> None:
    ros_env["ROS_DOMAIN_ID"], before = EMPTY, ros_env["ROS_DOMAIN_ID"]
    try:
        code, out, err = listen("--seconds", "1", "--images")
    finally:
        ros_env["ROS_DOMAIN_ID"] = before
    assert (code, out) == (1, "")
    assert "m2f: error: no topic of images of another node within 1 s" in err and f"(here {EMPTY})" in err


def test_the_node_by_the_arguments_of_the_launch_file(ros_env, peer, small_model, tmp_path) -> None:
    """The arguments go before the file, also where that names the node; signals and exit status are the node's."""
    from sensor_msgs.msg import Image
    from std_msgs.msg import Header

    file = tmp_path / "parameters.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    backend: eager\n    threads: 1\n    model: /no/such/model\n"
        "/robot/seg:\n  ros__parameters:\n    model: /no/such/model\n"
    )
    log = tmp_path / "log"
    arguments = ["image:=/cam/image", "namespace:=robot", "name:=seg", f"model:={small_model}", "device:=cpu"]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*M2F, "node", *arguments, f"params_file:={file}"], env=ros_env, stdout=stream, stderr=stream
        )
    try:
        labels = peer.listen(Image, "/robot/seg/label")
        data = bytes(64 * 96 * 3)
        peer.stream(
            Image,
            "/cam/image",
            lambda stamp: Image(
                header=Header(frame_id="c"), height=64, width=96, encoding="bgr8", step=96 * 3, data=data
            ),
        )
        peer.until(lambda: labels or process.poll() is not None, "a label comes")
        assert process.poll() is None, log.read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
    said = log.read_text()
    assert f"[robot.seg]: model '{small_model}'" in said and "on cpu (eager, fp32)" in said
    assert "Fast DDS profile" in said and "Traceback" not in said


def test_the_command_of_the_workspace(ros_env) -> None:
    """`ros2 run m2f_ros m2f` runs lib/m2f_ros/m2f."""
    from m2f_ros.processes.children import executable

    done = subprocess.run([executable("m2f"), "--help"], env=ros_env, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0 and "Usage: m2f " in done.stdout and "topics" in done.stdout
    done = subprocess.run([executable("m2f"), "node"], env=ros_env, capture_output=True, text=True, timeout=TIMEOUT)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("m2f: error: image:=… is missing.")
