"""Commands that are told to put their results where something else is: one line, and all is as it was."""

import hashlib
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from m2f_ros import cli
from m2f_ros.bags.writer import BagWriter


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A data set, a recorded drive, a model, a config: what a user has and cannot make again."""
    folder = tmp_path_factory.mktemp("mine")
    for kind, value in (("images", 50), ("labels", 1)):
        (folder / "ds" / kind).mkdir(parents=True)
        for i in range(2):
            cv2.imwrite(str(folder / "ds" / kind / f"{i:06d}_1.png"), np.full((32, 32), value, np.uint8))
    for name in ("overlay.mp4", "summary.json", "result.json", "report.html"):
        (folder / "ds" / name).write_text(json.dumps({"of": "the user"}))
    (folder / "drives").mkdir()
    with BagWriter(folder / "drives" / "bag"):
        pass
    (folder / "ds" / "bag").mkdir()
    shutil.copy(folder / "drives" / "bag" / "metadata.yaml", folder / "ds" / "bag")
    (folder / "model").mkdir()
    for name in ("config.json", "README.md", "model.safetensors"):
        (folder / "model" / name).write_text("{}")
    train = [{"name": "a", "images": "images", "labels": "labels"}]
    config = {"data": {"root": "ds", "taxonomy": "camvid", "train": train}}
    (folder / "config.yaml").write_text(json.dumps(config))
    return folder


@pytest.fixture
def mine(originals, tmp_path, monkeypatch):
    """A copy, as the working directory."""
    shutil.copytree(originals, tmp_path / "mine")
    (tmp_path / "mine" / "link").symlink_to("ds")
    monkeypatch.chdir(tmp_path / "mine")
    monkeypatch.setenv("HOME", str(tmp_path / "mine"))
    return Path.cwd()


def state(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        for path in folder.rglob("*")
    }


def refused(monkeypatch, capsys, *command):
    """The last line on standard error of a command that ends with 2."""
    monkeypatch.setattr("sys.argv", ["m2f", *command])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    error = capsys.readouterr().err
    assert ended.value.code == 2 and "Traceback" not in error, (command, error)
    return error.strip().splitlines()[-1]


COMMANDS = {
    "demo": "demo --source ds/images --labels ds/labels --taxonomy camvid --out",
    "demo of the bag": "demo --source drives/bag --out",
    "replay": "replay ds/images --out",
    "replay of the bag": "replay drives/bag --out",
    "replay, anew": "replay ds/images --restart --png --out",
    "eval": "eval ds/labels --truth ds/labels --taxonomy camvid --out",
    "street": "street --seeds 0..0 --frames 1 --size 64x48",
    "train": "train config.yaml --out",
    "train, going on": "train config.yaml --resume --out",
    "bag": "bag ds/images --out",
}
PLACES = (
    "ds",
    "ds/labels",
    "ds/images/",
    "drives/bag",
    "drives/../ds",
    "link",
    "./link/labels/.",
    "model",
    ".",
    "~",
    "/",
)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_folder_of_the_users(mine, monkeypatch, capsys, command):
    before = state(mine)
    for out in PLACES:
        line = refused(monkeypatch, capsys, *command.split(), out)
        assert line.startswith(("m2f: error: ", "Error: ")) and len(line) < 400
        assert state(mine) == before, (out, line)
    assert "~" not in {path.name for path in mine.iterdir()}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_file_of_the_users(mine, monkeypatch, capsys, command):
    (mine / "dangling").symlink_to("nowhere/at/all")
    before = state(mine)
    for out in ("config.yaml", "config.yaml/x", "ds/overlay.mp4", "n" * 300, "dangling"):
        refused(monkeypatch, capsys, *command.split(), out)
        assert state(mine) == before, out


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["ds/result.json", "model/README.md", "config.yaml", "ds/labels/000000_1.png"])
@pytest.mark.parametrize(
    "command",
    [
        "bench --model street --json",
        "card street --pictures 0 --out",
        "bench-report --results ds/bag --out",
        "soak --json",
        "soak --json new.json --log",
    ],
)
def test_a_file_where_a_file_is_to_go(mine, monkeypatch, capsys, command, name):
    if command.startswith("soak"):
        pytest.importorskip("m2f_ros.msg", reason="the messages of m2f_ros are not built")
    before = state(mine)
    for path in (name, name.replace("ds/", "link/")):
        line = refused(monkeypatch, capsys, *command.split(), path)
        assert f"{path}: is there, and not of this command: move it away" in line
        assert state(mine) == before


def test_the_results_of_one_run_are_no_inputs_of_the_next(mine, monkeypatch, capsys):
    from m2f_ros.results import Results

    with Results(mine / "out", "m2f demo") as results:
        for name in ("labels/1.png", "overlay.mp4", "bag/metadata.yaml"):
            results.new(name).write_text("")
    before = state(mine)
    for source in ("out/bag", "out/overlay.mp4", "out/labels", "out"):
        line = refused(monkeypatch, capsys, "demo", "--source", source, "--out", "out")
        assert f"out: {source} is read, and results must not go where that is" in line
    refused(monkeypatch, capsys, "demo", "--source", "ds/images", "--labels", "out/labels", "--out", "out")
    refused(monkeypatch, capsys, "demo", "--model", "out/labels", "--out", "out/../out/")
    assert state(mine) == before


@pytest.mark.parametrize("given", ["drives", "drives/*", "./drives/"])
def test_a_replay_among_its_drives_is_refused(mine, monkeypatch, capsys, given):
    assert "is among the drives" in refused(monkeypatch, capsys, "replay", given, "--out", "drives/results")
