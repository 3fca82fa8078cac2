"""The table of metrics says which value is better, and the settings offer what it has."""

from __future__ import annotations

import math
from typing import get_args

from distcls.config.metrics import BEST_METRICS, METRICS
from distcls.config.schema import hints_of, json_schema
from distcls.config.settings import TrainConfig


def test_which_value_is_better():
    assert METRICS["loss"].is_better(0.1, 0.2) and not METRICS["loss"].is_better(0.2, 0.1)
    assert METRICS["accuracy"].is_better(0.2, 0.1) and not METRICS["accuracy"].is_better(0.1, 0.2)
    for metric in METRICS.values():
        assert not metric.is_better(0.5, 0.5) and not metric.is_better(math.nan, 0.5)


def test_numbers_are_written_as_people_read_them():
    assert METRICS["accuracy"].text(0.97222) == "97.22%" and METRICS["count"].text(3430) == "3,430"


def test_best_metric_offers_the_metrics_that_can_be_better():
    assert get_args(hints_of(TrainConfig)["best_metric"]) == BEST_METRICS
    train = json_schema()["properties"]["train"]["properties"]
    assert train["best_metric"]["enum"] == list(BEST_METRICS)
    assert {name for name, metric in METRICS.items() if metric.better} == set(BEST_METRICS)
