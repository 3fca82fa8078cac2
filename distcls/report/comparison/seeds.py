"""Says how much of the difference between two recipes may be due to the seeds or folds that they were trained with."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from distcls.report.comparison.paired import LEVEL


@dataclass(frozen=True)
class Difference:
    """How far apart the means of two recipes are."""

    value: float
    """The second mean minus the first."""
    interval: tuple[float, float]
    """Its 95 % interval."""
    p_value: float
    """How often chance alone would make a difference as large, if both recipes were equally good."""


def difference_of_means(first: Sequence[float], second: Sequence[float]) -> Difference | None:
    """Return how the second mean differs from the first, by Welch's t-test (1947), which lets the spreads differ.

    Each has at least two values, one for each seed or fold. Return None if the values of neither spread.
    """
    from scipy.special import stdtr, stdtrit

    errors = [statistics.variance(values) / len(values) for values in (first, second)]
    error = math.sqrt(sum(errors))
    if error == 0:
        return None
    difference = statistics.fmean(second) - statistics.fmean(first)
    freedom = error**4 / sum(one**2 / (len(values) - 1) for one, values in zip(errors, (first, second), strict=True))
    half = float(stdtrit(freedom, 1 - LEVEL / 2)) * error
    p_value = 2 * float(stdtr(freedom, -abs(difference) / error))
    return Difference(difference, (difference - half, difference + half), p_value)
