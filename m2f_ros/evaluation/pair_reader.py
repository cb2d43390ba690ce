"""Decodes the messages of one frame into a Pair."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from m2f_ros.bags.image_topic import ImageDecoder, decode_label
from m2f_ros.bags.reader import Message
from m2f_ros.bags.topics import encoding_of, is_picture
from m2f_ros.datasets.ids import KnownIds
from m2f_ros.errors import EvaluationError, FrameError, SourceError
from m2f_ros.evaluation.classes import Classes
from m2f_ros.evaluation.pairs import Pair
from m2f_ros.frame.bgr import to_bgr
from m2f_ros.frame.frame import Frame
from m2f_ros.frame.segment import Segment
from m2f_ros.taxonomy import Taxonomy

log = logging.getLogger("m2f_ros.evaluation")


class PairReader:
    """Decodes the messages of the frames of one camera, and maps labels to the classes that are scored.

    Attributes:
        image_problem: why images are no longer read, which no score needs; empty where they are.
        damaged: number of messages that could not be decoded, by the name that `read` has for them.
    """

    def __init__(
        self, drive: str, topics: Mapping[str, str], truth: Taxonomy, prediction: Taxonomy, classes: Classes
    ) -> None:
        """topics: by the names that `read` has for messages. truth, prediction: taxonomies of their labels."""
        self._drive, self.classes = drive, classes
        self._known = {"truth": KnownIds(truth), "label": KnownIds(prediction)}
        # The classes of segments are train ids, whatever those of the labels are.
        self._classes = {"truth": KnownIds(truth.with_train_ids()), "label": KnownIds(prediction.with_train_ids())}
        self._mapping = {"truth": classes.truth, "label": classes.prediction}
        self._encoding: dict[str, str] = {}
        self._image = ImageDecoder(topics["image"]) if "image" in topics else None
        self.image_problem = ""
        self.damaged: Counter[str] = Counter()

    def read(self, stamp: int, found: Mapping[str, Message]) -> Pair | None:
        """The frame of this stamp (ns); None where neither truth nor label can be decoded.

        found: "truth", "label", "confidence", "ids", "segments" (of the prediction), "truth_ids", "truth_segments",
        "image", "stats", as far as they are there. A damaged message is logged, and counts as missing. Raises
        EvaluationError where truth and label differ in size, hold unknown ids, or a topic of these mixes encodings.
        """
        truth, label = self._labels("truth", found), self._labels("label", found)
        if truth is None and label is None:
            return None
        pair = Pair(self._drive, str(stamp), stamp, truth, label)
        check_size(pair)
        if label is not None:
            pair.confidence = _pixels(self._decoded("confidence", found))
        if truth is not None:
            for side, what in (("truth", "truth_ids"), ("label", "ids")):
                segments = what.replace("ids", "segments")
                message, ids = self._decoded(segments, found), _pixels(self._decoded(what, found))
                if message is not None and ids is not None and (side == "truth" or label is not None):
                    rows = [Segment(int(s.id), int(s.class_id)) for s in message.segments]
                    where = f"{found[segments].topic} at stamp {stamp}"
                    self._classes[side].check(np.unique([s.train_id for s in rows]).astype(int), where, _hint(side))
                    setattr(pair, what, ids)
                    setattr(pair, segments, self._mapping[side].segments(rows))
        if self._image and "image" in found:
            try:
                pair.image = to_bgr(_picture(found["image"], self._image))
            except FrameError as error:
                _skipped(found["image"], error)
            except SourceError as error:
                self._image, self.image_problem = None, str(error)
        stats = self._decoded("stats", found)
        if stats is not None:
            pair.latency_ms = float(stats.age_ms)
            pair.drops = {str(reason): int(n) for reason, n in zip(stats.drop_reasons, stats.drops, strict=False)}
            if stats.bad:
                pair.drops["bad"] = int(stats.bad)
        return pair

    def _labels(self, what: str, found: Mapping[str, Message]) -> np.ndarray | None:
        raw = self._decoded(what, found)
        if raw is None:
            return None
        topic, stamp = found[what].topic, found[what].stamp_ns
        encoding = getattr(raw, "encoding", "compressed")
        first = self._encoding.setdefault(what, encoding)
        if encoding != first:
            raise EvaluationError(
                f"{topic}: mixed encodings, {first} at first and {encoding} at stamp {stamp}: "
                "do two nodes publish there? Record them on topics of their own"
            )
        try:
            ids = decode_label(raw)
        except FrameError as error:
            raise EvaluationError(f"{topic}: not a topic of label images: {error}") from None
        ids = self._known[what].train_ids(ids, f"{topic} at stamp {stamp}", _hint(what))
        return self._mapping[what].labels(ids)

    def _decoded(self, what: str, found: Mapping[str, Message]) -> Any:
        """The message, None where there is none or it is damaged."""
        if what not in found:
            return None
        try:
            return found[what].decode()
        except FrameError as error:
            self.damaged[what] += 1
            _skipped(found[what], error)
            return None


def _picture(message: Message, decode: ImageDecoder) -> Frame:
    """Raises FrameError where it is damaged, SourceError where the topic is not a camera's."""
    decoded = message.decode()
    if not is_picture(message.topic, encoding := encoding_of(decoded)):
        raise SourceError(f"{message.topic}: encoding {encoding[:40]!r} is not that of a colour or grey camera")
    return decode.frame(decoded)


def _hint(side: str) -> str:
    return f"say with --{'taxonomy' if side == 'truth' else 'prediction-taxonomy'} what its ids mean"


def check_size(pair: Pair) -> None:
    """Raise EvaluationError where ground truth and prediction are there, and of two sizes."""
    if pair.truth is None or pair.prediction is None:
        return
    (h, w), (height, width) = pair.truth.shape, pair.prediction.shape
    if (h, w) != (height, width):
        raise EvaluationError(
            f"{pair.where}: the ground truth is {w}x{h} but the prediction is {width}x{height}; "
            "predict at the size of the ground truth (output_scale 1)"
        )


def _pixels(message: Any) -> np.ndarray | None:
    try:
        return None if message is None else decode_label(message)
    except FrameError as error:
        log.warning("skipped an image: %s", error)
        return None


def _skipped(message: Message, error: FrameError) -> None:
    log.warning("%s: skipped the message at stamp %d: %s", message.topic, message.stamp_ns, error)
