"""Lines on the kind of ground that a grid is made on."""

import pytest

pytest.importorskip("rclpy", reason="rclpy is absent")
from m2f_ros.node.segmentation.space.reports import DEEP, FLAT, GroundKinds, Reports

S = 10**9


@pytest.fixture
def said():
    return []


@pytest.fixture
def kinds(said):
    reports = Reports(lambda line: said.append(f"WARN {line}"), lambda line: said.append(line), lambda: False)
    found = GroundKinds(reports, lambda: 1.0, lambda camera: f"/{camera}/depth")
    found.reports = reports
    return found


def test_depth_that_stops_and_comes_again(kinds, said):
    for tenth in range(10):
        kinds.see("front", tenth * S // 10, tenth % 3 == 0)
    assert said == [f"grid of front: {DEEP} (/front/depth)"]
    for tenth in range(10, 30):
        kinds.see("front", tenth * S // 10, False)
    line = f"grid of front: the depth images of /front/depth have stopped: {FLAT}"
    assert said[1:] == [f"WARN {line}"]
    tally = kinds.reports.counts.tally()
    assert (tally.ground, tally.stopped) == ({"front": FLAT}, {"front": line})
    kinds.see("front", 3 * S, True)
    tally = kinds.reports.counts.tally()
    assert (tally.ground, tally.stopped) == ({"front": DEEP}, {})


def test_a_camera_without_depth_is_no_fault(kinds, said):
    for second in range(5):
        kinds.see("", second * S, False)
    assert said == [f"grid: {FLAT} (//depth)"]
    assert kinds.reports.counts.tally().stopped == {}


def test_after_a_jump_of_time_depth_has_time_to_come(kinds, said):
    kinds.see("a", 100 * S, True)
    kinds.clear()
    kinds.see("a", 500 * S, False)
    kinds.see("a", 500 * S + S // 2, True)
    kinds.clear()
    kinds.see("a", 10 * S, False)
    assert len(said) == 1 and kinds.reports.counts.tally().ground == {"a": DEEP}
