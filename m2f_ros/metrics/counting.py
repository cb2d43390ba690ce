"""Counts pairs of values of two images, exactly and fast."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from m2f_ros.errors import FrameError

# cv2.calcHist counts in float32, which is exact up to this integer.
_EXACT = 1 << 24


def check_pair(truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both as arrays. Raises FrameError if the shapes differ or an array does not hold integers."""
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    if truth.shape != prediction.shape:
        raise FrameError(
            f"ground truth is {_size(truth)} but the prediction is {_size(prediction)}; score labels of one size"
        )
    for name, labels in (("ground truth", truth), ("prediction", prediction)):
        if not np.issubdtype(labels.dtype, np.integer):
            raise FrameError(f"{name} must hold integer labels, not {labels.dtype}")
    return truth, prediction


def is_class(labels: np.ndarray, num_classes: int, unlabelled: int) -> np.ndarray:
    """Return a bool mask of the labels with a class: 0..num_classes-1 except `unlabelled`."""
    known = labels < num_classes
    if np.issubdtype(labels.dtype, np.signedinteger):
        known &= labels >= 0
    if unlabelled < num_classes:
        known &= labels != unlabelled
    return known


def present(labels: np.ndarray) -> np.ndarray:
    """Return the distinct values, ascending."""
    if labels.dtype == np.uint8:
        return np.flatnonzero(bytes_histogram(labels, labels).diagonal())
    return np.unique(labels)


def relabel(ids: np.ndarray, numbers: dict[int, int]) -> np.ndarray:
    """Look up numbers[id] for each id, 0 if absent, in the smallest unsigned type."""
    dtype = np.min_scalar_type(max(numbers.values(), default=0))
    if ids.dtype in (np.uint8, np.uint16):
        table = np.zeros(np.iinfo(ids.dtype).max + 1, dtype)
        known = {i: n for i, n in numbers.items() if 0 <= i < len(table)}
        table[list(known)] = list(known.values())
        return cv2.LUT(ids, table) if table.dtype == ids.dtype == np.uint8 and ids.ndim == 2 else table[ids]
    # Ids of COCO's files go up to 2 ** 24.
    keys = np.array(sorted(numbers), np.int64)
    if not len(keys):
        return np.zeros(ids.shape, dtype)
    at = np.minimum(np.searchsorted(keys, ids), len(keys) - 1)
    values = np.array([numbers[i] for i in keys.tolist()], dtype)
    return np.where(keys[at] == ids, values[at], dtype.type(0))


def joint_histogram(a: np.ndarray, b: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Return (rows, columns) int64: at [i, j] the number of pixels with a = i and b = j.

    a, b: integers of one shape, a in 0..rows-1 and b in 0..columns-1. Fast for uint8.
    """
    if a.dtype == np.uint8 and b.dtype == np.uint8:
        return bytes_histogram(a, b)[:rows, :columns]
    pairs = a.astype(np.int64) * columns + b
    return np.bincount(pairs.ravel(), minlength=rows * columns).reshape(rows, columns)


def bytes_histogram(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the (256, 256) int64 joint histogram of two uint8 arrays of one shape."""
    total = np.zeros((256, 256), np.int64)
    a, b = np.ascontiguousarray(a).reshape(1, -1), np.ascontiguousarray(b).reshape(1, -1)
    for start in range(0, a.size, _EXACT):
        part = slice(start, start + _EXACT)
        total += cv2.calcHist([a[:, part], b[:, part]], [0, 1], None, [256, 256], [0, 256, 0, 256]).astype(np.int64)
    return total


def _size(labels: np.ndarray) -> str:
    """Return the size of a label image as text, width x height."""
    return f"{labels.shape[1]}x{labels.shape[0]}" if labels.ndim == 2 else f"of shape {labels.shape}"


def things_of(num_classes: int, things: Sequence[int]) -> list[int]:
    """Return the train ids of things, ascending. Raises ValueError for an unknown class."""
    out = sorted(set(things))
    if num_classes < 1 or any(not 0 <= c < num_classes for c in out):
        raise ValueError(f"things {out} are not all among classes 0..{num_classes - 1}")
    return out
