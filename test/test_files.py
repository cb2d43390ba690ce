"""Files that are written whole or not at all."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from m2f_ros.files import MOST_NAME, file_name, file_names, whole, write_whole


def test_it_takes_the_place_of_the_older_one_at_the_end_alone(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with whole(path) as partial:
        partial.write_bytes(b"new")
        assert (path.read_text(), partial.parent) == ("old", tmp_path)
    assert (path.read_text(), list(tmp_path.iterdir())) == ("new", [path])


@pytest.mark.parametrize("there", [True, False])
def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path, there):
    path = tmp_path / "a.json"
    if there:
        path.write_text("old")
    with pytest.raises(OSError, match="disk full"), whole(path) as partial:
        partial.write_text("ne")
        raise OSError("disk full")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"] * there


def test_what_a_killed_process_left_is_written_over(tmp_path):
    path = tmp_path / "größe.txt"
    with whole(path) as partial:
        partial.write_text("once")
    partial.write_text("left behind")
    write_whole(path, "Größe\n")
    assert (path.read_bytes().decode("utf-8"), list(tmp_path.iterdir())) == ("Größe\n", [path])


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "none" / "a.txt", "")


@given(st.lists(st.text(), max_size=8))
@example(["../../x", "/etc/passwd", "..", ".", "", "-rf", "~", "a\0b", "a\nb", "n" * 300, "A", "a", "\ud800"])
def test_any_texts_become_file_names_that_differ(texts):
    names = file_names(texts, ["labels"])
    assert len({name.casefold() for name in [*names, "labels"]}) == len(texts) + 1
    for name in names:
        assert name not in ("", ".", "..") and not set("/\\\0\n") & set(name) and name[0] not in "-.~"
        assert len(name.encode()) <= MOST_NAME + 4


@pytest.mark.parametrize("name", ["front", "000001_1577836800000000000", "größe", "a b", "a.b-c", "x" * MOST_NAME])
def test_a_name_that_is_fine_stays(name):
    assert file_name(name) == name
