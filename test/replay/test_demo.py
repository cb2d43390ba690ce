"""m2f demo: three real processes over DDS, and what they leave; and how it fails."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from rosbags.highlevel import AnyReader

from m2f_ros.errors import ConfigError
from m2f_ros.replay.demo import TOPICS, Options, describe, summarise
from m2f_ros.replay.demo_space import SPACE_TOPICS
from m2f_ros.replay.digest import Digest
from m2f_ros.results import Results

CONFIG = Path(__file__).resolve().parents[2] / "config"
FRAMES = 12
KEYS = (
    *("source", "model", "device", "frames_sent", "frames_received", "frames_segmented"),
    *("frames_dropped", "frames_never_arrived"),
    *("fps", "latency_ms", "miou", "miou_over", "versions"),
)


@pytest.fixture(scope="module")
def ros_env(tmp_path_factory):
    """The environment of the demos. They have one cache: all convert the same network for the same size."""
    pytest.importorskip("rclpy", reason="rclpy is absent")
    pytest.importorskip("m2f_ros.msg", reason="the messages of m2f_ros are not built")
    # With this process' domain: one that the demo takes by itself may be that of another process of pytest-xdist.
    return os.environ | {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}


def demo(env, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "m2f_ros.cli", "demo", *map(str, arguments)]
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def played(ros_env, small_model, tmp_path_factory) -> Path:
    """The folder that a demo of a few frames left, over what an older one had left."""
    out = tmp_path_factory.mktemp("demo") / "it's #1: 50 % 'größe' 😀\x7f"
    with Results(out, "m2f demo") as results:
        results.new("labels/000000_1.png").write_text("of an earlier run")
    (out / "mine.txt").write_text("of the user")
    arguments = ("--model", small_model, "--device", "cpu", "--frames", FRAMES, "--rate", 5, "--out", out)
    result = demo(ros_env, *arguments, cwd=out.parent)
    assert result.returncode == 0, result.stderr
    assert f"of {FRAMES} frames segmented" in result.stdout
    assert re.search(rf"mIoU 0\.\d+ over \d+ of {FRAMES} frames with ground truth, over .*19 classes", result.stdout)
    return out


@pytest.mark.process
def test_summary(played, small_model):
    summary = json.loads((played / "summary.json").read_text())
    assert tuple(summary) == KEYS
    assert (summary["source"], summary["model"]) == ("street", str(small_model))
    assert summary["device"].startswith("cpu")
    assert summary["frames_sent"] == FRAMES
    assert 0 < summary["frames_segmented"] <= FRAMES
    # The newest frame wins, so that the last one is segmented and its count is complete.
    assert summary["frames_segmented"] + summary["frames_dropped"] >= FRAMES - 1
    assert (summary["frames_received"], summary["frames_never_arrived"]) == (FRAMES, 0)
    assert summary["fps"] > 0
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p99"]
    assert 0 <= summary["miou"] <= 1  # of a model that knows nothing
    over = summary["miou_over"]
    assert (over["frames"], over["of"]) == (summary["frames_segmented"], FRAMES)
    assert {"m2f_ros", "torch", "ros"} <= summary["versions"].keys()


def test_frames_that_are_missing_are_said(tmp_path):
    summary = {"source": "images", "model": "street", "device": "cpu", "frames_sent": 2, "frames_segmented": 2,
               "frames_dropped": 0, "frames_never_arrived": 0, "fps": 10.0,
               "latency_ms": {"p50": 1.0, "p99": 2.0}, "miou": None,
               "miou_over": {"frames": 0, "of": 0, "classes": ""}}  # fmt: skip
    assert "error" not in describe(summary, tmp_path)
    lines = describe(summary | {"missing": "a.png is not a readable image"}, tmp_path).splitlines()
    assert lines[-1] == "m2f: error: images: a.png is not a readable image"


def test_frames_that_never_arrived_are_counted_and_the_qos_and_the_profile_named(tmp_path):
    result = Digest(segmented=3, received=8, dropped=5, fps=4.0, latency_ms=np.array([1.0]), miou=None)
    summary = summarise(Options(device="cpu"), 10, result, "QOS; PROFILE")
    counts = [summary[f"frames_{name}"] for name in ("sent", "received", "segmented", "dropped", "never_arrived")]
    assert (counts, summary["transport"]) == ([10, 8, 3, 5, 2], "QOS; PROFILE")
    lines = describe(summary, tmp_path).splitlines()
    assert lines[1] == "3 of 10 frames segmented, 5 dropped for a newer one, 2 never arrived, 4.0 a second"
    assert lines[3].startswith("DDS lost the frames that never arrived: QOS; PROFILE (docs/node.md")
    assert "transport" not in summarise(Options(device="cpu"), 8, result, "QOS; PROFILE")


def test_files(played):
    summary = json.loads((played / "summary.json").read_text())
    assert len(list((played / "labels").iterdir())) == summary["frames_segmented"]
    assert not (played / "labels" / "000000_1.png").exists()
    assert (played / "mine.txt").read_text() == "of the user"
    for name in ("overlay.png", "overlay.mp4", "logs/segmentation_node.log"):
        assert (played / name).stat().st_size > 0
    assert "Traceback" not in "".join(log.read_text() for log in (played / "logs").iterdir())


def test_bag(played):
    summary = json.loads((played / "summary.json").read_text())
    segmented = summary["frames_segmented"]
    with AnyReader([played / "bag"]) as reader:
        topics = {c.topic: (c.msgtype, c.msgcount) for c in reader.connections}
        assert topics.pop("/diagnostics")[0] == "diagnostic_msgs/msg/DiagnosticArray"
        stamps: dict[str, list[int]] = {}
        for connection, _, raw in reader.messages():
            if connection.msgtype == "sensor_msgs/msg/Image":
                message = reader.deserialize(raw, connection.msgtype)
                stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
                stamps.setdefault(connection.topic, []).append(stamp)
                assert (message.width, message.height, message.header.frame_id) == (640, 480, "camera")
    image = "sensor_msgs/msg/Image"
    assert topics == {
        TOPICS.image: (image, FRAMES),
        TOPICS.ground_truth: (image, FRAMES),
        "/camera/camera_info": ("sensor_msgs/msg/CameraInfo", FRAMES),
        TOPICS.label: (image, segmented),
        TOPICS.overlay: (image, segmented),
        TOPICS.color: (image, segmented),
        TOPICS.stats: ("m2f_ros/msg/Stats", segmented),
        TOPICS.legend: ("m2f_ros/msg/Legend", 1),
        f"{TOPICS.ground_truth}/legend": ("m2f_ros/msg/Legend", 1),
    }
    assert stamps[TOPICS.ground_truth] == stamps[TOPICS.image]
    assert stamps[TOPICS.label] == stamps[TOPICS.overlay] == stamps[TOPICS.color]
    assert set(stamps[TOPICS.label]) <= set(stamps[TOPICS.image])


def entries(part: object) -> Iterator[tuple[str, str]]:
    """All keys and texts of a layout."""
    if isinstance(part, dict):
        yield from ((key, value) for key, value in part.items() if isinstance(value, str))
        part = list(part.values())
    if isinstance(part, list):
        yield from (pair for one in part for pair in entries(one))


def test_the_layouts_show_the_bag(played):
    """Each pane of RViz and Foxglove has its topic, and Foxglove's panel of diagnostics its task."""
    rviz = yaml.safe_load((CONFIG / "m2f.rviz").read_text())["Visualization Manager"]["Displays"]
    foxglove = list(entries(json.loads((CONFIG / "m2f_foxglove.json").read_text())))
    shown = {display["Topic"]["Value"] for display in rviz if display["Enabled"]}
    shown |= {value.partition(".")[0] for key, value in foxglove if key in ("imageTopic", "topicToRender", "value")}
    with AnyReader([played / "bag"]) as reader:
        assert shown - {c.topic for c in reader.connections} == set()
        chosen = [c for c in reader.connections if c.topic == "/diagnostics"]
        states = [s for c, _, raw in reader.messages(chosen) for s in reader.deserialize(raw, c.msgtype).status]
    task = [value for key, value in foxglove if key in ("selectedHardwareId", "selectedName")]
    assert task in [[state.hardware_id, state.name] for state in states]


def test_the_network_is_converted_before_the_first_image(played, ros_env):
    pytest.importorskip("openvino", reason="OpenVINO is absent")
    (converted,) = Path(ros_env["XDG_CACHE_HOME"]).rglob("*.blob")
    assert "-480x640-" in converted.name
    with AnyReader([played / "bag"]) as reader:
        images = [c for c in reader.connections if c.topic == TOPICS.image]
        stamps = [reader.deserialize(raw, c.msgtype).header.stamp for c, _, raw in reader.messages(images)]
    assert converted.stat().st_mtime_ns < min(stamp.sec * 10**9 + stamp.nanosec for stamp in stamps)


@pytest.fixture(scope="module")
def in_space(ros_env, small_model, tmp_path_factory) -> Path:
    """The folder that a demo with outputs in space left."""
    out = tmp_path_factory.mktemp("demo") / "space"
    outputs = ("--outputs", "points,lidar,grid,obstacles")
    arguments = ("--model", small_model, "--device", "cpu", "--frames", 6, "--rate", 2, "--out", out, *outputs)
    result = demo(ros_env, *arguments, cwd=out.parent)
    assert result.returncode == 0, result.stderr
    assert f"look at {out / 'points.png'}, {out / 'lidar.png'}, {out / 'grid.png'}, " in result.stdout
    return out


@pytest.mark.process
def test_outputs_in_space_are_recorded_with_what_they_are_made_of(in_space):
    summary = json.loads((in_space / "summary.json").read_text())
    with AnyReader([in_space / "bag"]) as reader:
        counts = {c.topic: c.msgcount for c in reader.connections}
    made = {name: counts[f"/segmentation_node/{name}"] for name in ("points", "lidar", "grid", "obstacles")}
    assert made == summary["outputs"] and min(made.values()) > 0
    assert counts["/camera/depth/image_raw"] == counts["/lidar/points"] == summary["frames_sent"]


@pytest.mark.process
@pytest.mark.parametrize("name", ["points", "lidar", "grid", "obstacles"])
def test_a_picture_lies_beside_the_overlay(in_space, name):
    """The right half shows more than the background."""
    picture = np.asarray(Image.open(in_space / f"{name}.png"))
    assert picture.shape == (480, 1280, 3)
    assert len(np.unique(picture[:, 640:].reshape(-1, 3), axis=0)) > 1  # of a model that knows nothing


@pytest.mark.process
def test_the_layouts_show_what_is_in_space(in_space):
    rviz = yaml.safe_load((CONFIG / "m2f.rviz").read_text())["Visualization Manager"]["Displays"]
    (group,) = (display["Displays"] for display in rviz if "Displays" in display)
    panels = json.loads((CONFIG / "m2f_foxglove.json").read_text())["configById"]
    shown = {display["Topic"]["Value"] for display in group} | set(panels["3D!space"]["topics"])
    with AnyReader([in_space / "bag"]) as reader:
        assert shown == {c.topic for c in reader.connections} & set(SPACE_TOPICS.values())


@pytest.mark.process
def test_an_output_that_is_none(ros_env, tmp_path):
    result = demo(ros_env, "--outputs", "points,holes", cwd=tmp_path)
    assert result.returncode == 2
    assert "m2f: error: outputs: there is no holes; take some of points, detections, lidar" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(find_spec("vision_msgs") is not None, reason="vision_msgs is there")
def test_detections_need_vision_msgs():
    with pytest.raises(ConfigError, match="outputs: detections need vision_msgs"):
        Options(outputs=("points", "detections"))


@pytest.mark.process
def test_a_source_that_is_not_there(ros_env, tmp_path):
    result = demo(ros_env, "--source", "/no/such/source", cwd=tmp_path)
    assert result.returncode == 2
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("m2f: error: /no/such/source: does not exist")
    assert not (tmp_path / "out").exists()


@pytest.mark.process
def test_a_model_that_is_not_there(ros_env, tmp_path):
    result = demo(ros_env, "--model", "/no/such/model", "--frames", 2, cwd=tmp_path)
    assert result.returncode == 2
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("m2f: error: model '/no/such/model' is neither a folder, nor a shipped model")
    assert not (tmp_path / "out").exists()


@pytest.mark.process
def test_no_ros_environment(ros_env, tmp_path):
    env = {**ros_env, "AMENT_PREFIX_PATH": str(tmp_path)}
    result = demo(env, "--frames", 2, cwd=tmp_path)
    assert result.returncode == 1
    assert "segmentation_node is not in the environment" in result.stderr.splitlines()[-1]


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGHUP, marks=pytest.mark.more), signal.SIGKILL])
def test_a_signal_ends_all_processes(ros_env, small_model, tmp_path, number):
    (tmp_path / "images").mkdir()
    Image.frombytes("RGB", (640, 480), os.urandom(3 * 640 * 480)).save(tmp_path / "images" / "0.png")
    for i in range(1, 60):  # read faster than a street is drawn
        os.link(tmp_path / "images" / "0.png", tmp_path / "images" / f"{i}.png")
    arguments = ("--model", str(small_model), "--device", "cpu", "--source", "images", "--out", "out")
    command = [sys.executable, "-m", "m2f_ros.cli", "demo", *arguments]
    process = subprocess.Popen(command, env=ros_env, cwd=tmp_path, stderr=subprocess.PIPE)
    # The recording grows: all three are at work.
    wait_until(process, lambda: sum(f.stat().st_size for f in tmp_path.glob("out/bag/*.mcap")) > 10**6)
    pids = children(process.pid)
    assert len(pids) == 3
    if number == signal.SIGHUP:  # as by Ctrl-Z, and a terminal that is closed then
        process.send_signal(signal.SIGSTOP)
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    assert process.wait(600) == (-number if number == signal.SIGKILL else 128 + number)
    if number == signal.SIGKILL:
        deadline = time.monotonic() + 600
        while any(lives(pid) for pid in pids):
            assert time.monotonic() < deadline, "a child stays"
            time.sleep(0.02)
    assert not any(lives(pid) for pid in pids)
    assert "Traceback" not in process.stderr.read().decode()
    assert "Traceback" not in "".join(log.read_text() for log in tmp_path.glob("out/logs/*"))


@pytest.mark.process
def test_a_signal_while_they_start_leaves_none(ros_env, tmp_path):
    command = [sys.executable, "-m", "m2f_ros.cli", "demo", "--out", "out"]
    process = subprocess.Popen(command, env=ros_env, cwd=tmp_path, stderr=subprocess.PIPE)
    wait_until(process, lambda: children(process.pid))
    group = children(process.pid)
    process.send_signal(signal.SIGINT)
    assert process.wait(600) == 130
    assert "Traceback" not in process.stderr.read().decode()
    assert not any(Path(f"/proc/{pid}").exists() for pid in group)


def wait_until(process: subprocess.Popen, happened) -> None:
    deadline = time.monotonic() + 600
    while not happened():
        assert time.monotonic() < deadline and process.poll() is None, process.stderr.read().decode()
        time.sleep(0.02)


def lives(pid: str) -> bool:
    """Return True if such a process runs. A process that has ended, and that nobody has waited for, does not."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def children(pid: int) -> list[str]:
    """Process ids of the children of a process. Linux only, as the demo is."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
