"""Killed at any moment of its start, its run and its end, the node starts again at once, and nothing is left over."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="rclpy is absent")
from m2f_ros.node.legend import LATCHED

msg = pytest.importorskip("m2f_ros.msg", reason="the messages of m2f_ros are not built")

KILLS = int(os.environ.get("M2F_KILLS", "50"))
WITHIN = float(os.environ.get("M2F_WITHIN", "10"))  # seconds from the start of the process until the node is active


def segments(pid: int) -> set[Path]:
    """Files of Fast DDS' segments that a process uses, with their locks."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    names = set(re.findall(r"/dev/shm/fast(?:dds|rtps)_[0-9a-f]{16}\b", maps))
    return {Path(name + end) for name in names for end in ("", "_el")}


@pytest.fixture
def prepared():
    """Each start is that of the executable, with its imports."""
    return None


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_any_moment_it_starts_again(segment, peer, tmp_path, ros_env, monkeypatch, cache_folder):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setitem(ros_env, "TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setitem(ros_env, "XDG_CACHE_HOME", str(tmp_path / "cache"))
    published: list[int] = []  # when, ns, each legend that came
    peer.node.create_subscription(
        msg.Legend, "/segmentation_node/legend", lambda _, info: published.append(info["source_timestamp"]), LATCHED
    )
    moments = random.Random(19)
    ours = segments(os.getpid())  # the peer's, which the node maps, too
    used: set[Path] = set()
    took: list[float] = []
    cpu: list[float] = []  # seconds of all cores, which say the same on a busy machine

    def start():
        # OpenVINO converts the network for the size while the node is configured, and keeps what it made.
        return segment(backend="auto", image_sizes=["96x64"]), time.time()

    def active(begun: float) -> None:
        # Those of earlier nodes may come late.
        while not published or published[-1] < begun * 1e9:
            assert process.process.poll() is None and time.time() < begun + 300, process.log.read_text()
            peer.executor.spin_once(timeout_sec=0.05)
        took.append(time.time() - begun)
        cpu.append(sum(map(int, Path(f"/proc/{process.process.pid}/stat").read_text().split()[13:15])) / 100)

    process, begun = start()
    active(begun)
    usual, took = took[0], []
    for number in range(KILLS):
        phase = ("start", "run", "end")[number % 3]
        if phase == "start":
            process.end(signal.SIGTERM)
            process, begun = start()
            time.sleep(moments.uniform(0, usual))
        elif phase == "run":
            time.sleep(moments.uniform(0, 1))
        else:
            process.process.send_signal(signal.SIGTERM)
            time.sleep(moments.uniform(0, 0.5))
        if process.process.poll() is None:
            used |= segments(process.process.pid)
        process.process.kill()
        process.process.wait()
        process, begun = start()
        active(begun)
        assert not process.says("Traceback"), process.log.read_text()
        # No camera is there, which it says after three seconds.
        assert not [line for line in process.log.read_text().splitlines() if "[WARN]" in line and "neither" not in line]
    assert process.end(signal.SIGTERM) == 0

    assert used - ours and not [file for file in used - ours if file.exists()]
    assert not list((tmp_path / "cache").rglob("*.partial"))
    # A folder that torch makes and leaves empty, one for each user.
    assert not [file for file in (tmp_path / "tmp").rglob("*") if not file.name.startswith("torchinductor_")]
    print(f"{KILLS} kills; active after {usual:.1f} s at first, then {sorted(took)[len(took) // 2]:.1f} s (median), "
          f"{max(took):.1f} s (longest); CPU {max(cpu):.1f} s")  # fmt: skip
    assert max(took) < WITHIN
