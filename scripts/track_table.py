"""Compares the ways to track segments on the simulated street, whose objects have ids.

    python scripts/track_table.py --model street --streets 2004,2005,2006 --frames 100

Prints a Markdown table: things of at least --area pixels in the truth, matched to segments of their class whose
intersection over union is above 0.5. Switches: how often an object's id differs from that of its last matched frame,
per object. IDF1: share of the frames of objects and segments that the best one-to-one assignment of whole tracks
matches (Ristani et al. 2016, https://arxiv.org/abs/1609.01775).
"""

from __future__ import annotations

import argparse
from collections import Counter

import numpy as np
from scipy.optimize import linear_sum_assignment

from m2f_ros.frame.frame import Frame
from m2f_ros.pipeline import Tracker
from m2f_ros.pipeline.build import PipelineSettings, build_pipeline
from m2f_ros.pipeline.pipeline import TRACK_BY
from m2f_ros.street import Street


class Tracks:
    """Matches of true objects and segments, over one drive."""

    def __init__(self) -> None:
        self.last: dict[int, int] = {}
        self.switches = 0
        self.true: Counter[int] = Counter()
        self.found: Counter[int] = Counter()
        self.both: Counter[tuple[int, int]] = Counter()

    def add(self, truth: np.ndarray, label: np.ndarray, ids: np.ndarray, classes: dict[int, int], area: int) -> None:
        """Add a frame: ids of objects and their train ids, ids of segments and the train ids of the things."""
        objects, first, sizes = np.unique(truth, return_index=True, return_counts=True)
        numbers, areas = np.unique(ids, return_counts=True)
        of = dict(zip(numbers.tolist(), areas.tolist(), strict=True))
        # Segments of small objects count neither as right nor as wrong.
        small = {int(n) for n, size in zip(objects, sizes, strict=True) if n and size < area}
        ignored = set()
        for number, where, size in zip(objects.tolist(), first.tolist(), sizes.tolist(), strict=True):
            if not number:
                continue
            within, common = np.unique(ids[truth == number], return_counts=True)
            match = next(
                (
                    i
                    for i, n in zip(within.tolist(), common.tolist(), strict=True)
                    if classes.get(i) == label.flat[where] and n / (of[i] + size - n) > 0.5
                ),
                0,
            )
            if number in small:
                ignored.add(match)
                continue
            self.true[number] += 1
            if match:
                self.both[number, match] += 1
                self.switches += self.last.get(number, match) != match
                self.last[number] = match
        self.found.update(i for i in classes if i not in ignored and of.get(i, 0) >= area)

    @property
    def matched(self) -> int:
        """Frames of objects that the best assignment of tracks matches."""
        rows, columns = list(self.true), list(self.found)
        table = np.array([[self.both[row, column] for column in columns] for row in rows])
        return int(table[linear_sum_assignment(table, maximize=True)].sum()) if table.size else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="street")
    parser.add_argument("--streets", default="2004,2005,2006")
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--area", type=int, default=400, help="pixels")
    given = parser.parse_args()
    pipeline = build_pipeline(PipelineSettings(given.model, device="cpu", track_by="queries"))
    things = {c.id for c in pipeline.taxonomy.classes if c.thing}
    total: dict[str, list[Tracks]] = {name: [] for name in TRACK_BY}
    for seed in map(int, given.streets.split(",")):
        street = Street(seed, rate=given.rate)
        trackers = {name: Tracker() for name in TRACK_BY}
        for tracks in total.values():
            tracks.append(Tracks())
        for i in range(given.frames):
            shot = street.frame(i)
            result = pipeline.segment(Frame(shot.image, "rgb8"), {"panoptic"})
            assert result.ids is not None and result.segments is not None
            for name, tracker in trackers.items():
                by = (result.slots, result.embeddings) if name == "queries" else ()
                ids, segments = tracker.update(result.ids, result.segments, *by)
                classes = {s.id: s.train_id for s in segments if s.train_id in things}
                total[name][-1].add(shot.instance, shot.label, ids, classes, given.area)
    print("| track_by | objects | frames of them, matched | switches per object | IDF1 |\n|---|---|---|---|---|")
    for name, drives in total.items():
        objects, true = sum(len(d.true) for d in drives), sum(sum(d.true.values()) for d in drives)
        found, both = sum(sum(d.found.values()) for d in drives), sum(sum(d.both.values()) for d in drives)
        switches, matched = sum(d.switches for d in drives), sum(d.matched for d in drives)
        print(
            f"| {name} | {objects} | {true}, {both / true:.1%} | {switches / objects:.3f} | "
            f"{2 * matched / (true + found):.3f} |"
        )


if __name__ == "__main__":
    main()
