"""Training samples, each determined by (seed, counter) alone, and their batches."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from m2f_ros import signals
from m2f_ros import taxonomy as taxonomies
from m2f_ros.errors import M2fError, TrainingError
from m2f_ros.taxonomy import merge_table
from m2f_ros.training.augment import augment
from m2f_ros.training.config import TrainConfig
from m2f_ros.training.segment_map import segment_map
from m2f_ros.training.sets import open_set


class Samples(Dataset):
    """Augmented crops of a weighted mixture; item `counter` is always the same for one config.

    An item is (image (h, w, 3) uint8 RGB, labels (h, w), name of the image's file). labels: train ids of the model's
    taxonomy; for panoptic training a map of segments, see m2f_ros.training.segment_map.
    """

    def __init__(self, config: TrainConfig, street: Callable[..., Any] | None = None):
        """street: see m2f_ros.training.sets.open_set, as are the errors raised."""
        self.config = config
        self.taxonomy = taxonomies.get(config.data.taxonomy)
        self.sets = [open_set(part, street) for part in config.data.train]
        self.merges = [merge_table(part.taxonomy, self.taxonomy) for part in self.sets]
        if config.data.panoptic and all(part.read_segments(0)[1].segments is None for part in self.sets):
            raise TrainingError(
                "data.panoptic: no data set of data.train tells things apart; name one with instances, or leave it out"
            )
        self.augment = self.augment_last = config.augment
        if config.augment.cool_down:
            last = config.augment.cool_down
            self.augment_last = dataclasses.replace(config.augment, crop=last.crop, scale=last.scale)
        # The counter of its first sample.
        self.cool_down = (config.schedule.end - config.schedule.cool_down) * config.schedule.batch
        weights = np.array([part.weight for part in config.data.train])
        self.shares = weights / weights.sum()

    def __getitem__(self, counter: int) -> tuple[np.ndarray, np.ndarray, str]:
        # A generator of its own for each sample: a resumed run, or one with more workers, sees the same.
        rng = np.random.default_rng([self.config.seed, counter])
        chosen = int(rng.choice(len(self.sets), p=self.shares))
        part, merge = self.sets[chosen], self.merges[chosen]
        index = int(rng.integers(len(part)))
        if self.config.data.panoptic:
            image, frame = part.read_segments(index)
            labels = segment_map(frame, merge, self.taxonomy)
        else:
            image, labels = part.read(index)
            labels = merge[labels]
        how = self.augment if counter < self.cool_down else self.augment_last
        image, labels = augment(image, labels, how, self.taxonomy.unlabelled, rng)
        return image, labels, part.file(index)


@dataclass(frozen=True)
class Batch:
    """images (B, h, w, 3) uint8 RGB, labels (B, h, w) integers as those of Samples, the files they come from."""

    images: torch.Tensor
    labels: torch.Tensor
    files: tuple[str, ...]


def batches(samples: Samples, first_step: int, rank: int = 0, processes: int = 1) -> Generator[Batch, None, None]:
    """The batches of steps first_step, first_step + 1, … to the run's end, loaded by the workers.

    Each of several processes gets an equal share of every batch, the samples of `counters`.
    """
    schedule, workers = samples.config.schedule, samples.config.data.workers
    steps = [list(counters(step, schedule.batch, rank, processes)) for step in range(first_step, schedule.end)]
    loader = DataLoader(
        _Guarded(samples),
        batch_sampler=steps,
        num_workers=workers,
        collate_fn=_collate,
        prefetch_factor=4 if workers else None,
        # Forked processes hang if the parent has used OpenCV's threads.
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=partial(_start_worker, os.getpid()),
    )
    for batch in loader:
        if isinstance(batch, M2fError):
            raise batch
        yield batch


def counters(step: int, batch: int, rank: int = 0, processes: int = 1) -> range:
    """The samples that process `rank` takes in a step; batch is a multiple of processes."""
    share = batch // processes
    first = step * batch + rank * share
    return range(first, first + share)


class _Guarded(Dataset):
    """Returns an error as an item: an error raised in a worker arrives wrapped in a traceback."""

    def __init__(self, samples: Samples):
        self.samples = samples

    def __getitem__(self, counter: int):
        try:
            return self.samples[counter]
        except M2fError as error:
            return error


def _collate(items: list) -> Batch | M2fError:
    for item in items:
        if isinstance(item, M2fError):
            return item
    images, labels, files = zip(*items, strict=True)
    return Batch(torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels)), files)


def _start_worker(parent: int, _index: int) -> None:
    cv2.setNumThreads(0)
    # Ctrl-C, a closed terminal and a batch system signal the whole process group; the main process alone decides when
    # to stop, and ends its workers without signals.
    signals.ignore()
    signals.end_with_parent(parent, signal.SIGKILL)
