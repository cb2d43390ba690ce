"""Flips: none where the picture only moves, and exactly those that are put in where it stands still."""

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from m2f_ros.errors import FrameError
from m2f_ros.metrics import Flips

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def texture(height, width, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)


def regions(height, width):
    """Labels in patches, two per direction and 40 pixels."""
    rows, columns = np.indices((height, width)) // 20
    return ((rows * 7 + columns * 3) % 11).astype(np.uint8)


def compare(*frames):
    flips = Flips()
    for image, labels in frames:
        flips.update(image, labels)
    return flips


@pytest.mark.parametrize("size", [(200, 300), (540, 960)])
def test_a_picture_that_moves_with_its_labels_has_no_flips(size):
    image, labels = texture(*size), regions(*size)
    step = (12, 20)
    moved = [np.roll(a, step, (0, 1)) for a in (image, labels)]
    flips = compare((image, labels), moved)
    seen = (size[0] - step[0]) * (size[1] - step[1])  # the rest came into the picture
    assert 0.85 * seen < flips.compared < 1.02 * seen
    assert flips.rate() < 0.005
    unmoved = compare((image, labels), (moved[0], labels))
    assert unmoved.rate() > 0.5


def test_flips_are_counted_exactly_where_the_picture_stands_still():
    image, labels = texture(120, 160), np.full((120, 160), 3, np.uint16)
    other = labels.copy()
    other[30:50, 10:110] = 300
    flips = compare((image, labels), (image, other), (image, other), (cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), labels))
    assert (flips.flipped, flips.compared) == (2 * 2000, 3 * labels.size)
    assert flips.rate() == pytest.approx(4000 / 57600)


def test_what_something_covered_before_is_not_compared():
    image, front = texture(200, 300), texture(80, 80, seed=1)
    frames = []
    for left in (100, 112):
        picture, labels = image.copy(), np.zeros((200, 300), np.uint8)
        picture[60:140, left : left + 80] = front
        labels[60:140, left : left + 80] = 1
        frames.append((picture, labels))
    flips = compare(*frames)
    assert 0.9 * 60000 < flips.compared < 60000 - 80 * 12 / 2
    assert flips.rate() < 0.01 < np.mean(frames[0][1] != frames[1][1])


def test_the_street_hardly_flips(street):
    for shots in (street[:3], street[3:]):
        truth = compare(*((s.image, s.truth) for s in shots))
        unwarped = np.mean([np.mean(a.truth != b.truth) for a, b in pairwise(shots)])
        assert truth.compared > 0.5 * 2 * shots[0].truth.size
        assert truth.rate() < unwarped / 2.5


def test_camvid_truth_flips_less_once_warped():
    folder = DATA / "camvid"
    if not folder.exists():
        pytest.skip(f"{folder} is not here")
    names = sorted(p.stem for p in (folder / "val").iterdir())[:6]
    frames = [
        (cv2.imread(str(folder / "val" / f"{n}.jpg")), cv2.imread(str(folder / "valannot" / f"{n}.png"), -1))
        for n in names
    ]
    unwarped = np.mean([np.mean(a[1] != b[1]) for a, b in pairwise(frames)])
    flips = compare(*frames)
    assert flips.compared > 0.5 * 5 * frames[0][1].size
    assert flips.rate() < unwarped / 1.5


def test_the_same_with_any_number_of_threads(street):
    before = cv2.getNumThreads()
    try:
        counts = []
        for threads in (1, 2, 4):
            cv2.setNumThreads(threads)
            flips = compare(*((s.image, s.prediction) for s in street[:3]))
            counts.append([getattr(flips, name).tolist() for name in flips.COUNTS])
    finally:
        cv2.setNumThreads(before)
    assert counts[0] == counts[1] == counts[2]


def test_a_new_start_compares_nothing():
    image, labels = texture(40, 60), regions(40, 60)
    flips = compare((image, labels))
    assert flips.rate() is None
    flips.restart()
    flips.update(image, labels)
    flips.update(image[:30], labels[:30])  # another size
    for side in (1, 15):  # too small for flow
        for _ in range(2):
            flips.update(image[:side], labels[:side])
    for _ in range(2):
        flips.update(texture(2, 3000), regions(2, 3000))
    assert flips.compared == 0


def test_refusals():
    with pytest.raises(FrameError, match=r"labels \(40, 60\) need a uint8 image of their size, grey or BGR, not"):
        Flips().update(texture(40, 61), regions(40, 60))
    with pytest.raises(FrameError, match="not float32"):
        Flips().update(np.zeros((40, 60), np.float32), regions(40, 60))
    with pytest.raises(FrameError, match="labels must be integers, not float64"):
        Flips().update(texture(40, 60), np.zeros((40, 60)))
