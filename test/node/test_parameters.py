"""The table of parameters, and the files that are made from it. Needs no ROS."""

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from m2f_ros.errors import ConfigError
from m2f_ros.frame.outputs import SPATIAL_NAMES
from m2f_ros.node.parameters import (
    CAMERA,
    NODE,
    CameraSettings,
    NodeSettings,
    Parameter,
    camera_table,
    check_cameras,
)
from m2f_ros.node.reference import markdown_text, node_text, policy_text, yaml_text
from m2f_ros.pipeline import backends, resize, segmenter

ROOT = Path(__file__).resolve().parents[2]
ROWS = [*NODE, *CAMERA]
by_name = {row.name: row for row in ROWS}


def each(rows):
    return pytest.mark.parametrize("row", rows, ids=lambda row: row.name)


def test_names_are_unique():
    assert len(by_name) == len(ROWS)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("max_rate", "5", 5.0),
        ("slots", "3", 3),
        ("max_rate", "abc", None),
        ("slots", "9", None),
        ("alpha", "nan", None),
    ],
)
def test_an_argument_is_read_as_its_parameter(name, text, value):
    if value is not None:
        assert (by_name[name].read(text), type(by_name[name].read(text))) == (value, type(value))
    else:
        with pytest.raises(ConfigError, match=f"^{name}:={text} must be an? (number|integer) from .* to "):
            by_name[name].read(text)


@each(ROWS)
def test_a_default_is_one_of_its_values(row):
    row.check(row.default)
    assert row.description.endswith((".", "…"))


@each([row for row in ROWS if row.range])
def test_bounds_are_accepted_and_what_is_beyond_is_refused(row):
    low, high = row.range
    kind = type(row.default)
    step = 1 if kind is int else 1e-3
    for value in row.range:
        assert row.check(kind(value)) == value
    for value in (low - step, high + step):
        with pytest.raises(ConfigError, match=f"'{row.name}' must be .* from {low} to {high}"):
            row.check(kind(value))


@each([row for row in ROWS if row.choices])
def test_choices_are_accepted_and_no_others(row):
    many = isinstance(row.default, tuple)
    for choice in row.choices:
        assert row.check([choice] if many else choice) == ((choice,) if many else choice)
    with pytest.raises(ConfigError, match=str(row.choices[-1])):
        row.check(["none of them"] if many else "none of them")


@given(st.sampled_from(ROWS), st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary())
def test_a_value_has_the_type_of_the_default_or_is_refused(row, value):
    try:
        checked = row.check(value)
    except ConfigError as error:
        assert f"'{row.name}'" in str(error) and "\n" not in str(error)
    else:
        assert type(checked) is type(row.default) and checked == value


def test_no_number_is_no_value():
    with pytest.raises(ConfigError, match="'alpha'"):
        by_name["alpha"].check(math.nan)


def test_empty_texts_are_left_out_of_lists():
    assert Parameter("x", ("",), "X.").check(["", "a", ""]) == ("a",)


def test_choices_are_those_of_the_pipeline():
    assert set(by_name["outputs"].choices) == (segmenter.OUTPUTS - {"shares"}) | {*SPATIAL_NAMES}
    assert by_name["resize"].choices == resize.MODES
    assert set(by_name["backend"].choices) == {*backends.NAMES, *backends.EXPORTED}
    assert set(by_name["precision"].choices) == {"auto", *backends.PRECISIONS}


def test_a_cameras_own_parameters_begin_with_the_shared_ones():
    table = camera_table("front", CameraSettings(max_rate=7.0, outputs=()))
    assert table["camera.front.max_rate"].default == 7.0
    assert table["camera.front.outputs"].default == ("",)
    assert {name.rpartition(".")[2] for name in table} == {row.name for row in CAMERA}


@pytest.mark.parametrize("names", [["a/b"], ["1st"], ["a", "b", "a"], ["a__b"], ["ö"], [" "]])
def test_a_name_that_no_topic_can_have_is_refused(names):
    with pytest.raises(ConfigError, match="'cameras'"):
        check_cameras(names)


def test_without_names_there_is_one_camera():
    assert check_cameras([]) == ("",)
    assert check_cameras(["front", "rear_2"]) == ("front", "rear_2")


def test_the_files_are_what_the_table_makes():
    again = "; run: python -m m2f_ros.node.reference"
    assert (ROOT / "config" / "m2f.yaml").read_text(encoding="utf-8") == yaml_text(), again
    assert (ROOT / "docs" / "parameters.md").read_text(encoding="utf-8") == markdown_text(), again
    for path, made in ((ROOT / "docs" / "node.md", node_text), (ROOT / "config" / "sros2_policy.xml", policy_text)):
        text = path.read_text(encoding="utf-8")
        assert made(text) == text, again


def test_the_yaml_has_every_parameter_with_its_default():
    values = yaml.safe_load(yaml_text())["/**"]["ros__parameters"]
    assert {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()} == {
        row.name: row.default for row in ROWS
    }


CONFIGS = sorted(path for path in (ROOT / "config").rglob("*.yaml") if "ros__parameters" in path.read_text())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_files_hold_known_parameters_and_good_values(path):
    for name, node in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        if name not in ("/**", "segmentation_node"):  # of Nav2
            continue
        values = dict(node["ros__parameters"])
        cameras = values.pop("camera", {})
        for name, value in [*values.items(), *(pair for camera in cameras.values() for pair in camera.items())]:
            by_name[name].check(value)


def test_in_nav2_every_output_in_space_can_be_had():
    values = yaml.safe_load((ROOT / "config" / "nav2_params.yaml").read_text(encoding="utf-8"))
    assert {*SPATIAL_NAMES} <= {*values["segmentation_node"]["ros__parameters"]["outputs"]}


def test_numbers_are_as_many_as_they_must_be():
    row = by_name["extrinsics"]
    assert row.check([1, 2.5, 0, 0, 0, -1]) == (1.0, 2.5, 0.0, 0.0, 0.0, -1.0)
    assert row.check([0.0]) == row.check([]) == ()
    for wrong in ([1.0] * 5, [0.0, 0.0], [math.nan] * 6, ["1"] * 6, [True] * 6, "123456", b"123456", 1.0, None):
        with pytest.raises(ConfigError, match=r"'extrinsics' must be a list of 6 numbers, or \[0.0\] for none, not"):
            row.check(wrong)
    with pytest.raises(ConfigError, match=r"'grid\.x' must be a list of 2 numbers, not"):
        by_name["grid.x"].check([0.0])


def test_a_point_in_a_name_is_an_underscore_in_its_field():
    assert (by_name["points.stride"].field, NodeSettings().points_stride) == ("points_stride", 2)
    table = camera_table("front", CameraSettings(extrinsics=(1.0,) * 6))
    assert table["camera.front.extrinsics"].default == (1.0,) * 6
    assert camera_table("front", CameraSettings())["camera.front.extrinsics"].default == (0.0,)
