"""No command of this package opens a connection that its user did not ask for."""

from __future__ import annotations

import importlib.util
import ipaddress
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.process

# Python imports this module at every start, of child processes too. It writes a line for each start, and one for each
# address that a socket is given or that a name is asked for. DDS has sockets of its own, outside Python.
WATCH = """
import json, os, socket, sys

def note(event, *what):
    line = json.dumps([event, *what], default=str) + "\\n"
    file = os.open(os.environ["M2F_TEST_CONNECTIONS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)

def watch(event, args):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        if args[0].family in (socket.AF_INET, socket.AF_INET6):
            note(event, args[1])
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        note(event, args[0])

note("start", sys.argv[:2] if hasattr(sys, "argv") else "")
sys.addaudithook(watch)
"""
# In the place of the package with which OpenVINO reports its use to Google Analytics.
REPORTER = """
import sitecustomize
sitecustomize.note("openvino_telemetry is imported")
class Telemetry:
    def __init__(self, *_, **__): pass
    def __getattr__(self, name): return lambda *_, **__: None
"""
TRAINING = {
    "model": {
        "backbone": "efficientnet_lite0",
        "hidden_dim": 32,
        "heads": 4,
        "encoder_layers": 1,
        "encoder_ffn": 32,
        "decoder_layers": 1,
        "decoder_ffn": 32,
        "num_queries": 6,
    },
    "augment": {"crop": [64, 64]},
    "loss": {"points": 64},
    "schedule": {"steps": 2, "batch": 1, "warm_up": 1},
    "threads": 1,
}
LOCAL_NAMES = {None, "", "localhost"}


def elsewhere(entries: list[list]) -> list[list]:
    """Those of the entries that lead off this machine."""

    def local(host: str | None) -> bool:
        try:
            return host in LOCAL_NAMES or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    def leads_off(event: str, what: object = None) -> bool:
        return event != "start" and not (
            event.startswith("socket.") and local(what[0] if isinstance(what, list) else what)
        )

    return [entry for entry in entries if leads_off(*entry)]


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """Runs `m2f …`, which has to succeed, and returns where it and its children wanted to connect to."""
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(WATCH)
    (hooks / "openvino_telemetry.py").write_text(REPORTER)
    log = tmp_path / "connections"
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(hooks), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "M2F_TEST_CONNECTIONS": str(log),
    }

    def run(*arguments: object, command: tuple[str, ...] = ("-m", "m2f_ros.cli")) -> list[list]:
        log.unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, *command, *map(str, arguments)], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        entries = [json.loads(line) for line in log.read_text().splitlines()]
        assert ["start"] in [entry[:1] for entry in entries], "nothing was watched"
        return entries

    return run


def test_the_watch_sees_connections_names_and_reports(watched, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import socket, openvino_telemetry\n"
        "socket.socket().connect_ex(('127.0.0.1', 1))\n"
        "socket.getaddrinfo('127.0.0.1', 1)\n"
    )
    entries = watched(script, command=())
    assert [entry for entry in entries if entry[0] != "start"] == [
        ["openvino_telemetry is imported"],
        ["socket.connect", ["127.0.0.1", 1]],
        ["socket.getaddrinfo", "127.0.0.1"],
    ]
    assert elsewhere(entries) == [["openvino_telemetry is imported"]]
    assert elsewhere([["socket.connect", ["192.0.2.1", 443]], ["socket.getaddrinfo", "example.org"]]) != []
    assert elsewhere([["socket.connect", ["::1", 443, 0, 0]], ["socket.getaddrinfo", "localhost"]]) == []


@pytest.mark.more
def test_replay_eval_and_bench(watched, tmp_path, small_model) -> None:
    assert elsewhere(watched("bag", "street", "--frames", 1, "--out", "drive")) == []
    # With Ray, its workers do what the command itself does without.
    ray = ["--ray"] if importlib.util.find_spec("ray") else []
    replayed = watched("replay", "drive", "--out", "result", "--model", small_model, "--device", "cpu", *ray)
    assert elsewhere(replayed) == []
    assert elsewhere(watched("eval", "result", "--truth", "drive", "--out", "report")) == []
    backend = "openvino" if importlib.util.find_spec("openvino") else "eager"
    settings = ["--size", "64x96", "--rounds", 1, "--seconds", 0, "--device", "cpu", "--backend", backend]
    assert elsewhere(watched("bench", "--model", small_model, "--against", "hf", *settings)) == []


def test_rerun(watched) -> None:
    pytest.importorskip("rerun", reason="rerun-sdk is absent")
    assert elsewhere(watched("bag", "street", "--frames", 1, "--out", "drive")) == []
    assert elsewhere(watched("rerun", "drive", "--out", "drive.rrd")) == []


def test_train(watched, tmp_path) -> None:
    assert elsewhere(watched("street", "set", "--seeds", "0..0", "--frames", 2, "--every", 1, "--workers", 1)) == []
    part = {"name": "street", "images": "set/images", "labels": "set/labels", "taxonomy": "cityscapes_trainids"}
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(TRAINING | {"data": {"root": ".", "train": [part], "evaluate": [part]}}))
    assert elsewhere(watched("train", config, "--out", "run")) == []


def test_the_node(watched, small_model) -> None:
    pytest.importorskip("rclpy", reason="ROS is not installed")
    demo = watched("demo", "--frames", 3, "--model", small_model, "--device", "cpu", "--out", "demo")
    assert sum(entry[0] == "start" for entry in demo) >= 4  # the command, the player, the node, the recorder
    assert elsewhere(demo) == []
