"""Mixed precision: as few products as necessary stay in floating point, chosen by what their rounding costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from m2f_ros.errors import ConfigError
from m2f_ros.export.calibrate import Calibration
from m2f_ros.model.quantised import Quantisation

LEAST_GAIN = 0.5  # share of the multiplications in eight bits below which quantising is no use


class Step(NamedTuple):
    """A point of the frontier.

    Attributes:
        kept: products in floating point that could be in eight bits, the costliest first.
        share: share of the multiplications in eight bits, 0..1.
        loss: mIoU lost.
    """

    kept: tuple[str, ...]
    share: float
    loss: float


class Choice(NamedTuple):
    """The quantisation that holds the bound.

    Attributes:
        quantisation: the products in eight bits.
        steps: what was tried; the last holds the bound.
        cost: labels changed by rounding a product alone, 0..1, by its name; empty if all may be rounded.
    """

    quantisation: Quantisation
    steps: list[Step]
    cost: dict[str, float]


def choose(
    calibration: Calibration,
    most: float,
    loss: Callable[[Quantisation], float],
    changed: Callable[[Quantisation], float],
    say: Callable[[str], object] = lambda line: None,
) -> Choice:
    """Return the quantisation of all products, or, if it loses too much, without as few as it takes.

    Products leave in the order of the labels that each changes when it alone is rounded, for its share in the work. The
    number of those that leave is doubled until the bound holds, then lowered by bisection.

    Args:
        most: greatest loss.
        loss: returns the mIoU that a quantisation loses.
        changed: returns the share of the labels that a quantisation changes.
        say: function that takes a line about each step.
    Raises:
        ConfigError: the bound holds only with most of the work in floating point; the message has the frontier.
    """
    everything = calibration.quantisation
    steps: list[Step] = []

    def attempt(kept: Sequence[str]) -> bool:
        left = everything.only(everything.ranges.keys() - set(kept))
        step = Step(tuple(kept), calibration.share(left.ranges.keys()), loss(left))
        steps.append(step)
        say(f"{step.share:.1%} of the work in eight bits, {len(kept)} products kept: {step.loss:+.4f} mIoU lost")
        return step.loss <= most

    if attempt(()):
        return Choice(everything, steps, {})
    say(f"the cost of each of {len(everything.ranges)} products")
    cost = {name: changed(everything.only({name})) for name in everything.ranges}
    order = sorted(cost, key=lambda name: cost[name] / calibration.work[name], reverse=True)
    largest = max(
        (n for n in range(len(order)) if calibration.share(set(order[n:])) >= LEAST_GAIN), default=0
    )  # most products that may leave
    low, high = 0, min(1, largest)
    while high > low and not attempt(order[:high]):
        low, high = high, min(2 * high, largest)
    if high == low:
        raise ConfigError(
            f"--max-loss {most:g}: not reached; mIoU lost at the share of the work in eight bits: {frontier(steps)}. "
            "Give a larger bound, or frames more like those of use"
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if attempt(order[:middle]) else (middle, high)
    if len(steps[-1].kept) != high:
        steps.append(next(step for step in steps if len(step.kept) == high))
    return Choice(everything.only(everything.ranges.keys() - set(order[:high])), steps, cost)


def frontier(steps: Sequence[Step]) -> str:
    """Return the tried points in a line: "0.0132 at 97%, 0.0101 at 95%"."""
    return ", ".join(f"{step.loss:.4f} at {step.share:.0%}" for step in steps)
