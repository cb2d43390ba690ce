"""Exact ground truth: frames of the simulated street, and predictions with known kinds of mistakes."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import pytest

from m2f_ros.street import Street


@dataclass(frozen=True)
class Shot:
    """A street frame: image (H, W, 3) uint8 BGR; truth, prediction uint8 train ids; instance, found uint16 ids."""

    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    instance: np.ndarray
    found: np.ndarray


@pytest.fixture(scope="session")
def street() -> list[Shot]:
    """Frames of two streets. Predictions: the truth four pixels aside, a strip unlabelled, cars partly as trucks."""
    shots = []
    for seed in (1, 6):
        drawn = Street(seed, width=320, height=240)
        for index in range(10, 13):
            frame = drawn.frame(index)
            truth = frame.label.copy()
            truth[:6] = 255
            prediction, found = np.roll(frame.label, 4, 1), np.roll(frame.instance, 4, 1)
            prediction[120:130, ::3], found[120:130, ::3] = 255, 0
            prediction[:, :140][prediction[:, :140] == 13] = 14
            shots.append(Shot(cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR), truth, prediction, frame.instance, found))
    return shots
