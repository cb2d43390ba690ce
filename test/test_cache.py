"""The cache reads a file back only where nobody else can have written it."""

import logging
import os
import subprocess
import sys
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m2f_ros import cache
from m2f_ros.cache import cache_folder, private, read, write
from m2f_ros.errors import say_once

SOMEBODY = 12345
root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    say_once.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_folder("openvino")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.binary(max_size=50), min_size=1))
def test_what_was_written_comes_back(folder, parts):
    write(folder / "a.blob", parts)
    assert read(folder / "a.blob") == parts
    assert [path.name for path in folder.iterdir()] == ["a.blob"]


def test_only_this_user_may_read_and_write(folder, tmp_path):
    write(folder / "a.blob", [b"x"])
    for path in (folder, folder.parent, tmp_path / "cache"):
        assert path.stat().st_mode & 0o777 == 0o700
    assert (folder / "a.blob").stat().st_mode & 0o777 == 0o600
    assert read(folder / "none.blob") is None


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_that_is_not_as_it_was_is_not_read(folder, data):
    write(folder / "a.blob", [b"abc", b"defg"])
    good = (folder / "a.blob").read_bytes()
    bad = data.draw(st.one_of(st.binary(max_size=80), st.integers(0, len(good) - 1).map(lambda n: good[:n])))
    (folder / "a.blob").write_bytes(bad)
    assert read(folder / "a.blob") is None


def test_a_bad_file_is_said_once(folder, caplog):
    write(folder / "a.blob", [b"abc"])
    (folder / "a.blob").write_bytes(b"abc")
    with caplog.at_level(logging.WARNING):
        assert read(folder / "a.blob") is read(folder / "a.blob") is None
    assert [record.getMessage() for record in caplog.records] == [f"{folder / 'a.blob'}: damaged: made anew"]


@pytest.mark.parametrize("how", ["rename", "link", "open to others", "pipe", "folder"])
def test_a_file_that_is_another_is_not_read(folder, tmp_path, how):
    a, b = folder / "a.blob", folder / "b.blob"
    write(a, [b"abc"])
    if how == "rename":
        a.rename(b)
    elif how == "link":
        a.rename(tmp_path / "b.blob")
        b.symlink_to(tmp_path / "b.blob")
    elif how == "open to others":
        b = a
        a.chmod(0o666)
    else:
        os.mkfifo(b) if how == "pipe" else b.mkdir()
    assert read(b) is None


@root
def test_a_file_of_another_user_is_not_read(folder):
    write(folder / "a.blob", [b"abc"])
    os.chown(folder / "a.blob", SOMEBODY, SOMEBODY)
    assert read(folder / "a.blob") is None


@pytest.mark.parametrize("place", ["openvino", "m2f_ros", "cache", "top"])
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757])
def test_a_folder_that_others_may_write_to_keeps_nothing(folder, tmp_path, caplog, place, mode):
    write(folder / "a.blob", [b"abc"])
    path = {"openvino": folder, "m2f_ros": folder.parent, "cache": folder.parents[1], "top": tmp_path}[place]
    path.chmod(mode)
    with caplog.at_level(logging.WARNING):
        assert read(folder / "a.blob") is None
        write(folder / "b.blob", [b"abc"])
    assert not (folder / "b.blob").exists()
    (record,) = caplog.records
    assert f"nothing is kept for the next start, which takes as long as this one: others may write to {path}" in (
        record.getMessage()
    )
    path.chmod(0o1777 if path != folder else 0o700)  # as /tmp
    assert read(folder / "a.blob") == [b"abc"]


@root
@pytest.mark.parametrize("place", ["openvino", "m2f_ros", "cache"])
def test_a_folder_of_another_user_keeps_nothing(folder, place):
    write(folder / "a.blob", [b"abc"])
    path = {"openvino": folder, "m2f_ros": folder.parent, "cache": folder.parents[1]}[place]
    os.chown(path, SOMEBODY, SOMEBODY)
    assert f"{path} belongs to another user" in private(folder)
    assert read(folder / "a.blob") is None


@root
def test_a_link_of_another_user_on_the_way_keeps_nothing(folder, tmp_path, monkeypatch):
    write(folder / "a.blob", [b"abc"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "link"))
    (tmp_path / "link").symlink_to(tmp_path / "cache")
    assert read(cache_folder("openvino") / "a.blob") == [b"abc"]
    os.chown(tmp_path / "link", SOMEBODY, SOMEBODY, follow_symlinks=False)
    assert read(cache_folder("openvino") / "a.blob") is None


def test_a_folder_of_an_earlier_version_is_closed(folder):
    folder.mkdir(parents=True, mode=0o755)
    assert private(folder) == "" and folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("base", ["relative", "", "./x", "~"])
def test_a_base_that_is_not_absolute_is_not_used(monkeypatch, tmp_path, base):
    monkeypatch.setenv("XDG_CACHE_HOME", base)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("x") == tmp_path / ".cache" / "m2f_ros" / "x"


def test_places_where_nothing_can_be_kept(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "x", tmp_path / "file", tmp_path / ("n" * 300)):
        assert private(folder) != ""
        write(folder / "a.blob", [b"x"])
        assert read(folder / "a.blob") is None


def test_a_disk_that_is_full_or_only_read(folder, monkeypatch, caplog):
    write(folder / "a.blob", [b"abc"])

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "utime", fail)
    assert read(folder / "a.blob") == [b"abc"]
    with caplog.at_level(logging.WARNING):
        write(folder / "b.blob", [b"abc"])
    assert [path.name for path in folder.iterdir()] == ["a.blob"]
    assert "No space left on device" in caplog.text


def test_what_a_killed_process_left_goes_after_an_hour(folder):
    write(folder / "a.blob", [b"abc"])
    for name, age in ((".old.partial", 7200), (".new.partial", 0)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - age,) * 2)
    write(folder / "b.blob", [b"abc"])
    assert sorted(path.name for path in folder.iterdir()) == [".new.partial", "a.blob", "b.blob"]


_WRITE = """
import sys
from pathlib import Path
from m2f_ros.cache import read, write
folder = Path(sys.argv[1])
for i in range(60):
    write(folder / "a.blob", [bytes([i]) * 5000] * 3)
    write(folder / f"{sys.argv[2]}.blob", [b"x" * 5000])
    parts = read(folder / "a.blob")
    assert parts is None or (len(parts) == 3 and len(set(b"".join(parts))) == 1)
"""


@pytest.mark.process
def test_several_processes_at_a_time(folder, monkeypatch):
    private(folder)
    processes = [subprocess.Popen([sys.executable, "-c", _WRITE, folder, str(i)]) for i in range(3)]
    assert [process.wait(240) for process in processes] == [0, 0, 0]
    assert len(read(folder / "a.blob")) == 3
    monkeypatch.setattr(cache, "BYTES", 0)
    write(folder / "a.blob", [b"x"])
    assert [path.name for path in folder.iterdir()] == ["a.blob"]
