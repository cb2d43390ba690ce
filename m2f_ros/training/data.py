"""Labelled folders as training samples, each determined by (seed, counter) alone."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from m2f_ros import taxonomy as taxonomies
from m2f_ros.errors import TrainingError
from m2f_ros.taxonomy import Taxonomy, merge_table
from m2f_ros.training.augment import augment
from m2f_ros.training.config import DataConfig, DataSetConfig, TrainConfig

_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@dataclass(frozen=True)
class LabelledFolder:
    """Images and their label files, in the order of their names.

    taxonomy: of the labels. table: (65536,) id in the label file -> train id of `taxonomy` or unlabelled.
    """

    name: str
    pairs: tuple[tuple[Path, Path], ...]
    taxonomy: Taxonomy
    table: np.ndarray
    known: np.ndarray  # (65536,) bool: ids that a label file of this taxonomy may hold

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (H, W, 3) uint8 RGB and label (H, W) train ids of `taxonomy`, of its dtype.

        Raises:
            TrainingError: a file does not decode, sizes differ, or a label id is outside the taxonomy.
        """
        image_file, label_file = self.pairs[index]
        image = cv2.imread(str(image_file), cv2.IMREAD_COLOR)
        if image is None:
            raise TrainingError(f"{image_file}: not readable as an image; mend or remove it")
        label = cv2.imread(str(label_file), cv2.IMREAD_UNCHANGED)
        if label is None or label.ndim != 2 or label.dtype not in (np.uint8, np.uint16):
            raise TrainingError(f"{label_file}: not a label image; one channel of 8 or 16 bits is wanted")
        if image.shape[:2] != label.shape:
            raise TrainingError(
                f"{label_file}: {label.shape[1]}x{label.shape[0]} pixels, but {image_file.name} has "
                f"{image.shape[1]}x{image.shape[0]}; image and label must have one size"
            )
        known = self.known[label]
        if not known.all():
            wrong = ", ".join(map(str, np.unique(label[~known])[:5]))
            raise TrainingError(
                f"{label_file}: label id {wrong} is outside taxonomy {self.taxonomy.name}; "
                f"set the right taxonomy for data set {self.name!r} or mend the file"
            )
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB), self.table[label]


def open_folder(config: DataSetConfig) -> LabelledFolder:
    """Pair images with the label PNGs of the same stem.

    Raises:
        TrainingError: a folder is missing or holds no image, or an image has no label.
        TaxonomyError: the taxonomy is unknown.
    """
    images, labels = Path(config.images), Path(config.labels)
    for kind, folder in (("images", images), ("labels", labels)):
        if not folder.is_dir():
            raise TrainingError(
                f"data set {config.name!r}: {kind} folder {folder} does not exist; "
                "mend its path in the config, or name the data's place with --data"
            )
    pairs = []
    for image in sorted(p for p in images.iterdir() if p.suffix.lower() in _IMAGES):
        if config.only and not image.name.startswith(config.only):
            continue
        if config.exclude and image.name.startswith(config.exclude):
            continue
        label = labels / f"{image.stem}.png"
        if not label.is_file():
            raise TrainingError(f"data set {config.name!r}: {image} has no label; {label} does not exist")
        pairs.append((image, label))
    if not pairs:
        raise TrainingError(f"data set {config.name!r}: no images in {images}; only {', '.join(_IMAGES)} are taken")
    taxonomy = taxonomies.get(config.taxonomy)
    return LabelledFolder(config.name, tuple(pairs), taxonomy, taxonomy.file_table(), _known_ids(taxonomy))


def _known_ids(taxonomy: Taxonomy) -> np.ndarray:
    # The ids a data set ignores are not listed in a taxonomy: those below the largest that is, one above it
    # (CamVid's void), and the two usual ones.
    known = np.zeros(65536, bool)
    known[: max(taxonomy.file_ids, default=0) + 2] = True
    known[[0, 255, taxonomy.unlabelled]] = True
    return known


class Samples(Dataset):
    """Augmented crops of a weighted mixture; item `counter` is always the same for one config.

    An item is (image (h, w, 3) uint8 RGB, label (h, w) train ids of the model's taxonomy, image file's name).
    """

    def __init__(self, config: TrainConfig):
        self.config = config
        self.taxonomy = taxonomies.get(config.data.taxonomy)
        self.folders = [open_folder(part) for part in config.data.train]
        self.merges = [merge_table(folder.taxonomy, self.taxonomy) for folder in self.folders]
        weights = np.array([part.weight for part in config.data.train])
        self.shares = weights / weights.sum()

    def __getitem__(self, counter: int) -> tuple[np.ndarray, np.ndarray, str]:
        # A generator of its own for each sample: a resumed run, or one with more workers, sees the same.
        rng = np.random.default_rng([self.config.seed, counter])
        chosen = int(rng.choice(len(self.folders), p=self.shares))
        folder = self.folders[chosen]
        index = int(rng.integers(len(folder)))
        image, label = folder.read(index)
        label = self.merges[chosen][label]
        image, label = augment(image, label, self.config.augment, self.taxonomy.unlabelled, rng)
        return image, label, folder.pairs[index][0].name


@dataclass(frozen=True)
class Batch:
    """images (B, h, w, 3) uint8 RGB, labels (B, h, w) integer train ids, and the files they come from."""

    images: torch.Tensor
    labels: torch.Tensor
    files: tuple[str, ...]


def batches(samples: Samples, first_step: int, rank: int = 0, processes: int = 1) -> Iterator[Batch]:
    """The batches of steps first_step, first_step + 1, … to the run's end, loaded by the workers.

    Of several processes each gets its equal share of every batch, the samples of `counters`.
    """
    schedule, workers = samples.config.schedule, samples.config.data.workers
    steps = [counters(step, schedule.batch, rank, processes) for step in range(first_step, schedule.end)]
    loader = DataLoader(
        _Guarded(samples),
        batch_sampler=steps,
        num_workers=workers,
        collate_fn=_collate,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_start_worker,
    )
    for batch in loader:
        if isinstance(batch, TrainingError):
            raise batch
        yield batch


def counters(step: int, batch: int, rank: int = 0, processes: int = 1) -> range:
    """Which samples process `rank` takes in a step; batch is a multiple of processes."""
    share = batch // processes
    first = step * batch + rank * share
    return range(first, first + share)


class _Guarded(Dataset):
    """Hands a TrainingError over as an item: raised in a worker it would arrive wrapped in a traceback."""

    def __init__(self, samples: Samples):
        self.samples = samples

    def __getitem__(self, counter: int):
        try:
            return self.samples[counter]
        except TrainingError as error:
            return error


def _collate(items: list) -> Batch | TrainingError:
    for item in items:
        if isinstance(item, TrainingError):
            return item
    images, labels, files = zip(*items, strict=True)
    return Batch(torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels)), files)


def _start_worker(_index: int) -> None:
    cv2.setNumThreads(0)
    # Ctrl-C, and what a batch system sends, reach the whole process group; the main process alone decides when to
    # stop, and ends its workers without signals.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def evaluation_folders(config: DataConfig) -> list[LabelledFolder]:
    """The data sets to score on. Their labels stay in their own taxonomy; predictions are merged into it."""
    return [open_folder(part) for part in config.evaluate]
