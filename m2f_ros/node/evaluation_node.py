"""Records a playing drive and the segmentation node's outputs, then scores the recording as `m2f eval` does.

Frames with ground truth but without a label in the recording count as missing. Progress goes to standard output as
lines of JSON: ready {} when the segmentation node is active, label {n}, truth {n} and stats {n} for each recorded
message, scoring {} when the recording is complete.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image

from m2f_ros import signals
from m2f_ros import taxonomy as taxonomies
from m2f_ros.bags.topics import legend_topics
from m2f_ros.errors import EvaluationError, M2fError, OutputError
from m2f_ros.evaluation.classes import choose
from m2f_ros.evaluation.live import BAG, FILES, TAXONOMY, score
from m2f_ros.evaluation.options import Options
from m2f_ros.evaluation.report import PREVIOUS, check_out, set_aside
from m2f_ros.msg import Legend, Segments, Stats
from m2f_ros.node.entities import qos_of
from m2f_ros.node.evaluation_parameters import EvaluationSettings
from m2f_ros.node.legend import LATCHED
from m2f_ros.node.process import Ending, emit, one_line, run, say
from m2f_ros.node.recorder import LABEL, LEGEND, QUIET, STATS, TRUTH, TRUTH_LEGEND, Recorder, Topic
from m2f_ros.node.segmentation.diagnostics import NEWEST, RECEIVED
from m2f_ros.processes import fastdds
from m2f_ros.sources.labels import taxonomy_of_legend
from m2f_ros.taxonomy import Taxonomy

# Best effort is compatible with reliable and best-effort cameras.
COUNTS = 60  # counts of the node that are kept from before the drive; it publishes one a second
IMAGE_QOS = QoSProfile(depth=20, reliability=ReliabilityPolicy.BEST_EFFORT)
LEGEND_ABOVE = "legend_above"

Recording = tuple[Options, Path, list[str], bool, int | None, str]  # the first arguments of `score`


class EvaluationNode(Recorder[EvaluationSettings]):
    """Records until the drive has ended. done: Function that `close` calls with a recording to score."""

    def __init__(self, ending: Ending, done: Callable[[Recording], None]) -> None:
        super().__init__("evaluation_node", EvaluationSettings, ending)
        self._done = done
        s = self.settings
        self._out = Path(s.out)
        self._results = check_out(self._out, [s.classes, s.truth_taxonomy])
        # Before the drive plays, so that no earlier report is taken for this drive's.
        if set_aside(self._results):
            say(f"the last report is in {self._out / PREVIOUS} until there is a new one")
        self._prediction: Taxonomy | None = None
        self._truth = taxonomies.get(s.truth_taxonomy).with_train_ids() if s.truth_taxonomy else None
        if self._truth is not None:
            self._truth.to_yaml(self._results.new(TAXONOMY))
        self._results.claim(FILES)
        self._are_classes_known = False
        self._trouble: M2fError | None = None
        self._is_in_vain = False  # True once legend or ground truth are waited for no longer
        # (stamp, labels published, number of the frame among those received): first and last stats after a label.
        self._counted: list[tuple[int, int, int]] = []
        self._qos = ""
        self._begun = time.monotonic()
        self._label, self._ground_truth = self.resolve_topic_name("~/label"), self.resolve_topic_name("~/ground_truth")
        drive = [self._ground_truth, *(["/clock"] if self.get_parameter("use_sim_time").value else [])]
        topics = self._find_topics()
        # zstd shrinks labels to 2 %, at 1 ms a megabyte, but raw images only to 85 %, at 4 ms a megabyte.
        compression = "none" if "image" in topics and s.transport == "raw" else "message"
        self.record(self._out / BAG, topics, [LABEL], drive, s.idle, compression)
        # The node's counts of the camera's frames before the first ground truth was heard, each with the header stamp
        # of the newest of these frames ("" where an earlier version counts), and the present count.
        self._before: deque[tuple[int, str]] = deque(maxlen=COUNTS)
        self._received = 0
        base = self._label.rpartition("/")[0]
        self._tasks = (f"{base}: camera", ": ".join(base.rsplit("/", 1)))
        self.create_subscription(DiagnosticArray, "/diagnostics", self._take_diagnostics, 10)

    def _find_topics(self) -> dict[str, Topic]:
        """Return the topic of each part of a frame."""
        s, truth, node = self.settings, self._ground_truth, self._label.rpartition("/")[0]
        topics = {LABEL: Topic(self._label, Image), STATS: Topic(f"{node}/stats", Stats)}
        if "calibration" in s.measures:
            topics["confidence"] = Topic(f"{node}/confidence", Image)
        for part, topic in zip((LEGEND, LEGEND_ABOVE), legend_topics(self._label)[1:], strict=True):
            topics[part] = Topic(topic, Legend, LATCHED)
        topics[TRUTH] = Topic(truth, Image)
        if self._truth is None:
            topics[TRUTH_LEGEND] = Topic(f"{truth}/legend", Legend, LATCHED)
        if "panoptic" in s.measures:
            for side, base in (("", node), ("truth_", truth)):
                topics[f"{side}ids"] = Topic(f"{base}/panoptic", Image)
                topics[f"{side}segments"] = Topic(f"{base}/segments", Segments)
        # The image is last: a player that has found its subscription has found all.
        if s.pictures or "flips" in s.measures:
            image = self.resolve_topic_name("~/image")
            compressed = s.transport == "compressed"
            name, kind = (f"{image}/compressed", CompressedImage) if compressed else (image, Image)
            topics["image"] = Topic(name, kind, IMAGE_QOS)
        return topics

    # The executor's thread

    def received(self, part: str, message: bytes) -> None:
        """Read the legends, and the number of labels that the node has published."""
        if part in (LEGEND, LEGEND_ABOVE):
            # The model is loaded and the drive begins: the disk may have no room for two recordings.
            with suppress(OutputError):  # somebody has changed it meanwhile
                self._results.discard([f"{PREVIOUS}/{file}" for file in FILES])
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
            stats = deserialize_message(message, Stats)
            self._counted = [*self._counted[:1], (self.stamps[STATS][-1], stats.segmented, stats.number)]
            self._received = max(stats.received, self._received)
            self._qos = self._qos or qos_of(self, self.resolve_topic_name("~/image"))

    def _take_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            if status.name in self._tasks and (count := values.get(RECEIVED, "")).isdecimal():
                self._received = int(count)
                if not self.stamps[TRUTH]:
                    self._before.append((int(count), values.get(NEWEST, "")))

    def look_for_the_end(self) -> None:
        """Ask the process to end also if legends or ground truth do not come."""
        if self._are_classes_known and self.stamps[TRUTH]:
            super().look_for_the_end()
            return
        now = time.monotonic()
        self.ended = self.ended or self.is_over()
        if (self.ended and self.is_quiet(QUIET)) or now - self._begun > self.settings.timeout:
            self._is_in_vain = True
            self.ending.ask(0)

    def _take_legend(self, part: str, legend: Legend) -> None:
        if part == TRUTH_LEGEND:
            self._truth = taxonomy_of_legend(legend)
        elif self._prediction is None:
            self._prediction, self._begun = taxonomy_of_legend(legend), time.monotonic()
        if self._truth is not None and self._prediction is not None:
            choose(self._truth, self._prediction, self.settings.classes or None)  # to fail before the drive
            self._are_classes_known = True

    # The end

    def close(self, timeout: float) -> bool:
        """Complete the recording, and pass it on if it can be scored."""
        super().close(timeout)
        try:
            self._check()
        except M2fError as error:
            say(f"error: {one_line(error)}")
            self.ending.code = 2
            return True
        finally:
            self._results.close()
        s, bag = self.settings, str(self._out / BAG)
        options = Options(
            predictions=(bag,),
            truth=(bag,),
            classes=s.classes or None,
            taxonomy=str(self._out / TAXONOMY) if s.truth_taxonomy else None,
            topic=self._label,
            truth_topic=self._ground_truth,
            boundary="boundary" in s.measures,
            flips="flips" in s.measures,
            worst=s.worst,
            allow_missing="100%",
            workers=1,
            # Without the end of the drive, labels of later frames may still have come: these frames are not missing.
            until_ns=None if self.complete else self.newest[LABEL],
        )
        transport = f"{self._qos}; {fastdds.in_force(os.environ, Path.cwd())}"
        self._done((options, self._out, self.problems, s.keep, self.never_arrived, transport))
        return True

    @property
    def problems(self) -> list[str]:
        """Reasons why the recording is incomplete, a line each."""
        lines = super().problems
        if not self.complete and not self.failure:
            lines.append("interrupted before the drive had ended")
        if self.complete and (lost := self._lost()) > 0:
            lines.append(f"{lost} labels were published and lost on the way to the recording: they count as missing")
        return lines

    def _lost(self) -> int:
        """Return the number of labels, published between the first and last stats, that are not in the recording."""
        if len(self._counted) < 2:
            return 0
        (first, before, _), (last, after, _) = self._counted
        return after - before - sum(first < stamp <= last for stamp in self.stamps[LABEL])

    @property
    def never_arrived(self) -> int | None:
        """Number of frames with ground truth that the node did not receive; None where that is unknown.

        By the node's counts in /diagnostics before and after the drive. Without those, it is of the frames between the
        first and last stats, unless they are of an earlier version. A node that was configured meanwhile counts anew.
        """
        truths = set(self.stamps[TRUTH])
        # A frame may arrive at the node, and be counted, before its ground truth is heard here.
        of_drive = {str(stamp) for stamp in truths}
        before = next((count for count, newest in reversed(self._before) if newest not in of_drive), None)
        if self.complete and before is not None:
            return max(0, len(truths) - (self._received - before)) if self._received >= before else None
        if len(self._counted) < 2:
            return None
        (first, _, start), (last, _, end) = self._counted
        if not start or end < start:
            return None
        return max(0, sum(first < stamp <= last for stamp in self.stamps[TRUTH]) - (end - start))

    def _check(self) -> None:
        """Raise an error if there is nothing to score; the recording is then removed."""
        label, truth = self._label, self._ground_truth
        labels, truths = self.stamps[LABEL], self.stamps[TRUTH]
        if not (self._are_classes_known and labels and truths):
            self._results.discard(FILES)
        if self._trouble is not None:
            raise self._trouble
        if not (labels and truths):
            if self.failure:
                raise EvaluationError(f"the recording ended before there was anything to score: {self.failure}")
            if not (self.complete or self._is_in_vain):
                missing = "the first label" if truths else "the first ground truth"
                raise EvaluationError(f"interrupted before {missing}: there is no report")
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
            raise EvaluationError(
                f"no label came on {label}, but {len(truths)} images of ground truth: is the node still preparing the "
                "model, which its parameter image_sizes does before it is active? else it takes more than patience, "
                f"{self.settings.patience:g} s"
            )
        if not set(labels) & set(truths):
            raise EvaluationError(
                f"none of {len(labels)} labels on {label} has the stamp of one of {len(truths)} images on {truth}; the "
                f"first are of {labels[0]} and {truths[0]} ns: are they of one drive, with its stamps?"
            )


def main(args: Sequence[str] | None = None) -> int:
    recordings: list[Recording] = []
    code = run(lambda ending: EvaluationNode(ending, recordings.append), args)
    if not recordings:
        return code
    # The node is destroyed before scoring: it would go on to receive messages and hold DDS' shared memory.
    out = recordings[0][1]

    def end(*_: object) -> None:
        signals.tell(f"evaluation_node: error: interrupted: there is no report; the recording is {out / BAG}")
        os._exit(2)

    signals.listen(end)
    emit("scoring")
    try:
        return 0 if score(*recordings[0], say, signals.ignore) else 2
    except Exception as error:
        say(f"error: {one_line(error)}")
        return 2 if isinstance(error, M2fError) else 1
