"""Folders of results: what a command made is cleared, and whatever else is there stays as it is."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from m2f_ros.errors import OutputError
from m2f_ros.results import MARK, Results


def made(folder, *names, command="m2f demo"):
    """A folder in which a run has made files, and has ended."""
    with Results(folder, command) as results:
        for name in names:
            results.new(name).write_text("ours")


def tree(folder):
    """Path -> text, target of a link, or None for a folder; without MARK."""
    return {
        path.relative_to(folder).as_posix(): os.readlink(path)
        if path.is_symlink()
        else None
        if path.is_dir()
        else path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.name != MARK
    }


def test_a_run_clears_the_one_before_and_leaves_the_rest(tmp_path):
    out = tmp_path / "out"
    made(out, "a.txt", "labels/1.png", "deep/er/x")
    (out / "labels" / "mine.png").write_text("mine")
    (out / "notes").mkdir()
    with Results(out, "m2f demo") as results:
        results.clear()
        assert tree(out) == {"labels": None, "labels/mine.png": "mine", "notes": None}
    Results(out, "m2f demo").clear()


def test_files_move_into_a_folder_and_stay_listed_as_they_were_left(tmp_path):
    out = tmp_path / "out"
    made(out, "a.txt", "labels/1.png", "gone.txt")
    (out / "gone.txt").unlink()
    (out / "labels" / "mine.png").write_text("mine")
    with Results(out, "m2f demo") as results:
        results.move(["a.txt", "labels/1.png", "gone.txt", "never.txt"], "old")
    assert tree(out) == {
        **{"labels": None, "labels/mine.png": "mine"},
        **{"old": None, "old/a.txt": "ours", "old/labels": None, "old/labels/1.png": "ours"},
    }
    (out / "old" / "a.txt").write_text("changed")
    with pytest.raises(OutputError, match=r"old/a\.txt: is not as m2f demo left it"):
        Results(out, "m2f demo").check(["old/a.txt"])
    (out / "old" / "a.txt").write_text("ours")
    Results(out, "m2f demo").clear()
    assert tree(out) == {"labels": None, "labels/mine.png": "mine"}


@pytest.mark.parametrize("name", ["a.txt", "old/a.txt"])
def test_nothing_moves_where_a_file_is_somebody_elses(tmp_path, name):
    out = tmp_path / "out"
    made(out, "a.txt", "b.txt")
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("mine")
    before = tree(out)
    with pytest.raises(OutputError, match=rf"{name}: is "), Results(out, "m2f demo") as results:
        results.move(["b.txt", "a.txt"], "old")
    assert tree(out) == before


@pytest.mark.parametrize("names", [["mine.txt"], [".hidden"], ["labels/1.png"], ["metadata.yaml", "drive_0.mcap"]])
def test_a_folder_of_somebody_else_is_refused_and_untouched(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(OutputError, match=r"is not empty, and has no list") as caught:
        Results(tmp_path, "m2f demo")
    assert "\n" not in str(caught.value) and tree(tmp_path) == before and not (tmp_path / MARK).exists()


def test_a_folder_of_another_command_is_refused(tmp_path):
    made(tmp_path / "out", "a")
    with pytest.raises(OutputError, match="holds what m2f demo made, and m2f eval needs a folder of its own"):
        Results(tmp_path / "out", "m2f eval")


@pytest.mark.parametrize("there", ["file", "folder", "link", "dangling"])
def test_a_name_that_somebody_else_has_taken_is_not_written_over(tmp_path, there):
    out, other = tmp_path / "out", tmp_path / "other"
    made(out, "a")
    other.write_text("precious")
    path = out / "b"
    {"file": lambda: path.write_text("mine"), "folder": path.mkdir, "link": lambda: path.symlink_to(other),
     "dangling": lambda: path.symlink_to("nowhere")}[there]()  # fmt: skip
    before = tree(tmp_path)
    with Results(out, "m2f demo") as results:
        with pytest.raises(OutputError, match="b: is in the way, and m2f demo did not make it"):
            results.new("b")
        assert tree(tmp_path) == before


@pytest.mark.parametrize("change", ["text", "link", "folder"])
def test_what_was_changed_since_is_not_removed(tmp_path, change):
    out, other = tmp_path / "out", tmp_path / "other"
    made(out, "a", "b")
    other.mkdir()
    (out / "b").unlink()
    {"text": lambda: (out / "b").write_text("mine now"), "link": lambda: (out / "b").symlink_to(other),
     "folder": (out / "b").mkdir}[change]()  # fmt: skip
    before = tree(tmp_path)
    with Results(out, "m2f demo") as results:
        for remove in (results.clear, lambda: results.new("b")):
            with pytest.raises(OutputError, match="b: is not as m2f demo left it"):
                remove()
    assert tree(tmp_path) == before


def test_a_copy_is_ours_too(tmp_path):
    """Copied, or checked out by git: of another time. Not what differs in a byte of the same size."""
    made(tmp_path / "out", "a", "deep/er/b")
    (tmp_path / "out" / "large").write_bytes(bytes(3 << 20))
    with Results(tmp_path / "out", "m2f demo") as results:
        results.new("large.mp4").write_bytes(bytes(3 << 20))
    shutil.copytree(tmp_path / "out", tmp_path / "copy", copy_function=shutil.copy)
    for path in (tmp_path / "copy").rglob("*"):
        os.utime(path, (1, 1))
    with Results(tmp_path / "copy", "m2f demo") as results:
        results.clear()
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == [MARK, "large"]
    with open(tmp_path / "out" / "large.mp4", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    os.utime(tmp_path / "out" / "large.mp4", (1, 1))
    with Results(tmp_path / "out", "m2f demo") as results, pytest.raises(OutputError, match="is not as m2f demo left"):
        results.clear()


@pytest.mark.parametrize("sealed", [True, False])
def test_links_are_not_followed(tmp_path, sealed):
    out, other = tmp_path / "out", tmp_path / "other"
    results = Results(out, "m2f demo")
    results.new("labels/1.png").write_text("ours")
    if sealed:
        results.seal()
    results.close()
    (out / "labels").rename(other)
    (out / "labels").symlink_to(other)
    before = tree(other)
    for act in (Results.clear, lambda results: results.new("labels/2.png"), lambda results: results.place("labels/x")):
        again = Results(out, "m2f demo")
        with pytest.raises(OutputError, match="labels: is "):
            act(again)
        again.close()
    assert tree(other) == before


def spellings(folder, tmp_path):
    """Other paths of the same folder."""
    link, loop = tmp_path / "link", tmp_path / "a" / ".." / folder.name
    link.symlink_to(folder)
    (tmp_path / "a").mkdir()
    return [str(folder), f"{folder}/", f"{folder}//.", str(link), str(loop), os.path.relpath(folder)]


def test_inputs_in_the_folder_are_refused_by_whatever_path(tmp_path, monkeypatch):
    out = tmp_path / "out"
    made(out, "bag/metadata.yaml", "labels/1.png", "overlay.mp4")
    paths = spellings(out, tmp_path)
    (tmp_path / "label_link").symlink_to(out / "labels")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for folder in (*paths[:5], "out"):
        for name in ("", "/bag", "/labels", "/overlay.mp4", "/bag/metadata.yaml"):
            for given_path in (*(f"{path}{name}" for path in paths[:5]), f"~/out{name}", "label_link"):
                with pytest.raises(OutputError, match="is read, and results must not go where that is"):
                    Results(folder, "m2f demo", [None, "", "street", given_path])
    for fine in (tmp_path, tmp_path / "a", "street", "/no/such", "\0", "~nobody/x", "x" * 5000):
        Results(out, "m2f demo", [fine])


@pytest.mark.process
def test_an_input_that_is_part_of_the_folder_by_a_bind_mount(tmp_path):
    """Its parents are others, its number is the same: as by a second path through which nobody goes up."""
    out = tmp_path / "out"
    made(out, "labels/1.png")
    mount = tmp_path / "mounted"
    mount.mkdir()
    if os.geteuid() or subprocess.run(["mount", "--bind", out / "labels", mount], capture_output=True).returncode:
        pytest.skip("no right to mount")
    try:
        with pytest.raises(OutputError, match="mounted is read"):
            Results(out, "m2f demo", [mount])
    finally:
        subprocess.run(["umount", mount], check=True)


def test_a_hard_link_to_a_result_keeps_its_content(tmp_path):
    made(tmp_path / "out", "overlay.mp4")
    os.link(tmp_path / "out" / "overlay.mp4", tmp_path / "kept.mp4")
    with Results(tmp_path / "out", "m2f demo") as results:
        results.clear()
        results.new("overlay.mp4").write_text("new")
    assert (tmp_path / "kept.mp4").read_text() == "ours"


@pytest.mark.parametrize("out", ["/", "~", "/proc", "file", "file/x", "x\0y", "n" * 300, "dangling"])
def test_places_that_are_none(tmp_path, monkeypatch, out):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to("nowhere")
    before = tree(tmp_path)
    with pytest.raises(OutputError) as caught:
        Results(os.path.expanduser(out), "m2f demo").begin()
    assert "\n" not in str(caught.value) and tree(tmp_path) == before


_NAMES = ["a", "b", "x/1", "x/2", "x/y/3", "mine", "../victim", "/victim", "x/../../victim", ".", "", "x//1", "\0"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(
        st.one_of(
            st.sampled_from(_NAMES).map(lambda name: json.dumps({"name": name})),
            st.sampled_from(["{", "[]", "null", '{"name": 5}', '{"name": "a", "state": [1]}', "[" * 9999, "\x00", ""]),
            st.text(max_size=20),
        ),
        max_size=8,
    )
)
@example(lines=[json.dumps({"name": "../victim"})])
def test_no_list_makes_it_touch_what_is_outside(tmp_path, lines):
    """The list may have come with a folder of somebody else and say anything."""
    shutil.rmtree(tmp_path / "w", ignore_errors=True)
    out = tmp_path / "w" / "out"
    (out / "x" / "y").mkdir(parents=True)
    (tmp_path / "w" / "victim").write_text("precious")
    for name in ("a", "x/1", "x/y/3", "mine"):
        (out / name).write_text("")
    listed = [json.dumps({"m2f_ros": "0", "command": "m2f demo"}), *lines]
    (out / MARK).write_text("\n".join(listed), encoding="utf-8", errors="replace")
    Results(out, "m2f demo").clear()
    assert (tmp_path / "w" / "victim").read_text() == "precious"
    left = {name for name in ("a", "x/1", "x/y/3", "mine") if (out / name).exists()}
    names = {json.loads(line)["name"] for line in lines if line.startswith('{"name": "') and line.endswith('"}')}
    assert left == {"a", "x/1", "x/y/3", "mine"} - names


@pytest.mark.parametrize("text", ["", '{"m2f_ros": "0", "comm', "[]\n"])
def test_a_list_whose_first_line_is_damaged_is_nobodys(tmp_path, text):
    (tmp_path / MARK).write_text(text)
    (tmp_path / "a").write_text("mine")
    with pytest.raises(OutputError):
        Results(tmp_path, "m2f demo")
    assert tree(tmp_path) == {"a": "mine"}


def test_a_list_that_is_a_link_or_a_pipe_is_refused(tmp_path):
    made(tmp_path / "other", "a")
    for kind in ("link", "pipe"):
        out = tmp_path / kind
        out.mkdir()
        (out / MARK).symlink_to(tmp_path / "other" / MARK) if kind == "link" else os.mkfifo(out / MARK)
        with pytest.raises(OutputError, match="is no file that m2f demo made"):
            Results(out, "m2f demo")


_RUN = """
import os, sys
from m2f_ros.results import Results
kill = int(sys.argv[2])
count = 0
def count_calls(event, arguments):
    global count
    if event in ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "open"):
        if "out" in str(arguments[0]) or event in ("os.remove", "os.rmdir"):
            count += 1
            if count > kill:
                os.kill(os.getpid(), 9)
results = Results(sys.argv[1], "m2f demo")
sys.addaudithook(count_calls)
with results:
    results.clear()
    for name in ("a", "labels/1.png", "labels/2.png"):
        results.new(name).write_text("ours")
"""


@pytest.mark.process
def test_a_run_that_is_killed_anywhere_can_be_done_again(tmp_path):
    out, ended, step = tmp_path / "out", False, 0
    while not ended:
        ended = subprocess.run([sys.executable, "-c", _RUN, out, str(step)]).returncode == 0
        (out / "mine").write_text("mine") if (out / MARK).exists() else None
        step += 3
        assert step < 200
    assert step > 6
    Results(out, "m2f demo").clear()
    assert tree(out) == {"mine": "mine"}


def test_two_runs_at_a_time_are_one_too_many(tmp_path):
    with Results(tmp_path / "out", "m2f demo"), pytest.raises(OutputError, match="another m2f demo writes here; wait"):
        Results(tmp_path / "out", "m2f demo").begin()
    Results(tmp_path / "out", "m2f demo").begin()


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "", ".", "..", "a//b", "a\0", MARK, "a/", "./a"])
def test_a_name_that_leaves_the_folder_is_refused(tmp_path, name):
    with Results(tmp_path / "out", "m2f demo") as results, pytest.raises(OutputError):
        results.new(name)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert tree(Path(tmp_path / "out")) == {}
