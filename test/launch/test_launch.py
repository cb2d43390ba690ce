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

TIMEOUT = 60.0  # seconds until a thing that should happen is taken for lost
RUN = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
source = PythonLaunchDescriptionSource(sys.argv[1])
arguments = [tuple(argument.split(":=", 1)) for argument in sys.argv[2:]]
service = LaunchService()
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(source, launch_arguments=arguments)]))
sys.exit(service.run())
"""


@pytest.fixture
def run(tmp_path):
    """run(file, *arguments, until, code) -> what it said until then, after SIGINT or its own end, with that exit code.

    Without `until` it has to end by itself.
    """
    from m2f_ros.processes.children import environment, executable

    share = executable("segmentation_node").parents[2] / "share" / "m2f_ros" / "launch"

    def run(name: str, *arguments: str, until: str = "", code: int = 0) -> str:
        log = tmp_path / "log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-c", RUN, str(share / name), *arguments],
                env=environment() | {"ROS_LOG_DIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        try:
            deadline = time.monotonic() + TIMEOUT
            while not (until and until in log.read_text()) and process.poll() is None:
                assert time.monotonic() < deadline, f"{until!r} was not said: {log.read_text()}"
                time.sleep(0.1)
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT) == code, log.read_text()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        text = log.read_text()
        assert until in text and "Traceback" not in text, text
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
        until="[robot.segmentation]: model",
    )
    assert "on cpu (eager, fp32)" in said and "for /cam/image_raw" in said


def test_the_fast_dds_profile_is_said(run, small_model, monkeypatch, tmp_path):
    arguments = ("image:=/cam/image_raw", f"model:={small_model}", "device:=cpu", "backend:=eager")
    monkeypatch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "UDPv4")
    for variable in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"):
        monkeypatch.delenv(variable, raising=False)
    said = run("m2f.launch.py", *arguments, until="[segmentation]: loading")
    assert "no Fast DDS profile: FASTDDS_BUILTIN_TRANSPORTS is set to UDPv4" in said


def test_arguments_go_before_the_file(run, small_model, tmp_path):
    file = tmp_path / "parameters.yaml"
    file.write_text("/**:\n  ros__parameters:\n    model: /no/such/model\n    device: cpu\n    backend: eager\n")
    arguments = ("image:=/cam/image_raw", f"model:={small_model}", f"params_file:={file}")
    assert "on cpu (eager, fp32)" in run("m2f.launch.py", *arguments, until="[segmentation]: model")


def test_several_cameras(run, small_model):
    said = run(
        "multi_camera.launch.py",
        f"model:={small_model}",
        "device:=cpu",
        "backend:=eager",
        "image:=/NAME/image_color",
        until="[segmentation]: model",
    )
    assert "for /front/image_color, /left/image_color, /rear/image_color/compressed" in said


def test_the_demo_ends_with_its_source(run, small_model):
    said = run(
        "demo.launch.py",
        *(f"model:={small_model}", "device:=cpu", "backend:=eager", "frames:=3"),
        until="[camera_player-2]: process has finished cleanly",
    )
    assert "[segmentation]: model" in said


@pytest.mark.parametrize("pictures", ["true", "false"])
def test_a_replayed_drive_ends_with_its_report(run, small_model, tmp_path, pictures):
    pytest.importorskip("jinja2", reason="the extra 'eval' is not installed")
    pytest.importorskip("matplotlib", reason="the extra 'eval' is not installed")
    from m2f_ros.replay.make_bag import make_bag
    from m2f_ros.sources.open import open_source

    make_bag(open_source("street", frames=3), tmp_path / "drive", transport="compressed")
    said = run(
        "replay.launch.py",
        *(f"bag:={tmp_path / 'drive'}", f"out:={tmp_path / 'report'}", "player:=camera_player"),
        *("transport:=compressed", "speed:=0.5", "measures:=boundary", f"pictures:={pictures}"),
        *(f"model:={small_model}", "device:=cpu", "backend:=eager", "name:=seg", "namespace:=robot"),
    )
    assert "of 3 frames scored" in said and "scoring the recording" in said
    frames = json.loads((tmp_path / "report" / "result.json").read_text())["frames"]
    assert frames["truth"] == frames["scored"] + frames["missing"] == 3


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
        ("m2f.launch.py", ["image:=/a", "cameras:=b,c"], "image:=/a is one topic for 2 cameras: put NAME"),
        ("demo.launch.py", ["frames:=1.5"], "frames:=1.5 must be an integer from 0 to 2147483648"),
        ("demo.launch.py", ["max_rate:=-1"], "max_rate:=-1 must be a number from 0.0 to 1000.0"),
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


def test_a_replay_that_is_refused_leaves_no_earlier_report(run, tmp_path):
    from m2f_ros.results import MARK, Results

    with Results(tmp_path / "report", "m2f eval") as results:
        for name in ("result.json", "report.md", "report.html"):
            results.new(name).write_text("earlier")
    (tmp_path / "report" / "notes.txt").write_text("of the user")
    run("replay.launch.py", "bag:=street", "speed:=abc", f"out:={tmp_path / 'report'}", code=1)
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"notes.txt", MARK}


def test_a_player_that_fails_ends_the_replay(run, small_model):
    said = run("replay.launch.py", "bag:=/nonexist", "evaluate:=false", f"model:={small_model}", "device:=cpu")
    assert "camera_player: error: " in said


@pytest.mark.parametrize("name", ["m2f.launch.py", "multi_camera.launch.py", "demo.launch.py", "replay.launch.py"])
def test_every_argument_is_described(name):
    from launch.launch_description_sources import get_launch_description_from_python_launch_file

    path = Path(__file__).resolve().parents[2] / "launch" / name
    arguments = get_launch_description_from_python_launch_file(str(path)).get_launch_arguments()
    assert arguments
    # Without a description launch says so itself; with choices it adds them.
    assert [a.name for a in arguments if len(a.description) < 20 or "no description" in a.description] == []
