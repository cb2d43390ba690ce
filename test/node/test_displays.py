"""The configurations of RViz and Foxglove name topics that the node publishes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.process

CONFIG = Path(__file__).resolve().parents[2] / "config"
CAMERA = {"/camera/image": "sensor_msgs/msg/Image"}  # of the drive


@pytest.fixture(scope="module")
def rviz() -> dict:
    return yaml.safe_load((CONFIG / "m2f.rviz").read_text())


@pytest.fixture(scope="module")
def foxglove() -> dict:
    return json.loads((CONFIG / "m2f_foxglove.json").read_text())


@pytest.fixture
def published(start, peer, small_model) -> dict[str, str]:
    """Topic -> type, of the camera and of the node as the launch files name it."""
    start(
        "segmentation_node",
        *("--ros-args", "-r", "__node:=segmentation", "-r", "~/image:=/camera/image"),
        *("-p", f"model:={small_model}", "-p", "device:=cpu", "-p", "backend:=eager"),
    )

    def topics() -> dict[str, str]:
        there = peer.node.get_topic_names_and_types()
        return {name: kinds[0] for name, kinds in there if peer.node.count_publishers(name)}

    # The last that the node creates.
    peer.until(lambda: {"/segmentation/stats", "/diagnostics"} <= topics().keys(), "the node's topics")
    return topics() | CAMERA


def panels(layout: str | dict) -> Iterator[str]:
    """Names of the panels in a layout of Foxglove: a panel, or two halves."""
    if isinstance(layout, str):
        yield layout
    else:
        assert layout["direction"] in ("row", "column") and 0 < layout.get("splitPercentage", 50) < 100
        yield from panels(layout["first"])
        yield from panels(layout["second"])


def test_rviz_shows_camera_overlay_and_labels(rviz, published):
    displays = {d["Name"]: d for d in rviz["Visualization Manager"]["Displays"]}
    assert {"Camera", "Overlay", "Labels"} <= {name for name, d in displays.items() if d["Enabled"]}
    for name, display in displays.items():
        assert display["Class"] == "rviz_default_plugins/Image"
        assert published[display["Topic"]["Value"]] == "sensor_msgs/msg/Image", name
        # A reader that asks for more than a camera offers gets nothing; one that asks for less than the node does gets
        # half of what is above 16 MiB.
        assert display["Topic"]["Reliability Policy"] == ("Best Effort" if name == "Camera" else "Reliable")
        assert name in rviz["Window Geometry"]


def test_foxglove_shows_camera_overlay_labels_diagnostics_and_times(foxglove, published):
    msg = pytest.importorskip("m2f_ros.msg")
    configured = foxglove["configById"]
    assert sorted(panels(foxglove["layout"])) == sorted(configured)
    shown = set()
    for name, panel in configured.items():
        kind = name.partition("!")[0]
        if kind == "Image":
            shown.add(panel["imageMode"]["imageTopic"])
            assert published[panel["imageMode"]["imageTopic"]] == "sensor_msgs/msg/Image"
        elif kind == "Plot":
            for path in panel["paths"]:
                topic, field = re.fullmatch(r"(/[\w/]+)\.(\w+)", path["value"]).groups()
                assert path["enabled"] and published[topic] == "m2f_ros/msg/Stats"
                assert field in msg.Stats.get_fields_and_field_types()
        else:
            assert kind in ("DiagnosticSummary", "DiagnosticStatusPanel")
            shown.add(panel["topicToRender"])
            assert published[panel["topicToRender"]] == "diagnostic_msgs/msg/DiagnosticArray"
    assert shown == {"/camera/image", "/segmentation/overlay", "/segmentation/color", "/diagnostics"}
