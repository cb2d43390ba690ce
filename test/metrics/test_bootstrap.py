"""Intervals by the bootstrap: against drawing blocks one by one, and against scipy's."""

import numpy as np
import pytest

from m2f_ros.metrics import Confusion
from m2f_ros.metrics.bootstrap import Blocks, difference, interval, paired_difference

scipy_stats = pytest.importorskip("scipy.stats")


def blocks(seed, count=40, quality=0.7):
    """Counts of blocks of labels with four classes, the last one in few blocks, and their confusion."""
    rng = np.random.default_rng(seed)
    rows, whole = [], Confusion(4)
    for _ in range(count):
        truth = rng.integers(0, 3, 400).astype(np.uint8)
        if rng.random() < 0.2:
            truth[:30] = 3
        wrong = rng.random(400) > np.clip(rng.normal(quality, 0.1), 0, 1)
        prediction = np.where(wrong, rng.integers(0, 4, 400), truth).astype(np.uint8)
        one = Confusion(4)
        one.update(truth, prediction)
        whole += one
        rows.append([one.hit(), one.truth(), one.prediction()])
    return Blocks(*np.array(rows).transpose(1, 0, 2)), whole


def test_values_are_those_of_the_confusion():
    b, whole = blocks(0)
    assert interval(b, "miou").value == pytest.approx(whole.miou(), abs=1e-15)
    assert interval(b, "pixel_accuracy").value == whole.pixel_accuracy()
    assert interval(b, "iou").value.tolist() == whole.iou().tolist()
    assert interval(b, 2).value == whole.iou()[2]


@pytest.mark.parametrize("metric, of", [("pixel_accuracy", slice(None)), (1, 1)])
def test_bounds_are_those_of_scipy(metric, of):
    b, _ = blocks(1)
    hit, union = b.hit[:, of], (b.truth if metric == "pixel_accuracy" else b.truth + b.prediction - b.hit)[:, of]
    expected = scipy_stats.bootstrap(
        (hit.reshape(len(hit), -1).sum(axis=1), union.reshape(len(hit), -1).sum(axis=1)),
        lambda h, u, axis=-1: h.sum(axis=axis) / u.sum(axis=axis),
        paired=True,
        n_resamples=20000,
        method="percentile",
        vectorized=True,
        random_state=3,
    ).confidence_interval
    found = interval(b, metric, samples=20000)
    width = expected.high - expected.low
    assert found.low == pytest.approx(expected.low, abs=0.05 * width)
    assert found.high == pytest.approx(expected.high, abs=0.05 * width)


def test_a_small_difference_shows_where_frames_are_the_same():
    a, _ = blocks(2)
    better = Blocks(a.hit + 2 * (a.truth > a.hit + 2), a.truth, a.prediction)
    value, low, high = paired_difference(a, better, "miou")
    assert 0 < low < value < high
    _, unpaired_low, unpaired_high = difference(a, better, "miou")
    assert unpaired_low < 0 < unpaired_high
    swapped = paired_difference(better, a, "miou")
    assert (swapped.value, swapped.low, swapped.high) == pytest.approx((-value, -high, -low))


def test_repeatable_and_of_the_level_asked():
    b, _ = blocks(3)
    assert interval(b, "miou") == interval(b, "miou") != interval(b, "miou", seed=1)
    narrow, wide = interval(b, "miou", level=0.5), interval(b, "miou", level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_what_is_undefined_is_nan():
    one = Blocks(*(np.array([counts]) for counts in ([3, 1, 0], [4, 2, 0], [3, 3, 0])))
    value, low, high = interval(one, "miou")
    assert value == pytest.approx((3 / 4 + 1 / 4) / 2) and np.isnan([low, high]).all()
    three = Blocks(*(np.pad(counts, ((0, 2), (0, 0))) for counts in one))
    found = interval(three, "iou")
    assert [np.isnan(x).tolist() for x in found] == [[False, False, True]] * 3
    assert (found.low[0], found.high[0]) == (0.75, 0.75)  # draws without the class do not count
    none = Blocks(*(np.zeros((0, 3), int) for _ in range(3)))
    assert np.isnan(interval(none, "miou")).all()
    with pytest.raises(ValueError, match="1 blocks cannot be paired with 3"):
        paired_difference(one, three, "miou")
