"""What a range test's curve says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from distcls.benchmark.lr_range import read_range
from distcls.errors import UsageError

LRS = list(np.geomspace(1e-7, 10, 200))


def losses(diverges_at: float) -> list[float]:
    """Falls around 1e-3, and diverges at a rate."""
    falling = [2.3 - 2 / (1 + math.exp(-3 * (math.log10(lr) + 3))) for lr in LRS]
    return [loss if lr < diverges_at else 50.0 for lr, loss in zip(LRS, falling, strict=True)]


def test_the_suggestion_is_where_the_loss_falls_fastest():
    found = read_range(LRS, losses(1.0))
    assert 7e-4 < found.suggestion < 3e-3, "smoothing looks back, so it may be a little late"


@pytest.mark.parametrize("end", [1.0, 0.1])
def test_the_curve_ends_where_it_diverges(end):
    found = read_range(LRS, losses(end))
    assert found.lrs[-1] == pytest.approx(end, rel=0.3) and max(found.losses) < 3


def test_a_curve_ends_at_a_loss_that_is_not_finite():
    values = losses(100.0)
    values[150] = math.nan
    assert len(read_range(LRS, values).lrs) == 150


def test_no_curve_is_an_error():
    with pytest.raises(UsageError, match=r"diverged after \d+ of 200 steps, at a learning rate of .*: check the data"):
        read_range(LRS, losses(2e-7))
