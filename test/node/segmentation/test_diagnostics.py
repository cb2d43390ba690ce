"""Levels and values of /diagnostics, from counts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from m2f_ros import taxonomy
from m2f_ros.node.segmentation.counts import SpaceCounts, SpaceTally, Tally

pytest.importorskip("rclpy", reason="rclpy is absent")
pytest.importorskip("m2f_ros.msg", reason="the messages of m2f_ros are not built")
from m2f_ros.node.legend import label_info_of
from m2f_ros.node.segmentation.diagnostics import (
    ERROR,
    OK,
    WARN,
    camera_level,
    camera_values,
    percentiles,
    space_level,
    space_values,
)

BEFORE = Tally(arrived=10, received=10, segmented=10, heard=99.0, ages=(20.0,))


@pytest.mark.parametrize(
    ("now", "state", "level", "words"),
    [
        ({}, "inactive", OK, "the node is inactive"),
        ({"heard": None}, "active", WARN, "no image yet"),
        ({"heard": 98.5}, "active", WARN, "no image for 1.5 s"),
        ({"arrived": 20}, "active", OK, "nobody listens"),
        ({"received": 20, "segmented": 19}, "active", OK, "segmenting"),
        ({"received": 20, "segmented": 19, "ages": (600.0, 700.0, 20.0)}, "active", WARN, "0.60 s behind"),
        ({"received": 20, "segmented": 18, "bad": 2, "error": "too small"}, "active", WARN, "2 bad frames: too small"),
        ({"received": 20, "bad": 9, "error": "too small"}, "active", ERROR, "nothing can be segmented: too small"),
        ({"received": 20, "waiting": 98.0}, "active", ERROR, "no result for 2.0 s"),
        ({"received": 20, "waiting": 98.0, "busy": 1.5}, "active", WARN, "at one frame for 1.5 s"),
        ({"received": 20, "waiting": 30.0, "busy": 70.0}, "active", ERROR, "no result for 70.0 s"),
        ({"received": 20, "waiting": 99.5, "busy": 0.5}, "active", OK, "segmenting"),
        ({"received": 20}, "active", OK, "segmenting"),
    ],
)
def test_level_of_a_camera(now, state, level, words):
    fields = {**vars(BEFORE), "heard": 99.9, **now}
    busy = fields.pop("busy", 0.0)
    got, message = camera_level(Tally(**fields), BEFORE, 100.0, state, busy, stale_after=1.0, late_after=0.5)
    assert got == level and words in message


def test_values_of_a_camera():
    now = Tally(arrived=40, received=30, segmented=20, bad=1, dropped={"newer": 9}, error="bad", ages=(10.0, 30.0))
    values = camera_values(now, BEFORE, 2.0)
    assert (values["rate in (Hz)"], values["rate out (Hz)"]) == (15.0, 5.0)
    assert (values["age p50 (ms)"], values["dropped: newer"], values["last error"]) == (20.0, 9, "bad")


def test_no_percentiles_of_nothing():
    assert percentiles("age", ()) == {}


def test_label_info_has_every_class():
    messages = SimpleNamespace(VisionClass=SimpleNamespace, LabelInfo=SimpleNamespace)
    cityscapes = taxonomy.get("cityscapes")
    info = label_info_of(cityscapes, 0.25, messages)
    assert [(c.class_id, c.class_name) for c in info.class_map] == [(c.id, c.name) for c in cityscapes.classes]
    assert info.threshold == 0.25


def test_label_info_is_the_message_of_vision_msgs():
    vision_msgs = pytest.importorskip("vision_msgs.msg", reason="vision_msgs is absent")
    info = label_info_of(taxonomy.get("camvid"), 0.0, vision_msgs)
    assert isinstance(info, vision_msgs.LabelInfo) and info.class_map[0].class_name == "sky"


@pytest.mark.parametrize(
    ("now", "state", "level", "words"),
    [
        ({}, "active", OK, "nobody listens"),
        ({"published": {"grid": 9}}, "inactive", OK, "the node is inactive"),
        ({"published": {"grid": 6}}, "active", OK, "publishing grid"),
        ({"published": {"grid": 6}, "missed": {"grid": 2}}, "active", OK, "publishing grid"),
        ({"missed": {"grid": 2}}, "active", WARN, "grid: no tf"),
        ({"published": {"grid": 6}, "missed": {"points of a": 1}}, "active", WARN, "points of a: no depth"),
        ({"published": {"grid": 6}, "stopped": {"a": "grid of a: flat"}}, "active", WARN, "grid of a: flat"),
        ({"stopped": {"a": "grid of a: flat"}}, "active", OK, "nobody listens"),
    ],
)
def test_level_of_the_outputs_in_space(now, state, level, words):
    before = SpaceTally({"grid": 5}, {"grid": 1}, {"grid": "no tf"})
    fields = vars(before) | {name: getattr(before, name) | value for name, value in now.items()}
    got = space_level(SpaceTally(**fields | {"trouble": {"grid": "no tf", "points of a": "no depth"}}), before, state)
    assert got == (level, words)


def test_values_of_the_outputs_in_space():
    counts = SpaceCounts()
    counts.publish("grid")
    counts.miss("points of a", "no depth")
    counts.miss("points of a", "late depth")
    counts.drop(3)
    counts.ground("a", "by depth images")
    values = space_values(counts.tally(), {"grid": (1.0, 3.0)})
    assert values == {
        "published: grid": 1,
        "missed: points of a": 2,
        "grid p50 (ms)": 2.0,
        "grid p99 (ms)": pytest.approx(2.98),
        "dropped: newer": 3,
        "ground of a": "by depth images",
        "last trouble: points of a": "late depth",
    }
