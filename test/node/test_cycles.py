"""Configured again and again, well and badly, while everything else goes on: nothing dies and nothing grows."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="rclpy is absent")
pytest.importorskip("m2f_ros.msg", reason="the messages of m2f_ros are not built")
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import GetState
from rcl_interfaces.srv import ListParameters
from sensor_msgs.msg import Image

from m2f_ros import msg

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))
sys.path.insert(0, str(Path(__file__).parent))
from in_process import BROKEN, NAME, memory, message, running
from stub import on_cpu

CAMERAS = ("front", "rear")


def cycle(node, peer, chance: random.Random) -> None:
    """Configure with a good model or without, walk on at random, and end unconfigured."""
    values = {"model": chance.choice([*BROKEN, "good", "good", "good"]), "camera__rear__camera_info": ""}
    if not chance.randrange(4):  # half of the topics are there when this one cannot be
        values["camera__rear__camera_info"] = "/no topic/at all"
    assert all(result.successful for result in peer.set(NAME, **values))
    good = values["model"] == "good" and not values["camera__rear__camera_info"]
    busy = [
        peer.call(GetState, f"{NAME}/get_state", GetState.Request(), wait=False),
        peer.call(ListParameters, f"{NAME}/list_parameters", ListParameters.Request(), wait=False),
    ]
    assert node.change("configure") == good, values
    if good:
        for _ in range(chance.randrange(3)):
            assert node.change("activate")
            assert peer.set(NAME, alpha=chance.random(), stale_after=0.5)[0].successful
            if chance.randrange(2):
                assert node.change("deactivate")
            else:
                later = node.change("deactivate", wait=False), node.change("activate", wait=False)
                peer.until(lambda later=later: all(f.done() for f in later), "both are answered")
                assert node.change("deactivate")
            assert not node.change("configure")
        assert node.change("cleanup")
    peer.until(lambda: all(future.done() for future in busy), "the other calls are answered")


def run_cycles(ros_env, peer, count: int, seed: int) -> None:
    """count: a fifth of them comes before what is held is counted."""
    chance = random.Random(seed)
    parameters = ("autostart:=false", f"cameras:=[{', '.join(CAMERAS)}]", "diagnostics_period:=0.1")
    with running(peer, on_cpu, *parameters) as node:
        for name in CAMERAS:
            peer.stream(Image, f"{NAME}/{name}/image", message, rate=50.0)
        diagnostics = peer.listen(DiagnosticArray, "/diagnostics")
        labels = peer.listen(Image, f"{NAME}/front/label")
        stats = peer.listen(msg.Stats, f"{NAME}/rear/stats")
        before = None
        for number in range(count):
            if number == count // 5:
                before, size = node.held(), memory()
            cycle(node, peer, chance)
            assert not node.executor.failures, node.executor.last_failure
            assert not node.ending.wait(0)
            for received in (diagnostics, labels, stats):
                del received[:-1]
        assert node.state() == "unconfigured"
        after = node.held()

        def settled() -> bool:
            nonlocal after
            after = node.held()
            return after["in the graph"] == before["in the graph"]

        peer.until(settled, f"the topics are gone: {before}, {after}")
        assert all(after[key] <= before[key] + (3 if key == "tasks" else 0) for key in before), (before, after)
        grown = memory() - size
        print(f"{count} cycles: {grown / 2**20:.1f} MiB more, {before} before, {after} after")
        assert grown < (32 << 20) + count * 2000

        assert peer.set(NAME, model="good", camera__rear__camera_info="")[0].successful
        assert node.change("configure") and node.change("activate")
        peer.until(lambda: len(labels) > 3 and stats, "labels")


@pytest.mark.heavy
def test_fifty_cycles(ros_env, peer):
    run_cycles(ros_env, peer, 50, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(3))
def test_two_thousand_cycles(ros_env, peer, seed):
    run_cycles(ros_env, peer, 2000, seed)
