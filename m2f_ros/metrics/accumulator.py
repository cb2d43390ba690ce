"""The base of all scores: counts of integers, which add up to the same in any order and in any number of parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from typing import Self  # from Python 3.11 on; the annotations here are never evaluated

# A ratio is summed as a whole number of these parts of one, so that its sum, too, depends on no order.
# 2**-52 is the spacing of float64 between 1 and 2.
PARTS = 1 << 52


class Accumulator:
    """Counts that are added up over images; `a += b` gives the counts of the images of both.

    A subclass names its constructor's arguments in SETTINGS and its arrays of integers in COUNTS; both are
    attributes.
    """

    SETTINGS: ClassVar[tuple[str, ...]] = ()
    COUNTS: ClassVar[tuple[str, ...]] = ()

    def __iadd__(self, other: Self) -> Self:
        """Add the counts of another one of the same settings. Raises ValueError where they differ."""
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
    """numerator / denominator in PARTS, rounded; denominator above 0."""
    return (2 * numerator * PARTS + denominator) // (2 * denominator)


def mean(scores: np.ndarray) -> float | None:
    """Mean of the scores that are not nan; None where all are."""
    return None if np.isnan(scores).all() else float(np.nanmean(scores))


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """float64 numerator / denominator, nan where both are 0; a denominator is 0 only where its numerator is."""
    with np.errstate(invalid="ignore"):
        return np.asarray(numerator, np.float64) / np.asarray(denominator, np.float64)
