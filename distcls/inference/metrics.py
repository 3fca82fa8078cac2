"""Computes the metrics of a split: the formula of each, from counts and sums over its images.

config/metrics.py says what each is called and where it is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distcls.config.metrics import BEST_METRICS

NUM_BINS = 15
"""Equal bins of confidence for the calibration error (Guo et al., arXiv 1706.04599)."""

MEANS = ("loss", "nll", "brier")
"""Metrics that are plain means over images: sums.py adds them up."""


@dataclass
class SplitMetrics:
    """The result for one split of n images and C classes."""

    values: dict[str, Any]  # by name, one number for each metric of config/metrics.py
    by_class: list[dict[str, Any]]  # of each class: precision, recall, f1, and count, the number of its images
    confusion: np.ndarray  # (C, C) int64, rows are the true classes
    bin_confidence: np.ndarray  # (bins,) float64 sum of the confidences
    bin_correct: np.ndarray  # (bins,) int64
    bin_count: np.ndarray  # (bins,) int64
    labels: np.ndarray  # (n,) int64, the true class of each image of the split
    preds: np.ndarray  # (n,) int64, its predicted class
    confidence: np.ndarray  # (n,) float64, the probability of the predicted class
    in_top5: np.ndarray  # (n,) int64, 1 if the true class is among the five most probable ones
    image_means: np.ndarray  # (n, len(MEANS)) float64, each image's share of the means

    @property
    def scores(self) -> dict[str, float]:
        """Return the metrics that go into metrics.csv: those for which one value is better than another."""
        return {name: self.values[name] for name in BEST_METRICS}

    def summary(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Return each metric by its name, and "by_class" by class name."""
        return {**self.values, "by_class": dict(zip(class_names, self.by_class, strict=True))}


@dataclass
class ClassCounts:
    """The counts of a confusion matrix that metrics need, each int64 (C,)."""

    hits: np.ndarray  # images of a class that are predicted correctly
    actual: np.ndarray  # images of a class
    predicted: np.ndarray  # images that are predicted as a class

    @classmethod
    def of_confusion(cls, confusion: np.ndarray) -> ClassCounts:
        return cls(np.diag(confusion), confusion.sum(1), confusion.sum(0))

    @classmethod
    def of_images(cls, labels: np.ndarray, preds: np.ndarray, num_classes: int) -> ClassCounts:
        """labels, preds: int64 (n,). Needs no matrix, which is large if there are many classes."""
        counts = (np.bincount(ids, minlength=num_classes) for ids in (labels[labels == preds], labels, preds))
        return cls(*counts)

    def scores(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return precision, recall and F1, each float64 (C,). 0/0 counts as 0."""
        return (
            _ratio(self.hits, self.predicted),
            _ratio(self.hits, self.actual),
            _ratio(2 * self.hits, self.actual + self.predicted),
        )


def measure(
    counts: ClassCounts, sums: np.ndarray, top5_correct: int, bin_confidence: np.ndarray, bin_correct: np.ndarray
) -> dict[str, Any]:
    """Return the metrics of a split, as `SplitMetrics.values`. sums: of MEANS.

    Means over classes leave out a class that neither occurs nor is predicted, as scikit-learn does. The weighted mean
    of the recalls is the accuracy.
    """
    count = int(counts.actual.sum())
    precision, recall, f1 = counts.scores()
    present = (counts.actual + counts.predicted) > 0
    return {
        **dict(zip(MEANS, (sums / count).tolist(), strict=True)),
        "accuracy": int(counts.hits.sum()) / count,
        "top5": top5_correct / count,
        "macro_precision": float(precision[present].mean()),
        "macro_recall": float(recall[present].mean()),
        "macro_f1": float(f1[present].mean()),
        "weighted_precision": float(precision @ counts.actual / count),
        "weighted_f1": float(f1 @ counts.actual / count),
        "ece": calibration_error(bin_confidence, bin_correct, count),
        "count": count,
    }


def bin_of(confidence: np.ndarray) -> np.ndarray:
    """Return each image's bin of confidence, from 0 to NUM_BINS − 1. A bin includes its upper edge, as in the paper."""
    return np.clip(np.ceil(confidence * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)


def calibration_error(bin_confidence: np.ndarray, bin_correct: np.ndarray, count: int) -> float:
    """Return the expected calibration error (Guo et al., arXiv 1706.04599), from the bins of SplitMetrics."""
    return float(np.abs(bin_correct - bin_confidence).sum() / count)


def measure_classes(confusion: np.ndarray) -> list[dict[str, Any]]:
    """Return the precision, recall, F1 and number of images of each class, as `SplitMetrics.by_class`."""
    counts = ClassCounts.of_confusion(confusion)
    columns = (*counts.scores(), counts.actual)
    names = ("precision", "recall", "f1", "count")
    return [dict(zip(names, row, strict=True)) for row in zip(*(c.tolist() for c in columns), strict=True)]


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)


def worst_confusions(confusion: np.ndarray, class_names: list[str], most: int = 3) -> list[tuple[str, str, int]]:
    """Return (true class, predicted class, how often), the most frequent first."""
    cells = confused_classes(confusion)[:most]
    return [(class_names[i], class_names[j], int(confusion[i, j])) for i, j in cells]


def confused_classes(confusion: np.ndarray) -> list[tuple[int, int]]:
    """Return the (true, predicted) classes of all confusions, the most frequent first."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    rows, columns = np.nonzero(wrong)
    order = np.argsort(-wrong[rows, columns], kind="stable")
    return list(zip(rows[order].tolist(), columns[order].tolist(), strict=True))
