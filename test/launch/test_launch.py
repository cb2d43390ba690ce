"""The launch files, run for real."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="rclpy is absent")
pytest.importorskip("launch", reason="launch is absent")
pytest.importorskip("launch_ros", reason="launch_ros is absent")

pytestmark = pytest.mark.timeout(900)
# Seconds until a thing that should happen is taken for lost. Two replays took two minutes on a very busy machine.
TIMEOUT = 400.0
LAUNCH_FILES = sorted(path.name for path in (Path(__file__).resolve().parents[2] / "launch").glob("*.launch.py"))
RUN = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros import actions
from launch_ros.actions import SetParameter
Push = actions.PushROSNamespace if hasattr(actions, "PushROSNamespace") else actions.PushRosNamespace  # on Humble
source = PythonLaunchDescriptionSource(sys.argv[1])
arguments = [tuple(argument.split(":=", 1)) for argument in sys.argv[3:]]
include = lambda more: IncludeLaunchDescription(source, launch_arguments=arguments + more)
robots = [name for name in sys.argv[2].split(",") if name]
groups = [
    GroupAction(
        [Push(name), SetParameter("use_sim_time", True), include([("out", f"out_{name}")])],
        forwarding=False,
    )
    for name in robots
]
service = LaunchService()
service.include_launch_description(LaunchDescription(groups or [include([])]))
sys.exit(service.run())
"""


@pytest.fixture
def run(tmp_path):
    """run(file, *arguments, until, code, robots, then) -> what it said until all of `until`.

    It then gets SIGINT, or ends by itself, with that exit code. Without `until` it has to end by itself.

    robots: namespaces under each of which a launch file includes it, with use_sim_time set. then: function to call
    before SIGINT.
    """
    from m2f_ros.processes.children import environment, executable

    share = executable("segmentation_node").parents[2] / "share" / "m2f_ros" / "launch"

    def run(name: str, *arguments: str, until: str | tuple = (), code: int = 0, robots: str = "", then=None) -> str:
        log = tmp_path / "log"
        until = (until,) if isinstance(until, str) else until

        def happened() -> bool:
            said = log.read_text()
            return bool(until) and all(text in said for text in until)

        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-c", RUN, str(share / name), robots, *arguments],
                cwd=tmp_path,
                env=environment() | {"ROS_LOG_DIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        try:
            deadline = time.monotonic() + TIMEOUT
            while not happened() and process.poll() is None:
                assert time.monotonic() < deadline, f"{until!r} was not said: {log.read_text()}"
                time.sleep(0.1)
            if process.poll() is None:
                if then:
                    then()
                process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT) == code, log.read_text()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        text = log.read_text()
        assert (happened() or not until) and "Traceback" not in text, text
        return text

    return run


def test_one_camera(run, small_model):
    said = run(
        "m2f.launch.py",
        "image:=/cam/image_raw",
        "namespace:=robot",
        f"model:={small_model}",
        "device:=cpu",
        "backend:=eager",
        "max_rate:=5",
        "image_sizes:=96x64, 640x480",
        until="[robot.segmentation_node]: model",
    )
    assert "on cpu (eager, fp32)" in said and "for /cam/image_raw" in said


@pytest.fixture
def values(monkeypatch):
    """values(node, *names) -> values of a node's parameters."""
    import rclpy
    from rcl_interfaces.srv import GetParameters
    from rclpy.parameter import parameter_value_to_python

    from m2f_ros.processes.children import environment

    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    context = rclpy.Context()
    rclpy.init(context=context)
    peer = rclpy.create_node("peer", context=context)
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(peer)

    def values(node: str, *names: str) -> list:
        client = peer.create_client(GetParameters, f"{node}/get_parameters")
        assert client.wait_for_service(TIMEOUT)
        future = client.call_async(GetParameters.Request(names=names))
        executor.spin_until_future_complete(future, TIMEOUT)
        return [parameter_value_to_python(value) for value in future.result().values]

    yield values
    executor.shutdown()
    peer.destroy_node()
    context.shutdown()


SMALL = ("device:=cpu", "backend:=eager", "image_sizes:=64x32")


def test_an_argument_that_is_not_given_changes_nothing(run, small_model, values, tmp_path):
    """SetParameter and files reach the node, under a pushed namespace; of two files the later holds."""
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(
        "/**:\n  ros__parameters: {jpeg_quality: 10, max_rate: 1.0, model: /no}\n"
        "/a/segmentation_node:\n  ros__parameters: {alpha: 0.1, max_rate: 1.0}\n"
        "/b/segmentation_node:\n  ros__parameters: {alpha: 0.2, max_rate: 2.0, use_sim_time: false}\n"
    )
    second.write_text("/**:\n  ros__parameters: {jpeg_quality: 30, max_rate: 3.0, model: /no}\n")
    found = {}

    def look() -> None:
        for robot in ("a", "b"):
            names = ("alpha", "jpeg_quality", "max_rate", "use_sim_time", "track", "outputs", "autostart")
            found[robot] = values(f"/{robot}/segmentation_node", *names)

    run(
        "m2f.launch.py",
        *("image:=camera/image", f"model:={small_model}", *SMALL, f"params_file:={first}, {second}", "max_rate:=9"),
        *("outputs:=label, overlay", "autostart:=True"),
        robots="a,b",
        until=tuple(f"[{robot}.segmentation_node]: model '{small_model}'" for robot in "ab"),
        then=look,
    )
    assert found["a"] == [0.1, 30, 9.0, True, True, ["label", "overlay"], True]
    assert found["b"] == [0.2, 30, 9.0, False, True, ["label", "overlay"], True]


def test_the_example_of_two_robots(run, tmp_path):
    """The launch file in docs/launch.md, as it is there."""
    actions = pytest.importorskip("launch_ros.actions")
    if not hasattr(actions, "PushROSNamespace"):
        pytest.skip("launch_ros of Humble has PushRosNamespace")
    page = (Path(__file__).resolve().parents[2] / "docs" / "launch.md").read_text()
    file = tmp_path / "two_robots.launch.py"
    file.write_text(page.partition("```python\n")[2].partition("```")[0])
    said = run(str(file), until=("[robot1.segmentation_node]: model", "published on /robot2/camera/image_raw"))
    assert "for /robot1/camera/image_raw" in said and "[robot2.segmentation_node]: loading" not in said


def test_the_level_of_the_log_is_the_nodes(run, small_model):
    arguments = ("image:=camera/image", f"model:={small_model}", *SMALL)
    said = run("m2f.launch.py", *arguments, "log_level:=WARN", robots="/far/off", until="/far/off/camera/image, nor")
    assert "loading model" not in said and "WARN" in said


def test_a_node_that_ends_is_started_again(run, tmp_path):
    def again() -> None:
        deadline = time.monotonic() + TIMEOUT
        while (tmp_path / "log").read_text().count("process started with pid") < 2:
            assert time.monotonic() < deadline, "it was not started again"
            time.sleep(0.1)

    arguments = ("image:=/a", "model:=/no/such/model", "respawn:=True", "respawn_delay:=0.1")
    run("m2f.launch.py", *arguments, until="process has died", then=again)


def test_the_fast_dds_profile_is_said(run, small_model, monkeypatch, tmp_path):
    arguments = ("image:=/cam/image_raw", f"model:={small_model}", "device:=cpu", "backend:=eager")
    monkeypatch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "UDPv4")
    for variable in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"):
        monkeypatch.delenv(variable, raising=False)
    said = run("m2f.launch.py", *arguments, until="[segmentation_node]: loading")
    assert "no Fast DDS profile: FASTDDS_BUILTIN_TRANSPORTS is set to UDPv4" in said


def test_arguments_go_before_the_file(run, small_model, tmp_path):
    file = tmp_path / "parameters.yaml"
    file.write_text("/**:\n  ros__parameters:\n    model: /no/such/model\n    device: cpu\n    backend: eager\n")
    arguments = ("image:=/cam/image_raw", f"model:={small_model}", f"params_file:={file}")
    assert "on cpu (eager, fp32)" in run("m2f.launch.py", *arguments, until="[segmentation_node]: model")


def test_several_cameras(run, small_model):
    said = run(
        "multi_camera.launch.py",
        f"model:={small_model}",
        "device:=cpu",
        "backend:=eager",
        "image:=/NAME/image_color",
        until="[segmentation_node]: model",
    )
    assert "for /front/image_color, /left/image_color, /rear/image_color/compressed" in said


def test_the_demo_ends_with_its_source(run, small_model):
    said = run(
        "demo.launch.py",
        *(f"model:={small_model}", "device:=cpu", "backend:=eager", "frames:=3"),
        until="[camera_player-2]: process has finished cleanly",
    )
    assert "[segmentation_node]: model" in said


def test_two_demos_in_one_launch_end_each_with_its_own_source(run, small_model):
    said = run("demo.launch.py", f"model:={small_model}", *SMALL, "frames:=3", robots="a,b")
    assert said.count("the source has ended") == 2 and "there are now" not in said
    for number in (1, 2):
        assert f"[segmentation_node-{number * 2 - 1}]: process has finished cleanly" in said, said


def test_two_replays_in_one_launch_have_a_report_each(run, small_model, tmp_path):
    pytest.importorskip("jinja2", reason="the extra 'eval' is not installed")
    pytest.importorskip("matplotlib", reason="the extra 'eval' is not installed")
    drive = ("bag:=street", "frames:=4", "measures:=", "keep:=False", "speed:=0.5", "patience:=100")
    run("replay.launch.py", *drive, f"model:={small_model}", "device:=cpu", "backend:=eager", robots="a,b")
    for robot in "ab":
        frames = json.loads((tmp_path / f"out_{robot}" / "result.json").read_text())["frames"]
        assert frames["truth"] == 4 and frames["scored"] + frames["missing"] == 4
        assert not (tmp_path / f"out_{robot}" / "recording").exists()


@pytest.mark.parametrize("pictures", ["true", "False"])
def test_a_replayed_drive_ends_with_its_report(run, small_model, tmp_path, pictures):
    pytest.importorskip("jinja2", reason="the extra 'eval' is not installed")
    pytest.importorskip("matplotlib", reason="the extra 'eval' is not installed")
    from m2f_ros.replay.make_bag import make_bag
    from m2f_ros.sources.open import open_source

    make_bag(open_source("street", frames=3), tmp_path / "drive", transport="compressed")
    said = run(
        "replay.launch.py",
        *(f"bag:={tmp_path / 'drive'}", f"out:={tmp_path / 'report'}", "player:=camera_player"),
        *("transport:=compressed", "speed:=0.5", "measures:=boundary", f"pictures:={pictures}", "patience:=100"),
        *(f"model:={small_model}", "device:=cpu", "backend:=eager", "name:=seg", "namespace:=robot"),
    )
    assert "of 3 frames scored" in said and "scoring the recording" in said
    frames = json.loads((tmp_path / "report" / "result.json").read_text())["frames"]
    assert frames["truth"] == frames["scored"] + frames["missing"] == 3


def test_the_size_of_the_images_of_a_drive(tmp_path):
    from m2f_ros.node.launching import image_size
    from m2f_ros.replay.make_bag import make_bag
    from m2f_ros.sources.open import open_source

    make_bag(open_source("street", frames=1), tmp_path / "drive")
    assert image_size("street") == image_size(str(tmp_path / "drive"), "/camera/image") == "640x480"
    # The player says the fault of these.
    assert image_size(str(tmp_path / "drive"), "/other") == image_size("/nothing") == image_size("/dev/video0") == ""


@pytest.mark.parametrize(
    ("given", "files", "expected"),
    [("", [], "640x480"), ("", ["alpha"], "640x480"), ("64x32", [], "64x32"), ("", ["alpha", "image_sizes"], "")],
)
def test_what_the_launch_file_knows_gives_way_to_arguments_and_files(tmp_path, given, files, expected):
    from launch import LaunchContext

    from m2f_ros.node.launching import default

    paths = [tmp_path / f"{name}.yaml" for name in files]
    for name, path in zip(files, paths, strict=True):
        path.write_text(f"/**:\n  ros__parameters: {{{name}: 0}}\n")
    context = LaunchContext()
    context.launch_configurations.update({"image_sizes": given, "params_file": ", ".join(map(str, paths))})
    for action in default(context, "image_sizes", "640x480"):
        action.execute(context)
    assert context.launch_configurations["image_sizes"] == expected
    assert default(context, "taxonomy", "") == []


@pytest.mark.parametrize(
    ("name", "arguments", "line"),
    [
        ("m2f.launch.py", ["image:=/a", "alpha:=abc"], "alpha:=abc must be a number from 0.0 to 1.0"),
        ("m2f.launch.py", ["image:=/a", "params_file:=/nope.yaml"], "params_file:=/nope.yaml: there is no such file"),
        (
            "m2f.launch.py",
            ["image:=/a", "image_sizes:=96x64,640"],
            "'image_sizes': '640' is no size; take WIDTH",
        ),
        ("m2f.launch.py", ["image:=/a", "params_file:=/dev/null, /nope.yaml"], "params_file:=/dev/null: there is no"),
        ("m2f.launch.py", ["image:=/a", "outputs:=label,lable"], "parameter 'outputs' must be a list of label"),
        ("m2f.launch.py", ["image:=/a", "respawn_delay:=soon"], "respawn_delay:=soon must be a number from 0.0"),
        ("m2f.launch.py", ["image:=/a", "web:=true", "web_port:=soon"], "web_port:=soon must be an integer from 1"),
        ("replay.launch.py", ["bag:=street", "measures:=speed"], "'measures' must be a list of boundary"),
        ("m2f.launch.py", ["image:=/a", "cameras:=b,c"], "image:=/a is one topic for 2 cameras: put NAME"),
        ("demo.launch.py", ["frames:=1.5"], "frames:=1.5 must be an integer from 0 to 2147483648"),
        ("demo.launch.py", ["max_rate:=-1"], "max_rate:=-1 must be a number from 0.0 to 1000.0"),
        ("replay.launch.py", ["bag:=street", "patience:=-1"], "patience:=-1 must be a number from 0.0 to 3600.0"),
        ("replay.launch.py", ["bag:=street", "speed:=abc"], "speed:=abc must be a number from 0.01 to 100.0"),
        ("replay.launch.py", ["bag:=street", "cameras:=a,b"], "replay.launch.py plays one camera"),
        ("replay.launch.py", ["bag:=street", "out:=/"], "/: is not empty, and has no list of what m2f eval made"),
        pytest.param(
            *("replay.launch.py", ["bag:=street", "player:=rosbag2"], "player:=rosbag2 needs `ros2 bag play`"),
            marks=pytest.mark.skipif(shutil.which("ros2") is not None, reason="ros2 is installed"),
        ),
    ],
)
def test_a_wrong_argument_is_one_line_before_anything_starts(run, name, arguments, line):
    said = run(name, *arguments, code=1)
    assert line in said and said.count("ERROR") == 1 and "process started" not in said


def test_a_replay_that_is_refused_keeps_the_last_report(run, tmp_path):
    from m2f_ros.results import MARK, Results

    with Results(tmp_path / "report", "m2f eval") as results:
        for name in ("result.json", "report.md", "report.html"):
            results.new(name).write_text("earlier")
    (tmp_path / "report" / "notes.txt").write_text("of the user")
    for wrong in ("speed:=abc", "alpha:=2", "measures:=speed", "cameras:=a", "params_file:=/nope.yaml"):
        run("replay.launch.py", "bag:=street", wrong, f"out:={tmp_path / 'report'}", code=1)
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {"result.json", "report.md", "report.html", "notes.txt", MARK}


def test_a_replay_without_a_model_keeps_the_last_report_by_another_name(run, tmp_path):
    from m2f_ros.results import Results

    with Results(tmp_path / "report", "m2f eval") as results:
        results.new("result.json").write_text("earlier")
    said = run("replay.launch.py", "bag:=street", "model:=/no/such/model", f"out:={tmp_path / 'report'}")
    assert "/no/such/model" in said and "process has died" in said
    assert (tmp_path / "report" / "previous" / "result.json").read_text() == "earlier"
    assert not (tmp_path / "report" / "result.json").exists()


def test_a_player_that_fails_ends_the_replay(run, small_model):
    said = run("replay.launch.py", "bag:=/nonexist", "evaluate:=false", f"model:={small_model}", "device:=cpu")
    assert "camera_player: error: " in said


@pytest.mark.parametrize("name", LAUNCH_FILES)
def test_every_argument_is_described(name):
    from launch.launch_description_sources import get_launch_description_from_python_launch_file

    path = Path(__file__).resolve().parents[2] / "launch" / name
    arguments = get_launch_description_from_python_launch_file(str(path)).get_launch_arguments()
    assert arguments
    # Without a description launch says so itself; with choices it adds them.
    assert [a.name for a in arguments if len(a.description) < 20 or "no description" in a.description] == []
