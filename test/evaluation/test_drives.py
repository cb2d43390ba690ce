"""Lists and globs on both sides, paired by name."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2f_ros.errors import EvaluationError
from m2f_ros.evaluation.drives import pair_paths, places
from m2f_ros.evaluation.folder_drive import match

NAMES = st.lists(st.sampled_from("abcdef"), unique=True, min_size=2)


@given(NAMES, st.randoms())
def test_several_are_paired_by_name_whatever_their_order(names, random):
    predictions = [Path("results", name) for name in names]
    random.shuffle(predictions)
    paired = pair_paths(predictions, [Path("drives", f"{name}.mcap") for name in names])
    assert paired == [(name, Path("results", name), Path("drives", f"{name}.mcap")) for name in names]


def test_one_of_each_belong_together():
    assert pair_paths([Path("RESULT")], [Path("DRIVE")]) == [("DRIVE", Path("RESULT"), Path("DRIVE"))]


@given(NAMES, NAMES)
def test_what_is_alone_is_named(some, others):
    if set(some) == set(others):
        return
    with pytest.raises(EvaluationError) as caught:
        pair_paths([Path(name) for name in some], [Path(name) for name in others])
    alone = sorted(set(others) - set(some)) or sorted(set(some) - set(others))
    assert f" for {', '.join(alone)}: several drives are paired by name" in str(caught.value)


def test_globs_and_folders_of_bags(tmp_path):
    for name in ("b", "a"):
        (tmp_path / "drives" / name).mkdir(parents=True)
        (tmp_path / "drives" / name / "metadata.yaml").touch()
    (tmp_path / "c.mcap").touch()
    a, b, c = tmp_path / "drives" / "a", tmp_path / "drives" / "b", tmp_path / "c.mcap"
    assert places([str(tmp_path / "drives")], "--truth") == [a, b]
    assert places([str(tmp_path / "drives" / "*"), str(c)], "--truth") == [a, b, c]
    with pytest.raises(EvaluationError, match=r"a: is given twice$"):
        places([str(tmp_path / "drives"), str(a)], "--truth")


def test_recordings_in_one_folder_are_paired_by_the_name_of_their_first_file(tmp_path):
    for name in ("left_0", "left_1", "right"):
        (tmp_path / f"{name}.mcap").touch()
    parts, alone = tmp_path / "left_0.mcap,left_1.mcap", tmp_path / "right.mcap"
    assert places([str(alone), str(parts)], "--truth") == [alone, parts]
    found = pair_paths([Path("out/left_0"), Path("out/right")], [alone, parts])
    assert found == [("right", Path("out/right"), alone), ("left_0", Path("out/left_0"), parts)]


FRAMES = st.lists(st.tuples(st.sampled_from(["", "x", "y"]), st.sampled_from("abcd")), unique=True, min_size=1)


@given(FRAMES, FRAMES)
def test_frames_match_by_subfolder_and_name_or_by_a_name_that_is_one_alone(truth, predictions):
    try:
        found = match(truth, predictions, Path("T"), Path("P"))
    except EvaluationError:
        assert len(truth) != len(predictions) and not set(truth) & set(predictions)
        return
    assert list(found) == truth
    taken = [key for key in found.values() if key is not None]
    assert len(taken) == len(set(taken)) and set(taken) <= set(predictions)
    by_name = {key for key in truth if found[key] is not None and found[key][1] == key[1]}
    for key in truth:
        if key in predictions:
            assert found[key] == key
    if by_name:
        alone = [k for k in truth if [n for _, n in truth].count(k[1]) == [n for _, n in predictions].count(k[1]) == 1]
        assert all(found[key] is not None and found[key][1] == key[1] for key in alone)
