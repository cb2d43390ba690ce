"""Outputs in space through the states of the node: models without segments, jumps of time, deactivate."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="rclpy is absent")
pytest.importorskip("m2f_ros.msg", reason="the messages of m2f_ros are not built")
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import OccupancyGrid
from sensor_msgs.msg import CameraInfo, Image

sys.path.insert(0, str(Path(__file__).parents[3] / "pipeline"))
sys.path.insert(0, str(Path(__file__).parents[2]))
from in_process import HEIGHT, NAME, WIDTH, message, running
from stub import LABELS, Network, on_cpu

from m2f_ros.model import PixelLogits
from m2f_ros.pipeline import Pipeline
from m2f_ros.taxonomy import from_names

INFO = CameraInfo(
    width=WIDTH, height=HEIGHT, k=[40.0, 0.0, 32.0, 0.0, 40.0, 16.0, 0.0, 0.0, 1.0],
    p=[40.0, 0.0, 32.0, 0.0, 0.0, 40.0, 16.0, 0.0, 0.0, 0.0, 1.0, 0.0], r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
)  # fmt: skip
CAMERA = ("extrinsics:=[0.0, 0.0, 1.0, 0.0, 0.3, 0.0]", "fixed_frame:=''")
SECOND = 10**9


@pytest.fixture
def costs(tmp_path) -> str:
    path = tmp_path / "costs.yaml"
    path.write_text("ground: {a: 0, b: 50, c: 100}")
    return f"grid.costs:={path}"


def camera(peer, make=message) -> None:
    peer.stream(CameraInfo, f"{NAME}/camera_info_in", lambda stamp: INFO)
    peer.stream(Image, f"{NAME}/image", make)


def stamp_of(message) -> int:
    return message.header.stamp.sec * SECOND + message.header.stamp.nanosec


def grids_of(peer) -> list:
    return peer.listen(OccupancyGrid, f"{NAME}/grid", latched=True)


INPUT = f"camera_info:={NAME}/camera_info_in"


def test_nothing_is_published_after_deactivate(ros_env, peer, costs):
    grids = grids_of(peer)
    with running(peer, on_cpu, "autostart:=false", INPUT, costs, *CAMERA) as node:
        camera(peer)
        assert node.change("configure")
        for _ in range(2):
            assert node.change("activate")
            before = len(grids)
            peer.until(lambda before=before: len(grids) > before + 3, "grids")
            assert node.change("deactivate")
            last = peer.node.get_clock().now().nanoseconds
            sent: list = peer.listen(DiagnosticArray, "/diagnostics")
            peer.until(lambda sent=sent: len(sent) > 1, "some time passes")
            assert max(map(stamp_of, grids)) < last
        held = node.held()
        assert node.change("cleanup") and node.change("configure") and node.change("activate")
        peer.until(lambda: grids and stamp_of(grids[-1]) > last, "grids again")
        assert node.change("deactivate") and node.held()["python threads"] == held["python threads"]


def test_a_jump_of_time_begins_anew(ros_env, peer, costs):
    grids = grids_of(peer)
    stamps = itertools.chain(
        range(200 * SECOND, 203 * SECOND, SECOND // 20), itertools.count(100 * SECOND, SECOND // 20)
    )
    with running(peer, on_cpu, INPUT, costs, *CAMERA):
        camera(peer, lambda _: message(next(stamps)))
        peer.until(lambda: grids and stamp_of(grids[-1]) < 150 * SECOND, "grids after the jump")
        ahead = [stamp_of(grid) > 150 * SECOND for grid in grids]
        assert ahead == sorted(ahead, reverse=True)


def test_classes_without_costs_keep_the_grid_away_and_labels_go_on(ros_env, peer):
    grids, labels = grids_of(peer), peer.listen(Image, f"{NAME}/label")
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics")
    with running(peer, on_cpu, INPUT, *CAMERA):
        camera(peer)

        def trouble() -> str:
            return (
                next((s.message for s in diagnostics[-1].status if s.name == f"{NAME}: space"), "")
                if diagnostics
                else ""
            )

        peer.until(
            lambda: trouble().startswith("grid") and "none of its" in trouble() and "is a class of test" in trouble(),
            "diagnostics say that it is the grid's",
        )
        assert len(labels) > 2 and not grids


class Pixels(Network):
    gives = PixelLogits

    def __call__(self, pixels):
        return PixelLogits(pixels[:, :, ::4, ::4].contiguous())


def of_pixels() -> Pipeline:
    from fake_cuda import FakeCuda

    network = Pixels(FakeCuda())
    return Pipeline(network, from_names("test", LABELS), device="cpu", backend=network)


def test_a_model_without_segments_leaves_out_what_needs_them(ros_env, peer, costs):
    ids, labels, grids = peer.listen(Image, f"{NAME}/panoptic"), peer.listen(Image, f"{NAME}/label"), grids_of(peer)
    with running(peer, of_pixels, INPUT, costs, *CAMERA) as node:
        camera(peer)
        peer.until(lambda: len(labels) > 3 and grids, "labels and a grid")
        assert not ids and not node.node._cameras[0].counts.tally().bad


def test_an_output_that_is_named_and_needs_segments_is_refused(ros_env, peer):
    with running(peer, of_pixels, "autostart:=false", "outputs:=[label, panoptic]") as node:
        assert not node.change("configure") and node.state() == "unconfigured"
        assert "'outputs' names panoptic, and the model finds no segments: leave it out" in node.node._trouble
