"""The result's JSON: what is written is read, and what is none is refused in one line."""

import json

import pytest

from m2f_ros.errors import EvaluationError
from m2f_ros.evaluation.result import Result


@pytest.fixture
def result(make_result):
    return make_result([[[3, 1, 0], [0, 4, 1]], None], names=["road", "car"], model="street")


def test_what_is_written_is_read(result, tmp_path):
    result.calibration = [{"confidence": 0.5, "accuracy": 1, "count": 3}]
    result.save(tmp_path / "result.json")
    assert Result.load(tmp_path / "result.json") == Result.load(tmp_path) == result
    assert json.loads(result.to_json())["metrics"]["miou"] == result.metrics["miou"]
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize(
    "place, value, fault",
    [
        (("format",), "coco", "A.json: not a result of m2f eval (format 'm2f-evaluation')"),
        (("version",), 2, "A.json: version 2 of the format; this m2f reads 1: score anew"),
        (("model",), None, "A.json: damaged: model is null, expected str"),
        (("metrics", "miou"), "high", 'A.json: damaged: metrics.miou is "high", expected float'),
        (("frames", "scored"), 1.5, "A.json: damaged: frames.scored is 1.5, expected int"),
        (("blocks", 1, "hit"), 3, "A.json: damaged: blocks[1].hit is 3, expected list"),
        (("confusion", 0, 2), True, "A.json: damaged: confusion[0][2] is true, expected int"),
    ],
)
def test_what_is_none_is_refused(result, place, value, fault):
    content = inside = json.loads(result.to_json())
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    with pytest.raises(EvaluationError) as caught:
        Result.from_json(json.dumps(content), "A.json")
    assert str(caught.value) == fault


def test_what_earlier_results_have_not_is_empty(result):
    content = json.loads(result.to_json())
    del content["measured"], content["notes"]
    assert Result.from_json(json.dumps(content)) == result
    content["measured"] = {"ece": "all"}
    with pytest.raises(EvaluationError, match=r'^A: damaged: measured.ece is "all", expected int$'):
        Result.from_json(json.dumps(content), "A")


def test_what_is_missing_is_named(result, tmp_path):
    content = json.loads(result.to_json())
    del content["classes"][1]["iou"]
    with pytest.raises(EvaluationError, match=r"^A: damaged: classes\[1\].iou is missing$"):
        Result.from_json(json.dumps(content), "A")
    with pytest.raises(EvaluationError, match=r"^A: not valid JSON"):
        Result.from_json("{", "A")
    with pytest.raises(EvaluationError, match=r"no such file; m2f eval writes it$"):
        Result.load(tmp_path / "none.json")
