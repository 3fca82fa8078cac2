"""95 % intervals contain the true value about 95 times of 100, and the measured one always."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distcls.config.metrics import BEST_METRICS
from distcls.inference.intervals import bootstrap_intervals, summarize
from distcls.inference.sums import SplitSums


def measured(count: int, seed: int = 0, right: float = 0.8):
    """The metrics of a model that is right about this often."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 7, count)
    shown = np.where(draw.random(count) < right, labels, (labels + draw.integers(1, 7, count)) % 7)
    logits = torch.from_numpy(3 * np.eye(7)[shown] + draw.normal(size=(count, 7)) / 10)
    sums, truth = SplitSums(7, labels, count), torch.from_numpy(labels)
    sums.update(0, logits, truth, torch.nn.functional.cross_entropy(logits, truth, reduction="none"))
    return sums.compute()


def test_every_metric_lies_in_its_interval_and_more_images_narrow_it():
    few, many = measured(100), measured(10_000)
    wide, narrow = bootstrap_intervals(few), bootstrap_intervals(many)
    assert list(wide) == list(BEST_METRICS)
    for name in BEST_METRICS:
        assert narrow[name][0] <= many.values[name] <= narrow[name][1] or name == "ece"
        if name != "ece":  # its bootstrap is biased upwards: chance adds to it
            assert wide[name][0] <= few.values[name] <= wide[name][1]
        assert narrow[name][1] - narrow[name][0] < 0.3 * (wide[name][1] - wide[name][0])
    assert bootstrap_intervals(few) == wide, "the same images give the same interval"


def test_the_interval_of_accuracy_is_that_of_the_binomial():
    low, high = bootstrap_intervals(measured(1000))["accuracy"]
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.8 * 0.2 / 1000), rel=0.1)


def test_the_true_accuracy_is_inside_19_times_of_20():
    inside = [
        low <= 0.8 <= high for low, high in (bootstrap_intervals(measured(200, i))["accuracy"] for i in range(30))
    ]
    assert np.mean(inside) >= 0.84


def test_images_that_belong_together_are_drawn_together():
    """Ten equal photographs of each thing are worth no more than one."""
    one_each = measured(100)
    labels, shown = one_each.labels.repeat(10), one_each.preds.repeat(10)
    logits, sums = torch.from_numpy(3.0 * np.eye(7)[shown]), SplitSums(7, labels, 1000)
    truth = torch.from_numpy(labels)
    sums.update(0, logits, truth, torch.nn.functional.cross_entropy(logits, truth, reduction="none"))
    ten_each, things = sums.compute(), np.arange(100).repeat(10)
    width = {
        name: high - low
        for name, (low, high) in (
            ("images", bootstrap_intervals(ten_each)["accuracy"]),
            ("groups", bootstrap_intervals(ten_each, things)["accuracy"]),
            ("one each", bootstrap_intervals(one_each)["accuracy"]),
            ("alone", bootstrap_intervals(ten_each, np.full(1000, -1))["accuracy"]),
        )
    }
    assert width["groups"] == pytest.approx(width["one each"], rel=0.15)
    assert width["alone"] == pytest.approx(width["images"], rel=0.15)
    assert width["groups"] > 2.5 * width["images"]


def test_they_stand_in_the_entry_of_metrics_json():
    entry = summarize(measured(50), list("abcdefg"))
    assert entry["intervals"]["accuracy"][0] <= entry["accuracy"] and set("abcdefg") == set(entry["by_class"])
