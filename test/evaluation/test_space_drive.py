"""Grids and lidars of a recording against the truth: counted by hand, and all that can be wrong with them."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
from click.testing import CliRunner

from m2f_ros import taxonomy
from m2f_ros.bags.messages import IMAGE, LEGEND, Messages
from m2f_ros.bags.space_messages import GRID, SpaceMessages
from m2f_ros.bags.writer import BagWriter
from m2f_ros.cli import m2f
from m2f_ros.evaluation.compare import compare, describe
from m2f_ros.evaluation.grids import Grid
from m2f_ros.evaluation.grids import compare as compare_grids
from m2f_ros.evaluation.options import Options
from m2f_ros.evaluation.report.tables import PROBLEMS
from m2f_ros.evaluation.result import Result
from m2f_ros.evaluation.run import evaluate
from m2f_ros.evaluation.text import describe as short_text
from m2f_ros.metrics import CellScore
from m2f_ros.metrics.ranges import FREE, OCCUPIED
from m2f_ros.space.cloud import Cloud

CITYSCAPES = taxonomy.get("cityscapes")
CLOUD = "sensor_msgs/msg/PointCloud2"
STEP = 100_000_000
ROAD, CAR, PERSON = 0, 13, 11
# Cells of a metre, ahead of the base; one is lethal, one is not known.
TRUTH = np.array([[0, 60, 100, -1], [0, 0, 100, 100]], np.int8)
SEEN = np.array([[0, 60, 100, -1], [-1, 0, 100, -1]], np.int8)
POINTS = np.array([[1, 0, 0], [15, 0, 0], [0, 60, 0], [np.nan, 0, 0]], np.float32)
TRUE_LABELS = np.array([ROAD, CAR, PERSON, 255], np.uint8)


@dataclass
class Made:
    """Bags with labels of three frames, and what the test adds."""

    predictions: BagWriter
    truth: BagWriter

    def both(self):
        return (self.predictions, "/segmentation_node/label"), (self.truth, "/camera/ground_truth")

    def grid(self, bag, topic, stamp, cells, frame="base_link", resolution=1.0, origin=(0.0, -1.0, 0.0)):
        header = Messages(bag.types).header(stamp, frame)
        bag.write(topic, GRID, SpaceMessages(bag.types).grid(cells, resolution, origin, header), stamp)

    def truth_grid(self, stamp, truth=TRUTH, seen=SEEN):
        self.grid(self.truth, "/camera/ground_truth/grid", stamp, truth)
        self.grid(self.truth, "/camera/ground_truth/grid/seen", stamp, seen)

    def cloud(self, bag, topic, stamp, labels, points=POINTS):
        columns = dict(zip("xyz", points.T, strict=True)) | {"label": labels}
        cloud = Cloud.of_columns(columns, (1, len(points)), "lidar", stamp, is_dense=False)
        bag.write(topic, CLOUD, Messages(bag.types).cloud(cloud), stamp)

    def scored(self, **options) -> Result:
        for bag in (self.predictions, self.truth):
            bag.close()
        return evaluate(Options((str(self.predictions.path),), (str(self.truth.path),), worst=0, **options))[0]


@pytest.fixture
def made(tmp_path):
    bags = Made(BagWriter(tmp_path / "RESULT"), BagWriter(tmp_path / "DRIVE"))
    label = np.tile(np.uint8([ROAD, CAR]), (4, 3))
    for bag, topic in bags.both():
        make = Messages(bag.types)
        legend = topic.replace("/label", "/legend") if "label" in topic else f"{topic}/legend"
        bag.write(legend, LEGEND, make.legend(CITYSCAPES), STEP)
        for stamp in (STEP, 2 * STEP, 3 * STEP):
            bag.write(topic, IMAGE, make.image(label, "mono8", make.header(stamp, "camera")), stamp)
    return bags


def ranges(result: Result, key: str) -> dict:
    return {(row["near"], row["far"]): row["value"] for row in result.ranges if row["metric"] == key}


def test_cells_are_counted_as_by_hand(made):
    made.truth_grid(STEP)
    made.grid(made.predictions, "/segmentation_node/grid", STEP, np.int8([[0, 100, 100, 100], [0, 0, -1, 100]]))
    result = made.scored()
    # One of the cells given as occupied is pavement, one out of view is right, one is not known; one is not found.
    assert result.metrics["occupied_precision"] == pytest.approx(1 / 2)
    assert result.metrics["unseen_occupied_precision"] == result.metrics["unseen_free_precision"] == 1.0
    assert result.metrics["occupied_recall"] == pytest.approx(1 / 2)
    assert (result.metrics["free_precision"], result.metrics["free_recall"]) == (1.0, pytest.approx(2 / 3))
    assert ranges(result, "occupied_precision") == {(0, 5): pytest.approx(1 / 2), (5, 10): None, (10, 15): None,
                                                    (15, 20): None}  # fmt: skip
    assert result.measured["grids"] == result.measured["true_grids"] == 1
    assert result.settings[PROBLEMS] == []


def test_points_are_counted_as_by_hand(made):
    made.cloud(made.truth, "/lidar/ground_truth", STEP, TRUE_LABELS)
    made.cloud(made.predictions, "/segmentation_node/lidar", STEP, np.uint8([ROAD, PERSON, 255, CAR]))
    result = made.scored()
    assert result.metrics["lidar_miou"] == pytest.approx(1 / 3)  # road 1, car 0, person 0
    assert result.metrics["lidar_labelled"] == pytest.approx(2 / 3)
    assert {row["name"]: row["lidar_iou"] for row in result.classes if row["lidar_iou"] is not None} == {
        "road": 1.0, "person": 0.0, "car": 0.0,
    }  # fmt: skip
    assert ranges(result, "lidar_miou") == {(0, 10): 1.0, (10, 20): 0.0, (20, 30): None, (30, 50): None,
                                            (50, None): None}  # fmt: skip


def test_the_first_of_several_cameras_has_the_grid(made):
    """The node publishes one grid, above the topics of its cameras."""
    made.truth_grid(STEP)
    made.grid(made.predictions, "/segmentation_node/grid", STEP, TRUTH)
    for bag, topic in ((made.predictions, "/segmentation_node/rear/label"), (made.truth, "/rear/ground_truth")):
        make = Messages(bag.types)
        bag.write(topic, IMAGE, make.image(np.zeros((4, 6), np.uint8), "mono8", make.header(STEP, "rear")), STEP)
    options = {"topic": "/segmentation_node/label", "truth_topic": "/camera/ground_truth"}
    assert made.scored(**options).metrics["occupied_recall"] == 1.0


def test_results_of_ranges_are_kept_compared_and_shown(made, tmp_path):
    made.truth_grid(STEP)
    made.grid(made.predictions, "/segmentation_node/grid", STEP, TRUTH)
    good = made.scored()
    read = Result.from_json(good.to_json())
    assert read == good and len(json.loads(good.to_json())["ranges"]) == 24
    assert ["occupied", "cells,", "recall", "1.000", "–", "–", "–"] in [
        line.split() for line in short_text(good).splitlines()
    ]

    worse = Result.from_json(good.to_json())
    worse.metrics["occupied_recall"] = 0.5
    (row,) = [row for row in worse.ranges if (row["metric"], row["near"]) == ("occupied_recall", 0)]
    row["value"] = 0.25
    comparison = compare(good, worse)
    assert comparison.find("occupied_recall").verdict == "worse"
    assert comparison.find("occupied_recall@0-5").drop == 0.75
    assert "occupied cells, recall, 0-5 m" in describe(comparison)
    for name, result in (("A", good), ("B", worse)):
        (tmp_path / f"{name}.json").write_text(result.to_json())
    judged = CliRunner().invoke(
        m2f, ["compare", *(str(tmp_path / f"{name}.json") for name in "AB"), "--metric", "occupied_recall@0-5"]
    )
    assert judged.exit_code == 1
    assert "occupied_recall@0-5 got worse: 1.000 to 0.250" in judged.output


def test_the_report_has_the_ranges(made, tmp_path):
    made.truth_grid(STEP)
    made.grid(made.predictions, "/segmentation_node/grid", STEP, TRUTH)
    made.scored()
    done = CliRunner().invoke(
        m2f,
        ["eval", str(made.predictions.path), "--truth", str(made.truth.path), "--out", str(tmp_path / "out")],
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    markdown, page = ((tmp_path / "out" / name).read_text() for name in ("report.md", "report.html"))
    assert "## By distance" in markdown and "| occupied cells, recall | 1.000 | – | – | – |" in markdown
    assert '<h2 id="distance-title">By distance</h2>' in page


def test_grids_that_never_came_are_a_problem(made):
    for stamp in (STEP, 2 * STEP, 3 * STEP):
        made.truth_grid(stamp)
    made.grid(made.predictions, "/segmentation_node/grid", 2 * STEP, TRUTH)
    assert made.scored().settings[PROBLEMS] == [
        "occupied cells, precision is over 1 of 3 grids of the ground truth: the others have no grid"
    ]


def test_other_stamps(made):
    made.truth_grid(STEP)
    made.grid(made.predictions, "/segmentation_node/grid", STEP + 1, TRUTH)
    (problem,) = made.scored().settings[PROBLEMS]
    assert "no stamp of /segmentation_node/grid is one of /camera/ground_truth/grid" in problem


def test_another_frame(made):
    made.truth_grid(STEP)
    made.grid(made.predictions, "/segmentation_node/grid", STEP, TRUTH, frame="odom")
    result = made.scored()
    (problem,) = result.settings[PROBLEMS]
    assert "is in frame 'odom' but the truth /camera/ground_truth/grid is in 'base_link': not scored" in problem
    assert result.metrics["occupied_precision"] is None and result.ranges == []


def test_another_number_of_points(made):
    made.cloud(made.truth, "/lidar/ground_truth", STEP, TRUE_LABELS)
    made.cloud(made.predictions, "/segmentation_node/lidar", STEP, TRUE_LABELS[:3], POINTS[:3])
    (problem,) = made.scored().settings[PROBLEMS]
    assert "has 3 points but that of /lidar/ground_truth of the same stamp 4: not scored" in problem


def test_a_lidar_in_another_order(made):
    """Points are paired by their numbers, so that others must not be scored."""
    made.cloud(made.truth, "/lidar/ground_truth", STEP, TRUE_LABELS)
    made.cloud(made.predictions, "/segmentation_node/lidar", STEP, TRUE_LABELS[::-1], POINTS[::-1])
    (problem,) = made.scored().settings[PROBLEMS]
    assert "has other points than that of /lidar/ground_truth of the same stamp: not scored" in problem


def test_a_lidar_of_other_classes(made):
    made.cloud(made.truth, "/lidar/ground_truth", STEP, TRUE_LABELS)
    made.truth.write(
        "/lidar/ground_truth/legend", LEGEND, Messages(made.truth.types).legend(taxonomy.get("camvid")), STEP
    )
    made.cloud(made.predictions, "/segmentation_node/lidar", STEP, TRUE_LABELS)
    (problem,) = made.scored().settings[PROBLEMS]
    assert "the labels of /lidar/ground_truth are of other classes than those of the images" in problem


def test_until_a_stamp(made):
    for stamp in (STEP, 2 * STEP):
        made.truth_grid(stamp)
        made.grid(made.predictions, "/segmentation_node/grid", stamp, TRUTH)
    assert made.scored(until_ns=STEP).measured["grids"] == 1


@pytest.mark.parametrize("resolution", [0.5, 0.25])
@pytest.mark.parametrize("yaw", [0.0, np.pi / 2, -2.0])
def test_grids_meet_by_their_place(resolution, yaw):
    """A turned grid of another resolution scores 1 on the ground that it was made of, but for the borders of costs."""
    rng = np.random.default_rng(0)
    patches = np.kron(rng.choice(np.int8([0, 60, 100]), (6, 8)), np.ones((8, 8), np.int8))
    truth = Grid(patches, 0.25, (-3.0, -2.0, 0.0), "b")  # around (5, 4)
    size, (c, s) = round(30 / resolution), (np.cos(yaw), np.sin(yaw))
    place = Grid(np.zeros((size, size), np.int8), resolution, (5 - 15 * (c - s), 4 - 15 * (s + c), yaw), "b")
    turned = Grid(truth.at(place.centres()).reshape(size, size), resolution, place.origin, "b")
    score = CellScore((0, 100))
    compare_grids(score, turned, truth, truth)
    assert score.precision(OCCUPIED) == score.precision(FREE) == 1.0
    assert score.true.sum() == truth.cost.size
    recall = min(score.recall(OCCUPIED), score.recall(FREE))
    assert recall == 1.0 if yaw != -2.0 else recall > 0.8


def test_centres_are_inside_of_their_cells():
    grid = Grid(np.arange(12, dtype=np.int8).reshape(3, 4), 0.5, (1.0, -2.0, 0.7), "b")
    assert np.array_equal(grid.at(grid.centres()), grid.cost.ravel())
    assert (grid.at(np.array([[100.0, 0], [0, -50]])) == -1).all()
