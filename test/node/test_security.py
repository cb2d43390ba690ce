"""The policy for SROS2 that is shipped: what it allows is what the node has, no less and no more."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="rclpy is absent")
pytest.importorskip("m2f_ros.msg", reason="the messages of m2f_ros are not built")
import rclpy

POLICY = Path(__file__).parents[2] / "config" / "sros2_policy.xml"
NODE = "/segmentation_node"
# Names that only some systems or parameters bring; get_transition_graph's differs from rcl to rcl.
SOMETIMES = {"/clock", f"{NODE}/label_info", f"{NODE}/get_transition_graph", f"{NODE}/get_type_description"}
SOMETIMES |= {
    f"{NODE}/detections",
    f"{NODE}/depth",
    f"{NODE}/depth/compressedDepth",
    f"{NODE}/cloud",
    "/tf",
    "/tf_static",
}


def allowed(kind: str, right: str) -> set[str]:
    """Full names that the policy allows, of "topic" or "service"."""
    found = ElementTree.parse(POLICY).iterfind(f".//{kind}s[@{right}='ALLOW']/{kind}")
    return {entry.text.replace("~", NODE) for entry in found}


@pytest.fixture
def node(ros_env):
    """The node with all its topics, in this process, and a model that is none."""
    from m2f_ros.node.load.benchmark import InstantPipeline
    from m2f_ros.node.process import Ending
    from m2f_ros.node.segmentation_node import SegmentationNode

    arguments = ["-r", "~/image:=/camera/image_raw", "-p", "autostart:=false"]
    rclpy.init(args=["--ros-args", *arguments])
    node = SegmentationNode(Ending(), lambda settings: InstantPipeline())
    try:
        node.trigger_configure()
        yield node
    finally:
        node.trigger_cleanup()
        node.close(10.0)
        node.destroy_node()
        rclpy.try_shutdown()


def test_the_policy_is_that_of_the_node(node):
    def names(of) -> set[str]:
        return {name for name, _ in of(NODE[1:], "/")}

    assert allowed("topic", "publish") - SOMETIMES == names(node.get_publisher_names_and_types_by_node) - SOMETIMES
    # Compressed images are read where there are no others.
    heard = names(node.get_subscriber_names_and_types_by_node) | {"/camera/image_raw/compressed"}
    assert allowed("topic", "subscribe") - SOMETIMES == heard - SOMETIMES
    assert allowed("service", "reply") - SOMETIMES == names(node.get_service_names_and_types_by_node) - SOMETIMES
