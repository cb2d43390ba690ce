"""Tests what pip installs: builds sdist and wheel, and runs the verbs in a bare environment, outside the checkout.

wheel_test.py [TORCH]: requirement of PyTorch, which chooses a build. The environment variable TORCH_INDEX is the index
for it. Needs Python with venv, no ROS. Exit status 1: the last line says what failed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TRAINING = """
model: {backbone: efficientnet_lite0, hidden_dim: 32, heads: 4, encoder_layers: 1, encoder_ffn: 32, decoder_layers: 1,
        decoder_ffn: 32, num_queries: 6}
augment: {crop: [64, 64]}
loss: {points: 64}
schedule: {steps: 2, batch: 1, warm_up: 1}
threads: 1
data:
  root: .
  train: [{name: street, images: set/images, labels: set/labels, taxonomy: cityscapes_trainids}]
  evaluate: [{name: street, images: set/images, labels: set/labels, taxonomy: cityscapes_trainids}]
"""
# All verbs, in one process.
HELP = """
import sys
from click.testing import CliRunner
from m2f_ros.cli import m2f
for arguments in [[], *([name] for name in m2f.commands)]:
    done = CliRunner().invoke(m2f, [*arguments, "--help"])
    assert done.exit_code == 0 and "Usage: " in done.output, (arguments, done.output)
assert "torch" not in sys.modules
"""
BUILD = "run `make build` and"
# Verbs that need more than the package's own dependencies, and what they say without.
ABSENT = [
    ("eval result --truth drive --out early", "needs matplotlib; pip install 'm2f_ros[eval]'"),
    ("train run.yaml --out run", "scipy is not installed: pip install 'm2f_ros[train]'"),
    ("bench --rounds 1", "--against hf: transformers not installed; pip install "),
    ("rerun drive --out drive.rrd", "needs Rerun's library: pip install 'm2f_ros[rerun]', on Python 3.11 or later"),
    ("replay drive --out other --ray", "Ray is not installed: pip install 'm2f_ros[ray]'"),
    ("replay drive --out other --backend openvino", "pip install 'm2f_ros[openvino]'"),
    ("demo", BUILD),
    ("node image:=/camera/image_raw", BUILD),
    ("topics", BUILD),
    ("bench-node", BUILD),
    ("soak", BUILD),
]


class Bare:
    """A virtual environment of its own, and a folder to work in."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.work = folder / "venv" / "bin", folder / "work"
        self.work.mkdir()
        self.run([sys.executable, "-m", "venv", self.bin.parent])

    def run(self, command: list, status: int = 0) -> str:
        """Run a command; return all that it said. Ends the test if its exit status is another."""
        # Nothing of the caller's ROS or Python.
        env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "AMENT_PREFIX_PATH")}
        env |= {"PYTHONNOUSERSITE": "1", "XDG_CACHE_HOME": str(self.work / "cache")} if command[0] != "pip" else {}
        program = self.bin / command[0] if command[0] in ("pip", "python", "m2f") else command[0]
        print("$", *command, flush=True)
        done = subprocess.run([program, *command[1:]], cwd=self.work, env=env, capture_output=True, text=True)
        said = done.stdout + done.stderr
        if done.returncode != status:
            fail(f"{' '.join(map(str, command))}: exit status {done.returncode}, not {status}:\n{said[-3000:]}")
        if "Traceback" in said:
            fail(f"{' '.join(map(str, command))} has a traceback:\n{said[-3000:]}")
        return said

    def pip(self, *arguments: object) -> None:
        self.run(["pip", "install", "--quiet", "--disable-pip-version-check", *map(str, arguments)])

    def m2f(self, arguments: str, status: int = 0) -> str:
        return self.run(["m2f", *arguments.split()], status)


def fail(line: str) -> None:
    print(f"wheel_test: error: {line}", file=sys.stderr)
    sys.exit(1)


def build(bare: Bare, out: Path) -> tuple[Path, Path]:
    """Return (wheel, sdist); the wheel is built from the sdist, which therefore has all that it needs."""
    copy = out / "source"  # setuptools writes into the source
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "build", "install", "log", "out", "*.egg-info"))
    bare.pip("build")
    bare.run(["python", "-m", "build", "--outdir", out, copy])
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def snippet() -> str:
    """Return the README's Python code."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Without ROS\n")[2]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0]


def main(torch: str) -> None:
    with tempfile.TemporaryDirectory(prefix="m2f_wheel_") as text:
        folder = Path(text)
        bare = Bare(folder)
        wheel, sdist = build(bare, folder)
        index = os.environ.get("TORCH_INDEX")
        bare.pip(torch, *(["--index-url", index] if index else []))
        bare.pip(wheel)
        bare.run(["python", "-c", HELP])
        shutil.copy(ROOT / "docs" / "images" / "street.jpg", bare.work)
        (bare.work / "readme.py").write_text(snippet(), encoding="utf-8")
        bare.run(["python", "readme.py"])
        assert (bare.work / "overlay.png").stat().st_size
        bare.m2f("bag street --frames 3 --out drive")
        bare.m2f("replay drive --out result")
        bare.m2f("street set --seeds 0..0 --frames 2 --every 1 --workers 1")
        bare.m2f("bag set/images --labels set/labels --taxonomy cityscapes_trainids --out folder --storage sqlite3")
        (bare.work / "run.yaml").write_text(TRAINING, encoding="utf-8")
        for arguments, line in ABSENT:
            said = bare.m2f(arguments, status=1 if arguments == "demo" else 2).strip().splitlines()
            if line not in said[-1]:
                fail(f"m2f {arguments} does not say {line!r}: {said[-1]}")
        bare.pip("m2f_ros[eval,train]")  # as the lines say: pip takes the metadata of what is installed
        bare.m2f("eval result --truth drive --out report")
        bare.m2f("compare report report")
        bare.m2f("train run.yaml --out run")
        bare.m2f("replay drive --model run/model --out trained")
        bare.m2f("eval trained --truth drive --out scored")
        bare.m2f("card run/model --evaluation scored")
        bare.pip("--force-reinstall", "--no-deps", sdist)
        bare.m2f("bag street --frames 1 --out again")
    print(f"{wheel.name} and {sdist.name} work on Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "torch")
