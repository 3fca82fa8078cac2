"""A slice of models.py: the odd models, and one of torchvision's of each kind that has been broken before."""

from __future__ import annotations

import models
import pytest

SOME = [
    "torchvision/mnasnet0_5",
    "torchvision/googlenet",
    "torchvision/regnet_y_400mf",
    "torchvision/mobilenet_v3_small",
]


@pytest.mark.extras
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [*(f"odd/{name}" for name in models.ODD), *SOME])
def test_a_model_keeps_the_promises_or_is_refused(name, ranks):
    verdict = models.check(name, ranks)
    assert verdict.is_good, str(verdict)
