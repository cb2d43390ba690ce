"""Grids and labelled lidars of a recording against the truth in it, matched by exact header stamps."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from m2f_ros.bags.reader import Bag, Message
from m2f_ros.errors import FrameError, SpaceError
from m2f_ros.evaluation.classes import Classes
from m2f_ros.evaluation.grids import Grid, compare
from m2f_ros.evaluation.measures import Counts
from m2f_ros.evaluation.pairs import join
from m2f_ros.metrics import CellScore, PointScore
from m2f_ros.sources.labels import find_legend, taxonomy_of_legend
from m2f_ros.space.cloud import Cloud
from m2f_ros.taxonomy import Taxonomy

log = logging.getLogger("m2f_ros.evaluation")

_APART = 1e-3  # metres by which a point and the true one may differ
GRID, CLOUD = "nav_msgs/msg/OccupancyGrid", "sensor_msgs/msg/PointCloud2"


@dataclass(frozen=True)
class SpaceDrive:
    """The topics of a recording that are of no camera alone.

    Attributes:
        predictions, truth: paths of the bags.
        grid: topics of the predicted grid, of the true one, and of what is in view of it; None where one is not there.
        lidar: topics of the labelled cloud and of the true one; None where one is not there.
        truth_taxonomy: of the true labels.
    """

    predictions: Path
    truth: Path
    grid: tuple[str, str, str] | None
    lidar: tuple[str, str] | None
    truth_taxonomy: Taxonomy

    def score(
        self, counts: Counts, classes: Classes, bags: Mapping[Path, Bag], problems: list[str], until_ns: int | None
    ) -> None:
        """Add all of it to the counts.

        bags: both, open. problems: gets a line for what cannot be scored. until_ns: last stamp; None: all.
        """
        if self.grid:
            self._score_grid(counts, self.grid, bags, problems, until_ns)
        if self.lidar:
            self._score_lidar(counts, self.lidar, classes, bags, problems, until_ns)

    def _score_grid(
        self,
        counts: Counts,
        topics: tuple[str, str, str],
        bags: Mapping[Path, Bag],
        problems: list[str],
        until_ns: int | None,
    ) -> None:
        topic, true_topic, seen_topic = topics
        streams = {
            "grid": (self.predictions, topic),
            "truth": (self.truth, true_topic),
            "seen": (self.truth, seen_topic),
        }
        for found in _joined(streams, bags, until_ns):
            truth, seen = _decoded("truth", found, Grid.of), _decoded("seen", found, Grid.of)
            if truth is None or seen is None:
                continue
            counts.measured["true_grids"] += 1
            grid = _decoded("grid", found, Grid.of)
            if grid is None:
                continue
            if grid.frame_id != truth.frame_id:
                problems.append(
                    f"{self.predictions}: {topic} is in frame {grid.frame_id!r} but the truth {true_topic} is in "
                    f"{truth.frame_id!r}: not scored; make the grid with base_frame {truth.frame_id}"
                )
                return
            counts.measured["grids"] += 1
            compare(counts[CellScore], grid, truth, seen)
        self._say_unmatched(counts, "grids", topic, true_topic, problems)

    def _score_lidar(
        self,
        counts: Counts,
        topics: tuple[str, str],
        classes: Classes,
        bags: Mapping[Path, Bag],
        problems: list[str],
        until_ns: int | None,
    ) -> None:
        topic, true_topic = topics
        legend = find_legend(bags[self.truth], true_topic)
        if legend and taxonomy_of_legend(legend).names != self.truth_taxonomy.names:
            problems.append(
                f"{self.truth}: the labels of {true_topic} are of other classes than those of the images: not scored"
            )
            return
        streams = {"lidar": (self.predictions, topic), "truth": (self.truth, true_topic)}
        for found in _joined(streams, bags, until_ns):
            truth = _decoded("truth", found, _labelled)
            if truth is None:
                continue
            counts.measured["true_clouds"] += 1
            cloud = _decoded("lidar", found, _labelled)
            if cloud is None:
                continue
            (labels, points), (true_labels, true_points) = cloud, truth
            if len(labels) != len(true_labels):
                problems.append(
                    f"{self.predictions}: a cloud of {topic} has {len(labels)} points but that of {true_topic} of the "
                    f"same stamp {len(true_labels)}: not scored; is it of the same lidar?"
                )
                return
            if not np.allclose(points, true_points, rtol=1e-5, atol=_APART, equal_nan=True):
                problems.append(
                    f"{self.predictions}: a cloud of {topic} has other points than that of {true_topic} of the same "
                    "stamp: not scored; is it of the same lidar, in the same order?"
                )
                return
            counts.measured["clouds"] += 1
            counts[PointScore].update(
                classes.truth.labels(true_labels),
                classes.prediction.labels(labels),
                np.linalg.norm(true_points, axis=1),
                classes.taxonomy.unlabelled,
            )
        self._say_unmatched(counts, "clouds", topic, true_topic, problems)

    def _say_unmatched(self, counts: Counts, what: str, topic: str, true_topic: str, problems: list[str]) -> None:
        if counts.measured[f"true_{what}"] and not counts.measured[what]:
            problems.append(f"{self.predictions}: no stamp of {topic} is one of {true_topic} in {self.truth}")


def find_space(
    predictions: Path, truth: Path, bags: Mapping[Path, Bag], label_topic: str, truth_topic: str, taxonomy: Taxonomy
) -> SpaceDrive | None:
    """The topics of a recording that are in both bags, beside those of its first camera; None where there are none.

    taxonomy: of the true labels.
    """
    there, wanted = bags[predictions], bags[truth]
    camera = label_topic.rpartition("/")[0]
    nodes = (camera, camera.rpartition("/")[0])  # of an only camera, and of one of several
    grid = next((f"{node}/grid" for node in nodes if there.type_of(f"{node}/grid") == GRID), None)
    lidar = next((f"{node}/lidar" for node in nodes if there.type_of(f"{node}/lidar") == CLOUD), None)
    true_grid = f"{truth_topic}/grid"
    has_grid = grid and all(wanted.type_of(topic) == GRID for topic in (true_grid, f"{true_grid}/seen"))
    clouds = [t for t in sorted(wanted.topics) if t.endswith("/ground_truth") and wanted.type_of(t) == CLOUD]
    found = SpaceDrive(
        predictions,
        truth,
        (grid, true_grid, f"{true_grid}/seen") if grid and has_grid else None,
        (lidar, clouds[0]) if lidar and clouds else None,
        taxonomy,
    )
    return found if found.grid or found.lidar else None


def _joined(
    streams: Mapping[str, tuple[Path, str]], bags: Mapping[Path, Bag], until_ns: int | None
) -> Iterator[dict[str, Message]]:
    """Yield the messages of each stamp, by the names of `streams`."""
    for stamp, found in join({name: _stream(bags[path], topic) for name, (path, topic) in streams.items()}):
        if until_ns is None or stamp <= until_ns:
            yield found


def _stream(bag: Bag, topic: str) -> Iterator[tuple[int, Message]]:
    for message in bag.messages([topic]):
        yield message.taken_ns, message


def _decoded(what: str, found: Mapping[str, Message], read: Any) -> Any:
    """Return read(message), None where there is no message or it is damaged, which is logged."""
    if what not in found:
        return None
    message = found[what]
    try:
        return read(message.decode())
    except (FrameError, SpaceError) as error:
        log.warning("%s: skipped the message at stamp %d: %s", message.topic, message.stamp_ns, error)
        return None


def _labelled(message: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of a cloud's points, and the points, (N, 3) in metres. Raises SpaceError."""
    cloud = Cloud.of(message)
    return cloud.column("label"), cloud.xyz()
