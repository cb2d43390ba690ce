"""The number of each frame among those that arrived, by which a lost frame can be told from a dropped one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="rclpy is absent")
pytest.importorskip("m2f_ros.msg", reason="the messages of m2f_ros are not built")
from sensor_msgs.msg import Image

from m2f_ros import msg
from m2f_ros.node.entities import qos_of

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))
sys.path.insert(0, str(Path(__file__).parent))
from in_process import NAME, message, running
from stub import on_cpu


def test_a_frame_that_is_lost_on_the_way_has_no_number(ros_env, peer):
    stats = peer.listen(msg.Stats, f"{NAME}/stats")
    images = peer.node.create_publisher(Image, "/segmentation_node/image", 10)

    def send(stamp: int) -> None:
        images.publish(message(stamp * 10**6))
        peer.until(lambda: stats and stats[-1].header.stamp.nanosec == stamp * 10**6, f"the result of {stamp}")

    with running(peer, on_cpu, "autostart:=true") as node:
        peer.settled("/segmentation_node/image", "from the first image on")
        peer.until(lambda: peer.node.count_publishers(f"{NAME}/stats"), "the topics are there")
        peer.until(lambda: node.node.count_subscribers(f"{NAME}/stats"), "the node knows who reads them")
        peer.until(lambda: node.state() == "active", "images that come before are not counted")
        for stamp in (1, 2, 4):  # 3 is lost
            send(stamp)
        qos = qos_of(peer.node, "/segmentation_node/image")
    assert [(s.header.stamp.nanosec // 10**6, s.number, s.received) for s in stats] == [(1, 1, 1), (2, 2, 2), (4, 3, 3)]
    assert qos == "/segmentation_node/image is sent by peer reliable; read by segmentation_node reliable"
