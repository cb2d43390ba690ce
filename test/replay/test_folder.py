"""The folder of a result: whole after each file, taken up where it was left, kept from others."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from m2f_ros.errors import ConfigError, OutputError, SourceError
from m2f_ros.replay.folder import Folder, Progress
from m2f_ros.results import MARK

sys.path.insert(0, str(Path(__file__).parent))
from drives import IMAGE, frame, image_message, messages

SETTINGS = {"drive": "d", "model": "street", "storage": "mcap", "compression": "none", "outputs": ["label"]}


def add(folder, stamps, topic="/label"):
    part = folder.begin()
    for stamp in stamps:
        part.write(topic, IMAGE, image_message(frame(stamp).data), stamp)
    folder.commit(part, replace(folder.progress, next=folder.progress.next + len(stamps)), {"x": np.array(stamps)})


def stamps(path):
    return {topic: [log_ns for log_ns, _ in found] for topic, found in messages(path).items()}


@pytest.mark.parametrize("storage, compression", [("mcap", "none"), ("mcap", "chunk"), ("sqlite3", "message")])
def test_files_become_one_bag(tmp_path, storage, compression):
    settings = {**SETTINGS, "storage": storage, "compression": compression}
    with Folder(tmp_path / "out", settings) as folder:
        add(folder, [5, 7])
        assert stamps(tmp_path / "out") == {"/label": [5, 7]}
        add(folder, [9], "/other")
        add(folder, [11, 12])
    assert stamps(tmp_path / "out") == {"/label": [5, 7, 11, 12], "/other": [9]}
    with Folder(tmp_path / "out", settings) as folder:
        assert folder.progress.next == 5
        assert folder.tracks()["x"].tolist() == [11, 12]
        assert [name.partition(".")[0] for name in folder.files] == ["replay_0", "replay_1", "replay_2"]


def test_what_was_not_finished_is_gone(tmp_path):
    with Folder(tmp_path / "out", SETTINGS) as folder:
        add(folder, [1])
        part = folder.begin()
        part.write("/label", IMAGE, image_message(frame().data), 2)
        # Killed there; and once more when all of the next file is there but the record.
        before = shutil.copytree(tmp_path / "out", tmp_path / "before")
    with Folder(tmp_path / "out", SETTINGS) as folder:
        add(folder, [2])
    for name in ("replay.json", "tracks_1.npz"):
        shutil.copy2(before / name, tmp_path / "out" / name)
    with (tmp_path / "out" / MARK).open("a") as file:
        file.write('{"name": "tracks_1.npz"}\n')
    assert stamps(tmp_path / "out") == {"/label": [1, 2]}
    with Folder(tmp_path / "out", SETTINGS) as folder:
        assert folder.progress.next == 1 and folder.tracks()["x"].tolist() == [1]
    assert stamps(tmp_path / "out") == {"/label": [1]}
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        *(MARK, "metadata.yaml", "replay.json", "replay_0.mcap", "tracks_1.npz")
    ]


def test_killed_when_all_of_the_first_file_is_there_but_the_record(tmp_path):
    with Folder(tmp_path / "before", SETTINGS):
        pass
    with Folder(tmp_path / "out", SETTINGS) as folder:
        add(folder, [1])
    shutil.copy(tmp_path / "before" / "replay.json", tmp_path / "out")
    with Folder(tmp_path / "out", SETTINGS) as folder:
        assert {file.name for file in folder.path.iterdir()} == {"replay.json", MARK}
        add(folder, [1])
    assert stamps(tmp_path / "out") == {"/label": [1]}


def test_the_record_is_readable(tmp_path):
    with Folder(tmp_path / "out", SETTINGS) as folder:
        folder.save(
            Progress(next=3, bad={"": 1}, seconds={"wall": 4.0, "pipeline": 3.0, "reading": 1.0, "writing": 0.0})
        )
    record = json.loads((tmp_path / "out" / "replay.json").read_text())
    assert record["settings"] == SETTINGS and record["progress"]["next"] == 3
    assert record["pipeline_share"] == 0.75


def test_other_settings_are_refused_in_one_line(tmp_path):
    with Folder(tmp_path / "out", SETTINGS) as folder:
        add(folder, [1])
    with pytest.raises(
        ConfigError, match="was begun with outputs label, now it is label overlay: give the same"
    ) as caught:
        Folder(tmp_path / "out", {**SETTINGS, "outputs": ("label", "overlay")})
    assert "\n" not in str(caught.value)
    Folder(tmp_path / "out", {**SETTINGS, "outputs": ("label",)}).close()


def test_other_settings_are_taken_before_the_first_image_is_kept(tmp_path):
    Folder(tmp_path / "out", {**SETTINGS, "outputs": ("label", "wrong")}).close()
    with Folder(tmp_path / "out", SETTINGS) as folder:
        add(folder, [1])
    assert json.loads((tmp_path / "out" / "replay.json").read_text())["settings"] == SETTINGS


def test_other_settings_are_refused_where_a_drive_ended_without_an_image(tmp_path):
    with Folder(tmp_path / "out", SETTINGS) as folder:
        folder.save(Progress(finished=True))
    with pytest.raises(ConfigError, match="was begun with storage"):
        Folder(tmp_path / "out", {**SETTINGS, "storage": "sqlite3"})


def test_restart_removes_what_a_replay_made_and_nothing_else(tmp_path):
    with Folder(tmp_path / "out", SETTINGS) as folder:
        add(folder, [1])
    for name in ("report.html", "replay_9.mcap", "labels/mine.png"):
        (tmp_path / "out" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "out" / name).write_text("mine")
    with Folder(tmp_path / "out", {**SETTINGS, "model": "other"}, restart=True) as folder:
        assert (folder.progress, folder.files, folder.tracks()) == (Progress(), [], {})
        assert {file.name for file in folder.path.iterdir()} == {
            "report.html",
            "replay_9.mcap",
            "labels",
            "replay.json",
            MARK,
        }
        assert [file.name for file in (folder.path / "labels").iterdir()] == ["mine.png"]


@pytest.mark.parametrize("restart", [False, True])
def test_a_folder_of_something_else_is_refused(tmp_path, restart):
    (tmp_path / "metadata.yaml").write_text("of a drive")
    with pytest.raises(OutputError, match="is not empty, and has no list of what m2f replay made there"):
        Folder(tmp_path, SETTINGS, restart)
    assert (tmp_path / "metadata.yaml").read_text() == "of a drive"


def test_one_writes_at_a_time(tmp_path):
    with Folder(tmp_path / "out", SETTINGS), pytest.raises(OutputError, match="another m2f replay writes here"):
        Folder(tmp_path / "out", SETTINGS)
    Folder(tmp_path / "out", SETTINGS).close()


@pytest.mark.parametrize("text", ["", "[]", '{"settings": {}}'])
def test_a_damaged_record(tmp_path, text):
    Folder(tmp_path / "out", SETTINGS).close()
    (tmp_path / "out" / "replay.json").write_text(text)
    with pytest.raises(SourceError, match=r"replay\.json: damaged"):
        Folder(tmp_path / "out", SETTINGS)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/out: cannot be written \(Not a directory\)"):
        Folder(tmp_path / "file" / "out", SETTINGS)
