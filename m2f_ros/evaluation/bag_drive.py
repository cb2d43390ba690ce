"""A drive in bags: labels of the node or of `m2f replay`, ground truth and images, matched by exact header stamps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from m2f_ros.bags.image_topic import decode_label
from m2f_ros.bags.messages import IMAGE, SEGMENTS, STATS
from m2f_ros.bags.reader import Bag, Message
from m2f_ros.datasets.ids import choose_taxonomy
from m2f_ros.errors import EvaluationError, FrameError, LabelError
from m2f_ros.evaluation.classes import Classes
from m2f_ros.evaluation.options import Options
from m2f_ros.evaluation.pair_reader import PairReader
from m2f_ros.evaluation.pairs import Pair, join
from m2f_ros.replay.folder import unfinished
from m2f_ros.sources.bag import find_legend
from m2f_ros.sources.labels import taxonomy_of_legend
from m2f_ros.taxonomy import Taxonomy

LABEL, TRUTH = "/label", "/ground_truth"
IMAGES = ("image", "image_raw", "image/compressed", "image_raw/compressed")
# Message types of what lies beside labels and ground truth.
KINDS = {
    "confidence": IMAGE,
    "stats": STATS,
    "ids": IMAGE,
    "segments": SEGMENTS,
    "truth_ids": IMAGE,
    "truth_segments": SEGMENTS,
}


@dataclass(frozen=True)
class BagDrive:
    """Labels of one camera, and their ground truth. image: bag and topic of the images, None where there are none.

    truth_taxonomy, prediction_taxonomy: of train ids. model: by the legend. frames: messages of the ground truth.
    """

    name: str
    predictions: Path
    truth: Path
    label_topic: str
    truth_topic: str
    image: tuple[Path, str] | None
    truth_taxonomy: Taxonomy
    prediction_taxonomy: Taxonomy
    model: str
    frames: int

    # Of files it is not known; a bag has the frames as they came.
    consecutive = True
    alone = truth_absent = 0
    in_order = False

    def pairs(self, classes: Classes, problems: list[str], left_out: list[str], images: bool = True) -> Iterator[Pair]:
        """Every frame with ground truth or a label, by ascending stamp; read as it is iterated.

        images: whether they are wanted. problems: gets a line for what a bag lacks, if it was cut off, or its replay
        stopped; frames after its last label are missing, as any that never came. left_out: gets a line for images that
        cannot be read. Raises EvaluationError for topics that do not fit each other.
        """
        node = self.label_topic.rpartition("/")[0]
        topics = {
            "truth": (self.truth, self.truth_topic),
            "label": (self.predictions, self.label_topic),
            "confidence": (self.predictions, f"{node}/confidence"),
            "stats": (self.predictions, f"{node}/stats"),
            "ids": (self.predictions, f"{node}/panoptic"),
            "segments": (self.predictions, f"{node}/segments"),
            "truth_ids": (self.truth, f"{self.truth_topic}/panoptic"),
            "truth_segments": (self.truth, f"{self.truth_topic}/segments"),
        }
        if self.image and images:
            topics["image"] = self.image
        reader = PairReader(
            self.name,
            {what: topic for what, (_, topic) in topics.items()},
            self.truth_taxonomy,
            self.prediction_taxonomy,
            classes,
        )
        # Both bags may have topics of one name.
        names = {what: f"{path} {topic}" for what, (path, topic) in topics.items()}
        stopped = unfinished(self.predictions)
        with ExitStack() as stack:
            bags = {path: stack.enter_context(Bag(path)) for path in {self.predictions, self.truth}}
            streams = {
                what: _Stream(bags[path], topic)
                for what, (path, topic) in topics.items()
                if what not in KINDS or bags[path].topics.get(topic, ("", 0))[0] == KINDS[what]
            }
            matched, seen = 0, Counter[str]()
            for stamp, found in join({names[what]: stream for what, stream in streams.items()}):
                found = {what: found[names[what]] for what in streams if names[what] in found}
                if "truth" not in found and "label" not in found:
                    continue
                seen.update(found.keys() & {"truth", "label"})
                pair = reader.read(stamp, found)
                if pair is not None:
                    matched += pair.truth is not None and pair.prediction is not None
                    yield pair
            problems += [f"{path}: {bag.problem}" for path, bag in sorted(bags.items()) if bag.problem]
            problems += [f"{self.predictions}: {stopped}"] if stopped else []
            for what in ("truth", "label"):
                if again := streams[what].count - seen[what]:
                    path, topic = topics[what]
                    problems.append(
                        f"{path}: {again} images of {topic} have the stamp of another and are not scored: "
                        "the first of each stamp counts"
                    )
            if damaged := reader.damaged["truth"]:
                problems.append(f"{self.truth}: {damaged} images of {self.truth_topic} are damaged and not scored")
            left_out += [f"{self.image[0]}: {reader.image_problem}"] if self.image and reader.image_problem else []
            if not matched:
                raise EvaluationError(
                    f"no stamp of {self.label_topic} in {self.predictions} ({streams['label']}) is one of "
                    f"{self.truth_topic} in {self.truth} ({streams['truth']}): is it of the same recording?"
                )


class _Stream:
    """(stamp, message) of a topic. count: how many so far; first, last: their smallest and largest stamp."""

    def __init__(self, bag: Bag, topic: str) -> None:
        self._bag, self._topic = bag, topic
        self.count, self.last = 0, -1
        self.first: int | None = None

    def __iter__(self) -> Iterator[tuple[int, Message]]:
        for message in self._bag.messages([self._topic]):
            self.count += 1
            stamp = message.taken_ns
            self.first = stamp if self.first is None else min(self.first, stamp)
            self.last = max(self.last, stamp)
            yield stamp, message

    def __str__(self) -> str:
        return f"{self.count} from {self.first} to {self.last} ns" if self.count else "no message"


def bag_drives(name: str, predictions: Path, truth: Path, options: Options) -> list[BagDrive]:
    """The cameras of a recording: one drive each, called after the recording and, of several, the camera.

    Predictions are the Image topics that end in /label beside a legend, or options.topic; ground truth those that end
    in /ground_truth, or options.truth_topic. Raises EvaluationError where they are not there or fit no partner.
    """
    with Bag(predictions) as there, Bag(truth) as wanted:
        labels = _topics(there, options.topic, "--topic", LABEL, "labels", predictions)
        truths = _topics(wanted, options.truth_topic, "--truth-topic", TRUTH, "ground truth", truth)
        drives = []
        for camera, label_topic, truth_topic in _by_camera(labels, truths):
            prediction_taxonomy, model = _legend(
                there, label_topic, options.prediction_taxonomy, "--prediction-taxonomy"
            )
            truth_taxonomy, _ = _legend(wanted, truth_topic, options.taxonomy, "--taxonomy")
            image = next(
                (
                    (path, topic)
                    for path, bag in ((truth, wanted), (predictions, there))
                    for topic in (f"{truth_topic.rpartition('/')[0]}/{image}" for image in IMAGES)
                    if topic in bag.image_topics()
                ),
                None,
            )
            drives.append(
                BagDrive(
                    f"{name}/{camera}" if len(truths) > 1 else name,
                    predictions,
                    truth,
                    label_topic,
                    truth_topic,
                    image,
                    truth_taxonomy,
                    prediction_taxonomy,
                    model,
                    wanted.topics[truth_topic].count,
                )
            )
    return drives


def _topics(bag: Bag, asked: str | None, option: str, ending: str, what: str, path: Path) -> list[str]:
    images = bag.image_topics()
    found = [asked] if asked else [topic for topic in images if topic.endswith(ending)]
    if found and all(topic in images for topic in found):
        return found
    there = ", ".join(f"{topic} ({count})" for topic, count in images.items()) or "none"
    missing = f"no image topic {asked}" if asked else f"no topic of {what} (an image topic that ends in {ending})"
    damage = f" ({bag.problem})" if bag.problem else ""
    raise EvaluationError(f"{path}: {missing}; image topics with messages are {there}; name one with {option}{damage}")


def _by_camera(labels: list[str], truths: list[str]) -> list[tuple[str, str, str]]:
    """(camera, label topic, truth topic): one of each belong together, more of them by the name before the last."""
    if len(labels) == len(truths) == 1:
        return [("", labels[0], truths[0])]
    by_name = [{topic.split("/")[-2]: topic for topic in topics} for topics in (labels, truths)]
    if by_name[0].keys() != by_name[1].keys() or len(by_name[0]) < len(labels):
        raise EvaluationError(
            f"labels of {', '.join(labels)} and ground truth of {', '.join(truths)} do not pair by the camera's name; "
            "choose one of each with --topic and --truth-topic"
        )
    return [(name, by_name[0][name], by_name[1][name]) for name in sorted(by_name[1])]


def _legend(bag: Bag, label_topic: str, spec: str | None, option: str) -> tuple[Taxonomy, str]:
    """(taxonomy of train ids, model) by option, else legend, else a guess from the first image."""
    legend = find_legend(bag, label_topic)
    model = legend.model if legend else ""
    if spec is None and legend is not None:
        return taxonomy_of_legend(legend), model
    why = "it holds no message"
    for message in bag.messages([label_topic]):
        try:
            values = set(np.unique(decode_label(message.decode())).tolist())
        except FrameError as error:
            why = str(error)
            continue
        try:
            return choose_taxonomy(spec, values, label_topic, label_topic), model
        except LabelError as error:
            raise LabelError(f"{error} ({option})") from None
    raise EvaluationError(f"{label_topic}: not a topic of label images: {why}")
