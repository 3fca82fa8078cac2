"""Networks that are too large or too slow are refused before they are trained."""

from __future__ import annotations

import pytest
from sweeps_of_tests import read

from distcls.sweeps.search import limits
from distcls.sweeps.search.limits import Networks
from distcls.sweeps.search.plan import Limits

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL, LARGE = (read([f"model.args.hidden={hidden}"]) for hidden in (8, 512))


def test_parameters_are_counted() -> None:
    networks = Networks(Limits(parameters=50_000))
    assert networks.refusal(SMALL) is None
    assert networks.refusal(LARGE) == "its network has 156,202 parameters, more than 50,000"
    assert Networks(Limits()).refusal(LARGE) is None


def test_flops_are_counted() -> None:
    networks = Networks(Limits(flops=900_000))
    reason = networks.refusal(LARGE)
    assert networks.refusal(SMALL) is None
    assert reason == "its network takes 972,800 FLOPs for an image, more than 900,000"


@pytest.mark.parametrize(("seconds", "reason"), [(0.001, None), (0.004, "4.00 ms"), (None, "too long")])
def test_latency_is_measured(monkeypatch, seconds, reason) -> None:
    monkeypatch.setattr(limits, "measure_latency", lambda classifier, sizes, time: {1: seconds})
    refused = Networks(Limits(latency=0.002)).refusal(SMALL)
    expected = reason and f"its network takes {reason} for an image, more than 2 ms"
    assert refused == expected


def test_a_real_latency() -> None:
    assert Networks(Limits(latency=2.0)).refusal(SMALL) is None
    assert "more than 0.001 ms" in (Networks(Limits(latency=1e-6)).refusal(SMALL) or "")


def test_a_network_that_cannot_be_built_is_refused_and_says_why() -> None:
    reason = Networks(Limits(parameters=10**9)).refusal(read(["model.args.hiden=3"]))
    assert reason is not None and "do not fit model.name=cnn2" in reason
