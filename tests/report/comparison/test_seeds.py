"""How much of a difference between two recipes may be due to the seeds."""

from __future__ import annotations

import pytest
from scipy.stats import ttest_ind

from distcls.report.comparison.seeds import difference_of_means


def test_the_interval_and_p_are_welchs() -> None:
    first, second = [0.91, 0.92, 0.905, 0.93], [0.94, 0.95, 0.9]
    found = difference_of_means(first, second)
    test = ttest_ind(second, first, equal_var=False)
    expected = test.confidence_interval(0.95)
    assert found is not None and found.interval == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert found.value == pytest.approx(0.93 - 0.91625) and found.p_value == pytest.approx(test.pvalue)


def test_without_spread_nothing_can_be_said() -> None:
    assert difference_of_means([0.9, 0.9], [0.8, 0.8]) is None
