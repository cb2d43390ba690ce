"""The arguments of m2f.launch.py and `m2f node`, without ROS."""

from __future__ import annotations

import json
import os

import pytest
from click.testing import CliRunner

from m2f_ros.cli import m2f
from m2f_ros.errors import ConfigError
from m2f_ros.node.launch_arguments import ARGUMENTS, PARAMETERS, parse, read


def start(*texts: str):
    return read(parse(["image:=/cam/image_raw", *texts]))


def test_what_is_not_given_changes_nothing() -> None:
    start_ = start()
    assert (start_.parameters, start_.params_files, start_.log_level) == ({}, (), "")
    assert start_.ros_arguments() == ["--ros-args", "-r", "__node:=segmentation_node", "-r", "~/image:=/cam/image_raw"]


def test_every_argument_has_its_type(tmp_path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("/**:\n  ros__parameters:\n    device: cpu\n")
    made = start(
        *("namespace:=/robot/front/", "name:=seg", "model:=123", "alpha:=1", "max_pixels:=2048", "autostart:=False"),
        *("image_sizes:=96x64, 640x480", "outputs:=label", "use_sim_time:=True", "log_level:=DEBUG"),
        *("alpha:=0.25", f"params_file:={file},{file}", "fastdds_profile:=False"),
    )
    assert made.parameters == {
        "image_sizes": ("96x64", "640x480"),
        "outputs": ("label",),
        "model": "123",
        "alpha": 0.25,  # the last
        "max_pixels": 2048,
        "autostart": False,
        "use_sim_time": True,
    }
    assert (made.full_name, made.params_files, made.chooses_profile) == ("/robot/front/seg", (str(file),) * 2, False)
    arguments = made.ros_arguments()
    assert "__ns:=/robot/front" in arguments and "__node:=seg" in arguments and 'model:="123"' in arguments
    assert arguments[-2:] == ["--log-level", "robot.front.seg:=debug"]
    # The values once more, for the node's own name, behind the files.
    files = [arguments[i + 1] for i, option in enumerate(arguments) if option == "--params-file"]
    assert files[:2] == [str(file)] * 2 and len(files) == 3
    with open(files[2]) as again:
        assert json.load(again) == {"/robot/front/seg": {"ros__parameters": json.loads(json.dumps(made.parameters))}}
    os.close(int(files[2].rpartition("/")[2]))


def test_several_cameras() -> None:
    made = read(parse(["image:=/NAME/image_raw", "cameras:=front, left"]))
    assert made.remappings == {"~/front/image": "/front/image_raw", "~/left/image": "/left/image_raw"}
    assert made.parameters == {"cameras": ("front", "left")}


def test_depth_and_cloud() -> None:
    made = start("depth:=/cam/depth", "cloud:=/points", "base_frame:=base", "fixed_frame:=map", "ignore_mask:=a.png")
    assert made.remappings == {"~/image": "/cam/image_raw", "~/depth": "/cam/depth", "~/cloud": "/points"}
    assert made.parameters == {"base_frame": "base", "fixed_frame": "map", "ignore_mask": "a.png"}
    cameras = ("image:=/NAME/image", "cameras:=front,left")
    made = read(parse([*cameras, "depth:=/NAME/depth"]))
    assert made.remappings["~/left/depth"] == "/left/depth" and len(made.remappings) == 4
    with pytest.raises(ConfigError, match="depth:=/depth is one topic for 2 cameras"):
        read(parse([*cameras, "depth:=/depth"]))


@pytest.mark.parametrize(
    ("texts", "line"),
    [
        ([], "image:=… is missing. Topic of the images"),
        (["image"], "'image' is not of the form name:=value, as image:=/camera/image_raw is"),
        (["image:=/a", "--ros-args"], "'--ros-args' is not of the form"),
        (["image:=/a", "devise:=cpu"], "devise:=cpu: there is no argument 'devise'; do you mean device:=…?"),
        (["image:=/a", "slots:=3"], "slots:=3: there is no argument 'slots'; other parameters of the node go into a"),
        (["image:=/a", "transport:=x"], "transport:=x must be one of auto, raw, compressed"),
        (["image:=/a", "autostart:=yes"], "autostart:=yes must be one of true, false"),
        (["image:=/a", "alpha:=abc"], "alpha:=abc must be a number from 0.0 to 1.0"),
        (["image:=/a", "max_pixels:=1.5"], "max_pixels:=1.5 must be an integer from 0 to 67108864"),
        (["image:=/a", "image_sizes:=3"], "'image_sizes': '3' is no size"),
        (["image:=/a", "outputs:=mask"], "'outputs' must be a list of label, overlay"),
        (["image:=/a", "cameras:=a,b"], "image:=/a is one topic for 2 cameras: put NAME"),
        (["image:=/NAME/image"], "image:=/NAME/image: NAME stands for the names in cameras:=, which is empty"),
        (["image:=/a", "depth:=/NAME/depth"], "depth:=/NAME/depth: NAME stands for the names in cameras:="),
        (["image:=/a", "params_file:=/nope.yaml"], "params_file:=/nope.yaml: there is no such file"),
    ],
)
def test_a_wrong_argument_is_one_line(texts, line) -> None:
    with pytest.raises(ConfigError) as error:
        read(parse(texts))
    assert line in str(error.value) and "\n" not in str(error.value)


def test_the_help_lists_every_argument() -> None:
    done = CliRunner().invoke(m2f, ["node", "--help"])
    assert done.exit_code == 0
    assert [a.name for a in ARGUMENTS if f"  {a.name}:=" not in done.output] == []
    assert {*PARAMETERS} < {a.name for a in ARGUMENTS}
