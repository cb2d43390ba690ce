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
# Displays in space, by their names in RViz.
SPACE = {
    "Points": ("PointCloud2", "/segmentation_node/points", "sensor_msgs/msg/PointCloud2"),
    "Lidar": ("PointCloud2", "/segmentation_node/lidar", "sensor_msgs/msg/PointCloud2"),
    "Grid": ("Map", "/segmentation_node/grid", "nav_msgs/msg/OccupancyGrid"),
    "Obstacles": ("LaserScan", "/segmentation_node/obstacles", "sensor_msgs/msg/LaserScan"),
}


@pytest.fixture(scope="module")
def rviz() -> dict:
    return yaml.safe_load((CONFIG / "m2f.rviz").read_text())


@pytest.fixture(scope="module")
def foxglove() -> dict:
    return json.loads((CONFIG / "m2f_foxglove.json").read_text())


@pytest.fixture
def published(start, peer, small_model) -> dict[str, str]:
    """Topic -> type, of the camera and of the node."""
    start(
        "segmentation_node",
        *("--ros-args", "-r", "~/image:=/camera/image"),
        *("-p", f"model:={small_model}", "-p", "device:=cpu", "-p", "backend:=eager"),
    )

    def topics() -> dict[str, str]:
        there = peer.node.get_topic_names_and_types()
        return {name: kinds[0] for name, kinds in there if peer.node.count_publishers(name)}

    # The last that the node creates.
    peer.until(lambda: {"/segmentation_node/stats", "/diagnostics"} <= topics().keys(), "the node's topics")
    return topics() | CAMERA


def panels(layout: str | dict, configured: dict) -> Iterator[str]:
    """Names of the panels in a layout of Foxglove: a panel, one with tabs, or two halves."""
    if isinstance(layout, str):
        yield layout
        for tab in configured[layout].get("tabs", ()):
            yield from panels(tab["layout"], configured)
    else:
        assert layout["direction"] in ("row", "column") and 0 < layout.get("splitPercentage", 50) < 100
        yield from panels(layout["first"], configured)
        yield from panels(layout["second"], configured)


def test_rviz_shows_camera_overlay_and_labels(rviz, published):
    displays = {d["Name"]: d for d in rviz["Visualization Manager"]["Displays"]}
    del displays["In space"]
    assert {"Camera", "Overlay", "Labels"} <= {name for name, d in displays.items() if d["Enabled"]}
    for name, display in displays.items():
        assert display["Class"] == "rviz_default_plugins/Image"
        assert published[display["Topic"]["Value"]] == "sensor_msgs/msg/Image", name
        # A reader that asks for more than a camera offers gets nothing; one that asks for less than the node does gets
        # half of what is above 16 MiB.
        assert display["Topic"]["Reliability Policy"] == ("Best Effort" if name == "Camera" else "Reliable")
        assert name in rviz["Window Geometry"]
        # Qt names each pane in UTF-16; without its state RViz makes thumbnails beside an empty 3D view.
        assert name.encode("utf-16-be") in bytes.fromhex(rviz["Window Geometry"]["QMainWindow State"])


def test_rviz_shows_what_is_in_space_at_a_tick(rviz, published):
    """Subscribers make the node compute: a camera without depth and tf must not warn in front of RViz."""
    (group,) = (d for d in rviz["Visualization Manager"]["Displays"] if d["Name"] == "In space")
    assert (group["Class"], group["Enabled"]) == ("rviz_common/Group", False)
    assert [d["Name"] for d in group["Displays"]] == list(SPACE)
    for display in group["Displays"]:
        kind, topic, message = SPACE[display["Name"]]
        assert (display["Class"], display["Enabled"]) == (f"rviz_default_plugins/{kind}", True)
        assert (display["Topic"]["Value"], display["Topic"]["Reliability Policy"]) == (topic, "Reliable")
        assert published[topic] == message


def test_foxglove_shows_what_is_in_space_in_a_tab(foxglove, published):
    (panel,) = (panel for name, panel in foxglove["configById"].items() if name.startswith("3D!"))
    (tabs,) = (panel for name, panel in foxglove["configById"].items() if name.startswith("Tab!"))
    assert [(tab["title"], tabs["activeTabIdx"]) for tab in tabs["tabs"]] == [("Images", 0), ("In space", 0)]
    assert {topic: published[topic] for topic in panel["topics"]} == {topic: kind for _, topic, kind in SPACE.values()}
    assert all(topic["visible"] for topic in panel["topics"].values())


def test_foxglove_shows_camera_overlay_labels_diagnostics_and_times(foxglove, published):
    msg = pytest.importorskip("m2f_ros.msg")
    configured = foxglove["configById"]
    assert sorted(panels(foxglove["layout"], configured)) == sorted(configured)
    shown = set()
    for name, panel in configured.items():
        assert panel.get("foxglovePanelTitle") == panel.get("lichtblickPanelTitle")
        kind = name.partition("!")[0]
        if kind == "Image":
            shown.add(panel["imageMode"]["imageTopic"])
            assert published[panel["imageMode"]["imageTopic"]] == "sensor_msgs/msg/Image"
        elif kind == "Plot":
            for path in panel["paths"]:
                topic, field = re.fullmatch(r"(/[\w/]+)\.(\w+)", path["value"]).groups()
                assert path["enabled"] and published[topic] == "m2f_ros/msg/Stats"
                assert field in msg.Stats.get_fields_and_field_types()
        elif kind not in ("3D", "Tab"):
            assert kind in ("DiagnosticSummary", "DiagnosticStatusPanel")
            shown.add(panel["topicToRender"])
            assert published[panel["topicToRender"]] == "diagnostic_msgs/msg/DiagnosticArray"
    assert shown == {"/camera/image", "/segmentation_node/overlay", "/segmentation_node/color", "/diagnostics"}
