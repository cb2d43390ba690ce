"""A drive in bags: labels of the node or of `m2f replay`, ground truth and images, matched by exact header stamps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from m2f_ros.bags.messages import IMAGE, SEGMENTS, STATS
from m2f_ros.bags.reader import Bag, Message
from m2f_ros.bags.topics import listed
from m2f_ros.errors import EvaluationError
from m2f_ros.evaluation.classes import Classes
from m2f_ros.evaluation.measures import Counts
from m2f_ros.evaluation.options import Options
from m2f_ros.evaluation.pair_reader import PairReader
from m2f_ros.evaluation.pairs import Pair, join
from m2f_ros.evaluation.space_drive import SpaceDrive, find_space
from m2f_ros.replay.folder import unfinished
from m2f_ros.sources.labels import taxonomy_of_topic
from m2f_ros.taxonomy import Taxonomy

LABEL, TRUTH = "/label", "/ground_truth"
IMAGES = ("image", "image_raw", "image/compressed", "image_raw/compressed")
# Message types of the topics beside labels and ground truth.
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
    """Labels of one camera, and their ground truth.

    Attributes:
        name: of the recording and, of several cameras, the camera.
        predictions, truth: paths of the bags.
        label_topic, truth_topic: of the label images in them.
        image: bag and topic of the images; None where there are none.
        truth_taxonomy, prediction_taxonomy: of train ids.
        model: by the legend.
        frames: messages of the ground truth.
        space: what is there of no camera alone, with the first camera; None where there is none.
        bags: those that are open, by path; `pairs` opens the others.
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
    space: SpaceDrive | None = None
    bags: dict[Path, Bag] = field(default_factory=dict, repr=False, compare=False)

    consecutive = True  # a bag has the frames as they came, which is not known of files
    alone = truth_absent = 0
    in_order = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "bags": {}}  # a worker opens them

    def close(self) -> None:
        """Close the bags; `pairs` opens them again."""
        for bag in self.bags.values():
            bag.close()
        self.bags.clear()

    def score_space(self, counts: Counts, classes: Classes, problems: list[str], until_ns: int | None) -> None:
        """Add what is there of no camera alone to the counts; see SpaceDrive.score."""
        if self.space is None:
            return
        with ExitStack() as stack:
            bags = self._open(stack)
            self.space.score(counts, classes, bags, problems, until_ns)

    def _open(self, stack: ExitStack) -> dict[Path, Bag]:
        """Return both bags by path; those that are not open are, until the end of the stack."""
        paths = {self.predictions, self.truth}
        bags = {path: self.bags.get(path) or stack.enter_context(Bag(path)) for path in paths}
        for bag in bags.values():
            bag.forget()
        return bags

    def pairs(self, classes: Classes, problems: list[str], left_out: list[str], images: bool = True) -> Iterator[Pair]:
        """Every frame with ground truth or a label, by ascending stamp; read as it is iterated.

        images: whether they are wanted. problems: gets a line where a bag lacks messages, was cut off, or its replay
        stopped; frames behind its last label count as missing. left_out: gets a line for images that cannot be read.
        Raises EvaluationError for topics that do not fit each other.
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
            bags = self._open(stack)
            streams = {
                what: _Stream(bags[path], topic)
                for what, (path, topic) in topics.items()
                if what not in KINDS or bags[path].type_of(topic) == KINDS[what]
            }
            # Truth and labels may be one topic, which is read once.
            joined = {names[what]: stream for what, stream in streams.items()}
            matched, seen = 0, Counter[str]()
            for stamp, found in join(joined):
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
                if again := joined[names[what]].count - seen[what]:
                    path, topic = topics[what]
                    problems.append(
                        f"{path}: {again} images of {topic} have the stamp of another and are not scored: "
                        "the first of each stamp counts"
                    )
            if damaged := reader.damaged["truth"]:
                problems.append(f"{self.truth}: {damaged} images of {self.truth_topic} are damaged and not scored")
            left_out += [f"{topics['image'][0]}: {reader.image_problem}"] if reader.image_problem else []
            if not matched:
                raise EvaluationError(
                    f"no stamp of {self.label_topic} in {self.predictions} ({streams['label']}) is one of "
                    f"{self.truth_topic} in {self.truth} ({streams['truth']}): is it of the same recording?"
                )


class _Stream:
    """(stamp, message) of a topic, with their number and their smallest and largest stamp so far."""

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
    bags = {path: Bag(path) for path in dict.fromkeys((predictions, truth))}
    there, wanted = bags[predictions], bags[truth]
    labels = _topics(there, options.topic, "--topic", LABEL, "labels", predictions)
    truths = _topics(wanted, options.truth_topic, "--truth-topic", TRUTH, "ground truth", truth)
    drives: list[BagDrive] = []
    for camera, label_topic, truth_topic in _by_camera(labels, truths):
        prediction_taxonomy, model = taxonomy_of_topic(
            there, label_topic, options.prediction_taxonomy, label_topic, "--prediction-taxonomy"
        )
        truth_taxonomy, _ = taxonomy_of_topic(wanted, truth_topic, options.taxonomy, truth_topic, "--taxonomy")
        image = next(
            (
                (path, topic)
                for path, bag in ((truth, wanted), (predictions, there))
                for topic in (f"{truth_topic.rpartition('/')[0]}/{image}" for image in IMAGES)
                if topic in bag.image_topics()
            ),
            None,
        )
        space = None
        if not drives:
            space = find_space(predictions, truth, bags, label_topic, truth_topic, truth_taxonomy)
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
                space,
                bags,
            )
        )
    return drives


def _topics(bag: Bag, asked: str | None, option: str, ending: str, what: str, path: Path) -> list[str]:
    images = bag.image_topics()
    found = [asked] if asked else [topic for topic in images if topic.endswith(ending)]
    if found and all(topic in images for topic in found):
        return found
    missing = f"no image topic {asked}" if asked else f"no topic of {what} (an image topic that ends in {ending})"
    damage = f" ({bag.problem})" if bag.problem else ""
    raise EvaluationError(
        f"{path}: {missing}; image topics with messages are {listed(images)}; name one with {option}{damage}"
    )


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
