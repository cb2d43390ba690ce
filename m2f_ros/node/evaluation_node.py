"""Scores the labels of a segmentation node while a recorded drive plays, and writes the report of `m2f eval`.

Labels and ground truth are matched by the stamp of their image. Ground truth without a label, once a newer label has
come or the drive has ended, is a frame that never came. The drive ends when nobody publishes its ground truth any
more, or the simulated time, when everything stands still, or when its stamps jump back, as in a bag that loops.

Progress goes to standard output as lines of JSON: ready {} once the segmentation node is active, frame {n} for each
frame of which nothing more is to come.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image

from m2f_ros import taxonomy as taxonomies
from m2f_ros.bags.topics import legend_topics
from m2f_ros.errors import EvaluationError, M2fError
from m2f_ros.evaluation.classes import choose
from m2f_ros.evaluation.coverage import partial_measures
from m2f_ros.evaluation.pair_reader import PairReader
from m2f_ros.evaluation.report import remove_report, write_report
from m2f_ros.evaluation.report.tables import PROBLEMS
from m2f_ros.evaluation.run import LEFT_OUT, NOT_COMPARABLE, note_not_comparable
from m2f_ros.evaluation.scores import Scores
from m2f_ros.evaluation.text import not_comparable
from m2f_ros.msg import Legend, Segments, Stats
from m2f_ros.node.camera import stamp_of
from m2f_ros.node.declare import declare
from m2f_ros.node.evaluation_parameters import PARAMETERS
from m2f_ros.node.legend import LATCHED
from m2f_ros.node.matching import LABEL, TRUTH, Gathered, Matcher
from m2f_ros.node.process import Ending, emit, one_line, run, say
from m2f_ros.node.scorer import Scorer
from m2f_ros.sources.labels import taxonomy_of_legend

QOS = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
# Whatever the camera's reliability is, this goes with it.
IMAGE_QOS = QoSProfile(depth=20, reliability=ReliabilityPolicy.BEST_EFFORT)
PERIOD = 0.1  # seconds between two looks for the end
QUIET = 0.5  # seconds: what was sent before a publisher went has come after them
JUMP = 10**9  # nanoseconds back that are no disorder any more


@dataclass(frozen=True)
class Received:
    """A message as `PairReader` takes it."""

    topic: str
    stamp_ns: int
    message: Any

    def decode(self) -> Any:
        return self.message


class EvaluationNode(Node):
    """Receives in the executor's thread, scores in another; the report is written when the process ends."""

    def __init__(self, ending: Ending) -> None:
        super().__init__("evaluation_node")
        self._ending = ending
        s = self._settings = declare(self, PARAMETERS)
        remove_report(Path(s.out), [s.classes, s.truth_taxonomy])  # before the drive is played
        self._topics = self._find_topics()
        self._truth_taxonomy = taxonomies.get(s.truth_taxonomy).with_train_ids() if s.truth_taxonomy else None
        self._truth_legend: Legend | None = None
        self._legend: Legend | None = None
        self._lock = threading.Lock()
        self._matcher = Matcher(self._topics, s.memory << 20)
        self._scorer = Scorer(s.memory << 20, lambda: ending.ask(0))
        self._reader: PairReader | None = None
        self._scores: Scores | None = None
        self._received = dict.fromkeys((TRUTH, LABEL), 0)
        self._settled = self._matched = 0  # frames
        self._first: dict[str, int] = {}  # stamps
        self._trouble: M2fError | None = None
        self._jumped = self._ended = self._complete = self._closed = False
        self._begun = self._heard = time.monotonic()
        self._simulated, self._clock_time = bool(self.get_parameter("use_sim_time").value), 0
        self._seen: set[str] = set()  # topics of the drive that were published
        self._listen()
        self.create_timer(PERIOD, self._look_for_the_end, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def close(self, timeout: float) -> bool:
        """Score what waits and write the report, however long that takes."""
        with self._lock:
            self._closed = True
            self._finish_matching()
        try:
            self._scorer.close()
            self._check()
            self._report()
        except Exception as error:
            say(f"error: {one_line(error)}")
            self._ending.code = 2 if isinstance(error, M2fError) else 1
        return True

    def _find_topics(self) -> dict[str, str]:
        """Part of a frame, as `PairReader` names it -> topic."""
        label, truth = self.resolve_topic_name("~/label"), self.resolve_topic_name("~/ground_truth")
        node = label.rpartition("/")[0]
        topics = {TRUTH: truth, LABEL: label, "stats": f"{node}/stats"}
        measures = self._settings.measures
        if "calibration" in measures:
            topics["confidence"] = f"{node}/confidence"
        if "panoptic" in measures:
            topics |= {"ids": f"{node}/panoptic", "segments": f"{node}/segments"}
            topics |= {"truth_ids": f"{truth}/panoptic", "truth_segments": f"{truth}/segments"}
        if self._settings.pictures or "flips" in measures:
            image = self.resolve_topic_name("~/image")
            topics["image"] = f"{image}/compressed" if self._settings.transport == "compressed" else image
        return topics

    def _listen(self) -> None:
        kinds = {"stats": Stats, "segments": Segments, "truth_segments": Segments}
        if self._settings.transport == "compressed":
            kinds["image"] = CompressedImage
        for topic in legend_topics(self._topics[LABEL])[1:]:
            self.create_subscription(Legend, topic, self._take_legend, LATCHED)
        if self._truth_taxonomy is None:
            self.create_subscription(Legend, f"{self._topics[TRUTH]}/legend", self._take_truth_legend, LATCHED)
        # The image last: a player that knows of that subscription knows of all.
        for part in sorted(self._topics, key=lambda part: part == "image"):

            def receive(message: Any, part: str = part) -> None:
                self._receive(part, message)

            self.create_subscription(
                kinds.get(part, Image),
                self._topics[part],
                receive,
                IMAGE_QOS if part == "image" else QOS,
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )

    # The executor's thread

    def _take_legend(self, legend: Legend) -> None:
        if self._legend is None:
            self._legend, self._begun = legend, time.monotonic()
            emit("ready")
            self._start()

    def _take_truth_legend(self, legend: Legend) -> None:
        self._truth_legend = legend
        self._start()

    def _start(self) -> None:
        """Begin to score once both sides' classes are known."""
        known = self._truth_taxonomy is not None or self._truth_legend is not None
        if self._scores is not None or self._legend is None or not known:
            return
        s = self._settings
        try:
            truth = self._truth_taxonomy or taxonomy_of_legend(self._truth_legend)
            prediction = taxonomy_of_legend(self._legend)
            classes = choose(truth, prediction, s.classes or None)
        except M2fError as error:
            self._trouble = error
            self._ending.ask(0)
            return
        drive = self._topics[TRUTH].rpartition("/")[0]
        self._reader = PairReader(drive, self._topics, truth, prediction, classes)
        self._scores = Scores(
            classes.taxonomy, boundary="boundary" in s.measures, flips="flips" in s.measures, worst=s.worst
        )
        self._scorer.start(self._score)

    def _receive(self, part: str, message: Any) -> None:
        stamp = stamp_of(message.header)
        with self._lock:
            if part == TRUTH:
                self._seen.add(self._topics[TRUTH])
                self._jumped = self._jumped or stamp < self._matcher.newest(TRUTH) - JUMP
            # Of the next round nothing counts but labels of the first that are late.
            if self._closed or (self._jumped and part == TRUTH):
                return
            if not self._jumped:
                self._heard = time.monotonic()
            if part in self._received:
                self._received[part] += 1
                self._first.setdefault(part, stamp)
            size = len(message.data) if hasattr(message, "data") else 0
            for frame in self._matcher.put(part, stamp, Received(self._topics[part], stamp, message), size):
                self._pass_on(frame)

    def _pass_on(self, frame: Gathered) -> None:
        if frame.parts.keys() & {TRUTH, LABEL}:
            self._settled += 1
            self._matched += {TRUTH, LABEL} <= frame.parts.keys()
            self._scorer.put(frame)
            emit("frame", n=self._settled)

    def _look_for_the_end(self) -> None:
        now, s = time.monotonic(), self._settings
        clock = self.get_clock().now().nanoseconds if self._simulated else 0
        if clock != self._clock_time and not self._ended:
            self._heard, self._clock_time = now, clock
        self._ended = self._ended or self._jumped or self._is_gone()
        if not self._received[TRUTH] or self._scores is None:
            if self._ended or now - self._begun > s.timeout:
                self._ending.ask(0)
        elif not self._ended:
            self._ended = bool(s.idle) and now - self._heard > s.idle
        elif now - self._heard > (s.patience if self._matcher.waits_for_label else QUIET):
            self._complete = True
            self._ending.ask(0)

    def _is_gone(self) -> bool:
        """Whether what was published of the drive is not any more."""
        topics = [self._topics[TRUTH], "/clock"][: 1 + self._simulated]
        there = {topic for topic in topics if self.count_publishers(topic)}
        gone = self._seen - there
        self._seen |= there
        return bool(gone)

    # The scorer's thread

    def _score(self, frame: Gathered) -> None:
        pair = self._reader.read(frame.stamp, frame.parts)
        if pair is not None:
            self._scores.update(pair)

    # The end

    def _finish_matching(self) -> None:
        labels = self._matcher.newest(LABEL)
        for frame in self._matcher.rest():
            # Interrupted, it is open whether a label for this would have come.
            if self._complete or frame.stamp <= labels:
                self._pass_on(frame)

    def _check(self) -> None:
        """Raise EvaluationError where there is nothing to report."""
        truth, label = self._topics[TRUTH], self._topics[LABEL]
        if self._trouble is not None:
            raise self._trouble
        if self._legend is None:
            raise EvaluationError(f"no legend came beside {label}: is a segmentation node running, and active?")
        if not self._received[TRUTH]:
            images = [
                name
                for name, kinds in self.get_topic_names_and_types()
                if "sensor_msgs/msg/Image" in kinds and self.count_publishers(name)
            ]
            raise EvaluationError(
                f"no ground truth came on {truth}: name its topic: -r '~/ground_truth:=TOPIC'; there is "
                f"{', '.join(images) or 'no image topic'}"
            )
        if self._scores is None:
            raise EvaluationError(f"nothing came on {truth}/legend: say what the ids mean with truth_taxonomy")
        if not self._received[LABEL]:
            raise EvaluationError(f"no label came on {label}, but {self._received[TRUTH]} images of ground truth")
        if not self._matched:
            labels, truths = self._received[LABEL], self._received[TRUTH]
            raise EvaluationError(
                f"none of {labels} labels on {label} has the stamp of one of {truths} images on {truth}; the first are "
                f"of {self._first[LABEL]} and {self._first[TRUTH]} ns: are they of one drive, with its stamps?"
            )

    def _report(self) -> None:
        s = self._settings
        settings = {
            "live": True,
            "measures": list(s.measures),
            "not_scored": self._scorer.skipped,
            "too_late": self._matcher.late,
            PROBLEMS: self._problems(),
        }
        if problem := self._reader.image_problem:
            self._scores.forget_flips()
            settings[LEFT_OUT] = [problem]
            say(f"warning: without pictures and flips: {problem}")
        result = self._scores.result(
            predictions=self._topics[LABEL], truth=self._topics[TRUTH], model=self._legend.model, settings=settings
        )
        note_not_comparable(result, self._reader.classes)
        if names := result.settings.get(NOT_COMPARABLE):
            say(f"warning: {not_comparable(names)}; set classes:=FILE.yaml")
        # Frames that never came are what is measured here: m2f compare asks how many may be missing.
        result.settings[PROBLEMS] += partial_measures(result)
        out = Path(s.out)
        write_report(result, self._scores.worst, out)
        for line in result.settings[PROBLEMS]:
            say(f"warning: {line}")
        for line in result.notes:
            say(f"note: {line}")
        if result.settings[PROBLEMS] and self._complete:
            self._ending.code = 2
        frames, miou = result.frames, result.metrics["miou"]
        say(
            f"{frames['scored']} of {frames['truth']} frames scored, {frames['missing']} never came, "
            f"mIoU {'of nothing' if miou is None else f'{miou:.3f}'}: {out.resolve() / 'report.html'}"
        )

    def _problems(self) -> list[str]:
        """Why the report is of a part of the drive, a line each."""
        damaged = self._reader.damaged["truth"]
        counts = (
            (not self._complete, "interrupted before the drive had ended"),
            (
                self._scorer.skipped,
                "frames were not scored: that was too slow; play the drive slower, or measure less",
            ),
            (self._matcher.late_truths, "images of ground truth came too late to be scored"),
            (damaged, "images of ground truth are damaged and not scored"),
            (self.executor.failures, "messages could not be read, or what was made of them failed (see the log)"),
        )
        return [line if count is True else f"{count} {line}" for count, line in counts if count]


def main(args: Sequence[str] | None = None) -> int:
    return run(EvaluationNode, args)
