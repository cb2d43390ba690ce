"""The table of metrics: a new row appears wherever metrics are shown, and the docs show the table."""

import json

import numpy as np
import pytest

from m2f_ros import taxonomy
from m2f_ros.evaluation import measures
from m2f_ros.evaluation.compare import compare, describe, judge
from m2f_ros.evaluation.coverage import partial_measures
from m2f_ros.evaluation.intervals import miou_interval
from m2f_ros.evaluation.measures import COUNTED, METRICS, Counted, Metric
from m2f_ros.evaluation.pairs import Pair
from m2f_ros.evaluation.report import markdown
from m2f_ros.evaluation.result import Result
from m2f_ros.evaluation.scores import Scores
from m2f_ros.evaluation.text import describe as short_text
from m2f_ros.metrics import Confusion
from m2f_ros.metrics.accumulator import Accumulator

CAMVID = taxonomy.get("camvid")


def scored(seed: int) -> Result:
    """A drive of six random frames, of which the first two have no confidence."""
    rng, scores = np.random.default_rng(seed), Scores(CAMVID, worst=0)
    for i in range(6):
        truth, prediction = rng.integers(0, 11, (2, 24, 32)).astype(np.uint8)
        confidence = rng.integers(0, 256, truth.shape).astype(np.uint8) if i > 1 else None
        scores.update(Pair("drive", str(i), i, truth, prediction, confidence=confidence))
    return scores.result(predictions="P", truth="T")


def test_a_metric_of_counts_that_are_there(monkeypatch):
    """The recipe: one row, and a function."""
    before = scored(0)

    def excess(counts: measures.Counts) -> np.ndarray:
        confusion = counts[Confusion]
        return np.abs(confusion.prediction() / confusion.truth() - 1)

    row = Metric(
        "excess", "area excess", "area predicted beyond the true one; less is better", Confusion,
        each=excess, class_label="excess", higher_is_better=False, tile=True,
    )  # fmt: skip
    monkeypatch.setitem(METRICS, "excess", row)
    a, b = scored(0), scored(1)
    values = [one["excess"] for one in a.classes]
    assert a.metrics["excess"] == pytest.approx(np.mean(values)) and min(values) >= 0

    read = Result.from_json(a.to_json())
    assert read == a and json.loads(a.to_json())["classes"][3]["excess"] == values[3]
    old = Result.from_json(before.to_json())
    assert old.metrics["excess"] is None and old.classes[3]["excess"] is None

    page = markdown.page(a, miou_interval(a))
    assert f"| area excess | {a.metrics['excess']:.3f} | area predicted beyond the true one; less is better |" in page
    (header,) = [line for line in page.splitlines() if line.startswith("| class |")]
    assert " excess " in header
    assert [line.split() for line in short_text(a).splitlines() if line.startswith("area excess")] == [
        ["area", "excess", f"{a.metrics['excess']:.3f}"]
    ]
    assert "| area excess | `excess` | `excess:CLASS` |  | down |" in measures.table()

    comparison = compare(a, b)
    change, of_road = comparison.find("excess"), comparison.find("excess:road")
    assert change.difference == pytest.approx(b.metrics["excess"] - a.metrics["excess"])
    assert change.verdict == ("worse" if change.difference > 0 else "better")
    assert change.drop == change.difference and of_road.drop == of_road.difference
    assert judge(change, abs(change.difference))[0] and "area excess" in describe(comparison)
    assert "B alone has area excess, excess of classes: not compared." in compare(old, a).notes


class _Sure(Accumulator):
    """Pixels, and those of full confidence."""

    COUNTS = ("counts",)

    def __init__(self) -> None:
        self.counts = np.zeros(2, np.int64)

    def update(self, confidence: np.ndarray) -> None:
        self.counts += [np.count_nonzero(confidence == 255), confidence.size]


def test_a_metric_of_counts_of_its_own(monkeypatch):
    """The recipe: an accumulator, and a row in each of the two tables."""
    monkeypatch.setitem(COUNTED, _Sure, Counted(lambda t: _Sure(), ("confidence",), "sure", "confidence"))
    row = Metric("sure", "sure pixels", "pixels of full confidence", _Sure,
                 lambda counts: float(counts[_Sure].counts[0] / counts[_Sure].counts[1]))  # fmt: skip
    monkeypatch.setitem(METRICS, "sure", row)
    result = scored(0)
    assert 0 < result.metrics["sure"] < 0.02
    assert "sure" not in result.classes[0] and result.measured["sure"] == 4
    assert "sure pixels is over 4 of 6 frames: the others have no confidence" in partial_measures(result)
    assert partial_measures(result, metrics=["miou"]) == []
    assert compare(result, result).find("sure").verdict == "same"


def test_the_docs_show_the_table(request):
    docs = (request.config.rootpath / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert measures.table() in docs, "python -m m2f_ros.evaluation.measures"
