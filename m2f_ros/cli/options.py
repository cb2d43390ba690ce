"""Types of options that several verbs share."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import click


class Range(click.FloatRange):
    """A number in a range. NaN is refused: it is neither below nor above a bound."""

    def convert(self, value, param, ctx):
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


class Place(click.Path):
    """Path for results. A leading ~ is the home, also in --out=~/results, which no shell expands."""

    def convert(self, value, param, ctx):
        try:
            return Path(os.fsdecode(super().convert(value, param, ctx))).expanduser()
        except RuntimeError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


def two_numbers(text: str, between: str, example: str) -> tuple[int, int]:
    """Return the two whole numbers of a text such as 480x640. Raises UsageError, with the example, for another text."""
    first, found, second = text.partition(between)
    if not (found and all(re.fullmatch(r"\d{1,18}", number) for number in (first, second))):
        raise click.UsageError(f"{text!r} is not of the form {example}")
    return int(first), int(second)


def image_size(text: str, example: str) -> tuple[int, int]:
    """Return the two sides in a text such as 640x480. Raises UsageError as `two_numbers`, or for impossible sides."""
    from m2f_ros.frame.frame import LARGEST_SIDE

    first, second = two_numbers(text, "x", example)
    if not all(1 <= side <= LARGEST_SIDE for side in (first, second)):
        raise click.UsageError(f"{example.split()[0]} {text}: sides must be 1 to {LARGEST_SIDE}")
    return first, second


def names(text: str) -> tuple[str, ...]:
    """Return the names in a list with commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())
