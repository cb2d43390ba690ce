"""Results of `m2f bench-node`: JSON, target, part of the page."""

from dataclasses import replace

import pytest

from m2f_ros.benchmark.machine import node_share
from m2f_ros.benchmark.report import describe_share, load, page
from m2f_ros.benchmark.result import NodeShare, Result, read, write
from m2f_ros.benchmark.targets import TARGETS, figures, judge
from m2f_ros.errors import ConfigError

pytestmark = pytest.mark.process

TARGET, POINTS, GRID = (target for target in TARGETS if target.of is NodeShare)


@pytest.fixture
def share() -> NodeShare:
    return node_share(
        [5.25, 7.5, 6.125],
        {"executor": [3.0, 4.0, 2.0], "idle": [0.0, 0.0, 1.0]},
        frame_size=(1080, 1920),
        encoding="bgr8",
        rate_hz=30.0,
        outputs=("label", "overlay"),
        versions={"rclpy": "9.9"},
    )


def test_medians_of_the_frames(share):
    assert (share.time_ms.median, share.time_ms.count) == (6.125, 3)
    assert share.threads_ms == {"executor": 3.0}
    assert share.versions["rclpy"] == "9.9" and "python" in share.versions
    assert describe_share(share).startswith("6.12 ms of CPU time a frame of 1920x1080")


def test_its_json_is_no_other(share, result, tmp_path):
    write(share, tmp_path / "cpu_node.json")
    write(result, tmp_path / "cpu.json")
    assert load(tmp_path) == {"cpu": result, "cpu_node": share}
    with pytest.raises(ConfigError, match="NodeShare"):
        read(tmp_path / "cpu.json", NodeShare)
    with pytest.raises(ConfigError, match="Result"):
        read(tmp_path / "cpu_node.json", Result)


def test_the_page_shows_it(share, result):
    text = page({"run": result, "cpu_node": share})
    assert "| at most 8 ms | 6.12 ms | met | `cpu_node` |" in text
    section = text.partition("## cpu_node")[2]
    assert "`bgr8`, 1920x1080, at most 30 Hz, label and overlay listened to; 3 frames" in section
    assert "| whole process | 6.12 | 5.69 to 6.81 |" in section and "| executor | 3.00 |  |" in section


def test_its_target(share, result):
    assert judge(TARGET, figures({"run": result})).value is None
    slow = replace(share, time_ms=replace(share.time_ms, median=10.0))
    assert judge(TARGET, figures({"run": result, "node": slow})).missed_by == pytest.approx(0.25)
    assert judge(TARGET, figures({"node": replace(share, outputs=["label"])})).value is None


def test_targets_of_outputs_in_space(share):
    small = replace(share, frame_size=(480, 640), threads_ms={"space": 3.0, "executor": 9.0})
    for target, output in ((POINTS, "points"), (GRID, "grid")):
        verdict = judge(target, figures({"node": replace(small, outputs=["label", output])}))
        assert (verdict.value, verdict.met) == (3.0, True)
        assert judge(target, figures({"node": share})).value is None
