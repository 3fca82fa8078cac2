"""Differences are those of probabilities, and a number that is none is never small."""

from __future__ import annotations

import numpy as np
import pytest

from distcls.errors import InexactExportError
from distcls.export.proof import Agreement, compare, refuse_above, softmax


def test_logits_are_compared_as_probabilities():
    logits = np.random.default_rng(0).normal(0, 30, (9, 4))
    found = compare(logits + 7, logits, are_logits=True)
    assert found.num_same_class == 9 and found.largest_difference < 1e-12
    assert np.allclose(softmax(logits).sum(1), 1)
    assert compare(logits + 7, logits, are_logits=False).largest_difference == pytest.approx(7)


def test_nan_is_refused():
    refuse_above(Agreement(5, 5, 1e-5), 1e-4)
    for difference in (2e-4, float("nan")):
        with pytest.raises(InexactExportError, match="of 5 images. Try another --format"):
            refuse_above(Agreement(5, 4, difference), 1e-4)
