"""Mixed precision: which products stay in floating point."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from m2f_ros.errors import ConfigError
from m2f_ros.export.calibrate import Calibration
from m2f_ros.export.mixed import LEAST_GAIN, choose
from m2f_ros.model.quantised import Quantisation


def calibration(costs: list[float]) -> Calibration:
    names = [f"layer{i}:linear.0" for i in range(len(costs))]
    return Calibration(
        Quantisation(dict.fromkeys(names, (0.0, 1.0)), {name: torch.ones(2) for name in names}),
        dict.fromkeys(names, 100),
    )


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.integers(0, 200))
def test_as_few_as_it_takes(costs, most) -> None:
    """Costs add up here: products leave in the order of their costs, and one less would lose too much."""
    given = calibration(costs)
    cost = dict(zip(given.quantisation.ranges, costs, strict=True))

    def loss(quantisation):
        return float(sum(cost[name] for name in quantisation.ranges))

    try:
        choice = choose(given, most, loss, loss)
    except ConfigError as error:
        largest = sorted(costs)[: len(costs) - int(len(costs) * (1 - LEAST_GAIN))]
        assert sum(largest) > most
        assert "not reached" in str(error) and "at 100%" in str(error)
        return
    kept = cost.keys() - choice.quantisation.ranges.keys()
    assert loss(choice.quantisation) <= most
    assert choice.steps[-1].loss == loss(choice.quantisation) and set(choice.steps[-1].kept) == kept
    assert choice.steps[-1].share >= LEAST_GAIN
    left = [cost[name] for name in choice.quantisation.ranges]
    assert not kept or max(left, default=0) <= min(cost[name] for name in kept)
    assert not kept or sum(left) + min(cost[name] for name in kept) > most
    assert choice.quantisation.scales.keys() == choice.quantisation.ranges.keys()


def test_costs_are_not_measured_without_need() -> None:
    def changed(quantisation):
        raise AssertionError

    assert choose(calibration([1, 2]), 3, lambda q: 3.0, changed).cost == {}


def test_the_frontier_is_in_the_error() -> None:
    with pytest.raises(
        ConfigError, match=r"--max-loss 0.005: not reached.*: 0.0200 at 100%, 0.0200 at 75%, 0.0200 at 50%"
    ):
        choose(calibration([1] * 4), 0.005, lambda q: 0.02, lambda q: 0.1)
