"""Says how much of the difference between two recipes may be due to the seeds that they were trained with."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from distcls.report.comparison.paired import LEVEL


def difference_of_means(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float] | None:
    """Return the second mean minus the first, and the ends of its 95 % interval (Welch 1947: the spreads may differ).

    Each has at least two values, one for each seed. Return None if the values of neither spread.
    """
    from scipy.special import stdtrit

    errors = [statistics.variance(values) / len(values) for values in (first, second)]
    error = math.sqrt(sum(errors))
    if error == 0:
        return None
    difference = statistics.fmean(second) - statistics.fmean(first)
    freedom = error**4 / sum(one**2 / (len(values) - 1) for one, values in zip(errors, (first, second), strict=True))
    half = float(stdtrit(freedom, 1 - LEVEL / 2)) * error
    return difference, difference - half, difference + half
