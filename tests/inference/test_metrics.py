"""Each metric of the table has a formula, and numbers of classes carry their names."""

from __future__ import annotations

import json

import numpy as np

from distcls.config.metrics import BEST_METRICS, METRICS
from distcls.inference.metrics import ClassCounts, SplitMetrics, measure, measure_classes, worst_confusions

CONFUSION = np.array([[3, 1, 0], [0, 2, 0], [2, 0, 0]])


def split_metrics() -> SplitMetrics:
    bins, images = np.zeros(15), np.zeros(8)
    values = measure(ClassCounts.of_confusion(CONFUSION), np.array([4.0, 5.0, 6.0]), 8, bins, bins)
    by_class, means = measure_classes(CONFUSION), np.zeros((8, 3))
    return SplitMetrics(values, by_class, CONFUSION, bins, bins, bins, images, images, images, images, means)


def test_the_table_and_the_formulas_name_the_same_metrics():
    assert set(split_metrics().values) == set(METRICS)
    assert list(split_metrics().scores) == list(BEST_METRICS) and "count" not in BEST_METRICS


def test_numbers_of_classes_carry_their_names():
    summary = json.loads(json.dumps(split_metrics().summary(["cat", "dog", "bee"])))
    assert summary["by_class"] == {
        "cat": {"precision": 0.6, "recall": 0.75, "f1": 6 / 9, "count": 4},
        "dog": {"precision": 2 / 3, "recall": 1.0, "f1": 0.8, "count": 2},
        "bee": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "count": 2},
    }
    assert summary["accuracy"] == 5 / 8 and summary["loss"] == 0.5 and summary["count"] == 8


def test_images_and_their_confusion_matrix_give_the_same_counts():
    labels, preds = np.repeat(np.argwhere(CONFUSION >= 0), CONFUSION.flatten(), 0).T
    of_images, of_confusion = ClassCounts.of_images(labels, preds, 3), ClassCounts.of_confusion(CONFUSION)
    for name in ("hits", "actual", "predicted"):
        assert getattr(of_images, name).tolist() == getattr(of_confusion, name).tolist()


def test_the_worst_confusions_come_first():
    assert worst_confusions(CONFUSION, ["cat", "dog", "bee"]) == [("bee", "cat", 2), ("cat", "dog", 1)]
