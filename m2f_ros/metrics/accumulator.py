"""The base class of all scores: integer counts, whose sums do not depend on order or partition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from typing import Self  # since Python 3.11; the annotations are never evaluated

# Ratios are summed as integers in units of 1 / PARTS, so that the sums do not depend on order. 2**-52 is the spacing of
# float64 between 1 and 2.
PARTS = 1 << 52


class Accumulator:
    """Counts that are added up over images; `a += b` gives the counts of the images of both.

    A subclass names its constructor's arguments in SETTINGS and its arrays of integers in COUNTS; both are
    attributes.
    """

    SETTINGS: ClassVar[tuple[str, ...]] = ()
    COUNTS: ClassVar[tuple[str, ...]] = ()

    def __iadd__(self, other: Self) -> Self:
        """Add the counts of another accumulator. Raises ValueError if the settings differ."""
        if type(other) is not type(self) or other._settings() != self._settings():
            raise ValueError(f"counts of {self!r} and {other!r} do not add up")
        for name in self.COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self._settings().items())})"

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.SETTINGS}


def in_parts(numerator: int, denominator: int) -> int:
    """Return numerator / denominator in PARTS, rounded; denominator above 0."""
    return (2 * numerator * PARTS + denominator) // (2 * denominator)


def mean(scores: np.ndarray) -> float | None:
    """Return the mean of the scores without nan; None if all are nan."""
    return None if np.isnan(scores).all() else float(np.nanmean(scores))


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return float64 numerator / denominator, nan for 0 / 0. No other numerator may have a denominator of 0."""
    with np.errstate(invalid="ignore"):
        return np.asarray(numerator, np.float64) / np.asarray(denominator, np.float64)
