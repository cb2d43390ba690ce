"""Every target of `make fuzz` takes some inputs, and a fault is found, kept and named."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

pytest.importorskip("atheris")

RUN = Path(__file__).with_name("run.py")


def fuzz(*options):
    return subprocess.run([sys.executable, str(RUN), *map(str, options)], capture_output=True, text=True, timeout=600)


# Those that open a file for each input take a hundred times as long.
@pytest.mark.parametrize(
    ("targets", "runs"),
    [
        (("compressed", "raw", "files", "labels", "cdr", "clouds", "transforms"), 2000),
        (("mcap", "sqlite", "taxonomy", "config"), 20),
    ],
)
def test_nothing_is_found(targets, runs, tmp_path):
    options = [option for target in targets for option in ("--target", target)]
    done = fuzz(*options, "--runs", runs, "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = dict(re.findall(r"(\w+): (\d+) inputs", done.stdout))
    assert tuple(found) == targets and all(int(number) >= runs for number in found.values())
    assert not list(tmp_path.iterdir())


def test_a_fault_is_kept_and_named(tmp_path, monkeypatch):
    """One in the code that is fuzzed, put there by a module that Python loads first."""
    (tmp_path / "sitecustomize.py").write_text(
        "from m2f_ros.frame import raw\nraw.check_size = lambda width, height: 1 // 0\n"
    )
    monkeypatch.setenv("PYTHONPATH", ":".join([str(tmp_path), *sys.path]))
    out = tmp_path / "out"
    done = fuzz("--target", "raw", "--runs", 1000, "--out", out)
    assert done.returncode == 1
    (kept,) = out.glob("raw-crash-*")
    assert f"--target raw {kept}" in done.stdout
    assert "ZeroDivisionError" in (out / "raw.log").read_text(errors="replace")
