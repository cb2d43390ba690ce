"""The bond with Nav2's lifecycle manager, with a small stand-in for bondpy, and without bondpy."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="rclpy is absent")
pytest.importorskip("m2f_ros.msg", reason="the messages of m2f_ros are not built")
from diagnostic_msgs.srv import SelfTest
from std_msgs.msg import String

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))
sys.path.insert(0, str(Path(__file__).parent))
from in_process import running
from stub import on_cpu

from m2f_ros.node.segmentation import bond

# The parts of bondpy.bondpy.Bond that its source has in public. Its messages are "ID alive" and "ID dead".
BOND = """
from std_msgs.msg import String

class Bond:
    made = []  # (topic, id, heartbeat period, heartbeat timeout) of each

    def __init__(self, node, topic, bond_id):
        self.node, self.topic, self.id = node, topic, bond_id
        self.heartbeat_period, self.heartbeat_timeout = 1.0, 4.0
        self.pub = node.create_publisher(String, topic, 1)

    def start(self):
        self.made.append((self.topic, self.id, self.heartbeat_period, self.heartbeat_timeout))
        if self.id in FAILS:
            raise RuntimeError("no such version")
        self.sub = self.node.create_subscription(String, self.topic, lambda _: None, 1)
        self.timer = self.node.create_timer(self.heartbeat_period, lambda: self._say("alive"))

    def break_bond(self):
        self._say("dead")

    def shutdown(self):
        self.sub.destroy()
        self.node.destroy_timer(self.timer)
        self.pub.destroy()

    def _say(self, word):
        self.pub.publish(String(data=f"{self.id} {word}"))
"""


@pytest.fixture
def binding(tmp_path, monkeypatch):
    """binding(fails=()) puts the stand-in on the path; its bonds with these ids cannot start."""
    monkeypatch.setitem(sys.modules, "bondpy", None)
    monkeypatch.setitem(sys.modules, "bondpy.bondpy", None)

    def install(fails: tuple[str, ...] = ()):
        for name in ("bondpy.bondpy", "bondpy"):
            monkeypatch.delitem(sys.modules, name)
        (tmp_path / "bondpy").mkdir()
        (tmp_path / "bondpy" / "__init__.py").touch()
        (tmp_path / "bondpy" / "bondpy.py").write_text(f"FAILS = {fails!r}\n{BOND}")
        monkeypatch.syspath_prepend(tmp_path)
        import bondpy.bondpy

        return bondpy.bondpy.Bond

    yield install
    for name in ("bondpy.bondpy", "bondpy"):
        sys.modules.pop(name, None)


@pytest.fixture
def warnings(monkeypatch):
    """The warnings and errors that the bond logs."""
    lines: list[str] = []
    monkeypatch.setattr(bond.ManagerBond, "_say", lambda self, line: lines.append(line))
    return lines


def test_formed_by_activate_and_broken_by_deactivate_and_the_end(binding, warnings, ros_env, peer):
    made = binding().made
    heard = peer.listen(String, "/bond")
    with running(peer, on_cpu, "autostart:=false") as node:
        assert node.change("configure") and not made
        before = node.held()
        for count in (1, 2):
            assert node.change("activate") and len(made) == count
            assert made[-1] == ("bond", "segmentation_node", 0.25, bond.NEVER)
            peer.until(lambda: "segmentation_node alive" in [m.data for m in heard], "heartbeats")
            assert node.change("deactivate")
            peer.until(lambda: heard[-1].data == "segmentation_node dead", "it says that it goes")
            heard.clear()
        peer.until(lambda: node.held()["in the graph"] == before["in the graph"], "its topics are gone")
        held = node.held()
        assert [held[name] for name in ("publishers", "subscriptions", "timers", "waitables")] == [
            before[name] for name in ("publishers", "subscriptions", "timers", "waitables")
        ]
        assert node.change("activate")
        peer.until(lambda: heard, "heartbeats")
    peer.until(lambda: heard[-1].data == "segmentation_node dead", "it says that it ends")
    assert not warnings


def test_a_binding_that_fails_leaves_the_node_active(binding, warnings, ros_env, peer):
    binding(fails=("segmentation_node",))
    with running(peer, on_cpu, "autostart:=false") as node:
        assert node.change("configure") and node.change("activate") and node.state() == "active"
        assert node.change("deactivate") and node.change("cleanup")
    (line,) = [line for line in warnings if "bond_timeout" in line]
    assert "RuntimeError: no such version" in line and "bond_timeout to 0.0" in line


def test_no_bond_where_the_node_starts_itself(binding, ros_env, peer):
    made = binding().made
    with running(peer, on_cpu) as node:
        peer.until(lambda: node.state() == "active", "it is active")
        assert not made


def found(node, kind: str) -> bool:
    return any(kind in kinds for _, kinds in node.get_service_names_and_types())


@pytest.mark.parametrize("managed", [False, True])
def test_without_bondpy_a_line_if_a_manager_is_there(managed, binding, warnings, ros_env, peer, monkeypatch):
    monkeypatch.setattr(bond, "MANAGER", "diagnostic_msgs/srv/SelfTest")
    if managed:
        peer.node.create_service(SelfTest, "/lifecycle_manager/manage_nodes", lambda _, answer: answer)
    with running(peer, on_cpu, "autostart:=false") as node:
        assert node.change("configure")
        if managed:
            peer.until(lambda: found(node.node, "diagnostic_msgs/srv/SelfTest"), "the manager is found")
        for _ in range(2):
            assert node.change("activate") and node.change("deactivate")
    assert len(warnings) == managed
    assert all("bondpy is not installed" in line and "bond_timeout to 0.0" in line for line in warnings)
