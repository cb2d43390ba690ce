"""`m2f compare-models`: scores, cost and differences of several models on one drive."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from m2f_ros import taxonomy
from m2f_ros.cli import m2f
from m2f_ros.errors import M2fError
from m2f_ros.evaluation.classes import choose
from m2f_ros.evaluation.models.comparison import Comparison, Row
from m2f_ros.evaluation.models.cost import Cost
from m2f_ros.evaluation.models.differences import most_different
from m2f_ros.evaluation.pairs import Pair
from m2f_ros.evaluation.result import Result
from m2f_ros.model import load, save
from m2f_ros.replay.make_bag import make_bag
from m2f_ros.sources.open import open_source

sys.path.insert(0, str(Path(__file__).parents[1] / "model"))
pytest.importorskip("matplotlib", reason="the page needs matplotlib")
COST = Cost("a network", "cpu", "eager", "fp32", (64, 96), 10, 0.5, 20.0, 10.0, 12.0, 60)


@pytest.fixture(scope="module")
def drive(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "drive"
    make_bag(open_source("street:5", frames=3), path)
    return path


def run(*arguments):
    return CliRunner().invoke(m2f, ["compare-models", *map(str, arguments), "--backend", "eager", "--rounds", "2"])


@pytest.mark.heavy
def test_models_are_scored_and_timed_on_the_same_frames(drive, small_model, tmp_path):
    adapted = pytest.importorskip("adapted", reason="transformers is not installed")
    other, out = tmp_path / "segformer", tmp_path / "out"
    other.mkdir()
    adapted.write("segformer", other)
    models = f"{small_model},{other}"
    result = run(drive, "--models", models, "--out", out, "--size", "64x96")
    assert result.exit_code == 0, result.output
    content = json.loads((out / "models.json").read_text())
    first, second = content["models"]
    assert (first["name"], second["name"]) == (small_model.name, "segformer")
    # The scores are those of m2f eval.
    scored = CliRunner().invoke(
        m2f, ["eval", str(out / "replays/segformer"), "--truth", str(drive), "--out", str(tmp_path / "eval")]
    )
    assert scored.exit_code == 0, scored.output
    alone = json.loads((tmp_path / "eval/result.json").read_text())
    assert second["scores"]["metrics"]["miou"] == alone["metrics"]["miou"]
    # The cost is the network's.
    weights = sum(parameter.numel() for parameter in load(small_model).parameters())
    assert first["cost"]["parameters"] == weights and first["cost"]["gflop"] > 0
    assert first["cost"]["size"] == [64, 96] and first["cost"]["frames"] == 2
    assert 0 < first["cost"]["p50_ms"] <= first["cost"]["p99_ms"]
    # A network that classifies pixels has no segments.
    assert first["scores"]["metrics"]["pq"] is not None and second["scores"]["metrics"]["pq"] is None
    page = (out / "models.html").read_text()
    assert page.count("<img") == 4 and "segformer has no class for" in page
    # The same command takes the replays that are there.
    replayed = {path: path.stat().st_mtime_ns for path in out.rglob("*.mcap")}
    again = run(drive, "--models", models, "--out", out, "--size", "64x96")
    assert again.exit_code == 0, again.output
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.mcap")} == replayed


def test_a_model_that_fails_does_not_stop_the_others(drive, small_model, tmp_path):
    result = run(drive, "--models", f"{small_model},absent", "--out", tmp_path / "out", "--size", "64x96")
    assert result.exit_code == 2
    assert "absent: model 'absent' is neither a folder" in result.output
    rows = json.loads((tmp_path / "out/models.json").read_text())["models"]
    assert rows[0]["scores"] and not rows[0]["problem"] and not rows[1]["scores"]
    assert "absent" in (tmp_path / "out/models.html").read_text()


@pytest.mark.parametrize(
    ("models", "line"),
    [
        ("absent", "no model could be scored: model 'absent'"),
        ("street,street", "street is named twice"),
        ("truth", "truth is no model"),
    ],
)
def test_a_wrong_request_is_one_line(drive, tmp_path, models, line):
    result = run(drive, "--models", models, "--out", tmp_path / "out")
    assert isinstance(result.exception, M2fError) and line in str(result.exception)


def test_models_of_other_classes_do_not_compare(drive, small_model, tmp_path):
    other = tmp_path / "camvid"
    network = load(small_model)
    network.config = replace(network.config, taxonomy=None, labels=(*map(str, range(18)), "road"))
    save(network, other)
    classes = tmp_path / "classes.yaml"
    classes.write_text("name: one\nclasses: {way: [road], rest: [sky]}\n")
    asked = ("--out", tmp_path / "out", "--size", "64x96", "--models", f"{small_model},{other}")
    result = run(drive, *asked, "--classes", classes)
    assert result.exit_code == 0, result.output
    assert f"{other.name} has no class for rest" in result.output


def row(name: str, miou: float, p50: float) -> Row:
    return Row(name, name, Result(metrics={"miou": miou}), replace(COST, p50_ms=p50))


def test_the_front_has_the_models_that_none_beats():
    rows = [row("slow", 0.7, 30), row("beaten", 0.4, 20), row("fast", 0.5, 10), row("as fast, worse", 0.45, 10)]
    comparison = Comparison(("drive",), (*rows, Row("failed", "failed", problem="gone")))
    assert [row.name for row in comparison.front] == ["fast", "slow"]
    assert comparison.problems == ["failed: gone"]


class Predictions:
    """Labels of a model in place of a bag."""

    def __init__(self, *labels):
        self.labels = labels

    def pairs(self, classes, problems, left_out, images=True):
        truth = np.array([[0, 1], [1, 255]], np.uint8)
        for second, label in enumerate(self.labels):
            prediction = None if label is None else np.array(label, np.uint8)
            yield Pair("drive", str(second), second * 10**9, truth, prediction)


def test_the_frames_of_most_differences_are_kept():
    cityscapes = taxonomy.get("cityscapes")
    classes = choose(cityscapes, cityscapes)
    right, wrong = [[0, 1], [1, 0]], [[0, 0], [0, 0]]
    a = Predictions(right, right, right, right)
    b = Predictions(right, wrong, None, [[0, 1], [0, 5]])
    found = most_different([{"a": (a, classes), "b": (b, classes)}], 2)
    # Unlabelled pixels do not count, nor frames without a prediction of one.
    assert [(frame.stamp_ns, frame.share) for frame in found] == [(10**9, 2 / 3), (3 * 10**9, 1 / 3)]
    assert found[0].right == {"a": 1.0, "b": 1 / 3}
