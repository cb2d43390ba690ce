"""segmentation_node as a process over real DDS: exact values, headers, and what it does with bad input."""

from __future__ import annotations

import itertools
import os
import re
import signal
from array import array
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2f_ros import taxonomy
from m2f_ros.frame.encodings import ENCODINGS, LAYOUTS, PLANES
from m2f_ros.frame.raw import image_view
from m2f_ros.pipeline import Frame

pytest.importorskip("rclpy", reason="rclpy is absent")
from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image
from std_msgs.msg import Header

pytestmark = pytest.mark.process

msg = pytest.importorskip("m2f_ros.msg", reason="the messages of m2f_ros are not built")

WARM_UP = 1000  # stamp, seconds
HEIGHT, WIDTH = 70, 98  # no multiples of the network's stride


def picture(encoding: str, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Blocks of random colour: (H, W) or (H, W, C) uint8."""
    channels = LAYOUTS[encoding].channels
    rng = np.random.default_rng(len(encoding) + channels)
    blocks = rng.integers(0, 256, (height // 14, width // 14, channels), np.uint8)
    image = blocks.repeat(14, axis=0).repeat(14, axis=1)
    return image[..., 0] if channels == 1 else image


def image_message(encoding: str, stamp: int, padding: int = 0, image: np.ndarray | None = None) -> Image:
    image = picture(encoding) if image is None else image
    rows = image.reshape(image.shape[0], -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=205)
    return Image(
        header=Header(stamp=Time(sec=stamp, nanosec=123456789), frame_id=f"camera_{stamp}"),
        height=image.shape[0],
        width=image.shape[1],
        encoding=encoding,
        step=rows.shape[1],
        data=array("B", rows.tobytes()),
    )


@pytest.fixture(scope="module")
def pipeline(small_model):
    """The same pipeline as in the node, called directly."""
    import torch

    from m2f_ros.model import load
    from m2f_ros.pipeline import Pipeline

    torch.set_num_threads(1)  # the node has the other cores
    return Pipeline(load(small_model), taxonomy.get("cityscapes"), device="cpu", backend="eager")


@pytest.fixture
def node(start, peer, small_model):
    """The node with all that it publishes and a camera, connected."""
    process = start(
        "segmentation_node",
        *("--ros-args", "-p", f"model:={small_model}", "-p", "device:=cpu", "-p", "threads:=1"),
        *("-p", "backend:=eager"),  # another converts the network for each of the sizes below
        *("-r", "~/image:=/camera/image"),
    )
    camera = peer.node.create_publisher(Image, "/camera/image", 10)
    names = {"label": Image, "overlay": Image, "stats": msg.Stats}
    outputs = {name: peer.listen(kind, f"/segmentation_node/{name}") for name, kind in names.items()}
    legend = peer.listen(msg.Legend, "/segmentation_node/legend", latched=True)

    peer.settled("/camera/image", str(process.log))
    peer.until(lambda: legend, "the node is active")
    node = SimpleNamespace(process=process, camera=camera, **outputs)
    # Each end of a connection learns of the other by itself, and images before both know are lost. So images are sent
    # until one is answered, and then one that is the last of them.
    timer = peer.node.create_timer(0.2, lambda: camera.publish(image_message("mono8", WARM_UP)))
    peer.until(lambda: node.stats, "the node answers")
    peer.node.destroy_timer(timer)
    send(node, peer, image_message("mono8", WARM_UP + 1))
    node.before = node.stats[-1]
    for got in outputs.values():
        got.clear()
    return node


def send(node, peer, message: Image) -> None:
    """Send one image and wait until all that comes of it is here."""
    stamp = message.header.stamp
    node.camera.publish(message)
    lists = (node.label, node.overlay, node.stats)
    peer.until(lambda: all(got and got[-1].header.stamp == stamp for got in lists), f"outputs for {stamp}")


@pytest.mark.parametrize("padding", [0, 6])
def test_labels_and_overlay_are_the_pipelines_own(node, peer, pipeline, padding):
    for stamp, encoding in enumerate(ENCODINGS, start=1):
        image = picture(encoding)
        send(node, peer, image_message(encoding, stamp, padding))
        expected = pipeline.segment(Frame(image, encoding))
        label, overlay, stats = node.label[-1], node.overlay[-1], node.stats[-1]
        header = Header(stamp=Time(sec=stamp, nanosec=123456789), frame_id=f"camera_{stamp}")
        assert label.header == overlay.header == stats.header == header
        assert (label.encoding, label.step) == ("mono8", WIDTH)
        assert (overlay.encoding, overlay.step) == ("bgr8", 3 * WIDTH)
        np.testing.assert_array_equal(image_view(label), expected.label, encoding)
        np.testing.assert_array_equal(image_view(overlay), expected.overlay, encoding)
        assert list(stats.stages) == list(expected.stages)
        assert (stats.segmented - node.before.segmented, stats.bad) == (stamp, 0)
        assert stats.dropped == node.before.dropped
    # A model that gave one class to everything would prove little.
    assert len(np.unique(np.stack([image_view(label) for label in node.label]))) > 1


def test_a_late_joiner_gets_the_legend(node, peer):
    late = peer.listen(msg.Legend, "/segmentation_node/legend", latched=True)
    peer.until(lambda: late, "the legend")
    cityscapes = taxonomy.get("cityscapes")
    assert (late[0].taxonomy, late[0].unlabelled) == ("cityscapes", 255)
    assert [(c.id, c.name, tuple(c.color), c.thing) for c in late[0].classes] == [
        (c.id, c.name, c.colour, c.thing) for c in cityscapes.classes
    ]


def test_bad_frames_are_counted_and_skipped(node, peer, pipeline):
    good = image_message("bgr8", 1)
    bad = [image_message("bgr8", stamp) for stamp in range(2, 8)]
    bad[0].encoding = "jpeg"
    bad[1].step = 7
    bad[2].data = good.data[:-1]
    bad[3].width = bad[3].height = 0
    bad[4].width = bad[4].height = 2**32 - 1
    bad[5].data = array("B")
    send(node, peer, good)
    stamps = itertools.count(100)
    for count, message in enumerate(bad, start=1):
        # The input keeps the newest message only: the good one can hide the bad one before it is seen.
        while node.stats[-1].bad < count:
            node.camera.publish(message)
            send(node, peer, image_message("bgr8", next(stamps)))
    after, before = node.stats[-1], node.before
    assert after.bad == len(bad)
    assert after.received - before.received == after.segmented - before.segmented + len(bad)
    assert len(node.label) == after.segmented - before.segmented
    expected = pipeline.segment(Frame(picture("bgr8"), "bgr8")).label
    np.testing.assert_array_equal(image_view(node.label[-1]), expected)
    node.process.until(lambda: node.process.says("encoding 'jpeg' is not supported"))
    assert node.process.end() == 0


SIDES = st.sampled_from([0, 1, 2, 7, 28, 16384, 2**32 - 1])


@st.composite
def any_message(draw) -> Image:
    """An image message whose fields may contradict each other."""
    known = st.sampled_from([*LAYOUTS, *PLANES])
    return Image(
        height=draw(SIDES),
        width=draw(SIDES),
        encoding=draw(known | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)),
        is_bigendian=draw(st.sampled_from([0, 1, 255])),
        step=draw(SIDES),
        data=array("B", draw(st.binary(max_size=256))),
    )


def test_whatever_comes_the_next_good_frame_is_segmented(node, peer):
    stamps = itertools.count(1)

    @settings(max_examples=60, deadline=None)
    @given(any_message())
    def check(message: Image) -> None:
        message.header.stamp.sec = next(stamps)
        node.camera.publish(message)
        send(node, peer, image_message("bgr8", next(stamps)))
        after = node.stats[-1]
        assert after.received == after.segmented + after.bad + after.dropped
        assert set(after.drop_reasons) <= {"newer"}

    check()
    assert node.stats[-1].bad > 0
    assert node.process.end() == 0


def test_geometry_follows_the_image(node, peer):
    for stamp, (height, width) in enumerate([(56, 56), (70, 98), (28, 140)], start=1):
        send(node, peer, image_message("mono8", stamp, image=picture("mono8", height, width)))
        for output in (node.label[-1], node.overlay[-1]):
            assert (output.height, output.width) == (height, width)


def test_confidence_is_there_for_those_who_listen(node, peer, pipeline):
    confidence = peer.listen(Image, "/segmentation_node/confidence")
    stamps = itertools.count(1)
    while not confidence:  # the node has yet to learn that somebody listens
        send(node, peer, image_message("bgr8", next(stamps)))
    expected = pipeline.segment(Frame(picture("bgr8"), "bgr8"), {"confidence"}).confidence
    assert confidence[-1].encoding == "mono8"
    np.testing.assert_array_equal(image_view(confidence[-1]), expected)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_without_a_word(start, peer, number, small_model):
    others = {str(path) for path in Path("/dev/shm").glob("fast*")}  # the peer's, which the node maps, too
    process = start("segmentation_node", "--ros-args", "-p", f"model:={small_model}", "-p", "device:=cpu")
    legend = peer.listen(msg.Legend, "/segmentation_node/legend", latched=True)
    peer.until(lambda: legend, "the legend")
    if number == signal.SIGTERM:  # as by Ctrl-Z and kill
        process.process.send_signal(signal.SIGSTOP)
        process.process.send_signal(number)
        number = signal.SIGCONT
    used = set(re.findall(r"/dev/shm/fast\S+", Path(f"/proc/{process.process.pid}/maps").read_text()))
    assert process.end(number) == 0
    assert not process.says("Traceback")
    # Ports are other processes', too.
    assert not [file for file in used - others if "_port" not in file and Path(file).exists()]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-p", "model:=/no/such/model"), ["cannot load the model", "/no/such/model"]),
        (("-p", "alpha:=7.0"), ["'alpha'", "0.0 to 1.0"]),
        (("-p", "alpha:=opaque"), ["'alpha'", "a number"]),
        (("-p", "device:=toaster"), ["toaster"]),
        (("-p", "precision:=int4"), ["'precision'", "one of auto, fp8, int8, fp16", "'int4'"]),
        (("-p", "precision:=fp16", "-p", "device:=cpu"), ["'fp16' needs CUDA"]),
        (("-p", "resize:=fixed", "-p", "resize_height:=500"), ["500 x 2048", "take 512 x 2048"]),
        (("-p", "taxonomy:=camvid"), ["camvid", "11", "19"]),
        (("-p",), ["-p"]),
        (("-r", "~/image:=/segmentation_node/overlay"), ["/segmentation_node/overlay is an output of this node"]),
        (("-r", "~/color:=/a", "-r", "~/overlay:=/a"), ["two outputs are remapped to /a"]),
        (("-r", "~/image:=/a/"), ["-r ~/image:=/a/", "Names have letters, digits and _"]),
        (("--params-file", "/no/such.yaml"), ["/no/such.yaml", "ros__parameters"]),
        (("--", "foo", "--bar"), ["unknown argument foo --bar", "--help"]),
    ],
)
def test_what_cannot_work_is_one_line_and_status_2(start, small_model, arguments, words):
    process = start("segmentation_node", "--ros-args", "-p", f"model:={small_model}", *arguments)
    assert process.ends() == 2
    last = process.log.read_text().strip().splitlines()[-1]
    assert all(word in last for word in words), last
    assert not process.says("Traceback")


def test_a_log_that_cannot_be_written_names_its_variable(start, ros_env, monkeypatch):
    monkeypatch.setitem(ros_env, "ROS_LOG_DIR", "/proc/nowhere")
    process = start("segmentation_node")
    assert process.ends() == 2
    (line,) = process.log.read_text().splitlines()
    assert line.startswith(
        "segmentation_node: error: ROS cannot write its log: set ROS_LOG_DIR to a folder that can be"
    )


def test_a_home_that_cannot_be_written_costs_the_cache_only(start, ros_env, small_model, monkeypatch, tmp_path):
    monkeypatch.setitem(ros_env, "HOME", "/proc/nowhere")
    monkeypatch.setitem(ros_env, "ROS_LOG_DIR", str(tmp_path))
    monkeypatch.delitem(ros_env, "XDG_CACHE_HOME")
    arguments = ("-p", f"model:={small_model}", "-p", "device:=cpu", "-p", "image_sizes:=[96x64]")
    process = start("segmentation_node", "--ros-args", *arguments)
    # The conversion of the model takes most of a minute on a busy machine.
    process.until(lambda: process.says("(19 classes of cityscapes) on cpu"))
    assert process.end() == 0


def test_arguments_that_change_nothing_are_named(start, small_model, tmp_path):
    (tmp_path / "p.yaml").write_text("segmentation:\n  ros__parameters: {alpha: 0.1}\n")
    arguments = ["--params-file", str(tmp_path / "p.yaml"), "-p", "autostart:=false"]
    arguments += ["-r", "~/image:=/a", "-r", "~/image:=/b"]
    process = start("segmentation_node", "--ros-args", *arguments)
    process.until(lambda: process.says("is remapped twice"))
    assert process.says(
        "p.yaml sets nothing of this node: its parameters are for segmentation; name /segmentation_node"
    )
    assert process.says("~/image is remapped twice: /a holds, /b does not")
    assert process.end() == 0


@pytest.mark.parametrize(
    ("name", "number", "code"),
    [
        ("segmentation_node", signal.SIGINT, 0),
        ("segmentation_node", signal.SIGHUP, 0),
        ("camera_player", signal.SIGINT, 0),
        ("recorder", signal.SIGINT, 0),
        ("evaluation_node", signal.SIGTERM, 2),
    ],
)
def test_a_signal_while_modules_are_imported_ends_it_at_once(start, ros_env, monkeypatch, tmp_path, name, number, code):
    # Tells that the imports have begun, and makes them last.
    (tmp_path / "rclpy").mkdir()
    code_of_it = f"import os, time\nos.mkdir({str(tmp_path / 'begun')!r})\nwhile True:\n    time.sleep(0.01)\n"
    (tmp_path / "rclpy" / "__init__.py").write_text(code_of_it)
    path = ros_env.get("PYTHONPATH", "")
    monkeypatch.setitem(ros_env, "PYTHONPATH", f"{tmp_path}{os.pathsep}{path}")
    process = start(name, imports=True)
    process.until((tmp_path / "begun").exists)
    assert process.end(number) == code
    assert process.log.read_text().count("\n") == (code == 2)


def test_help_is_a_few_lines_and_starts_nothing(start):
    process = start("segmentation_node", "--help")
    assert process.ends() == 0
    lines = process.log.read_text().splitlines()
    assert lines[0].startswith("usage: segmentation_node [--ros-args ") and len(lines) < 6
