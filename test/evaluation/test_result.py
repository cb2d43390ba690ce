"""The result's JSON: of this version, of others, and damaged."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m2f_ros.errors import EvaluationError
from m2f_ros.evaluation.compare import compare, describe
from m2f_ros.evaluation.report import tables
from m2f_ros.evaluation.result import Result
from m2f_ros.evaluation.text import describe as short_text

# m2f bag street:3 --rate 2 --frames 4, m2f replay --max-pixels 60000 --outputs label,confidence,panoptic, m2f eval.
# It stays as the first m2f_ros that had version 1 wrote it, whatever is added to the format.
GOLDEN = Path(__file__).parent / "golden" / "result_1.json"


@pytest.fixture
def result(make_result):
    return make_result([[[3, 1, 0], [0, 4, 1]], None], names=["road", "car"], model="street")


def test_what_is_written_is_read(result, tmp_path):
    result.calibration = [{"confidence": 0.5, "accuracy": 1, "count": 3}]
    result.save(tmp_path / "result.json")
    assert Result.load(tmp_path / "result.json") == Result.load(tmp_path) == result
    assert json.loads(result.to_json())["metrics"]["miou"] == result.metrics["miou"]
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def holds(found, wanted):
    """Return True if `found` has all that `wanted` has; it may have more keys."""
    if isinstance(wanted, dict):
        return all(key in found and holds(found[key], value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(holds, found, wanted))
    return found == wanted


def test_a_result_of_version_1_is_read_for_ever():
    old = Result.load(GOLDEN)
    assert (old.version, old.model, old.taxonomy["name"]) == (1, "street", "cityscapes")
    assert old.frames == {"truth": 4, "scored": 4, "missing": 0, "without_truth": 0}
    assert old.metrics["miou"] == pytest.approx(0.549306, abs=1e-6)
    assert old.metrics["flips"] == pytest.approx(0.063111, abs=1e-6)
    assert old.latency_ms["p50"] > 0 and len(old.blocks) == 4 and len(old.worst) == 2
    (road,) = [row for row in old.classes if row["name"] == "road"]
    assert road["iou"] == pytest.approx(0.983095, abs=1e-6) and road["pq"] is not None
    assert old.measured == {"ece": 4, "iiou": 4, "latency_p50": 4, "miou": 4, "pq": 4}
    assert holds(json.loads(old.to_json()), json.loads(GOLDEN.read_text()))
    comparison = compare(old, old)
    assert comparison.paired and comparison.find("miou").verdict == "same"


def places(value, path=()):
    """Paths of all mappings in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return ([path] if isinstance(value, dict) else []) + [p for k, v in inner for p in places(v, (*path, k))]


def at(value, path):
    for key in path:
        value = value[key]
    return value


CONTENT = json.loads(GOLDEN.read_text())
# Two rows of each list, so that each kind of place is drawn often.
PLACES = [
    path
    for path in places(CONTENT)
    if not any(isinstance(key, int) and key > 1 for key in path) and path not in (("measured",), ("drops",))
]
JSON = st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
                    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
                    max_leaves=4)  # fmt: skip
_SLOW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_SLOW
@given(st.lists(st.tuples(st.sampled_from(PLACES), JSON), min_size=1, max_size=5))
def test_unknown_fields_are_kept_at_each_level(added):
    content = deepcopy(CONTENT)
    for path, value in added:
        at(content, path)["of a later version"] = value
    read = Result.from_json(json.dumps(content))
    assert holds(json.loads(read.to_json()), content)
    assert describe(compare(Result.load(GOLDEN), read))


@_SLOW
@given(st.data())
def test_absent_fields_are_empty_at_each_level(data):
    content = deepcopy(CONTENT)
    for path in data.draw(st.lists(st.sampled_from(PLACES), min_size=1, max_size=4, unique=True)):
        try:
            there = at(content, path)
        except KeyError:  # it was in what is absent by now
            continue
        if keys := sorted(there.keys() - {"format"}):
            del there[data.draw(st.sampled_from(keys))]
    read = Result.from_json(json.dumps(content))
    assert holds(json.loads(read.to_json()), {key: value for key, value in content.items() if key != "notes"})
    golden = Result.load(GOLDEN)
    if [row["name"] for row in read.classes] == [row["name"] for row in golden.classes]:
        assert describe(compare(golden, read)) and describe(compare(read, golden))
    else:
        with pytest.raises(EvaluationError, match="score both in the same classes"):
            compare(golden, read)
    assert short_text(read)
    for table in (tables.classes, tables.confusions, tables.drives, tables.latency, tables.worst, tables.settings):
        assert table(read).header
    assert tables.summary(read) and tables.measures(read, None).header


@_SLOW
@given(st.data())
def test_a_wrong_value_is_refused_in_one_line_or_does_no_harm(data):
    content = deepcopy(CONTENT)
    path = data.draw(st.sampled_from(PLACES))
    at(content, path)[data.draw(st.sampled_from(sorted(at(CONTENT, path))))] = data.draw(JSON | st.integers())
    try:
        read = Result.from_json(json.dumps(content))
        assert describe(compare(Result.load(GOLDEN), read)) and short_text(read) and tables.confusions(read).header
        assert tables.classes(read).header and tables.summary(read) and tables.worst(read).header
    except EvaluationError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("name", [name for name in CONTENT if name != "format"])
def test_each_field_may_be_absent(name):
    read = Result.from_json(json.dumps({key: value for key, value in CONTENT.items() if key != name}))
    found = getattr(read, name)
    if name == "version":
        assert found == 1
    elif name in ("taxonomy", "frames", "metrics"):
        assert all(value in (0, "", 255, None, []) for value in found.values())
    elif name != "notes":
        assert not found
    assert Result.from_json(read.to_json()) == read


def test_what_only_one_of_two_results_has_is_one_line(result):
    old = deepcopy(CONTENT)
    del old["metrics"]["ece"], old["metrics"]["flips"]
    for row in old["classes"]:
        del row["pq"]
    new = deepcopy(CONTENT) | {"version": 2}
    new["metrics"]["beauty"] = 0.5
    comparison = compare(Result.from_json(json.dumps(old)), Result.from_json(json.dumps(new)))
    assert "B alone has calibration error (ECE), flips, PQ of classes, beauty: not compared." in comparison.notes
    assert comparison.find("miou").verdict == "same"


def test_a_newer_version_is_read_as_far_as_it_is_known(caplog):
    content = CONTENT | {"version": 7, "weather": {"rain": True}}
    read = Result.from_json(json.dumps(content), "B.json")
    (line,) = caplog.messages
    assert line == "B.json: version 7 of the format: read as far as this m2f_ros, which knows 1, can"
    written = json.loads(read.to_json())
    assert (written["version"], written["weather"]) == (7, {"rain": True})
    with pytest.raises(EvaluationError) as caught:
        Result.from_json(json.dumps(content | {"drops": [1]}), "B.json")
    assert str(caught.value) == (
        "B.json: damaged: drops: expected keys and values, found [1]; it is of version 7: update m2f_ros"
    )


@pytest.mark.parametrize(
    "place, value, fault",
    [
        (("version",), "1", "version: expected a whole number, found '1'"),
        (("model",), None, "model: expected text, found null"),
        (("metrics", "miou"), "high", "metrics.miou: expected a number or null, found 'high'"),
        (("frames", "scored"), 1.5, "frames.scored: expected a whole number, found 1.5"),
        (("drives", 0, "frames"), "9", "drives[0].frames: expected a whole number, found '9'"),
        (("classes", 1, "iou"), [], "classes[1].iou: expected a number or null, found []"),
        (("blocks", 1, "hit"), 3, "blocks[1].hit: expected a list, found 3"),
        (("blocks", 1, "hit"), [-1, 1], "blocks[1].hit[0]: expected a whole number at least 0, found -1"),
        (
            ("frames", "truth"),
            1 << 62,
            f"frames.truth: expected a whole number at most 9007199254740992, found {1 << 62}",
        ),
        (("blocks", 1, "hit"), [1], "blocks[1].hit: expected 2 entries for 2 classes, found 1"),
        (("confusion", 0, 2), True, "confusion[0][2]: expected a whole number, found true"),
        (("confusion", 0), [1, 2], "confusion[0]: expected 3 entries for 2 classes, found 2"),
        (("measured",), {"ece": "all"}, "measured.ece: expected a whole number, found 'all'"),
    ],
)
def test_what_is_damaged_is_named(result, place, value, fault):
    content = inside = json.loads(result.to_json())
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    with pytest.raises(EvaluationError) as caught:
        Result.from_json(json.dumps(content), "A.json")
    assert str(caught.value) == f"A.json: damaged: {fault}; score anew with m2f eval"


def test_what_is_no_result_is_refused(result, tmp_path):
    other = json.dumps(json.loads(result.to_json()) | {"format": "coco"})
    with pytest.raises(EvaluationError) as caught:
        Result.from_json(other, "A.json")
    assert str(caught.value) == "A.json: not a result of m2f eval (format 'm2f-evaluation')"
    with pytest.raises(EvaluationError, match=r"^A: not valid JSON"):
        Result.from_json("{", "A")
    with pytest.raises(EvaluationError, match=r"no such file; m2f eval writes it$"):
        Result.load(tmp_path / "none.json")
