"""Writes simulated streets as a labelled data set.

images/*.jpg, labels/*.png (Cityscapes train ids), instances/*.png (16 bits, as Mapillary has them: 256 * train id +
number of the thing in this image).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from m2f_ros.errors import SourceError
from m2f_ros.files import whole
from m2f_ros.processes.workers import begin_worker
from m2f_ros.results import Results


def export_street(
    out: Path, seeds: Iterable[int], frames: Iterable[int], width: int, height: int, workers: int = 1
) -> Iterator[int]:
    """Write the given frames of the street of every seed to out; yield each seed when it is done.

    Files are named SEED_FRAME; existing ones are not drawn again, so that an interrupted export resumes.

    Raises:
        OutputError: out holds other files.
        SourceError: out cannot be written.
    """
    frames, seeds = list(frames), list(seeds)
    out = Path(out)
    with Results(out, "m2f street") as results:
        results.claim((name for seed in seeds for frame in frames for name in files_of(seed, frame)), keep=True)
        yield from _export(out, seeds, frames, width, height, workers)


def _export(out: Path, seeds: list[int], frames: list[int], width: int, height: int, workers: int) -> Iterator[int]:
    # Forked processes hang if the parent has used OpenCV's threads.
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=begin_worker, initargs=(os.getpid(),)
    ) as pool:
        jobs = {pool.submit(_export_seed, out, seed, frames, width, height): seed for seed in seeds}
        try:
            for job in as_completed(jobs):
                job.result()
                yield jobs[job]
        finally:
            pool.shutdown(cancel_futures=True)


def _export_seed(out: Path, seed: int, frames: list[int], width: int, height: int) -> None:
    from m2f_ros.street import Street

    cv2.setNumThreads(0)
    street = Street(seed=seed, width=width, height=height)
    try:
        for name in ("images", "labels", "instances"):
            (out / name).mkdir(parents=True, exist_ok=True)
        for frame in frames:
            image_file, label_file, instance_file = (out / name for name in files_of(seed, frame))
            # The image is written last: if it exists, so do the labels.
            if image_file.exists() and instance_file.exists():
                continue
            shot = street.frame(frame)
            _write(label_file, cv2.imencode(".png", shot.label))
            numbered = number_instances(shot.label, shot.instance)
            _write(instance_file, cv2.imencode(".png", numbered))
            bgr = cv2.cvtColor(shot.image, cv2.COLOR_RGB2BGR)
            _write(image_file, cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95]))
    except OSError as error:
        raise SourceError(f"{out}: cannot be written ({error.strerror}); name another folder") from None


def files_of(seed: int, frame: int) -> list[str]:
    """Return the paths of a frame's image, labels and instances, relative to the folder."""
    stem = f"{seed:05d}_{frame:05d}"
    return [f"images/{stem}.jpg", f"labels/{stem}.png", f"instances/{stem}.png"]


def number_instances(label: np.ndarray, instance: np.ndarray) -> np.ndarray:
    """Number the things of one image: (H, W) uint16, 256 * train id + number, from 0 in each class.

    label: (H, W) train ids. instance: (H, W) ids, 0 outside things. After 256 things of a class, the rest share a
    number.
    """
    numbered = label.astype(np.uint16) * 256
    for train_id in np.unique(label[instance > 0]):
        own = (label == train_id) & (instance > 0)
        _, number = np.unique(instance[own], return_inverse=True)
        numbered[own] += np.minimum(number, 255).astype(np.uint16)
    return numbered


def _write(path: Path, encoded: tuple) -> None:
    with whole(path) as partial:
        partial.write_bytes(encoded[1])
