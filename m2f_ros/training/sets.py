"""The data sets of a training run: labelled images on disk, and simulated streets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from m2f_ros import taxonomy as taxonomies
from m2f_ros.datasets import FrameLabels, Key, Labels, frame_key, open_labels, with_stuff
from m2f_ros.errors import FrameError, TrainingError
from m2f_ros.frame.pictures import SUFFIXES, read_colours
from m2f_ros.frame.segment import Segment
from m2f_ros.taxonomy import Taxonomy
from m2f_ros.training.config import DataConfig, DataSetConfig, StreetConfig

# Streets that a process keeps.
_STREETS = 16


class DataSet(Protocol):
    """Images with labels, by index. taxonomy: of the train ids in the labels."""

    @property
    def name(self) -> str: ...
    @property
    def taxonomy(self) -> Taxonomy: ...

    def __len__(self) -> int: ...

    def file(self, index: int) -> str:
        """Name of the image in messages."""

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (H, W, 3) uint8 RGB, and its labels (H, W), train ids.

        Raises TrainingError or LabelError: a file does not decode, sizes differ, or an id is outside the taxonomy.
        """

    def read_segments(self, index: int) -> tuple[np.ndarray, FrameLabels]:
        """As `read`, with things one by one where the data tells them apart."""


@dataclass(frozen=True)
class LabelledFolder:
    """Images and their label files, in the order of their paths. pairs: file of the image, key of its labels."""

    name: str
    pairs: Sequence[tuple[Path, Key]]
    labels: Labels

    @property
    def taxonomy(self) -> Taxonomy:
        return self.labels.taxonomy

    def __len__(self) -> int:
        return len(self.pairs)

    def file(self, index: int) -> str:
        return self.pairs[index][0].name

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image, frame = self._read(index, segments=False)
        return image, frame.labels

    def read_segments(self, index: int) -> tuple[np.ndarray, FrameLabels]:
        return self._read(index, segments=True)

    def read_labels(self, index: int) -> np.ndarray:
        """The labels alone, as those of `read`."""
        return self.labels.read(self.pairs[index][1], segments=False).labels

    def _read(self, index: int, segments: bool) -> tuple[np.ndarray, FrameLabels]:
        path, key = self.pairs[index]
        try:
            image = read_colours(path)
        except FrameError as error:
            raise TrainingError(f"{path}: not readable as an image: {error}; mend or remove it") from None
        labels = self.labels.read(key, segments)
        if image.shape[:2] != labels.labels.shape:
            height, width = labels.labels.shape
            raise TrainingError(
                f"{self.labels.files[key]}: {width}x{height} pixels, but {path.name} has "
                f"{image.shape[1]}x{image.shape[0]}; image and label must have one size"
            )
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB), labels


@dataclass(frozen=True)
class SimulatedStreets:
    """Frames of streets, each drawn when it is read.

    draw: m2f_ros.street.Street or the like: called with seed, width and height, it has frame(index) with image,
    label (Cityscapes train ids) and instance (0: none).
    """

    name: str
    config: StreetConfig
    draw: Callable[..., Any]

    @property
    def taxonomy(self) -> Taxonomy:
        return taxonomies.get("cityscapes_trainids")

    def __len__(self) -> int:
        first, last = self.config.seeds
        return (last + 1 - first) * len(self._frames)

    @property
    def _frames(self) -> range:
        return range(0, self.config.frames, self.config.every)

    def _place(self, index: int) -> tuple[int, int]:
        seed, frame = divmod(index, len(self._frames))
        return self.config.seeds[0] + seed, self._frames[frame]

    def file(self, index: int) -> str:
        seed, frame = self._place(index)
        return f"street {seed}, frame {frame}"

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        shot = self._shot(index)
        return shot.image, shot.label

    def read_segments(self, index: int) -> tuple[np.ndarray, FrameLabels]:
        shot = self._shot(index)
        ids, where = np.unique(shot.instance, return_index=True)
        things = [Segment(int(i), int(c)) for i, c in zip(ids, shot.label.ravel()[where], strict=True) if i]
        return shot.image, FrameLabels(shot.label, *with_stuff(shot.label, shot.instance, things, self.taxonomy))

    def _shot(self, index: int) -> Any:
        seed, frame = self._place(index)
        return _street(self.draw, seed, *self.config.size).frame(frame)


@lru_cache(_STREETS)
def _street(draw: Callable[..., Any], seed: int, width: int, height: int) -> Any:
    return draw(seed=seed, width=width, height=height)


def open_set(config: DataSetConfig, street: Callable[..., Any] | None = None) -> DataSet:
    """street: see SimulatedStreets.draw; needed where the config names streets.

    Raises:
        TrainingError: a folder is missing or holds no image, or an image has no label.
        LabelError: there are no labels, or it is not plain what their ids mean.
        TaxonomyError: the taxonomy is unknown.
    """
    if config.street is None:
        return _open_folder(config)
    if street is None:
        raise TrainingError(f"data set {config.name!r}: streets are drawn by m2f train alone; name images and labels")
    return SimulatedStreets(config.name, config.street, street)


def _open_folder(config: DataSetConfig) -> LabelledFolder:
    images, labels_at = Path(config.images or ""), Path(config.labels or "")  # never None: see config._check
    for kind, place, there in (("images", images, images.is_dir()), ("labels", labels_at, labels_at.exists())):
        if not there:
            raise TrainingError(
                f"data set {config.name!r}: {kind} folder {place} does not exist; "
                "mend its path in the config, or name the data's place with --data"
            )
    found = sorted(
        path
        for path in images.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and (not config.only or path.name.startswith(config.only))
        and not (config.exclude and path.name.startswith(config.exclude))
    )
    if not found:
        raise TrainingError(f"data set {config.name!r}: no images in {images}; only {', '.join(SUFFIXES)} are taken")
    hint = f"set the right taxonomy for data set {config.name!r}, give the id a class there under file_ids:"
    labels = open_labels(labels_at, config.taxonomy, f"data set {config.name!r}:", hint)
    # Pictures may lie beside their labels.
    label_files = set(labels.files.values())
    found = [path for path in found if path not in label_files]
    if not found:
        raise TrainingError(f"data set {config.name!r}: the files in {images} are labels, and no images are there")
    # Panoptic PNGs lie in one folder where their images may lie in several.
    times = Counter(name for _, name in labels.files)
    by_name = {key[1]: key for key in labels.files if times[key[1]] == 1}
    pairs = []
    for path in found:
        key = frame_key(path, images)
        if key not in labels.files and key[1] not in by_name:
            raise TrainingError(f"data set {config.name!r}: {path} has no label in {labels_at}; label or remove it")
        pairs.append((path, key if key in labels.files else by_name[key[1]]))
    return LabelledFolder(config.name, tuple(pairs), labels)


def evaluation_sets(config: DataConfig, street: Callable[..., Any] | None = None) -> list[DataSet]:
    """The data sets to score on. Their labels stay in their own taxonomy; predictions are merged into it."""
    return [open_set(part, street) for part in config.evaluate]
