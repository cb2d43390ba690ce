"""Percentiles, ratios, agreement and error: numbers worked out by hand."""

import numpy as np
import pytest
import torch

from m2f_ros.benchmark import stats


def test_spread_interpolates_between_neighbours():
    assert stats.spread([40, 10, 20, 30]) == stats.Spread(4, 10, 17.5, 25, 32.5, 40)
    assert stats.spread([3.0]) == stats.Spread(1, 3, 3, 3, 3, 3)


def test_percentile_99_of_a_hundred_and_one():
    assert stats.percentile(range(101), 99) == 99
    assert stats.percentile([0, 1], 99) == pytest.approx(0.99)


def test_ratio_is_of_medians_and_theirs_over_ours():
    assert stats.ratio(theirs=[30, 20, 1000], ours=[5, 10, 11]) == 3


def test_paired_ratios_go_round_by_round():
    assert stats.paired_ratios(theirs=[10, 40, 90], ours=[10, 20, 30]) == stats.Spread(3, 1, 1.5, 2, 2.5, 3)
    with pytest.raises(ValueError):
        stats.paired_ratios([1, 2], [1])


def test_agreement():
    labels = np.array([[[0, 1], [2, 3]]])
    assert stats.agreement(labels, labels) == 1
    assert stats.agreement(labels, np.array([[[0, 1], [2, 4]]])) == 0.75
    with pytest.raises(ValueError, match="different shapes"):
        stats.agreement(labels, labels[0])


def test_logits_that_are_not_finite_have_no_error():
    reference = torch.tensor([1.0, 2.0])
    assert stats.logit_error(torch.tensor([1.0, 2.5]), reference) == 0.5
    for value in (float("nan"), float("inf")):
        assert stats.logit_error(torch.tensor([1.0, value]), reference) is None
