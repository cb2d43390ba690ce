"""Ground truth of a source: matches label PNGs to frames, and finds the taxonomy of files and topics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from m2f_ros import taxonomy as taxonomies
from m2f_ros.bags.image_topic import decode_label
from m2f_ros.bags.messages import LEGEND
from m2f_ros.bags.reader import Bag
from m2f_ros.bags.topics import legend_topics
from m2f_ros.datasets.ids import choose_taxonomy, natural_sort, peek, suffixes_for
from m2f_ros.datasets.label_folder import LabelReader
from m2f_ros.errors import FrameError, LabelError, SourceError
from m2f_ros.sources.sample import log
from m2f_ros.taxonomy import ClassInfo, Taxonomy

# Command line options for the taxonomy.
OPTION = "--taxonomy, or TAXONOMY= with make demo"
_PEEK = 100  # most messages of a topic to try


class Labels:
    """Label files of a sequence of frames.

    Attributes:
        taxonomy: taxonomy of the train ids.
        matched: number of frames with a label.
    """

    def __init__(self, folder: str | Path, names: Sequence[str], taxonomy: str | None) -> None:
        """folder: folder of PNGs. names: names of the frames, in order. taxonomy: name, YAML file, or None to guess.

        Raises SourceError if the folder does not fit the frames, or the taxonomy is ambiguous.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise SourceError(f"labels {folder}: no such folder")
        files = natural_sort(p for p in folder.iterdir() if p.suffix.lower() == ".png")
        if not files:
            raise SourceError(f"labels {folder}: no label PNGs in this folder")
        self._files = match_files(files, names, taxonomy)
        found = [path for path in self._files if path is not None]
        if not found:
            frame = names[0] if names else "none"
            raise SourceError(
                f"labels {folder}: none of its {len(files)} files (first: {files[0].name}) is named after "
                f"one of the {len(names)} frames (first: {frame}), and the numbers differ"
            )
        self.matched = len(found)
        hint = str(folder.resolve() / found[0].name)
        self.taxonomy = taxonomy_of_ids(taxonomy, peek(found), hint, f"labels {folder}")
        self._reader = LabelReader(self.taxonomy, f"say what its ids mean: {OPTION}")

    def file(self, position: int) -> Path | None:
        """Return the label file of the frame at this position, or None."""
        return self._files[position] if position < len(self._files) else None

    def read(self, position: int, image: np.ndarray, image_name: str) -> np.ndarray | None:
        """Return the (H, W) train ids of the frame at this position, or None without a label.

        Raises SourceError if the file cannot be read, differs in size from the image, or has an id outside the
        taxonomy.
        """
        path = self.file(position)
        if path is None:
            return None
        label = self._reader.read(path)
        if label.shape != image.shape[:2]:
            raise SourceError(
                f"{path}: the label is {label.shape[1]}x{label.shape[0]} "
                f"but its image {image_name} is {image.shape[1]}x{image.shape[0]}"
            )
        return label

    def instances(self, position: int, label: np.ndarray | None) -> np.ndarray | None:
        """Return the instances beside a label, or None; see `LabelReader.read_instances`.

        Raises SourceError if their file cannot be read, or does not fit the label.
        """
        path = self.file(position)
        return None if path is None or label is None else self._reader.read_instances(path, label.shape)


def match_files(files: Sequence[Path], names: Sequence[str], taxonomy: str | None = None) -> list[Path | None]:
    """Return the label file of each frame, or None: by name, or, with a warning, in order if no name matches and the
    numbers are equal.

    taxonomy: taxonomy of the ids; selects among files with several kinds of ids.
    """
    by_stem = {path.stem: path for path in files}
    stems = [name.removesuffix("_leftImg8bit") for name in names]
    best: list[Path | None] = [None] * len(names)
    for suffix in ("", *suffixes_for(taxonomy)):
        matched = [by_stem.get(stem + suffix) for stem in stems]
        if matched.count(None) < best.count(None):
            best = matched
    if files and all(path is None for path in best) and len(files) == len(names):
        log.warning(
            "labels %s: no name is that of a frame: matched in their order, %s to %s and so on",
            files[0].parent,
            files[0].name,
            names[0],
        )
        return list(files)
    return best


def taxonomy_of_ids(spec: str | None, values: set[int], path: str, what: str, option: str = OPTION) -> Taxonomy:
    """Call `choose_taxonomy`, and add `option` to its LabelError."""
    try:
        return choose_taxonomy(spec, values, path, what)
    except LabelError as error:
        raise LabelError(f"{error} ({option})") from None


def taxonomy_of_topic(bag: Bag, topic: str, spec: str | None, what: str, option: str = OPTION) -> tuple[Taxonomy, str]:
    """Return the taxonomy of a label topic, by `spec`, its legend, or its ids, and the model in the legend.

    The ids are those of the first readable image. what: beginning of messages. Raises LabelError if the taxonomy is
    ambiguous, or no image is readable.
    """
    legend = find_legend(bag, topic)
    model = legend.model if legend else ""
    if spec is None and legend is not None:
        return taxonomy_of_legend(legend), model
    why = "it holds no message that can be read"
    for message in islice(bag.messages([topic]), _PEEK):
        try:
            values = set(np.unique(decode_label(message.decode())).tolist())
        except FrameError as error:
            why = str(error)
            continue
        return taxonomy_of_ids(spec, values, topic, what, option), model
    raise LabelError(f"{what}: not a topic of label images: {why}")


def find_legend(bag: Bag, label_topic: str) -> Any | None:
    """Return the Legend message of a label topic (see `topics.legend_topics`), or None if none is readable."""
    for name in legend_topics(label_topic):
        if bag.type_of(name) == LEGEND:
            try:
                return next((message.decode() for message in bag.messages([name])), None)
            except FrameError:
                return None
    return None


def taxonomy_of_legend(legend: Any) -> Taxonomy:
    """Return the taxonomy of a Legend message, for train ids.

    The classes of a built-in taxonomy give that taxonomy, with its name and merging rules.
    """
    classes = []
    for c in legend.classes:
        red, green, blue = map(int, c.color)
        classes.append(ClassInfo(int(c.id), c.name, (red, green, blue), bool(c.thing)))
    found = Taxonomy(legend.taxonomy, tuple(classes)).with_train_ids()
    known = taxonomies.match(found.names)
    if known is None:
        return found
    spelt = dict(zip(known.names, found.names, strict=True))
    merges = {other: {spelt[here]: there for here, there in m.items()} for other, m in known.merge_into.items()}
    return replace(found, name=known.name, merge_into=merges)
