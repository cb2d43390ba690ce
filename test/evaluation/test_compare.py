"""Changes between two results, and the exit status that guards a release."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from m2f_ros import cli
from m2f_ros.errors import EvaluationError
from m2f_ros.evaluation import intervals
from m2f_ros.evaluation.compare import compare, describe, judge
from m2f_ros.evaluation.coverage import shortfalls

EVEN = [[50, 50, 0], [10, 90, 0]]  # IoU 50/110 and 90/150
BETTER = [[60, 40, 0], [10, 90, 0]]


def changes(comparison):
    return {change.key: change for change in comparison.metrics}


def measured(result, **metrics):
    """The result with other metrics."""
    return replace(result, metrics={**result.metrics, **metrics})


def test_the_difference_of_equal_frames_is_certain(make_result):
    found = compare(make_result([EVEN] * 30), make_result([BETTER] * 30))
    assert found.paired and found.notes == []
    accuracy = changes(found)["pixel_accuracy"]
    assert (accuracy.a, accuracy.b) == (0.7, 0.75)
    assert (accuracy.difference, accuracy.low, accuracy.high) == pytest.approx((0.05, 0.05, 0.05))
    miou = changes(found)["miou"]
    assert miou.difference == pytest.approx((60 / 110 + 90 / 140) / 2 - (50 / 110 + 90 / 150) / 2)
    assert miou.verdict == "better"
    first, second = found.classes["iou"]
    assert (first.key, first.difference) == ("iou:class 0", pytest.approx(10 / 110))
    assert second.low == pytest.approx(90 / 140 - 90 / 150)
    assert [change.difference for change in found.classes["accuracy"]] == pytest.approx([0.1, 0])
    assert found.classes["accuracy"][1].verdict == "same"
    assert "boundary_f" not in found.classes and "boundary_f" not in changes(found)


def test_interval_is_that_of_scipy(make_result):
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    rng = np.random.default_rng(0)
    # 100 pixels of truth a frame: the difference of pixel accuracies is the mean of those of the frames.
    right = rng.integers(40, 90, (2, 64))
    a, b = ([[[int(n), 100 - int(n)]] for n in row] for row in right)
    (found,) = [c for c in compare(make_result(a), make_result(b)).metrics if c.key == "pixel_accuracy"]
    stretches = (right[1] - right[0]).reshape(16, 4).mean(axis=1) / 100  # 64 ** (1 / 3) frames each
    theirs = stats.bootstrap((stretches,), np.mean, n_resamples=20000, method="percentile", rng=1)
    low, high = theirs.confidence_interval
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.05 * (high - low))
    assert found.low < found.difference < found.high


def test_stretches_do_not_cross_drives(make_result):
    result = make_result([EVEN] * 5, [EVEN] * 3, [None] * 0, [EVEN] * 4)
    counts = intervals.pixel_counts(result)  # 12 frames: stretches of 2
    assert counts.truth.tolist() == [[200, 200], [200, 200], [100, 100], [200, 200], [100, 100], [200, 200], [200, 200]]


def test_other_frames_are_not_paired(make_result):
    a = make_result([EVEN] * 30)
    found = compare(a, make_result([BETTER] * 20))
    assert not found.paired
    assert "The frames are not the same" in describe(found)
    longer = make_result([BETTER, EVEN] * 15)
    longer.blocks[7]["last_stamp_ns"] += 1
    assert not compare(a, longer).paired
    # Files have no stamps: as many of them, but with another truth.
    others = make_result([[[5, 1, 0], [0, 5, 1]]] * 30)
    for result in (a, others):
        for block in result.blocks:
            block |= {"first_stamp_ns": 0, "last_stamp_ns": 0}
    assert not compare(a, others).paired


def test_one_drive_may_have_another_name(make_result):
    alone, two = make_result([EVEN] * 3), make_result([EVEN] * 3, [EVEN])
    renamed = [make_result([EVEN] * 3), make_result([EVEN] * 3, [EVEN])]
    for result in renamed:
        for block in result.blocks[:3]:
            block["drive"] = "live"
    assert compare(alone, renamed[0]).paired
    assert not compare(two, renamed[1]).paired
    assert not compare(alone, two).paired and not compare(two, alone).paired


def test_missing_frames_and_settings_are_told(make_result):
    a = make_result([EVEN] * 4, settings={"boundary": True, "stride": 1})
    b = make_result([EVEN, None, EVEN, EVEN], settings={"boundary": True, "stride": 2})
    found = compare(a, b)
    assert found.paired
    assert [note.split(":")[0] for note in found.notes] == [
        "Scored were 4 frames in A and 3 in B",
        "Settings of the evaluation that differ",
    ]
    assert changes(found)["missing"].difference == 0.25
    assert changes(found)["missing"].verdict == "worse"


def test_an_interval_around_zero_is_unclear(make_result):
    better = [BETTER, EVEN]
    a, b = make_result(better * 20), make_result([EVEN, BETTER, *better * 19][::-1])
    found = changes(compare(a, b))["miou"]
    assert found.verdict == "same"  # the same counts in all
    b = make_result([EVEN, BETTER] * 19 + [BETTER, BETTER])
    found = changes(compare(a, b))["miou"]
    assert found.low < 0 < found.difference < found.high
    assert found.verdict == "unclear"


def test_one_frame_has_no_interval(make_result):
    found = changes(compare(make_result([EVEN]), make_result([BETTER])))["miou"]
    assert (found.low, found.high, found.verdict) == (None, None, "better")


def test_a_class_in_one_of_the_two_has_no_difference(make_result):
    a = make_result([[[10, 0, 0], [0, 0, 0]]] * 9)
    b = make_result([[[9, 1, 0], [0, 0, 0]]] * 9)
    comparison = compare(a, b)
    second = comparison.classes["iou"][1]
    assert (second.a, second.b, second.difference, second.low, second.verdict) == (None, 0.0, None, None, "")
    assert "class 1      –  0.000" in describe(comparison)


def test_results_without_any_frame(make_result):
    nothing = make_result([], names=["a", "b"])
    comparison = compare(nothing, nothing)
    assert [change for change in comparison.metrics if change.difference is not None] == []
    assert "class" not in describe(comparison).splitlines()
    with pytest.raises(EvaluationError, match=r"^miou was not measured in A:"):
        comparison.find("miou")


def test_other_classes_are_refused(make_result):
    a, b = make_result([EVEN], names=["road", "sky"]), make_result([EVEN], names=["sky", "road"])
    with pytest.raises(EvaluationError, match="score both in the same classes"):
        compare(a, b)


def test_classes_are_listed_from_the_worst_change(make_result):
    a, b = [[90, 10, 0], [10, 90, 0]], [[70, 30, 0], [0, 100, 0]]
    lines = describe(compare(make_result([a] * 2), make_result([b] * 2), "first", "second")).splitlines()
    assert lines[:2] == ["A  first", "B  second"]
    table = lines[lines.index(next(line for line in lines if line.startswith("class"))) :]
    assert table[1].split()[:5] == ["class", "0", "0.818", "0.700", "-0.1182"]
    assert table[2].split()[:5] == ["class", "1", "0.818", "0.769", "-0.0490"]


@pytest.mark.parametrize(
    ("key", "a", "b", "drop"),
    [("miou", 0.75, 0.7, 0.05), ("pq", 0.5, 0.6, -0.1), ("ece", 0.1, 0.13, 0.03), ("flips", 0.02, 0.01, -0.01)],
)
def test_the_bound_is_on_what_got_worse(make_result, key, a, b, drop):
    result = make_result([EVEN])
    change = compare(measured(result, **{key: a}), measured(result, **{key: b})).find(key)
    assert change.drop == pytest.approx(drop)
    assert judge(change, max(drop, 0))[0]  # a drop of the bound itself is no more than the bound
    assert judge(change, max(drop - 1e-6, 0))[0] == (drop < 0)


def test_latency_is_guarded_in_ms(make_result):
    a, b = (make_result([EVEN], latency_ms={"p50": p50, "p90": 70.0, "p99": 80.0, "max": 90.0}) for p50 in (50.0, 62.5))
    change = compare(a, b).find("latency_p50")
    assert judge(change, 12.5)[0] and not judge(change, 12)[0]
    assert judge(change, 12)[1] == "latency_p50 got worse: 50.0 ms to 62.5 ms (+12.5 ms), beyond the bound of 12"


def test_an_interval_beyond_the_bound_is_told(make_result):
    worse = [[40, 60, 0], [10, 90, 0]]
    comparison = compare(make_result([EVEN] * 40), make_result([worse, *[EVEN] * 39]))
    held, text = judge(comparison.find("iou:class 0"), 0.005)
    assert held and text.endswith(", which reaches beyond it: more frames would tell")
    held, text = judge(comparison.find("iou:class 0"), 0.1)
    assert held and "which" not in text
    held, text = judge(compare(make_result([EVEN]), make_result([BETTER])).find("miou"), 0.1)
    assert held and text.endswith("; too few frames for an interval")


@pytest.fixture
def folders(make_result, tmp_path):
    """Folders of three results: good, bad (mean IoU 0.05 lower) and other (of other classes)."""
    made = {"good": [BETTER] * 20, "bad": [EVEN] * 20, "other": [[[5, 5]]]}
    for name, frames in made.items():
        (tmp_path / name).mkdir()
        make_result(frames).save(tmp_path / name / "result.json")
    return tmp_path


@pytest.mark.parametrize(
    ("a", "b", "options", "status"),
    [
        ("good", "good", [], 0),
        ("bad", "good", [], 0),
        ("good", "bad", [], 1),
        ("good", "bad", ["--max-drop", "0.08"], 0),
        ("good", "bad", ["--metric", "iou:class 1", "--max-drop", "0.05"], 0),
        ("good", "bad", ["--metric", "iou:class 1", "--metric", "iou:class 0", "--max-drop", "0.05"], 1),
    ],
)
def test_exit_status(folders, a, b, options, status):
    done = CliRunner().invoke(cli.m2f, ["compare", str(folders / a), str(folders / b / "result.json"), *options])
    assert done.exit_code == status
    assert f"A  {folders / a}" in done.output


@pytest.mark.parametrize("order", [("good", "part"), ("part", "good")])
def test_a_part_of_the_frames_guards_nothing(folders, make_result, order):
    (folders / "part").mkdir()
    make_result([BETTER] * 20, settings={"problems": ["x.mcap: cut off"]}).save(folders / "part" / "result.json")
    done = CliRunner().invoke(cli.m2f, ["compare", *(str(folders / name) for name in order)])
    assert done.exit_code == 2
    assert "miou did not get worse" in done.stdout
    assert done.stderr.startswith(f"m2f: error: {folders / 'part'}: of a part of the frames, which cannot guard")


@pytest.mark.parametrize("order", [("good", "few"), ("few", "good")])
@pytest.mark.parametrize(
    ("options", "status"),
    [
        ([], 2),
        (["--allow-missing", "13"], 2),
        (["--allow-missing", "14"], 0),
        (["--allow-missing", "70%"], 0),
        (["--metric", "missing"], 2),
    ],
)
def test_missing_frames_guard_nothing_unless_allowed(folders, make_result, order, options, status):
    """The allowance of m2f eval, or its absence in older results, does not matter."""
    line = "no prediction came for 14 of 20 frames with ground truth"
    for settings in ({"problems": [line]}, {"problems": [], "allow_missing": "14"}, {}):
        (folders / "few").mkdir(exist_ok=True)
        make_result([None] * 14 + [BETTER] * 6, settings=settings).save(folders / "few" / "result.json")
        done = CliRunner().invoke(cli.m2f, ["compare", *(str(folders / name) for name in order), *options])
        assert done.exit_code == status
        error = f"m2f: error: {folders / 'few'}: of a part of the frames, which cannot guard a release: {line}\n"
        assert done.stderr == (error if status else "")


def test_other_frames_guard_nothing_unless_allowed(folders, make_result):
    (folders / "sparse").mkdir()
    make_result([BETTER] * 6).save(folders / "sparse" / "result.json")
    arguments = ["compare", str(folders / "good"), str(folders / "sparse")]
    done = CliRunner().invoke(cli.m2f, [*arguments, "--json", str(folders / "c.json")])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"m2f: error: {folders / 'good'} and {folders / 'sparse'}: their frames, or the")
    assert done.stderr == f"m2f: error: {json.loads((folders / 'c.json').read_text())['obstacles'][0]}\n"
    assert CliRunner().invoke(cli.m2f, [*arguments, "--other-frames"]).exit_code == 0


ROAD, EMPTY = [[9, 1, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("frame", "options", "line"),
    [
        (ROAD, [], "its ground truth is all class 0, which cannot guard a release"),
        (ROAD, ["--metric", "latency_p50"], None),
        (
            [[9, 1, 0, 0], [0, 9, 0, 1], [0, 0, 0, 0]],
            ["--metric", "iou:class 2"],
            "no pixel of its ground truth is class 2, so that iou:class 2 cannot guard a release",
        ),
        ([[9, 1, 0, 0], [0, 9, 0, 1], [0, 0, 0, 0]], ["--metric", "iou:class 1"], None),
    ],
)
def test_classes_that_the_truth_lacks_guard_nothing(make_result, tmp_path, frame, options, line):
    latency = {"p50": 50.0, "p90": 70.0, "p99": 80.0, "max": 90.0}
    frame = [*frame[:-1], [*frame[-1][:-1], 0]]
    make_result([frame] * 9, latency_ms=latency).save(tmp_path / "r.json")
    if line and "class 2" in line:  # predicted, so that it has an IoU
        make_result([[[8, 1, 1, 0], *frame[1:]]] * 9).save(tmp_path / "r.json")
    done = CliRunner().invoke(cli.m2f, ["compare", *[str(tmp_path / "r.json")] * 2, *options])
    assert done.exit_code == (2 if line else 0)
    assert done.stderr == (f"m2f: error: {tmp_path / 'r.json'}: {line}\n" * 2 if line else "")


def test_a_measure_of_a_part_of_the_frames_guards_nothing(make_result, tmp_path):
    result = measured(make_result([EVEN] * 9, measured={"ece": 3}), ece=0.1)
    line = "calibration error (ECE) is over 3 of 9 frames: the others have no confidence"
    result.settings["problems"] = [line]
    result.save(tmp_path / "r.json")
    files = [str(tmp_path / "r.json")] * 2
    assert CliRunner().invoke(cli.m2f, ["compare", *files]).exit_code == 0
    done = CliRunner().invoke(cli.m2f, ["compare", *files, "--metric", "ece"])
    assert done.exit_code == 2 and done.stderr.endswith(f"guard a release: {line}\n")
    assert CliRunner().invoke(cli.m2f, ["compare", *files, "--metric", "ece", "--allow-missing", "6"]).exit_code == 0


def test_means_over_other_classes_are_told(make_result):
    a = make_result([[[9, 1, 0, 0], [0, 9, 0, 0], [0, 0, 0, 0]]], names=["road", "car", "sky"])
    b = make_result([[[9, 0, 1, 0], [0, 9, 0, 0], [0, 0, 0, 0]]], names=["road", "car", "sky"])
    assert compare(a, b).notes == [
        "A and B: never in the ground truth: sky (1 of 3 classes).",
        "A: mean IoU over 2 of 3 classes: all but sky.",
    ]


@pytest.mark.parametrize(
    ("b", "options", "line"),
    [
        ("bad", ["--allow-missing", "5%%"], "--allow-missing 5%%: expected a number of frames, as 20, or a share"),
        ("nowhere", [], "nowhere: no such file"),
        ("other", [], "score both in the same classes"),
        ("bad", ["--metric", "beauty"], "no metric 'beauty': there are miou,"),
        ("bad", ["--metric", "iou:elk"], "no metric 'iou:elk'"),
        ("bad", ["--metric", "pq"], "pq was not measured in"),
        ("bad", ["--json", "good/result.json/c.json"], "good/result.json/c.json cannot be written"),
    ],
)
def test_what_the_user_can_mend_is_one_line(folders, monkeypatch, capsys, b, options, line):
    monkeypatch.chdir(folders)
    monkeypatch.setattr("sys.argv", ["m2f", "compare", str(folders / "good"), str(folders / b), *options])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith("m2f: error: ") and error.count("\n") == 1 and line in error


def test_json_holds_what_is_shown(folders):
    arguments = [str(folders / "good"), str(folders / "bad"), "--json", str(folders / "c.json")]
    CliRunner().invoke(cli.m2f, ["compare", *arguments])
    content = json.loads((folders / "c.json").read_text())
    assert content["paired"] is True
    (miou,) = [change for change in content["metrics"] if change["key"] == "miou"]
    assert miou["difference"] == pytest.approx((50 / 110 + 90 / 150) / 2 - (60 / 110 + 90 / 140) / 2)
    assert [change["label"] for change in content["classes"]["iou"]] == ["class 0", "class 1"]


def test_a_result_without_numbers_of_frames_guards_nothing(make_result):
    """As one of another version may be."""
    result = make_result()
    result.frames = dict.fromkeys(result.frames, 0)
    assert shortfalls(result) == ["it has no numbers of frames"]
