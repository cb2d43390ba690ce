"""Results of evaluations, made from confusion matrices."""

import math

import numpy as np
import pytest

from m2f_ros.evaluation.measures import of_classes, stored
from m2f_ros.evaluation.result import Result
from m2f_ros.metrics import Confusion

SECOND = 10**9


@pytest.fixture
def make_result():
    """make_result([matrix or None of each frame of a drive, …], names, **fields of Result): None never came.

    A matrix is (K, K + 1), as of Confusion.
    """
    return _make_result


def _make_result(*drives, names=None, **fields) -> Result:
    k = next((len(m) for frames in drives for m in frames if m is not None), len(names or "x"))
    names = names or [f"class {i}" for i in range(k)]
    total = Confusion(k)
    blocks, rows = [], []
    for number, frames in enumerate(drives):
        drive = Confusion(k)
        for i, matrix in enumerate(frames):
            counts = np.zeros((k, k + 1), np.int64) if matrix is None else np.array(matrix, np.int64)
            drive.matrix += counts
            blocks.append(_block(f"drive {number}", i, counts, matrix is None))
        total.matrix += drive.matrix
        missing = sum(matrix is None for matrix in frames)
        scored = len(frames) - missing
        row = {"name": f"drive {number}", "frames": len(frames), "scored": scored, "missing": missing}
        rows.append({**row, "miou": drive.miou()})
    truth = total.matrix.sum(axis=1)
    measured = {
        "miou": total.miou(),
        "pixel_accuracy": total.pixel_accuracy(),
        "mean_accuracy": total.mean_accuracy(),
        "frequency_weighted_iou": total.frequency_weighted_iou(),
    }
    classes = [
        {
            **dict.fromkeys(of_classes()),
            "id": i,
            "name": names[i],
            "iou": _known(total.iou()[i]),
            "accuracy": _known(total.accuracy()[i]),
            "precision": _known(total.precision()[i]),
            "share": float(truth[i] / truth.sum()) if truth.sum() else None,
        }
        for i in range(k)
    ]
    colours = [[1 + i * 37 % 255, i * 91 % 256, i * 151 % 256] for i in range(k)]
    made = {
        "predictions": "RESULT",
        "truth": "DRIVE",
        "model": "street",
        "settings": {"flips": False},
        "taxonomy": {
            "name": "test",
            "unlabelled": 255,
            "classes": [{"id": i, "name": names[i], "color": colours[i], "thing": False} for i in range(k)],
        },
        "frames": {
            "truth": sum(row["frames"] for row in rows),
            "scored": sum(row["scored"] for row in rows),
            "missing": sum(row["missing"] for row in rows),
            "without_truth": 0,
        },
        "drives": rows,
        "metrics": {**dict.fromkeys(stored()), **measured},
        "classes": classes,
        "confusion": total.matrix.tolist(),
        "calibration": None,
        "latency_ms": None,
        "drops": {},
        "blocks": blocks,
        "worst": [],
    }
    return Result(**{**made, **fields})


def _block(drive: str, i: int, matrix: np.ndarray, missing: bool) -> dict:
    return {
        "drive": drive,
        "first": i,
        "first_stamp_ns": i * SECOND,
        "last_stamp_ns": i * SECOND,
        "frames": 1,
        "missing": int(missing),
        "hit": np.diagonal(matrix).tolist(),
        "truth": matrix.sum(axis=1).tolist(),
        "prediction": matrix[:, :-1].sum(axis=0).tolist(),
        "latency_ms": None,
        "flips": None,
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
