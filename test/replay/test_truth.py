"""A replay of a drive's own labels, and the grid that is made of them."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from m2f_ros.bags.reader import Bag
from m2f_ros.cli import m2f
from m2f_ros.errors import ConfigError, SourceError
from m2f_ros.frame.frame import Frame, Ignored
from m2f_ros.replay.job import Job, run_job
from m2f_ros.replay.make_bag import make_bag
from m2f_ros.replay.settings import TRUTH, Settings
from m2f_ros.replay.truth import TrueLabels
from m2f_ros.sources.open import SpaceOptions, open_source
from m2f_ros.sources.sample import Sample

sys.path.insert(0, str(Path(__file__).parents[1] / "sources"))
from strangers import START, picture, write

SPACE = SpaceOptions(depth=True, transforms=True, grid=True)
NODE = "/segmentation_node"


@pytest.fixture(scope="module")
def drive(tmp_path_factory):
    path = tmp_path_factory.mktemp("truth") / "drive"
    make_bag(open_source("street:5", frames=2, space=SPACE), path)
    return path


def run(drive, out, **settings):
    settings = {"model": TRUTH, "outputs": ("label", "confidence", "grid"), **settings}
    return run_job(Job(0, str(drive), out, Settings(**settings)), lambda: False, lambda *at: None)


def decoded(bag, topic):
    with Bag(bag) as reader:
        return [message.decode() for message in reader.messages([topic])]


def test_the_labels_are_those_of_the_drive(drive, tmp_path):
    outcome = run(drive, tmp_path / "out")
    assert (outcome.status, outcome.problem, outcome.segmented) == ("finished", "", 2)
    labels, truth = decoded(tmp_path / "out", f"{NODE}/label"), decoded(drive, "/camera/ground_truth")
    assert [m.header.stamp for m in labels] == [m.header.stamp for m in truth] and len(labels) == 2
    for label, true, confidence, stats in zip(
        labels,
        truth,
        decoded(tmp_path / "out", f"{NODE}/confidence"),
        decoded(tmp_path / "out", f"{NODE}/stats"),
        strict=True,
    ):
        np.testing.assert_array_equal(label.data, true.data)
        np.testing.assert_array_equal(confidence.data, np.where(true.data == 255, 0, 255))
        share = np.bincount(true.data, minlength=256) / true.data.size
        np.testing.assert_allclose(stats.class_shares, [*share[:19], share[255]], atol=1e-6)
    (legend,) = decoded(tmp_path / "out", f"{NODE}/legend")
    assert legend.model == TRUTH and [one.name for one in legend.classes[:2]] == ["road", "sidewalk"]


def test_a_replay_that_was_interrupted_goes_on(drive, tmp_path):
    asked = iter([False, True])
    settings = Settings(model=TRUTH, outputs=("label", "grid"), part=1)
    first = run_job(Job(0, str(drive), tmp_path / "out", settings), lambda: next(asked, True), lambda *at: None)
    assert (first.status, first.next) == ("stopped", 1)
    assert run(drive, tmp_path / "out", outputs=("label", "grid"), part=1).status == "finished"
    run(drive, tmp_path / "whole", outputs=("label", "grid"), part=1)
    for one, other in zip(*(decoded(tmp_path / name, f"{NODE}/grid") for name in ("out", "whole")), strict=True):
        np.testing.assert_array_equal(one.data, other.data)


def test_without_depth_the_ground_is_flat(drive, tmp_path):
    run(drive, tmp_path / "deep", outputs=("label", "grid"))
    outcome = run(drive, tmp_path / "flat", outputs=("label", "grid"), depth_topics=("none",))
    assert outcome.problem == ""
    deep, flat = (decoded(tmp_path / name, f"{NODE}/grid")[0].data for name in ("deep", "flat"))
    assert 0 < np.count_nonzero(flat == 100) < np.count_nonzero(deep == 100)


def test_ignored_pixels_have_no_label():
    class Drive:
        taxonomy = open_source("street").taxonomy

    frame = Frame(np.zeros((4, 6, 3), np.uint8), "rgb8")
    mask = np.zeros((4, 6), bool)
    mask[2:] = True
    label = np.full((4, 6), 1, np.uint8)
    label[0, 0] = 255
    sample = Sample(0, 0, "a", replace(frame, ignored=Ignored(mask)), label=label)
    (result,) = TrueLabels(Drive()).submit([sample]).result()
    assert (result.label[:2] == label[:2]).all() and (result.label[2:] == 255).all()
    assert (result.confidence == np.where(result.label == 255, 0, 255)).all()
    assert (result.shares[1], result.shares[-1]) == (np.float32(11 / 12), np.float32(1 / 12))


def test_an_image_without_label_is_missing(tmp_path):
    make_bag(open_source("street:5", frames=2), tmp_path / "drive")
    sample = next(iter(open_source(str(tmp_path / "drive"))))
    sample.label = None
    checked = TrueLabels(open_source(str(tmp_path / "drive"))).checked(sample)
    assert checked.frame is None and "has no ground truth" in checked.problem


def test_a_drive_without_ground_truth_is_refused(tmp_path):
    path = write(tmp_path / "bag", [("/camera/image", picture(START), START)])
    outcome = run(path, tmp_path / "out", outputs=("label",))
    assert outcome.status == "failed" and "no ground truth beside the images" in outcome.problem
    with pytest.raises(SourceError, match="no ground truth"):
        TrueLabels(open_source(str(path)))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"outputs": ("label", "overlay", "points")}, "true labels make no overlay, points; name some of label, conf"),
        ({"outputs": ("label",), "topics": ("/a", "/b")}, "true labels are of one camera, not of /a, /b"),
        ({"model": "street", "outputs": ("points",), "depth_topics": ("none",)}, "points are made of depth images"),
    ],
)
def test_impossible_settings(settings, says):
    with pytest.raises(ConfigError, match=says):
        Settings(**{"model": TRUTH, **settings})


@pytest.mark.slow
def test_the_grid_of_true_labels_and_depth_is_that_of_the_street(tmp_path):
    """Precision of at least 0.95 and recall of at least 0.90 of occupied cells within 20 m, on drives that move."""

    def m2f_(*arguments):
        done = CliRunner().invoke(m2f, [str(argument) for argument in arguments])
        assert done.exit_code == 0, done.output

    for seed in (2001, 2004):
        m2f_("bag", f"street:{seed}", "--frames", 8, "--depth", "--grid", "--out", tmp_path / "drives" / f"{seed}")
    m2f_("replay", tmp_path / "drives", "--out", tmp_path / "true", "--model", TRUTH, "--outputs", "label,grid")
    report = tmp_path / "report"
    m2f_("eval", tmp_path / "true", "--truth", tmp_path / "drives", "--out", report, "--no-boundary", "--no-flips")
    result = json.loads((report / "result.json").read_text())
    assert result["measured"]["grids"] == 16 and result["metrics"]["miou"] == 1
    assert result["metrics"]["occupied_precision"] >= 0.95 and result["metrics"]["occupied_recall"] >= 0.90
    assert result["metrics"]["free_precision"] >= 0.95 and result["metrics"]["free_recall"] >= 0.90
