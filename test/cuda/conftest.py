"""Fixtures of the tests on a CUDA device."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

ALL = frozenset({"label", "overlay", "confidence"})


@pytest.fixture
def pipeline(small_model) -> Callable:
    """Makes a pipeline on the device with the small Swin model of random weights."""
    from m2f_ros import taxonomy
    from m2f_ros.model import load
    from m2f_ros.pipeline import Pipeline

    def make(**options) -> Pipeline:
        return Pipeline(load(small_model), taxonomy.get("cityscapes"), device="cuda", **options)

    return make


@pytest.fixture(scope="session")
def street() -> Callable:
    """Draws frames of the simulated street, 1.5 seconds apart."""
    from m2f_ros.pipeline import Frame
    from m2f_ros.street import Street

    def draw(count: int, height: int = 352, width: int = 480, seed: int = 2004) -> list[Frame]:
        scene = Street(seed, width, height)
        return [Frame(np.ascontiguousarray(scene.frame(15 * i).image), "rgb8") for i in range(count)]

    return draw


@pytest.fixture
def same() -> Callable:
    """Asserts that two results of a frame differ nowhere but in a few pixels, as by rounding."""

    def compare(found, wanted, part: float = 1e-4) -> None:
        for name in ("label", "confidence", "overlay"):
            a, b = getattr(found, name), getattr(wanted, name)
            assert (a is None) == (b is None), name
            if a is None:
                continue
            assert (a.shape, a.dtype) == (b.shape, b.dtype), name
            # Confidence may round to the neighbour.
            off = np.abs(a.astype(int) - b.astype(int)) > (1 if name == "confidence" else 0)
            assert off.mean() <= part, f"{name}: {off.mean():.6f} of it differ"

    return compare
