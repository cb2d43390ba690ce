"""Records a drive that plays and the segmentation node's outputs, then scores the recording as `m2f eval` does.

Frames with ground truth whose label is not in the recording never came: they count as missing. Progress goes to
standard output as lines of JSON: ready {} once the segmentation node is active, label {n}, truth {n} and stats {n} for
each message recorded, scoring {} once the recording is complete.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path

from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image

from m2f_ros import signals
from m2f_ros import taxonomy as taxonomies
from m2f_ros.bags.topics import legend_topics
from m2f_ros.errors import EvaluationError, M2fError
from m2f_ros.evaluation.classes import choose
from m2f_ros.evaluation.live import BAG, FILES, TAXONOMY, Recording, score
from m2f_ros.evaluation.report import check_out
from m2f_ros.msg import Legend, Segments, Stats
from m2f_ros.node.evaluation_parameters import PARAMETERS
from m2f_ros.node.legend import LATCHED
from m2f_ros.node.process import Ending, emit, one_line, run, say
from m2f_ros.node.recorder import LABEL, LEGEND, QUIET, STATS, TRUTH, Recorder, Topic
from m2f_ros.sources.labels import taxonomy_of_legend

# Compatible with a camera of either reliability.
IMAGE_QOS = QoSProfile(depth=20, reliability=ReliabilityPolicy.BEST_EFFORT)
LEGEND_ABOVE, TRUTH_LEGEND = "legend_above", "truth_legend"


class EvaluationNode(Recorder):
    """Records until the drive has ended. done: called by `close` with a recording that can be scored."""

    def __init__(self, ending: Ending, done: Callable[[Recording], None]) -> None:
        super().__init__("evaluation_node", PARAMETERS, ending)
        self._done = done
        s = self.settings
        self._out = Path(s.out)
        self._results = check_out(self._out, [s.classes, s.truth_taxonomy])
        self._results.clear()  # before the drive plays: an earlier report would be taken for that of this drive
        self._truth = taxonomies.get(s.truth_taxonomy).with_train_ids() if s.truth_taxonomy else None
        self._prediction: taxonomies.Taxonomy | None = None
        if self._truth is not None:
            self._truth.to_yaml(self._results.new(TAXONOMY))
        self._results.claim(FILES)
        self._are_classes_known = False
        self._trouble: M2fError | None = None
        self._counted: list[tuple[int, int]] = []  # (stamp, labels published): first and last stats after a label
        self._begun = time.monotonic()
        self._label, self._truth_topic = self.resolve_topic_name("~/label"), self.resolve_topic_name("~/ground_truth")
        drive = [self._truth_topic, *(["/clock"] if self.get_parameter("use_sim_time").value else [])]
        topics = self._find_topics()
        # zstd leaves 2 % of labels, at 1 ms a megabyte, but 85 % of raw images, at 4 ms a megabyte.
        compression = "none" if "image" in topics and s.transport == "raw" else "message"
        self.record(self._out / BAG, topics, [LABEL], drive, s.idle, compression)

    def _find_topics(self) -> dict[str, Topic]:
        """Part of a frame -> topic."""
        s, truth, node = self.settings, self._truth_topic, self._label.rpartition("/")[0]
        _, beside, above = legend_topics(self._label)
        topics = {LABEL: Topic(self._label, Image), STATS: Topic(f"{node}/stats", Stats)}
        if "calibration" in s.measures:
            topics["confidence"] = Topic(f"{node}/confidence", Image)
        if "panoptic" in s.measures:
            topics |= {"ids": Topic(f"{node}/panoptic", Image), "segments": Topic(f"{node}/segments", Segments)}
        topics |= {LEGEND: Topic(beside, Legend, LATCHED), LEGEND_ABOVE: Topic(above, Legend, LATCHED)}
        topics[TRUTH] = Topic(truth, Image)
        if self._truth is None:
            topics[TRUTH_LEGEND] = Topic(legend_topics(truth)[0], Legend, LATCHED)
        if "panoptic" in s.measures:
            topics |= {
                "truth_ids": Topic(f"{truth}/panoptic", Image),
                "truth_segments": Topic(f"{truth}/segments", Segments),
            }
        # The image last: a player that knows of its subscription knows of all.
        if s.pictures or "flips" in s.measures:
            image = self.resolve_topic_name("~/image")
            compressed = s.transport == "compressed"
            topics["image"] = Topic(
                f"{image}/compressed" if compressed else image, CompressedImage if compressed else Image, IMAGE_QOS
            )
        return topics

    # The executor's thread

    def received(self, part: str, message: bytes) -> None:
        """Follow the legends, and the labels that the node says it has published."""
        super().received(LEGEND if part == LEGEND_ABOVE else part, message)
        if part in (STATS, TRUTH):
            emit(part, n=len(self.stamps[part]))
        if part in (LEGEND, LEGEND_ABOVE, TRUTH_LEGEND):
            try:
                self._take_legend(part, deserialize_message(message, Legend))
            except M2fError as error:
                self._trouble = error
                self.ending.ask(0)
        if part == STATS and self.stamps[LABEL]:
            count = self.stamps[STATS][-1], deserialize_message(message, Stats).segmented
            self._counted = [self._counted[0], count] if self._counted else [count]

    def look_for_the_end(self) -> None:
        """As Recorder; and the process ends where legends or ground truth do not come."""
        if self._are_classes_known and self.stamps[TRUTH]:
            super().look_for_the_end()
            return
        now = time.monotonic()
        self.ended = self.ended or self.is_over()
        if (self.ended and now - self.heard > QUIET) or now - self._begun > self.settings.timeout:
            self.ending.ask(0)

    def _take_legend(self, part: str, legend: Legend) -> None:
        if part == TRUTH_LEGEND:
            self._truth = taxonomy_of_legend(legend)
        elif self._prediction is None:
            self._prediction, self._begun = taxonomy_of_legend(legend), time.monotonic()
        if self._truth is not None and self._prediction is not None:
            choose(self._truth, self._prediction, self.settings.classes or None)  # now rather than after the drive
            self._are_classes_known = True

    # The end

    def close(self, timeout: float) -> bool:
        """Complete the recording, and hand it over where there is something to score."""
        super().close(timeout)
        try:
            self._check()
        except Exception as error:
            say(f"error: {one_line(error)}")
            self.ending.code = 2 if isinstance(error, M2fError) else 1
            return True
        finally:
            self._results.close()
        s = self.settings
        self._done(
            Recording(
                out=self._out,
                label=self._label,
                truth=self._truth_topic,
                truth_taxonomy=bool(s.truth_taxonomy),
                classes=s.classes or None,
                measures=tuple(s.measures),
                worst=s.worst,
                # Without the end of the drive it is open whether a label for a later frame would have come.
                until_ns=None if self.complete else self.newest[LABEL],
                keep=s.keep,
                problems=tuple(self.problems),
            )
        )
        return True

    @property
    def problems(self) -> list[str]:
        """Reasons why the recording is of a part of the drive, a line each."""
        lines = super().problems
        if not self.complete and not self.failure:
            lines.append("interrupted before the drive had ended")
        if self.complete and (lost := self._lost()):
            lines.append(f"{lost} labels were published and lost on the way to the recording: they count as missing")
        return lines

    def _lost(self) -> int:
        """How many labels the node published between the first and the last stats that are not in the recording."""
        if len(self._counted) < 2:
            return 0
        (first, before), (last, after) = self._counted
        stamps = sorted(self.stamps[LABEL])
        return max(0, after - before - (bisect_right(stamps, last) - bisect_right(stamps, first)))

    def _check(self) -> None:
        """Raise an error where there is nothing to score; the recording is then removed."""
        labels, truths = self.stamps[LABEL], self.stamps[TRUTH]
        if not (self._are_classes_known and labels and truths):
            self._results.discard(FILES)
        if self._trouble is not None:
            raise self._trouble
        label, truth = self._label, self._truth_topic
        if self._prediction is None:
            raise EvaluationError(f"no legend came beside {label}: is a segmentation node running, and active?")
        if not truths:
            images = [
                name
                for name, kinds in self.get_topic_names_and_types()
                if "sensor_msgs/msg/Image" in kinds and self.count_publishers(name)
            ]
            raise EvaluationError(
                f"no ground truth came on {truth}: name its topic: -r '~/ground_truth:=TOPIC'; there is "
                f"{', '.join(images) or 'no image topic'}"
            )
        if self._truth is None:
            raise EvaluationError(f"nothing came on {truth}/legend: say what the ids mean with truth_taxonomy")
        if not labels:
            raise EvaluationError(f"no label came on {label}, but {len(truths)} images of ground truth")
        if not set(labels) & set(truths):
            raise EvaluationError(
                f"none of {len(labels)} labels on {label} has the stamp of one of {len(truths)} images on {truth}; the "
                f"first are of {labels[0]} and {truths[0]} ns: are they of one drive, with its stamps?"
            )


def evaluate(recording: Recording) -> int:
    """Score the recording and write the report, however long that takes; returns the exit code. A signal ends it."""

    def end(*_: object) -> None:
        signals.tell(f"evaluation_node: error: interrupted: there is no report; the recording is {recording.out / BAG}")
        os._exit(2)

    signals.listen(end)
    emit("scoring")
    try:
        return 0 if score(recording, say, signals.ignore) else 2
    except Exception as error:
        say(f"error: {one_line(error)}")
        return 2 if isinstance(error, M2fError) else 1


def main(args: Sequence[str] | None = None) -> int:
    recordings: list[Recording] = []
    code = run(lambda ending: EvaluationNode(ending, recordings.append), args)
    # The node has gone: it would receive what is still published, and hold DDS' shared memory.
    return evaluate(recordings[0]) if recordings else code
